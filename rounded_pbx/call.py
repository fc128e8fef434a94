"""What a switch tells us about a call, the same for Asterisk and FreeSWITCH."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# C0 and C1 controls, and the characters that str.splitlines() or a terminal takes for a line end
# or for a change of direction. None of them belongs in a name, a number or a header.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
_NUMBER = re.compile(r"\+?[0-9]{5,}")

#: The name of a SIP header: RFC 3261, token.
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
#: The name of a dynamic variable.
VARIABLE_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,128}")


def holds_control(text: str) -> bool:
    """Whether a text holds a character that ``clean`` would take out."""
    return _CONTROL.search(text) is not None


def clean(text: str, longest: int = 1024) -> str:
    """A caller's text, each control character turned into a space, at most ``longest`` long."""
    return _CONTROL.sub(" ", text[:longest]).strip()


def mask(number: str) -> str:
    """A caller's number for a log: its digits, the last four of them hidden."""
    digits = re.sub("[^+0-9]", "", number[:40])
    return digits[:-4] + "****" if len(digits) > 4 else "****"


def mask_numbers(text: str) -> str:
    """A text for a log, every phone number in it masked and nothing left that moves a cursor."""
    return _NUMBER.sub(lambda found: mask(found[0]), clean(text))


class Switch(StrEnum):
    """The kinds of switch."""

    ASTERISK = "asterisk"
    FREESWITCH = "freeswitch"


class Direction(StrEnum):
    """``direction`` of a staging request, seen from the agent."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Wait(StrEnum):
    """How long a staging waits: until the API says ``staged``, or only for the id."""

    POLL = "poll"
    SYNC = "sync"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class CallerId:
    """The caller as the switch presents them; nothing of it can be trusted."""

    number: str = ""
    name: str = ""
    withheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """One call at the moment when its dialplan asks for a staging.

    ``did`` is the number that was dialled. ``route`` and ``wait`` are the dialplan's own choice
    and None where it made none. ``account_code``, ``domain`` and ``context`` may choose the account
    that stages it: they are what the dialplan or the switch's configuration says, never a header.
    ``dynamic_variables`` and ``custom_headers`` are what the dialplan passed beside ours;
    ``linkedid`` is what the legs of the call have in common, and ``ticket`` what the dialplan holds
    of a staging that was begun before.
    """

    switch: Switch
    did: str
    caller: CallerId
    rdnis: str = ""
    unique_id: str = ""
    linkedid: str = ""
    sip_call_id: str = ""
    channel: str = ""
    context: str = ""
    account_code: str = ""
    domain: str = ""
    route: str | None = None
    direction: Direction | None = None
    wait: Wait | None = None
    ticket: str = ""
    dynamic_variables: Mapping[str, str] = field(default_factory=dict)
    custom_headers: Mapping[str, str] = field(default_factory=dict)
