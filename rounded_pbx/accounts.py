"""The accounts at work: a client each, a breaker each, and connections that stay warm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from .api import Observe, RoundedClient, nobody
from .breaker import Breaker
from .call import clean
from .config import Api, Config
from .errors import ApiError, ApiLimited, ApiRejected, ApiUnauthorized
from .limits import Limits
from .stager import Account
from .threads import Unwaited

log = logging.getLogger(__name__)

#: Errands of an account that are done at the same time, a connection each.
ERRANDS_AT_ONCE = 8
#: Seconds that a probe may take.
PROBE_LIMIT = 5.0
#: Seconds between probes after one that failed, and while the breaker is open.
PROBE_AGAIN = 2.0


def client_of(
    api: Api, key: str, max_connections: int | None = None, observe: Observe = nobody
) -> RoundedClient:
    """The client of one account, as the configuration wants it.

    Raises:
        RoundedPbxError: the environment's proxy is one that we cannot use.
    """
    return RoundedClient(
        api.base_url,
        key,
        ca_file=str(api.ca_file) if api.ca_file else None,
        max_connections=max_connections or api.max_connections,
        trust_env=api.trust_env,
        observe=observe,
    )


def _way(api: Api) -> tuple[object, ...]:
    """What may make the difference between an API that is out and one that answers."""
    return api.base_url, api.ca_file, api.trust_env


def _limits_of(config: Config, name: str) -> Limits:
    account = config.accounts[name]
    return Limits(max_in_flight=account.max_in_flight, rate=account.rate)


class Accounts:
    """Every account of a configuration; an asynchronous context manager that closes them all.

    An account that is the same as in ``before`` goes on with its breaker and its limits: a reload
    says nothing of the API, and must not let an account stage twice its rate.
    """

    def __init__(
        self,
        config: Config,
        keys: Mapping[str, str],
        before: Accounts | None = None,
        observe: Observe = nobody,
    ) -> None:
        self._config, self._keys = config, dict(keys)
        api = config.api
        self._clients = {name: client_of(api, key, observe=observe) for name, key in keys.items()}
        #: Of each account, with connections of their own: an errand must not take a call's.
        self.errand_clients = {
            name: client_of(api, key, ERRANDS_AT_ONCE, observe) for name, key in keys.items()
        }
        self.by_name: dict[str, Account] = {
            name: before._again(name, self, client)
            if before is not None and name in before.by_name
            else Account(client, limits=_limits_of(config, name))
            for name, client in self._clients.items()
        }
        #: What is wrong with each account's API, as its probes find it; empty where it answers.
        self.problems: dict[str, str] = {}
        self._warm = api.warm
        self._interval = api.probe_interval
        self._stack = AsyncExitStack()

    def _again(self, name: str, after: Accounts, client: RoundedClient) -> Account:
        """One of our accounts, with a client of those that come after."""
        ours, theirs = self._config, after._config
        was, is_now = ours.accounts[name], theirs.accounts[name]
        asks_the_same = _way(ours.api) == _way(theirs.api)
        same_key = self._keys[name] == after._keys[name]
        same_limits = (was.max_in_flight, was.rate) == (is_now.max_in_flight, is_now.rate)
        account = self.by_name[name]
        return Account(
            client,
            breaker=account.breaker if asks_the_same and same_key else Breaker(),
            limits=account.limits if same_limits else _limits_of(theirs, name),
        )

    async def __aenter__(self) -> Accounts:
        asyncio.get_running_loop().set_default_executor(Unwaited())  # it looks names up
        for client in (*self._clients.values(), *self.errand_clients.values()):
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def keep_warm(self) -> None:
        """Open the connections and keep them warm, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, client in self._clients.items():
                group.create_task(self._keep_warm(name, client, self.by_name[name].breaker))

    async def _keep_warm(self, name: str, client: RoundedClient, breaker: Breaker) -> None:
        said = ""
        while True:
            try:
                problem = await self._probe(client, breaker, again=bool(said))
            except Exception:
                log.exception("account %s: a defect of rounded_pbx in a probe", name)
                problem = None
            why = (clean(str(problem)) or "no answer in time") if problem else ""
            self.problems[name] = why
            # Not the text: an error page may have another number in it each time.
            what = f"{type(problem)} {getattr(problem, 'status', None)}" if problem else ""
            if what != said:
                said = what
                if problem:
                    log.warning("account %s: the API does not answer as it should: %s", name, why)
                else:
                    log.info("account %s: the API answers", name)
            out = breaker.is_open or (problem is not None and _is_outage(problem))
            await asyncio.sleep(PROBE_AGAIN if out else self._interval)

    async def _probe(
        self, client: RoundedClient, breaker: Breaker, *, again: bool
    ) -> Exception | None:
        """One round of light GETs; the first failure. For the breaker, a round is one call.

        Connections that are in use need none, but after a failure there is at least one.
        """
        stale = await client.stale_connections(0.9 * self._interval, keep=self._warm)
        missing = max(0, self._warm - client.open_connections)
        opens = [client.open_connection] * (1 if breaker.is_open else missing)
        refreshes = stale or int(again and not opens)
        results = await asyncio.gather(*map(_in_time, opens), return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        for _ in range(refreshes):  # one by one: all at once would hold up a call's answer
            if failures:
                break
            try:
                await _in_time(client.refresh_connection)
            except Exception as error:
                failures.append(error)
        for failure in failures:
            if not isinstance(failure, ApiError | TimeoutError):
                raise failure
        if any(map(_is_outage, failures)):
            breaker.note_failure()
        elif opens or refreshes:
            breaker.hasten()
        return failures[0] if failures else None


def _is_outage(failure: Exception) -> bool:
    """An API that says no is there."""
    return not isinstance(failure, ApiUnauthorized | ApiRejected | ApiLimited)


async def _in_time(get: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(PROBE_LIMIT):
        await get()
