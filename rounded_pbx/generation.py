"""A configuration at work: what calls are staged with. A reload replaces it as a whole.

Calls that have begun end with the generation that they began with, so nothing in it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from .accounts import ERRANDS_AT_ONCE, Accounts
from .api import HttpLookups, Observe, nobody
from .config import Config
from .errands import Errands
from .handler import Desk, log_call
from .prestage import Dispose, MemoryStore, Prestages, Store
from .records import CallRecord
from .stager import Stager

#: Seconds beyond their own deadline that calls and errands get to end.
DRAIN_MARGIN = 1.0
#: Tickets for each staging in flight: a greeting takes some times as long as a staging.
TICKETS_EACH = 10


@dataclass(frozen=True, slots=True)
class Generation:
    """What stages the calls of one configuration."""

    config: Config
    accounts: Accounts
    errands: Errands
    stager: Stager

    @property
    def patience(self) -> float:
        """Seconds after which no call can have any more to do with it."""
        return max(self.config.calls.deadline, self.config.prestage.limit) + DRAIN_MARGIN


@contextlib.asynccontextmanager
async def generation(
    config: Config,
    keys: Mapping[str, str],
    headers: Mapping[str, Mapping[str, str]],
    *,
    before: Generation | None = None,
    observe: Observe = nobody,
    on_drop: Callable[[str], None] = lambda _: None,
    warm: bool = True,
) -> AsyncIterator[Generation]:
    """A generation at work; ``headers`` are the secret ones of each route's lookup.

    ``before`` is the one that it follows, whose breakers and counts go on where an account stays
    as it was. ``observe`` is told of each request to the API, ``on_drop`` of each errand given up,
    by its account. ``warm`` opens connections and keeps them.

    Raises:
        RoundedPbxError: the environment's proxy is one that we cannot use.
    """

    def built() -> tuple[Accounts, HttpLookups]:
        accounts = Accounts(config, keys, before.accounts if before else None, observe)
        return accounts, HttpLookups(
            lookup_origins(config), headers, trust_env=config.api.trust_env
        )

    # A TLS context takes tens of milliseconds, which no call in flight has to spare.
    accounts, lookups = built() if before is None else await asyncio.to_thread(built)
    async with accounts, lookups:
        errands = Errands(
            accounts.errand_clients,
            pbx=config.pbx_name,
            at_once=ERRANDS_AT_ONCE,
            terminate=config.prestage.terminate_abandoned,
            on_drop=on_drop,
        )
        stager = Stager(accounts.by_name, config.calls.max_in_flight, lookups, errands)
        running = [asyncio.ensure_future(errands.run())]
        if warm:
            running.append(asyncio.ensure_future(accounts.keep_warm()))
        try:
            yield Generation(config, accounts, errands, stager)
        finally:
            await errands.finish(DRAIN_MARGIN)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def lookup_origins(config: Config) -> set[str]:
    """The servers that the routes' lookups ask."""
    return {route.lookup.url.origin for route in config.routes if route.lookup is not None}


def tickets_of(first: Generation, dispose: Dispose) -> Prestages:
    """The tickets, which outlive a generation: a greeting may be longer than a reload takes."""
    store = _store(first.config, dispose)
    return Prestages(first.stager, store, dispose=dispose, **_bounds(first.config))


def renew(tickets: Prestages, generation: Generation) -> None:
    """Tickets that are begun from now on belong to ``generation``."""
    tickets.renew(generation.stager, **_bounds(generation.config))


class _Bounds(TypedDict):
    limit: float
    fresh: float
    most: int


def _bounds(config: Config) -> _Bounds:
    return _Bounds(
        limit=config.prestage.limit,
        fresh=config.fresh,
        most=TICKETS_EACH * config.calls.max_in_flight,
    )


def desk_of(
    generation: Generation, tickets: Prestages, told: Callable[[CallRecord], None] = log_call
) -> Desk:
    """What calls are handled with."""
    config = generation.config
    return Desk(
        routes=config.route_table(),
        policy=config.numbers.policy,
        stager=generation.stager,
        default_on_failure=config.calls.default_on_failure,
        tickets=tickets,
        accounts=config.account_table(),
        told=told,
    )


def _store(config: Config, dispose: Dispose) -> Store:
    if config.prestage.store == "memory":
        return MemoryStore(dispose)
    from .prestage_redis import store_of  # an extra

    return store_of(config.prestage)
