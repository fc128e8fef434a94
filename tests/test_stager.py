"""The stager: one deadline, few retries, a breaker, a cap; with a small fake, then for real."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from rounded_pbx.accounts import Accounts
from rounded_pbx.api import RoundedClient
from rounded_pbx.breaker import Breaker
from rounded_pbx.call import Wait
from rounded_pbx.errors import (
    ApiBadAnswer,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiServerError,
    ApiTimeout,
    ApiUnauthorized,
    ApiUnreachable,
)
from rounded_pbx.limits import Limits
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome, StagingResult

from .helpers import (
    CALL_ID,
    KEY,
    REQUEST,
    Clock,
    Peer,
    answer,
    config,
    eventually,
    raw_server,
    sandbox,
)

MARGIN = 0.5
FOREVER = 3600.0

#: What a step of the fake's script does: raise, take seconds, or answer.
Step = Exception | float | str


class FakeApi:
    """An API after a script; the last step of a script is repeated."""

    def __init__(self, posts: list[Step] | None = None, gets: list[Step] | None = None) -> None:
        self._scripts = {"POST": posts or [CALL_ID], "GET": gets or ["staged"]}
        self.posts: list[tuple[Mapping[str, object], bool, float]] = []
        self.gets: list[str] = []

    async def _play(self, script: list[Step]) -> str:
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, float):
            await asyncio.sleep(step)
            return await self._play(script)
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
        self.posts.append((body, sync, time.monotonic()))
        return await self._play(self._scripts["POST"])

    async def call_status(self, call_id: str) -> str:
        self.gets.append(call_id)
        return await self._play(self._scripts["GET"])


def stager(api: FakeApi, breaker: Breaker | None = None, cap: int = 100) -> Stager:
    return Stager({"default": Account(api, breaker or Breaker())}, cap)


def within(seconds: float) -> float:
    """A deadline so many seconds from now."""
    return asyncio.get_running_loop().time() + seconds


async def stage(api: FakeApi, wait: Wait = Wait.POLL, seconds: float = 3.0) -> StagingResult:
    """Stage one call, and see that its deadline is kept."""
    started = time.monotonic()
    result = await stager(api).stage(dataclasses.replace(REQUEST, wait=wait), within(seconds))
    assert time.monotonic() - started < seconds + MARGIN
    assert (result.call_id is not None) == (result.outcome in (Outcome.STAGED, Outcome.INITIATED))
    return result


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


OUTCOMES: dict[ApiError, Outcome] = {
    ApiBadAnswer("HTML"): Outcome.UNAVAILABLE,
    ApiLimited("slowly", status=429): Outcome.LIMITED,
    ApiRejected("no", status=422): Outcome.REJECTED,
    ApiServerError("oops", status=500): Outcome.UNAVAILABLE,
    ApiTimeout("too long", status=408): Outcome.TIMEOUT,
    ApiUnauthorized("who?", status=401): Outcome.UNAUTHORIZED,
    ApiUnreachable("gone"): Outcome.UNAVAILABLE,
}
RETRIED = [
    ApiUnreachable("refused", safe_to_retry=True),
    ApiLimited("slowly", status=429),
    ApiServerError("busy", status=503),
]
OUTCOMES_OF_RETRIED = {type(error): outcome for error, outcome in OUTCOMES.items()}
NOT_RETRIED = [error for error in OUTCOMES if not isinstance(error, ApiLimited)] + [
    ApiServerError("bad gateway", status=502),
    ApiServerError("gateway timeout", status=504),
    ApiBadAnswer("moved", status=302),
]


def name(value: object) -> str:
    return f"{type(value).__name__}-{getattr(value, 'status', '')}"


async def test_poll_asks_less_and_less_often() -> None:
    api = FakeApi(gets=["initiated"])
    await stage(api, seconds=1.0)
    assert 4 <= len(api.gets) <= 8


async def test_poll_asks_until_the_call_is_staged() -> None:
    api = FakeApi(gets=["initiated", "created", "whatever", "staged"])
    assert await stage(api) == StagingResult(Outcome.STAGED, CALL_ID)
    assert [(body, sync) for body, sync, _ in api.posts] == [(REQUEST.body(), False)]
    assert api.gets == [CALL_ID] * 4


async def test_sync_takes_the_answer_for_staged_and_asks_no_more() -> None:
    api = FakeApi()
    assert await stage(api, Wait.SYNC) == StagingResult(Outcome.STAGED, CALL_ID)
    assert [sync for _, sync, _ in api.posts] == [True]
    assert api.gets == []


async def test_none_is_content_with_an_id() -> None:
    api = FakeApi()
    result = await stage(api, Wait.NONE)
    assert (result.outcome, result.call_id) == (Outcome.INITIATED, CALL_ID)
    assert [sync for _, sync, _ in api.posts] == [False]
    assert api.gets == []


@pytest.mark.parametrize("step", ["initiated", 0.1, FOREVER, *OUTCOMES], ids=name)
async def test_an_id_is_handed_over_whatever_happens_while_waiting_for_staged(step: Step) -> None:
    gets: list[Step] = [step, "initiated"] * 99 if step == 0.1 else [step]
    result = await stage(FakeApi([0.05, CALL_ID], gets), seconds=0.3)
    assert (result.outcome, result.call_id) == (Outcome.INITIATED, CALL_ID)
    assert result.reason


@pytest.mark.parametrize(
    "status", ["busy", "canceled", "completed", "failed", "no_answer", "redirection_completed"]
)
async def test_a_call_that_ended_while_we_waited_is_rejected(status: str) -> None:
    result = await stage(FakeApi(gets=["initiated", status]))
    assert (result.outcome, result.call_id) == (Outcome.REJECTED, None)
    assert status in result.reason


@pytest.mark.parametrize("wait", Wait)
@pytest.mark.parametrize("error", OUTCOMES, ids=name)
async def test_every_error_of_the_api_has_an_outcome(error: ApiError, wait: Wait) -> None:
    result = await stage(FakeApi([error]), wait)
    assert result.outcome is OUTCOMES[error]
    assert str(error) in result.reason


def test_no_error_of_the_api_is_missing_here() -> None:
    assert set(subclasses(ApiError)) == {type(error) for error in OUTCOMES}


@pytest.mark.parametrize("posts", [[RuntimeError("?")], [CALL_ID]])
async def test_a_defect_of_ours_is_an_outcome_and_costs_no_id(posts: list[Step]) -> None:
    result = await stage(FakeApi(posts, [RuntimeError("?")]))
    assert result.outcome is (Outcome.INITIATED if posts == [CALL_ID] else Outcome.ERROR)


@pytest.mark.parametrize("error", RETRIED, ids=name)
async def test_what_staged_nothing_is_tried_again_twice(error: ApiError) -> None:
    apis = [FakeApi([*[error] * failures, CALL_ID]) for failures in (1, 2, 3)]
    results = await asyncio.gather(*map(stage, apis))
    outcomes = [Outcome.STAGED, Outcome.STAGED, OUTCOMES_OF_RETRIED[type(error)]]
    assert [result.outcome for result in results] == outcomes
    assert [len(api.posts) for api in apis] == [2, 3, 3]


@pytest.mark.parametrize("wait", Wait)
@pytest.mark.parametrize("error", NOT_RETRIED, ids=name)
async def test_what_may_have_staged_a_call_is_never_tried_again(error: Step, wait: Wait) -> None:
    api = FakeApi([error, CALL_ID])
    assert (await stage(api, wait)).call_id is None
    assert len(api.posts) == 1


async def test_retry_after_is_respected_within_the_deadline() -> None:
    api = FakeApi([ApiLimited("slowly", status=429, retry_after=0.4), CALL_ID])
    assert (await stage(api)).outcome is Outcome.STAGED
    assert api.posts[1][2] - api.posts[0][2] >= 0.39


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    api = FakeApi([ApiServerError("busy", status=503, retry_after=60.0), CALL_ID])
    started = time.monotonic()
    assert (await stage(api, seconds=3.0)).outcome is Outcome.UNAVAILABLE
    assert time.monotonic() - started < 1.0
    assert len(api.posts) == 1


async def test_one_deadline_holds_for_all_attempts_together() -> None:
    slow: list[Step] = [0.3, ApiLimited("slowly", status=429), FOREVER]
    staging = [stage(FakeApi(list(slow)), wait, 0.7) for wait in Wait]
    results = await asyncio.gather(*staging, stage(FakeApi([FOREVER]), seconds=0.2))
    assert {result.outcome for result in results} == {Outcome.TIMEOUT}


async def test_failures_open_the_breaker_and_the_next_caller_pays_nothing() -> None:
    api, clock = FakeApi([ApiUnreachable("gone")]), Clock()
    subject = stager(api, Breaker(threshold=3, clock=clock))
    for _ in range(3):
        await subject.stage(REQUEST, within(3))
    started = time.monotonic()
    results = [await subject.stage(REQUEST, within(3)) for _ in range(100)]
    assert time.monotonic() - started < 0.3
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert len(api.posts) == 3


async def test_one_trial_goes_through_an_open_breaker_and_closes_it() -> None:
    api, clock = FakeApi([ApiUnreachable("gone"), 0.2, CALL_ID]), Clock()
    subject = stager(api, Breaker(threshold=1, clock=clock))
    await subject.stage(REQUEST, within(3))
    clock.advance(1)
    results = await asyncio.gather(*(subject.stage(REQUEST, within(3)) for _ in range(5)))
    assert [result.outcome for result in results] == [Outcome.STAGED] + [Outcome.UNAVAILABLE] * 4
    assert (await subject.stage(REQUEST, within(3))).outcome is Outcome.STAGED
    assert len(api.posts) == 3


async def test_a_cancelled_trial_frees_the_trial_and_its_place() -> None:
    api, clock = FakeApi([ApiUnreachable("gone"), FOREVER, CALL_ID]), Clock()
    subject = stager(api, Breaker(threshold=1, clock=clock), cap=1)
    await subject.stage(REQUEST, within(3))
    clock.advance(1)
    trial = asyncio.ensure_future(subject.stage(REQUEST, within(3)))
    await eventually(lambda: len(api.posts) == 2)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert subject.in_flight == 0
    assert (await subject.stage(REQUEST, within(3))).outcome is Outcome.STAGED


@pytest.mark.parametrize(
    ("error", "opens"), [(e, o is Outcome.UNAVAILABLE) for e, o in OUTCOMES.items()], ids=name
)
async def test_only_an_api_that_is_out_opens_the_breaker(error: ApiError, opens: bool) -> None:
    breaker = Breaker(threshold=2)
    subject = stager(FakeApi([error]), breaker)
    await asyncio.gather(*(subject.stage(REQUEST, within(3)) for _ in range(4)))
    assert breaker.is_open == opens


async def test_calls_that_the_api_does_not_answer_in_time_open_the_breaker() -> None:
    breaker = Breaker(threshold=2)
    subject = stager(FakeApi([FOREVER]), breaker)
    await asyncio.gather(*(subject.stage(REQUEST, within(0.1)) for _ in range(2)))
    assert breaker.is_open


async def test_calls_whose_time_was_up_before_they_came_say_nothing_of_the_api() -> None:
    api, breaker = FakeApi(), Breaker(threshold=2)
    for _ in range(4):
        result = await stager(api, breaker).stage(REQUEST, within(-0.1))
        assert result.outcome is Outcome.TIMEOUT
    assert not breaker.is_open
    assert api.posts == []


async def test_calls_beyond_the_cap_are_limited_and_the_cap_recovers() -> None:
    api = FakeApi([0.3, 0.3, CALL_ID])
    subject = stager(api, cap=2)
    results = await asyncio.gather(*(subject.stage(REQUEST, within(3)) for _ in range(5)))
    assert [r.outcome for r in results] == [Outcome.STAGED] * 2 + [Outcome.LIMITED] * 3
    assert len(api.posts) == 2
    assert subject.in_flight == 0
    assert (await subject.stage(REQUEST, within(3))).outcome is Outcome.STAGED


# One account's own limits.

ACME = dataclasses.replace(REQUEST, account="acme")


def tenants(api: FakeApi, limits: Limits, breaker: Breaker | None = None) -> Stager:
    """A stager whose account acme has these limits, beside one without any."""
    acme = Account(api, breaker or Breaker(), limits)
    return Stager({"default": Account(FakeApi()), "acme": acme}, 100)


async def test_an_account_beyond_its_cap_is_limited_while_another_goes_on() -> None:
    api = FakeApi([0.2, 0.2, CALL_ID])
    subject = tenants(api, Limits(max_in_flight=2))
    requests = [ACME, REQUEST] * 4
    results = await asyncio.gather(*(subject.stage(each, within(3)) for each in requests))
    limited = StagingResult(Outcome.LIMITED, reason="account acme: max_in_flight 2 reached")
    assert results[4::2] == [limited, limited]
    assert [r.outcome for r in results[:4:2] + results[1::2]] == [Outcome.STAGED] * 6
    assert len(api.posts) == 2
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.STAGED


async def test_an_account_beyond_its_rate_is_limited_at_once_while_another_goes_on() -> None:
    api, clock = FakeApi(), Clock()
    subject = tenants(api, Limits(rate=3.0, clock=clock))
    started = time.monotonic()
    results = [await subject.stage(each, within(3)) for each in [ACME, REQUEST] * 50]
    assert time.monotonic() - started < 1.0
    assert {result.outcome for result in results[1::2]} == {Outcome.STAGED}
    assert [result.outcome for result in results[:6:2]] == [Outcome.STAGED] * 3
    limited = StagingResult(Outcome.LIMITED, reason="account acme: rate 3 a second reached")
    assert results[6::2] == [limited] * 47
    assert len(api.posts) == 3
    clock.advance(0.34)
    outcomes = [(await subject.stage(ACME, within(3))).outcome for _ in range(2)]
    assert outcomes == [Outcome.STAGED, Outcome.LIMITED]


async def test_the_retries_inside_a_staging_count_once() -> None:
    busy: Step = ApiLimited("slowly", status=429)
    api = FakeApi([busy, busy, CALL_ID])
    subject = tenants(api, Limits(rate=2.0, clock=Clock()))
    outcomes = [(await subject.stage(ACME, within(3))).outcome for _ in range(3)]
    assert outcomes == [Outcome.STAGED, Outcome.STAGED, Outcome.LIMITED]
    assert len(api.posts) == 4


async def test_a_staging_that_was_cancelled_counts_and_frees_its_place() -> None:
    api = FakeApi([FOREVER])
    subject = tenants(api, Limits(max_in_flight=1, rate=1.0, clock=Clock()))
    staging = asyncio.ensure_future(subject.stage(ACME, within(3)))
    await eventually(lambda: api.posts)
    assert "max_in_flight 1" in (await subject.stage(ACME, within(3))).reason
    staging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staging
    assert "rate 1 a second" in (await subject.stage(ACME, within(3))).reason


async def test_a_refused_call_takes_no_trial_of_the_breaker_and_the_breaker_no_token() -> None:
    api, clock = FakeApi([ApiUnreachable("gone"), CALL_ID]), Clock()
    breaker = Breaker(threshold=1, clock=clock)
    subject = tenants(api, Limits(rate=1.0, clock=clock), breaker)
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.UNAVAILABLE
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.LIMITED
    clock.advance(0.99)
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.LIMITED
    clock.advance(0.01)
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.STAGED
    clock.advance(1)
    breaker.note_failure()
    for _ in range(5):
        assert "breaker" in (await subject.stage(ACME, within(3))).reason
    clock.advance(0)
    breaker.hasten()
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.STAGED


async def test_a_call_whose_time_is_up_costs_nothing_of_the_rate() -> None:
    subject = tenants(FakeApi(), Limits(rate=1.0, clock=Clock()))
    for _ in range(3):
        assert (await subject.stage(ACME, within(-0.1))).outcome is Outcome.TIMEOUT
    assert (await subject.stage(ACME, within(3))).outcome is Outcome.STAGED


# From here on for real: accounts, client, transport, and the sandbox on a port.

FAULTS = {
    "401": Outcome.UNAUTHORIZED,
    "408": Outcome.TIMEOUT,
    "422": Outcome.REJECTED,
    "429": Outcome.LIMITED,
    "500": Outcome.UNAVAILABLE,
    "503": Outcome.UNAVAILABLE,
    "hang": Outcome.TIMEOUT,
    "drip": Outcome.TIMEOUT,
    "reset": Outcome.UNAVAILABLE,
    "html": Outcome.UNAVAILABLE,
    "half-json": Outcome.UNAVAILABLE,
    "bad-id": Outcome.UNAVAILABLE,
}


async def stage_for_real(url: str, *waits: Wait) -> list[StagingResult]:
    """Stage a call for each of ``waits`` at once, and see that each keeps its deadline."""

    async def one(subject: Stager, wait: Wait) -> StagingResult:
        started = time.monotonic()
        result = await subject.stage(dataclasses.replace(REQUEST, wait=wait), within(0.6))
        assert time.monotonic() - started < 0.6 + MARGIN
        return result

    async with Accounts(config(url), {"default": KEY}) as accounts:
        subject = Stager(accounts.by_name, 100)
        return await asyncio.gather(*(one(subject, wait) for wait in waits))


async def test_a_well_behaved_api_stages_in_every_way_of_waiting() -> None:
    async with sandbox(staging_time=0.1) as api:
        results = await stage_for_real(api.url, *Wait)
        outcomes = [Outcome.STAGED, Outcome.STAGED, Outcome.INITIATED]
        assert [result.outcome for result in results] == outcomes
        ids = {call.id for call in api.calls.newest(9)}
        assert {result.call_id for result in results} == ids
        assert len(ids) == 3


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_api_is_told_in_time_stages_no_call_twice_and_costs_no_id(
    fault: str,
) -> None:
    async with sandbox(fault=fault, fault_on=("stageCall",)) as api:
        results = await stage_for_real(api.url, *Wait)
        assert [result.outcome for result in results] == [FAULTS[fault]] * 3
        assert [result.call_id for result in results] == [None] * 3
        assert api.count("POST") == 3

        api.calls.clear()
        api.seen.clear()
        change: dict[str, Any] = {"fault_on": ("getCall",), "staging_time": 0.1}
        api.behave(api.behaviour.model_copy(update=change))
        poll, sync, none = await stage_for_real(api.url, *Wait)
        assert poll.outcome is (Outcome.STAGED if fault == "bad-id" else Outcome.INITIATED)
        assert (sync.outcome, none.outcome) == (Outcome.STAGED, Outcome.INITIATED)
        ids = {call.id for call in api.calls.newest(9)}
        assert {poll.call_id, sync.call_id, none.call_id} == ids
        assert api.count("POST") == len(ids) == 3


@pytest.mark.parametrize(
    ("fault", "wait"), [("429", Wait.POLL), ("503", Wait.SYNC), ("429", Wait.NONE)]
)
async def test_a_busy_api_that_recovers_in_time_stages_the_call_once(
    fault: str, wait: Wait
) -> None:
    behaviour: dict[str, Any] = {"fault_times": 2, "retry_after": 0, "staging_time": 0.0}
    async with sandbox(fault=fault, **behaviour) as api:
        (result,) = await stage_for_real(api.url, wait)
        assert result.call_id == api.calls.newest(9)[0].id
        assert api.count("POST") == 3
        assert len(api.calls.newest(9)) == 1


async def test_an_api_that_is_not_there_is_told_at_once_and_then_by_the_breaker() -> None:
    async with sandbox() as api:
        url = api.url
    async with Accounts(config(url), {"default": KEY}) as accounts:
        subject = Stager(accounts.by_name, 100)
        results = await asyncio.gather(*(subject.stage(REQUEST, within(0.6)) for _ in range(5)))
        results.append(await subject.stage(REQUEST, within(0.6)))
    assert {result.outcome for result in results} == {Outcome.UNAVAILABLE}
    assert ["breaker" in result.reason for result in results] == [False] * 5 + [True]


async def test_hundreds_of_calls_over_few_connections_all_keep_their_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.reader.read()

    async with (
        raw_server(silent) as server,
        Accounts(config(server.url, max_connections=10), {"default": KEY}) as accounts,
    ):
        subject = Stager(accounts.by_name, 1000)
        started = time.monotonic()
        results = await asyncio.gather(*(subject.stage(REQUEST, within(0.5)) for _ in range(300)))
        assert time.monotonic() - started < 0.5 + 2 * MARGIN
        assert {result.outcome for result in results} == {Outcome.TIMEOUT}
        assert subject.in_flight == 0


async def test_what_kept_connections_swallow_is_sent_twice_at_most() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(200, {"message": "", "data": []}))
        await peer.request()  # and close: the API has it, and says nothing

    async with raw_server(script) as server:
        async with Accounts(config(server.url), {"default": KEY}) as accounts:
            client = accounts.by_name["default"].api
            assert isinstance(client, RoundedClient)
            for _ in range(4):
                await client.open_connection()
            server.refuse()
            result = await Stager(accounts.by_name, 100).stage(REQUEST, within(1.5))
        assert result.outcome is Outcome.UNAVAILABLE
        assert sum(request.startswith(b"POST") for request in server.requests) <= 2
