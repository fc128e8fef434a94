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

    ``folder`` is None where dialplans are no files. ``shared`` are those of the files that hold
    lines of the admin's, too; ``includes`` names the admin's files that must include one of ours.
    ``DID`` in a text stands for one of the admin's.
    """

    folder: str | None
    files: tuple[str, ...]
    reload: tuple[str, ...]
    left: tuple[str, ...]
    shared: tuple[str, ...] = ()
    includes: tuple[tuple[str, str], ...] = ()


_INBOUND = (
    "In the context where your calls come in, lead each of your numbers to it:",
    "    exten => DID,1,Gosub(rounded,${EXTEN},1)",
    "     same => n,Hangup()",
)

_NO_REFER = (
    'In the SIP profile of your callers: <param name="disable-transfer" value="true"/>, or a',
    "    REFER of theirs can make FreeSWITCH dial anything, past every dialplan.",
)
_FREEPBX = ("extensions_custom.conf", "pjsip.endpoint_custom_post.conf")

ABOUT = {
    Flavour.ASTERISK: About(
        folder="/etc/asterisk",
        files=("extensions_rounded.conf", "pjsip_rounded.conf"),
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
        files=("extensions_rounded_chan_sip.conf", "sip_rounded.conf"),
        reload=('asterisk -rx "dialplan reload"', 'asterisk -rx "sip reload"'),
        left=_INBOUND,
        includes=(
            ("extensions.conf", "extensions_rounded_chan_sip.conf"),
            ("sip.conf", "sip_rounded.conf"),
        ),
    ),
    Flavour.FREEPBX: About(
        folder="/etc/asterisk",
        files=_FREEPBX,
        shared=_FREEPBX,
        reload=("fwconsole reload",),
        left=(
            "Connectivity > Trunks: a pjsip trunk with the name of trunk.name and the platform's",
            "    address. The second file adds to its endpoint.",
            "Admin > Custom Destinations: for each number, a target such as rounded,DID,1",
            "Connectivity > Inbound Routes: for each, Set Destination: that Custom Destination",
        ),
    ),
    Flavour.FREESWITCH: About(
        folder="/etc/freeswitch",
        files=(
            "sip_profiles/external/rounded.xml",
            "dialplan/rounded.xml",
            "dialplan/public/00_rounded.xml",
        ),
        reload=('fs_cli -x "reloadxml"', 'fs_cli -x "sofia profile external rescan"'),
        left=(
            *_NO_REFER,
            "Let no SIP profile, gateway or user have one of our contexts: rounded_bridge,",
            "    rounded_after and rounded_prestage",
        ),
    ),
    Flavour.FUSIONPBX: About(
        folder=None,
        files=("rounded_after.xml", "rounded_bridge.xml", "rounded_prestage.xml", "public.xml"),
        reload=(),
        left=(
            *_NO_REFER,
            "    In FusionPBX: Advanced > SIP Profiles > external > Settings",
            "Accounts > Gateways: a gateway of the profile external with the platform's address.",
            "    trunk.name in config.yml is its UUID: the id in the address of its page.",
            "Dialplan > Dialplan Manager > Add, four times: name and context as below, order 1,",
            "    domain Global, any condition. Save, open it, press XML, paste, save there. Never",
            "    press Save on its own page after that: it writes the XML anew from the page.",
        ),
    ),
}
