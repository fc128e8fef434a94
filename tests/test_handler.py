"""The straight line of one call, with a stager and a channel of a few lines each."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from rounded_pbx.call import CallContext, CallerId, Switch, clean
from rounded_pbx.errors import CommandFailed, Hangup, ProtocolError, SwitchError
from rounded_pbx.handler import (
    Action,
    Answer,
    Desk,
    abandon,
    collect,
    not_understood,
    prestage,
    stage,
)
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.routing import Next, Route, RouteTable
from rounded_pbx.staging import Outcome, StagingRequest, StagingResult
from rounded_pbx.templates import compile_value
from rounded_pbx.tenants import AccountTable, Selectors

from .helpers import FakeTickets

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
CALL_ID = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
STAGED = StagingResult(Outcome.STAGED, CALL_ID)
DEADLINE = 4711.5
CALL = CallContext(
    switch=Switch.ASTERISK,
    did="+33612345678",
    caller=CallerId("+33700000001", "Jean"),
    unique_id="1795328067.92",
)
ROUTES = [
    Route(name="support", agent_id=AGENT, dids=("+33612345678",), on_failure=Next.HANGUP),
    Route(
        name="templates",
        agent_id=AGENT,
        dynamic_variables={"a": compile_value("{channel.ACCOUNT} {channel.TENANT}")},
    ),
]

Act = Callable[[], Awaitable[StagingResult]]


@dataclass
class Stager:
    """Answers what it was told to, and keeps what it was asked."""

    act: Act
    asked: list[tuple[StagingRequest, float]] = field(default_factory=list)

    async def stage(self, request: StagingRequest, deadline: float) -> StagingResult:
        self.asked.append((request, deadline))
        return await self.act()


@dataclass
class Channel:
    """A channel with these variables, or one that fails."""

    variables: Mapping[str, str] = field(default_factory=dict)
    failure: SwitchError | None = None
    asked: list[Sequence[str]] = field(default_factory=list)

    async def get_variables(self, names: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(names)
        if self.failure is not None:
            raise self.failure
        return self.variables


def gives(result: StagingResult) -> Stager:
    async def act() -> StagingResult:
        return result

    return Stager(act)


def breaks(error: Exception) -> Stager:
    async def act() -> StagingResult:
        raise error

    return Stager(act)


async def answered(
    call: CallContext = CALL,
    stager: Stager | None = None,
    channel: Channel | None = None,
    ago: float = 0.0,
    action: Action = stage,
    tickets: FakeTickets | None = None,
) -> Answer:
    now = asyncio.get_running_loop().time()
    desk = Desk(
        routes=RouteTable(ROUTES, "FR"),
        policy=CallerPolicy(withheld="+33000000000"),
        stager=stager or gives(STAGED),
        default_on_failure=Next.FALLBACK,
        tickets=tickets or FakeTickets(),
        accounts=AccountTable({"acme": Selectors(account_codes=("4711",))}),
    )
    return await action(call, desk, channel or Channel(), accepted=now - ago, deadline=DEADLINE)


#: For what is told without a call: only the log is.
NO_DESK = Desk(RouteTable([]), CallerPolicy(), gives(STAGED), Next.DIAL, FakeTickets())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="rounded_pbx")
    return caplog


async def test_a_call_with_a_route_is_staged_and_told_its_id() -> None:
    stager, channel = gives(STAGED), Channel()
    answer = await answered(stager=stager, channel=channel)
    assert answer.result == STAGED
    assert answer.route is ROUTES[0]
    assert answer.variables[-2:] == (("ROUNDED_CALL_ID", CALL_ID), ("ROUNDED_STATUS", "STAGED"))
    assert dict(answer.variables)["ROUNDED_NEXT"] == "dial"
    ((request, deadline),) = stager.asked
    assert (request.from_number, request.to_number) == ("+33700000001", "+33612345678")
    assert deadline == DEADLINE
    assert channel.asked == []  # no template asks for a variable, so nobody asks the switch


async def test_the_switch_is_asked_once_for_what_the_templates_name() -> None:
    stager, channel = gives(STAGED), Channel({"ACCOUNT": "a\r\nb"})
    await answered(replace(CALL, route="templates"), stager, channel)
    assert channel.asked == [("ACCOUNT", "TENANT")]
    assert stager.asked[0][0].dynamic_variables == {"a": "a  b "}


@pytest.mark.parametrize(("code", "account"), [("4711", "acme"), ("", "default"), ("1", "default")])
async def test_the_account_that_the_call_leads_to_stages_it(code: str, account: str) -> None:
    stager = gives(STAGED)
    await answered(replace(CALL, account_code=code), stager)
    assert stager.asked[0][0].account == account


async def test_the_time_since_accept_is_told_in_milliseconds() -> None:
    told = dict((await answered(ago=2.5)).variables)["ROUNDED_STAGE_MS"]
    assert int(told) >= 2500


@pytest.mark.parametrize(
    ("call", "reason", "following"),
    [
        (replace(CALL, did="+33699999999"), "no route for this DID", "fallback"),
        (replace(CALL, route="evil"), "no route of this name", "fallback"),
    ],
)
async def test_a_call_without_a_route_is_not_staged(
    call: CallContext, reason: str, following: str
) -> None:
    stager = gives(STAGED)
    answer = await answered(call, stager)
    assert answer.result == StagingResult(Outcome.NO_ROUTE, reason=reason)
    assert dict(answer.variables)["ROUNDED_NEXT"] == following
    assert dict(answer.variables)["ROUNDED_CALL_ID"] == ""
    assert stager.asked == []


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (replace(CALL, did=""), "the DID is missing: did="),
        (replace(CALL, did="", route="support"), "the DID is missing: did="),
        (replace(CALL, did="600", route="support"), "DID: not in E.164"),
        (
            replace(CALL, caller=CallerId("evil")),
            "caller: not a phone number, and numbers.malformed is not set",
        ),
    ],
)
async def test_a_call_with_a_bad_number_is_not_staged(call: CallContext, reason: str) -> None:
    stager = gives(STAGED)
    answer = await answered(call, stager)
    assert answer.result == StagingResult(Outcome.BAD_NUMBER, reason=reason)
    assert stager.asked == []


@pytest.mark.parametrize(
    "outcome", sorted(set(Outcome) - {Outcome.STAGED, Outcome.INITIATED, Outcome.NO_ROUTE})
)
async def test_a_staging_that_fails_leads_where_the_route_says(outcome: Outcome) -> None:
    told = dict((await answered(stager=gives(StagingResult(outcome)))).variables)
    assert told["ROUNDED_STATUS"] == outcome.value
    assert told["ROUNDED_NEXT"] == "hangup"


@pytest.mark.parametrize("error", [RuntimeError("boom"), TimeoutError(), KeyError("x"), OSError()])
async def test_a_defect_of_ours_does_not_lose_the_call(
    error: Exception, log: pytest.LogCaptureFixture
) -> None:
    answer = await answered(stager=breaks(error))
    assert answer.result is not None
    assert answer.result.outcome is Outcome.ERROR
    told = dict(answer.variables)
    assert (told["ROUNDED_STATUS"], told["ROUNDED_CALL_ID"]) == ("ERROR", "")
    assert told["ROUNDED_NEXT"] == "hangup"  # as the route says
    assert told["ROUNDED_REASON"] == "a defect of rounded_pbx: see its log"
    assert any(record.exc_info for record in log.records)


@pytest.mark.parametrize("error", [Hangup("left"), ProtocolError("forged"), CommandFailed("511")])
async def test_when_the_switch_fails_there_is_nobody_to_answer(
    error: SwitchError, log: pytest.LogCaptureFixture
) -> None:
    stager = gives(STAGED)
    with pytest.raises(type(error)):
        await answered(replace(CALL, route="templates"), stager, Channel(failure=error))
    assert stager.asked == []
    assert "HANGUP" in log.messages[-1]


async def test_a_caller_who_leaves_cancels_the_staging_and_is_logged(
    log: pytest.LogCaptureFixture,
) -> None:
    staging, ended = asyncio.Event(), asyncio.Event()

    async def act() -> StagingResult:
        staging.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return STAGED

    task = asyncio.ensure_future(answered(stager=Stager(act)))
    await staging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert log.messages[-1].startswith("HANGUP ")
    assert CALL_ID not in log.text


async def test_one_line_of_the_log_says_what_became_of_a_call(
    log: pytest.LogCaptureFixture,
) -> None:
    result = StagingResult(Outcome.INITIATED, CALL_ID, "not staged in time")
    answer = await answered(stager=gives(result))
    assert log.messages == []  # the line is written once the dialplan has its answer
    answer.tell(NO_DESK)
    took = dict(answer.variables)["ROUNDED_STAGE_MS"]
    assert log.messages == [
        f"INITIATED did=+33612345678 from=+3370000**** route=support ms={took} "
        f"call_id={CALL_ID} unique_id=1795328067.92 reason=not staged in time"
    ]


HOSTILE = "a\r\n2026-01-01 INFO forged\x1b[2J\x00\x85\u2028\u202e"


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, did=HOSTILE),
        replace(CALL, caller=CallerId(HOSTILE, HOSTILE)),
        replace(CALL, unique_id=HOSTILE, channel=HOSTILE, context=HOSTILE),
        replace(CALL, route=HOSTILE),
        replace(CALL, rdnis=HOSTILE, account_code=HOSTILE, route="templates"),
    ],
)
async def test_no_callers_text_writes_a_line_of_the_log(
    call: CallContext, log: pytest.LogCaptureFixture
) -> None:
    refused = gives(StagingResult(Outcome.REJECTED, reason=HOSTILE))
    (await answered(call, channel=Channel({"ACCOUNT": HOSTILE}))).tell(NO_DESK)
    (await answered(call, stager=refused)).tell(NO_DESK)
    assert len(log.messages) == 2
    assert [clean(message, 10_000) for message in log.messages] == log.messages


async def test_a_request_that_cannot_be_read_leaves_the_presets_and_says_why(
    log: pytest.LogCaptureFixture,
) -> None:
    answer = not_understood(Switch.ASTERISK, "AGI environment: agi_callerid stands twice")
    assert answer.result is not None
    assert answer.result.outcome is Outcome.ERROR
    assert answer.variables == (
        ("ROUNDED_REASON", "AGI environment: agi_callerid stands twice"),
        ("ROUNDED_STAGE_MS", "0"),
        ("ROUNDED_CALL_ID", ""),
        ("ROUNDED_STATUS", "ERROR"),
    )
    answer.tell(NO_DESK)
    assert log.messages == [
        "ERROR did=- from=- route=- ms=0 call_id=- unique_id=- "
        "reason=AGI environment: agi_callerid stands twice"
    ]


async def test_a_script_of_a_callers_choice_writes_no_line_of_the_log(
    log: pytest.LogCaptureFixture,
) -> None:
    not_understood(Switch.ASTERISK, f"no AGI script {HOSTILE}: expected stage").tell(NO_DESK)
    assert len(log.messages) == 1
    assert [clean(message, 10_000) for message in log.messages] == log.messages


async def test_an_api_that_repeats_the_callers_number_does_not_uncover_it_in_the_log(
    log: pytest.LogCaptureFixture,
) -> None:
    refused = StagingResult(Outcome.REJECTED, reason="HTTP 422: from_number +33700000001 is barred")
    (await answered(stager=gives(refused))).tell(NO_DESK)
    assert len(log.messages) == 1
    assert "33700000001" not in log.text


# In two halves.

TICKET = "6c1f7f2e-4a55-4a0e-8a55-0e6b6f1d2c3b"
WAITED = StagingResult(Outcome.STAGED, "aaaaaaaa-7b1a-7c3d-9e4f-0123456789ab")


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Switch.ASTERISK, "__ROUNDED_TICKET"), (Switch.FREESWITCH, "rounded_ticket")],
)
async def test_a_prestaging_answers_a_ticket_and_begins_once_it_is_written(
    kind: Switch, name: str, log: pytest.LogCaptureFixture
) -> None:
    stager, tickets = gives(STAGED), FakeTickets()
    call = replace(CALL, switch=kind, linkedid="1.1", dynamic_variables={"tier": "1"})
    answer = await answered(call, stager, action=prestage, tickets=tickets)
    ((written, ticket),) = answer.variables
    assert (written, uuid.UUID(ticket).version, answer.result) == (name, 4, None)
    assert (tickets.begun, stager.asked) == ([], [])  # he may have left meanwhile
    answer.then()
    answer.tell(NO_DESK)
    ((begun, request),) = tickets.begun
    assert begun == ticket
    assert (request.agent_id, request.to_number) == (AGENT, CALL.did)
    assert request.dynamic_variables == {"tier": "1"}
    assert request.metadata["pbx_linkedid"] == "1.1"
    assert stager.asked == []
    assert ticket not in log.text


async def test_every_prestaging_has_a_ticket_of_its_own() -> None:
    tickets = {(await answered(action=prestage)).variables for _ in range(50)}
    assert len(tickets) == 50


async def test_a_prestaging_reads_what_the_templates_name() -> None:
    channel, tickets = Channel({"ACCOUNT": "a"}), FakeTickets()
    call = replace(CALL, route="templates")
    (await answered(call, channel=channel, action=prestage, tickets=tickets)).then()
    assert tickets.begun[0][1].dynamic_variables == {"a": "a "}


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (replace(CALL, did=""), Outcome.BAD_NUMBER),
        (replace(CALL, did="600", route="support"), Outcome.BAD_NUMBER),
        (replace(CALL, did="+33699999999"), Outcome.NO_ROUTE),
        (CALL, Outcome.LIMITED),
    ],
)
async def test_where_nothing_can_be_begun_the_ticket_is_empty_and_the_log_says_why(
    call: CallContext, outcome: Outcome, log: pytest.LogCaptureFixture
) -> None:
    tickets = FakeTickets(has_room=outcome is not Outcome.LIMITED)
    answer = await answered(call, action=prestage, tickets=tickets)
    assert answer.variables == (("__ROUNDED_TICKET", ""),)
    answer.then()
    answer.tell(NO_DESK)
    assert tickets.begun == []
    assert log.messages[-1].startswith(f"{outcome} did=")


async def test_a_caller_who_leaves_a_prestaging_begins_nothing() -> None:
    tickets = FakeTickets()
    call, gone = replace(CALL, route="templates"), Channel(failure=Hangup("left"))
    with pytest.raises(Hangup):
        await answered(call, channel=gone, action=prestage, tickets=tickets)
    assert tickets.begun == []


@pytest.mark.parametrize("ticket", [TICKET, TICKET.upper()])
async def test_what_a_ticket_stands_for_is_handed_out(ticket: str) -> None:
    stager, tickets, channel = gives(STAGED), FakeTickets(found=WAITED), Channel()
    call = replace(CALL, ticket=ticket, route="templates", dynamic_variables={"tier": "1"})
    answer = await answered(call, stager, channel, action=collect, tickets=tickets)
    assert answer.result == WAITED
    told = dict(answer.variables)
    assert (told["ROUNDED_CALL_ID"], told["ROUNDED_NEXT"]) == (WAITED.call_id, "dial")
    assert (stager.asked, channel.asked) == ([], [])
    begun = FakeTickets()
    (await answered(replace(call, ticket=""), action=prestage, tickets=begun)).then()
    assert tickets.collected == [(TICKET, begun.begun[0][1].marks, DEADLINE)]


@pytest.mark.parametrize("ticket", ["", "1", TICKET + "\n", TICKET[:-1], "*", f"x/{TICKET}"])
async def test_without_a_ticket_that_could_be_one_a_call_is_staged_anew(ticket: str) -> None:
    stager, tickets = gives(STAGED), FakeTickets(found=WAITED)
    call = replace(CALL, ticket=ticket)
    answer = await answered(call, stager, action=collect, tickets=tickets)
    assert answer.result == STAGED
    assert (len(stager.asked), tickets.collected) == (1, [])


async def test_where_a_ticket_stands_for_nothing_the_call_is_staged_anew() -> None:
    stager, channel = gives(STAGED), Channel({"ACCOUNT": "a"})
    call = replace(CALL, ticket=TICKET, route="templates")
    answer = await answered(call, stager, channel, action=collect)
    assert answer.result == STAGED
    ((request, deadline),) = stager.asked
    assert (request.dynamic_variables, deadline) == ({"a": "a "}, DEADLINE)


async def test_a_wait_that_failed_is_told_as_any_staging() -> None:
    tickets = FakeTickets(found=StagingResult(Outcome.TIMEOUT, reason="no answer"))
    answer = await answered(replace(CALL, ticket=TICKET), action=collect, tickets=tickets)
    told = dict(answer.variables)
    assert (told["ROUNDED_STATUS"], told["ROUNDED_NEXT"]) == ("TIMEOUT", "hangup")


@pytest.mark.parametrize(("ticket", "told"), [(TICKET.upper(), [TICKET]), ("x", []), ("", [])])
async def test_an_abandoned_ticket_is_dropped_and_nothing_is_answered(
    ticket: str, told: list[str]
) -> None:
    tickets = FakeTickets()
    desk = Desk(RouteTable(ROUTES), CallerPolicy(), gives(STAGED), Next.DIAL, tickets)
    answer = abandon(Switch.ASTERISK, ticket, desk)
    assert (answer.variables, answer.result, tickets.abandoned) == ((), None, told)
