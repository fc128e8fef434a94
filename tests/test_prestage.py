"""Tickets of one daemon: begun early, handed out once, and nothing left; on a clock of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import tracemalloc
import uuid
from collections.abc import Callable, Mapping

import pytest

from rounded_pbx.breaker import Breaker
from rounded_pbx.call import Wait
from rounded_pbx.errors import ApiLimited, ApiRejected, ApiServerError
from rounded_pbx.lookups import Lookup
from rounded_pbx.prestage import MemoryStore, Prestages
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome, StagingRequest, StagingResult
from rounded_pbx.templates import Filled

from .helpers import REQUEST, at_once, steps

TICKET = "6c1f7f2e-4a55-4a0e-8a55-0e6b6f1d2c3b"
LIMIT, FRESH, DEADLINE = 10.0, 40.0, 1.4
CALL = dataclasses.replace(
    REQUEST,
    marks=frozenset(["agent", "variable"]),
    metadata={"pbx_unique_id": "1795328067.92"},
)


class Api:
    """Takes its time, or fails; ``status`` is what becomes of a call."""

    def __init__(self, seconds: float = 0.5, status: str = "staged") -> None:
        self.seconds = seconds
        self.status = status
        self.failure: Exception | None = None
        self.ids: list[str] = []
        self.cancelled = 0

    async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        self.ids.append(str(uuid.uuid4()))
        return self.ids[-1]

    async def call_status(self, call_id: str) -> str:
        await asyncio.sleep(0.01)
        return self.status


class Daemon:
    """Prestages on a memory of its own, and what it has disposed of."""

    def __init__(self, api: Api | None = None, **options: float) -> None:
        self.api = api or Api()
        self.breaker = Breaker(clock=asyncio.get_running_loop().time)
        self.stager = Stager({"default": Account(self.api, self.breaker)}, 100_000)
        self.disposed: list[tuple[str, str]] = []
        values = {"limit": LIMIT, "fresh": FRESH, "most": 100_000, **options}
        self.tickets = Prestages(
            self.stager,
            MemoryStore(self.dispose),
            limit=values["limit"],
            fresh=values["fresh"],
            most=int(values["most"]),
            dispose=self.dispose,
        )

    def dispose(self, account: str, call_id: str) -> None:
        self.disposed.append((account, call_id))

    def begin(self, request: StagingRequest = CALL, ticket: str = TICKET) -> None:
        self.tickets.begin(ticket, request)

    async def collect(
        self,
        marks: frozenset[str] = CALL.marks,
        within: float = DEADLINE,
        ticket: str = TICKET,
    ) -> StagingResult | None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + within
        result = await self.tickets.collect(ticket, marks, deadline)
        assert clock() <= deadline + 0.001
        return result


def test_what_is_ready_is_handed_out_once_and_at_once() -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        await asyncio.sleep(5)
        assert len(daemon.tickets) == 1
        result = await daemon.collect(within=0.001)
        assert result == StagingResult(Outcome.STAGED, daemon.api.ids[0])
        assert len(daemon.tickets) == 0
        assert await daemon.collect() is None
        assert daemon.disposed == []

    at_once(work())


def test_what_is_not_ready_is_waited_for() -> None:
    async def work() -> None:
        daemon = Daemon(Api(1.2))
        daemon.begin()
        first, second = await asyncio.gather(daemon.collect(), daemon.collect())
        assert (first, second) == (StagingResult(Outcome.STAGED, daemon.api.ids[0]), None)
        assert len(daemon.tickets) == 0

    at_once(work())


def test_what_is_not_ready_by_the_collectors_deadline_ends_there() -> None:
    async def work() -> None:
        daemon = Daemon(Api(5.0))
        daemon.begin()
        await asyncio.sleep(1)
        result = await daemon.collect()
        assert result is not None
        assert result.outcome is Outcome.TIMEOUT
        assert daemon.api.cancelled == 1

    at_once(work())


def test_an_id_whose_agent_is_not_ready_in_time_is_handed_out_all_the_same() -> None:
    async def work() -> None:
        daemon = Daemon(Api(0.5, status="initiated"))
        daemon.begin()
        await asyncio.sleep(2)
        result = await daemon.collect()
        assert result == StagingResult(Outcome.INITIATED, daemon.api.ids[0], "not staged in time")
        assert daemon.disposed == []

    at_once(work())


@pytest.mark.parametrize("after", [0.0, 0.2, 0.5, 2.0, 9.0])
def test_a_staging_that_failed_is_staged_anew(after: float) -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.api.failure = ApiRejected("no", status=422)
        daemon.begin()
        await asyncio.sleep(after)
        assert await daemon.collect() is None
        assert len(daemon.tickets) == 0

    at_once(work())


def test_a_flight_that_ends_before_the_collectors_deadline_leaves_time_to_stage_anew() -> None:
    """Its own limit was over: the caller has still more than a second."""

    async def work() -> None:
        daemon = Daemon(Api(60.0))
        daemon.begin()
        await asyncio.sleep(LIMIT - 0.1)
        assert await daemon.collect() is None

    at_once(work())


def test_a_defect_in_a_staging_is_staged_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defect(*_: object) -> None:
        raise ZeroDivisionError

    async def work() -> None:
        daemon = Daemon()
        monkeypatch.setattr(daemon.tickets.stager, "stage", defect)
        daemon.begin()
        assert await daemon.collect() is None
        daemon.begin()
        await asyncio.sleep(1)
        assert len(daemon.tickets) == 0

    at_once(work())
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [
        "a defect of rounded_pbx in a staging that was begun early"
    ] * 2


@pytest.mark.parametrize("after", [0.1, 2.0])
def test_a_call_for_another_agent_does_not_get_it(after: float) -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        await asyncio.sleep(after)
        assert await daemon.collect(frozenset(["other"])) is None
        await asyncio.sleep(1)
        assert len(daemon.tickets) == 0
        assert daemon.disposed == [("default", call_id) for call_id in daemon.api.ids]
        assert await daemon.collect() is None

    at_once(work())


def test_a_call_that_passes_less_than_before_gets_it() -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        assert await daemon.collect(frozenset(["agent"])) is not None

    at_once(work())


def test_an_invented_ticket_is_worth_nothing() -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        assert await daemon.collect(ticket=str(uuid.uuid4())) is None
        assert await daemon.collect() is not None

    at_once(work())


@pytest.mark.parametrize(
    ("after", "cancelled", "disposed"), [(0.0, 0, 0), (0.2, 1, 0), (0.505, 0, 1), (5.0, 0, 1)]
)
def test_a_caller_who_leaves_before_ends_everything(
    after: float, cancelled: int, disposed: int
) -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        if after:
            await asyncio.sleep(after)
        daemon.tickets.abandon(TICKET)
        await steps(5)
        assert len(daemon.tickets) == 0
        assert (daemon.api.cancelled, len(daemon.disposed)) == (cancelled, disposed)
        assert await daemon.collect() is None
        daemon.tickets.abandon(TICKET)
        assert len(daemon.disposed) == disposed

    at_once(work())


@pytest.mark.parametrize(("after", "cancelled", "disposed"), [(0.0, 1, 0), (0.2, 0, 1)])
def test_a_caller_who_leaves_while_it_is_collected_ends_it(
    after: float, cancelled: int, disposed: int
) -> None:
    async def work() -> None:
        daemon = Daemon(Api(0.1, status="initiated"))
        daemon.begin()
        collecting = asyncio.ensure_future(daemon.collect())
        await asyncio.sleep(after)
        await steps(3)
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
        assert (daemon.api.cancelled, len(daemon.disposed)) == (cancelled, disposed)
        assert len(daemon.tickets) == 0

    at_once(work())


def test_what_nobody_collects_expires(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        await asyncio.sleep(FRESH - 0.01)
        assert len(daemon.tickets) == 1
        await asyncio.sleep(0.02)
        assert len(daemon.tickets) == 0
        assert await daemon.collect() is None
        assert daemon.disposed == [("default", daemon.api.ids[0])]

    caplog.set_level(logging.INFO)
    at_once(work())
    assert "nobody collected it" in caplog.messages[-1]
    assert TICKET not in caplog.text  # who reads the log could collect with it


@pytest.mark.parametrize("wait", [Wait.POLL, Wait.NONE])
def test_no_flight_is_older_than_what_waits_may_become(wait: Wait) -> None:
    """A staged call that is polled for longer than it may live is too old, flight or not."""

    async def work() -> None:
        daemon = Daemon(Api(0.1, status="initiated"), fresh=2.0)
        daemon.begin(dataclasses.replace(CALL, wait=wait))
        await asyncio.sleep(2.001)
        assert len(daemon.tickets) == 0
        assert await daemon.collect() is None
        assert daemon.disposed == [("default", daemon.api.ids[0])]

    at_once(work())


@pytest.mark.parametrize("tidy", [0.0, 0.05])
def test_a_collector_who_comes_as_the_limit_strikes_gets_an_answer(tidy: float) -> None:
    """The time-out has struck, and what it struck is still closing its connection."""

    class Closing(Api):
        async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
            try:
                return await super().stage(body)
            finally:
                await asyncio.sleep(tidy)

    async def work() -> None:
        daemon = Daemon(Closing(60.0))
        daemon.begin()
        collected = asyncio.Event()

        def strike() -> None:  # runs right after the flight's own timer
            async def collect() -> None:
                assert await daemon.collect() is None
                collected.set()

            strike.task = asyncio.ensure_future(collect())  # type: ignore[attr-defined]

        asyncio.get_running_loop().call_later(LIMIT + 1e-6, strike)
        await collected.wait()

    at_once(work())


def test_a_new_stager_stages_what_is_begun_from_then_on() -> None:
    async def work() -> None:
        daemon, other = Daemon(), Api()
        daemon.begin()
        await steps(2)
        daemon.tickets.stager = Stager({"default": Account(other)}, 10)
        daemon.begin(ticket="second")
        await asyncio.sleep(1)
        first, second = await daemon.collect(), await daemon.collect(ticket="second")
        assert first is not None
        assert second is not None
        assert (first.call_id, second.call_id) == (daemon.api.ids[0], other.ids[0])

    at_once(work())


def test_there_is_room_for_so_many_and_no_more() -> None:
    async def work() -> None:
        daemon = Daemon(most=2)
        daemon.begin(ticket="a")
        assert daemon.tickets.has_room
        daemon.begin(ticket="b")
        assert not daemon.tickets.has_room
        await asyncio.sleep(1)  # they wait now, and still count
        assert not daemon.tickets.has_room
        await daemon.collect(ticket="a")
        assert daemon.tickets.has_room
        await daemon.tickets.aclose(1.0)
        assert not daemon.tickets.has_room

    at_once(work())


@pytest.mark.parametrize(("after", "disposed"), [(0.2, 0), (0.505, 1), (1.0, 1)])
def test_a_daemon_that_stops_leaves_nothing(after: float, disposed: int) -> None:
    async def work() -> None:
        daemon = Daemon()
        daemon.begin()
        await asyncio.sleep(after)
        await daemon.tickets.aclose(1.0)
        assert len(daemon.tickets) == 0
        assert len(daemon.disposed) == disposed

    at_once(work())


# What the breaker learns of it.


def failures(daemon: Daemon) -> int:
    return daemon.breaker._failures


@pytest.mark.parametrize(
    ("end", "counted"),
    [
        (lambda daemon: daemon.tickets.abandon(TICKET), 0),
        (lambda daemon: daemon.stager, 1),  # left to its limit
    ],
)
def test_an_abandoned_flight_says_nothing_of_the_api_and_a_black_hole_does(
    end: Callable[[Daemon], object], counted: int
) -> None:
    async def work() -> None:
        daemon = Daemon(Api(60.0))
        daemon.begin()
        await asyncio.sleep(1)
        end(daemon)
        await asyncio.sleep(LIMIT)
        assert failures(daemon) == counted
        assert daemon.stager.in_flight == 0

    at_once(work())


def test_a_collector_who_waits_in_vain_for_a_black_hole_counts() -> None:
    async def work() -> None:
        daemon = Daemon(Api(60.0))
        daemon.begin()
        await daemon.collect()
        assert failures(daemon) == 1

    at_once(work())


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (ApiLimited("slowly", status=429, retry_after=5.0), Outcome.LIMITED),
        (ApiServerError("busy", status=503, retry_after=5.0), Outcome.UNAVAILABLE),
    ],
)
def test_a_pause_that_the_collector_has_no_time_for_is_cut_short_and_no_outage(
    failure: Exception, outcome: Outcome
) -> None:
    """The API has answered. What it wants to wait for comes too late for this call."""

    async def work() -> None:
        daemon = Daemon(Api(0.1))
        daemon.api.failure = failure
        daemon.begin()
        await asyncio.sleep(1)
        result = await daemon.collect()
        assert result is not None
        assert result.outcome is outcome
        assert failures(daemon) == (outcome is Outcome.UNAVAILABLE)

    at_once(work())


class Lookups:
    """A lookup that takes its time."""

    async def find(self, lookup: Lookup, seconds: float) -> Mapping[str, Filled]:
        await asyncio.sleep(seconds)
        return {}


@pytest.mark.parametrize("after", [0.0, 0.1, 1.0])
def test_a_lookup_leaves_the_collectors_staging_half_of_his_time(after: float) -> None:
    lookup = Lookup(route="a", origin="http://crm", target="/", timeout=1.39, variables={})

    async def work() -> None:
        daemon = Daemon(Api(0.6))
        daemon.stager = Stager({"default": Account(daemon.api, daemon.breaker)}, 10, Lookups())
        daemon.tickets.stager = daemon.stager
        daemon.begin(dataclasses.replace(CALL, lookup=lookup))
        await asyncio.sleep(after)
        result = await daemon.collect()
        assert result == StagingResult(Outcome.STAGED, daemon.api.ids[0])

    at_once(work())


# What it costs.


def test_ten_thousand_waiting_results_are_small_and_leave_nothing() -> None:
    count = 10_000
    request = dataclasses.replace(CALL, wait=Wait.NONE)

    async def work() -> None:
        daemon = Daemon()
        tickets = [str(uuid.uuid4()) for _ in range(count)]
        tracemalloc.start()
        try:
            for index, ticket in enumerate(tickets):
                marks = frozenset(f"{mark}{index:024}" for mark in ("agent", "variable"))
                daemon.begin(dataclasses.replace(request, marks=marks), ticket)
            await asyncio.sleep(1)
            assert len(daemon.tickets) == count
            cost, _ = tracemalloc.get_traced_memory()
            assert cost / count < 4096
            for ticket in tickets:
                daemon.tickets.abandon(ticket)
            await asyncio.sleep(0.001)
            assert len(daemon.tickets) == 0
            daemon.api.ids.clear()
            daemon.disposed.clear()
            left, _ = tracemalloc.get_traced_memory()
            assert left / count < 400  # tables that have grown stay as they are
        finally:
            tracemalloc.stop()

    at_once(work())
