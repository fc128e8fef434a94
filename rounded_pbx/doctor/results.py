"""What the doctor says of one thing that it has looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Characters of one text.
_LONGEST = 500


class Verdict(StrEnum):
    """How a thing is; ``look`` wants somebody's eyes, ``skipped`` could not be seen."""

    RIGHT = "right"
    LOOK = "look"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: what was seen, what is wrong with it, and what to do.

    ``name`` is the same from run to run: ``asterisk.modules``. ``evidence`` are lines to be shown
    as they are.
    """

    name: str
    verdict: Verdict
    seen: str
    wrong: str = ""
    todo: str = ""
    evidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A switch, a trunk or an API may have written it: nothing of it moves a terminal.
        for name in ("seen", "wrong", "todo"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        object.__setattr__(self, "evidence", tuple(map(_plain, self.evidence)))


def _plain(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"


def right(name: str, seen: str) -> CheckResult:
    """It is as it should be."""
    return CheckResult(name, Verdict.RIGHT, seen)


def wrong(name: str, seen: str, why: str, todo: str) -> CheckResult:
    """It is not."""
    return CheckResult(name, Verdict.WRONG, seen, why, todo)


def look(name: str, seen: str, why: str, todo: str) -> CheckResult:
    """It may be, and only somebody who knows the place can say."""
    return CheckResult(name, Verdict.LOOK, seen, why, todo)


def skipped(name: str, why: str) -> CheckResult:
    """It could not be looked at, because of something that is said elsewhere."""
    return CheckResult(name, Verdict.SKIPPED, why)


def said(error: Exception) -> str:
    """What went wrong, in the system's own words: asyncio's name the address once more."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else str(error) or "no answer in time"


def of_modules(
    name: str, loaded: frozenset[str], needed: Sequence[str], load: str, file: str
) -> CheckResult:
    """Whether every module that the dialplan needs is loaded; ``load`` loads a ``MODULE``."""
    gone = [module for module in needed if module not in loaded]
    if not gone:
        return right(name, f"{len(needed)} modules that the dialplan needs are loaded")
    commands = ", ".join(load.replace("MODULE", module) for module in gone)
    todo = f"{commands}; and see {file}"
    return wrong(name, f"not loaded: {', '.join(gone)}", "the dialplan cannot work without", todo)


def exit_status(results: Iterable[CheckResult]) -> int:
    """0: all is right; 1: something wants a look; 2: something is wrong."""
    verdicts = {result.verdict for result in results}
    if Verdict.WRONG in verdicts:
        return 2
    return 1 if Verdict.LOOK in verdicts else 0
