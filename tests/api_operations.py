"""The operations of the API, each with what it sends and what it makes of an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from rounded_pbx.api import RoundedClient
from rounded_pbx.errors import (
    ApiError,
)

from .helpers import (
    BODY,
    CALL_ID,
    KEY,
    Peer,
    raw_server,
)

ENVELOPE = {
    "message": "outer",
    "error": {
        "message": "Validation failed",
        "details": [{"field": "to_number", "message": "is no number"}, {"message": "bare"}, 7],
    },
}
CALL = {"message": "", "data": {"id": CALL_ID, "status": "staged"}}
Operation = Callable[[RoundedClient], Awaitable[object]]

#: Each operation: how it is called, its request, an answer, and what it makes of that.
OPERATIONS: dict[str, tuple[Operation, str, object, object, object]] = {
    "stage": (
        lambda client: client.stage(BODY),
        "POST /v1/calls/stage",
        BODY,
        {"message": "", "data": {"call_id": CALL_ID}},
        CALL_ID,
    ),
    "stage-sync": (
        lambda client: client.stage(BODY, sync=True),
        "POST /v1/calls/stage?sync=true",
        BODY,
        {"message": "", "data": {"call_id": CALL_ID}},
        CALL_ID,
    ),
    "call_status": (
        lambda client: client.call_status(CALL_ID),
        f"GET /v1/calls/{CALL_ID}",
        None,
        CALL,
        "staged",
    ),
    "update_call": (
        lambda client: client.update_call(CALL_ID, {"a": 1}, override=True),
        f"PATCH /v1/calls/{CALL_ID}",
        {"metadata": {"a": 1}, "override": True},
        CALL,
        None,
    ),
    "terminate_call": (
        lambda client: client.terminate_call("../no way?"),
        "POST /v1/calls/..%2Fno%20way%3F/terminate",
        None,
        {"message": ""},
        None,
    ),
    "list_phone_numbers": (
        lambda client: client.list_phone_numbers(),
        "GET /v1/phone-numbers",
        None,
        {"message": "", "data": [1]},
        [1],
    ),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


class Stream(httpx.AsyncByteStream):
    """A body as a server sends it: in pieces."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), 60_000):
            yield self._content[start : start + 60_000]


def mocked(
    status: int, body: object, headers: dict[str, str] | None = None, seen: Any = None
) -> RoundedClient:
    """A client whose every request is answered like this."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        raw = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        return httpx.Response(status, headers=raw, stream=Stream(content))

    return RoundedClient("http://api.example", KEY, transport=httpx.MockTransport(handle))


async def failure(of: Awaitable[object]) -> ApiError:
    """The error that comes of it, which must be one of the API's, within three seconds."""
    with pytest.raises(ApiError) as caught:
        async with asyncio.timeout(3):
            await of
    return caught.value


async def answered(data: bytes, call: Operation = RoundedClient.list_phone_numbers) -> object:
    """What a client makes of these bytes on the wire: an error, or the operation's result."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    async with raw_server(script) as server, RoundedClient(server.url, KEY) as client:
        try:
            async with asyncio.timeout(3):
                return await call(client)
        except ApiError as error:
            return error
