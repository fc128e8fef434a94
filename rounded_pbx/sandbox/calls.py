"""The calls of the sandbox: their status is a function of the clock."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds after which a staged call that no INVITE reached becomes ``no_answer``.
EXPIRY = 60.0
#: Seconds from the INVITE to the agent's answer.
RINGING = 0.5
#: Calls that are remembered; the oldest go first.
MOST_CALLS = 100_000


@dataclass(slots=True)
class Call:
    """A call, and when what happened to it (seconds of the clock)."""

    id: str
    request: dict[str, object]
    created: float
    staging_time: float
    invited: float | None = None
    ended: float | None = None
    metadata: dict[str, object] = field(default_factory=dict)

    def status(self, now: float) -> str:
        """The status at ``now``: initiated, staged, ringing, in_progress, completed, no_answer."""
        staged = self.created + self.staging_time
        if self.ended is not None:
            return "completed"
        if self.invited is not None:
            return "ringing" if now < self.invited + RINGING else "in_progress"
        if now < staged:
            return "initiated"
        return "staged" if now < staged + EXPIRY else "no_answer"

    def public(self, now: float) -> dict[str, object]:
        """The call as the API shows it."""
        return {
            "id": self.id,
            "status": self.status(now),
            "from_number": self.request["from_number"],
            "to_number": self.request["to_number"],
            "direction": self.request.get("direction", "inbound"),
            "agent_id": self.request["agent_id"],
            "metadata": self.metadata,
        }


class Calls:
    """All calls, by id."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._calls: dict[str, Call] = {}

    def create(self, request: dict[str, object], staging_time: float) -> Call:
        """A new call, staged ``staging_time`` seconds from now."""
        call = Call(str(uuid.uuid4()), request, self.clock(), staging_time)
        self._calls[call.id] = call
        if len(self._calls) > MOST_CALLS:
            del self._calls[next(iter(self._calls))]
        return call

    def find(self, call_id: str) -> Call | None:
        """The call with this id."""
        return self._calls.get(call_id.lower())

    def invite(self, call: Call) -> bool:
        """The INVITE with this call's id has come; False if the call was not to be had any more."""
        if call.status(self.clock()) not in ("initiated", "staged"):
            return False
        call.invited = self.clock()
        return True

    def terminate(self, call: Call) -> None:
        """End the call; again, if need be."""
        if call.ended is None:
            call.ended = self.clock()

    def clear(self) -> None:
        """Forget every call."""
        self._calls.clear()

    def newest(self, most: int) -> list[Call]:
        """The newest calls, newest first."""
        return list(reversed(self._calls.values()))[:most]
