"""A call through a copy of what Asterisk has loaded, whose trunk is our own listener.

The copy stands in contexts of its own, put in over the manager and taken out again; nothing but
the proof leads there. Only lines of ours are copied, as we would write them now: what an admin has
added or changed could dial. How the agent's header is put on is the exception, as that is what is
to be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import Trunk as TrunkSection
from ..config_types import Address
from ..dialplan.flavours import Flavour
from ..dialplan.rendering import render
from ..errors import CommandFailed, NoPermission, SwitchError, SwitchUnreachable
from . import asterisk_dialplan as plans
from .asterisk import Manager, read_dialplan, read_endpoint
from .asterisk_dialplan import Dialplan, Line
from .listener import Trunk
from .proof import BACK, FALLBACK, CannotProve, ProofCall

if TYPE_CHECKING:
    from ..control.asterisk import Asterisk

#: The contexts of the copy: the same names, with this before them.
_PROVE = "rounded-prove"
#: What a call into the copy enters by.
ENTRY = f"{_PROVE}-in"

_NAME = re.compile(r"(?<![\w-])rounded-(?=(?:call|goto|stage|header|from-agent)(?![\w-]))")
_AGI = re.compile(r"agi://[0-9.]+:[0-9]+(?=/)")
#: What may differ of a Dial: single letters, and the handler of the header on whichever leg.
_OPTIONS = re.compile(r",\$\{rounded_ring\},[A-Za-z]*(?:\(rounded-header\^s\^1\([^()]*\)\))?")


def copy(
    live: Dialplan,
    expected: Dialplan,
    trunk: TrunkSection,
    listener: Address,
    daemon: Address | None,
) -> list[Line]:
    """The copy's lines.

    Args:
        live: what is loaded.
        expected: what we would write.
        trunk: the trunk whose name the dialplan dials.
        listener: where every call goes instead.
        daemon: where the dialplan asks instead; None to leave it.

    Raises:
        CannotProve: a line is not ours.
    """
    here = [line for line in live.lines if line.context in plans.STRAIGHT]
    copier = _Copier(trunk, listener, daemon, plans.dials_over_chan_sip(live))
    for difference in plans.compared(expected, live, plans.STRAIGHT):
        if difference.live is None or not copier.is_dial(difference.live):
            raise CannotProve(f"{difference.text}: only what we have written is rehearsed")
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

    @property
    def _theirs(self) -> str:
        """What stands in the dialplan for it."""
        name = self.trunk.name
        return f"SIP/{name}/${{rounded_did}}" if self.sip else f"PJSIP/${{rounded_did}}@{name}"

    def is_dial(self, line: Line) -> bool:
        """Whether a line dials the trunk, and does nothing else that could lead anywhere."""
        way, options = line.data[: len(self._theirs)], line.data[len(self._theirs) :]
        return (
            line.application == "Dial"
            and way == self._theirs
            and _OPTIONS.fullmatch(options) is not None
        )

    def copy(self, line: Line, labels: dict[str, int]) -> tuple[str, str]:
        """The application and its data; of lines that are ours."""
        application, data = line.application, line.data
        if application == "Dial":
            if not self.is_dial(line):
                raise CannotProve(f"{line.place}: {line.text} does not dial {self._theirs}")
            return application, self.dial("${rounded_did}") + _renamed(data[len(self._theirs) :])
        if application == "AGI" and self.daemon is not None:
            return application, _AGI.sub(f"agi://{self.daemon}", data)
        if application == "Goto" and data == "${ROUNDED_FALLBACK}":
            return "Dial", f"{self.dial(FALLBACK)},5"
        if application in ("Goto", "GotoIf"):
            data = _without_labels(data, labels)
        return application, _renamed(data)


def _renamed(data: str) -> str:
    return _NAME.sub(f"{_PROVE}-", data)


def _without_labels(data: str, labels: dict[str, int]) -> str:
    """The manager adds no labels: where they are jumped to, their priorities stand instead."""
    for label, priority in labels.items():
        data = re.sub(rf"(^|[?:,]){label}(?=$|:)", rf"\g<1>{priority}", data)
    return data


@contextlib.asynccontextmanager
async def loaded(manager: Manager, lines: list[Line], live: Dialplan) -> AsyncIterator[None]:
    """The copy in Asterisk's dialplan, and out of it again; before, what a killed proof left."""
    await _take_out(manager, [line for line in live.lines if line.context.startswith(_PROVE)])
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
        try:
            await asyncio.shield(_take_out(manager, lines))
        except SwitchError as error:
            left = f"the contexts {_PROVE}-… were not taken out: dialplan reload does it"
            raise SwitchUnreachable(f"{error}; {left}") from None


async def _take_out(manager: Manager, lines: list[Line]) -> None:
    for context, extension in dict.fromkeys((line.context, line.extension) for line in lines):
        with contextlib.suppress(CommandFailed):  # it is not there
            await manager.act("DialplanExtensionRemove", Context=context, Extension=extension)


async def outbound_proxy(manager: Manager, trunk: TrunkSection) -> str:
    """What keeps the proof from being safe: a proxy would take the call out."""
    try:
        endpoint, events = await read_endpoint(manager, trunk.name)
    except CommandFailed as error:
        return f"endpoint {trunk.name}: {error}"
    if endpoint.get("outboundproxy"):
        return f"endpoint {trunk.name} has outbound_proxy={endpoint['outboundproxy']}"
    protocol = next((e["protocol"] for e in events if e.get("protocol")), "udp")
    if protocol != "udp":
        return f"endpoint {trunk.name} goes over {protocol}; the proof's listener takes UDP"
    return ""


async def rehearse(
    manager: Asterisk, call: ProofCall, listener: Trunk, daemon: Address | None
) -> None:
    """One call through a copy, which ends at our listener.

    Raises:
        CannotProve: what is loaded cannot be copied safely.
        SwitchError: Asterisk did not do as it was told.
    """
    section = call.config.trunk
    assert section is not None  # noqa: S101 - a dialplan could be written
    live = await read_dialplan(manager)
    sip = plans.dials_over_chan_sip(live)
    files = render(Flavour.ASTERISK_CHAN_SIP if sip else Flavour.ASTERISK, call.config).files
    text = next(text for name, text in files.items() if name.startswith("extensions"))
    expected = plans.written(text)
    gone = plans.missing(expected, live)
    if gone:
        raise CannotProve(f"not loaded: {', '.join(gone)}")
    lines = copy(live, expected, section, listener.here, daemon)
    if not sip:
        unsafe = await outbound_proxy(manager, section)
        if unsafe:
            raise CannotProve(unsafe)
    async with loaded(manager, lines, live):
        try:
            await manager.originate(call.did, ENTRY, caller=call.caller, seconds=call.patience)
        except NoPermission:
            raise
        except CommandFailed:  # it was not answered: the listener knows
            pass
