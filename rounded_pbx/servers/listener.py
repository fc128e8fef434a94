"""What both servers share: who may connect, how many, for how long, and how it all ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, ip_address

from ..call import mask_numbers
from ..config_types import Address, Network
from ..errors import SwitchError
from ..protocol.dialplan import Inputs

log = logging.getLogger(__name__)

#: Seconds of a session's deadline that are kept for the replies.
REPLY_TIME = 0.1

#: One session: the reader, the writer, and the loop's times of its accept and of its deadline.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, float, float], Awaitable[None]]


class Listener:
    """A TCP listener whose sessions cannot harm one another.

    Args:
        serve: one session; what it raises ends that session only.
        deadline: seconds from accept to the end of a session.
        allow: the networks that may connect; anything else is closed at once.
        max_connections: beyond them, a connection is closed at once.
        longest_line: bytes that a session reads ahead.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        deadline: float,
        allow: Sequence[Network],
        max_connections: int,
        longest_line: int,
    ) -> None:
        self._serve = serve
        self._deadline = deadline
        self._allow = tuple(allow)
        self._max_connections = max_connections
        self._longest_line = longest_line
        #: How many connections were closed at once.
        self.refused = 0
        #: Where it listens; None before and afterwards.
        self.address: Address | None = None
        self._sessions: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    async def start(self, listen: Address) -> Address:
        """Listen; returns the address that was bound, with its port where 0 was asked for."""
        self._server = await asyncio.start_server(
            self._accept, listen.host, listen.port, limit=self._longest_line, backlog=1024
        )
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        return self.address

    async def close(self, patience: float) -> None:
        """Stop accepting, give the sessions ``patience`` seconds to end, then cancel them."""
        self.address = None
        if self._server is not None:
            self._server.close()
        if self._sessions:
            _, late = await asyncio.wait(self._sessions, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = asyncio.get_running_loop().time()
        deadline = accepted + self._deadline
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        if task is None or not self._admits(peer):
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
            log.warning("%s: the session was not over after %s s", peer, self._deadline)
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
        if not is_allowed(peer[0], self._allow):
            self.refused += 1
            log.warning("%s: refused: not in allow", peer[0])
            return False
        if len(self._sessions) >= self._max_connections:
            self.refused += 1
            log.warning("%s: refused: %d connections already", peer[0], len(self._sessions))
            return False
        return True


def is_allowed(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; an IPv4 peer of an IPv6 socket is IPv4."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def defect() -> str:
    """Logs the exception at hand; what the dialplan is told of it."""
    log.exception("a defect of rounded_pbx; the call goes on without a staging")
    return "a defect of rounded_pbx: see its log"


def warn_of_ignored(inputs: Inputs) -> None:
    """The log tells an admin of an input that means nothing, as a misspelt one."""
    if inputs.ignored:
        log.warning("inputs that mean nothing: %s", mask_numbers(", ".join(inputs.ignored)))
