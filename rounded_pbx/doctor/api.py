"""The Rounded API: the key, how far it is, and what time it is there. Nothing is staged."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

from ..accounts import client_of
from ..config import Config
from ..errors import ApiError, ApiUnauthorized, ApiUnreachable, RoundedPbxError
from .results import CheckResult, look, right, skipped, wrong

#: Seconds that one request may take.
LIMIT = 10.0
#: Seconds by which the clocks may differ: the API's Date has whole ones.
CLOCK = 60.0
_ASKED = 4


async def check_api(config: Config, name: str, key: str) -> AsyncIterator[CheckResult]:
    """Of one account: the key, the distance, the clock."""
    api = config.api
    try:
        client = client_of(api, key)
    except RoundedPbxError as error:
        yield wrong("api.reach", api.base_url, str(error), "api.trust_env, or the environment")
        yield skipped(f"api.key.{name}", "the API was not reached")
        return
    async with client:
        took: list[float] = []
        failure: Exception | None = None
        for again in range(_ASKED):
            begun = time.perf_counter()
            try:
                async with asyncio.timeout(LIMIT):
                    await (client.refresh_connection() if again else client.open_connection())
            except (ApiError, TimeoutError) as error:
                failure = error
                break
            took.append(time.perf_counter() - begun)
        yield _reach(config, took, failure)
        yield _key(name, failure)
        if client.date:
            yield _clock(client.date)


def _reach(config: Config, took: list[float], failure: Exception | None) -> CheckResult:
    url, name = config.api.base_url, "api.reach"
    if isinstance(failure, ApiUnreachable | TimeoutError):
        why = str(failure) or f"no answer within {LIMIT:g} s"
        return wrong(
            name,
            f"{url} does not answer",
            why,
            "see that this machine may reach it: DNS, firewall, proxy (api.base_url, api.ca_file, "
            "api.trust_env)",
        )
    if isinstance(failure, ApiError) and not isinstance(failure, ApiUnauthorized):
        return wrong(name, f"{url} answers: {failure}", "the API is not well", "try again later")
    if len(took) < 2:
        return right(name, f"{url} answers")
    warm, deadline = statistics.median(took[1:]), config.calls.deadline
    seen = f"{url}: {took[0] * 1000:.0f} ms with a new connection, then {warm * 1000:.0f} ms"
    # A staging that polls takes two of them at least.
    if 2 * warm >= deadline:
        return wrong(
            name,
            seen,
            f"a call would wait for longer than calls.deadline, {deadline:g} s",
            "raise calls.deadline, or find out what slows the way to the API",
        )
    return right(name, seen)


def _key(account: str, failure: Exception | None) -> CheckResult:
    name = f"api.key.{account}"
    if isinstance(failure, ApiUnauthorized):
        return wrong(
            name,
            f"the API refused it: {failure}",
            "the key is wrong, or it has been withdrawn",
            f"put a key of the platform where accounts.{account} says, and restart the daemon",
        )
    if failure is not None:
        return skipped(name, "the API did not say")
    return right(name, "the API takes it")


def _clock(date: str) -> CheckResult:
    try:
        ahead = time.time() - parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return skipped("clock", "the API's Date is no date")
    seen = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the API's"
    if abs(ahead) > CLOCK:
        todo = "let NTP set this machine's clock (timedatectl set-ntp true)"
        return look("clock", seen, "certificates and logs go by it", todo)
    return right("clock", seen)
