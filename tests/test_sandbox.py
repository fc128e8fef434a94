"""The sandbox: held to the contract, its calls on a clock, its faults on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from schemathesis.specs.openapi import checks

from rounded_pbx import sandbox as package
from rounded_pbx.api import RoundedClient
from rounded_pbx.config_types import Address
from rounded_pbx.errors import ApiUnreachable
from rounded_pbx.sandbox import Behaviour, Sandbox, faults, serving
from rounded_pbx.sandbox import calls as calls_module
from rounded_pbx.sandbox.calls import Calls
from rounded_pbx.sandbox.faults import OPERATIONS
from rounded_pbx.staging import valid_uuid

from .helpers import BODY, KEY, Clock, authority, ca_file, eventually, every_file_closed, sandbox

NO_CALL = "00000000-0000-4000-8000-000000000000"
CALLS = {
    "stageCall": ("POST", "/v1/calls/stage"),
    "getCall": ("GET", "/v1/calls/{}"),
    "updateCall": ("PATCH", "/v1/calls/{}"),
    "terminateCall": ("POST", "/v1/calls/{}/terminate"),
    "listPhoneNumbers": ("GET", "/v1/phone-numbers"),
}


def contract() -> dict[str, Any]:
    text = Path(package.__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


app = Sandbox(KEY, Behaviour(staging_time=0.0))
KNOWN = app.calls.create(dict(BODY), 0.0).id
schema = schemathesis.openapi.from_dict(
    contract(),
    config=schemathesis.Config.from_dict(
        {"generation": {"with-security-parameters": False, "database": "none"}}
    ),
)
schema.app = app


@schema.hook
def map_path_parameters(context: object, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Ask for a call that there is wherever the id is well formed."""
    if path_parameters and valid_uuid(path_parameters.get("call_id")):
        path_parameters["call_id"] = KNOWN
    return path_parameters


@schema.parametrize()
def test_an_operation_keeps_to_the_contract(case: schemathesis.Case[Any]) -> None:
    # Without the two checks that take "stage" in a path for something else than an id.
    case.call_and_validate(
        headers={"X-Api-Key": KEY},
        excluded_checks=[checks.unsupported_method, checks.allow_header_conformance],
    )


def test_the_contract_names_the_operations_that_can_be_made_to_fail() -> None:
    named = [
        operation["operationId"]
        for path in contract()["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]
    assert sorted(named) == sorted(OPERATIONS) == sorted(CALLS)


@contextlib.asynccontextmanager
async def inside(
    clock: Clock | None = None, key: str = KEY, **behaviour: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Sandbox]]:
    """A sandbox without a socket, and a client that has ``key``."""
    calls = Calls(clock) if clock else None
    emulator = Sandbox(KEY, Behaviour.model_validate(behaviour), calls=calls)
    transport = httpx.ASGITransport(emulator, raise_app_exceptions=False)
    headers = {"X-Api-Key": key} if key else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://sandbox", headers=headers
    ) as client:
        yield client, emulator


async def stage(client: httpx.AsyncClient, query: str = "", **more: object) -> httpx.Response:
    return await client.post(f"/v1/calls/stage{query}", json={**BODY, **more})


async def staged_id(client: httpx.AsyncClient) -> str:
    response = await stage(client)
    assert response.status_code == 201
    call_id = valid_uuid(response.json()["data"]["call_id"])
    assert call_id is not None
    return call_id


async def status(client: httpx.AsyncClient, call_id: str) -> str:
    return str((await client.get(f"/v1/calls/{call_id}")).json()["data"]["status"])


async def test_a_call_goes_from_initiated_to_completed() -> None:
    clock = Clock()
    async with inside(clock, staging_time=2.0) as (client, _):
        call_id = await staged_id(client)
        assert await status(client, call_id) == "initiated"
        clock.advance(1.999)
        assert await status(client, call_id) == "initiated"
        clock.advance(0.001)
        assert await status(client, call_id) == "staged"
        clock.advance(59.999)
        assert await status(client, call_id) == "staged"
        assert (await client.post(f"/sandbox/calls/{call_id}/invite")).status_code == 200
        assert await status(client, call_id) == "ringing"
        clock.advance(0.5)
        assert await status(client, call_id) == "in_progress"
        clock.advance(3600)
        assert await status(client, call_id) == "in_progress"
        for _ in range(2):
            assert (await client.post(f"/v1/calls/{call_id}/terminate")).status_code == 200
            assert await status(client, call_id) == "completed"


async def test_a_staged_call_that_no_invite_reaches_in_60_seconds_is_no_answer() -> None:
    clock = Clock()
    async with inside(clock, staging_time=2.0) as (client, _):
        call_id = await staged_id(client)
        clock.advance(62)
        assert await status(client, call_id) == "no_answer"
        response = await client.post(f"/sandbox/calls/{call_id}/invite")
        assert response.status_code == 404
        assert await status(client, call_id) == "no_answer"


async def test_an_invite_is_taken_once() -> None:
    async with inside() as (client, _):
        call_id = await staged_id(client)
        invite = f"/sandbox/calls/{call_id}/invite"
        answers = [(await client.post(invite)).status_code for _ in range(2)]
        assert answers == [200, 404]
        assert (await client.post(f"/sandbox/calls/{NO_CALL}/invite")).status_code == 404


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_without_the_right_key_is_refused(operation: str) -> None:
    method, path = CALLS[operation]
    async with inside(key="") as (client, emulator):
        call_id = emulator.calls.create(dict(BODY), 0.0).id
        for key in (None, "", "wrong", KEY + "x", KEY[:-1], "é"):
            headers = [] if key is None else [(b"X-Api-Key", key.encode())]
            response = await client.request(
                method, path.format(call_id), headers=headers, json=dict(BODY)
            )
            assert response.status_code == 401
            assert response.json()["error"]["message"] == "Invalid API key"
        assert emulator.calls.newest(9) == [emulator.calls.find(call_id)]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"from_number": "0612345678"}, "from_number"),
        ({"to_number": "+33912345678\n"}, "to_number"),
        ({"agent_id": "agent"}, "agent_id"),
        ({"direction": "sideways"}, "direction"),
        ({"dynamic_variables_values": []}, "dynamic_variables_values"),
        ({"custom_headers": {"X-A": 1}}, "custom_headers.X-A"),
    ],
)
async def test_what_is_wrong_with_a_request_stands_in_the_envelope(
    more: dict[str, Any], field: str
) -> None:
    async with inside() as (client, emulator):
        response = await stage(client, **more)
        assert response.status_code == response.json()["status"] == 422
        error = response.json()["error"]
        assert error["status"] == 422
        assert [detail["field"] for detail in error["details"]] == [field]
        assert error["details"][0]["message"]
        assert emulator.calls.newest(9) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_a_bad_request(content: bytes) -> None:
    async with inside() as (client, _):
        response = await client.post("/v1/calls/stage", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"', '{"\\ud800": 1}'])
async def test_no_body_makes_the_sandbox_itself_fail(value: str) -> None:
    async with inside() as (client, emulator):
        call_id = emulator.calls.create(dict(BODY), 0.0).id
        body = json.dumps({**BODY, "dynamic_variables_values": {"x": "value"}})
        for method, path, content in (
            ("PATCH", f"/v1/calls/{call_id}", f'{{"metadata": {{"x": {value}}}}}'),
            ("POST", "/v1/calls/stage", body.replace('"value"', value)),
        ):
            response = await client.request(method, path, content=content)
            assert response.status_code in (200, 201, 400, 422)
        assert (await client.get(f"/v1/calls/{call_id}")).status_code == 200
        assert (await client.get("/sandbox/calls")).status_code == 200


async def test_sync_answers_when_the_call_is_staged_or_408_when_it_takes_too_long() -> None:
    async with inside(staging_time=0.3, sync_limit=0.5) as (client, emulator):
        started = time.monotonic()
        response = await stage(client, "?sync=true")
        assert time.monotonic() - started >= 0.29
        assert await status(client, response.json()["data"]["call_id"]) == "staged"
        emulator.behave(Behaviour(staging_time=60.0, sync_limit=0.1))
        response = await stage(client, "?sync=true")
        assert response.status_code == response.json()["error"]["status"] == 408
        assert (await stage(client, "?sync=false")).status_code == 201
        response = await stage(client, "?sync=perhaps")
        assert response.status_code == 422
        assert response.json()["error"]["details"][0]["field"] == "sync"


async def test_metadata_is_merged_or_replaced() -> None:
    async with inside() as (client, _):
        path = f"/v1/calls/{await staged_id(client)}"
        for body, metadata in (
            ({"metadata": {"a": 1, "b": 1}}, {"a": 1, "b": 1}),
            ({"metadata": {"b": 2}}, {"a": 1, "b": 2}),
            ({}, {"a": 1, "b": 2}),
            ({"metadata": {"c": 3}, "override": True}, {"c": 3}),
            ({"metadata": None, "override": True}, {}),
        ):
            assert (await client.patch(path, json=body)).json()["data"]["metadata"] == metadata


async def test_the_newest_calls_are_listed_first_as_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_module, "MOST_CALLS", 3)
    async with inside() as (client, emulator):
        ids = [await staged_id(client) for _ in range(4)]
        listed = (await client.get("/sandbox/calls")).json()["data"]
        assert [call["id"] for call in listed] == ids[:0:-1]
        assert listed[0]["request"] == BODY
        assert listed[0]["direction"] == "inbound"
        assert emulator.calls.find(ids[0]) is None
        assert (await client.get(f"/v1/calls/{ids[0]}")).status_code == 404


async def test_behaviour_can_be_read_and_changed_and_mistakes_in_it_are_refused() -> None:
    async with inside() as (client, emulator):
        assert (await client.get("/sandbox/behaviour")).json()["data"]["fault"] is None
        change = {"fault": "503", "fault_times": 1, "latency": 0.01}
        data = (await client.put("/sandbox/behaviour", json=change)).json()["data"]
        assert data.items() >= change.items()
        mistakes: list[object] = [
            {"fault": "boredom"},
            {"fault_on": ["x"]},
            {"latency": -1},
            {"x": 1},
        ]
        for wrong in [*mistakes, []]:
            assert (await client.put("/sandbox/behaviour", json=wrong)).status_code == 422
        assert emulator.behaviour == Behaviour.model_validate(change)


@pytest.mark.parametrize("fault", ["401", "408", "422", "429", "500", "503"])
async def test_a_fault_that_is_a_status_is_told_in_the_envelope(fault: str) -> None:
    async with inside(fault=fault, retry_after=7) as (client, _):
        for method, path in CALLS.values():
            response = await client.request(method, path.format(NO_CALL))
            assert response.status_code == response.json()["error"]["status"] == int(fault)
            given = response.headers.get("retry-after")
            assert given == ("7" if fault in ("429", "503") else None)


async def test_a_fault_comes_as_often_and_where_it_is_wanted() -> None:
    async with inside(fault="500", fault_times=2, fault_on=["getCall"]) as (client, emulator):
        path = f"/v1/calls/{await staged_id(client)}"
        answers = [(await client.get(path)).status_code for _ in range(3)]
        assert answers == [500, 500, 200]
        emulator.behave(emulator.behaviour)
        assert (await client.get("/v1/phone-numbers")).status_code == 200
        assert (await client.get(path)).status_code == 500
    async with inside(fault="429", retry_after=None) as (client, _):
        assert "retry-after" not in (await client.get("/v1/phone-numbers")).headers


async def test_latency_comes_before_any_answer() -> None:
    async with inside(latency=0.3) as (client, _):
        started = time.monotonic()
        await client.get("/v1/phone-numbers")
        assert time.monotonic() - started >= 0.29


@contextlib.asynccontextmanager
async def posted(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """The bytes that come back from a POST that stages a call."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(BODY)
    head = f"POST /v1/calls/stage HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    try:
        yield reader
    finally:
        writer.close()


@pytest.mark.parametrize("fault", ["html", "half-json", "bad-id"])
async def test_a_spoiled_answer_is_whole_http_and_no_use(fault: str) -> None:
    async with sandbox(fault=fault) as api, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):  # on one connection: what is spoiled is framed as it should be
            response = await client.post(
                api.url + "/v1/calls/stage", json=dict(BODY), headers={"X-Api-Key": KEY}
            )
            assert response.status_code == 201
        if fault == "html":
            assert response.headers["content-type"] == "text/html"
            assert response.text.startswith("<!DOCTYPE html>")
        elif fault == "half-json":
            assert response.text.startswith('{"message"')
            with pytest.raises(json.JSONDecodeError):
                response.json()
        else:
            assert valid_uuid(response.json()["data"]["call_id"]) is None


async def test_drip_is_a_byte_a_second() -> None:
    async with sandbox(fault="drip") as api, posted(api.url) as reader:
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: 1" in head.lower()
            assert await reader.read(100) == b"{"
            first = time.monotonic()
            assert await reader.read(100) == b'"'
            assert 0.7 < time.monotonic() - first < 2.0


async def test_drip_ends_with_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(faults, "asyncio", types.SimpleNamespace(sleep=sleep))
    async with inside(fault="drip") as (client, _):
        response = await client.get("/v1/phone-numbers")
        assert response.json()["message"] == "Phone numbers found"
        assert pauses == [1.0] * len(response.content)


async def test_hang_says_nothing_at_all_until_the_client_has_gone() -> None:
    async with sandbox(fault="hang") as api:
        async with posted(api.url) as reader:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await reader.read(1)
            assert api.hanging == 1
        await eventually(lambda: api.hanging == 0)
        assert api.hanging == 0


async def test_reset_is_a_rst() -> None:
    async with sandbox(fault="reset") as api, posted(api.url) as reader:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(3):
                await reader.read(1)


async def test_the_sandbox_speaks_tls_and_resets_that_too(tmp_path: Path) -> None:
    certificate = authority().issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    emulator, listen = Sandbox(KEY), Address("127.0.0.1", 0)
    async with (
        serving(emulator, listen, certificate=(chain, key)) as url,
        RoundedClient(url, KEY, ca_file=ca_file(tmp_path)) as client,
    ):
        assert url.startswith("https://127.0.0.1:")
        assert await client.list_phone_numbers() == []
        emulator.behave(Behaviour.model_validate({"fault": "reset"}))
        with pytest.raises(ApiUnreachable):
            await client.open_connection()
        emulator.behave(Behaviour())
        assert await client.list_phone_numbers() == []


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="a kernel without IPv6")
async def test_the_sandbox_listens_on_ipv6() -> None:
    async with serving(Sandbox(KEY), Address("::1", 0)) as url:
        assert re.fullmatch(r"http://\[::1\]:\d+", url)
        async with RoundedClient(url, KEY) as client:
            assert await client.list_phone_numbers() == []


async def test_an_address_that_is_taken_is_an_oserror() -> None:
    async with sandbox() as api:
        port = int(api.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with sandbox(port=port):
                pass


async def test_a_server_that_cannot_start_says_why_and_leaves_no_open_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    async with every_file_closed():
        with pytest.raises(OSError, match=re.escape("No such file")):
            async with serving(Sandbox(), Address("127.0.0.1", 0), certificate=(missing, missing)):
                pass


async def rounded_pbx(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rounded_pbx", "sandbox", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=Path(package.__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "", "COLUMNS": "200", "NO_COLOR": "1"},
    )


async def test_the_command_prints_its_url_serves_and_ends_on_sigterm() -> None:
    process = await rounded_pbx("--listen", "127.0.0.1:0", "--key", KEY, "--fault", "422")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
            url = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert url, line
            async with RoundedClient(url[0], KEY) as client:
                with pytest.raises(Exception, match="Fault on demand"):
                    await client.stage(BODY)
            assert "POST  /v1/calls/stage  422" in (await process.stdout.readline()).decode()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert await process.stdout.read() == b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "nowhere"], 2, "127.0.0.1:4573"),
        (["--fault", "boredom"], 2, "fault"),
        (["--latency", "-1"], 2, "latency"),
        (["--listen", "192.0.2.1:8700"], 1, "cannot listen"),
    ],
)
async def test_the_command_says_what_is_wrong_with_its_options(
    arguments: list[str], code: int, words: str
) -> None:
    process = await rounded_pbx(*arguments)
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode == code
    assert words in output.decode()
    assert b"Traceback" not in output
