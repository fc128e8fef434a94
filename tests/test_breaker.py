"""The circuit breaker, on a clock of its own, against a model that says the same in other words."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rounded_pbx.breaker import Breaker, Permit

from .helpers import Clock, examples


def breaker(clock: Clock, threshold: int = 3) -> Breaker:
    return Breaker(threshold=threshold, pause=1.0, longest_pause=4.0, clock=clock)


def permit(of: Breaker) -> Permit:
    given = of.ask()
    assert given is not None
    return given


def fail(of: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit(of).close(worked=False)


def opened(clock: Clock) -> Breaker:
    """A breaker that has just opened."""
    of = breaker(clock)
    fail(of, 3)
    assert of.is_open
    return of


def test_a_breaker_opens_at_the_threshold_and_not_before() -> None:
    of = breaker(Clock())
    fail(of, 2)
    assert not of.is_open
    fail(of)
    assert of.is_open
    assert of.ask() is None


def test_only_failures_in_a_row_count() -> None:
    of = breaker(Clock())
    for _ in range(5):
        fail(of, 2)
        permit(of).close(worked=True)
    assert not of.is_open


def test_a_cancelled_call_says_nothing_of_the_api() -> None:
    of = breaker(Clock())
    fail(of, 2)
    permit(of).close(worked=None)
    assert not of.is_open
    fail(of)
    assert of.is_open


def test_an_open_breaker_lets_one_call_at_a_time_try_after_its_pause() -> None:
    clock = Clock()
    of = opened(clock)
    clock.advance(0.999)
    assert of.ask() is None
    clock.advance(0.001)
    permit(of)
    clock.advance(100)
    assert [of.ask() for _ in range(3)] == [None] * 3


def test_a_trial_that_worked_closes_the_breaker() -> None:
    clock = Clock()
    of = opened(clock)
    clock.advance(1)
    permit(of).close(worked=True)
    assert not of.is_open
    fail(of, 2)
    assert not of.is_open


def test_each_trial_that_failed_doubles_the_pause_up_to_the_longest() -> None:
    clock = Clock()
    of = opened(clock)
    for pause in (1.0, 2.0, 4.0, 4.0):
        clock.advance(pause - 0.001)
        assert of.ask() is None
        clock.advance(0.001)
        fail(of)
    clock.advance(4)
    permit(of).close(worked=True)
    fail(of, 3)
    clock.advance(1)
    permit(of)  # the pause begins at the first one again


def test_a_cancelled_trial_frees_the_trial_at_once() -> None:
    clock = Clock()
    of = opened(clock)
    clock.advance(1)
    permit(of).close(worked=None)
    assert of.is_open
    permit(of)
    assert of.ask() is None


def test_a_sign_of_life_lets_the_next_call_try_at_once() -> None:
    of = opened(Clock())
    of.hasten()
    permit(of)
    assert of.ask() is None


def test_a_sign_of_life_changes_nothing_while_the_breaker_is_closed() -> None:
    of = breaker(Clock())
    fail(of, 2)
    of.hasten()
    assert not of.is_open
    fail(of)
    assert of.is_open


def test_probes_that_failed_open_the_breaker_as_calls_do() -> None:
    clock = Clock()
    of = breaker(clock)
    for _ in range(3):
        of.note_failure()
    assert of.is_open
    clock.advance(1)
    trial = permit(of)
    of.note_failure()
    assert of.ask() is None, "the trial is still out"
    trial.close(worked=True)
    assert not of.is_open


@pytest.mark.parametrize("worked", [False, None])
def test_a_call_from_before_does_not_end_the_trial(worked: bool | None) -> None:
    clock = Clock()
    of = breaker(clock)
    before = permit(of)
    fail(of, 3)
    clock.advance(1)
    permit(of)
    before.close(worked)
    assert of.is_open
    assert of.ask() is None


def test_a_trial_that_fails_after_another_call_has_closed_the_breaker_is_one_failure() -> None:
    clock = Clock()
    of = breaker(clock)
    before = permit(of)
    fail(of, 3)
    clock.advance(1)
    trial = permit(of)
    before.close(worked=True)
    assert not of.is_open
    trial.close(worked=False)
    assert not of.is_open


def test_the_default_breaker_opens_after_five_failures_and_pauses_a_second() -> None:
    clock = Clock()
    of = Breaker(clock=clock)
    fail(of, 4)
    assert not of.is_open
    fail(of)
    assert of.ask() is None
    clock.advance(1)
    permit(of)


class Model(RuleBasedStateMachine):
    """Any interleaving of calls, probes and time, beside a breaker that is written as a story."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock, threshold=2)
        self.out: list[tuple[Permit, int]] = []  # a permit, and the opening that it is a trial of
        self.opening = 0  # the number of the opening that we are in; 0 while closed
        self.openings = 0
        self.in_a_row = 0
        self.call_failed = False  # the last thing that a call said of the API
        self.pause = 1.0
        self.try_at = 0.0

    def trial_is_out(self) -> bool:
        return any(trial == self.opening for _, trial in self.out)

    def may(self) -> bool:
        if not self.opening:
            return True
        return self.clock.now >= self.try_at and not self.trial_is_out()

    def failed(self, trial: bool) -> None:
        self.in_a_row += 1
        if trial:
            self.pause = min(2 * self.pause, 4.0)
            self.try_at = self.clock.now + self.pause
        elif not self.opening and self.in_a_row >= 2:
            self.openings += 1
            self.opening = self.openings
            self.try_at = self.clock.now + self.pause

    @rule()
    def a_call_asks(self) -> None:
        allowed = self.may()
        given = self.breaker.ask()
        assert (given is not None) == allowed
        if given is not None:
            self.out.append((given, self.opening or -1))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), worked=st.sampled_from([True, False, False, None]))
    def a_call_ends(self, data: st.DataObject, worked: bool | None) -> None:
        index = data.draw(st.integers(0, len(self.out) - 1))
        given, opening = self.out.pop(index)
        given.close(worked)
        given.close(not worked)  # whoever says it twice is not listened to
        if worked is not None:
            self.call_failed = not worked
        if worked:
            self.opening, self.in_a_row, self.pause = 0, 0, 1.0
        elif worked is False:
            self.failed(trial=opening == self.opening)

    @rule()
    def a_probe_fails(self) -> None:
        self.breaker.note_failure()
        self.failed(trial=False)

    @rule()
    def a_probe_works(self) -> None:
        self.breaker.hasten()
        if not self.call_failed:
            self.opening, self.in_a_row, self.pause = 0, 0, 1.0
        self.try_at = min(self.try_at, self.clock.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def it_is_open_when_the_model_is(self) -> None:
        assert self.breaker.is_open == bool(self.opening)


TestModel = Model.TestCase
TestModel.settings = settings(examples(300), stateful_step_count=40)
