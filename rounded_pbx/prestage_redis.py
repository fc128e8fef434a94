"""Results that wait in Redis, for daemons that serve one another's tickets.

A key goes from nothing to ``pending``, to a result, to nothing; each step is one command of Redis,
so only one daemon can take it, and only a ticket that is still wanted gets a result. How old a
result may become is Redis's own time to live: no clocks are compared. Redis 6.2 or later, for
GETDEL; Valkey is the same.

A Redis that is slow or gone costs a call a fifth of a second, and after some failures nothing: the
call is staged anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .breaker import Breaker
from .call import clean
from .prestage import Prestaged
from .staging import Outcome, valid_uuid

log = logging.getLogger(__name__)

#: Seconds that a command may take.
LIMIT = 0.2
#: Connections; what is more waits, within its limit.
MOST_CONNECTIONS = 64
#: Seconds between two looks at a ticket that is pending elsewhere: first, factor, longest.
LOOK_FIRST, LOOK_FACTOR, LOOK_LONGEST = 0.02, 1.5, 0.1
#: The share of its time that a call waits for what another daemon has begun.
PATIENCE = 0.5

_PENDING = b"pending"
_KEY = "rounded_pbx:ticket:"


class RedisStore:
    """Where results wait that any of several daemons may hand out.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, without a password.
    """

    shared = True

    def __init__(self, url: str, username: str | None = None, password: str | None = None) -> None:
        self._pool = BlockingConnectionPool.from_url(
            url,
            username=username,
            password=password,
            max_connections=MOST_CONNECTIONS,
            timeout=LIMIT,
            socket_connect_timeout=LIMIT,
            socket_timeout=LIMIT,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=self._pool)
        self._breaker = Breaker()
        self._gone = False

    def __len__(self) -> int:
        return 0  # how many wait there is not this daemon's to know

    async def announce(self, ticket: str, seconds: float) -> None:
        """Others that have the ticket wait for its result from now on."""
        with contextlib.suppress(_Gone):
            await self._ask("SET", _KEY + ticket, _PENDING, "PX", _milliseconds(seconds), "NX")

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result, if the ticket is still pending."""
        value = _to_json(prestaged)
        with contextlib.suppress(_Gone):
            kept = await self._ask("SET", _KEY + ticket, value, "PX", _milliseconds(seconds), "XX")
            return bool(kept)
        return False

    async def take(self, ticket: str, deadline: float) -> Prestaged | None:
        """Take a result; one that is pending is waited for until half of the time is gone."""
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE * (deadline - clock())
        pause = LOOK_FIRST
        with contextlib.suppress(_Gone):
            while clock() + pause < until and await self._ask("GET", _KEY + ticket) == _PENDING:
                await asyncio.sleep(pause)
                pause = min(pause * LOOK_FACTOR, LOOK_LONGEST)
            return _from_json(await self._ask("GETDEL", _KEY + ticket))
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._pool.aclose()

    async def _ask(self, *words: str | bytes | int) -> object:
        """The reply to a command.

        Raises:
            _Gone: there is none in time.
        """
        permit = self._breaker.ask()
        if permit is None:
            raise _Gone
        worked = None
        try:
            async with asyncio.timeout(LIMIT):
                # redis-py has no types for it
                reply: object = await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]
            worked = True
        except (RedisError, OSError, TimeoutError) as error:
            worked = False
            if not self._gone:
                self._gone = True
                why = clean(str(error)) or "no answer in time"
                log.warning("Redis: %s; until it answers, calls are staged anew", why)
            raise _Gone from None
        finally:
            permit.close(worked)
        if self._gone:
            self._gone = False
            log.info("Redis: it answers again")
        return reply


class _Gone(Exception):
    """Redis does not answer."""


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _to_json(prestaged: Prestaged) -> str:
    values = {
        "call_id": prestaged.call_id,
        "outcome": prestaged.outcome.value,
        "reason": prestaged.reason,
        "account": prestaged.account,
        "marks": sorted(prestaged.marks),
    }
    return json.dumps(values, separators=(",", ":"))


def _from_json(value: object) -> Prestaged | None:
    """What ``_to_json`` made; None for anything else, which only a stranger can have written."""
    if not isinstance(value, bytes) or value == _PENDING:
        return None
    try:
        found = json.loads(value)
        call_id, outcome = valid_uuid(found["call_id"]), Outcome(found["outcome"])
        reason, account, marks = found["reason"], found["account"], frozenset(found["marks"])
    except (ValueError, TypeError, KeyError, RecursionError):
        call_id = None
    if call_id is None:
        log.warning("Redis: a value that is none of ours")
        return None
    return Prestaged(call_id, outcome, str(reason), str(account), marks)
