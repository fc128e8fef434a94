"""A SIP listener on loopback that stands in for the trunk, and the daemon that stands in for ours.

Nothing that happens here leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from .. import daemon
from ..call import Switch
from ..config import Config
from ..config_types import Address
from ..sandbox import Behaviour, Sandbox, serving
from ..sip import Callee, SipMessage

HEADER = "X-Rounded-Call-Id"
_KEY = "sandbox"


@dataclass
class Trunk:
    """Where the INVITEs arrive that would have gone out."""

    here: Address
    invites: list[SipMessage]
    asked: asyncio.Event

    async def until_asked(self, seconds: float) -> None:
        """Wait for the first INVITE, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.asked.wait()

    @property
    def user(self) -> str:
        """Whom the first INVITE asked for; nobody without one."""
        first = self.invites[0].first_line if self.invites else ""
        return first.partition("sip:")[2].partition("@")[0]

    @property
    def id(self) -> str:
        """The id on the first INVITE."""
        return self.invites[0].header(HEADER) if self.invites else ""

    @property
    def evidence(self) -> tuple[str, ...]:
        """What of the first INVITE is worth showing."""
        if not self.invites:
            return ()
        first = self.invites[0]
        shown = [f"{name}: {first.header(name)}" for name in ("From", "To") if first.header(name)]
        shown += [f"{HEADER}: {value}" for value in first.all(HEADER)]
        return (first.first_line, *shown)


@contextlib.asynccontextmanager
async def trunk() -> AsyncIterator[Trunk]:
    """A listener that answers every call."""
    invites: list[SipMessage] = []
    asked = asyncio.Event()

    def invited(invite: SipMessage) -> None:
        invites.append(invite)
        asked.set()

    callee = await Callee(invited).listen("127.0.0.1")
    try:
        yield Trunk(callee.here, invites, asked)
    finally:
        callee.close()


class Rehearsal(logging.Handler):
    """A daemon of our own, with the same configuration and an API of its own.

    ``said`` is what it logged, the outcomes of its calls among it.
    """

    def __init__(self, sandbox: Sandbox, address: dict[Switch, Address]) -> None:
        super().__init__(logging.INFO)
        self.address = address
        self.said: list[str] = []
        self._sandbox = sandbox

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was logged."""
        self.said.append(record.getMessage())

    @property
    def staged(self) -> str:
        """The id of the newest call; nothing without one."""
        return next((call.id for call in self._sandbox.calls.newest(1)), "")


@contextlib.asynccontextmanager
async def rehearsal(config: Config) -> AsyncIterator[Rehearsal]:
    """The daemon on free ports of loopback, with the sandbox for its API."""
    anywhere = Address("127.0.0.1", 0)
    sandbox = Sandbox(_KEY, Behaviour(staging_time=0.0))
    async with serving(sandbox, anywhere) as url:
        mine = config.model_copy(
            update={
                "api": type(config.api)(base_url=url, warm=1),
                "accounts": {
                    name: account.model_copy(update={"max_in_flight": None, "rate": None})
                    for name, account in config.accounts.items()
                },
                "prestage": type(config.prestage)(),
                "routes": tuple(
                    route.model_copy(update={"lookup": None}) for route in config.routes
                ),
                "asterisk": config.asterisk.model_copy(
                    update={"fastagi": type(config.asterisk.fastagi)(listen=str(anywhere))}
                ),
                "freeswitch": config.freeswitch.model_copy(
                    update={"outbound": type(config.freeswitch.outbound)(listen=str(anywhere))}
                ),
                "status": type(config.status)(listen="off"),
            }
        )
        async with daemon.running(mine, dict.fromkeys(config.accounts, _KEY)) as running:
            heard = Rehearsal(sandbox, running.addresses)
            log = logging.getLogger("rounded_pbx")
            kept = (log.level, log.propagate)
            log.setLevel(logging.INFO)
            log.propagate = False
            log.addHandler(heard)
            try:
                yield heard
            finally:
                log.removeHandler(heard)
                log.setLevel(kept[0])
                log.propagate = kept[1]


def nobody() -> Address:
    """An address of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(*probe.getsockname())
