"""The HTTP listener of the status page, on the daemon's own event loop.

It is Starlette on uvicorn's protocol. uvicorn's own server would wake the daemon ten times a
second, and takes its time to stop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from uvicorn.server import ServerState

from ...config_status import Status
from ...config_types import Address
from ...watch import Watch
from .door import Connection, Door
from .events import Events
from .facts import Facts
from .gate import Gate
from .messages import Teller
from .page import POLICY, render

#: Bytes of a request's head, and bytes to a peer that the system keeps.
LONGEST_HEAD, SEND_BUFFER = 16384, 262_144
#: Milliseconds after which the system gives up a peer that acknowledges nothing.
UNHEARD = 30_000
#: Seconds between two renderings of the page.
RENDER_EVERY = 1.0
#: Seconds that streams get to end in good order.
PATIENCE = 0.2

#: Of every answer. A connection is for one request: nothing is there to be held open.
HEADERS = {
    "cache-control": "no-store",
    "connection": "close",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatusServer:
    """The status page, ``/healthz``, ``/readyz`` and ``/metrics``.

    Args:
        watch: the calls.
        ready: whether the daemon takes calls.
        metrics: the metrics in Prometheus's text format.
        facts: what is shown beside calls; it is asked often, so it must cost little.

    Raises:
        ValueError: the token cannot be read; the message never repeats it.
    """

    def __init__(
        self,
        section: Status,
        *,
        watch: Watch,
        ready: Callable[[], bool],
        metrics: Callable[[], bytes],
        facts: Callable[[], Facts],
    ) -> None:
        self._section = section
        self._watch = watch
        self._ready = ready
        self._metrics = metrics
        self._teller = Teller(watch, ready, facts)
        self._events = Events(self._teller)
        self._door = Door(section.allow)
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._page = b""
        self._rendered_at = float("-inf")
        token = section.read_token().get_secret_value() if section.has_token else None
        paths = {
            "/": self._index,
            "/events": self._stream,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metered,
        }
        router = Router([Route(*path) for path in paths.items()], redirect_slashes=False)
        self._config = uvicorn.Config(
            Gate(router, frozenset(section.hosts), token),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
        )
        self._config.load()
        self._state.default_headers = [(k.encode(), v.encode()) for k, v in HEADERS.items()]

    @property
    def refused(self) -> int:
        """How many connections were refused at the door."""
        return self._door.refused

    @property
    def viewers(self) -> int:
        """How many follow the page."""
        return len(self._events)

    async def start(self, sock: socket.socket | None = None) -> Address:
        """Listen, on a socket that was handed over or else as configured; returns the address.

        The socket is closed with the listener, and where it cannot be used.

        Raises:
            OSError: the address cannot be had.
            ValueError: the socket is none of TCP, or listens beyond loopback without a token.
        """
        sock = sock or _bound(self._section)
        try:
            address = self._checked(sock)
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._door, self._config, self._state), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        return address

    def _checked(self, sock: socket.socket) -> Address:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError("the socket that was handed over is none of TCP")
        address = Address(*sock.getsockname()[:2])
        if not (self._section.has_token or address.is_loopback):
            raise ValueError(f"{address} is beyond loopback, so it needs a token")
        # What is accepted inherits these.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD)
        return address

    async def close(self) -> None:
        """Stop listening and end whatever there is, at once."""
        if self._server is not None:
            self._server.close()
        await self._events.close()
        gone = [connection.gone for connection in self._door.connections]
        if gone:
            await asyncio.wait(gone, timeout=PATIENCE)
        for connection in [*self._door.connections]:
            connection.transport.abort()
        if left := [*gone, *self._state.tasks]:
            await asyncio.wait(left, timeout=PATIENCE)

    async def _index(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        if now >= self._rendered_at + RENDER_EVERY:
            self._page, self._rendered_at = render(self._watch, self._teller.now()), now
        return Response(self._page, media_type="text/html")

    async def _stream(self, request: Request) -> Response:
        return self._events.response(request.scope["state"]["connection"])

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        ready = self._ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    async def _metered(self, request: Request) -> Response:
        return Response(self._metrics(), headers={"content-type": METRICS_TYPE})


def _bound(section: Status) -> socket.socket:
    assert section.listen is not None  # noqa: S101 - whoever is off is not started
    host, port = section.listen.host, section.listen.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=100)
