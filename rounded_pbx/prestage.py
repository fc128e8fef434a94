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

    async def announce(self, ticket: str, seconds: float) -> bool:
        """Let other daemons know that a ticket's staging is under way.

        Nothing of the ticket is left after ``seconds``. False where no result can be kept for it.
        """
        ...

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result for ``seconds``, and no longer than was announced.

        False where nobody can take it any more; True also where that cannot be known.
        """
        ...

    async def take(self, ticket: str, deadline: float | None) -> Prestaged | None:
        """Take a ticket's result, which nobody else can have then; None where there is none.

        A staging that another daemon has announced is waited for, but not up to ``deadline``: there
        must be time left to stage anew. Without a deadline it is not waited for, and not wanted.
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

    async def announce(self, ticket: str, seconds: float) -> bool:
        """Nobody else asks here."""
        return True

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result."""
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, ticket)
        self._waiting[ticket] = (prestaged, timer)
        return True

    async def take(self, ticket: str, deadline: float | None) -> Prestaged | None:
        """Take a result, at once."""
        found = self._waiting.pop(ticket, None)
        if found is None:
            return None
        prestaged, timer = found
        timer.cancel()
        return prestaged

    async def aclose(self) -> None:
        """Drop everything."""
        while self._waiting:
            _, (prestaged, timer) = self._waiting.popitem()
            timer.cancel()
            self._dispose(prestaged.account, prestaged.call_id)

    def _expire(self, ticket: str) -> None:
        prestaged, _ = self._waiting.pop(ticket)
        log.info("prestaged call_id=%s: nobody collected it", prestaged.call_id)
        self._dispose(prestaged.account, prestaged.call_id)


class _Flight:
    """A staging under way, until it is collected, abandoned or done."""

    def __init__(self, request: StagingRequest, deadline: float) -> None:
        self.request = request
        self.attempt = Attempt(deadline)
        self.task: asyncio.Task[StagingResult]


class Prestages:
    """The tickets of a daemon.

    Args:
        stager: stages them.
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
        self.renew(stager, limit=limit, fresh=fresh, most=most)
        self._store = store
        self._dispose = dispose
        self._flights: dict[str, _Flight] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._closing = False

    def renew(self, stager: Stager, *, limit: float, fresh: float, most: int) -> None:
        """Stage by another configuration from now on; what was begun goes on as it began."""
        self.stager = stager
        self._limit, self._fresh, self._most = min(limit, fresh), fresh, most

    def __len__(self) -> int:
        """How many tickets there are: stagings under way, and results that wait."""
        return len(self._flights) + len(self._store)

    @property
    def has_room(self) -> bool:
        """Whether one more can be begun."""
        return not self._closing and len(self) < self._most

    def begin(self, ticket: str, request: StagingRequest) -> None:
        """Stage in the background; whoever has the ticket can collect it from now on."""
        now = asyncio.get_running_loop().time()
        flight = self._flights[ticket] = _Flight(request, now + self._limit)
        flight.task = asyncio.ensure_future(self._stage(request, flight.attempt))
        self._in_background(self._keep(ticket, flight, now + self._fresh))

    async def collect(
        self, ticket: str, marks: frozenset[str], deadline: float
    ) -> StagingResult | None:
        """What a ticket stands for, once; None where the call is to be staged anew.

        ``marks`` are those of the call that wants it, ``deadline`` is on the loop's clock.
        """
        flight = self._flights.get(ticket)
        if flight is not None:
            if marks <= flight.request.marks:
                return await self._land(ticket, flight, deadline)
            self.abandon(ticket)
            return None
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
        if flight is None:
            self._in_background(self._drop(ticket))
        else:
            self._cancel(flight)

    async def aclose(self, patience: float) -> None:
        """Begin nothing more; let what others could collect be finished; close the store."""
        self._closing = True
        if self._store.shared and self._chores:
            await asyncio.wait(self._chores, timeout=patience)
        for ticket in [*self._flights]:
            self.abandon(ticket)
        if self._chores:
            await asyncio.wait(self._chores, timeout=patience)
        await self._store.aclose()

    async def _land(self, ticket: str, flight: _Flight, deadline: float) -> StagingResult | None:
        """The result of a flight, by ``deadline``; nobody else can have it from now on."""
        del self._flights[ticket]
        flight.attempt.bring_forward(deadline)
        try:
            result = await flight.task
        except asyncio.CancelledError:  # the caller left; awaiting a task hands that on to it
            self._cancel(flight)
            raise
        over = asyncio.get_running_loop().time() >= deadline
        return result if result.call_id or over else None

    async def _stage(self, request: StagingRequest, attempt: Attempt) -> StagingResult:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            result = await self.stager.stage(request, attempt)
        except Exception:
            log.exception("a defect of rounded_pbx in a staging that was begun early")
            return StagingResult(Outcome.ERROR)
        log.info(
            "prestaged %s did=%s ms=%d call_id=%s unique_id=%s reason=%s",
            result.outcome,
            clean(request.to_number, 40),
            round((clock() - begun) * 1000),
            result.call_id or "-",
            clean(request.metadata.get("pbx_unique_id", ""), 80) or "-",
            mask_numbers(result.reason) or "-",
        )
        return result

    async def _keep(self, ticket: str, flight: _Flight, until: float) -> None:
        """Let a result wait that nobody has come for; else nobody must go on waiting for one."""
        announced = await self._store.announce(ticket, self._fresh)
        await asyncio.wait([flight.task])
        if self._flights.get(ticket) is flight:
            del self._flights[ticket]
            request, result = flight.request, flight.task.result()
            if result.call_id is not None:
                left = until - asyncio.get_running_loop().time()
                prestaged = Prestaged(
                    result.call_id, result.outcome, result.reason, request.account, request.marks
                )
                if announced and left > 0 and await self._store.put(ticket, prestaged, left):
                    return
                self._dispose(request.account, result.call_id)
        if self._store.shared:
            await self._drop(ticket)

    async def _drop(self, ticket: str) -> None:
        prestaged = await self._store.take(ticket, None)
        if prestaged is not None:
            log.info("abandoned call_id=%s", prestaged.call_id)
            self._dispose(prestaged.account, prestaged.call_id)

    def _cancel(self, flight: _Flight) -> None:
        flight.task.cancel()
        log.info("abandoned call_id=%s: it was being staged", flight.attempt.call_id or "-")
        if flight.attempt.call_id is not None:
            self._dispose(flight.request.account, flight.attempt.call_id)

    def _in_background(self, chore: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
