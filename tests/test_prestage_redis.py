"""Tickets that several daemons share: on a real Redis, frozen, killed, full, and on none at all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rounded_pbx.breaker import Breaker
from rounded_pbx.config_prestage import Prestage
from rounded_pbx.doctor.results import Verdict
from rounded_pbx.doctor.store import check_store
from rounded_pbx.prestage import Prestaged, Prestages
from rounded_pbx.prestage_redis import LIMIT, RedisStore
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome, StagingResult

from .helpers import CALL_ID, REQUEST, Clock, Peer, eventually, raw_server
from .lab.redis import RedisServer, redis_server
from .test_prestage import Api

MARKS = frozenset(["agent", "variable"])
CALL = dataclasses.replace(REQUEST, marks=MARKS)
PRESTAGED = Prestaged(CALL_ID, Outcome.STAGED, "", "default", MARKS)
FRESH, DEADLINE = 30.0, 0.8
#: Seconds that this machine may be slow.
SLACK = 0.15


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One of the test's own, to be harmed."""
    with redis_server(tmp_path) as started:
        yield started


@contextlib.asynccontextmanager
async def store_of(url: str, password: str | None = None) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, None, password)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def store(shared: RedisServer) -> AsyncIterator[RedisStore]:
    async with store_of(shared.url) as opened:
        yield opened


@pytest.fixture
async def other(shared: RedisServer) -> AsyncIterator[RedisStore]:
    """Another daemon's."""
    async with store_of(shared.url) as opened:
        yield opened


@pytest.fixture
def ticket() -> str:
    return str(uuid.uuid4())


def now() -> float:
    return asyncio.get_running_loop().time()


def key(ticket: str) -> str:
    return f"rounded_pbx:ticket:{ticket}"


def left(redis: RedisServer, ticket: str) -> int:
    """Milliseconds that a key has to live; -2 where there is none."""
    return int(redis.ask(f"SELECT 1\r\nPTTL {key(ticket)}").rpartition(":")[2])


class Shared:
    """A daemon's tickets on a Redis, and what it has disposed of."""

    def __init__(self, redis: RedisServer, seconds: float = 0.05) -> None:
        self.api = Api(seconds)
        self.disposed: list[str] = []
        self.store = RedisStore(redis.url)
        self.clock = Clock()
        self.store._breaker = Breaker(clock=self.clock)
        self.tickets = Prestages(
            Stager({"default": Account(self.api)}, 1000),
            self.store,
            limit=5.0,
            fresh=FRESH,
            most=1000,
            dispose=lambda account, call_id: self.disposed.append(call_id),
        )

    async def collect(
        self, ticket: str, marks: frozenset[str] = MARKS, within: float = DEADLINE
    ) -> StagingResult | None:
        begun = now()
        result = await self.tickets.collect(ticket, marks, begun + within)
        assert now() - begun < within
        return result

    async def kept(self, ticket: str) -> None:
        """Wait until a staging is over and its result in Redis."""
        await eventually(lambda: not self.tickets._chores)
        assert self.api.ids


@contextlib.asynccontextmanager
async def daemon_on(redis: RedisServer, seconds: float = 0.05) -> AsyncIterator[Shared]:
    daemon = Shared(redis, seconds)
    try:
        yield daemon
    finally:
        begun = now()
        await daemon.tickets.aclose(1.0)
        assert now() - begun < 2.0 + SLACK


# A result.


async def test_a_result_is_handed_out_once_by_whoever_asks(
    store: RedisStore, other: RedisStore, ticket: str
) -> None:
    assert await store.announce(ticket, FRESH)
    assert await store.put(ticket, PRESTAGED, FRESH)
    assert await other.take(ticket, now() + 1) == PRESTAGED
    assert await store.take(ticket, now() + 1) is None
    assert await other.take(ticket, None) is None


async def test_every_result_comes_back_as_it_was(store: RedisStore, ticket: str) -> None:
    hostile = 'é\u2028\x00\ud800"\\'
    prestaged = Prestaged(CALL_ID, Outcome.INITIATED, hostile, "acme", frozenset(["a", "b"]))
    assert await store.announce(ticket, FRESH)
    assert await store.put(ticket, prestaged, FRESH)
    assert await store.take(ticket, None) == prestaged


async def test_one_of_two_hundred_who_take_it_gets_it(
    store: RedisStore, other: RedisStore, ticket: str
) -> None:
    assert await store.announce(ticket, FRESH)
    assert await store.put(ticket, PRESTAGED, FRESH)
    takers = [each.take(ticket, now() + 5) for each in (store, other) for _ in range(100)]
    taken = await asyncio.gather(*takers)
    assert [prestaged for prestaged in taken if prestaged is not None] == [PRESTAGED]


async def test_nothing_is_left_of_a_ticket_that_nobody_collects(
    store: RedisStore, shared: RedisServer, ticket: str
) -> None:
    assert await store.announce(ticket, 0.4)
    assert 0 < left(shared, ticket) <= 200  # it could have been set as late as its reply may be
    assert await store.put(ticket, PRESTAGED, 99.0)
    assert 0 < left(shared, ticket) <= 200  # the time runs from the announcement
    await asyncio.sleep(0.25)
    assert left(shared, ticket) == -2
    assert await store.take(ticket, now() + 1) is None


async def test_only_a_ticket_that_is_still_wanted_gets_a_result(
    store: RedisStore, other: RedisStore, ticket: str
) -> None:
    assert not await store.put(ticket, PRESTAGED, FRESH)
    assert await store.announce(ticket, FRESH)
    assert await other.take(ticket, None) is None  # abandoned there
    assert not await store.put(ticket, PRESTAGED, FRESH)
    assert await store.take(ticket, None) is None


async def test_a_staging_that_another_daemon_has_begun_is_waited_for(
    store: RedisStore, other: RedisStore, ticket: str
) -> None:
    assert await store.announce(ticket, FRESH)
    taking = asyncio.ensure_future(other.take(ticket, now() + 1))
    await asyncio.sleep(0.1)
    assert await store.put(ticket, PRESTAGED, FRESH)
    assert await taking == PRESTAGED


async def test_but_only_for_half_of_the_time(
    store: RedisStore, other: RedisStore, shared: RedisServer, ticket: str
) -> None:
    """The other daemon may have died."""
    assert await store.announce(ticket, FRESH)
    begun = now()
    assert await other.take(ticket, begun + 0.6) is None
    assert 0.2 < now() - begun < 0.3 + SLACK
    assert left(shared, ticket) == -2


async def test_without_time_redis_is_not_even_asked(ticket: str) -> None:
    async with store_of("redis://127.0.0.1:9/0") as store:
        assert await store.take(ticket, now()) is None
        assert store._breaker._failures == 0


OURS = {
    "call_id": CALL_ID,
    "outcome": "STAGED",
    "reason": "",
    "account": "default",
    "marks": [],
}
CHANGES: list[dict[str, object]] = [
    {"call_id": None},
    {"call_id": "1\r\nX-Evil: 1"},
    {"call_id": CALL_ID + "\n"},
    {"outcome": "DIALLED"},
    {"outcome": []},
    {"marks": None},
    {"marks": [[]]},
    {"marks": [{}]},
]
STRANGE = [
    *("", "pending ", "null", "[]", "{}", "NaN", "[" * 5000, f'"{CALL_ID}"', b"\xff\xfe"),
    *(json.dumps({**OURS, **change}) for change in CHANGES),
]


@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
async def test_what_a_stranger_wrote_is_no_result(
    store: RedisStore, ticket: str, value: str | bytes
) -> None:
    await store._redis.set(key(ticket), value, px=1000)
    assert await store.take(ticket, now() + 1) is None
    assert await store.take(ticket, None) is None


async def test_a_key_that_is_no_text_is_no_result_and_harms_no_other(
    store: RedisStore, ticket: str
) -> None:
    await store._redis.rpush(key(ticket), "x")
    for _ in range(3):
        assert await store.take(ticket, now() + 1) is None
    await store._redis.delete(key(ticket))
    assert await store.announce(ticket, FRESH)
    assert await store.take(ticket, None) is None


async def test_commands_that_are_cancelled_leave_no_reply_to_another(store: RedisStore) -> None:
    """A caller who leaves, or a limit, cancels a command wherever it is."""
    chance, gone = random.Random(4711), 0

    async def echo(text: str) -> None:
        assert await store._ask("ECHO", text, limit=5.0) == text.encode()

    for turn in range(6):
        tasks = [asyncio.ensure_future(echo(f"{turn}-{index}")) for index in range(150)]
        for _ in range(25):
            await asyncio.sleep(chance.random() * 0.002)
            for task in chance.sample(tasks, 8):
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        gone += sum(isinstance(result, asyncio.CancelledError) for result in results)
        assert [r for r in results if not isinstance(r, asyncio.CancelledError | None)] == []
    assert gone > 20
    await eventually(lambda: not store._pool._in_use_connections)
    assert not store._pool._in_use_connections  # all can be used again


# A Redis that is slow, or gone.


@pytest.mark.parametrize("fault", ["pause", "kill"])
@pytest.mark.parametrize("when", ["begin", "announced", "kept"])
async def test_whatever_becomes_of_redis_a_call_is_staged_within_its_deadline(
    redis: RedisServer, ticket: str, fault: str, when: str
) -> None:
    harm = {"pause": redis.pause, "kill": redis.kill}[fault]
    async with daemon_on(redis) as here, daemon_on(redis) as there:
        if when == "begin":
            harm()
        here.tickets.begin(ticket, CALL)
        if when == "announced":
            await eventually(lambda: left(redis, ticket) > 0)
            harm()
        await here.kept(ticket)
        if when == "kept":
            harm()
        assert await there.collect(ticket) is None
        assert await here.collect(ticket) is None
        (redis.resume if fault == "pause" else redis.start)()
        results = [await each.collect(ticket) for each in (here, there)]
        assert all(result is None or result.call_id in here.api.ids for result in results)
        assert sum(result is not None for result in results) <= 1


async def test_a_flight_is_collected_where_it_is_whatever_becomes_of_redis(
    redis: RedisServer, ticket: str
) -> None:
    async with daemon_on(redis, seconds=0.1) as here:
        redis.pause()
        here.tickets.begin(ticket, CALL)
        begun = now()
        result = await here.collect(ticket, within=0.15)
        assert result == StagingResult(Outcome.STAGED, here.api.ids[0])
        assert now() - begun < LIMIT  # it waits for the API and not for Redis
        redis.resume()


async def test_a_frozen_redis_costs_a_few_calls_little_and_the_others_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with daemon_on(redis) as daemon:
        redis.pause()
        took = []
        for _ in range(8):
            begun = now()
            assert await daemon.collect(str(uuid.uuid4()), within=1.4) is None
            took.append(now() - begun)
        assert all(LIMIT - 0.02 < each < LIMIT + SLACK for each in took[:5])
        assert max(took[5:]) < 0.02
        redis.resume()
        assert await daemon.collect(str(uuid.uuid4())) is None
        daemon.clock.advance(1.0)  # the breaker's pause
        ticket = str(uuid.uuid4())
        daemon.tickets.begin(ticket, CALL)
        await daemon.kept(ticket)
        result = await daemon.collect(ticket)
        assert result is not None
        assert result.call_id in daemon.api.ids
    told = [r.getMessage() for r in caplog.records if "Redis" in r.getMessage()]
    assert told == [
        "Redis: no answer in time; until it answers, calls are staged anew",
        "Redis: it answers again",
    ]


async def test_a_frozen_redis_leaves_a_call_with_little_time_most_of_it(
    redis: RedisServer, ticket: str
) -> None:
    async with store_of(redis.url) as store:
        redis.pause()
        begun = now()
        assert await store.take(ticket, begun + 0.1) is None
        assert now() - begun < 0.05


async def test_a_redis_that_stood_still_makes_no_result_younger(
    redis: RedisServer, ticket: str
) -> None:
    async with store_of(redis.url) as store:
        assert await store.announce(ticket, 1.0)
        redis.pause()
        assert await store.put(ticket, PRESTAGED, 1.0)  # perhaps
        redis.resume()
        await eventually(lambda: store._breaker._failures, 0.1)
        assert 0 < left(redis, ticket) <= 1000 - LIMIT * 2000
        assert await store.take(ticket, None) == PRESTAGED


async def test_an_announcement_that_came_late_keeps_no_result(
    redis: RedisServer, ticket: str
) -> None:
    async with daemon_on(redis, seconds=0.3) as daemon:
        assert await daemon.collect(str(uuid.uuid4())) is None  # it is connected
        redis.pause()
        daemon.tickets.begin(ticket, CALL)
        await asyncio.sleep(LIMIT + 0.05)
        redis.resume()  # which carries it out now, with all of its time to live
        await daemon.kept(ticket)
        assert daemon.disposed == daemon.api.ids
        assert left(redis, ticket) == -2


async def test_a_put_whose_reply_was_lost_ends_no_id_that_another_hands_out(
    redis: RedisServer, ticket: str
) -> None:
    async with daemon_on(redis) as here, daemon_on(redis) as there:
        here.tickets.begin(ticket, CALL)
        await eventually(lambda: left(redis, ticket) > 0)
        redis.pause()
        await here.kept(ticket)
        redis.resume()
        result = await there.collect(ticket)
        assert result is not None
        assert result.call_id == here.api.ids[0]
        assert here.disposed == []


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.199])
async def test_a_slow_redis_costs_no_call_its_deadline(shared: RedisServer, seconds: float) -> None:
    """A proxy that holds up every reply, those of the handshake included."""

    async def proxy(peer: Peer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)

        async def back() -> None:
            while data := await reader.read(65536):
                await asyncio.sleep(seconds)
                await peer.send(data)

        answering = asyncio.ensure_future(back())
        try:
            while data := await peer.reader.read(65536):
                writer.write(data)
        finally:
            answering.cancel()
            writer.close()

    async with raw_server(proxy) as slow:
        url = slow.url.replace("http", "redis") + "/1"
        async with store_of(url) as store:
            for within in (0.1, 0.4, 0.8):
                ticket = str(uuid.uuid4())
                await store.announce(ticket, FRESH)
                begun = now()
                assert await store.take(ticket, begun + within) is None
                assert now() - begun < within
            if seconds < 0.1:  # it can be used
                assert await store.announce(ticket, FRESH)
                assert await store.put(ticket, PRESTAGED, FRESH)
                assert await store.take(ticket, now() + 1.4) == PRESTAGED


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b"*99\r\n", b"$-5\r\n", b"\xff\r\n", b""],
)
async def test_what_speaks_no_redis_is_as_good_as_gone(
    garbage: bytes, ticket: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def babble(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(garbage)
        if garbage:
            await peer.reader.read()

    async with (
        raw_server(babble) as server,
        store_of(server.url.replace("http", "redis")) as store,
    ):
        assert not await store.announce(ticket, FRESH)
        assert await store.take(ticket, now() + 0.8) is None
    assert len(caplog.messages) == 1


async def test_a_full_redis_is_told_once_and_still_hands_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with redis_server(tmp_path) as redis:
        async with store_of(redis.url) as store:
            redis.ask("CONFIG SET maxmemory 1")
            for _ in range(4):
                assert not await store.announce(str(uuid.uuid4()), FRESH)
                assert await store.take(str(uuid.uuid4()), now() + 1) is None
            redis.ask("CONFIG SET maxmemory 0")
            assert await store.announce(str(uuid.uuid4()), FRESH)
    (full, again) = caplog.messages
    assert full.startswith("Redis: command not allowed when used memory > 'maxmemory'")
    assert again == "Redis: it answers again"


async def test_a_password_lets_in_and_a_wrong_one_is_never_shown(
    tmp_path: Path, ticket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    right, wrong = "hush-5e17c0ffee", "hush-wrong-0815"
    with redis_server(tmp_path, password=right) as redis:
        async with store_of(redis.url, right) as store, store_of(redis.url, wrong) as refused:
            assert await store.announce(ticket, FRESH)
            assert await store.put(ticket, PRESTAGED, FRESH)
            assert await refused.take(ticket, now() + 1) is None
            assert not await refused.announce(ticket, FRESH)
            shown = repr(store) + repr(store._pool) + repr(store._redis) + caplog.text
            assert await store.take(ticket, None) == PRESTAGED
    (told,) = [r.getMessage() for r in caplog.records if r.name.startswith("rounded")]
    assert "Redis: " in told
    assert right not in shown
    assert wrong not in shown


async def test_a_socket_of_unix_is_as_good(tmp_path: Path, ticket: str) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "s")):
        async with store_of(f"unix://{tmp_path}/s") as store:
            assert await store.announce(ticket, FRESH)
            assert await store.put(ticket, PRESTAGED, FRESH)
            assert await store.take(ticket, None) == PRESTAGED


# Two daemons.


async def test_what_fails_here_is_not_waited_for_there(shared: RedisServer, ticket: str) -> None:
    async with daemon_on(shared, seconds=0.1) as here, daemon_on(shared) as there:
        here.api.failure = ZeroDivisionError()
        here.tickets.begin(ticket, CALL)
        await eventually(lambda: left(shared, ticket) > 0)
        begun = now()
        assert await there.collect(ticket, within=5.0) is None
        assert now() - begun < 0.5
        assert left(shared, ticket) == -2


@pytest.mark.parametrize("after", [0.0, 0.05, 0.3])
async def test_who_leaves_there_ends_what_was_begun_here(
    shared: RedisServer, ticket: str, after: float
) -> None:
    async with daemon_on(shared, seconds=0.1) as here, daemon_on(shared) as there:
        here.tickets.begin(ticket, CALL)
        await eventually(lambda: left(shared, ticket) > 0)
        await asyncio.sleep(after)
        there.tickets.abandon(ticket)
        await here.kept(ticket)
        await eventually(lambda: here.disposed or there.disposed)
        assert here.disposed + there.disposed == here.api.ids
        assert left(shared, ticket) == -2


@pytest.mark.parametrize("end", ["land", "abandon", "stop"])
async def test_nothing_is_left_pending_of_a_flight_that_has_ended(
    shared: RedisServer, ticket: str, end: str
) -> None:
    async with daemon_on(shared, seconds=0.1 if end == "land" else 9.0) as here:
        here.tickets.begin(ticket, CALL)
        if end == "land":
            assert await here.collect(ticket) is not None
        elif end == "abandon":
            here.tickets.abandon(ticket)
        else:
            await eventually(lambda: left(shared, ticket) > 0)
            await here.tickets.aclose(0.1)
        await eventually(lambda: not here.tickets._chores)
        assert left(shared, ticket) == -2


async def test_a_daemon_that_stops_finishes_what_others_can_collect(
    shared: RedisServer, ticket: str
) -> None:
    async with daemon_on(shared) as there:
        async with daemon_on(shared, seconds=0.2) as here:
            here.tickets.begin(ticket, CALL)
        result = await there.collect(ticket)
        assert result == StagingResult(Outcome.STAGED, here.api.ids[0])


async def test_many_calls_at_two_daemons_get_an_id_each_and_none_twice(
    shared: RedisServer,
) -> None:
    begun = time.monotonic()
    async with daemon_on(shared) as here, daemon_on(shared) as there:
        tickets = [str(uuid.uuid4()) for _ in range(150)]
        for ticket in tickets:
            here.tickets.begin(ticket, CALL)
        await eventually(lambda: len(here.api.ids) == len(tickets))
        collectors = [each.collect(t, within=8.0) for t in tickets for each in (there, here, there)]
        results = [result for result in await asyncio.gather(*collectors) if result is not None]
        assert sorted(str(result.call_id) for result in results) == sorted(here.api.ids)
    assert time.monotonic() - begun < 10


# What the doctor says of it.


async def test_the_doctor_says_whether_redis_can_be_used(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Prestage(store=redis.url)
    found = await check_store(there)
    assert (found.verdict, redis.url in found.seen) == (Verdict.RIGHT, True)
    monkeypatch.setenv("REDIS_PASSWORD", "hush-5e17")
    found = await check_store(Prestage(store=redis.url, secret_env="REDIS_PASSWORD"))
    assert found.verdict is Verdict.LOOK
    assert "hush-5e17" not in repr(found)
    found = await check_store(Prestage(store=redis.url, secret_file=tmp_path / "none"))
    assert found.verdict is Verdict.SKIPPED
    redis.pause()
    found = await check_store(there)
    assert (found.verdict, "no answer" in found.seen) == (Verdict.LOOK, True)
    redis.resume()
    redis.kill()
    assert "Connect call failed" in (await check_store(there)).seen
