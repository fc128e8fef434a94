"""Server-sent events: what happens is put into bytes once, and every viewer gets the same ones.

A viewer that is slow skips messages and is then told all anew, so nothing waits for it but one
message.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .door import ANSWER_TIME, MOST_OF_ONE, Connection, peer_of
from .messages import Teller, Told

log = logging.getLogger(__name__)

MOST_VIEWERS = 50
#: Of one address: its other connections are for the page, and for whoever asks how we are.
VIEWERS_OF_ONE = MOST_OF_ONE - 8
#: Seconds between two messages, and the longest time without one.
PERIOD, QUIET = 1.5, 10.0
#: Milliseconds that a browser waits before it comes again.
RETRY = b"retry: 2000\n\n"


class _Viewer:
    def __init__(self, connection: Connection) -> None:
        self.wake = asyncio.Event()
        self.connection = connection
        connection.gone.add_done_callback(lambda gone: self.wake.set())


class Events:
    """The viewers, and what they are told."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._viewers: set[_Viewer] = set()
        self._telling: asyncio.Task[None] | None = None
        self._number = 0
        self._told: Told | None = None
        self._update = b""
        self._snapshot = b""
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    def response(self, connection: Connection) -> Response:
        """The stream for one more viewer."""
        peer = peer_of(connection.host)
        of_one = sum(peer_of(viewer.connection.host) == peer for viewer in self._viewers)
        if of_one >= VIEWERS_OF_ONE or len(self._viewers) >= MOST_VIEWERS or self._closed:
            return Response("Too many viewers\n", 503, {"retry-after": "30"}, "text/plain")
        return _Stream(self)

    async def follow(self, connection: Connection, send: Send) -> None:
        """Tell a viewer what happens, until it leaves or ``close``."""
        viewer, seen = _Viewer(connection), -1
        self._viewers.add(viewer)
        connection.go_on()
        try:
            if self._telling is None and not self._closed:
                self._turn(self._teller.now())
                self._telling = asyncio.ensure_future(self._tell())
            await _send(send, RETRY)
            while not (connection.gone.done() or self._closed):
                if seen == self._number:
                    viewer.wake.clear()
                    await viewer.wake.wait()
                    continue
                missed, seen = self._number - seen, self._number
                await _send(send, self._update if missed == 1 else self._whole())
        finally:
            self._viewers.discard(viewer)
            if not connection.gone.done():
                connection.end_within(ANSWER_TIME)

    async def close(self) -> None:
        """End every stream now."""
        self._closed = True
        telling = self._telling
        if telling is not None:
            telling.cancel()
            await asyncio.wait([telling])
        self._wake()

    async def _tell(self) -> None:
        """Tell them what is new, while there is anybody."""
        clock = asyncio.get_running_loop().time
        told_at = clock()
        try:
            while self._viewers:
                await asyncio.sleep(PERIOD)
                now = self._teller.now()
                if now != self._told or clock() >= told_at + QUIET:
                    told_at = clock()
                    self._turn(now)
                    self._wake()
        except Exception:  # nobody is left waiting for ever: they come again
            log.exception("a defect of rounded_pbx in the status page")
            for viewer in self._viewers:
                viewer.connection.end_within(0)
        finally:
            self._telling = self._told = None

    def _turn(self, now: Told) -> None:
        before = self._told
        self._told, self._snapshot = now, b""
        self._update = self._teller.update(before, now) if before is not None else b""
        self._number += 1

    def _whole(self) -> bytes:
        assert self._told is not None  # noqa: S101 - there is a viewer
        self._snapshot = self._snapshot or self._teller.snapshot(self._told)
        return self._snapshot

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.wake.set()


class _Stream(Response):
    media_type = "text/event-stream"

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        if scope["method"] != "HEAD":
            await self._events.follow(scope["state"]["connection"], send)
        await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    message: dict[str, Any] = {"type": "http.response.body", "body": body, "more_body": more}
    await send(message)
