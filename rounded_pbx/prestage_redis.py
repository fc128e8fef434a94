"""Results that wait in Redis, for daemons that serve one another's tickets.

A key goes from nothing to ``pending``, to a result, to nothing; each step is one command of Redis,
so only one daemon can take it, and only a ticket that is still wanted gets a result. How old a
result may become is Redis's own time to live, which runs from ``pending`` on: no clocks are
compared, and a Redis that stood still makes no result younger. Redis 6.2 or later, for GETDEL;
Valkey is the same.

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
from .config_prestage import REDIS_CONNECTIONS, Prestage
from .prestage import Prestaged
from .staging import Outcome, valid_uuid

log = logging.getLogger(__name__)

#: Seconds that a command may take, and the share of its time for a call that has little.
LIMIT, SHARE = 0.2, 1 / 6
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
            max_connections=REDIS_CONNECTIONS,  # what is more waits, within its limit
            timeout=LIMIT,
            socket_connect_timeout=LIMIT,
            socket_timeout=LIMIT,
            retry=Retry(NoBackoff(), 0),
            # Fewer round trips to connect; and redis-py lets no reply be left over, as with 3.
            protocol=2,
        )
        self._redis = Redis(connection_pool=self._pool)
        self._breaker = Breaker()
        self._failing: set[str | bytes | int] = set()

    def __len__(self) -> int:
        return 0  # how many wait there is not this daemon's to know

    async def announce(self, ticket: str, seconds: float) -> bool:
        """Others that have the ticket wait for its result from now on."""
        lives = _milliseconds(seconds - LIMIT)  # it may be set as late as that
        with contextlib.suppress(_Gone):
            return bool(await self._ask("SET", _KEY + ticket, _PENDING, "PX", lives, "NX"))
        return False

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        """Keep a result, if the ticket is still pending, for as long as it would have been."""
        value = _to_json(prestaged)
        with contextlib.suppress(_Gone):
            return bool(await self._ask("SET", _KEY + ticket, value, "XX", "KEEPTTL"))
        return True  # or an id would be ended that another daemon hands out

    async def take(self, ticket: str, deadline: float | None) -> Prestaged | None:
        """Take a result; one that is pending is waited for until half of the time is gone."""
        clock = asyncio.get_running_loop().time
        limit, until, pause = LIMIT, float("-inf"), LOOK_FIRST
        if deadline is not None:
            left = deadline - clock()
            limit, until = min(LIMIT, SHARE * left), clock() + PATIENCE * left
        key = _KEY + ticket
        with contextlib.suppress(_Gone):
            while clock() + pause < until and await self._ask("GET", key, limit=limit) == _PENDING:
                await asyncio.sleep(pause)
                pause = min(pause * LOOK_FACTOR, LOOK_LONGEST)
            return _from_json(await self._ask("GETDEL", key, limit=limit))
        return None

    async def problem(self) -> str:
        """Why it cannot be used, in its own words; empty where it can."""
        try:
            async with asyncio.timeout(LIMIT):
                await self._redis.execute_command("GETDEL", _KEY + "doctor")  # type: ignore[no-untyped-call]
        except Exception as error:  # as below
            return clean(str(error)) or f"no answer within {LIMIT:g} s"
        return ""

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(RedisError, OSError):  # TLS says goodbye, and may get no answer
            await self._pool.aclose()

    async def _ask(self, *words: str | bytes | int, limit: float = LIMIT) -> object:
        """The reply to a command.

        Raises:
            _Gone: there is none within ``limit`` seconds.
        """
        permit = self._breaker.ask() if limit > 0 else None
        if permit is None:
            raise _Gone
        worked = None
        try:
            async with asyncio.timeout(limit):
                # redis-py has no types for it
                reply: object = await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]
            worked = True
        except Exception as error:  # what speaks no Redis makes redis-py raise anything
            worked = False
            if not self._failing:
                why = clean(str(error)) or "no answer in time"
                log.warning("Redis: %s; until it answers, calls are staged anew", why)
            self._failing.add(words[0])
            raise _Gone from None
        finally:
            permit.close(worked)
        if words[0] in self._failing:  # one that is full, or a replica, answers others meanwhile
            self._failing.remove(words[0])
            if not self._failing:
                log.info("Redis: it answers again")
        return reply


def store_of(prestage: Prestage) -> RedisStore:
    """The store that a configuration names.

    Raises:
        ValueError: its password cannot be read.
    """
    password = prestage.read_secret().get_secret_value() if prestage.has_password else None
    return RedisStore(prestage.store, prestage.username, password)


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
