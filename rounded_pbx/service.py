"""The daemon as a process: signals, the configuration's file, and systemd."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from . import logs, systemd
from .config import Config, load, read_secrets
from .config_secrets import SECRET_SOURCES
from .daemon import Daemon, running
from .errors import ConfigError, Problem, RoundedPbxError
from .yamlfile import Loc, YamlFile

log = logging.getLogger(__name__)

#: Seconds between two status lines for systemd.
STATUS_EVERY = 5.0
#: What a reload cannot change: it is opened once.
FIXED: tuple[Loc, ...] = (
    ("asterisk", "fastagi", "listen"),
    ("freeswitch", "outbound", "listen"),
    *(("prestage", name) for name in ("store", "username", *SECRET_SOURCES)),
    ("status",),
)


def read(path: Path) -> tuple[Config, dict[str, str], dict[str, dict[str, str]]]:
    """A configuration, the accounts' keys, and the secret headers of the routes' lookups.

    Raises:
        ConfigError: with every mistake that it has.
    """
    config = load(path)
    secrets = read_secrets(path, config, page=False)
    if secrets.unknown:
        raise ConfigError(secrets.unknown)
    keys = {name: key.get_secret_value() for name, key in secrets.keys.items()}
    headers = {
        route: {name: value.get_secret_value() for name, value in values.items()}
        for route, values in secrets.headers.items()
    }
    return config, keys, headers


async def reload(daemon: Daemon, path: Path) -> bool:
    """Read the configuration again, whole or not at all; the log says why not."""
    was = daemon.config
    try:
        config, keys, headers = await asyncio.to_thread(read, path)
        changed = [loc for loc in FIXED if _at(config, loc) != _at(was, loc)]
        if changed:
            raise ConfigError(await asyncio.to_thread(_want_a_restart, path, changed))
        await daemon.reload(config, keys, headers)
    except ConfigError as error:
        for problem in error.problems:
            log.error("%s:%d: %s", problem.file, problem.line, problem.text)
        log.error("the configuration was NOT read anew: the one from before holds")
    except RoundedPbxError as error:
        log.error("the configuration was NOT read anew: %s", error)
    except Exception:
        log.exception("a defect of rounded_pbx in a reload; the configuration from before holds")
    else:
        return True
    return False


def _want_a_restart(path: Path, changed: Sequence[Loc]) -> list[Problem]:
    file, why = YamlFile(path), "has changed, which a reload cannot do; restart the daemon"
    return [file.problem(loc, f"{'.'.join(map(str, loc))} {why}") for loc in changed]


def _at(config: Config, loc: Loc) -> object:
    value: object = config
    for name in loc:
        value = getattr(value, str(name))
    return value


async def serve(path: Path, *, verbose: bool = False) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the configuration at ``path`` again.

    Raises:
        OSError, RoundedPbxError: it cannot start.
    """
    config, keys, headers = read(path)
    logs.configure(config.logs.format, verbose=verbose)
    stop, hup = stop_signals(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hup.set)
    async with running(config, keys, headers, systemd.take_sockets()) as daemon:
        # What is loaded now stays: a full collection would walk it for 8 ms, in somebody's call.
        gc.collect()
        gc.freeze()
        chores = [
            asyncio.ensure_future(_reloads(daemon, path, hup, verbose=verbose)),
            asyncio.ensure_future(_signs_of_life(daemon)),
        ]
        systemd.notify("READY=1", _status(daemon))
        try:
            await stop.wait()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            systemd.notify("STOPPING=1")
            log.info("stopping: no new calls; those in flight end within their deadline")


def stop_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT from now on; the next one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def told() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, told)
    return stop


async def _reloads(daemon: Daemon, path: Path, hup: asyncio.Event, *, verbose: bool) -> None:
    """Read the configuration again whenever it is wanted; twice at a time is once."""
    while True:
        await hup.wait()
        hup.clear()
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        worked = await reload(daemon, path)
        daemon.metrics.count_reload(worked=worked)
        logs.configure(daemon.config.logs.format, verbose=verbose)
        systemd.notify("READY=1", _status(daemon))


async def _signs_of_life(daemon: Daemon) -> None:
    """Show systemd's watchdog that the loop runs: a frozen daemon is ended, and its calls go on."""
    limit = systemd.watchdog_seconds()
    while True:
        await asyncio.sleep(min(STATUS_EVERY, limit / 3 if limit else STATUS_EVERY))
        systemd.notify("WATCHDOG=1", _status(daemon))


def _status(daemon: Daemon) -> str:
    where = ", ".join(f"{switch} on {address}" for switch, address in daemon.addresses.items())
    return f"STATUS={sum(daemon.state().sessions.values())} calls in hand; {where}"
