"""One account's cap and rate, on a clock of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounded_pbx.limits import Limits, TokenBucket

from .helpers import Clock, examples


def taken(bucket: TokenBucket, tries: int) -> int:
    """How many of so many tries in one moment are let through."""
    count = 0
    for _ in range(tries):
        if not bucket.is_empty:
            bucket.take()
            count += 1
    return count


@pytest.mark.parametrize(("rate", "burst"), [(0.25, 1), (1.0, 1), (1.5, 1), (5.0, 5), (100.0, 100)])
def test_a_burst_of_a_second_is_let_through_and_one_at_least(rate: float, burst: int) -> None:
    clock = Clock(0.0)
    bucket = TokenBucket(rate, clock=clock)
    assert taken(bucket, 300) == burst
    clock.advance(1 / rate)
    assert taken(bucket, 300) == 1


def test_what_is_not_used_is_not_saved_up_beyond_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(5.0, clock=clock)
    clock.advance(3600)
    assert taken(bucket, 300) == 5


def test_being_asked_again_and_again_does_not_hold_up_the_next_one() -> None:
    clock = Clock()
    bucket = TokenBucket(1.0, clock=clock)
    assert taken(bucket, 1) == 1
    for _ in range(8):
        assert bucket.is_empty
        clock.advance(0.125)
    assert not bucket.is_empty


# Quarters and eighths are exact in binary, so that the bound is tried without any tolerance.
@examples(300)
@given(
    st.integers(1, 80).map(lambda quarters: quarters / 4),
    st.lists(
        st.tuples(st.integers(0, 40).map(lambda eighths: eighths / 8), st.integers(0, 30)),
        max_size=30,
    ),
)
def test_no_window_has_more_than_the_burst_and_the_rate(
    rate: float, moments: list[tuple[float, int]]
) -> None:
    clock = Clock(0.0)
    bucket = TokenBucket(rate, clock=clock)
    passed: list[tuple[float, int]] = []
    for pause, tries in moments:
        clock.advance(pause)
        passed.append((clock.now, taken(bucket, tries)))
    for first, (begin, _) in enumerate(passed):
        count = 0
        for end, some in passed[first:]:
            count += some
            assert count <= max(1.0, rate) + rate * (end - begin)


@examples(100)
@given(st.integers(1, 80).map(lambda quarters: quarters / 4), st.integers(1, 50))
def test_nobody_who_keeps_to_the_rate_is_refused(rate: float, calls: int) -> None:
    clock = Clock(0.0)
    bucket = TokenBucket(rate, clock=clock)
    for _ in range(calls):
        assert taken(bucket, 1) == 1
        clock.advance(1.001 / rate)


def test_without_limits_nothing_is_refused() -> None:
    limits = Limits()
    for _ in range(10_000):
        assert limits.refusal == ""
        limits.enter()


def test_a_cap_is_for_those_that_are_there() -> None:
    limits = Limits(max_in_flight=2)
    limits.enter()
    assert limits.refusal == ""
    limits.enter()
    assert limits.refusal == "max_in_flight 2 reached"
    limits.leave()
    assert limits.refusal == ""


def test_a_rate_is_for_those_that_have_begun() -> None:
    clock = Clock()
    limits = Limits(rate=0.5, clock=clock)
    limits.enter()
    limits.leave()
    assert limits.refusal == "rate 0.5 a second reached"
    clock.advance(2)
    assert limits.refusal == ""


def test_whoever_is_refused_by_the_cap_costs_nothing_of_the_rate() -> None:
    clock = Clock()
    limits = Limits(max_in_flight=1, rate=2.0, clock=clock)
    limits.enter()
    for _ in range(10):
        assert limits.refusal == "max_in_flight 1 reached"
    limits.leave()
    assert limits.refusal == ""
    limits.enter()
    limits.leave()
    assert limits.refusal == "rate 2 a second reached"
