"""HTTP lookups, the pure part: the URL to ask for a call, and what of the answer is taken.

What a caller says is percent-encoded whole. Servers differ in how often they decode, and in when
they look at dots and slashes; so where a value could lead out of its place in the path, nothing is
asked at all.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from .call import VARIABLE_NAME, clean
from .templates import Filled, Parts, ValueOf, parse

#: Characters of one value that go into a URL, and of the whole URL.
LONGEST_VALUE, LONGEST_URL = 256, 4096
#: Bytes of JSON that one variable may become, and how deep its maps may be nested.
LONGEST_VARIABLE, DEEPEST_VARIABLE = 4096, 4
#: Beyond this, JavaScript and many a parser of JSON round a whole number.
LARGEST_NUMBER = 2**53

JsonPath = tuple[str | int, ...]

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_ORIGIN = re.compile(
    rf"https?://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_NAME = r"[\w@:#/+-](?:[\w@:#/+ -]{0,126}[\w@:#/+-])?"
_INDEX = r"\[(?:0|[1-9][0-9]{0,4})\]"
_PATH = re.compile(rf"(?:{_NAME}|{_INDEX})(?:\.{_NAME}|{_INDEX})*")
_STEP = re.compile(r"\[([0-9]+)\]|([^.\[\]]+)")


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A URL with fields in the segments of its path and in its query; ``origin`` is literal."""

    origin: str
    host: str
    path: tuple[Parts, ...]
    query: Parts = ()

    @property
    def fields(self) -> Iterator[str]:
        """The names of the fields, as often as they stand in it."""
        for parts in (*self.path, self.query):
            yield from (field for _, field in parts if field is not None)

    def fill(self, value_of: ValueOf) -> str | None:
        """Path and query for a call; None where a value cannot stand in its place.

        In the path that is one that is empty, ``.`` or ``..``, or holds a slash.
        """

        values = {name: clean(value_of(name), LONGEST_VALUE) for name in self.fields}
        if not all(_stays(segment, values) for segment in self.path):
            return None
        target = "/".join(_encoded(segment, values) for segment in self.path)
        if self.query:
            target += "?" + _encoded(self.query, values)
        return target if len(self.origin) + len(target) <= LONGEST_URL else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What is asked for one call, by ``GET``, in at most ``timeout`` seconds.

    ``variables`` says where in the answer each dynamic variable stands. Of ``secret_headers`` only
    the names are here: whoever asks has the values, for each ``route``.
    """

    route: str
    origin: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: tuple[str, ...] = ()
    timeout: float
    variables: Mapping[str, JsonPath]

    @property
    def url(self) -> str:
        """The whole URL; a caller's number may stand in it."""
        return self.origin + self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTemplate:
    """A route's lookup; ``timeout`` is in seconds."""

    url: UrlTemplate
    variables: Mapping[str, JsonPath]
    timeout: float = 0.4
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: tuple[str, ...] = ()

    def fill(self, route: str, value_of: ValueOf, given: Container[str]) -> Lookup | None:
        """The lookup for a call whose dialplan has ``given`` some variables itself, if any."""
        variables = {name: path for name, path in self.variables.items() if name not in given}
        target = self.url.fill(value_of) if variables else None
        if target is None:
            return None
        return Lookup(
            route=route,
            origin=self.url.origin,
            target=target,
            headers=self.headers,
            secret_headers=self.secret_headers,
            timeout=self.timeout,
            variables=variables,
        )


def compile_url(text: object) -> UrlTemplate:
    """A URL of the configuration, its fields found.

    Raises:
        ValueError: it is none, or has a field where none may stand; the text is never repeated,
            as a password may stand in it.
    """
    if not isinstance(text, str):
        raise ValueError("is not text")
    scheme, separator, rest = text.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "{" in scheme or "{" in authority:
        raise ValueError("has a field before its path; scheme, host and port are literal")
    if "@" in authority:
        raise ValueError("has a user name; expected it in secret_headers, as Authorization")
    if "#" in rest:
        raise ValueError("has a fragment (#); expected %23, if the server wants one")
    origin = _ORIGIN.fullmatch(scheme + separator + authority)
    port = int(origin["port"] or 80) if origin else 0
    if not origin or not _is_host(origin["host"]) or not 0 < port < 65536:
        raise ValueError("is not a URL such as https://crm.example.net/customers/{caller.number}")
    target = rest[len(authority) :]
    parts = parse(target if target.startswith("/") else "/" + target)
    for literal, _ in parts:
        wrong = _LITERAL.sub("", literal, count=1)
        if wrong:
            wanted = quote(wrong[0], errors="replace")
            raise ValueError(f"holds {wrong[0]!r}; expected {wanted}, percent-encoded")
    path, *queries = _split(parts, "?")
    if len(queries) > 1:
        raise ValueError("holds a second question mark; expected %3F")
    segments = _split(path, "/")
    for segment in segments:
        literals = "".join(literal for literal, _ in segment)
        if all(name is None for _, name in segment) and {".", ".."} & {*_steps(literals)}:
            raise ValueError("has . or .. in its path; expected it without")
    return UrlTemplate(
        origin[0].lower(),
        origin["host"].strip("[]").lower(),
        tuple(segments),
        queries[0] if queries else (),
    )


def compile_path(text: object) -> JsonPath:
    """A path into a JSON answer: names joined by dots, and ``[index]``.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or not _PATH.fullmatch(text) or len(text) > 512:
        shown = "this" if not isinstance(text, str) else repr(text[:80])
        raise ValueError(
            f"{shown} is no path into the answer, such as customer.tags[0].name; "
            "expected names joined by dots, and [index]"
        )
    return tuple(int(step[1]) if step[1] is not None else step[2] for step in _STEP.finditer(text))


def found_in(raw: bytes, variables: Mapping[str, JsonPath]) -> dict[str, Filled]:
    """The variables that an answer holds: text, numbers, true, false, and nested maps of them.

    Raises:
        ValueError: the answer is no JSON.
    """
    try:
        answer = json.loads(raw, parse_int=_whole_number, parse_constant=lambda constant: None)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    values = {name: _taken(_at(answer, path)) for name, path in variables.items()}
    return {
        name: value
        for name, value in values.items()
        if value is not None and len(json.dumps(value)) <= LONGEST_VARIABLE
    }


def _whole_number(digits: str) -> int | None:
    """None for what int() would be slow with, or would refuse."""
    number = int(digits) if len(digits) <= 20 else LARGEST_NUMBER + 1
    return number if abs(number) <= LARGEST_NUMBER else None


def _at(value: object, path: JsonPath) -> object:
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _taken(value: object, depth: int = DEEPEST_VARIABLE) -> Filled | None:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and depth:
        inner = {
            name: taken
            for name, each in value.items()
            if VARIABLE_NAME.fullmatch(name)
            and name == _text(name)
            and (taken := _taken(each, depth - 1)) is not None
        }
        return inner or None
    return None


def _text(text: str) -> str:
    # Half a character (\ud83d alone) is JSON, but no text that the API would take.
    return clean(text.encode(errors="replace").decode())


def _is_host(host: str) -> bool:
    """Whether a host that is written as an address is one."""
    if not host.startswith("[") and not re.fullmatch(r"[0-9.]+", host):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _split(parts: Parts, mark: str) -> list[Parts]:
    """Parts of a template, apart where ``mark`` stands in their literal text."""
    found: list[list[tuple[str, str | None]]] = [[]]
    for literal, name in parts:
        *before, last = literal.split(mark)
        for text in before:
            found[-1].append((text, None))
            found.append([])
        found[-1].append((last, name))
    return [tuple(each) for each in found]


def _decoded(text: str) -> str:
    """A text as a server sees it that decodes it as often as it can."""
    while (plain := unquote(text)) != text:
        text = plain
    return text


def _encoded(parts: Parts, values: Mapping[str, str]) -> str:
    return "".join(
        literal + (quote(values[name], safe="", errors="replace") if name is not None else "")
        for literal, name in parts
    )


def _stays(segment: Parts, values: Mapping[str, str]) -> bool:
    """Whether a segment is one wherever its slashes, its dots and its parameters are looked at."""
    names = [name for _, name in segment if name is not None]
    if any(re.search(r"[/\\]", _decoded(values[name])) for name in names):
        return False
    text = "".join(literal + values.get(name or "", "") for literal, name in segment)
    return not names or not any(name in ("", ".", "..") for name in _steps(text))


def _steps(segment: str) -> list[str]:
    """What a server may make of one segment."""
    return [step.partition(";")[0].strip() for step in re.split(r"[/\\]", _decoded(segment))]
