"""The flavours of PBX, and what differs between them besides the text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Flavour(StrEnum):
    """A kind of PBX that a dialplan is written for."""

    ASTERISK = "asterisk"
    ASTERISK_CHAN_SIP = "asterisk-chan-sip"
    FREEPBX = "freepbx"
    FREESWITCH = "freeswitch"
    FUSIONPBX = "fusionpbx"


@dataclass(frozen=True, slots=True)
class About:
    """Of a flavour: where its files stand, what reads them again, what is left to the admin.

    ``includes`` names the admin's own files that must include one of ours; ``folder`` is None
    where dialplans are no files.
    """

    folder: str | None
    reload: tuple[str, ...]
    left: tuple[str, ...]
    includes: tuple[tuple[str, str], ...] = ()


_INBOUND = (
    "In the context where your calls come in, lead each DID to it:",
    "    exten => +33612345678,1,Gosub(rounded,${EXTEN},1)",
    "     same => n,Hangup()",
)

ABOUT = {
    Flavour.ASTERISK: About(
        folder="/etc/asterisk",
        reload=(
            'asterisk -rx "dialplan reload"',
            'asterisk -rx "module reload res_pjsip.so"',
        ),
        left=_INBOUND,
        includes=(
            ("extensions.conf", "extensions_rounded.conf"),
            ("pjsip.conf", "pjsip_rounded.conf"),
        ),
    ),
    Flavour.ASTERISK_CHAN_SIP: About(
        folder="/etc/asterisk",
        reload=('asterisk -rx "dialplan reload"', 'asterisk -rx "sip reload"'),
        left=_INBOUND,
        includes=(
            ("extensions.conf", "extensions_rounded_chan_sip.conf"),
            ("sip.conf", "sip_rounded.conf"),
        ),
    ),
    Flavour.FREEPBX: About(
        folder="/etc/asterisk",
        reload=("fwconsole reload",),
        left=(
            "Connectivity > Trunks: a pjsip trunk with the name of trunk.name and the platform's",
            "    address. The second file adds to its endpoint.",
            "Admin > Custom Destinations: for each DID, the target rounded,+33612345678,1",
            "Connectivity > Inbound Routes: the DID, Set Destination: that Custom Destination",
        ),
    ),
    Flavour.FREESWITCH: About(
        folder="/etc/freeswitch",
        reload=('fs_cli -x "reloadxml"', 'fs_cli -x "sofia profile external rescan"'),
        left=(
            "Let no SIP profile, gateway or user have one of our contexts: rounded_bridge and",
            "    rounded_after",
        ),
    ),
    Flavour.FUSIONPBX: About(
        folder=None,
        reload=(),
        left=(
            "FusionPBX keeps its dialplans in its database, so nothing is written to a file.",
            "Accounts > Gateways: a gateway of the profile external with the platform's address.",
            "    trunk.name in config.yml is its UUID: the id in the address of its page.",
            "Dialplan > Dialplan Manager > Add, three times: name and context as below, order 0,",
            "    domain Global, any condition. Save, then open it, press XML, paste, save.",
        ),
    ),
}
