"""A route's HTTP lookup as it stands in the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from .call import HEADER_NAME
from .config_secrets import HEADER_LINE, SecretHeader
from .config_types import Seconds, Section, Text, VariableName, as_text, is_loopback, matching
from .lookups import JsonPath, LookupTemplate, UrlTemplate, compile_path, compile_url

# What HTTP itself, or the lookup, says in these, no one else must.
_OURS = frozenset(
    [
        *["accept-encoding", "connection", "content-length", "expect", "host", "keep-alive"],
        *["te", "trailer", "transfer-encoding", "upgrade"],
    ]
)


def _not_ours(name: str) -> str:
    if name.lower() in _OURS:
        raise ValueError(f"{name} is set by the lookup itself; expected another header")
    return name


def _literal(value: str) -> str:
    if "{" in value:
        raise ValueError("a header of a lookup is literal; expected fields in its url only")
    return value


_Url = Annotated[Any, PlainValidator(compile_url)]
_Name = Annotated[
    Text, matching(HEADER_NAME, "the name of an HTTP header"), AfterValidator(_not_ours)
]
_Value = Annotated[
    Text,
    matching(HEADER_LINE, "one line of visible ASCII", secret=True),
    AfterValidator(_literal),
]
_Path = Annotated[JsonPath, PlainValidator(compile_path), BeforeValidator(as_text)]


class LookupSection(Section):
    """What is asked for each call of a route; ``timeout`` is in seconds.

    ``headers`` are literal; those of ``secret_headers`` are read when the daemon starts.
    """

    url: _Url
    headers: dict[_Name, _Value] = Field(default_factory=dict)
    secret_headers: dict[_Name, SecretHeader] = Field(default_factory=dict)
    timeout: Seconds = Field(default=0.4, ge=0.05, le=30.0)
    variables: dict[VariableName, _Path]

    @pydantic.field_validator("variables")
    @classmethod
    def _some(cls, value: dict[str, JsonPath]) -> dict[str, JsonPath]:
        if not value:
            raise ValueError("is empty; expected a variable and where it stands in the answer")
        return value

    @pydantic.model_validator(mode="after")
    def _each_header_once(self) -> Self:
        names = [name.lower() for name in (*self.headers, *self.secret_headers)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the header {name} stands twice; expected it once")
        return self

    @pydantic.model_validator(mode="after")
    def _keeps_its_secrets(self) -> Self:
        url: UrlTemplate = self.url
        if self.secret_headers and url.origin.startswith("http:") and not is_loopback(url.host):
            raise ValueError("url would send secret_headers in clear; expected https://")
        return self

    def to_template(self) -> LookupTemplate:
        """The lookup, ready to be filled for a call."""
        return LookupTemplate(
            url=self.url,
            headers=self.headers,
            secret_headers=tuple(self.secret_headers),
            timeout=self.timeout,
            variables=self.variables,
        )
