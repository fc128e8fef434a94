"""A circuit breaker: when the API is out, the next caller does not wait to find that out.

Closed, it lets every call through. ``threshold`` failures in a row open it; open, it refuses, and
after a pause that doubles up to ``longest_pause`` lets one call at a time try. A success closes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """One account's breaker; times are in seconds of ``clock``."""

    def __init__(
        self,
        *,
        threshold: int = 5,
        pause: float = 1.0,
        longest_pause: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._first_pause = self._pause = pause
        self._longest_pause = longest_pause
        self._clock = clock
        self._failures = 0
        self._call_failed = False
        self._retry_at: float | None = None
        self._trial: Permit | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for a trial."""
        return self._retry_at is not None

    def ask(self) -> Permit | None:
        """Leave to call the API, or None. Whoever has it must ``close`` it."""
        if self._retry_at is None:
            return Permit(self)
        if self._trial is not None or self._clock() < self._retry_at:
            return None
        self._trial = Permit(self)
        return self._trial

    def hasten(self) -> None:
        """A probe worked: it takes back what probes said; after a call that failed, one may try."""
        if not self._call_failed:
            self.close(Permit(self), worked=True)
        elif self._retry_at is not None:
            self._retry_at = self._clock()

    def note_failure(self) -> None:
        """A probe failed beside the calls: it counts as a call that did."""
        call_failed = self._call_failed
        self.close(Permit(self), worked=False)
        self._call_failed = call_failed

    def close(self, permit: Permit, worked: bool | None) -> None:
        """Take a permit back; ``worked`` is None where the call says nothing of the API."""
        trial = permit is self._trial
        if trial:
            self._trial = None
        if worked is not None:
            self._call_failed = not worked
        if worked:
            self._failures = 0
            self._pause = self._first_pause
            self._retry_at = self._trial = None
        elif worked is False:
            self._failures += 1
            if trial:
                self._pause = min(2 * self._pause, self._longest_pause)
            if trial or (self._retry_at is None and self._failures >= self._threshold):
                self._retry_at = self._clock() + self._pause


class Permit:
    """Leave for one call."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker: Breaker | None = breaker

    def close(self, worked: bool | None) -> None:
        """Say how it went: True, False, or None for a call that was cancelled; once."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.close(self, worked)
