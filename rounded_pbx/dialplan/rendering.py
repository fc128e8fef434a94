"""Config -> what each flavour of PBX is given, or what keeps it from being written."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from . import asterisk, freeswitch
from .facts import gather
from .flavours import Flavour

_WRITERS = {
    Flavour.ASTERISK: ("asterisk", asterisk.pjsip),
    Flavour.ASTERISK_CHAN_SIP: ("asterisk", asterisk.chan_sip),
    Flavour.FREEPBX: ("asterisk", asterisk.freepbx),
    Flavour.FREESWITCH: ("freeswitch", freeswitch.freeswitch),
    Flavour.FUSIONPBX: ("freeswitch", freeswitch.fusionpbx),
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Texts by their names, in the order in which they are to be written; or problems.

    ``did`` is one of the DIDs, for an example.
    """

    files: dict[str, str]
    problems: tuple[str, ...] = ()
    did: str = ""


def render(flavour: Flavour, config: Config) -> Rendered:
    """The dialplan for a flavour of PBX. No text of it has a date or a path of this machine."""
    switch, write = _WRITERS[flavour]
    facts, problems = gather(config, switch)
    return Rendered({}, problems) if facts is None else Rendered(write(facts), did=facts.did)
