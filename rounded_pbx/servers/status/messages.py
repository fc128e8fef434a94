"""What the viewers of the status page are told, as server-sent events: JSON of plain ASCII."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...records import CallRecord
from ...watch import MINUTES, Watch
from .facts import LATELY, Facts, verdict, worst_first

#: Characters of a text that are shown.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Told:
    """What is known at one moment: calls so far, the minute under way, and all beside."""

    total: int
    minute: int
    facts: Facts
    ready: bool


class Teller:
    """Puts what happens into messages, for all viewers alike."""

    def __init__(self, watch: Watch, ready: Callable[[], bool], facts: Callable[[], Facts]) -> None:
        self._watch = watch
        self._ready = ready
        self._facts = facts

    def now(self) -> Told:
        """What is to be told."""
        return Told(self._watch.total, self._watch.minute, self._facts(), self._ready())

    def snapshot(self, told: Told) -> bytes:
        """All that is to be known at ``told``, which was a moment ago."""
        return self._message(told, 0, MINUTES, {"snapshot": True, **_accounts(told.facts)})

    def update(self, before: Told, told: Told) -> bytes:
        """What came between two moments."""
        new = {} if told.facts.accounts == before.facts.accounts else _accounts(told.facts)
        return self._message(told, before.total, told.minute - before.minute + 1, new)

    def _message(self, told: Told, after: int, minutes: int, more: dict[str, Any]) -> bytes:
        facts, watch = told.facts, self._watch
        minutes = min(minutes, MINUTES)
        # A minute may have begun since: told of it too early, a viewer would draw one twice.
        late = watch.minute - told.minute
        counted = max(minutes, LATELY)
        last = watch.last(counted + late)[:counted]
        message = {
            "page": mark(facts),
            "from": after,
            "total": told.total,
            "calls": [row(record) for record in watch.calls(after, told.total)],
            "minute": told.minute,
            "minutes": [[m.outcomes, m.p50, m.p95] for m in last[-minutes:]],
            "health": verdict(facts, told.ready, last[-LATELY:]),
            "counts": counts(facts, told.total),
            "now": round(time.time()),
            "offset": time.localtime().tm_gmtoff,
            **more,
        }
        return b"data: " + json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n\n"


def row(record: CallRecord) -> list[object]:
    """One call, in the order of the table's columns, and the switch's own id."""
    return [
        round(record.time),
        record.outcome[:LONGEST],
        record.did[:LONGEST],
        record.caller[:LONGEST],
        record.route[:LONGEST],
        record.ms,
        record.call_id[:LONGEST],
        record.unique_id[:LONGEST],
        record.reason[:LONGEST],
    ]


def counts(facts: Facts, total: int) -> list[int]:
    """The numbers in the head of the page."""
    return [total, facts.in_flight, facts.prestaged, facts.dropped_errands, facts.refused]


def _accounts(facts: Facts) -> dict[str, Any]:
    accounts = worst_first(facts.accounts)
    return {"accounts": [[a.name, a.breaker_open, problem(a.problem)] for a in accounts]}


def problem(text: str | None) -> str | None:
    """An account's problem, as it is shown."""
    return text if text is None else text[:LONGEST]


def mark(facts: Facts) -> str:
    """Changes with what a page shows and no message carries: then it is loaded anew."""
    return _digest(facts.version, facts.pbx, facts.started, facts.listening, facts.configuration)


@lru_cache(maxsize=2)
def _digest(*fixed: object) -> str:
    return hashlib.blake2b(repr(fixed).encode("utf-8", "replace"), digest_size=6).hexdigest()
