"""A status page on a free port, and those who look at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from rounded_pbx.call import Switch
from rounded_pbx.config_status import Status
from rounded_pbx.config_types import Address
from rounded_pbx.records import CallRecord
from rounded_pbx.servers.status import (
    Facts,
    StatusServer,
    events,
    gate,
    server,
)
from rounded_pbx.watch import Watch

from .helpers import PATIENCE, Clock, eventually, open_files

TOKEN = "t0ken-5e17c0ffee-2c9a"
FACTS = Facts(version="0.1.0", pbx="pbx1", started=1_000_000.0, configuration="calls: {}\n")


def record(**known: Any) -> CallRecord:
    given = {"time": 1_000_000.0, "switch": Switch.ASTERISK, "outcome": "STAGED", "ms": 123}
    return CallRecord(**{**given, **known})


@dataclass
class Page:
    """A status page on a free port, and how to ask it."""

    server: StatusServer
    watch: Watch
    clock: Clock
    facts: Facts = FACTS
    ready: bool = True
    metrics: bytes = b"calls_total 1\n"
    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.address.host, self.address.port)

    async def raw(self, request: bytes, within: float = 5.0) -> bytes:
        """Everything that is answered to some bytes, until the connection ends."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            async with asyncio.timeout(within):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def get(self, path: str = "/", *headers: str, host: str = "localhost") -> Answer:
        head = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *headers])
        return Answer.of(await self.raw(head.encode("latin-1") + b"\r\n\r\n"))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Answer:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} stands twice"
            headers[name.lower()] = value.strip()
        return cls(int(first.split(" ")[1]), headers, body)


@contextlib.asynccontextmanager
async def page(*, token: bool = False, **options: Any) -> AsyncIterator[Page]:
    """A page that is never an old one; ``options`` are of its section of the configuration."""
    if token:
        options["token_env"] = "STATUS_TOKEN"
    section = Status.model_validate({"listen": "127.0.0.1:0", **options})
    clock = Clock(0.0)
    watch = Watch(clock)
    made: Page

    def metrics() -> bytes:
        return made.metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "RENDER_EVERY", 0.0)
        patch.setattr(events, "PERIOD", 0.05)
        patch.setattr(gate, "PENALTY", 0.2)
        patch.setenv("STATUS_TOKEN", TOKEN)
        status = StatusServer(
            section,
            watch=watch,
            ready=lambda: made.ready,
            metrics=metrics,
            facts=lambda: made.facts,
        )
        made = Page(status, watch, clock)
        files = open_files()
        async with asyncio.timeout(PATIENCE):
            made.address = await status.start()
            try:
                yield made
            finally:
                began = time.monotonic()
                await status.close()
                assert time.monotonic() - began < 1.0
                assert not status._state.tasks
                assert not status._door.connections
                await eventually(lambda: open_files() <= files)
                assert open_files() <= files


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What a stream says, piece by piece, until it ends in good order."""
    while size := int(await reader.readline(), 16):
        chunk = await reader.readexactly(size + 2)
        assert chunk.endswith(b"\r\n")
        yield chunk[:-2]


@dataclass
class Viewer:
    """One who follows the page, as the page's own script does."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def message(self) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(5.0):
            async for chunk in chunks(self.reader):
                if chunk.startswith(b"data: "):
                    found: dict[str, Any] = json.loads(chunk.removeprefix(b"data: "))
                    return found
        raise EOFError("the stream has ended")


@contextlib.asynccontextmanager
async def viewer(shown: Page, *headers: str) -> AsyncIterator[Viewer]:
    """A viewer whose stream has begun."""
    reader, writer = await shown.connect()
    head = "\r\n".join(["GET /events HTTP/1.1", "Host: localhost", *headers])
    writer.write(head.encode() + b"\r\n\r\n")
    begun = await reader.readuntil(b"\r\n\r\n")
    assert begun.startswith(b"HTTP/1.1 200"), begun
    try:
        yield Viewer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
