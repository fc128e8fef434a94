"""A call through a copy of what Asterisk has loaded, whose trunk is our own listener.

The copy stands in contexts of its own, put in over the manager and taken out again; nothing but
the proof leads there. What it may do is listed below, and anything else is not copied: what the
proof does not know could dial.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..config import Trunk as TrunkSection
from ..config_types import Address
from ..errors import CommandFailed, SwitchError
from . import asterisk_dialplan as plans
from .asterisk import Manager
from .asterisk_dialplan import Dialplan, Line

#: The contexts of the copy: the same names, with this before them.
_PROVE = "rounded-prove"
#: What a call into the copy enters by, and whom it asks for after a Gosub that came back.
ENTRY, BACK, FALLBACK = f"{_PROVE}-in", "rounded-back", "rounded-fallback"

_HARMLESS = {"gosub", "return", "stackpop", "hangup", "ringing", "sipaddheader"}
_SETS = re.compile(
    r"(?:LOCAL\()?(?:rounded_\w+|AGIEXITONHANGUP)\)?=|TIMEOUT\(absolute\)=|ROUNDED_\w+=|"
    r"PJSIP_HEADER\(add,X-Rounded-Call-Id\)=|CDR\(rounded_call_id\)="
)
_NAME = re.compile(r"(?<![\w-])rounded-(?=(?:call|goto|stage|header|from-agent)(?![\w-]))")
_AGI = re.compile(r"agi://[0-9.]+:[0-9]+/stage\?")
_COPIED = tuple(name for name in plans.OURS if name != plans.FROM_AGENT)


class CannotProve(SwitchError):
    """The dialplan does what a proof cannot copy safely; the message says what."""


def copy(
    live: Dialplan, trunk: TrunkSection, listener: Address, daemon: Address | None
) -> list[Line]:
    """The copy's lines.

    Args:
        live: what is loaded.
        trunk: the trunk whose name the dialplan dials.
        listener: where every call goes instead.
        daemon: where the dialplan asks instead; None to leave it.

    Raises:
        CannotProve: a line does what is not known here.
    """
    here = [line for line in live.lines if line.context in _COPIED]
    sip = any(line.application == "Dial" and line.data.startswith("SIP/") for line in here)
    copier = _Copier(trunk, listener, daemon, sip)
    for context, other in live.includes:
        if context in _COPIED:
            raise CannotProve(f"{context} includes {other}")
    lines = [
        Line(
            _PROVE + line.context.removeprefix("rounded"),
            line.extension,
            line.priority,
            *copier.copy(line, _labels(here, line)),
        )
        for line in here
    ]
    lines.append(Line(ENTRY, "_[+0-9]!", 1, "Gosub", f"{_PROVE},${{EXTEN}},1"))
    lines.append(Line(ENTRY, "_[+0-9]!", 2, "Dial", f"{copier.dial(BACK)},5"))
    return lines


def _labels(lines: list[Line], of: Line) -> dict[str, int]:
    return {
        line.label: line.priority
        for line in lines
        if line.label and (line.context, line.extension) == (of.context, of.extension)
    }


@dataclass(frozen=True, slots=True)
class _Copier:
    trunk: TrunkSection
    listener: Address
    daemon: Address | None
    sip: bool

    def dial(self, user: str) -> str:
        """The trunk's own way to dial, to our listener."""
        if self.sip:  # the third part is where it is sent, whatever the peer's host is
            return f"SIP/{self.trunk.name}/{user}/{self.listener}"
        return f"PJSIP/{self.trunk.name}/sip:{user}@{self.listener}"

    def copy(self, line: Line, labels: dict[str, int]) -> tuple[str, str]:
        """The application and its data."""
        application, data = line.application, line.data
        known = application.lower()
        if known == "dial":
            way, comma, rest = data.partition(",")
            name = self.trunk.name
            theirs = (
                f"SIP/{name}/${{rounded_did}}" if self.sip else f"PJSIP/${{rounded_did}}@{name}"
            )
            if way == theirs:
                return application, self.dial("${rounded_did}") + comma + _renamed(rest)
        elif known == "agi":
            if _AGI.match(data):
                asked = f"agi://{self.daemon}/stage?" if self.daemon else None
                return application, _AGI.sub(asked, data) if asked else data
        elif known in ("set", "mset"):
            if _SETS.match(data):
                return application, data
        elif known == "goto" and data == "${ROUNDED_FALLBACK}":
            return "Dial", f"{self.dial(FALLBACK)},5"
        elif known in ("goto", "gotoif"):
            return application, _renamed(_without_labels(data, labels))
        elif known in _HARMLESS:
            return application, _renamed(data)
        raise CannotProve(f"{line.place}: {line.text[:120]} is not what a proof can copy")


def _renamed(data: str) -> str:
    return _NAME.sub(f"{_PROVE}-", data)


def _without_labels(data: str, labels: dict[str, int]) -> str:
    """The manager adds no labels: where they are jumped to, their priorities stand instead."""
    for label, priority in labels.items():
        data = re.sub(rf"(^|[?:,]){label}(?=$|:)", rf"\g<1>{priority}", data)
    return data


@contextlib.asynccontextmanager
async def loaded(manager: Manager, lines: list[Line]) -> AsyncIterator[None]:
    """The copy in Asterisk's dialplan, and out of it again."""
    await _take_out(manager, lines)
    try:
        for line in lines:
            await manager.act(
                "DialplanExtensionAdd",
                Context=line.context,
                Extension=line.extension,
                Priority=str(line.priority),
                Application=line.application,
                **({"ApplicationData": line.data} if line.data else {}),
            )
        yield
    finally:
        # What was cut off is taken out by the next proof, or by a dialplan reload.
        await asyncio.shield(_take_out(manager, lines))


async def _take_out(manager: Manager, lines: list[Line]) -> None:
    for context, extension in dict.fromkeys((line.context, line.extension) for line in lines):
        with contextlib.suppress(CommandFailed):  # it is not there
            await manager.act("DialplanExtensionRemove", Context=context, Extension=extension)


async def outbound_proxy(manager: Manager, trunk: TrunkSection) -> str:
    """What keeps the proof from being safe: a proxy would take the call out."""
    try:
        events = await manager.listed("PJSIPShowEndpoint", Endpoint=trunk.name)
    except CommandFailed as error:
        return f"endpoint {trunk.name}: {error}"
    for event in events:
        if event.get("objecttype") == "endpoint" and event.get("outboundproxy"):
            return f"endpoint {trunk.name} has outbound_proxy={event['outboundproxy']}"
        protocol = event.get("protocol", "udp")
        if protocol != "udp":
            return f"endpoint {trunk.name} goes over {protocol}; the proof's listener takes UDP"
    return ""
