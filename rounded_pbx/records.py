"""What became of a call, as the log, the metrics and the status page are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .call import CallContext, Switch, clean, mask, mask_numbers
from .routing import Route
from .staging import StagingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call; nothing in it moves a cursor, and phone numbers of callers are masked.

    ``time`` is in seconds since the epoch, ``ms`` in milliseconds from accept to the result.
    ``number`` is the caller's in full, for those who asked for it in the log. What is not known is
    empty.
    """

    time: float
    switch: Switch
    outcome: str
    did: str = ""
    caller: str = ""
    number: str = field(default="", repr=False)
    route: str = ""
    ms: int = 0
    call_id: str = ""
    unique_id: str = ""
    reason: str = ""

    @classmethod
    def of(
        cls,
        result: StagingResult,
        switch: Switch,
        call: CallContext | None,
        route: Route | None,
        *,
        ms: int,
        time: float,
    ) -> CallRecord:
        """The record of a call; ``call`` is None where its request could not be read."""
        return cls(
            time=time,
            switch=switch,
            outcome=result.outcome.value,
            did=clean(call.did, 40) if call else "",
            caller=mask(call.caller.number) if call else "",
            number=clean(call.caller.number, 40) if call else "",
            route=route.name if route else "",
            ms=ms,
            call_id=result.call_id or "",
            unique_id=clean(call.unique_id, 80) if call else "",
            reason=mask_numbers(result.reason),
        )
