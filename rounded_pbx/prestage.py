"""Stagings that are begun early and collected late: the caller waits for a greeting anyway.

A ticket is a random UUID that the dialplan holds. While its staging is under way, it is a flight of
this daemon's; once there is an id, it waits in a store, which several daemons may share, until it
is collected, abandoned, or too old to be dialled. Whoever takes it out of either has it alone: one
id is never given to two calls. Whatever cannot be had here, the call is staged anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from .call import clean, mask_numbers
from .stager import Attempt, Stager
from .staging import Outcome, StagingRequest, StagingResult

log = logging.getLogger(__name__)

#: Tells what becomes of an id that nobody will dial: its account, the id.
Dispose = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Prestaged:
    """A staged call that waits to be collected; ``marks`` are those of its request."""

    call_id: str
    outcome: Outcome
    reason: str
    account: str
    marks: frozenset[str]

    @property
    def result(self) -> StagingResult:
        """The result as if it had been staged now."""
        return StagingResult(self.outcome, self.call_id, self.reason)


class Store(Protocol):
    """Where results wait. Nothing here raises for a store that is slow or gone."""

    shared: bool

    def __len__(self) -> int:
        """How many wait, as far as this daemon knows."""
        ...

    async def announce(self, ticket: str, seconds: float) -> None:
        """Let other daemons know that a ticket's staging is under way, for ``seconds`` at most."""
        ...

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result for ``seconds``; False where nobody could take it any more."""
        ...

    async def take(self, ticket: str, deadline: float) -> Prestaged | None:
        """Take a ticket's result, which nobody else can have then; None where there is none.

        A staging that another daemon has announced is waited for, but not up to ``deadline``: there
        must be time left to stage anew.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open; what waits in a shared store stays there."""
        ...


class MemoryStore:
    """Results that wait in this process, and end with it."""

    shared = False

    def __init__(self, dispose: Dispose) -> None:
        self._dispose = dispose
        self._waiting: dict[str, tuple[Prestaged, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def announce(self, ticket: str, seconds: float) -> None:
        """Nobody else asks here."""

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result."""
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, ticket)
        self._waiting[ticket] = (prestaged, timer)
        return True

    async def take(self, ticket: str, deadline: float) -> Prestaged | None:
        """Take a result, at once."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            return None
        prestaged, timer = found
        timer.cancel()
        return prestaged

    async def aclose(self) -> None:
        """Forget everything."""
        for _, timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def _expire(self, ticket: str) -> None:
        prestaged, _ = self._waiting.pop(ticket)
        log.info("prestaged call_id=%s: nobody collected it", prestaged.call_id)
        self._dispose(prestaged.account, prestaged.call_id)


class _Flight:
    """A staging under way, until it is collected, abandoned or done."""

    def __init__(self, request: StagingRequest, deadline: float) -> None:
        self.account = request.account
        self.marks = request.marks
        self.attempt = Attempt(deadline)
        self.task: asyncio.Task[StagingResult]


class Prestages:
    """The tickets of a daemon.

    Args:
        stager: stages them; a configuration that is read anew puts another one here.
        store: where results wait.
        limit: seconds that a staging may take in the background.
        fresh: seconds from its beginning in which a staged call can be collected.
        most: tickets at a time; beyond them nothing is begun early.
        dispose: told of every id that will not be dialled.
    """

    def __init__(
        self,
        stager: Stager,
        store: Store,
        *,
        limit: float,
        fresh: float,
        most: int,
        dispose: Dispose,
    ) -> None:
        self.stager = stager
        self._store = store
        self._limit = limit
        self._fresh = fresh
        self._most = most
        self._dispose = dispose
        self._flights: dict[str, _Flight] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._closing = False

    def __len__(self) -> int:
        """How many tickets there are: stagings under way, and results that wait."""
        return len(self._flights) + len(self._store)

    @property
    def has_room(self) -> bool:
        """Whether one more can be begun."""
        return not self._closing and len(self) < self._most

    def begin(self, ticket: str, request: StagingRequest) -> None:
        """Stage in the background; whoever has the ticket can collect it from now on."""
        flight = _Flight(request, asyncio.get_running_loop().time() + self._limit)
        self._flights[ticket] = flight
        flight.task = asyncio.ensure_future(self._fly(ticket, flight, request))

    async def collect(
        self, ticket: str, marks: frozenset[str], deadline: float
    ) -> StagingResult | None:
        """What a ticket stands for, once; None where the call is to be staged anew.

        ``marks`` are those of the call that wants it, ``deadline`` is on the loop's clock.
        """
        flight = self._flights.get(ticket)
        if flight is not None:
            if not marks <= flight.marks:
                self.abandon(ticket)
                return None
            result = await self._land(ticket, flight, deadline)
            return result if result.call_id or result.outcome is Outcome.TIMEOUT else None
        prestaged = await self._store.take(ticket, deadline)
        if prestaged is None:
            return None
        if not marks <= prestaged.marks:  # an IVR has chosen another agent since
            self._dispose(prestaged.account, prestaged.call_id)
            return None
        return prestaged.result

    def abandon(self, ticket: str) -> None:
        """The caller left: what is under way is cancelled, what waits is dropped."""
        flight = self._flights.pop(ticket, None)
        if flight is not None:
            log.info("abandoned while it was being staged")
            self._cancel(flight)
        if flight is None or self._store.shared:
            self._in_background(self._drop(ticket))

    async def aclose(self, patience: float) -> None:
        """Begin nothing more; let what others could collect be finished; close the store."""
        self._closing = True
        if self._store.shared and self._flights:
            await asyncio.wait([each.task for each in self._flights.values()], timeout=patience)
        for ticket in [*self._flights]:
            self._cancel(self._flights.pop(ticket))
        if self._chores:
            await asyncio.wait(self._chores, timeout=patience)
        await self._store.aclose()

    async def _land(self, ticket: str, flight: _Flight, deadline: float) -> StagingResult:
        """The result of a flight, by ``deadline``; nobody else can have it from now on."""
        del self._flights[ticket]
        if self._store.shared:
            self._in_background(self._drop(ticket))
        flight.attempt.bring_forward(deadline)
        try:
            return await flight.task
        except asyncio.CancelledError:  # the caller left; awaiting a task hands that on to it
            self._cancel(flight)
            raise

    async def _fly(self, ticket: str, flight: _Flight, request: StagingRequest) -> StagingResult:
        clock = asyncio.get_running_loop().time
        begun = clock()
        announcing = asyncio.ensure_future(self._store.announce(ticket, self._limit))
        try:
            result = await self.stager.stage(request, flight.attempt)
            log.info(
                "prestaged %s did=%s ms=%d call_id=%s unique_id=%s reason=%s",
                result.outcome,
                clean(request.to_number, 40),
                round((clock() - begun) * 1000),
                result.call_id or "-",
                clean(request.metadata.get("pbx_unique_id", ""), 80) or "-",
                mask_numbers(result.reason) or "-",
            )
            if self._flights.get(ticket) is flight:  # nobody waits for it yet
                await announcing
            if self._flights.get(ticket) is flight:
                del self._flights[ticket]
                await self._keep(ticket, request, result, begun + self._fresh - clock())
            return result
        finally:
            announcing.cancel()
            if self._flights.get(ticket) is flight:
                del self._flights[ticket]

    async def _keep(
        self, ticket: str, request: StagingRequest, result: StagingResult, seconds: float
    ) -> None:
        """Let a result wait; another daemon must not go on waiting for one that failed."""
        if result.call_id is None:
            if self._store.shared:
                await self._drop(ticket)
            return
        prestaged = Prestaged(
            result.call_id, result.outcome, result.reason, request.account, request.marks
        )
        if seconds <= 0 or not await self._store.put(ticket, prestaged, seconds):
            self._dispose(request.account, result.call_id)

    async def _drop(self, ticket: str) -> None:
        prestaged = await self._store.take(ticket, asyncio.get_running_loop().time())
        if prestaged is not None:
            log.info("abandoned call_id=%s", prestaged.call_id)
            self._dispose(prestaged.account, prestaged.call_id)

    def _cancel(self, flight: _Flight) -> None:
        flight.task.cancel()
        if flight.attempt.call_id is not None:
            self._dispose(flight.account, flight.attempt.call_id)

    def _in_background(self, chore: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
