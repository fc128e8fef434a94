"""Staging with one deadline: retry, circuit breaker, wait until the agent is ready.

Only what cannot stage a call twice is retried: a connection that was never made, and 429 and 503,
by which the API says that it did nothing. Whatever goes wrong once there is an id, the id is worth
having, and the result is INITIATED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .breaker import Breaker, Permit
from .call import Wait
from .errors import (
    OUR_QUEUE,
    ApiBadAnswer,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiServerError,
    ApiTimeout,
    ApiUnauthorized,
    ApiUnreachable,
)
from .limits import Limits
from .lookups import Lookup
from .staging import Outcome, StagingRequest, StagingResult
from .templates import Filled

log = logging.getLogger(__name__)

#: Seconds between two attempts, and how many attempts there are after the first.
RETRY_DELAYS = (0.05, 0.2)
#: Seconds between two looks at a call's status: first, factor, longest.
POLL_FIRST, POLL_FACTOR, POLL_LONGEST = 0.025, 1.6, 0.25

#: A call in one of these states will not become ``staged`` any more.
FINAL_STATUSES = frozenset(
    ["busy", "canceled", "completed", "failed", "no_answer", "redirection_completed"]
)

_OUTCOMES: Mapping[type[ApiError], Outcome] = {
    ApiBadAnswer: Outcome.UNAVAILABLE,
    ApiLimited: Outcome.LIMITED,
    ApiRejected: Outcome.REJECTED,
    ApiServerError: Outcome.UNAVAILABLE,
    ApiTimeout: Outcome.TIMEOUT,
    ApiUnauthorized: Outcome.UNAUTHORIZED,
    ApiUnreachable: Outcome.UNAVAILABLE,
}


class StagingApi(Protocol):
    """What the stager needs of the API."""

    async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
        """Stage a call and return its id."""
        ...

    async def call_status(self, call_id: str) -> str:
        """The status of a call."""
        ...


class Errands(Protocol):
    """What can be done for a call after it was staged, while nobody waits for it."""

    def correlate(self, account: str, call_id: str, metadata: Mapping[str, str]) -> None:
        """Let the platform know how the switch calls this call."""
        ...


class Attempt:
    """A staging under way, for whoever may want it sooner; ``deadline`` is on the loop's clock.

    ``call_id`` is known before the result is. ``refusal`` is what the API has answered while a
    pause is made before it is asked again.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.call_id: str | None = None
        self.refusal: ApiError | None = None
        self._limit: asyncio.Timeout | None = None
        self._share = 1.0

    def bring_forward(self, deadline: float) -> None:
        """Let it end by ``deadline``, if that is sooner."""
        self.deadline = min(self.deadline, deadline)
        if self._limit is not None and not self._limit.expired():
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + self._share * (self.deadline - now))

    @contextlib.asynccontextmanager
    async def limit(self, share: float = 1.0) -> AsyncIterator[None]:
        """Ends what is inside with TimeoutError at the deadline, wherever that is by then.

        Once the deadline is brought forward, a ``share`` of the time until then is left to it.
        """
        self._share = share
        try:
            async with asyncio.timeout_at(self.deadline) as self._limit:
                yield
        finally:
            self._limit = None


class Lookups(Protocol):
    """What the stager needs of the lookups."""

    async def find(self, lookup: Lookup, seconds: float) -> Mapping[str, Filled]:
        """What is found within ``seconds``, else nothing; raises only CancelledError."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """An account's client, its breaker, and what it may stage."""

    api: StagingApi
    breaker: Breaker = field(default_factory=Breaker)
    limits: Limits = field(default_factory=Limits)


class Stager:
    """Stages calls on several accounts, at most ``max_in_flight`` at a time in all."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        max_in_flight: int,
        lookups: Lookups | None = None,
        errands: Errands | None = None,
    ) -> None:
        self._accounts = accounts
        self._lookups = lookups
        self._max_in_flight = max_in_flight
        self._errands = errands
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """How many stagings are under way."""
        return self._in_flight

    async def stage(self, request: StagingRequest, deadline: float | Attempt) -> StagingResult:
        """Stage a call; ``deadline`` is on the running loop's clock. Raises only CancelledError."""
        attempt = deadline if isinstance(deadline, Attempt) else Attempt(deadline)
        if self._in_flight >= self._max_in_flight:
            return StagingResult(Outcome.LIMITED, reason="too many calls in flight")
        if attempt.deadline <= asyncio.get_running_loop().time():  # says nothing of the API
            return StagingResult(Outcome.TIMEOUT, reason="no time left to ask the API")
        account = self._accounts.get(request.account)
        if account is None:  # a reload came between a ticket and the beginning of its staging
            reason = f"account {request.account} is not configured any more"
            return StagingResult(Outcome.UNAVAILABLE, reason=reason)
        if refusal := account.limits.refusal:
            return StagingResult(Outcome.LIMITED, reason=f"account {request.account}: {refusal}")
        permit = account.breaker.ask()
        if permit is None:
            return StagingResult(Outcome.UNAVAILABLE, reason="API out: circuit breaker open")
        worked: bool | None = None
        self._in_flight += 1
        account.limits.enter()
        try:
            request = await self._looked_up(request, attempt)
            result, worked = await _stage(account.api, request, attempt, permit)
        finally:
            self._in_flight -= 1
            account.limits.leave()
            permit.close(worked)
        if result.call_id and request.metadata and self._errands is not None:
            self._errands.correlate(request.account, result.call_id, request.metadata)
        return result

    async def _looked_up(self, request: StagingRequest, attempt: Attempt) -> StagingRequest:
        """The request with what its lookup found in at most half of the time that is left."""
        if request.lookup is None or self._lookups is None:
            return request
        left = attempt.deadline - asyncio.get_running_loop().time()
        seconds = min(request.lookup.timeout, left / 2)
        found: Mapping[str, Filled] = {}
        with contextlib.suppress(TimeoutError):
            async with attempt.limit(share=0.5):
                found = await self._lookups.find(request.lookup, seconds)
        return request.with_found(found)


async def _stage(
    api: StagingApi, request: StagingRequest, attempt: Attempt, permit: Permit
) -> tuple[StagingResult, bool | None]:
    """The result, and whether the API is there: an answer that says no is an answer."""
    call_id = None
    try:
        async with attempt.limit():
            call_id = attempt.call_id = await _create(api, request, attempt)
            permit.close(worked=True)  # the others need not wait until the agent is ready
            if request.wait is Wait.SYNC:
                return StagingResult(Outcome.STAGED, call_id), True
            if request.wait is Wait.NONE:
                return StagingResult(Outcome.INITIATED, call_id, "readiness not asked for"), True
            return await _until_staged(api, call_id), True
    except TimeoutError as error:
        if attempt.refusal is not None:  # brought forward into a pause
            return _failed(attempt.refusal)
        if call_id is None:
            cancelled = error.__context__  # Python 3.11.2 has no __cause__ here
            if cancelled is not None and cancelled.args == (OUR_QUEUE,):
                reason = "no connection to the API was free in time"
                return StagingResult(Outcome.TIMEOUT, reason=reason), None
            return StagingResult(Outcome.TIMEOUT, reason="no answer from the API in time"), False
        return StagingResult(Outcome.INITIATED, call_id, "not staged in time"), True
    except ApiError as error:
        if call_id is None:
            return _failed(error)
        return StagingResult(Outcome.INITIATED, call_id, f"status unknown: {error}"), True
    except Exception:
        log.exception("a defect of rounded_pbx in a staging")
        reason = "a defect of rounded_pbx: see its log"
        if call_id is None:
            return StagingResult(Outcome.ERROR, reason=reason), False
        return StagingResult(Outcome.INITIATED, call_id, reason), True


def _failed(error: ApiError) -> tuple[StagingResult, bool]:
    outcome = _OUTCOMES[type(error)]
    return StagingResult(outcome, reason=str(error)), outcome is not Outcome.UNAVAILABLE


async def _create(api: StagingApi, request: StagingRequest, attempt: Attempt) -> str:
    body, sync = request.body(), request.wait is Wait.SYNC
    for delay in RETRY_DELAYS:
        try:
            return await api.stage(body, sync=sync)
        except ApiError as error:
            pause = _pause_before_retry(error, delay)
            if pause is None or asyncio.get_running_loop().time() + pause >= attempt.deadline:
                raise
            attempt.refusal = error
        await asyncio.sleep(pause)
        attempt.refusal = None
    return await api.stage(body, sync=sync)


def _pause_before_retry(error: ApiError, delay: float) -> float | None:
    """Seconds to wait before the same request is sent again, or None if it must not be."""
    if isinstance(error, ApiUnreachable) and error.safe_to_retry:
        return delay
    if isinstance(error, ApiLimited) or error.status == 503:
        return max(delay, error.retry_after or 0.0)
    return None


async def _until_staged(api: StagingApi, call_id: str) -> StagingResult:
    pause = POLL_FIRST
    while (status := await api.call_status(call_id)) != "staged":
        if status in FINAL_STATUSES:
            return StagingResult(Outcome.REJECTED, reason=f"the call became {status}")
        await asyncio.sleep(pause)
        pause = min(pause * POLL_FACTOR, POLL_LONGEST)
    return StagingResult(Outcome.STAGED, call_id)
