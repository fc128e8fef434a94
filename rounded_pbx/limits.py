"""How much one account may stage: so many at a time, so many a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """``rate`` a second on average, and a burst of ``max(1, rate)``; seconds are of ``clock``."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._most = self._tokens = max(1.0, rate)
        self._filled = clock()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take now."""
        now = self._clock()
        self._tokens = min(self._most, self._tokens + self.rate * (now - self._filled))
        self._filled = now
        return self._tokens < 1.0

    def take(self) -> None:
        """Count one; only where it ``is_empty`` no longer."""
        self._tokens -= 1.0


class Limits:
    """One account's own cap and rate; None is no limit. ``rate`` is in stagings a second."""

    def __init__(
        self,
        *,
        max_in_flight: int | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._bucket = None if rate is None else TokenBucket(rate, clock=clock)
        self._in_flight = 0

    @property
    def refusal(self) -> str:
        """Why nothing may be staged now; empty where it may."""
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            return f"max_in_flight {self._max_in_flight} reached"
        if self._bucket is not None and self._bucket.is_empty:
            return f"rate {self._bucket.rate:g} a second reached"
        return ""

    def enter(self) -> None:
        """A staging begins that was not refused; it counts, whatever becomes of it."""
        self._in_flight += 1
        if self._bucket is not None:
            self._bucket.take()

    def leave(self) -> None:
        """It has ended."""
        self._in_flight -= 1
