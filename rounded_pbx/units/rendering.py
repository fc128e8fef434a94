"""Config -> systemd's units: the service, and a socket for each listener that is on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from string import Template

from ..call import Switch
from ..config import DEFAULT_PATH, Config
from ..config_secrets import SecretHeader
from ..config_types import Address

SERVICE = "rounded-pbx.service"
#: Every unit that there can be, in the order in which they are written.
NAMES = (*(f"rounded-pbx-{switch}.socket" for switch in Switch), SERVICE)
#: What every one of them begins with.
MARK = "# Written by `rounded-pbx systemd`"
#: Seconds after ``calls.deadline`` until a daemon that does not end is killed.
STOP_MARGIN = 8


class _Template(Template):
    # systemd's own sign is the dollar; its percent stands nowhere in these units.
    delimiter = "%"


def render(config: Config, *, program: Path, file: Path) -> dict[str, str]:
    """The units by their names, for a daemon that is run as ``program`` and reads ``file``.

    There is no socket for the status page: a health check must be refused where nothing runs.
    """
    listening = dict(_listening(config))
    units = {
        _socket(switch): _fill(
            "rounded-pbx.socket",
            switch=switch,
            name={Switch.ASTERISK: "Asterisk", Switch.FREESWITCH: "FreeSWITCH"}[switch],
            address=str(address),
        )
        for switch, address in listening.items()
    }
    folder = file.parent
    units[SERVICE] = _fill(
        SERVICE,
        program=str(program),
        options="" if file == DEFAULT_PATH else f" --config {file}",
        sockets="".join(f"Sockets={_socket(switch)}\n" for switch in listening),
        stop=str(math.ceil(config.calls.deadline) + STOP_MARGIN),
        credentials="".join(
            f"LoadCredential={name}:{folder / name}\n" for name in credentials(config)
        ),
    )
    return units


def credentials(config: Config) -> list[str]:
    """The systemd credentials that the daemon reads."""
    named = {account.credential for account in config.accounts.values()}
    named |= {header.credential for _, header in _headers(config)}
    named.add(config.prestage.credential)
    if config.status.listen is not None:
        named.add(config.status.credential)
    return sorted(name for name in named if name is not None)


def other_sources(config: Config) -> Iterator[tuple[str, Path | None]]:
    """Secrets that are no credentials: where each stands, and its file, or None: a variable."""
    for name, account in config.accounts.items():
        if account.credential is None:
            yield f"accounts.{name}", account.key_file
    for place, header in _headers(config):
        if header.credential is None:
            yield place, header.key_file
    if config.prestage.has_password and config.prestage.credential is None:
        yield "prestage", config.prestage.secret_file
    status = config.status
    if status.listen is not None and status.has_token and status.credential is None:
        yield "status", status.token_file


def _headers(config: Config) -> Iterator[tuple[str, SecretHeader]]:
    for route in config.routes:
        for name, header in (route.lookup.secret_headers if route.lookup else {}).items():
            yield f"the lookup of route {route.name}, {name}", header


def _listening(config: Config) -> Iterator[tuple[Switch, Address]]:
    if config.asterisk.fastagi.listen is not None:
        yield Switch.ASTERISK, config.asterisk.fastagi.listen
    if config.freeswitch.outbound.listen is not None:
        yield Switch.FREESWITCH, config.freeswitch.outbound.listen


def _socket(switch: Switch) -> str:
    return f"rounded-pbx-{switch}.socket"


def _fill(template: str, /, **values: str) -> str:
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    return _Template(text).substitute(values)
