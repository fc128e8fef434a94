"""What several test files share: a clock to turn, a server that lies, a sandbox that counts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import re
import selectors
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trustme
from hypothesis import HealthCheck, settings
from starlette.types import Receive, Scope, Send

from rounded_pbx.config import Api, Config
from rounded_pbx.config_secrets import Account
from rounded_pbx.config_status import Status
from rounded_pbx.config_types import Address
from rounded_pbx.sandbox import Behaviour, Sandbox, serving
from rounded_pbx.staging import StagingRequest, StagingResult

Result = TypeVar("Result")

#: Seconds until a test that hangs has failed.
PATIENCE = 30.0
KEY = "rk-5e17c0ffee-2c9a"
AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
CALL_ID = "0d0b6f0e-98a5-4a9d-8f3c-5a8c1f8f5f11"
REQUEST = StagingRequest(
    account="default", from_number="+33612345678", to_number="+33912345678", agent_id=AGENT
)
BODY = {"from_number": "+33612345678", "to_number": "+33912345678", "agent_id": AGENT}


def examples(count: int) -> settings:
    """Settings of hypothesis for a machine of any speed, which leave nothing behind."""
    slow = [HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=slow)


@dataclass
class FakeTickets:
    """Notes what is asked of it; ``found`` is what every ticket stands for."""

    has_room: bool = True
    found: StagingResult | None = None
    begun: list[tuple[str, StagingRequest]] = field(default_factory=list)
    collected: list[tuple[str, frozenset[str], float]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)

    def begin(self, ticket: str, request: StagingRequest) -> None:
        self.begun.append((ticket, request))

    async def collect(
        self, ticket: str, marks: frozenset[str], deadline: float
    ) -> StagingResult | None:
        self.collected.append((ticket, marks, deadline))
        return self.found

    def abandon(self, ticket: str) -> None:
        self.abandoned.append(ticket)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


async def steps(count: int) -> None:
    """Let the event loop turn ``count`` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], object], within: float = 5.0) -> None:
    """Wait until ``condition`` holds; where it never does, the assertion after this says so."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would open one more


def open_ends() -> set[asyncio.Transport | socket.socket]:
    """The transports and sockets that are open, wherever they are held."""
    ends: set[asyncio.Transport | socket.socket] = set()
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, socket.socket | asyncio.Transport) and "closed" not in repr(thing):
            ends.add(thing)
    return ends


def abort(transport: asyncio.WriteTransport) -> None:
    """Abort it; TLS that is closed already says so with an AttributeError in Python 3.11.2."""
    with contextlib.suppress(AttributeError):
        transport.abort()


@contextlib.asynccontextmanager
async def every_file_closed() -> AsyncIterator[None]:
    """What is opened inside is closed at its end, and not by the garbage collector's good grace."""
    gc.collect()
    files, before = open_files(), open_ends()
    gc.disable()
    try:
        yield
        await eventually(lambda: open_files() <= files, within=2.0)
        assert open_files() - files <= 0, "file descriptors were left open"
    finally:
        for left in open_ends() - before:  # or they would disturb the next test
            if isinstance(left, asyncio.Transport):
                abort(left)
        await steps(3)
        for left in open_ends() - before:
            left.close()
        gc.enable()


def answer(status: int, body: object, *headers: str) -> bytes:
    """An HTTP answer; ``body`` is JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


STAGED = answer(201, {"message": "Call staged", "data": {"call_id": CALL_ID}})


@dataclass
class Peer:
    """A connection as the server sees it."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[bytes]

    async def request(self) -> bytes:
        """The next request, whole; IncompleteReadError where none comes any more."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        request = head + await self.reader.readexactly(int(length[1]) if length else 0)
        self.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer_all(self) -> None:
        """Answer every request with the connection's number as its data."""
        while True:
            await self.request()
            await self.send(answer(200, {"message": "", "data": self.number}))

    @property
    def gone(self) -> bool:
        """Whether the client has closed it, one way or the other."""
        return self.reader.at_eof() or self.reader.exception() is not None

    def reset(self) -> None:
        """Close with a RST."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort(self.writer.transport)


@dataclass
class RawServer:
    """A server that does what a script says, and what it has seen."""

    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    refuse: Callable[[], None] = lambda: None


@contextlib.asynccontextmanager
async def raw_server(
    script: Callable[[Peer], Awaitable[None]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Run ``script`` for every connection to a loopback port; its end closes the connection.

    Whatever is done inside ends within ``PATIENCE``.
    """
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(peer: Peer) -> None:
        gone = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)
        try:
            with contextlib.suppress(*gone):
                await script(peer)
        finally:
            peer.writer.close()
            with contextlib.suppress(*gone):
                await peer.writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not listener.is_serving():
            abort(writer.transport)
            return
        peer = Peer(len(server.peers), reader, writer, server.requests)
        server.peers.append(peer)
        task = asyncio.ensure_future(serve(peer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, backlog=512)
    server.refuse = listener.close
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(PATIENCE):
            yield server
    finally:
        listener.close()
        await steps(5)  # what has been accepted arrives
        for peer in server.peers:
            abort(peer.writer.transport)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(*names: str) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of ``authority()``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    return context


def ca_file(directory: Path) -> str:
    """A file with the certificate of ``authority()``."""
    path = directory / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


class CountingSandbox(Sandbox):
    """A sandbox that keeps every request of the API: method, path, key."""

    url = ""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[tuple[str, str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = dict(scope["headers"]).get(b"x-api-key", b"").decode()
        self.seen.append((scope["method"], scope["path"], key))
        await super().__call__(scope, receive, send)

    def count(self, method: str, path: str = "") -> int:
        """How many requests there were with ``method`` and a path that starts with ``path``."""
        return sum(m == method and p.startswith(path) for m, p, _ in self.seen)


@contextlib.asynccontextmanager
async def sandbox(
    key: str = KEY, port: int = 0, **behaviour: Any
) -> AsyncIterator[CountingSandbox]:
    """A sandbox on a loopback port, which behaves like this at first, for ``PATIENCE`` at most."""
    emulator = CountingSandbox(key, Behaviour.model_validate(behaviour))
    async with serving(emulator, Address("127.0.0.1", port)) as url, asyncio.timeout(PATIENCE):
        emulator.url = url
        yield emulator


def config(url: str, *names: str, **api: Any) -> Config:
    """A configuration for the API at ``url``; ``api`` may go below what a file may say."""
    accounts = {name: Account(key_env="UNUSED") for name in names or ("default",)}
    without_page = Status.model_validate({"listen": "off"})
    wanted = Api(base_url=url, warm=0).model_copy(update=api)
    return Config(accounts=accounts, api=wanted, status=without_page)


class _Unhurried(selectors.SelectSelector):
    """Moves a clock forward instead of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and for nothing that will come"
        self._clock.advance(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on whose clock time passes at once, where nothing is left to do but to wait."""

    def __init__(self) -> None:
        self.time = Clock()  # type: ignore[method-assign]
        super().__init__(_Unhurried(self.time))


def at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` on a loop of virtual time; it leaves no task and no timer behind."""

    async def whole() -> Result:
        result = await work
        await steps(5)
        loop = asyncio.get_running_loop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(whole())
