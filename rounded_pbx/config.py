"""The configuration: YAML in, frozen values out; every default stands here.

Pydantic checks the shape of each section, ``config_checks`` what one section says of another.
All mistakes are reported at once, each with the line that it stands in.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field, SecretStr

from .call import Direction, Switch, Wait
from .config_checks import cross_checks, explain
from .config_lookup import LookupSection
from .config_prestage import Prestage
from .config_secrets import Account, Ami, Esl, KeyUnknownHere
from .config_status import Status
from .config_types import (
    HOST_AND_PORT,
    Address,
    AsteriskTarget,
    Country,
    Did,
    Extension,
    FreeSwitchTarget,
    HeaderName,
    HeaderValue,
    Listen,
    Listening,
    Matched,
    Name,
    Number,
    Seconds,
    Section,
    Uuid,
    VariableName,
    VariableValue,
    WholeNumber,
    as_list,
    is_loopback,
    matching,
)
from .errors import ConfigError, Problem
from .logs import Format
from .numbers import CallerPolicy
from .routing import Next, Route, RouteTable, number_forms
from .tenants import AccountTable
from .yamlfile import Loc, YamlFile

DEFAULT_PATH = Path("/etc/rounded_pbx/config.yml")
ENVIRONMENT = "ROUNDED_PBX_CONFIG"
#: Seconds that an agent may ring, unless the trunk says otherwise.
DEFAULT_RING = 15


class Api(Section):
    """How the Rounded API is reached.

    ``warm`` connections are open at any time; every ``probe_interval`` seconds each one that
    stands idle carries a light GET, which also tells whether the API is there. ``trust_env`` lets
    the environment's proxy settings in; without it nothing outside this file redirects the API.
    """

    base_url: str = "https://api.callrounded.com"
    ca_file: Path | None = None
    trust_env: bool = False
    warm: WholeNumber = Field(default=4, ge=0, le=256)
    max_connections: WholeNumber = Field(default=200, ge=1, le=4096)
    probe_interval: Seconds = Field(default=20.0, ge=1.0, le=3600.0)

    @pydantic.model_validator(mode="after")
    def _less_warm_than_open(self) -> Self:
        if self.warm >= self.max_connections:  # or the probes would leave no connection for calls
            raise ValueError("warm is not less than max_connections")
        return self

    @pydantic.field_validator("base_url")
    @classmethod
    def _checked_url(cls, value: str) -> str:
        url = re.fullmatch(
            r"(https?)://([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?/?", value
        )
        if not url or int(url[3] or 0) > 65535:
            shown = "this" if "@" in value else repr(value)  # a password may stand in it
            raise ValueError(f"{shown} is not a URL such as https://api.callrounded.com")
        if url[1] == "http" and not is_loopback(url[2].strip("[]")):
            raise ValueError(f"{value!r} would send the API key in clear; expected https://")
        if url[2].startswith("["):
            ipaddress.IPv6Address(url[2].strip("[]"))
        return value.rstrip("/").lower()

    @pydantic.field_validator("ca_file")
    @classmethod
    def _holds_certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:
                raise ValueError(f"{value}: {error.strerror}") from None
        return value


class Calls(Section):
    """What holds for every call; ``deadline`` is in seconds, from accept to the last reply."""

    deadline: Seconds = Field(default=1.5, ge=0.2, le=30.0)
    wait: Wait = Wait.POLL
    send_unstaged: bool = True
    max_in_flight: WholeNumber = Field(default=2000, ge=1, le=100_000)
    ringback: bool = True
    default_on_failure: Next = Next.DIAL


class Numbers(Section):
    """How numbers are read, and what stands for a caller who shows none."""

    country: Country | None = None
    withheld: Number | None = None
    malformed: Number | None = None

    @property
    def policy(self) -> CallerPolicy:
        """The policy for callers; without ``malformed``, ``withheld`` serves for both."""
        return CallerPolicy(self.withheld, self.malformed or self.withheld)


class Fallback(Section):
    """Where a call goes that the agent does not take, in each switch's own notation."""

    asterisk: AsteriskTarget | None = None
    freeswitch: FreeSwitchTarget | None = None


class RouteSection(Section):
    """A route as it is written; ``to_route`` fills in what ``calls`` and ``numbers`` say."""

    name: Name
    did: Annotated[tuple[Did, ...], BeforeValidator(as_list)] = ()
    agent_id: Uuid
    account: Name | None = None
    country: Country | None = None
    to_number: Number | None = None
    direction: Direction | None = None
    wait: Wait | None = None
    send_unstaged: bool | None = None
    dynamic_variables: dict[VariableName, VariableValue] = Field(default_factory=dict)
    custom_headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    lookup: LookupSection | None = None
    on_failure: Next | None = None
    fallback: Fallback = Fallback()

    def to_route(self, calls: Calls, numbers: Numbers) -> Route:
        """The route with every default filled in."""
        country = self.country or numbers.country
        return Route(
            name=self.name,
            agent_id=self.agent_id,
            dids=tuple(form for did in self.did for form in number_forms(did, country)),
            account=self.account,
            country=country,
            home=numbers.country,
            to_number=self.to_number,
            direction=self.direction,
            wait=self.wait or calls.wait,
            send_unstaged=calls.send_unstaged if self.send_unstaged is None else self.send_unstaged,
            dynamic_variables=self.dynamic_variables,
            custom_headers=self.custom_headers,
            lookup=self.lookup.to_template() if self.lookup else None,
            on_failure=self.on_failure or calls.default_on_failure,
            fallback={Switch(name): target for name, target in self.fallback if target},
        )


class Trunk(Section):
    """The SIP trunk to the platform, for the dialplans; the daemon has no use of it.

    ``host`` is an IPv4 address or a name, with a port or without; ``match`` where the platform
    calls from (its host, if nothing is given), ``transport`` PJSIP's own, ``ring`` seconds.
    ``auth`` says that the platform wants a user name and a password, which stand in the switch's
    files only; ``transfers`` what the agent may transfer to, and where that leads.
    """

    name: Name = "rounded"
    host: Annotated[str, matching(HOST_AND_PORT, "a host name or IPv4 address, or host:port")]
    match: Annotated[tuple[Matched, ...], BeforeValidator(as_list)] = ()
    transport: Name = "transport-udp"
    auth: bool = False
    ring: WholeNumber = Field(default=DEFAULT_RING, ge=1, le=300)
    transfers: dict[Extension, Fallback] = Field(default_factory=dict)

    @property
    def address(self) -> str:
        """The host without its port."""
        return self.host.partition(":")[0]


class FastAgi(Listening):
    """The listener for Asterisk's AGI."""

    listen: Listen = Address("127.0.0.1", 4573)


class Outbound(Listening):
    """The listener for FreeSWITCH's outbound socket."""

    listen: Listen = Address("127.0.0.1", 8084)


class AsteriskSection(Section):
    """The Asterisk side; ``ami`` is how the doctor and the installer ask it."""

    fastagi: FastAgi = FastAgi()
    ami: Ami | None = None


class FreeSwitchSection(Section):
    """The FreeSWITCH side; ``esl`` is how the doctor and the installer ask it."""

    outbound: Outbound = Outbound()
    esl: Esl | None = None


class Logs(Section):
    """How the daemon logs; callers' numbers are masked unless they are asked for in full."""

    format: Format = "text"
    caller_numbers: Literal["masked", "full"] = "masked"


class Config(Section):
    """The whole configuration; ``pbx`` is the host's name unless it says otherwise."""

    accounts: dict[Name, Account]
    api: Api = Api()
    calls: Calls = Calls()
    numbers: Numbers = Numbers()
    routes: tuple[RouteSection, ...] = ()
    prestage: Prestage = Prestage()
    pbx: Name | None = None
    logs: Logs = Logs()
    trunk: Trunk | None = None
    asterisk: AsteriskSection = AsteriskSection()
    freeswitch: FreeSwitchSection = FreeSwitchSection()
    status: Status = Status()

    @pydantic.model_validator(mode="after")
    def _serves_somebody(self) -> Self:
        if self.asterisk.fastagi.listen is None and self.freeswitch.outbound.listen is None:
            raise ValueError(
                "asterisk.fastagi.listen and freeswitch.outbound.listen are both off: "
                "expected an address for one of them"
            )
        return self

    @pydantic.model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: object) -> object:
        """A section whose every line is commented out."""
        if not isinstance(data, dict):
            return data
        return {name: section for name, section in data.items() if section is not None}

    @property
    def pbx_name(self) -> str:
        """What this PBX is called in the metadata of its calls."""
        return self.pbx or platform.node() or "pbx"

    @property
    def fresh(self) -> float:
        """Seconds in which a call that was staged early can be dialled."""
        return self.prestage.fresh(self.trunk.ring if self.trunk else DEFAULT_RING)

    def route_table(self) -> RouteTable:
        """The routes, ready to be asked."""
        routes = (route.to_route(self.calls, self.numbers) for route in self.routes)
        return RouteTable(routes, self.numbers.country)

    def account_table(self) -> AccountTable:
        """What leads calls to the accounts, ready to be asked."""
        return AccountTable({name: account.selectors for name, account in self.accounts.items()})


def config_path(given: Path | None) -> Path:
    """The file to read: ``--config``, ``$ROUNDED_PBX_CONFIG``, ``/etc/rounded_pbx/config.yml``."""
    return given or Path(os.environ.get(ENVIRONMENT) or DEFAULT_PATH)


def load(path: Path) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: with every mistake that it has.
    """
    file = YamlFile(path)
    data = file.data if file.data is not None else {}
    problems = [file.problem(loc, text) for loc, text in cross_checks(data)]
    try:
        config = Config.model_validate(data)
    except pydantic.ValidationError as error:
        problems += [file.problem(*explain(Config, e)) for e in error.errors(include_url=False)]
    if problems:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is read when the daemon starts: each account's key, each route's secret headers.

    ``unknown`` names those that only the systemd service can read.
    """

    keys: dict[str, SecretStr]
    headers: dict[str, dict[str, SecretStr]]
    unknown: list[Problem]


def read_secrets(path: Path, config: Config, *, page: bool = True) -> Secrets:
    """The API keys, the secret headers; and whether the store's password and the
    status page's token can be read.

    Without ``page`` nobody asks for that token, as calls go on where there is no page.

    Raises:
        ConfigError: for each that nobody can read.
    """
    file, secrets = YamlFile(path), Secrets({}, {}, [])
    problems: list[Problem] = []

    def read(reader: Callable[[], SecretStr], into: dict[str, SecretStr], loc: Loc) -> None:
        try:
            into[str(loc[-1])] = reader()
        except ValueError as error:
            found = secrets.unknown if isinstance(error, KeyUnknownHere) else problems
            found.append(file.problem(loc, f"{'.'.join(map(str, loc))}: {error}"))

    for name, account in config.accounts.items():
        read(account.read_key, secrets.keys, ("accounts", name))
    for index, route in enumerate(config.routes):
        sources = route.lookup.secret_headers if route.lookup else {}
        values = secrets.headers.setdefault(route.name, {})
        for header, source in sources.items():
            read(source.read_value, values, ("routes", index, "lookup", "secret_headers", header))
    if config.prestage.has_password:
        read(config.prestage.read_secret, {}, ("prestage",))
    if page and config.status.listen is not None and config.status.has_token:
        read(config.status.read_token, {}, ("status",))
    if problems:
        raise ConfigError(problems)
    return secrets
