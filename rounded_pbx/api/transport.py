"""An httpx transport for one origin whose cost does not grow with the connections it keeps.

httpcore's pool walks all its connections for every request and queues inside it, where a deadline
is found out late. Here idle connections lie on a stack: the last one used is the next one taken,
so that a quiet system uses few and the rest run out, and who waits, waits at a semaphore.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import socket
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
# Where a request keeps the loop's time at which its turn came.
SENT = "rounded_pbx.sent"

#: A peer that has vanished (a failover, a NAT that forgot) says nothing: bytes that it has not
#: acknowledged after 0.7 s break the connection, and one that lies idle is found out in seconds.
_SOCKET_OPTIONS: tuple[httpcore.SOCKET_OPTION, ...] = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 700),
)


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
        if data and not self._owner.answered:
            self._owner.answered = True
            if not data.startswith(b"HTTP/"[: len(data)]):  # the rest of what nobody asked for
                raise httpcore.RemoteProtocolError("the answer does not begin as HTTP does")
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
        self._owner.tls = inner.get_extra_info("ssl_object")
        return _Stream(inner, self._owner)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.AsyncNetworkBackend):
    """anyio's backend: its TLS costs 72 KB a connection where asyncio's own costs 310 KB."""

    def __init__(self, owner: _Connection, proxy: httpx.Proxy | None) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._owner = owner
        self._proxy = proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        proxy = self._proxy
        if proxy is not None:
            host, port = proxy.url.host, proxy.url.port or 8080
        stream = await self._inner.connect_tcp(
            host, port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )
        self._owner.socket = stream
        if proxy is not None:
            await self._tunnel(stream, target, proxy)
        return _Stream(stream, self._owner)

    async def _tunnel(
        self, stream: httpcore.AsyncNetworkStream, target: str, proxy: httpx.Proxy
    ) -> None:
        """Ask an HTTP proxy for a tunnel; until it stands, nothing of a request is sent."""
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.raw_auth is not None:
            word = base64.b64encode(b":".join(proxy.raw_auth)).decode()
            lines.append(f"Proxy-Authorization: Basic {word}")
        await stream.write("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is not ours to read
            byte = await stream.read(1)
            head += byte
            if not byte or len(head) > 16_384:
                raise httpcore.ConnectError("the proxy's answer to CONNECT is none")
        if not re.match(rb"HTTP/1\.[01] 2[0-9][0-9]", head):
            line = head.partition(b"\r\n")[0].decode("ascii", "replace")
            raise httpcore.ConnectError(f"the proxy refuses: {line}")


class _Connection:
    """One connection: what httpcore makes of it, and what a retry needs to know of it."""

    def __init__(
        self,
        origin: httpcore.Origin,
        ssl_context: ssl.SSLContext | None,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        self.answered = False
        self.reused = False
        self.idle_since = 0.0
        self.socket: httpcore.AsyncNetworkStream | None = None  # beneath TLS
        self.tls: ssl.SSLObject | None = None
        self.http = httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=ssl_context,
            network_backend=_Backend(self, proxy),
            socket_options=_SOCKET_OPTIONS,
        )

    async def close(self) -> None:
        """Close the socket itself: httpcore forgets it when it is cancelled in a handshake."""
        if self.socket is not None:
            await self.socket.aclose()

    @property
    def usable(self) -> bool:
        """Whether it is idle and the peer has not closed it."""
        return self.http.is_idle() and not self.http.has_expired() and self._tls_is_silent()

    def _tls_is_silent(self) -> bool:
        """Whether nothing that nobody asked for has come with the last answer, its end included."""
        try:
            if self.tls is not None:
                self.tls.read(1)
            return self.tls is None
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            return False


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """At most ``max_connections`` to one origin, the idle ones kept on a stack.

    A request on a kept connection that the peer closed before a byte of the answer is sent once
    more on a new one: the peer had closed it before it saw the request.
    """

    def __init__(
        self,
        origin: str,
        *,
        ssl_context: ssl.SSLContext | None,
        max_connections: int,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        url = httpcore.URL(origin)
        self._origin = url.origin
        self._ssl_context = ssl_context
        self._proxy = proxy
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
        limit = asyncio.get_running_loop().time() - seconds
        # Calls go on meanwhile: what they have taken, or given back, is not stale any more.
        while excess and self._idle and self._idle[0].idle_since <= limit:
            excess -= 1
            await self._idle.popleft().close()
        for connection in [c for c in self._idle if not c.usable]:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
                await connection.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its ``CONNECTION`` extension may say on which connection."""
        await self._slots.acquire()
        request.extensions[SENT] = asyncio.get_running_loop().time()
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
            return await self._send(self._new(), request)
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
        return self._new()

    def _new(self) -> _Connection:
        return _Connection(self._origin, self._ssl_context, self._proxy)

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
