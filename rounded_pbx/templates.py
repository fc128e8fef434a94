"""Templates of dynamic variables and custom headers: ``{caller.name}``, ``{channel.ACCOUNT}``.

A configuration value is compiled once, at start, to a tree of constants and ``Template``s, and
filled for every call. Constants keep their type; a template always yields text.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .call import clean

#: The fields that a template may name, beside ``channel.NAME``.
FIELDS = (
    "account_code",
    "caller.name",
    "caller.number",
    "channel.NAME",
    "context",
    "did",
    "rdnis",
    "route",
    "switch",
    "unique_id",
)
CHANNEL = "channel."
_CHANNEL_FIELD = re.compile(r"channel\.[A-Za-z_][A-Za-z0-9_]{0,79}")

#: What is known of a field, by its name.
ValueOf = Callable[[str], str]
#: Literal text and the field that follows it, in turns; None where none does.
Parts = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Template:
    """Text with fields in it: ``parts`` alternates literal text and field names."""

    parts: Parts

    @property
    def fields(self) -> Iterator[str]:
        """The names of the fields, as often as they stand in it."""
        return (field for _, field in self.parts if field is not None)

    def fill(self, value_of: ValueOf) -> str:
        """The text, each field replaced by what is known of it, its control characters gone."""
        return "".join(
            literal + (clean(value_of(field)) if field is not None else "")
            for literal, field in self.parts
        )


Value = str | int | float | bool | Template | Mapping[str, "Value"]
Filled = str | int | float | bool | dict[str, "Filled"]


def compile_value(value: object) -> Value:
    """A configuration value as a tree of constants and templates.

    Raises:
        ValueError: it is of a type that the API does not take, or names an unknown field.
    """
    if isinstance(value, str):
        return _compile_text(value)
    if isinstance(value, bool | int | float):
        if value in (math.inf, -math.inf):
            raise ValueError("is beyond what a number can be; put it in quotes")
        return value
    if isinstance(value, Mapping):
        return {str(name): compile_value(inner) for name, inner in value.items()}
    kind = "empty" if value is None else f"a {type(value).__name__}"
    raise ValueError(f"is {kind}; expected text, a number, true or false, or a nested map")


def _compile_text(text: str) -> str | Template:
    try:
        parts = parse(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if all(field is None for _, field in parts):
        return "".join(literal for literal, _ in parts)
    return Template(parts)


def parse(text: str) -> Parts:
    """The literal text and the fields of a text.

    Raises:
        ValueError: a field is not known, or a brace stands alone; the text is not repeated.
    """
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces that are text") from None
    for _, field, spec, conversion in parsed:
        if field is None:
            continue
        if spec or conversion or not (_CHANNEL_FIELD.fullmatch(field) or field in FIELDS):
            raise ValueError(
                f"{{{field}}} is not known; expected one of "
                + ", ".join(f"{{{name}}}" for name in FIELDS)
            )
    return tuple((literal, field) for literal, field, _, _ in parsed)


def fill(value: Value, value_of: ValueOf) -> Filled:
    """The tree with every template filled."""
    if isinstance(value, Template):
        return value.fill(value_of)
    if isinstance(value, Mapping):
        return {name: fill(inner, value_of) for name, inner in value.items()}
    return value


def fields(value: Value) -> Iterator[str]:
    """The fields that the templates of a tree name."""
    if isinstance(value, Template):
        yield from value.fields
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from fields(inner)
