"""Every check, in the order in which a call meets what they look at."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ..config import Config, read_secrets
from ..control.login import to_asterisk, to_freeswitch
from ..errors import CommandFailed, ConfigError, LoginRefused, NoPermission, Problem, SwitchError
from .api import check_api
from .asterisk import RIGHTS, check_asterisk
from .files import check_files
from .freeswitch import check_freeswitch
from .listeners import check_listeners
from .results import CheckResult, look, right, wrong
from .store import check_store

_WHERE = {
    "asterisk": "asterisk.ami (address, username, secret), and the user's permit in manager.conf",
    "freeswitch": "freeswitch.esl (address, secret), and event_socket.conf.xml with its ACL",
}


def not_to_be_used(error: ConfigError) -> list[CheckResult]:
    """What is wrong with a configuration, and nothing else can be looked at."""
    todo = "correct it; rounded-pbx check says when it is right"
    return [
        wrong("configuration", f"{problem.file}:{problem.line}", problem.text, todo)
        for problem in error.problems
    ]


async def examine(path: Path, config: Config) -> AsyncIterator[CheckResult]:
    """Look at everything; nothing is changed, and no call is made."""
    routes = len(config.routes)
    yield right("configuration", f"{path}: no mistakes, {routes} route{'s' * (routes != 1)}")
    yield check_files(config)
    async for result in _keys(path, config):
        yield result
    if config.prestage.store != "memory":
        yield await check_store(config.prestage)
    async for result in check_listeners(config):
        yield result
    if config.asterisk.ami is None and config.freeswitch.esl is None:
        yield look(
            "switch",
            "neither asterisk.ami nor freeswitch.esl is there",
            "the switch cannot be looked at",
            "put one of them into the configuration: see docs/configuration.md",
        )
    for switch, login, connect, check in (
        ("asterisk", config.asterisk.ami, to_asterisk, check_asterisk),
        ("freeswitch", config.freeswitch.esl, to_freeswitch, check_freeswitch),
    ):
        if login is not None:
            async for result in _switch(switch, config, connect, check):
                yield result


async def _keys(path: Path, config: Config) -> AsyncIterator[CheckResult]:
    try:
        secrets = read_secrets(path, config)
    except ConfigError as error:
        for problem in error.problems:
            todo = "put the key there, or give the doctor the right to read it"
            yield wrong(_secret(problem), f"{problem.file}:{problem.line}", problem.text, todo)
        return
    for problem in secrets.unknown:
        todo = "CREDENTIALS_DIRECTORY=/etc/rounded_pbx rounded-pbx doctor finds it, as stage does"
        yield look(_secret(problem), problem.text, "the key was not looked at", todo)
    reached = False
    for name, key in secrets.keys.items():
        async for result in check_api(config, name, key.get_secret_value()):
            if result.name.startswith("api.key.") or not reached:
                yield result
        reached = True


def _secret(problem: Problem) -> str:
    names = {"accounts": "api.key", "prestage": "prestage.password", "status": "status.token"}
    return names.get(re.split("[.:]", problem.text)[0], "lookup.header")


async def _switch(
    switch: str,
    config: Config,
    connect: Callable[[Config], Any],
    check: Callable[[Any, Config], AsyncIterator[CheckResult]],
) -> AsyncIterator[CheckResult]:
    name, where = f"{switch}.login", _WHERE[switch]
    try:
        control = connect(config)
    except ValueError as error:
        yield wrong(name, str(error), "nobody can log in with that", where)
        return
    inside = False
    try:
        await control.log_in()
        inside = True
        yield right(name, f"{control.address}: let in")
        yield right(f"{switch}.version", await control.version())
        async for result in check(control, config):
            yield result
    except LoginRefused as error:
        yield wrong(name, str(error), "the switch does not let us in", where)
    except NoPermission as error:
        what, todo = "the manager's user lacks a right", f"in manager.conf: {RIGHTS}"
        yield wrong(f"{switch}.rights", str(error), what, todo)
    except CommandFailed as error:
        yield wrong(f"{switch}.answers", str(error), "the switch refused to say", "see its own log")
    except SwitchError as error:
        what = "the switch does not answer"
        yield wrong(f"{switch}.answers" if inside else name, str(error), what, where)
    finally:
        await control.close()
