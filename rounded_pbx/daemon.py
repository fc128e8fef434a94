"""The daemon: everything that runs, started, kept, read anew and ended in one place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import __version__
from .accounts import ERRANDS_AT_ONCE
from .api.lookup import MAX_CONNECTIONS
from .call import Switch
from .config import Config
from .config_prestage import REDIS_CONNECTIONS
from .config_shown import shown
from .config_status import STATUS_CONNECTIONS, Status
from .config_types import Address, Listening
from .errands import LONGEST
from .errors import BadNumber, RoundedPbxError
from .generation import (
    DRAIN_MARGIN,
    Generation,
    desk_of,
    generation,
    lookup_origins,
    renew,
    tickets_of,
)
from .handler import Desk, log_call
from .metrics import Metrics, State
from .numbers import to_e164
from .prestage import Prestages
from .protocol.agi import LONGEST_ENVIRONMENT
from .protocol.esl import LONGEST_BLOCK
from .records import CallRecord
from .servers.fastagi import FastAgiApplication
from .servers.listener import Listener, Serve
from .servers.outbound import OutboundServer
from .watch import Watch

if TYPE_CHECKING:
    from .servers.status import Facts, StatusServer

log = logging.getLogger(__name__)

#: Open files beside sessions and what goes out over HTTP: the loop, the log, tables being read.
OTHER_FILES = 64
#: Generations at a time that still need their connections: the one at work, one that ends.
GENERATIONS = 2
#: The FileDescriptorName of each socket that systemd may hand over.
SOCKETS = frozenset(switch.value for switch in Switch)

Secrets = Mapping[str, str]
Headers = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of switch: its section of a configuration, and how its sessions are served."""

    section: Callable[[Config], Listening]
    server: Callable[[Callable[[], Desk]], Serve]
    longest_line: int


KINDS: Mapping[Switch, _Kind] = {
    Switch.ASTERISK: _Kind(
        lambda config: config.asterisk.fastagi,
        lambda desk: FastAgiApplication(desk).handler,
        LONGEST_ENVIRONMENT,
    ),
    Switch.FREESWITCH: _Kind(
        lambda config: config.freeswitch.outbound,
        lambda desk: OutboundServer(desk).handler,
        LONGEST_BLOCK,
    ),
}


class Daemon:
    """A daemon at work; ``running`` makes one.

    ``addresses`` is where it listens, ``ready`` whether it takes calls.
    """

    def __init__(self) -> None:
        self.addresses: dict[Switch, Address] = {}
        self.ready = False
        self.metrics = Metrics(self.state)
        self._desk: Desk
        self._tickets: Prestages
        self._listeners: dict[Switch, Listener] = {}
        #: Those that run, and what ends each of them; the last one is at work.
        self._generations: list[tuple[Generation, contextlib.AsyncExitStack]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._started = time.time()
        self._dropped = 0
        self._watch = Watch(time.monotonic)
        self._page: StatusServer | None = None
        self._shown = ""

    @property
    def config(self) -> Config:
        """The configuration that holds."""
        return self._generations[-1][0].config

    def state(self) -> State:
        """How it is at this moment."""
        accounts = self._generations[-1][0].accounts.by_name
        return State(
            ready=self.ready,
            in_flight=sum(each.stager.in_flight for each, _ in self._generations),
            tickets=len(self._tickets),
            sessions={switch.value: each.sessions for switch, each in self._listeners.items()},
            refused={switch.value: each.refused for switch, each in self._listeners.items()},
            breakers={name: account.breaker.is_open for name, account in accounts.items()},
        )

    async def start(
        self, config: Config, keys: Secrets, headers: Headers, sockets: Mapping[str, socket.socket]
    ) -> None:
        """Take calls; ``sockets`` are those that systemd has opened already.

        Raises:
            OSError, RoundedPbxError: it cannot; it is to be closed all the same.
        """
        if unknown := sorted(sockets.keys() - SOCKETS):  # calls would wait there for nobody
            names = " or ".join(sorted(SOCKETS))
            raise RoundedPbxError(f"systemd's socket is named {unknown[0]!r}; expected {names}")
        async with contextlib.AsyncExitStack() as stack:
            first = self._generation(config, keys, headers, None)
            begun = await stack.enter_async_context(first)
            self._tickets = tickets_of(begun, self._dispose)
            self._desk = desk_of(begun, self._tickets, self._told(config))
            self._generations.append((begun, stack.pop_all()))
        self._shown = shown(config)
        if config.status.listen is not None:  # first: what it imports would hold up a call
            await self._open_page(config.status)
        wanted = [
            switch
            for switch, kind in KINDS.items()
            if kind.section(config).listen is not None or switch.value in sockets
        ]
        most = _most_sessions(config, len(wanted))
        for switch in wanted:
            kind, given = KINDS[switch], sockets.get(switch.value)
            section = kind.section(config)
            listener = self._listeners[switch] = Listener(
                kind.server(lambda: self._desk), longest_line=kind.longest_line
            )
            _limit(listener, section, config, most)
            address = self.addresses[switch] = await listener.start(section.listen, given)
            log.info("listening for %s on %s; routes: %d", switch, address, len(self._desk.routes))
            if section.listen is None:
                log.error("%s: systemd listens, but listen is off: calls are refused", switch)
            elif address != section.listen and section.listen.port:
                text = "%s: systemd listens there, but listen is %s: rounded-pbx systemd --install"
                log.error(text, switch, section.listen)
        self.ready = True

    async def reload(self, config: Config, keys: Secrets, headers: Headers) -> None:
        """Handle the calls that come from now on by another configuration, whole.

        Those that have begun end as they began.

        Raises:
            RoundedPbxError: it cannot be; nothing has changed.
        """
        async with self._reloading, contextlib.AsyncExitStack() as stack:
            before = self._generations[-1][0]
            after = self._generation(config, keys, headers, before)
            begun = await stack.enter_async_context(after)
            # Of thousands of routes it takes a tenth of a second.
            told = self._told(config)
            desk = await asyncio.to_thread(desk_of, begun, self._tickets, told)
            text = await asyncio.to_thread(shown, config)
            most = _most_sessions(config, len(self._listeners))
            # Nothing from here on can fail or wait: it is done whole.
            self._desk, self._shown = desk, text
            renew(self._tickets, begun)
            for switch, listener in self._listeners.items():
                _limit(listener, KINDS[switch].section(config), config, most)
            self._generations.append((begun, stack.pop_all()))
            retiring = asyncio.ensure_future(self._retire(before))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        log.info("the configuration was read anew; routes: %d", len(self._desk.routes))

    async def close(self) -> None:
        """Take no more calls, let those in flight end within their deadline, then end the rest."""
        self.ready = False
        if not self._generations:
            return
        deadlines = (each.config.calls.deadline for each, _ in self._generations)
        patience = max(deadlines) + DRAIN_MARGIN
        await asyncio.gather(*(each.close(patience) for each in self._listeners.values()))
        await self._tickets.aclose(DRAIN_MARGIN)
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(stack.aclose() for _, stack in self._generations))
        if self._page is not None:  # to the last, it says that no calls are taken
            await self._page.close()

    def _generation(
        self, config: Config, keys: Secrets, headers: Headers, before: Generation | None
    ) -> contextlib.AbstractAsyncContextManager[Generation]:
        return generation(
            config,
            keys,
            headers,
            before=before,
            observe=self.metrics.count_request,
            on_drop=self._count_dropped,
        )

    async def _retire(self, old: Generation) -> None:
        """End a generation once none of its calls can be left, and what is to be told of them."""
        await asyncio.sleep(old.patience)
        await old.errands.finish(LONGEST)
        (found,) = [each for each in self._generations if each[0] is old]
        await found[1].aclose()
        self._generations.remove(found)

    def _told(self, config: Config) -> Callable[[CallRecord], None]:
        full_numbers = config.logs.caller_numbers == "full"

        def told(record: CallRecord) -> None:
            log_call(record, full_numbers=full_numbers)
            self.metrics.count_call(record)
            self._watch.add(record)

        return told

    async def _open_page(self, section: Status) -> None:
        """The status page. Calls come first: where it cannot be had, they go on without it."""
        try:
            from .servers.status import StatusServer

            self._page = StatusServer(
                section,
                watch=self._watch,
                ready=lambda: self.ready,
                metrics=self.metrics.text,
                facts=self._facts,
            )
            log.info("status page: http://%s/", await self._page.start())
        except (ImportError, OSError, ValueError) as error:
            log.warning("no status page on %s: %s", section.listen, error)
        except Exception:
            log.exception("a defect of rounded_pbx: no status page on %s", section.listen)

    def _facts(self) -> Facts:
        """What the page shows beside calls."""
        from .servers.status import AccountHealth, Facts

        state, accounts = self.state(), self._generations[-1][0].accounts
        return Facts(
            version=__version__,
            pbx=self.config.pbx_name,
            started=self._started,
            listening=tuple((switch.value, str(at)) for switch, at in self.addresses.items()),
            accounts=tuple(
                AccountHealth(name, is_open, accounts.problems.get(name))
                for name, is_open in state.breakers.items()
            ),
            in_flight=state.in_flight,
            prestaged=state.tickets,
            dropped_errands=self._dropped,
            refused=sum(state.refused.values()),
            configuration=self._shown,
        )

    def _count_dropped(self, account: str) -> None:
        self._dropped += 1
        self.metrics.count_dropped(account)

    def _dispose(self, account: str, call_id: str) -> None:
        self._generations[-1][0].errands.dispose(account, call_id)


def _limit(listener: Listener, section: Listening, config: Config, most: int) -> None:
    """Whom a listener serves from now on, how many and for how long."""
    listener.deadline = config.calls.deadline
    listener.allow = section.allow if section.listen is not None else ()
    listener.max_connections = most


def _most_sessions(config: Config, listeners: int) -> int:
    """Of each listener: beyond the stagings in flight, so that those too many are told LIMITED.

    systemd and shells give 1024 open files unless asked. A daemon that has none left accepts nobody
    for a second at a time, and its callers wait past their deadline: it must refuse them before.
    """
    sessions = 2 * config.calls.max_in_flight
    others = len(config.accounts) * (config.api.max_connections + ERRANDS_AT_ONCE)
    others += len(lookup_origins(config)) * MAX_CONNECTIONS
    others = GENERATIONS * others + OTHER_FILES
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
    keys: Secrets,
    headers: Headers | None = None,
    sockets: Mapping[str, socket.socket] | None = None,
) -> AsyncIterator[Daemon]:
    """The daemon at work. Leaving it lets the calls in flight end.

    ``headers`` are the secret ones of each route's lookup, ``sockets`` those of systemd.
    """
    # phonenumbers reads its tables when they are first asked: now, and not during a call.
    with contextlib.suppress(BadNumber):
        to_e164("0123456789", config.numbers.country)
    daemon = Daemon()
    try:
        await daemon.start(config, keys, headers or {}, sockets or {})
        yield daemon
    finally:
        await daemon.close()
