"""What the status page shows beside calls, and the one line that sums it up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ...staging import Outcome
from ...watch import Minute

#: Minutes that the verdict looks at, calls without an id among them, and their share.
LATELY, SEVERAL, TOO_MANY = 5, 3, 0.2


@dataclass(frozen=True, slots=True)
class AccountHealth:
    """An account and its API; ``problem`` is empty where it answers, None while not asked yet."""

    name: str
    breaker_open: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The daemon at one moment; ``started`` is in seconds since the epoch.

    ``listening`` are the listeners, each by its name and its address; ``configuration`` is text
    without secrets.
    """

    version: str
    pbx: str
    started: float
    listening: tuple[tuple[str, str], ...] = ()
    accounts: tuple[AccountHealth, ...] = ()
    in_flight: int = 0
    prestaged: int = 0
    dropped_errands: int = 0
    refused: int = 0
    configuration: str = ""


class Group(StrEnum):
    """Outcomes that have a colour in common."""

    STAGED = "staged"
    INITIATED = "initiated"
    FAILED = "failed"
    HANGUP = "hangup"


_GROUPS = {
    Outcome.STAGED.value: Group.STAGED,
    Outcome.INITIATED.value: Group.INITIATED,
    Outcome.HANGUP.value: Group.HANGUP,
}


def group_of(outcome: str) -> Group:
    """The group of an outcome: whatever is not known is a failure."""
    return _GROUPS.get(outcome, Group.FAILED)


class Level(StrEnum):
    """How the daemon is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


def verdict(facts: Facts, ready: bool, minutes: Iterable[Minute]) -> tuple[Level, str]:
    """How the daemon is, and why; ``minutes`` are the last ``LATELY`` ones."""
    if not ready:
        return Level.BAD, "Not ready: no new calls are taken"
    if broken := [account.name for account in facts.accounts if account.breaker_open]:
        return Level.BAD, f"The API is out: the circuit breaker of {_some(broken)} is open"
    if failing := [account.name for account in facts.accounts if account.problem]:
        return Level.WARNING, f"The API does not answer {_some(failing)} as it should"
    counted = [item for minute in minutes for item in minute.outcomes.items()]
    calls = sum(number for _, number in counted)
    failed = sum(number for outcome, number in counted if group_of(outcome) is Group.FAILED)
    if failed >= SEVERAL and failed >= TOO_MANY * calls:
        return (
            Level.WARNING,
            f"{failed} of the {calls} calls of the last {LATELY} minutes got no id",
        )
    return Level.OK, "All is well"


def worst_first(accounts: Iterable[AccountHealth]) -> list[AccountHealth]:
    """The accounts in the order in which they are shown."""
    return sorted(accounts, key=lambda each: (not each.breaker_open, not each.problem))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
