"""What both codecs know of a dialplan: what it passes to us, and what can be written to it.

Asterisk's arguments are ``did=…``, ``var.NAME=…``, ``header.NAME=…``; FreeSWITCH's channel
variables are ``rounded_in_did``, ``rounded_in_var_NAME``, ``rounded_in_header_NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..call import HEADER_NAME, VARIABLE_NAME, Direction, Wait
from ..errors import ProtocolError

#: The name of a channel variable that we read or write.
CHANNEL_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: The characters of the contract's values: none of them quotes, expands, splits or ends anything
#: in Asterisk's ARRAY (inside quotes) and in FreeSWITCH's uuid_setvar_multi.
PLAIN_VALUE = re.compile(r"[A-Za-z0-9 .:/_+,@*#-]*")

# What decides, what names the caller, what was begun before, what finds the call in the switch.
_KEYS = frozenset(
    [
        *("did", "route", "context", "accountcode", "domain"),
        *("from", "name", "pres"),
        *("ticket", "linkedid", "sip_call_id"),
    ]
)
_CHOICES: Mapping[str, type[StrEnum]] = {"direction": Direction, "wait": Wait}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a session. ``ignored`` is what means nothing to us, for the log."""

    values: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @classmethod
    def collect(cls, given: Iterable[tuple[str, str]], separator: str) -> Inputs:
        """From keys and values; ``separator`` stands between ``var`` or ``header`` and a name.

        Raises:
            ProtocolError: a key stands twice, as a caller who adds some would cause.
        """
        values: dict[str, str] = {}
        variables: dict[str, str] = {}
        headers: dict[str, str] = {}
        ignored: dict[str, str] = {}
        for key, value in given:
            target, entry = ignored, key
            if key in _KEYS:
                target = values
            elif key in _CHOICES:
                target = values if value in set(_CHOICES[key]) else ignored
            else:
                kind, _, name = key.partition(separator)
                if kind == "var" and VARIABLE_NAME.fullmatch(name):
                    target, entry = variables, name
                elif kind == "header" and HEADER_NAME.fullmatch(name):
                    target, entry = headers, name
            if entry in target:
                raise ProtocolError(f"the input {key[:40]!r} stands twice")
            target[entry] = value
        return cls(values, variables, headers, tuple(f"{k}={v}" for k, v in ignored.items()))

    @property
    def direction(self) -> Direction | None:
        """The direction that the dialplan chose."""
        return Direction(self.values["direction"]) if "direction" in self.values else None

    @property
    def wait(self) -> Wait | None:
        """The manner of waiting that the dialplan chose."""
        return Wait(self.values["wait"]) if "wait" in self.values else None


def decode(raw: bytes) -> str:
    """UTF-8, its last character perhaps cut, or Latin-1, which some switches hand on as it came."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not raw[: error.start].isascii():
            return raw[: error.start].decode("utf-8")
        return raw.decode("latin-1")


def is_withheld(presentation: str) -> bool:
    """Whether CALLERID(pres), ``agi_callingpres`` or ``rounded_in_pres`` hides the caller.

    The number is Q.931's octet 3a: bits 6 and 7 say allowed (0), restricted (1), unavailable (2).
    """
    if presentation.isascii() and presentation.isdigit():
        return int(presentation[:4]) & 0x60 != 0
    return presentation.startswith(("prohib", "unavailable"))
