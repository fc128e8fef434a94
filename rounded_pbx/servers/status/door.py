"""The door of the status page: who may connect, how many, and for how long.

Connections are few, and one that asks nothing, or does not take what it is answered, ends soon: no
stranger can use up the files that calls need.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...config_status import STATUS_CONNECTIONS
from ...config_types import Network
from ..listener import is_allowed

log = logging.getLogger(__name__)

#: Connections of one address at any time.
MOST_OF_ONE = STATUS_CONNECTIONS // 2
#: Seconds for a request to be there, and for its answer to be taken.
REQUEST_TIME, ANSWER_TIME = 10.0, 30.0
#: Seconds between two log lines that tell of refused connections.
TOLD_EVERY = 60.0


def peer_of(host: str) -> str:
    """Who an address is counted as: an IPv6 network of 64 bits is one, as anybody has one whole."""
    address = ip_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))


class Door:
    """Lets connections in, and counts them."""

    def __init__(
        self, allow: Sequence[Network], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused = 0
        self.connections: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._allow = tuple(allow)
        self._clock = clock
        self._told_at = float("-inf")

    def admit(self, connection: Connection, host: str) -> bool:
        """Whether a connection may stay; then it must ``leave``."""
        why = ""
        if not is_allowed(host, self._allow):
            why = "not in status.allow"
        elif (
            len(self.connections) >= STATUS_CONNECTIONS or self._peers[peer_of(host)] >= MOST_OF_ONE
        ):
            why = "too many connections"
        if why:
            self._refuse(host, why)
            return False
        self.connections.add(connection)
        self._peers[peer_of(host)] += 1
        return True

    def leave(self, connection: Connection, host: str) -> None:
        """A connection that was admitted has ended."""
        self.connections.discard(connection)
        peer = peer_of(host)
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def _refuse(self, host: str, why: str) -> None:
        self.refused += 1
        if self._clock() >= self._told_at + TOLD_EVERY:
            self._told_at = self._clock()
            log.warning("status page: %s: refused: %s; so far: %d", host, why, self.refused)


class Connection(H11Protocol):
    """One connection, for one request; the application has it as ``scope["state"]["connection"]``.

    ``gone`` is done once it is lost. ``host`` is its peer's address, known even where the peer has
    left before its request was read.
    """

    def __init__(self, door: Door, config: uvicorn.Config, state: ServerState) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(config, state, {"connection": self}, loop)
        self.gone: asyncio.Future[None] = loop.create_future()
        self._door = door
        self.host = ""
        self._limit: asyncio.TimerHandle | None = None
        self._endless = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        peer = transport.get_extra_info("peername")
        if peer is None or not self._door.admit(self, peer[0]):
            transport.abort()
            return
        self.host = peer[0]
        super().connection_made(transport)
        self.end_within(REQUEST_TIME)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            super().data_received(data)
        except h11.ProtocolError:  # junk while it is being answered
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self.host:
            self._door.leave(self, self.host)
            self._cancel()
            super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        """Called by asyncio: the peer does not take what it is sent."""
        super().pause_writing()
        self._cancel()
        self._limit = self.loop.call_later(ANSWER_TIME, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by asyncio: it takes it again."""
        if self._endless:
            self._cancel()
        super().resume_writing()

    def end_within(self, seconds: float) -> None:
        """End it in so many seconds, whatever it does."""
        self._endless = False
        self._cancel()
        self._limit = self.loop.call_later(seconds, self.transport.abort)

    def go_on(self) -> None:
        """Let it last for as long as its peer takes what it is sent."""
        self._cancel()
        self._endless = True

    def _cancel(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
