"""AGI without I/O: bytes in, values out; values in, one whole line out.

A session is an environment block, then commands and replies in turns. Asterisk writes the
environment line by line and copies what a SIP peer put into names and numbers as it decoded it,
line feeds included, so a caller can add lines to it and even end it early. Hence:

- the keys must come in Asterisk's order, each once and all of them;
- what decides comes from the arguments. In the script's query they stand before anything that a
  caller can fill; after a comma they stand behind it, and numbered;
- the lines that an early end has cut off stand before the reply to whatever is asked, and a line
  that nobody asked for ends the session. While the API is asked, and before a ticket is handed
  out, ``challenge`` asks for a word that nobody can foresee; another answer that is there at once
  is one command, and its reply the last line.

Everything else here follows res_agi.c of Asterisk 16 to 22.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..call import CallContext, CallerId, Switch
from ..errors import ProtocolError
from .dialplan import CHANNEL_VARIABLE, PLAIN_VALUE, Inputs, decode, is_withheld

#: What we read of an environment. Asterisk's own is about 700 bytes plus names and arguments.
LONGEST_ENVIRONMENT = 32 * 1024
#: Lines of a usage text that we read: Asterisk's longest has ten.
LONGEST_USAGE = 40
#: Lines in a row that complete no reply (``HANGUP``, a 100): Asterisk writes two at most.
MOST_NOTICES = 16

#: In the order of setup_env(), res_agi.c. Without a path in the URL there is no agi_network_script.
ENVIRONMENT_KEYS = (
    *("network", "network_script", "request", "channel", "language", "type", "uniqueid"),
    *("version", "callerid", "calleridname", "callingpres", "callingani2", "callington"),
    *("callingtns", "dnid", "rdnis", "context", "extension", "priority", "enhanced"),
    *("accountcode", "threadid"),
)
_OPTIONAL = {"network", "network_script"}
_PLACES = {f"agi_{name}": place for place, name in enumerate(ENVIRONMENT_KEYS)}

_OTHER_KEY = re.compile(r"agi_[a-z0-9_]{1,40}")
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_REPLY = re.compile(r"([0-9]{3})(?: (.*))?", re.DOTALL)
_RESULT = re.compile(r"result=(\S*)(?: \((.*)\))?", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment block of a session: ``agi_…`` keys, each of them once."""

    values: Mapping[str, str]

    @classmethod
    def parse(cls, block: bytes) -> Environment:
        """The block up to its blank line, which may be left out.

        Raises:
            ProtocolError: a line is no ``agi_key: value``, or the keys are not Asterisk's in
                Asterisk's order. A key that Asterisk may get some day is let pass.
        """
        values: dict[str, str] = {}
        due = arguments = 0
        for line in decode(block.rstrip(b"\n")).split("\n"):
            key, colon, value = line.partition(":")
            place = _PLACES.get(key)
            if not colon or (place is None and not _OTHER_KEY.fullmatch(key)):
                raise ProtocolError("AGI environment: a line is no agi_key: value")
            if key in values:
                raise ProtocolError(f"AGI environment: {key} stands twice")
            values[key] = value.removeprefix(" ")
            if place is not None:
                while due < place and ENVIRONMENT_KEYS[due] in _OPTIONAL:
                    due += 1
                if due != place:
                    raise ProtocolError(f"AGI environment: {key} is out of its place")
                due += 1
            elif key.startswith("agi_arg_"):
                arguments += 1
                if due < len(ENVIRONMENT_KEYS) or key != f"agi_arg_{arguments}":
                    raise ProtocolError(f"AGI environment: {key} is out of its place")
        if due < len(ENVIRONMENT_KEYS):
            raise ProtocolError(f"AGI environment: it ends before agi_{ENVIRONMENT_KEYS[due]}")
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
        """Bytes of a command with its line feed: AGI_BUF_LEN - 1, of 8192 since 22.6, else of 2048.

        What is longer is read as further commands. (20.16 and 21.11 read 8191, too.)
        """
        version = _VERSION.match(self.values.get("agi_version", ""))
        return 8191 if version and (int(version[1]), int(version[2])) >= (22, 6) else 2047


def arguments(environment: Environment) -> Inputs:
    """The ``key=value`` arguments, percent-decoded: of the query, or ``agi_arg_N`` without one.

    A dialplan that passes what a caller can write must FILTER or URIENCODE it, or a comma or an
    ampersand in it begins another argument.

    Raises:
        ProtocolError: an argument stands twice, or there are arguments of both kinds, as a
            caller who adds lines would cause.
    """
    listed = [value for key, value in environment.values.items() if key.startswith("agi_arg_")]
    if environment.query:
        if any(listed):
            raise ProtocolError("AGI arguments stand in the query and after a comma; use one")
        listed = environment.query.split("&")
    pairs = (argument.partition("=") for argument in listed if argument)
    return Inputs.collect(((key, _unescaped(value)) for key, _, value in pairs), separator=".")


def _unescaped(text: str) -> str:
    return decode(unquote_to_bytes(text)) if "%" in text else text


def to_call(environment: Environment, inputs: Inputs) -> CallContext:
    """The call of a session. ``did`` is empty where the dialplan passed none.

    What decides (DID, route, domain, direction, wait) comes from the arguments only; the account
    code and the context from the environment where no argument names them. Before either decides,
    the challenge has to be met: a caller who ends the environment early writes both.
    """
    given = inputs.values
    return CallContext(
        switch=Switch.ASTERISK,
        did=given.get("did", ""),
        caller=CallerId(
            number=given.get("from", environment["agi_callerid"]),
            name=given.get("name", environment["agi_calleridname"]),
            withheld=is_withheld(given.get("pres", environment["agi_callingpres"])),
        ),
        rdnis=environment["agi_rdnis"],
        unique_id=environment["agi_uniqueid"],
        linkedid=given.get("linkedid", ""),
        sip_call_id=given.get("sip_call_id", ""),
        channel=environment["agi_channel"],
        context=given.get("context", environment["agi_context"]),
        account_code=given.get("accountcode", environment["agi_accountcode"]),
        domain=given.get("domain", ""),
        route=given.get("route"),
        direction=inputs.direction,
        wait=inputs.wait,
        ticket=given.get("ticket", ""),
        dynamic_variables=inputs.variables,
        custom_headers=inputs.headers,
    )


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
        self._usage = 0
        self._notices = 0

    def receive(self, line: bytes) -> Reply | HangupNotice | None:
        """What a line (with or without its line feed) completes; None if more must come.

        Raises:
            ProtocolError: it is no line of a reply.
        """
        text = decode(line.removesuffix(b"\n").removesuffix(b"\r"))
        if self._usage:
            if text.startswith("520 "):
                self._usage = 0
                return Reply(520)
            self._usage += 1
            # A caller who ends the environment early could hide the rest of it as a usage text.
            if self._usage > LONGEST_USAGE or text.startswith("agi_"):
                raise ProtocolError("AGI: a usage text that is none")
            return None
        if text == "HANGUP":
            self._note()
            return HangupNotice()
        if text.startswith("520-"):
            self._usage = 1
            return None
        match = _REPLY.fullmatch(text)
        if match is None:
            raise ProtocolError("AGI: a line is no reply")
        code = int(match[1])
        if code == 100:
            self._note()
            return None
        self._notices = 0
        result = _RESULT.match(match[2] or "")
        return Reply(code, result[1], result[2]) if result else Reply(code)

    def _note(self) -> None:
        self._notices += 1
        if self._notices > MOST_NOTICES:  # a flood of them would starve the other sessions
            raise ProtocolError("AGI: too many lines that are no reply")


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


def challenge(longest: int, word: str) -> bytes:
    """Asks Asterisk to say ``word``, which has nothing in it to be expanded."""
    return command(longest, "GET FULL VARIABLE", quote(word))


def get_variable(longest: int, name: str) -> bytes:
    """Reads a channel variable percent-encoded: a raw one with line feeds could fake a reply."""
    if not CHANNEL_VARIABLE.fullmatch(name):
        raise ProtocolError("AGI: no name of a channel variable")
    return command(longest, "GET FULL VARIABLE", quote(f"${{URIENCODE(${{{name}}})}}"))


def decode_variable(reply: Reply) -> str:
    """The value that ``get_variable`` asked for, empty where the variable is not set."""
    return decode(unquote_to_bytes(reply.value or ""))


def set_variables(longest: int, variables: Sequence[tuple[str, str]]) -> list[bytes]:
    """The commands that set channel variables in their order: one where it can be.

    One command is one round trip, and sets all or nothing when the session is cut off. It writes
    the function ``ARRAY``, of func_strings as ``FILTER`` is, which takes values apart as MSet does;
    ``EXEC MSet`` would cost a snapshot of the channel. Without func_strings Asterisk sets nothing
    and replies as if it had: only its log says so, and our doctor.
    """
    if not all(CHANNEL_VARIABLE.fullmatch(name) for name, _ in variables):
        raise ProtocolError("AGI: no name of a channel variable")
    if len(variables) > 1 and PLAIN_VALUE.fullmatch("".join(value for _, value in variables)):
        names = f"ARRAY({','.join(name for name, _ in variables)})"
        values = ",".join(f'"{value}"' for _, value in variables)
        together = f"SET VARIABLE {quote(names)} {quote(values)}\n".encode()
        if len(together) <= longest:
            return [together]
    return [command(longest, "SET VARIABLE", name, quote(value)) for name, value in variables]
