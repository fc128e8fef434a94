"""The types of the configuration's fields: what each accepts, and what it says when it does not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, PlainValidator

from .call import HEADER_NAME, VARIABLE_NAME
from .numbers import E164
from .staging import valid_uuid
from .templates import Template, compile_value

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAME = r"[A-Za-z0-9_.-]{1,64}"
HOST_AND_PORT = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(?::[0-9]{1,5})?"
DID = re.compile(r"\*|[+]?[A-Za-z0-9_.-]{1,40}\*?")
# Goto's own notation; a comma separates, nothing here can be expanded or end an argument.
_ASTERISK_TARGET = r"[A-Za-z0-9_.+*#@-]{1,80}(?:,[A-Za-z0-9_.+*#@-]{1,80}){2}"
_FREESWITCH_TARGET = r"[A-Za-z0-9_.+*#-]+ XML [A-Za-z0-9_.-]+"


class Section(pydantic.BaseModel):
    """A section of the configuration: frozen, and what it does not know is a mistake."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def is_loopback(host: str) -> bool:
    """Whether a host, an address or a name, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def as_text(value: object) -> object:
    """A number that YAML has read as one is text again: only canonical ones become numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def as_list(value: object) -> list[object]:
    """One value is a list of one."""
    return value if isinstance(value, list) else [value]


def matching(
    pattern: re.Pattern[str] | str, expected: str, *, secret: bool = False
) -> AfterValidator:
    """A validator for text; ``secret`` keeps the text out of the message."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{'this' if secret else repr(value)} is not {expected}")
        return value

    return AfterValidator(check)


def _uuid(value: str) -> str:
    uuid = valid_uuid(value)
    if uuid is None:
        raise ValueError(f"{value!r} is not a UUID, such as 411b82c8-462a-4e1b-89bc-10ab3ce1ed29")
    return uuid


def _country(value: str) -> str:
    import phonenumbers

    if value not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"{value!r} is not a country code of two capitals, such as FR")
    return value


def _header(value: object) -> str | Template:
    compiled = compile_value(value)
    if not isinstance(compiled, str | Template):
        raise ValueError("a header is text; put it in quotes")
    return compiled


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """``127.0.0.1:4573`` or ``[::1]:4573``; ValueError says what was expected."""
    text = str(value)
    host, _, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(port)
    except ValueError:
        raise ValueError(f"{text!r} is not an address and a port, such as 127.0.0.1:4573") from None
    return Address(str(ip), int(port))


def _listen(value: object) -> Address | None:
    return None if value in ("off", False) else parse_address(value)


def _network(value: object) -> Network:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"{error}; expected a network such as 127.0.0.0/8") from None


Text = Annotated[str, BeforeValidator(as_text)]
WholeNumber = Annotated[int, BeforeValidator(_no_boolean)]
Seconds = Annotated[float, BeforeValidator(_no_boolean)]
PerSecond = Annotated[float, BeforeValidator(_no_boolean)]
Number = Annotated[Text, matching(E164, "a number in E.164, such as +33000000000")]
Country = Annotated[str, AfterValidator(_country)]
Name = Annotated[Text, matching(NAME, "a name of at most 64 of A-Z a-z 0-9 _ . -")]
Did = Annotated[Text, matching(DID, "a DID, such as +33612345678, +336* or *")]
Extension = Annotated[Text, matching(r"[0-9+*#]{1,40}", "an extension, such as 600")]
Matched = Annotated[
    Text,
    matching(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,253}(?:/[0-9]{1,3})?", "an address, network or name"),
]
# These stand among keys, so a message never repeats them.
AccountCode = Annotated[
    Text,
    matching(r"[!-~]{1,80}", "an account code of at most 80 visible characters", secret=True),
]
Domain = Annotated[
    Text,
    matching(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?", "a domain", secret=True),
    AfterValidator(str.lower),
]
Context = Annotated[
    Text, matching(r"[A-Za-z0-9_.+*#@-]{1,80}", "the name of a context", secret=True)
]
Uuid = Annotated[str, AfterValidator(_uuid)]
PlainAddress = Annotated[Address, PlainValidator(parse_address)]
Listen = Annotated[Address | None, PlainValidator(_listen)]
Allowed = Annotated[Network, PlainValidator(_network)]
VariableName = Annotated[Text, matching(VARIABLE_NAME, "the name of a variable")]
HeaderName = Annotated[Text, matching(HEADER_NAME, "the name of a SIP header")]
VariableValue = Annotated[Any, PlainValidator(compile_value)]
HeaderValue = Annotated[Any, PlainValidator(_header)]
AsteriskTarget = Annotated[Text, matching(_ASTERISK_TARGET, "a target like from-internal,600,1")]
FreeSwitchTarget = Annotated[Text, matching(_FREESWITCH_TARGET, "a target like 600 XML default")]


LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


class Listening(Section):
    """A listener: only a source in ``allow`` is served; ``off`` does not listen."""

    listen: Listen
    allow: tuple[Allowed, ...] = LOOPBACK

    @pydantic.field_validator("allow")
    @classmethod
    def _somebody(cls, value: tuple[Network, ...]) -> tuple[Network, ...]:
        if not value:
            raise ValueError("is empty, so nobody could connect; expected networks")
        return value

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.listen is None:
            return self
        host = ipaddress.ip_address(self.listen.host)
        if host.is_loopback:
            own = LOOPBACK[0 if host.version == 4 else 1]
            may = [n for n in self.allow if n.version == own.version and n.overlaps(own)]
        else:
            may = [n for n in self.allow if not n.is_loopback]
        if not host.is_unspecified and not any(n.version == host.version for n in may):
            raise ValueError(
                f"nobody in allow can reach {self.listen}; expected the networks of its peers"
            )
        return self
