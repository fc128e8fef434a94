"""What both servers share: who may connect, how many, for how long, and how it all ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from ..call import mask_numbers
from ..config_types import Address, Network
from ..errors import SwitchError
from ..protocol.dialplan import Inputs

log = logging.getLogger(__name__)

#: Seconds of a session's deadline that are kept for the replies.
REPLY_TIME = 0.1

#: Passes of the loop from accept() to a session's first step, and some more.
PASSES = 8
#: Connections that wait to be accepted.
BACKLOG = 1024
#: Where tcpi_last_data_recv, in milliseconds, stands in a tcp_info.
LAST_DATA_RECEIVED = 52

#: One session: the reader, the writer, and the loop's times of its accept and of its deadline.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, float, float], Awaitable[None]]


class Listener:
    """A TCP listener whose sessions cannot harm one another.

    These may be changed, and hold for the connections that come then: ``deadline``, the seconds
    from the moment when a switch connects to the end of its session; ``allow``, the networks that
    may connect; ``max_connections``, beyond which a connection is closed at once. ``refused``
    counts those that were closed at once.

    Args:
        serve: one session; what it raises ends that session only.
        longest_line: bytes that a session reads ahead.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        longest_line: int,
        deadline: float = 0.0,
        allow: Sequence[Network] = (),
        max_connections: int = 0,
    ) -> None:
        self._serve = serve
        self.deadline = deadline
        self.allow = tuple(allow)
        self.max_connections = max_connections
        self.refused = 0
        self._longest_line = longest_line
        self._sessions: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    async def start(self, listen: Address | None, given: socket.socket | None = None) -> Address:
        """Listen, on a socket that listens already where one is ``given``; returns its address."""
        if given is not None:
            where: dict[str, Any] = {"sock": given}
        else:
            assert listen is not None  # noqa: S101 - for the type checker
            where = {"host": listen.host, "port": listen.port}
        # Of a socket that is given, too: asyncio listens anew on it, with a backlog of 100.
        self._server = await asyncio.start_server(
            self._accept, limit=self._longest_line, backlog=BACKLOG, **where
        )
        return Address(*self._server.sockets[0].getsockname()[:2])

    async def close(self, patience: float) -> None:
        """Stop accepting, give the sessions ``patience`` seconds to end, then cancel them."""
        if self._server is not None:
            loop = asyncio.get_running_loop()
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
            # What was accepted already becomes a session first: Server.close() would drop it, by an
            # assertion in Server._attach() (asyncio/base_events.py).
            for _ in range(PASSES):
                await asyncio.sleep(0)
            self._server.close()
        if self._sessions:
            _, late = await asyncio.wait(self._sessions, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waited = _waited(writer.get_extra_info("socket"))
        accepted = asyncio.get_running_loop().time() - waited
        deadline = accepted + self.deadline
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        if task is None or not self._admits(peer):
            self.refused += 1
            writer.transport.abort()
            return
        self._sessions.add(task)
        try:
            async with asyncio.timeout_at(deadline):
                await self._serve(reader, writer, accepted, deadline)
            writer.close()
        except asyncio.CancelledError:  # by close(); this is the task's outermost frame
            log.warning("%s: cut off, the daemon stops", peer)
        except TimeoutError:
            log.warning("%s: the session was not over after %s s", peer, self.deadline)
        except (SwitchError, OSError) as error:
            log.info("%s: %s", peer, error)
        except Exception:
            log.exception("a defect of rounded_pbx in a session with %s", peer)
        finally:
            self._sessions.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    def _admits(self, peer: tuple[str, int] | None) -> bool:
        if peer is None:  # it has gone already
            return False
        if not is_allowed(peer[0], self.allow):
            log.warning("%s: refused: not in allow", peer[0])
            return False
        if len(self._sessions) >= self.max_connections:
            log.warning("%s: refused: %d connections already", peer[0], len(self._sessions))
            return False
        return True


def _waited(connection: socket.socket) -> float:
    """Seconds that a connection lay in the backlog, as while the daemon was being restarted.

    The kernel says how long ago it last heard of the peer, which a switch that waits for us has
    told all that it had to tell (tcp_info, linux/tcp.h); elsewhere we do not know, and say 0.
    """
    if not hasattr(socket, "TCP_INFO"):
        return 0.0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED + 4)
    except OSError:  # it has gone already
        return 0.0
    (milliseconds,) = struct.unpack_from("=I", info, LAST_DATA_RECEIVED)
    return float(milliseconds) / 1000


def is_allowed(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; an IPv4 peer of an IPv6 socket is IPv4."""
    address = _address(host)
    return any(address in network for network in networks)


@lru_cache(maxsize=256)  # those who may connect are few, and come with every call
def _address(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def defect() -> str:
    """Logs the exception at hand; what the dialplan is told of it."""
    log.exception("a defect of rounded_pbx; the call goes on without a staging")
    return "a defect of rounded_pbx: see its log"


def warn_of_ignored(inputs: Inputs) -> None:
    """The log tells an admin of an input that means nothing, as a misspelt one."""
    if inputs.ignored:
        log.warning("inputs that mean nothing: %s", mask_numbers(", ".join(inputs.ignored)))
