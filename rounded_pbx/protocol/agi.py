"""AGI without I/O: bytes in, values out; values in, one whole line out.

A session is an environment block, then commands and replies in turns. Asterisk writes the
environment line by line and copies what a SIP peer put into names and numbers as it decoded it,
line feeds included, so a caller can add lines to it and even end it early. What Asterisk wrote
before any such field is the script line (``agi_network_script``), and that is where arguments
belong. Everything else here follows res_agi.c of Asterisk 16 to 22.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from ..call import CallContext, CallerId, Direction, Switch, Wait
from ..errors import ProtocolError

#: What we read of an environment. Asterisk's own is about 700 bytes plus names and arguments.
LONGEST_ENVIRONMENT = 32 * 1024
#: What we read of a reply: a channel variable of 8 KB, percent-encoded.
LONGEST_REPLY = 32 * 1024

_ENVIRONMENT_LINE = re.compile(rb"(agi_[a-z0-9_]{1,40}): ?(.*)", re.DOTALL)
_REPLY = re.compile(r"([0-9]{3})(?: (.*))?", re.DOTALL)
_RESULT = re.compile(r"result=(\S*)(?: \((.*)\))?", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# MSet splits at commas and reads quotes, backslashes, brackets and parentheses; the values of the
# contract are of these characters, and quotes around them keep commas in.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9 .:/_+,@*#-]*")


Choice = TypeVar("Choice", bound=StrEnum)


def _decode(raw: bytes) -> str:
    """UTF-8, or the Latin-1 that Asterisk 16 hands on as it came."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment block of a session: ``agi_…`` keys, each of them once."""

    values: Mapping[str, str]

    @classmethod
    def parse(cls, block: bytes) -> Environment:
        """The block up to its blank line, which is left out.

        Raises:
            ProtocolError: a line is no ``agi_key: value``, a key stands twice (a caller can add
                lines), or the block ends before the line that Asterisk always writes.
        """
        values: dict[str, str] = {}
        for line in block.rstrip(b"\n").split(b"\n"):
            match = _ENVIRONMENT_LINE.fullmatch(line)
            if match is None:
                raise ProtocolError("AGI environment: a line is no agi_key: value")
            key = match[1].decode("ascii")
            if key in values:
                raise ProtocolError(f"AGI environment: {key} stands twice")
            values[key] = _decode(match[2])
        if "agi_threadid" not in values:
            raise ProtocolError("AGI environment: it ends before agi_threadid")
        return cls(values)

    def __getitem__(self, key: str) -> str:
        """The value of a key, empty where Asterisk wrote none or ``unknown``."""
        value = self.values.get(key, "")
        return "" if value == "unknown" else value

    @property
    def path(self) -> str:
        """The script's path, without its query: ``stage``."""
        return self.values.get("agi_network_script", "").partition("?")[0].strip("/")

    @property
    def query(self) -> str:
        """The script's query string, as it came."""
        return self.values.get("agi_network_script", "").partition("?")[2]

    @property
    def longest_command(self) -> int:
        """Bytes of a command with its line feed: AGI_BUF_LEN - 1, 8192 since 20.3 and 2048 before.

        What is longer is read as further commands.
        """
        major = re.match("[0-9]+", self.values.get("agi_version", ""))
        return 8191 if major and int(major[0]) >= 21 else 2047


class _Keys(StrEnum):
    DID = "did"
    FROM = "from"
    NAME = "name"
    PRES = "pres"
    CONTEXT = "context"
    ROUTE = "route"
    DIRECTION = "direction"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Arguments:
    """The ``key=value`` arguments of a session, percent-decoded.

    ``trusted`` says that they came in the script's query, which no caller can write; ``unknown``
    lists the keys that mean nothing to us, for the log.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    trusted: bool = True

    @classmethod
    def parse(cls, environment: Environment) -> Arguments:
        """From the query string, or from ``agi_arg_N`` where there is none.

        Raises:
            ProtocolError: an argument stands twice, or there are arguments of both kinds, as a
                caller who adds lines would cause.
        """
        listed = [value for key, value in environment.values.items() if key.startswith("agi_arg_")]
        if environment.query:
            if any(listed):
                raise ProtocolError("AGI arguments stand in the query and after a comma; use one")
            listed = environment.query.split("&")
        values: dict[str, str] = {}
        variables: dict[str, str] = {}
        headers: dict[str, str] = {}
        unknown: list[str] = []
        for argument in filter(None, listed):
            key, _, raw = argument.partition("=")
            kind, _, name = key.partition(".")
            if kind == "var" and name:
                target, key = variables, name
            elif kind == "header" and name:
                target, key = headers, name
            else:
                target = values
                if key not in set(_Keys):
                    unknown.append(key[:40])
            if key in target:
                raise ProtocolError(f"the AGI argument {key[:40]!r} stands twice")
            target[key] = _decode(unquote_to_bytes(raw.encode("utf-8", "surrogateescape")))
        return cls(values, variables, headers, tuple(unknown), trusted=bool(environment.query))


def to_call(environment: Environment, arguments: Arguments) -> CallContext:
    """The call of a session. ``did`` is empty where the dialplan passed none.

    What decides (DID, route, direction, wait) comes from the arguments only.
    """
    given = arguments.values
    return CallContext(
        switch=Switch.ASTERISK,
        did=given.get(_Keys.DID, ""),
        caller=CallerId(
            number=given.get(_Keys.FROM, environment["agi_callerid"]),
            name=given.get(_Keys.NAME, environment["agi_calleridname"]),
            withheld=is_withheld(given.get(_Keys.PRES, environment["agi_callingpres"])),
        ),
        rdnis=environment["agi_rdnis"],
        unique_id=environment["agi_uniqueid"],
        channel=environment["agi_channel"],
        context=given.get(_Keys.CONTEXT, environment["agi_context"]),
        account_code=environment["agi_accountcode"],
        route=given.get(_Keys.ROUTE) or None,
        direction=_one_of(Direction, given.get(_Keys.DIRECTION)),
        wait=_one_of(Wait, given.get(_Keys.WAIT)),
        dynamic_variables=arguments.variables,
        custom_headers=arguments.headers,
    )


def _one_of(choices: type[Choice], value: str | None) -> Choice | None:
    return choices(value) if value in set(choices) else None


def is_withheld(presentation: str) -> bool:
    """Whether CALLERID(pres), or ``agi_callingpres``, hides the caller.

    The number is Q.931's octet 3a: bits 6 and 7 say allowed (0), restricted (1), unavailable (2).
    """
    if presentation.isascii() and presentation.isdigit():
        return int(presentation[:4]) & 0x60 != 0
    return presentation.startswith(("prohib", "unavailable"))


class HangupNotice:
    """The out-of-band line by which Asterisk says that the caller left."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code, ``result``, and what stands in parentheses (None where nothing does)."""

    code: int
    result: str = ""
    value: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the command was understood and run."""
        return self.code == 200 and self.result not in ("-1", "-2")


class ReplyParser:
    """Lines to replies. A 520 has three lines or more; a 100 announces another reply."""

    def __init__(self) -> None:
        self._in_usage = False

    def receive(self, line: bytes) -> Reply | HangupNotice | None:
        """What a line (with or without its line feed) completes; None if more must come.

        Raises:
            ProtocolError: it is no line of a reply.
        """
        text = _decode(line.removesuffix(b"\n").removesuffix(b"\r"))
        if self._in_usage:
            if text.startswith("520 "):
                self._in_usage = False
                return Reply(520)
            return None
        if text == "HANGUP":
            return HangupNotice()
        if text.startswith("520-"):
            self._in_usage = True
            return None
        match = _REPLY.fullmatch(text)
        if match is None:
            raise ProtocolError("AGI: a line is no reply")
        code = int(match[1])
        if code == 100:
            return None
        result = _RESULT.match(match[2] or "")
        return Reply(code, result[1], result[2]) if result else Reply(code)


def quote(value: str) -> str:
    """An argument in quotes; nothing but ``"`` and the backslash is special inside them.

    Raises:
        ProtocolError: it holds a control character, which could end the command.
    """
    if _CONTROL.search(value):
        raise ProtocolError("AGI: an argument holds a control character")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def command(longest: int, *words: str) -> bytes:
    """A command of plain words and quoted arguments, one whole line.

    Raises:
        ProtocolError: the line would be longer than Asterisk reads.
    """
    line = " ".join(words).encode() + b"\n"
    if len(line) > longest:
        raise ProtocolError(f"AGI: a command of {len(line)} bytes; Asterisk reads {longest}")
    return line


def get_variable(longest: int, name: str) -> bytes:
    """Reads a channel variable percent-encoded: a raw one with line feeds could fake a reply."""
    if not _VARIABLE.fullmatch(name):
        raise ProtocolError("AGI: no name of a channel variable")
    return command(longest, "GET FULL VARIABLE", quote(f"${{URIENCODE(${{{name}}})}}"))


def decode_variable(reply: Reply) -> str:
    """The value that ``get_variable`` asked for, empty where the variable is not set."""
    return _decode(unquote_to_bytes(reply.value or ""))


def set_variables(longest: int, variables: Iterable[tuple[str, str]]) -> list[bytes]:
    """The commands that set channel variables in their order: one ``MSet`` where it can be.

    One command is one round trip, and sets all or nothing when the session is cut off.
    """
    variables = tuple(variables)
    for name, _ in variables:
        if not _VARIABLE.fullmatch(name):
            raise ProtocolError("AGI: no name of a channel variable")
    pairs = ",".join(f'{name}="{value}"' for name, value in variables)
    together = f"EXEC MSet {quote(pairs)}\n".encode()
    plain = all(_PLAIN_VALUE.fullmatch(value) for _, value in variables)
    if plain and len(together) <= longest:
        return [together]
    return [command(longest, "SET VARIABLE", name, quote(value)) for name, value in variables]
