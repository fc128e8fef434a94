"""An httpx transport for one origin whose cost does not grow with the connections it keeps.

httpcore's pool walks all its connections for every request and queues inside it, where a deadline
is found out late. Here idle connections lie on a stack: the last one used is the next one taken,
so that a quiet system uses few and the rest run out, and who waits, waits at a semaphore.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import httpcore
import httpx

# The request extension that says which connection to take, and its values.
CONNECTION = "rounded_pbx.connection"
NEW = "new"
OLDEST = "oldest"


class _Stream(httpcore.AsyncNetworkStream):
    """A network stream that tells its connection when bytes of an answer came.

    httpcore writes a request's head and its body one by one; kept until it reads, they are one
    TLS record and one segment.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream, owner: _Connection) -> None:
        self._inner = inner
        self._owner = owner
        self._unsent = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            # A peer that closes early may have answered first: as httpcore does, see what is there.
            with contextlib.suppress(httpcore.WriteError):
                await self._inner.write(unsent, timeout)
        data = await self._inner.read(max_bytes, timeout)
        self._owner.answered = self._owner.answered or bool(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent += buffer

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        inner = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(inner, self._owner)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.AsyncNetworkBackend):
    """anyio's backend: its TLS costs 72 KB a connection where asyncio's own costs 310 KB."""

    def __init__(self, owner: _Connection) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._owner = owner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(
            host, port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )
        self._owner.socket = stream
        return _Stream(stream, self._owner)


class _Connection:
    """One connection: what httpcore makes of it, and what a retry needs to know of it."""

    def __init__(self, origin: httpcore.Origin, ssl_context: ssl.SSLContext | None) -> None:
        self.answered = False
        self.reused = False
        self.idle_since = 0.0
        self.socket: httpcore.AsyncNetworkStream | None = None  # beneath TLS
        self.http = httpcore.AsyncHTTPConnection(
            origin, ssl_context=ssl_context, network_backend=_Backend(self)
        )

    async def close(self) -> None:
        """Close the socket itself: httpcore forgets it when it is cancelled in a handshake."""
        if self.socket is not None:
            await self.socket.aclose()

    @property
    def usable(self) -> bool:
        """Whether it is idle and the peer has not closed it."""
        return self.http.is_idle() and not self.http.has_expired()


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """At most ``max_connections`` to one origin, the idle ones kept on a stack.

    A request on a kept connection that the peer closed before a byte of the answer is sent once
    more on a new one: the peer had closed it before it saw the request.
    """

    def __init__(
        self, origin: str, *, ssl_context: ssl.SSLContext | None, max_connections: int
    ) -> None:
        url = httpcore.URL(origin)
        self._origin = url.origin
        self._ssl_context = ssl_context
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: deque[_Connection] = deque()
        self._busy = 0
        self._max_connections = max_connections
        self._is_closed = False

    @property
    def open_connections(self) -> int:
        """How many connections there are, busy or idle."""
        return self._busy + len(self._idle)

    def idle_for(self, seconds: float) -> int:
        """How many connections have been idle for at least ``seconds``."""
        limit = asyncio.get_running_loop().time() - seconds
        return sum(connection.idle_since <= limit for connection in self._idle)

    async def close_idle(self, *, keep: int, seconds: float) -> None:
        """Close what the peer has closed, and what is idle for ``seconds`` beyond ``keep``."""
        excess = min(self.idle_for(seconds), max(0, self.open_connections - keep))
        for _ in range(excess):
            await self._idle.popleft().close()
        for connection in [c for c in self._idle if not c.usable]:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
                await connection.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its ``CONNECTION`` extension may say on which connection."""
        await self._slots.acquire()
        self._busy += 1
        try:
            connection = await self._take(request.extensions.get(CONNECTION))
            response = await self._send(connection, request)
        except BaseException:
            self._release()
            raise
        return response

    async def _send(self, connection: _Connection, request: httpx.Request) -> httpx.Response:
        connection.answered = False
        try:
            response = await connection.http.handle_async_request(_to_httpcore(request))
            if not connection.answered:  # it stood in the buffer: it answers an earlier request
                raise httpcore.RemoteProtocolError("an answer came before the request")
        except BaseException as error:
            await connection.close()
            closed_before = isinstance(error, httpcore.NetworkError | httpcore.RemoteProtocolError)
            if closed_before and connection.reused and not connection.answered:
                return await self._send_again(request, error)
            raise _to_httpx(error) from error
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(self, connection, response),
            extensions=response.extensions,
        )

    async def _send_again(self, request: httpx.Request, first: BaseException) -> httpx.Response:
        try:
            return await self._send(_Connection(self._origin, self._ssl_context), request)
        except httpx.ConnectError as second:
            # The peer may have read the first one: this is not the harmless failure it looks like.
            raise httpx.ReadError(f"{first}; then {second}") from second

    async def _take(self, which: str | None) -> _Connection:
        while self._idle and which != NEW:
            connection = self._idle.popleft() if which == OLDEST else self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
            await connection.close()
        while self._idle and self.open_connections > self._max_connections:
            await self._idle.popleft().close()
        return _Connection(self._origin, self._ssl_context)

    def _release(self) -> None:
        self._busy -= 1
        self._slots.release()

    async def give_back(self, connection: _Connection) -> None:
        """The answer has been read, or given up: keep the connection if it can be used again."""
        self._release()
        if connection.http.is_idle() and not self._is_closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            await connection.close()

    async def aclose(self) -> None:
        """Close the idle connections; a busy one closes with its answer."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().close()


class _Body(httpx.AsyncByteStream):
    """The answer's body; closing it gives the connection back."""

    def __init__(
        self, transport: KeepAliveTransport, connection: _Connection, response: httpcore.Response
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._response = response
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, AsyncIterable)  # noqa: S101 - for the type checker
        try:
            async for part in self._response.stream:
                yield part
        except Exception as error:
            raise _to_httpx(error) from error

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._response.aclose()
            finally:
                await self._transport.give_back(self._connection)


def _to_httpcore(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _to_httpx(error: BaseException) -> BaseException:
    """httpx names its transport errors as httpcore does; TLS that breaks later comes as it is."""
    if isinstance(error, ssl.SSLError):
        return httpx.ReadError(str(error))
    if isinstance(
        error, httpcore.ProtocolError | httpcore.NetworkError | httpcore.TimeoutException
    ):
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        return kind(str(error))
    return error
