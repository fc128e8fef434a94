"""The sections that need a secret, and where it comes from: it never stands in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Self

import pydantic
from pydantic import BeforeValidator, Field, SecretStr

from .config_types import (
    NAME,
    AccountCode,
    Address,
    Context,
    Domain,
    Name,
    PerSecond,
    PlainAddress,
    Section,
    WholeNumber,
    as_list,
    matching,
)
from .tenants import Selectors

EnvironmentName = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable", secret=True)
]
CredentialName = Annotated[str, matching(NAME, "the name of a credential", secret=True)]
#: The value of an HTTP header; a token can be long.
HEADER_LINE = r"[!-~](?:[ -~]{0,4094}[!-~])?"


SECRET_SOURCES = ("secret_file", "secret_env", "credential")


class KeyUnknownHere(ValueError):
    """The key is a systemd credential, and this process is not the service that gets it."""


class _Key(Section):
    """Where a key comes from: exactly one of a file, the environment, a credential.

    ``credential`` is the name of a systemd credential, read from ``$CREDENTIALS_DIRECTORY``.
    """

    key_file: Path | None = None
    key_env: EnvironmentName | None = None
    credential: CredentialName | None = None

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "key_file", "key_env", "credential")
        return self


class Account(_Key):
    """An API key, which calls it is for, and how much it may stage; ``rate`` is in a second."""

    account_codes: Annotated[tuple[AccountCode, ...], BeforeValidator(as_list)] = ()
    domains: Annotated[tuple[Domain, ...], BeforeValidator(as_list)] = ()
    contexts: Annotated[tuple[Context, ...], BeforeValidator(as_list)] = ()
    max_in_flight: WholeNumber | None = Field(default=None, ge=1, le=100_000)
    rate: PerSecond | None = Field(default=None, ge=0.01, le=10_000)

    @property
    def selectors(self) -> Selectors:
        """What of a call leads to it."""
        return Selectors(
            account_codes=self.account_codes, domains=self.domains, contexts=self.contexts
        )

    def read_key(self) -> SecretStr:
        """The key.

        Raises:
            ValueError: it cannot be read, or is none; the message never repeats it.
        """
        return read_from("API key", self.key_file, "key_env", self.key_env, self.credential)


class SecretHeader(_Key):
    """Where the whole value of a lookup's header comes from, such as ``Bearer abc``."""

    def read_value(self) -> SecretStr:
        """The value.

        Raises:
            ValueError: it cannot be read, or is none; the message never repeats it.
        """
        source = (self.key_file, "key_env", self.key_env, self.credential)
        return read_from("header value", *source, pattern=HEADER_LINE)


class Secret(Section):
    """Where a secret comes from: a file, the environment, a credential; as for an account."""

    secret_file: Path | None = None
    secret_env: EnvironmentName | None = None
    credential: CredentialName | None = None

    def read_secret(self) -> SecretStr:
        """The secret.

        Raises:
            ValueError: it cannot be read, or is none; the message never repeats it.
        """
        return read_from("secret", self.secret_file, "secret_env", self.secret_env, self.credential)


class _Login(Secret):
    """How the doctor and the installer log in to a switch; the daemon never does."""

    address: PlainAddress

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, *SECRET_SOURCES)
        return self


class Ami(_Login):
    """Asterisk's manager interface; ``username`` is the section of manager.conf."""

    address: PlainAddress = Address("127.0.0.1", 5038)
    username: Name


class Esl(_Login):
    """FreeSWITCH's event socket."""

    address: PlainAddress = Address("127.0.0.1", 8021)


def _exactly_one(section: Section, *names: str) -> None:
    if sum(getattr(section, name) is not None for name in names) != 1:
        raise ValueError(f"needs exactly one of {names[0]}, {names[1]} and {names[2]}")


def read_from(
    what: str,
    file: Path | None,
    option: str,
    variable: str | None,
    credential: str | None,
    pattern: str = r"[!-~]{1,512}",
) -> SecretStr:
    """The secret of its one source; ``what`` and ``option`` are how a message names them.

    Raises:
        ValueError: it cannot be read, or is none; the message never repeats it.
    """
    if variable is not None:
        source, secret = f"the environment variable of {option}", os.environ.get(variable)
        if secret is None:
            raise ValueError(f"{source} is not set")
    else:
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        path = file or Path(directory, str(credential))
        if file is None and not directory:
            raise KeyUnknownHere(
                f"{credential} is known to the systemd service only: in a shell, "
                "$CREDENTIALS_DIRECTORY names the folder where it is"
            )
        source = str(path)
        try:
            secret = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "is not text"
            if path.is_relative_to("/run/credentials") and not directory:
                raise KeyUnknownHere(f"{source} exists for the systemd service only") from None
            raise ValueError(f"{source}: {said}") from None
    if not re.fullmatch(pattern, secret.strip()):
        raise ValueError(f"{source} holds no {what}: expected one line of visible ASCII")
    return SecretStr(secret.strip())
