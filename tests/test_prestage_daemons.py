"""Two daemons, each a process, that share a Redis: what one has begun the other hands out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import eventually
from .lab.daemon import Daemon, SandboxThread, config
from .lab.processes import free_port, rounded_pbx
from .lab.redis import RedisServer, redis_server
from .test_fastagi import Asterisk, environment

PASSWORD = "hush-5e17c0ffee"
DEADLINE = 1.5
DID = "did=+33612345678"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), password=PASSWORD) as started:
        yield started


@contextlib.contextmanager
def daemon_at(directory: Path, api: SandboxThread, redis: RedisServer) -> Iterator[Daemon]:
    """A daemon with a configuration and a port of its own."""
    directory.mkdir()
    listens = ("127.0.0.1", free_port())
    (directory / "password").write_text(PASSWORD)
    (directory / "config.yml").write_text(
        config(api.url)
        + f"prestage: {{store: '{redis.url}', secret_file: {directory}/password}}\n"
        + f"pbx: {directory.name}\n"
        + f"asterisk: {{fastagi: {{listen: '{listens[0]}:{listens[1]}'}}}}\n"
        + "freeswitch: {outbound: {listen: off}}\n"
        + "status: {listen: off}\n"
    )
    command = rounded_pbx("serve", "--config", directory / "config.yml")
    started = Daemon(directory, command, listens=listens)
    try:
        started.start()
        yield started
        assert PASSWORD not in started.log
    finally:
        if started.running is not None:
            started.signal(signal.SIGCONT)
        started.stop()


@pytest.fixture
def pair(tmp_path: Path, api: SandboxThread, redis: RedisServer) -> Iterator[tuple[Daemon, Daemon]]:
    with daemon_at(tmp_path / "a", api, redis) as a, daemon_at(tmp_path / "b", api, redis) as b:
        yield a, b


async def ask(daemon: Daemon, script: str) -> dict[str, str]:
    """What a session sets."""
    reader, writer = await asyncio.open_connection(*daemon.listens)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment(network_script=script))
    return await asterisk.variables()


async def prestage(daemon: Daemon) -> str:
    ticket = (await ask(daemon, f"prestage?{DID}"))["ROUNDED_TICKET"]
    assert ticket
    return ticket


async def collect(daemon: Daemon, ticket: str) -> str:
    """The id."""
    begun = time.monotonic()
    told = await ask(daemon, f"collect?{DID}&ticket={ticket}")
    assert time.monotonic() - begun < DEADLINE
    assert told["ROUNDED_STATUS"] == "STAGED"
    return told["ROUNDED_CALL_ID"]


async def test_what_one_has_staged_the_other_hands_out_after_its_death(
    pair: tuple[Daemon, Daemon], api: SandboxThread
) -> None:
    a, b = pair
    tickets = [await prestage(a) for _ in range(3)]
    await eventually(lambda: a.log.count("prestaged STAGED") == 3)
    staged = api.ids()
    await asyncio.sleep(0.05)  # from the log to Redis
    a.kill()
    ids = [await collect(b, ticket) for ticket in tickets]
    assert ids == staged
    again = await collect(b, tickets[0])
    assert again not in staged
    assert api.ids() == [*staged, again]


async def test_a_staging_that_died_with_its_daemon_is_made_anew(
    pair: tuple[Daemon, Daemon], api: SandboxThread
) -> None:
    a, b = pair
    api.behave(staging_time=0.4)
    ticket = await prestage(a)
    await eventually(lambda: api.ids())
    a.kill()
    (lost,) = api.ids()
    first, second = await asyncio.gather(collect(b, ticket), collect(b, ticket))
    assert sorted([first, second]) == sorted(set(api.ids()) - {lost})
    a.start()
    third = await collect(a, ticket)
    assert third == api.ids()[-1]
    assert len({lost, first, second, third}) == 4


async def test_one_that_freezes_and_comes_back_hands_nothing_out_twice(
    pair: tuple[Daemon, Daemon], api: SandboxThread
) -> None:
    a, b = pair
    api.behave(staging_time=0.3)
    ticket = await prestage(a)
    await eventually(lambda: api.ids())
    a.signal(signal.SIGSTOP)
    first = await collect(b, ticket)
    a.signal(signal.SIGCONT)
    await eventually(lambda: "prestaged STAGED" in a.log)
    second = await collect(a, ticket)
    assert len({api.ids()[0], first, second}) == 3


async def test_who_leaves_at_the_other_ends_it_at_both(
    pair: tuple[Daemon, Daemon], api: SandboxThread
) -> None:
    a, b = pair
    ticket = await prestage(a)
    await eventually(lambda: "prestaged STAGED" in a.log)
    await asyncio.sleep(0.05)
    assert await ask(b, f"abandon?ticket={ticket}") == {}
    await asyncio.sleep(0.05)
    (dropped,) = api.ids()
    assert await collect(a, ticket) != dropped


async def test_a_restart_loses_no_call_that_waits(
    pair: tuple[Daemon, Daemon], api: SandboxThread
) -> None:
    """SIGTERM, while a staging is under way: it is finished before the daemon ends."""
    a, b = pair
    api.behave(staging_time=0.4)
    ticket = await prestage(a)
    await eventually(lambda: api.ids())
    a.stop()
    assert [await collect(b, ticket)] == api.ids()
    assert "Traceback" not in a.log
