"""The straight line of one call, whole or in two halves, the same for both switches."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from .call import CallContext, Switch, clean
from .errors import BadNumber, SwitchError
from .numbers import CallerPolicy
from .records import CallRecord
from .routing import Next, Route, RouteTable
from .staging import Outcome, StagingRequest, StagingResult, marks, valid_uuid
from .tenants import AccountTable
from .variables import Variables, build, build_ticket

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Stages(Protocol):
    """What the handler knows of the stager."""

    async def stage(self, request: StagingRequest, deadline: float) -> StagingResult:
        """Stage a call by ``deadline`` (the running loop's clock); raises only CancelledError."""
        ...


class Tickets(Protocol):
    """What the handler knows of stagings that are begun early."""

    @property
    def has_room(self) -> bool:
        """Whether one more can be begun."""
        ...

    def begin(self, ticket: str, request: StagingRequest) -> None:
        """Stage in the background."""
        ...

    async def collect(
        self, ticket: str, marks: frozenset[str], deadline: float
    ) -> StagingResult | None:
        """What a ticket stands for, once; None where the call is to be staged anew."""
        ...

    def abandon(self, ticket: str) -> None:
        """The caller left."""
        ...


class Channel(Protocol):
    """What the handler knows of the switch's channel."""

    async def get_variables(self, names: Sequence[str]) -> Mapping[str, str]:
        """The values of channel variables; what is not set may be missing."""
        ...


def log_call(record: CallRecord, *, full_numbers: bool = False) -> None:
    """One line for a call."""
    if full_numbers:
        record = replace(record, caller=record.number)
    log.info(
        "%s did=%s from=%s route=%s ms=%d call_id=%s unique_id=%s reason=%s",
        record.outcome,
        record.did or "-",
        record.caller or "-",
        record.route or "-",
        record.ms,
        record.call_id or "-",
        record.unique_id or "-",
        record.reason or "-",
        extra={"record": record},
    )


@dataclass(frozen=True, slots=True)
class Desk:
    """What every call is handled with: the part of the configuration that calls need."""

    routes: RouteTable
    policy: CallerPolicy
    stager: Stages
    default_on_failure: Next
    tickets: Tickets
    accounts: AccountTable = field(default_factory=AccountTable)
    #: Told of every call, once its answer has been written: the caller need not wait for it.
    told: Callable[[CallRecord], None] = log_call


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call: ``variables`` says it to the dialplan, in the order to be written.

    ``result`` is None where nothing has come of it yet. ``then`` begins what the dialplan need not
    wait for, once the variables have been written: a caller who left before gets nothing.
    """

    switch: Switch
    result: StagingResult | None
    variables: Variables
    route: Route | None = None
    call: CallContext | None = None
    stage_ms: int = 0
    then: Callable[[], None] = _nothing

    def tell(self, desk: Desk) -> None:
        """Whoever keeps count of calls; once the answer has been written."""
        if self.result is not None:
            desk.told(
                CallRecord.of(
                    self.result,
                    self.switch,
                    self.call,
                    self.route,
                    ms=self.stage_ms,
                    time=time.time(),
                )
            )


def not_understood(switch: Switch, reason: str) -> Answer:
    """The answer to a request that cannot be read; the dialplan's presets stand."""
    result = StagingResult(Outcome.ERROR, reason=clean(reason))
    variables = build(switch, None, result, stage_ms=0, default=Next.DIAL)
    return Answer(switch, result, variables)


async def stage(
    call: CallContext, desk: Desk, channel: Channel, *, accepted: float, deadline: float
) -> Answer:
    """``/stage``: the id by ``deadline``, which is on the running loop's clock, as ``accepted`` is.

    Raises:
        SwitchError: the switch's side failed; there is nobody to answer to.
    """
    call = replace(call, ticket="")
    return await collect(call, desk, channel, accepted=accepted, deadline=deadline)


async def collect(
    call: CallContext, desk: Desk, channel: Channel, *, accepted: float, deadline: float
) -> Answer:
    """``/collect``: what the ticket stands for, else as ``stage``; the same times and errors."""

    async def work(route: Route) -> StagingResult:
        ticket = valid_uuid(call.ticket)
        if ticket is not None:
            asked = marks(call, route, desk.accounts.choose(route, call))
            found = await desk.tickets.collect(ticket, asked, deadline)
            if found is not None:
                return found
        return await desk.stager.stage(await _request(call, route, desk, channel), deadline)

    route, result, stage_ms = await _worked(call, desk, accepted, work)
    values = build(call.switch, route, result, stage_ms=stage_ms, default=desk.default_on_failure)
    return Answer(call.switch, result, values, route, call, stage_ms)


async def prestage(
    call: CallContext, desk: Desk, channel: Channel, *, accepted: float, deadline: float
) -> Answer:
    """``/prestage``: a ticket at once, and a staging that begins; the same errors as ``stage``.

    Where nothing can be begun the ticket is empty, and ``/collect`` says why.
    """

    async def work(route: Route) -> StagingRequest | StagingResult:
        if not desk.tickets.has_room:
            return StagingResult(Outcome.LIMITED, reason="too many calls are prestaged")
        return await _request(call, route, desk, channel)

    route, begun, stage_ms = await _worked(call, desk, accepted, work)
    if isinstance(begun, StagingResult):
        nothing = build_ticket(call.switch, "")
        return Answer(call.switch, begun, nothing, route, call, stage_ms)
    ticket = str(uuid.uuid4())
    return Answer(
        call.switch,
        None,
        build_ticket(call.switch, ticket),
        route,
        call,
        stage_ms,
        then=partial(desk.tickets.begin, ticket, begun),
    )


class Action(Protocol):
    """``stage``, ``prestage`` or ``collect``."""

    def __call__(
        self, call: CallContext, desk: Desk, channel: Channel, *, accepted: float, deadline: float
    ) -> Coroutine[Any, Any, Answer]:
        """The answer to a call."""
        ...


#: What a dialplan can ask for, by the path of its request; ``ABANDON`` wants no answer.
ACTIONS: Mapping[str, Action] = {"stage": stage, "prestage": prestage, "collect": collect}
ABANDON = "abandon"


def abandon(switch: Switch, ticket: str, desk: Desk) -> Answer:
    """``/abandon``: the caller left before the ticket was collected."""
    valid = valid_uuid(ticket)
    if valid is not None:
        desk.tickets.abandon(valid)
    return Answer(switch, None, ())


async def _worked(
    call: CallContext, desk: Desk, accepted: float, work: Callable[[Route], Awaitable[Result]]
) -> tuple[Route | None, Result | StagingResult, int]:
    """The call's route, what ``work`` made of it or why it could not, and the milliseconds."""
    clock = asyncio.get_running_loop().time
    route: Route | None = None
    result: Result | StagingResult
    try:
        route = desk.routes.find(call)
        if not call.did:
            raise BadNumber("the DID is missing: did=")
        if route is None:
            named = "route of this name" if call.route else "route for this DID"
            result = StagingResult(Outcome.NO_ROUTE, reason=f"no {named}")
        else:
            result = await work(route)
    except BadNumber as error:
        result = StagingResult(Outcome.BAD_NUMBER, reason=str(error))
    except (SwitchError, asyncio.CancelledError):
        stage_ms = round((clock() - accepted) * 1000)
        hung_up = StagingResult(Outcome.HANGUP)
        Answer(call.switch, hung_up, (), route, call, stage_ms).tell(desk)
        raise
    except Exception:
        log.exception("a defect of rounded_pbx; the call goes on without a staging")
        result = StagingResult(Outcome.ERROR, reason="a defect of rounded_pbx: see its log")
    return route, result, round((clock() - accepted) * 1000)


async def _request(call: CallContext, route: Route, desk: Desk, channel: Channel) -> StagingRequest:
    names = route.channel_variables()
    values = await channel.get_variables(names) if names else {}
    account = desk.accounts.choose(route, call)
    return StagingRequest.build(call, route, account, desk.policy, values)
