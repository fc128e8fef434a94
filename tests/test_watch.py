"""The last calls and the last hour, by clocks that a test turns."""

from __future__ import annotations

import sys

import pytest

from rounded_pbx.call import Switch
from rounded_pbx.records import CallRecord
from rounded_pbx.watch import BOUNDS, MINUTES, MOST_CALLS, Minute, Watch

from .helpers import Clock


def record(outcome: str = "STAGED", ms: int = 100, did: str = "") -> CallRecord:
    return CallRecord(time=0.0, switch=Switch.ASTERISK, outcome=outcome, ms=ms, did=did)


def outcomes(minutes: list[Minute]) -> list[dict[str, int]]:
    return [dict(minute.outcomes) for minute in minutes]


def test_nothing_has_happened() -> None:
    watch = Watch(Clock())
    assert watch.total == 0
    assert watch.calls(0, 0) == []
    assert watch.last(MINUTES) == [Minute({})] * MINUTES


def test_the_last_calls_are_kept_and_no_more() -> None:
    watch = Watch(Clock())
    for number in range(MOST_CALLS + 7):
        watch.add(record(did=str(number)))
    assert watch.total == MOST_CALLS + 7
    assert [each.did for each in watch.calls(0, watch.total)] == [
        str(number) for number in range(7, MOST_CALLS + 7)
    ]


@pytest.mark.parametrize("calls", [5, MOST_CALLS + 3])
def test_any_stretch_of_calls_can_be_had_and_none_stands_in_two(calls: int) -> None:
    watch = Watch(Clock())
    for number in range(calls):
        watch.add(record(did=str(number)))
    for cut in range(calls + 1):
        before, after = watch.calls(0, cut), watch.calls(cut, calls)
        assert before + after == watch.calls(0, calls)
        assert len(after) == min(calls - cut, MOST_CALLS)
    assert watch.calls(calls, calls) == watch.calls(calls + 9, calls + 9) == []


def test_each_minute_has_its_own_calls() -> None:
    clock = Clock(0.0)
    watch = Watch(clock)
    watch.add(record())
    clock.now = 59.9
    watch.add(record("TIMEOUT"))
    clock.now = 60.0
    watch.add(record())
    assert outcomes(watch.last(3)) == [{}, {"STAGED": 1, "TIMEOUT": 1}, {"STAGED": 1}]
    assert watch.minute == 1


def test_minutes_without_calls_are_empty_ones() -> None:
    clock = Clock(0.0)
    watch = Watch(clock)
    watch.add(record())
    clock.now = 3 * 60.0
    assert outcomes(watch.last(4)) == [{"STAGED": 1}, {}, {}, {}]
    watch.add(record())
    assert outcomes(watch.last(4)) == [{"STAGED": 1}, {}, {}, {"STAGED": 1}]


@pytest.mark.parametrize("minutes", [MINUTES, 10**9])
def test_an_hour_later_nothing_is_left_of_it(minutes: int) -> None:
    clock = Clock(0.0)
    watch = Watch(clock)
    watch.add(record())
    clock.now = (MINUTES - 1) * 60.0
    assert outcomes(watch.last(MINUTES))[0] == {"STAGED": 1}
    clock.now = minutes * 60.0
    assert watch.last(MINUTES) == [Minute({})] * MINUTES
    assert len(watch.calls(0, watch.total)) == 1


def test_a_clock_that_goes_back_loses_nothing_and_the_newest_minute_goes_on() -> None:
    clock = Clock(600.0)
    watch = Watch(clock)
    watch.add(record())
    clock.now = 10.0
    watch.add(record("TIMEOUT"))
    assert watch.minute == 10
    assert outcomes(watch.last(1)) == [{"STAGED": 1, "TIMEOUT": 1}]
    clock.now = 660.0
    watch.add(record())
    assert outcomes(watch.last(2)) == [{"STAGED": 1, "TIMEOUT": 1}, {"STAGED": 1}]


@pytest.mark.parametrize(
    ("milliseconds", "p50", "p95"),
    [
        ([0], 0, 0),
        ([7], 7, 7),
        ([100], 100, 100),
        ([*range(1, 101)], 50, 95),
        ([10] * 95 + [3000] * 5, 10, 10),
        ([10] * 94 + [3000] * 6, 10, 3000),
        ([-5], 0, 0),
        ([10**9], BOUNDS[-1], BOUNDS[-1]),
    ],
)
def test_half_of_the_calls_and_95_percent(milliseconds: list[int], p50: int, p95: int) -> None:
    watch = Watch(Clock())
    for ms in milliseconds:
        watch.add(record(ms=ms))
    (minute,) = watch.last(1)
    assert minute.p50 is not None
    assert minute.p95 is not None
    assert p50 <= minute.p50 <= p50 * 1.1
    assert p95 <= minute.p95 <= p95 * 1.1


def test_an_outcome_that_is_not_known_is_counted_as_it_is() -> None:
    watch = Watch(Clock())
    for outcome in ("STAGED", "<b>", "STAGED"):
        watch.add(record(outcome))
    assert outcomes(watch.last(1)) == [{"STAGED": 2, "<b>": 1}]


def test_what_it_holds_does_not_grow() -> None:
    clock = Clock(0.0)
    watch = Watch(clock)
    held = []
    for _ in range(3):
        for _ in range(2 * MINUTES):
            clock.advance(60.0)
            for outcome in ("STAGED", "TIMEOUT", "HANGUP"):
                watch.add(record(outcome))
        minutes = [sys.getsizeof(each.latencies) for each in watch._minutes]
        held.append((sum(minutes), len(minutes), len(watch._calls)))
    assert held == [held[0]] * 3
