"""What a dialplan is written from: the configuration, as one switch needs it."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config, Trunk
from ..config_types import Listening

# Sections of sip.conf that no peer can be named by.
_SIPS_OWN = ("general", "authentication")


@dataclass(frozen=True, slots=True)
class Preset:
    """What a DID does when the daemon does not answer; a DID that ends in ``*`` is a prefix."""

    did: str
    next: str
    fallback: str

    @property
    def prefix(self) -> str | None:
        """The digits that every number of it begins with; None for one exact number."""
        return self.did[:-1] if self.did.endswith("*") else None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the templates say. ``deadline`` is in seconds, ``transfers`` are (number, target)."""

    presets: tuple[Preset, ...]
    trunk: Trunk
    address: str
    deadline: float
    ringback: bool
    transfers: tuple[tuple[str, str], ...]

    @property
    def did(self) -> str:
        """One of the DIDs, for an example: an exact one, or one that a prefix takes."""
        exact = (preset.did for preset in self.presets if preset.prefix is None)
        return next(exact, self.presets[0].did.replace("*", "1234"))

    @property
    def asterisk_cap(self) -> str:
        """Seconds after which Asterisk goes on without the daemon."""
        return f"{self.deadline + 0.5:g}"

    @property
    def freeswitch_cap(self) -> int:
        """The same for FreeSWITCH: whole seconds, and its scheduler fires up to one early."""
        return math.ceil(self.deadline + 0.5) + 1


def gather(config: Config, switch: str) -> tuple[Facts | None, tuple[str, ...]]:
    """The facts for ``asterisk`` or ``freeswitch``; or what keeps a dialplan from being written."""
    problems = []
    listening: Listening = (
        config.asterisk.fastagi if switch == "asterisk" else config.freeswitch.outbound
    )
    address, problem = _address(switch, listening)
    problems += [problem] if problem else []
    if config.trunk is None:
        problems.append("trunk is missing: expected trunk: {host: the platform's SIP address}")
    presets = tuple(
        Preset(did, route.on_failure.value, _target(route.fallback, switch))
        for route in config.route_table()
        for did in dict.fromkeys(route.dids)  # a number may be written in two ways
    )
    if not presets:
        problems.append("no route has a did, so no call could reach an agent")
    if switch == "asterisk":
        if config.trunk and config.trunk.name in _SIPS_OWN:
            problems.append(
                f"trunk.name is {config.trunk.name}: a section of the admin's in sip.conf"
            )
        problems += [
            f"did {preset.did}: expected digits and a plus: Asterisk's dialplan takes no others"
            for preset in presets
            if not re.fullmatch(r"\+?[0-9]*\*?", preset.did)
        ]
    if problems or config.trunk is None:
        return None, tuple(problems)
    transfers = [
        (number, target.asterisk if switch == "asterisk" else target.freeswitch)
        for number, target in config.trunk.transfers.items()
    ]
    return Facts(
        presets,
        config.trunk,
        address,
        config.calls.deadline,
        config.calls.ringback,
        tuple((number, target) for number, target in transfers if target),
    ), ()


def _target(fallback: Mapping[Any, str], switch: str) -> str:
    return next((target for name, target in fallback.items() if name == switch), "")


def _address(switch: str, listening: Listening) -> tuple[str, str | None]:
    """Where the dialplan finds the daemon; and why it cannot."""
    name = "asterisk.fastagi.listen" if switch == "asterisk" else "freeswitch.outbound.listen"
    if listening.listen is None:
        return "", f"{name} is off, so there is nothing that the dialplan could ask"
    host = ipaddress.ip_address(listening.listen.host)
    if host == ipaddress.ip_address("0.0.0.0"):  # and not ::, which asyncio opens for IPv6 alone
        host = ipaddress.ip_address("127.0.0.1")
    if host.version != 4 or not host.is_loopback:
        return "", (
            f"{name} is {listening.listen}: expected 127.0.0.1, where a daemon that is down "
            "refuses at once. No cap of a dialplan ends a switch's wait for a remote address "
            "that does not answer; let a TCP balancer on 127.0.0.1 lead there"
        )
    return f"{host}:{listening.listen.port}", None
