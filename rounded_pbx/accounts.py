"""The accounts at work: a client each, a breaker each, and connections that stay warm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack

from .api import RoundedClient
from .breaker import Breaker
from .config import Config
from .errors import ApiError, ApiLimited, ApiRejected, ApiUnauthorized
from .stager import Account

log = logging.getLogger(__name__)

#: Seconds that a probe may take.
PROBE_LIMIT = 5.0
#: Seconds between probes while the breaker is open.
PROBE_WHEN_OPEN = 2.0


class Accounts:
    """Every account of a configuration; an asynchronous context manager that closes them all."""

    def __init__(self, config: Config, keys: Mapping[str, str]) -> None:
        api = config.api
        self._clients = {
            name: RoundedClient(
                api.base_url,
                key,
                ca_file=str(api.ca_file) if api.ca_file else None,
                max_connections=api.max_connections,
                trust_env=api.trust_env,
            )
            for name, key in keys.items()
        }
        self.by_name = {name: Account(client) for name, client in self._clients.items()}
        self._warm = api.warm
        self._interval = api.probe_interval
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Accounts:
        for client in self._clients.values():
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
            problem = await self._probe(client, breaker)
            if problem != said:
                said = problem
                if problem:
                    log.warning("account %s: the API does not answer as it should: %s", name, said)
                else:
                    log.info("account %s: the API answers", name)
            await asyncio.sleep(PROBE_WHEN_OPEN if breaker.is_open else self._interval)

    async def _probe(self, client: RoundedClient, breaker: Breaker) -> str:
        """One round of light GETs; what is wrong, or nothing. A round counts as one call."""
        stale = await client.stale_connections(0.9 * self._interval, keep=self._warm)
        missing = max(0, self._warm - client.open_connections)
        gets = [client.refresh_connection() for _ in range(stale)]
        gets += [client.open_connection() for _ in range(1 if breaker.is_open else missing)]
        results = await asyncio.gather(
            *(asyncio.wait_for(get, PROBE_LIMIT) for get in gets), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, Exception)]
        for failure in failures:
            if not isinstance(failure, ApiError | TimeoutError):
                raise failure
        out = [f for f in failures if not isinstance(f, ApiUnauthorized | ApiRejected | ApiLimited)]
        if out:
            breaker.note_failure()
        elif gets:
            breaker.hasten()
        return str(failures[0]) or "no answer in time" if failures else ""
