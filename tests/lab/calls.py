"""What the tests of both switches share: one call after another, and what was seen of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rounded_pbx.config_types import Address

from . import asterisk as addresses
from . import sipp
from .daemon import SandboxThread
from .processes import wait_until
from .sipp import Message, Sipp

TRUNK = (addresses.TRUNK, addresses.TRUNK_PORT)
PHONE = (addresses.PHONE, addresses.PHONE_PORT)
CALLER = (addresses.CALLER, addresses.CALLER_PORT)
HEADER = "X-Rounded-Call-Id"
#: What a noisy machine may add to the seconds that a test expects.
NOISE = 0.8


class Switch(Protocol):
    """A real switch, and what the tests read of it."""

    version: int
    #: Where its dialplan asks, the seconds of its cap, and how early that may fire.
    asks: Address
    cap: float
    earliest: float
    #: What its CDRs say of a call that was answered.
    answered: str

    def notices(self, since: int = 0) -> list[str]: ...
    def position(self) -> int: ...
    def channels(self) -> int: ...
    def cli(self, command: str) -> str: ...
    def cdr(self) -> list[str]: ...


@dataclass
class Lab:
    switch: Switch
    api: SandboxThread
    directory: Path
    trunk: Sipp
    phone: Sipp
    log_start: int

    def call(self, scenario: str | None = None, *options: str, limit: float = 40) -> list[Message]:
        """Place a call with SIPp, wait until it is over, and return what the caller saw."""
        with self.dialling(scenario or sipp.caller(), *options) as caller:
            caller.wait(limit)
            messages = caller.messages()
        settle(self.switch)
        return messages

    @contextlib.contextmanager
    def dialling(self, scenario: str, *options: str) -> Iterator[Sipp]:
        options = options or ("-m", "1")
        pbx = f"{addresses.PBX}:5060"
        with sipp.sipp(self.directory, "caller", scenario, CALLER, pbx, *options) as caller:
            yield caller

    def notices(self, start: str) -> list[str]:
        """What the admin's own dialplan logged during this test."""
        return [line for line in self.switch.notices(self.log_start) if line.startswith(start)]


@contextlib.contextmanager
def laboratory(switch: Switch, api: SandboxThread, directory: Path) -> Iterator[Lab]:
    """A switch, the API, a trunk that answers and a phone that answers. No daemon."""
    with (
        sipp.sipp(directory, "trunk", sipp.callee(), TRUNK) as trunk,
        sipp.sipp(directory, "phone", sipp.callee(), PHONE) as phone,
    ):
        wait_until(lambda: trunk.ready() and phone.ready(), "SIPp to listen")
        yield Lab(switch, api, directory, trunk, phone, switch.position())
    settle(switch)


def wait_of(messages: list[Message], invite: Message) -> float:
    """Seconds from the caller's INVITE to the INVITE that the switch sent."""
    first = next(m for m in messages if m.sent and m.first_line.startswith("INVITE"))
    return invite.at - first.at


def ids(invites: list[Message]) -> list[list[str]]:
    """The header of each INVITE: a list, since there must be neither two nor an empty one."""
    return [invite.headers(HEADER) for invite in invites]


def settle(switch: Switch, limit: float = 10.0) -> None:
    """Wait until no call is left."""
    wait_until(lambda: switch.channels() == 0, "the channels to end", limit)
    time.sleep(0.05)


@contextlib.contextmanager
def in_place_of_the_daemon(
    address: Address, behave: Callable[[socket.socket], None]
) -> Iterator[None]:
    """Something on the daemon's port that is no daemon."""
    with socket.create_server((address.host, address.port)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    behave(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
