"""HTTP lookups against servers on loopback: whatever these do, a call loses nothing but a value."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from rounded_pbx.api import HttpLookups
from rounded_pbx.api.lookup import LONGEST_ANSWER, MAX_CONNECTIONS, QUIET
from rounded_pbx.breaker import Breaker
from rounded_pbx.errors import ApiUnreachable
from rounded_pbx.lookups import Lookup
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome, StagingRequest, StagingResult

from .helpers import (
    AGENT,
    CALL_ID,
    KEY,
    REQUEST,
    Clock,
    Peer,
    RawServer,
    answer,
    ca_file,
    eventually,
    every_file_closed,
    raw_server,
    sandbox,
    server_tls,
)
from .test_stager import MARGIN, FakeApi, within

SECRET = "Bearer hush-5e17c0ffee"
NUMBER = "33700000001"
TARGET = f"/v1/customers/%2B{NUMBER}/..?x=%27'&y=%2e"
JEAN = answer(200, {"customer": {"name": "Jean", "tags": [{"name": "gold"}]}})
FOUND = {"name": "Jean", "tier": "gold"}

Script = Callable[[Peer], Awaitable[None]]


def lookup(url: str, timeout: float = 1.0, headers: Mapping[str, str] | None = None) -> Lookup:
    return Lookup(
        route="support",
        origin=url,
        target=TARGET,
        headers=headers or {},
        secret_headers=("Authorization",),
        timeout=timeout,
        variables={"name": ("customer", "name"), "tier": ("customer", "tags", 0, "name")},
    )


def lookups(*urls: str, clock: Callable[[], float] = time.monotonic) -> HttpLookups:
    return HttpLookups(urls, {"support": {"Authorization": SECRET}}, clock=clock)


def says(*answers: bytes) -> Script:
    """A server that gives these answers, the last one again and again."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            number = len(peer.requests)
            await peer.send(answers[min(number, len(answers)) - 1])

    return script


async def silent(peer: Peer) -> None:
    await peer.reader.read()


async def hanging(peer: Peer) -> None:
    await peer.request()
    await peer.reader.read()


def dripping(data: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in data:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.05)

    return script


@contextlib.asynccontextmanager
async def asking(
    script: Script, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[RawServer, HttpLookups]]:
    async with raw_server(script) as server, lookups(server.url, clock=clock) as subject:
        yield server, subject


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def told(log: pytest.LogCaptureFixture) -> list[str]:
    """What the log says to somebody who does not debug; nothing in it is of a caller or secret."""
    for word in (NUMBER, "hush", "Jean"):
        assert word not in log.text
    return [each.getMessage() for each in log.records if each.levelno > logging.DEBUG]


async def test_a_lookup_finds_its_variables_and_sends_what_was_built(
    log: pytest.LogCaptureFixture,
) -> None:
    headers = {"X-Tenant": "acme", "accept": "application/hal+json"}
    async with asking(says(JEAN)) as (server, subject):
        assert await subject.find(lookup(server.url, headers=headers), 1.0) == FOUND
        assert "hush" not in repr(subject) + repr(lookup(server.url))
    line, *sent = server.requests[0].decode().rstrip().split("\r\n")
    assert line == f"GET {TARGET} HTTP/1.1"
    assert sorted(each.lower() for each in sent) == [
        "accept-encoding: identity",
        "accept: application/hal+json",
        f"authorization: {SECRET.lower()}",
        f"host: {server.url.removeprefix('http://')}",
        "user-agent: rounded_pbx",
        "x-tenant: acme",
    ]
    assert told(log) == []


async def test_a_connection_is_kept_and_no_cookie() -> None:
    cookie = answer(200, {"customer": {"name": "Jean"}}, "Set-Cookie: a=b")
    async with asking(says(cookie, answer(404, {}), JEAN)) as (server, subject):
        found = [await subject.find(lookup(server.url), 1.0) for _ in range(4)]
        assert found == [{"name": "Jean"}, {}, FOUND, FOUND]
        assert len(server.peers) == 1
    assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_a_kept_connection_that_the_server_closed_costs_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(JEAN)

    async with asking(script) as (server, subject):
        for _ in range(3):
            assert await subject.find(lookup(server.url), 1.0) == FOUND
        assert len(server.peers) == 3


BAD = {
    "500": (says(answer(500, {})), "HTTP 500"),
    "429": (says(answer(429, {})), "HTTP 429"),
    "401": (says(answer(401, {"token": SECRET, "number": NUMBER})), "HTTP 401"),
    "redirect": (says(answer(302, JEAN, "Location: /elsewhere")), "HTTP 302"),
    "201": (says(answer(201, {"customer": {"name": "Jean"}})), "HTTP 201"),
    "html": (says(answer(200, b"<html>" + NUMBER.encode())), "an answer that is no JSON"),
    "half a JSON": (says(answer(200, b'{"customer": {"name": "Je')), "an answer that is no JSON"),
    "deep": (says(answer(200, b"[" * 60_000)), "an answer that is no JSON"),
    "gzip": (says(answer(200, b"\x1f\x8b\x08x", "Content-Encoding: gzip")), "an answer that is no"),
    "huge": (
        says(answer(200, b'{"a": "' + b"x" * LONGEST_ANSWER + b'"}')),
        f"an answer of more than {LONGEST_ANSWER} bytes",
    ),
    "not HTTP": (says(f"{NUMBER} {SECRET}\r\n\r\n".encode()), "RemoteProtocolError"),
    "hang": (hanging, "no answer in time"),
    "silent": (silent, "no answer in time"),
    "drip": (dripping(JEAN), "no answer in time"),
    "drip of a body": (dripping(JEAN.partition(b"\r\n\r\n")[2]), "RemoteProtocolError"),
}


async def cut_off(peer: Peer) -> None:
    await peer.request()
    await peer.send(JEAN[:-5])


async def reset(peer: Peer) -> None:
    await peer.request()
    peer.reset()


BAD["cut off"] = (cut_off, "RemoteProtocolError")
BAD["reset"] = (reset, "Connection reset by peer")


@pytest.mark.parametrize("fault", BAD)
async def test_a_fault_of_a_server_is_nothing_found_in_time_and_one_line_of_the_log(
    fault: str, log: pytest.LogCaptureFixture
) -> None:
    script, why = BAD[fault]
    async with every_file_closed(), asking(script) as (server, subject):
        for _ in range(2):
            started = time.monotonic()
            assert await subject.find(lookup(server.url), 0.2) == {}
            assert time.monotonic() - started < 0.2 + MARGIN
        assert len(server.requests) <= 2
    (line,) = told(log)
    assert line.startswith(f"lookups at {server.url} fail, calls go on without: {why}")


async def test_a_server_that_is_not_there_is_told_in_the_systems_words(
    log: pytest.LogCaptureFixture,
) -> None:
    async with raw_server(silent) as server:
        url = server.url
    async with lookups(url) as subject:
        assert await subject.find(lookup(url), 0.2) == {}
    assert told(log) == [f"lookups at {url} fail, calls go on without: Connection refused"]


async def test_that_nobody_is_known_is_no_fault(log: pytest.LogCaptureFixture) -> None:
    nobody = b"HTTP/1.1 204 No Content\r\n\r\n"
    script = says(answer(404, {}), JEAN, nobody, answer(200, {"customer": {"tags": []}}))
    async with asking(script) as (server, subject):
        found = [await subject.find(lookup(server.url), 1.0) for _ in range(4)]
    assert found == [{}, FOUND, {}, {}]
    assert told(log) == []


async def test_the_log_tells_each_change_once_and_not_every_turn_of_a_server_that_flaps(
    log: pytest.LogCaptureFixture,
) -> None:
    clock, bad = Clock(), answer(400, {})
    async with asking(says(JEAN, bad, bad, JEAN, bad, JEAN, JEAN, bad), clock) as (server, subject):
        for pause in (0, 1, 1, 1, 1, QUIET, 1, QUIET):
            clock.advance(pause)
            await subject.find(lookup(server.url), 1.0)
    fails = f"lookups at {server.url} fail, calls go on without: HTTP 400"
    assert told(log) == [fails, f"lookups at {server.url} work again", fails]


async def test_a_server_that_hangs_costs_a_few_calls_their_time_and_is_tried_again() -> None:
    clock = Clock()
    well = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await (peer.send(JEAN) if well.is_set() else peer.reader.read())

    async with asking(script, clock) as (server, subject):
        for _ in range(5):
            assert await subject.find(lookup(server.url), 0.02) == {}
        started = time.monotonic()
        for _ in range(50):
            assert await subject.find(lookup(server.url), 5.0) == {}
        assert time.monotonic() - started < 0.5
        assert len(server.peers) == 5
        well.set()
        clock.advance(1.0)
        assert await subject.find(lookup(server.url), 1.0) == FOUND
        assert await subject.find(lookup(server.url), 1.0) == FOUND


async def test_answers_that_say_no_are_answers_and_open_no_breaker() -> None:
    async with asking(says(*[answer(400, {})] * 20, JEAN)) as (server, subject):
        for _ in range(20):
            assert await subject.find(lookup(server.url), 1.0) == {}
        assert await subject.find(lookup(server.url), 1.0) == FOUND


async def test_a_server_that_hangs_takes_few_connections_and_no_time_of_another() -> None:
    async with (
        every_file_closed(),
        raw_server(hanging) as bad,
        raw_server(says(JEAN)) as good,
        lookups(bad.url, good.url) as subject,
    ):
        crowd = [
            asyncio.ensure_future(subject.find(lookup(bad.url), 0.3))
            for _ in range(4 * MAX_CONNECTIONS)
        ]
        await eventually(lambda: len(bad.requests) == MAX_CONNECTIONS)
        assert await subject.find(lookup(good.url), 1.0) == FOUND
        assert len(bad.peers) == MAX_CONNECTIONS
        assert await asyncio.gather(*crowd) == [{}] * len(crowd)


async def test_answers_that_are_not_read_to_their_end_keep_no_place() -> None:
    async with asking(BAD["huge"][0]) as (server, subject):
        for _ in range(MAX_CONNECTIONS):
            assert await subject.find(lookup(server.url), 1.0) == {}
        assert len(server.requests) == MAX_CONNECTIONS
        assert await subject.find(lookup(server.url), 1.0) == {}
        assert len(server.requests) == MAX_CONNECTIONS + 1


async def test_those_that_only_waited_for_their_turn_say_nothing_of_the_server(
    log: pytest.LogCaptureFixture,
) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(JEAN)

    async with asking(script) as (server, subject):
        crowd = [
            asyncio.ensure_future(subject.find(lookup(server.url), 5.0))
            for _ in range(MAX_CONNECTIONS)
        ]
        await eventually(lambda: len(server.requests) == MAX_CONNECTIONS)
        waiting = [subject.find(lookup(server.url), 0.05) for _ in range(10)]
        assert await asyncio.gather(*waiting) == [{}] * 10
        gate.set()
        assert await asyncio.gather(*crowd) == [FOUND] * MAX_CONNECTIONS
        assert await subject.find(lookup(server.url), 1.0) == FOUND
    assert "no connection was free in time" in told(log)[0]


@pytest.mark.parametrize("script", [silent, hanging, dripping(JEAN)])
async def test_a_cancelled_lookup_ends_at_once_and_frees_what_it_held(script: Script) -> None:
    async with every_file_closed(), asking(script) as (server, subject):
        for _ in range(8):
            task = asyncio.ensure_future(subject.find(lookup(server.url), 30.0))
            await eventually(lambda: server.peers and not server.peers[-1].gone)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: server.peers[-1].gone)
        assert len(server.peers) == 8  # a breaker that had counted them would have refused some


async def test_a_defect_of_ours_is_nothing_found(log: pytest.LogCaptureFixture) -> None:
    async with asking(says(JEAN)) as (server, _), HttpLookups([server.url], {}) as subject:
        assert await subject.find(lookup(server.url), 1.0) == {}  # it has not the secret header
        assert await subject.find(lookup("http://127.0.0.1:9"), 1.0) == {}
    assert [line.startswith("a defect of rounded_pbx") for line in told(log)] == [True, True]


async def test_https_is_checked_and_works_where_the_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    async with raw_server(says(JEAN), tls=server_tls()) as server:
        async with lookups(server.url) as subject:
            assert await subject.find(lookup(server.url), 1.0) == {}
        assert "certificate verify failed" in told(log)[0]
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", ca_file(tmp_path))
        secrets = {"support": {"Authorization": SECRET}}
        async with HttpLookups([server.url], secrets, trust_env=True) as subject:
            assert await subject.find(lookup(server.url), 1.0) == FOUND


async def test_the_environments_proxy_is_taken_only_where_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    secrets = {"support": {"Authorization": SECRET}}
    async with raw_server(says(answer(502, {}))) as proxy, raw_server(says(JEAN)) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with HttpLookups([server.url], secrets) as subject:
            assert await subject.find(lookup(server.url), 1.0) == FOUND
        async with HttpLookups([server.url], secrets, trust_env=True) as subject:
            assert await subject.find(lookup(server.url), 1.0) == {}
        assert [request.split()[0] for request in proxy.requests] == [b"CONNECT"]


# Through the stager: whatever becomes of the lookup, the id arrives in time.


def staging(api: FakeApi, subject: HttpLookups | None, breaker: Breaker | None = None) -> Stager:
    return Stager({"default": Account(api, breaker or Breaker())}, 1, subject)


def asking_for(asked: Lookup) -> StagingRequest:
    return dataclasses.replace(REQUEST, lookup=asked, dynamic_variables={"name": "client"})


def sent(api: FakeApi) -> list[object]:
    return [body.get("dynamic_variables_values") for body, _, _ in api.posts]


async def test_what_a_lookup_finds_is_staged_with_the_call() -> None:
    api = FakeApi()
    async with asking(says(JEAN)) as (server, subject):
        request = asking_for(lookup(server.url))
        assert (await staging(api, subject).stage(request, within(1.0))).call_id == CALL_ID
        assert (await staging(api, None).stage(request, within(1.0))).call_id == CALL_ID
    assert sent(api) == [FOUND, {"name": "client"}]


@pytest.mark.parametrize("script", [silent, hanging, dripping(JEAN)])
@pytest.mark.parametrize(("timeout", "seconds"), [(30.0, 0.6), (0.1, 3.0)])
async def test_a_late_lookup_is_left_out_and_the_id_arrives_before_the_deadline(
    script: Script, timeout: float, seconds: float
) -> None:
    api = FakeApi([0.1, CALL_ID])
    async with asking(script) as (server, subject):
        started = time.monotonic()
        request = asking_for(lookup(server.url, timeout))
        result = await staging(api, subject).stage(request, within(seconds))
    assert result == StagingResult(Outcome.STAGED, CALL_ID)
    waited = api.posts[0][2] - started
    assert min(timeout, seconds / 2) - 0.01 <= waited < min(timeout, seconds / 2) + 0.15
    assert sent(api) == [{"name": "client"}]


async def test_lookups_that_fail_say_nothing_of_the_api_and_a_dead_api_costs_no_lookup() -> None:
    breaker = Breaker(threshold=2)
    async with asking(hanging) as (server, subject):
        request = asking_for(lookup(server.url, 0.02))
        for _ in range(4):
            result = await staging(FakeApi(), subject, breaker).stage(request, within(1.0))
            assert result.call_id == CALL_ID
        assert not breaker.is_open
        dead = staging(FakeApi([ApiUnreachable("gone")]), subject, breaker)
        outcomes = [(await dead.stage(request, within(1.0))).outcome for _ in range(4)]
        assert outcomes == [Outcome.UNAVAILABLE] * 4
        assert breaker.is_open
        assert len(server.requests) == 5  # by now the lookups have opened a breaker of their own


async def test_a_caller_who_hangs_up_during_a_lookup_ends_it_and_stages_nothing() -> None:
    api = FakeApi()
    async with asking(hanging) as (server, subject):
        stager = staging(api, subject)
        request = asking_for(lookup(server.url, 30.0))
        task = asyncio.ensure_future(stager.stage(request, within(30.0)))
        await eventually(lambda: server.requests)
        assert stager.in_flight == 1  # a lookup stands within the cap
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stager.in_flight == 0
        await eventually(lambda: server.peers[0].gone)
        assert server.peers[0].gone
    assert api.posts == []


CONFIG = f"""\
accounts: {{{{default: {{{{key_env: API_KEY}}}}}}}}
api: {{{{base_url: "{{api}}", warm: 0}}}}
routes:
  - name: support
    did: "+33612345678"
    agent_id: {AGENT}
    dynamic_variables: {{{{name: client, vip: true}}}}
    lookup:
      url: "{{crm}}/c/{{{{caller.number}}}}?x={{{{channel.X}}}}"
      headers: {{{{X-Tenant: 42}}}}
      secret_headers: {{{{Authorization: {{{{key_file: "{{key}}"}}}}}}}}
      timeout: 1.0
      variables: {{{{name: customer.name, tier: "customer.tags[0].name"}}}}
"""


async def test_a_call_that_is_staged_from_the_shell_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    file = tmp_path / "config.yml"
    async with sandbox() as api, raw_server(says(JEAN)) as crm:
        file.write_text(CONFIG.format(api=api.url, crm=crm.url, key=tmp_path / "key"))
        command = ["stage", "-c", str(file), "--did", "+33612345678", "--from", f"+{NUMBER}"]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "rounded_pbx", *command, "--channel", "X=a&b"],
            env={**os.environ, "API_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        (call,) = api.calls.newest(9)
        assert call.id.encode() in output
        assert call.request["dynamic_variables_values"] == {**FOUND, "vip": True}
        (asked,) = crm.requests
        assert asked.startswith(f"GET /c/%2B{NUMBER}?x=a%26b HTTP/1.1\r\n".encode())
        assert f"\r\nauthorization: {SECRET}\r\n".lower().encode() in asked.lower()
        assert b"hush" not in output
