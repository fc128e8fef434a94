"""The channel variables: the contract with the dialplan (public; change it only on purpose).

Upper case on Asterisk, the same names in lower case on FreeSWITCH, and plain: a variable that later
legs inherit would carry a stale id into a transfer. Only the ticket is inherited, so that a queue's
or a Local channel can collect; it can be had for nothing but the call that it was made for.
"""

from __future__ import annotations

import re

from .call import Switch
from .routing import Next, Route
from .staging import Outcome, StagingResult

STATUS = "ROUNDED_STATUS"
CALL_ID = "ROUNDED_CALL_ID"
NEXT = "ROUNDED_NEXT"
FALLBACK = "ROUNDED_FALLBACK"
REASON = "ROUNDED_REASON"
ROUTE = "ROUNDED_ROUTE"
AGENT_ID = "ROUNDED_AGENT_ID"
STAGE_MS = "ROUNDED_STAGE_MS"
TICKET = "ROUNDED_TICKET"

_REASON_REFUSED = re.compile(r"[^A-Za-z0-9 .:/_+-]+")
LONGEST_REASON = 128

Variables = tuple[tuple[str, str], ...]


def reason_text(text: str) -> str:
    """``text`` in the characters and the length that ``ROUNDED_REASON`` allows."""
    return " ".join(_REASON_REFUSED.sub(" ", text).split())[:LONGEST_REASON].rstrip()


def build(
    switch: Switch,
    route: Route | None,
    result: StagingResult,
    *,
    stage_ms: int,
    default: Next,
) -> Variables:
    """The variables for a result, in the order in which they must be written.

    The id comes last but for the status: a session that is cut off between two of them leaves a
    dialplan that goes by the status, or by the id, in a state that it knows. What the
    configuration does not say for this call stays as the dialplan has preset it. ``default`` is
    what a call without a route does.
    """
    call_id = result.call_id or ""
    if result.outcome is Outcome.INITIATED and route is not None and not route.send_unstaged:
        call_id = ""
    values: list[tuple[str, str]] = [
        (REASON, reason_text(result.reason)),
        (STAGE_MS, str(stage_ms)),
    ]
    if result.outcome is Outcome.NO_ROUTE:
        values.append((NEXT, default.value))
    if route is not None:
        values += [
            (ROUTE, route.name),
            (AGENT_ID, route.agent_id),
            (NEXT, (Next.DIAL if call_id else route.on_failure).value),
        ]
        if switch in route.fallback:
            values.append((FALLBACK, route.fallback[switch]))
    values += [(CALL_ID, call_id), (STATUS, result.outcome.value)]
    if switch is Switch.FREESWITCH:
        return tuple((name.lower(), value) for name, value in values)
    return tuple(values)


def build_ticket(switch: Switch, ticket: str) -> Variables:
    """The one variable that a prestaging sets; an empty ticket where nothing was begun."""
    if switch is Switch.FREESWITCH:  # a variable stays with its channel there, wherever it goes
        return ((TICKET.lower(), ticket),)
    return ((f"__{TICKET}", ticket),)
