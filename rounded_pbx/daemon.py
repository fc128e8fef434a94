"""The daemon: everything that runs, started, kept and ended in one place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from . import __version__
from .accounts import ERRANDS_AT_ONCE, Accounts
from .api import HttpLookups
from .api.lookup import MAX_CONNECTIONS
from .call import Switch
from .config import Config
from .config_prestage import REDIS_CONNECTIONS, Prestage
from .config_shown import shown
from .config_status import STATUS_CONNECTIONS
from .config_types import Address, Listening
from .errands import Errands
from .errors import BadNumber
from .handler import Desk, log_call
from .numbers import to_e164
from .prestage import Dispose, MemoryStore, Prestages, Store
from .protocol.agi import LONGEST_ENVIRONMENT
from .protocol.esl import LONGEST_BLOCK
from .records import CallRecord
from .servers.fastagi import FastAgiApplication
from .servers.listener import Listener, Serve
from .servers.outbound import OutboundServer
from .stager import Stager
from .watch import Watch

log = logging.getLogger(__name__)

#: Seconds that calls in flight get to end when the daemon stops, beyond their own deadline.
DRAIN_MARGIN = 1.0


#: Tickets for each staging in flight: a greeting takes some times as long as a staging.
TICKETS_EACH = 10


@dataclass(frozen=True, slots=True)
class Work:
    """What is at work behind a desk."""

    desk: Desk
    stager: Stager
    tickets: Prestages
    errands: Errands


@contextlib.asynccontextmanager
async def at_the_desk(
    config: Config,
    accounts: Accounts,
    headers: Mapping[str, Mapping[str, str]],
) -> AsyncIterator[Desk]:
    """What calls are handled with, and nothing beside; as ``at_work``."""
    async with at_work(config, accounts, headers) as work:
        yield work.desk


@contextlib.asynccontextmanager
async def at_work(
    config: Config,
    accounts: Accounts,
    headers: Mapping[str, Mapping[str, str]],
) -> AsyncIterator[Work]:
    """What calls are handled with; leaving it ends what nobody waits for.

    ``headers`` are the secret ones of each route's lookup.

    Raises:
        RoundedPbxError: the environment's proxy is one that we cannot use.
    """
    errands = Errands(
        accounts.errand_clients,
        pbx=config.pbx_name,
        at_once=ERRANDS_AT_ONCE,
        terminate=config.prestage.terminate_abandoned,
    )
    async with HttpLookups(
        _lookup_origins(config), headers, trust_env=config.api.trust_env
    ) as lookups:
        stager = Stager(accounts.by_name, config.calls.max_in_flight, lookups, errands)
        tickets = Prestages(
            stager,
            _store(config.prestage, errands.dispose),
            limit=config.prestage.limit,
            fresh=config.fresh,
            most=TICKETS_EACH * config.calls.max_in_flight,
            dispose=errands.dispose,
        )
        running_errands = asyncio.ensure_future(errands.run())
        try:
            desk = Desk(
                routes=config.route_table(),
                policy=config.numbers.policy,
                stager=stager,
                default_on_failure=config.calls.default_on_failure,
                tickets=tickets,
                accounts=config.account_table(),
            )
            yield Work(desk, stager, tickets, errands)
        finally:
            await tickets.aclose(DRAIN_MARGIN)
            await errands.finish(DRAIN_MARGIN)
            await _cancelled(running_errands)


def _lookup_origins(config: Config) -> set[str]:
    return {route.lookup.url.origin for route in config.routes if route.lookup is not None}


def _store(prestage: Prestage, dispose: Dispose) -> Store:
    if prestage.store == "memory":
        return MemoryStore(dispose)
    from .prestage_redis import store_of  # an extra

    return store_of(prestage)


async def _cancelled(task: asyncio.Future[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


#: Open files beside sessions and what goes out over HTTP: the loop, the log, tables being read.
OTHER_FILES = 64


def _most_sessions(config: Config, accounts: int, listeners: int) -> int:
    """Of each listener: beyond the stagings in flight, so that those too many are told LIMITED.

    systemd and shells give 1024 open files unless asked. A daemon that has none left accepts nobody
    for a second at a time, and its callers wait past their deadline: it must refuse them before.
    """
    sessions = 2 * config.calls.max_in_flight
    others = accounts * (config.api.max_connections + ERRANDS_AT_ONCE) + OTHER_FILES
    others += len(_lookup_origins(config)) * MAX_CONNECTIONS
    others += 0 if config.prestage.store == "memory" else REDIS_CONNECTIONS
    others += 0 if config.status.listen is None else STATUS_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = listeners * sessions + others
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            sessions = max(1, (soft - others) // listeners)
            log.warning("%d open files allow %d sessions at a time", soft, sessions)
    return sessions


@contextlib.asynccontextmanager
async def running(
    config: Config,
    keys: Mapping[str, str],
    headers: Mapping[str, Mapping[str, str]] | None = None,
) -> AsyncIterator[dict[Switch, Address]]:
    """The daemon at work; yields where it listens. Leaving it lets the calls in flight end.

    ``headers`` are the secret ones of each route's lookup.
    """
    # phonenumbers reads its tables when they are first asked: now, and not during a call.
    with contextlib.suppress(BadNumber):
        to_e164("0123456789", config.numbers.country)
    listeners: dict[Switch, Listener] = {}
    async with (
        Accounts(config, keys) as accounts,
        at_work(config, accounts, headers or {}) as work,
        _watched(config, accounts, work, listeners) as desk,
        _listening(config, len(keys), lambda: desk, listeners) as addresses,
    ):
        warming = asyncio.ensure_future(accounts.keep_warm())
        for switch, address in addresses.items():
            log.info("listening for %s on %s; routes: %d", switch, address, len(desk.routes))
        try:
            yield addresses
        finally:
            await _cancelled(warming)


@contextlib.asynccontextmanager
async def _watched(
    config: Config, accounts: Accounts, work: Work, listeners: Mapping[Switch, Listener]
) -> AsyncIterator[Desk]:
    """The status page, where it is wanted, and a desk that tells it of calls.

    Calls come first: where the page cannot be had, the log says so and they go on without it.
    """
    if config.status.listen is None:
        yield work.desk
        return
    from .servers.status import AccountHealth, Facts, StatusServer

    watch, started, configuration = Watch(time.monotonic), time.time(), shown(config)

    def tell(record: CallRecord) -> None:
        log_call(record)
        watch.add(record)

    def health(name: str) -> AccountHealth:
        open_ = accounts.by_name[name].breaker.is_open
        return AccountHealth(name, open_, accounts.problems.get(name))

    def facts() -> Facts:
        return Facts(
            version=__version__,
            pbx=config.pbx_name,
            started=started,
            listening=tuple((name, str(each.address)) for name, each in listeners.items()),
            accounts=tuple(map(health, accounts.by_name)),
            in_flight=work.stager.in_flight,
            prestaged=len(work.tickets),
            dropped_errands=work.errands.dropped,
            refused=sum(each.refused for each in listeners.values()),
            configuration=configuration,
        )

    def ready() -> bool:
        return bool(listeners) and all(each.address for each in listeners.values())

    page = None
    try:
        page = StatusServer(config.status, watch=watch, ready=ready, metrics=None, facts=facts)
        log.info("status page: http://%s/", await page.start())
    except (OSError, ValueError) as error:
        log.warning("no status page on %s: %s", config.status.listen, error)
    try:
        yield replace(work.desk, told=tell)
    finally:
        if page is not None:
            await page.close()


@contextlib.asynccontextmanager
async def _listening(
    config: Config,
    accounts: int,
    desk: Callable[[], Desk],
    listeners: dict[Switch, Listener],
) -> AsyncIterator[dict[Switch, Address]]:
    """The listeners, put into ``listeners``; leaving it lets their sessions end."""
    agi, esl = config.asterisk.fastagi, config.freeswitch.outbound
    wanted: list[tuple[Switch, Listening, Serve, int]] = [
        (Switch.ASTERISK, agi, FastAgiApplication(desk).handler, LONGEST_ENVIRONMENT),
        (Switch.FREESWITCH, esl, OutboundServer(desk).handler, LONGEST_BLOCK),
    ]
    wanted = [each for each in wanted if each[1].listen is not None]
    most = _most_sessions(config, accounts, len(wanted))
    addresses = {}
    try:
        for switch, section, serve, longest in wanted:
            assert section.listen is not None  # noqa: S101 - for the type checker
            listener = Listener(
                serve,
                deadline=config.calls.deadline,
                allow=section.allow,
                max_connections=most,
                longest_line=longest,
            )
            addresses[switch] = await listener.start(section.listen)
            listeners[switch] = listener
        yield addresses
    finally:
        patience = config.calls.deadline + DRAIN_MARGIN
        await asyncio.gather(*(listener.close(patience) for listener in listeners.values()))


async def until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def serve(
    config: Config, keys: Mapping[str, str], headers: Mapping[str, Mapping[str, str]]
) -> None:
    """Run until SIGTERM or SIGINT."""
    async with running(config, keys, headers):
        # What is loaded now stays: a full collection would walk it for 8 ms, in somebody's call.
        gc.collect()
        gc.freeze()
        await until_stopped()
        log.info("stopping: no new calls; those in flight end within their deadline")
