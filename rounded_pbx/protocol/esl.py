"""The event socket (ESL) without I/O: bytes in, values out; values in, one command out.

A message is a block of ``Name: value`` lines, a blank line, and a body where ``Content-Length``
says so. The answer to ``uuid_dump`` has a body of about 6 KB that describes the channel in such
lines, each value percent-encoded. Hence a block is split into lines first, and each value decoded
after; a caller who writes ``%0A`` into a header then adds no line. Ordinary replies are not encoded
and may hold what a caller wrote: nothing here asks for such a one but for the channel's id, which a
peer may choose, and which is taken only if it is letters, digits and a few signs.

Everything else follows mod_event_socket.c and mod_commands.c of FreeSWITCH 1.11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..call import CallContext, CallerId, Switch, holds_control
from ..errors import ProtocolError
from .dialplan import CHANNEL_VARIABLE, PLAIN_VALUE, Inputs, decode, is_withheld

#: What we read of a block or a body. A call's description is 6 to 10 KB; one whose every SIP header
#: is huge has 150.
LONGEST_BLOCK = LONGEST_BODY = 256 * 1024
#: Bytes of a command of ours, and what uuid_setvar_multi sets at once: its argv has 64 places.
LONGEST_COMMAND = 8 * 1024
MOST_VARIABLES = 63

#: Asks for the channel's id. FreeSWITCH answers no command that comes first, but for ``connect``.
WHICH = b"noevents\n\ngetvar uuid\n\n"
#: Lets FreeSWITCH park the channel, as long waits should be: its media is read, and its thread
#: sleeps for 20 ms at a time, which an answer then waits for. Before, it looks every millisecond.
CONNECT = b"connect\n\n"
EXIT = b"exit\n\n"

_LINE = re.compile(rb"([^\x00-\x1f\x7f:]{1,1024}): ?(.*)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LENGTH = re.compile(r"[0-9]{1,9}")
# FreeSWITCH makes UUIDs; a profile may take the Call-ID of the SIP peer instead. One with an escape
# in it is refused: a peer's own %40 comes unencoded, and would name the call of whose id has an @.
_CHANNEL_ID = re.compile(r"[A-Za-z0-9._~-]{1,255}")
_INPUT = "variable_rounded_in_"
_DECIDING = frozenset(
    ["did", "route", "accountcode", "domain", "context", "pres", "direction", "wait"]
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its headers as they came, none twice in whatever case, and its body."""

    headers: Mapping[str, bytes]
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """``command/reply``, ``api/response``, ``text/disconnect-notice``, …"""
        return self.headers.get("Content-Type", b"").decode("latin-1")

    @property
    def reply(self) -> str:
        """What a ``command/reply`` or an ``api/response`` says: ``+OK``, ``-ERR …``."""
        api = self.content_type == "api/response"
        raw = self.body if api else self.headers.get("Reply-Text", b"")
        return decode(raw).strip()

    @property
    def ok(self) -> bool:
        """Whether the command was understood and run."""
        return self.reply.startswith("+OK")


class Parser:
    """Bytes to messages, in whatever pieces they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._headers: dict[str, bytes] | None = None
        self._missing = 0

    def receive(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes; it is read as they are asked for.

        Raises:
            ProtocolError: they are none, or longer than we read; nothing can be received after.
        """
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        if self._headers is None:
            end = self._buffer.find(b"\n\n", max(0, self._searched - 1))
            self._searched = len(self._buffer)
            # Without an end, the last byte may be the first half of one.
            if (end if end >= 0 else len(self._buffer) - 1) > LONGEST_BLOCK:
                raise ProtocolError("ESL: a header block is too long")
            if end < 0:
                return None
            self._headers = _headers(bytes(self._buffer[:end]))
            self._missing = _body_length(self._headers)
            del self._buffer[: end + 2]
            self._searched = 0
        if len(self._buffer) < self._missing:
            return None
        message = Message(self._headers, bytes(self._buffer[: self._missing]))
        del self._buffer[: self._missing]
        self._headers = None
        return message


def _headers(block: bytes) -> dict[str, bytes]:
    headers: dict[str, bytes] = {}
    seen = set()
    for line in block.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ProtocolError("ESL: a line is no name: value")
        name = match[1].decode("latin-1")
        if name.lower() in seen:
            raise ProtocolError(f"ESL: the header {name[:40]!r} stands twice")
        seen.add(name.lower())
        headers[name] = match[2]
    return headers


def _body_length(headers: Mapping[str, bytes]) -> int:
    text = headers.get("Content-Length", b"0").decode("latin-1").strip()
    if not _LENGTH.fullmatch(text) or int(text) > LONGEST_BODY:
        raise ProtocolError(f"ESL: {text[:20]!r} is no Content-Length up to {LONGEST_BODY}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Channel:
    """The channel that the answer to ``uuid_dump`` describes: ``data`` by names in lower case.

    ``given`` is what the dialplan set as ``rounded_in_…``, without that beginning.
    """

    data: Mapping[str, str]
    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, message: Message) -> Channel:
        """From the answer to ``uuid_dump``, each value decoded by itself.

        Raises:
            ProtocolError: it is none, a value holds a raw control character, or the channel's id
                is none that a command can name.
        """
        data, given = {}, []
        headers = _headers(message.body.strip(b"\n"))
        for name, raw in headers.items():
            if _CONTROL.search(raw):
                raise ProtocolError(f"ESL: {name[:40]!r} holds a control character")
            key, value = name.lower(), decode(unquote_to_bytes(raw))
            data[key] = value
            if key.startswith(_INPUT):  # the rest of its name keeps its case
                given.append((decode(name[len(_INPUT) :].encode("latin-1")), value))
        if not _CHANNEL_ID.fullmatch(decode(headers.get("Unique-ID", b""))):
            raise ProtocolError("ESL: the channel has no id that a command can name")
        return cls(data, tuple(given))

    def variable(self, name: str) -> str:
        """A channel variable, empty where it is not set. FreeSWITCH takes either case, too."""
        return self.data.get(f"variable_{name}".lower(), "")

    @property
    def id(self) -> str:
        """The channel's id, as commands name it."""
        return self.data["unique-id"]

    @property
    def path(self) -> str:
        """What the dialplan asked for: ``stage`` of ``socket 127.0.0.1:8084/stage async full``."""
        return self.variable("socket_path").strip("/")


def inputs(channel: Channel) -> Inputs:
    """The dialplan's inputs: the channel variables ``rounded_in_…``.

    Raises:
        ProtocolError: one that decides holds a control character.
    """
    for key, value in channel.given:
        if key in _DECIDING and holds_control(value):
            raise ProtocolError(f"rounded_in_{key} holds a control character")
    return Inputs.collect(channel.given, separator="_")


def to_call(channel: Channel, inputs: Inputs) -> CallContext:
    """The call of a session. ``did`` is empty where the dialplan passed none.

    What decides (DID, route, direction, wait) comes from the dialplan's own variables only: what
    FreeSWITCH calls the destination number is what the caller dialled. Account code, domain and
    context may come from FreeSWITCH as well: its directory, a profile or the dialplan sets them.
    A caller sets sip_to_host and sip_req_host, so no domain is taken from those.
    """
    given, data = inputs.values, channel.data
    hides_name = data.get("caller-privacy-hide-name") == "true"
    hides_number = data.get("caller-privacy-hide-number") == "true"
    return CallContext(
        switch=Switch.FREESWITCH,
        did=given.get("did", ""),
        caller=CallerId(
            number=given.get("from", data.get("caller-caller-id-number", "")),
            name=given.get("name", "" if hides_name else data.get("caller-caller-id-name", "")),
            withheld=is_withheld(given["pres"]) if given.get("pres") else hides_number,
        ),
        rdnis=data.get("caller-rdnis", ""),
        unique_id=channel.id,
        linkedid=given.get("linkedid", data.get("channel-call-uuid", "")),
        sip_call_id=given.get("sip_call_id", channel.variable("sip_call_id")),
        channel=data.get("channel-name", ""),
        context=given.get("context", data.get("caller-context", "")),
        account_code=given.get("accountcode", channel.variable("accountcode")),
        domain=given.get("domain", channel.variable("domain_name")),
        route=given.get("route"),
        direction=inputs.direction,
        wait=inputs.wait,
        ticket=given.get("ticket", ""),
        dynamic_variables=inputs.variables,
        custom_headers=inputs.headers,
    )


def describe(channel_id: str) -> bytes:
    """Asks for the channel's description; without ``full`` it is no command.

    Raises:
        ProtocolError: it is no id that a command can name.
    """
    if not _CHANNEL_ID.fullmatch(channel_id):
        raise ProtocolError("ESL: the channel has no id that a command can name")
    return f"api uuid_dump {channel_id}\n\n".encode()


def set_variables(channel_id: str, variables: Iterable[tuple[str, str]]) -> bytes:
    """Sets channel variables in their order, in one command that has run when it is answered.

    An empty value unsets. ``sendmsg`` would only be queued: in async mode the dialplan could go on
    before it. uuid_setvar_multi splits at semicolons and reads quotes and backslashes, so nothing
    but the characters of the contract goes into it.

    Raises:
        ProtocolError: a name or a value has others, or the command would be too long.
    """
    if not _CHANNEL_ID.fullmatch(channel_id):
        raise ProtocolError("ESL: no id of a channel")
    pairs = []
    for name, value in variables:
        if not CHANNEL_VARIABLE.fullmatch(name) or not PLAIN_VALUE.fullmatch(value):
            raise ProtocolError("ESL: no channel variable of the contract")
        pairs.append(f"{name}={value}")
    line = f"api uuid_setvar_multi {channel_id} {';'.join(pairs)}\n\n".encode()
    if not pairs or len(pairs) > MOST_VARIABLES or len(line) > LONGEST_COMMAND:
        raise ProtocolError(f"ESL: a command of {len(line)} bytes for {len(pairs)} variables")
    return line
