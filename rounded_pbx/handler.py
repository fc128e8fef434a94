"""The straight line of one call, the same for both switches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .call import CallContext, Switch, clean, mask, mask_numbers
from .errors import BadNumber, SwitchError
from .numbers import CallerPolicy
from .routing import Next, Route, RouteTable
from .staging import Outcome, StagingRequest, StagingResult
from .tenants import AccountTable
from .variables import Variables, build

log = logging.getLogger(__name__)


class Stages(Protocol):
    """What the handler knows of the stager."""

    async def stage(self, request: StagingRequest, deadline: float) -> StagingResult:
        """Stage a call by ``deadline`` (the running loop's clock); raises only CancelledError."""
        ...


class Channel(Protocol):
    """What the handler knows of the switch's channel."""

    async def get_variables(self, names: Sequence[str]) -> Mapping[str, str]:
        """The values of channel variables; what is not set may be missing."""
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What every call is handled with: the part of the configuration that calls need."""

    routes: RouteTable
    policy: CallerPolicy
    stager: Stages
    default_on_failure: Next
    accounts: AccountTable = field(default_factory=AccountTable)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call: ``variables`` says it to the dialplan, in the order to be written."""

    result: StagingResult
    variables: Variables
    route: Route | None = None
    call: CallContext | None = None
    stage_ms: int = 0

    def log(self) -> None:
        """One line, once the answer has been written: the caller need not wait for the log."""
        call = self.call
        log.info(
            "%s did=%s from=%s route=%s ms=%d call_id=%s unique_id=%s reason=%s",
            self.result.outcome,
            clean(call.did, 40) if call else "-",
            mask(call.caller.number) if call else "-",
            self.route.name if self.route else "-",
            self.stage_ms,
            self.result.call_id or "-",
            clean(call.unique_id, 80) if call else "-",
            mask_numbers(self.result.reason) or "-",
        )


def not_understood(switch: Switch, reason: str) -> Answer:
    """The answer to a request that cannot be read; the dialplan's presets stand."""
    result = StagingResult(Outcome.ERROR, reason=clean(reason))
    return Answer(result, build(switch, None, result, stage_ms=0, default=Next.DIAL))


async def handle_call(
    call: CallContext, desk: Desk, channel: Channel, *, accepted: float, deadline: float
) -> Answer:
    """Route, build, stage. ``accepted`` and ``deadline`` are on the running loop's clock.

    Raises:
        SwitchError: the switch's side failed; there is nobody to answer to.
    """
    clock = asyncio.get_running_loop().time
    route = None
    try:
        route = desk.routes.find(call)
        result = await _stage(call, route, desk, channel, deadline)
    except BadNumber as error:
        result = StagingResult(Outcome.BAD_NUMBER, reason=str(error))
    except (SwitchError, asyncio.CancelledError):
        stage_ms = round((clock() - accepted) * 1000)
        Answer(StagingResult(Outcome.HANGUP), (), route, call, stage_ms).log()
        raise
    except Exception:
        log.exception("a defect of rounded_pbx; the call goes on without a staging")
        result = StagingResult(Outcome.ERROR, reason="a defect of rounded_pbx: see its log")
    stage_ms = round((clock() - accepted) * 1000)
    values = build(call.switch, route, result, stage_ms=stage_ms, default=desk.default_on_failure)
    return Answer(result, values, route, call, stage_ms)


async def _stage(
    call: CallContext, route: Route | None, desk: Desk, channel: Channel, deadline: float
) -> StagingResult:
    if not call.did:
        raise BadNumber("the DID is missing: did=")
    if route is None:
        named = "route of this name" if call.route else "route for this DID"
        return StagingResult(Outcome.NO_ROUTE, reason=f"no {named}")
    names = route.channel_variables()
    values = await channel.get_variables(names) if names else {}
    account = desk.accounts.choose(route, call)
    request = StagingRequest.build(call, route, account, desk.policy, values)
    return await desk.stager.stage(request, deadline)
