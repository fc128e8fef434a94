"""The last calls and the last hour, as the status page shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from .records import CallRecord

#: Calls that are kept, and minutes that are counted.
MOST_CALLS, MINUTES = 200, 60


def _bounds() -> Iterator[int]:
    """Upper bounds in milliseconds, each a tenth or so beyond the one before, up to two minutes."""
    bound = 0
    while bound < 120_000:
        yield bound
        bound = max(bound + 1, bound * 11 // 10)


#: A call is counted by the first bound that its milliseconds do not exceed, if there is one.
BOUNDS = tuple(_bounds())


@dataclass(slots=True)
class _Counts:
    """One minute under way."""

    outcomes: dict[str, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


@dataclass(frozen=True, slots=True)
class Minute:
    """What came of the calls of one minute; milliseconds are None where there was none.

    ``p50`` and ``p95`` are what half of its calls, and 95 % of them, did not exceed: up to a tenth
    too much, as they are counted in classes.
    """

    outcomes: Mapping[str, int]
    p50: int | None = None
    p95: int | None = None


class Watch:
    """Counts calls; it does nothing else, and what it holds does not grow.

    Args:
        clock: seconds of a clock that nobody sets; the wall's may jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[CallRecord] = deque(maxlen=MOST_CALLS)
        self._minutes: deque[_Counts] = deque([_Counts()], maxlen=MINUTES)
        self._newest = int(clock() // 60)
        self._total = 0

    @property
    def total(self) -> int:
        """How many calls there were since the start."""
        return self._total

    @property
    def minute(self) -> int:
        """The number of the minute under way; it never goes back."""
        self._turn()
        return self._newest

    def add(self, record: CallRecord) -> None:
        """One more call, which has just ended."""
        self._turn()
        self._total += 1
        self._calls.append(record)
        counts = self._minutes[-1]
        counts.outcomes[record.outcome] = counts.outcomes.get(record.outcome, 0) + 1
        counts.latencies[bisect_left(BOUNDS, record.ms)] += 1

    def calls(self, after: int, until: int) -> list[CallRecord]:
        """The calls beyond the first ``after``, up to ``until``, oldest first, that are kept."""
        oldest = self._total - len(self._calls)
        return list(self._calls)[max(after - oldest, 0) : max(until - oldest, 0)]

    def last(self, count: int) -> list[Minute]:
        """The last ``count`` minutes, oldest first, the one under way included."""
        self._turn()
        missing = count - len(self._minutes)
        kept = list(self._minutes)[-count:]
        return [Minute({})] * missing + [_summary(counts) for counts in kept]

    def _turn(self) -> None:
        """Begin the minute that it is; where the clock went back, the newest one goes on."""
        now = int(self._clock() // 60)
        for _ in range(min(now - self._newest, MINUTES)):
            self._minutes.append(_Counts())
        self._newest = max(now, self._newest)


def _summary(counts: _Counts) -> Minute:
    if not counts.outcomes:
        return Minute({})
    reached = list(accumulate(counts.latencies))
    p50, p95 = (bisect_left(reached, share * reached[-1]) for share in (0.5, 0.95))
    last = len(BOUNDS) - 1
    return Minute(dict(counts.outcomes), BOUNDS[min(p50, last)], BOUNDS[min(p95, last)])
