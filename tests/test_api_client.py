"""The API client: each answer, each lie and each failure is one error of our tree."""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounded_pbx.api import RoundedClient
from rounded_pbx.api.client import LONGEST_ANSWER
from rounded_pbx.errors import (
    ApiBadAnswer,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiServerError,
    ApiTimeout,
    ApiUnauthorized,
    ApiUnreachable,
)

from .api_operations import (
    ENVELOPE,
    OPERATIONS,
    answered,
    every_operation,
    failure,
    mocked,
)
from .helpers import (
    BODY,
    CALL_ID,
    KEY,
    STAGED,
    Peer,
    answer,
    examples,
    raw_server,
    sandbox,
)


@every_operation
async def test_an_operation_is_one_request_after_the_contract(operation: str) -> None:
    call, request, body, reply, result = OPERATIONS[operation]
    seen: list[httpx.Request] = []
    assert await call(mocked(201, reply, seen=seen)) == result
    (sent,) = seen
    assert f"{sent.method} {sent.url.raw_path.decode()}" == request
    assert (json.loads(sent.content) if sent.content else None) == body
    assert sent.headers.get("content-type") == ("application/json" if body else None)
    assert sent.headers["x-api-key"] == KEY
    assert sent.headers["accept-encoding"] == "identity"


async def test_the_sandbox_understands_every_operation() -> None:
    async with sandbox(staging_time=0.0) as api, RoundedClient(api.url + "/", KEY) as client:
        call_id = await client.stage(BODY)
        assert await client.stage(BODY, sync=True) != call_id
        assert await client.call_status(call_id.upper()) == "staged"
        await client.update_call(call_id, {"a": 1})
        await client.update_call(call_id, {"b": 2})
        call = api.calls.find(call_id)
        assert call is not None
        assert call.metadata == {"a": 1, "b": 2}
        await client.update_call(call_id, {"c": 3}, override=True)
        assert call.metadata == {"c": 3}
        for _ in range(2):
            await client.terminate_call(call_id)
        assert await client.call_status(call_id) == "completed"
        assert await client.list_phone_numbers() == []
        assert isinstance(await failure(client.call_status("x")), ApiRejected)
        rejected = await failure(client.stage({**BODY, "to_number": "0"}))
        assert [field for field, _ in rejected.details] == ["to_number"]
        assert client.open_connections == 1


def expected(status: int) -> type[ApiError]:
    special = {401: ApiUnauthorized, 403: ApiUnauthorized, 408: ApiTimeout, 429: ApiLimited}
    families = {3: ApiBadAnswer, 4: ApiRejected, 5: ApiServerError}
    return special.get(status) or families[status // 100]


@every_operation
async def test_every_status_is_one_error_with_the_envelopes_words(operation: str) -> None:
    call = OPERATIONS[operation][0]
    for status in range(300, 600):
        error = await failure(call(mocked(status, ENVELOPE, {"Location": "/elsewhere"})))
        assert type(error) is expected(status)
        assert error.status == status
        assert error.message == f"HTTP {status}: Validation failed"
        assert error.details == (("to_number", "is no number"), ("", "bare"))
        assert "to_number: is no number" in str(error)


@pytest.mark.parametrize("status", [100, 102, 103])
async def test_an_informational_answer_is_passed_over(status: int) -> None:
    info = b"HTTP/1.1 %d Wait\r\n\r\n" % status
    assert await answered(info + info + answer(200, {"message": "", "data": 5})) == 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n\r\n",
        b"\x00\xff\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 204 Nothing\r\n\r\n",
        b"HTTP/1.1 600 High\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 " + b"\xe9" * 10 + b"\r\nContent-Length: 2\r\n\r\n[]",
        b"SIP/2.0 200 OK\r\n\r\n",
    ],
    ids=range(15),
)
async def test_bytes_that_are_no_answer_are_an_error_of_the_api(data: bytes) -> None:
    assert isinstance(await answered(data), ApiUnreachable | ApiBadAnswer | ApiServerError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><h1>Bad gateway</h1>",
        b'{"message": "", "data": {"call_id"',
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 5000,
        gzip.compress(STAGED),
        b'{"message": ""}',
        b'{"data": []}',
        b'{"data": "call_id"}',
        b'{"data": {}}',
    ],
    ids=range(16),
)
@pytest.mark.parametrize("status", [200, 201, 500])
async def test_a_body_that_is_not_in_the_contract_gives_no_id(body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    error = await failure(mocked(status, body, headers).stage(BODY))
    assert type(error) is (ApiServerError if status == 500 else ApiBadAnswer)
    error = await failure(mocked(status, body, headers).call_status(CALL_ID))
    assert type(error) is (ApiServerError if status == 500 else ApiBadAnswer)


@pytest.mark.parametrize(
    "value",
    ["42", "", CALL_ID + "\r\nX: y", f"{{{CALL_ID}}}", CALL_ID[:-1] + "é", 42, None, [], {}],
)
async def test_an_id_that_is_no_uuid_and_a_status_that_is_no_text_are_refused(value: Any) -> None:
    error = await failure(mocked(201, {"data": {"call_id": value}}).stage(BODY))
    assert type(error) is ApiBadAnswer
    if not isinstance(value, str):
        error = await failure(mocked(200, {"data": {"status": value}}).call_status(CALL_ID))
        assert type(error) is ApiBadAnswer


def json_values() -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["message", "data", "error", "details", "field", "call_id", "status"])
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5)
    )


@examples(200)
@given(status=st.sampled_from([200, 201, 302, 400, 401, 408, 422, 429, 500]), body=json_values())
async def test_whatever_json_comes_the_result_is_a_value_or_an_error_of_the_api(
    status: int, body: Any
) -> None:
    with contextlib.suppress(ApiError):
        assert await mocked(status, body).stage(BODY) == body["data"]["call_id"]
        assert status < 300


async def test_json_as_deep_as_can_be_read_is_still_an_error_of_the_api() -> None:
    async def message(depth: int) -> str:
        body = b'{"message": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        return (await failure(mocked(500, body).list_phone_numbers())).message

    low, high = 1, 200_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ":" in await message(middle) else (low, middle)
    assert 1 < high < 200_000
    for depth in range(max(1, high - 5), high + 5):
        assert "500" in await message(depth)


async def test_an_answer_is_read_up_to_a_limit() -> None:
    fits = b'{"data": {"status": "' + b"x" * (LONGEST_ANSWER - 24) + b'"}}'
    assert len(fits) == LONGEST_ANSWER
    assert await mocked(200, fits).call_status(CALL_ID)
    assert type(await failure(mocked(200, fits + b" ").call_status(CALL_ID))) is ApiBadAnswer
    longer = fits + b" " * LONGEST_ANSWER
    assert await mocked(200, longer).list_phone_numbers()  # a list grows with the organisation
    assert type(await failure(mocked(429, longer).call_status(CALL_ID))) is ApiLimited

    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b" " * 65536)
            sent += 65536

    async with raw_server(endless) as server, RoundedClient(server.url, KEY) as client:
        assert type(await failure(client.call_status(CALL_ID))) is ApiBadAnswer
        assert client.open_connections == 0
    assert sent < 200 * LONGEST_ANSWER


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("9" * 30, 999_999_999.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2020 00:00:00 +99999999999999999999", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_a_number_or_a_date_or_nothing(
    status: int, value: str, seconds: float | None
) -> None:
    headers = {"Retry-After": value}
    error = await failure(mocked(status, ENVELOPE, headers).stage(BODY))
    assert type(error) is expected(status)
    assert error.retry_after == seconds


async def test_retry_after_as_a_date_is_the_time_until_then() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    error = await failure(mocked(429, b"", {"Retry-After": date}).stage(BODY))
    assert error.retry_after is not None
    assert 25 < error.retry_after <= 30


def nearly_dates() -> st.SearchStrategy[str]:
    numbers = st.integers(-1, 99) | st.integers(0, 10**30)
    times = st.text("0123456789:.", max_size=12)
    zones = st.sampled_from(["", "GMT", "-0000", "+9959"]) | numbers.map("{:+}".format)
    months = st.sampled_from(["Jan", "feb", "Foo"])
    return st.builds("Mon, {} {} {} {} {}".format, numbers, months, numbers, times, zones)


@examples(300)
@given(nearly_dates() | st.text(st.characters(min_codepoint=32, max_codepoint=255)))
async def test_no_retry_after_is_more_than_nonsense(value: str) -> None:
    error = await failure(mocked(429, b"", {"Retry-After": value.strip()}).stage(BODY))
    assert type(error) is ApiLimited
    assert error.retry_after is None or error.retry_after >= 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with raw_server(Peer.answer_all) as elsewhere:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(status, {}, f"Location: {elsewhere.url}/v1/calls/stage"))

        async with raw_server(script) as server, RoundedClient(server.url, KEY) as client:
            assert type(await failure(client.stage(BODY))) is ApiBadAnswer
        assert elsewhere.peers == []


@pytest.mark.parametrize("trust_env", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "/",
        "",
        "mailto:a@b.example",
        "api.example:443/v1",
        "http://[::1",
        "http:///x",
        "//",
        "x\xe9",
    ],
)
async def test_wherever_a_redirect_leads_it_is_a_bad_answer(
    location: str, trust_env: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(302, {}, "Location: @").replace(b"@", location.encode("latin-1")))

    async with (
        raw_server(script) as server,
        RoundedClient(server.url, KEY, trust_env=trust_env) as client,
    ):
        assert type(await failure(client.stage(BODY))) is ApiBadAnswer
