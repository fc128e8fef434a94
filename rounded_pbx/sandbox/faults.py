"""How the sandbox misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import StrEnum
from typing import Any

import pydantic
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Fault(StrEnum):
    """What goes wrong."""

    UNAUTHORIZED = "401"
    TIMEOUT = "408"
    INVALID = "422"
    LIMITED = "429"
    BROKEN = "500"
    UNAVAILABLE = "503"
    HANG = "hang"
    DRIP = "drip"
    RESET = "reset"
    HTML = "html"
    HALF_JSON = "half-json"
    BAD_ID = "bad-id"

    @property
    def status(self) -> int | None:
        """The HTTP status of a fault that is one."""
        return int(self.value) if self.value.isdigit() else None


#: The operations of the contract, by the names that they have there.
OPERATIONS = ("stageCall", "getCall", "updateCall", "terminateCall", "listPhoneNumbers")


class Behaviour(pydantic.BaseModel):
    """How the sandbox behaves: times in seconds, and a fault for some or all operations."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    latency: float = pydantic.Field(default=0.0, ge=0, le=600)
    staging_time: float = pydantic.Field(default=0.3, ge=0, le=600)
    sync_limit: float = pydantic.Field(default=10.0, ge=0, le=600)
    fault: Fault | None = None
    fault_on: tuple[str, ...] = OPERATIONS
    fault_times: int | None = pydantic.Field(default=None, ge=1)
    retry_after: int | None = pydantic.Field(default=1, ge=0)

    @pydantic.field_validator("fault_on")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in OPERATIONS:
                raise ValueError(f"{name!r} is not one of {', '.join(OPERATIONS)}")
        return value


async def reset(send: Send) -> None:
    """Break the connection with a RST, as a crashed peer does."""
    transport: asyncio.Transport = getattr(send, "__self__").transport  # noqa: B009 - uvicorn's cycle
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def spoil(fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let ``app`` answer, and spoil the answer: HTML, half a JSON, or a byte a second."""
    start: Message = {}

    async def spoiled(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body: bytes = message.get("body", b"")
        if fault is Fault.HTML:
            body = b"<!DOCTYPE html><title>502</title><h1>Bad gateway</h1>"
        elif fault is Fault.HALF_JSON:
            body = body[: len(body) // 2]
        kind = b"text/html" if fault is Fault.HTML else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({**start, "headers": headers})
        if fault is Fault.DRIP:
            for index in range(len(body)):
                await send(_part(body[index : index + 1], more=True))
                await asyncio.sleep(1.0)
            body = b""
        await send(_part(body, more=False))

    await app(scope, receive, spoiled)


def _part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
