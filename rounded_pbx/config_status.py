"""The part of the configuration that says where the daemon shows how it is: ``status``."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, SecretStr

from .config_secrets import CredentialName, EnvironmentName, read_from
from .config_types import Address, Listen, Listening, Text, as_list

#: Connections at any time: open files that sessions cannot have.
STATUS_CONNECTIONS = 96
#: Of a token, at least: what is shorter could be guessed.
SHORTEST_TOKEN = 16

_SOURCES = ("token_file", "token_env", "credential")


_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")


def _host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no host name or address without a port") from None
        return value.lower()


_Host = Annotated[Text, AfterValidator(_host)]


class Status(Listening):
    """The HTTP listener for an admin's browser, a monitoring system and a load balancer.

    ``hosts`` are further names by which browsers may ask for it. A token is required where it
    listens beyond loopback; ``credential`` is the name of a systemd credential.
    """

    listen: Listen = Address("127.0.0.1", 9810)
    hosts: Annotated[tuple[_Host, ...], BeforeValidator(as_list)] = ()
    token_file: Path | None = None
    token_env: EnvironmentName | None = None
    credential: CredentialName | None = None

    @pydantic.model_validator(mode="after")
    def _guarded(self) -> Self:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; expected one source of the token")
        if self.listen is not None and not self.listen.is_loopback and not given:
            raise ValueError(
                f"{self.listen} is beyond loopback, so it needs a token: "
                f"expected {', '.join(_SOURCES[:-1])} or {_SOURCES[-1]}"
            )
        return self

    @property
    def has_token(self) -> bool:
        """Whether a token is wanted: ``read_token`` reads it."""
        return any(getattr(self, name) is not None for name in _SOURCES)

    def read_token(self) -> SecretStr:
        """The token.

        Raises:
            ValueError: it cannot be read, or is none; the message never repeats it.
        """
        return read_from(
            f"token of {SHORTEST_TOKEN} characters or more",
            self.token_file,
            "token_env",
            self.token_env,
            self.credential,
            pattern=f"[!-~]{{{SHORTEST_TOKEN},512}}",
        )
