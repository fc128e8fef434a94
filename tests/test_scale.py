"""Two daemons behind HAProxy as docs/scale.md has them, and what calls wait when one fails.

The switch's end of a FastAGI session is played here; tests/switches has real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rounded_pbx.doctor.listeners import check_listeners
from rounded_pbx.doctor.results import Verdict

from .helpers import config, eventually
from .lab.calls import NOISE
from .lab.daemon import Daemon, SandboxThread
from .lab.fleet import Fleet, fleet
from .lab.lan import power_on
from .test_fastagi import Asterisk, environment

DID = "did=+33612345678"
#: What docs/scale/haproxy.cfg says: a try, how many, and how long a daemon may be silent.
CONNECT, TRIES, SILENT = 0.15, 3, 1.8
#: Seconds within which a daemon that fails gets no call any more.
FOUND = 2.0
#: Seconds that a staging takes here.
STAGING = 0.2


#: Calls that may reach a listener in the instant in which it closes, and are reset then.
AT_CLOSE = 1


@pytest.fixture
def daemons(tmp_path: Path, api: SandboxThread) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet", api) as started:
        yield started


@dataclass(frozen=True)
class Call:
    """One session: when it began, how long the switch waited, and what it was told."""

    begun: float
    waited: float
    told: dict[str, str]

    @property
    def status(self) -> str:
        return self.told.get("ROUNDED_STATUS", "")


async def call(script: str = f"stage?{DID}") -> Call:
    """What a switch is told through HAProxy until the session is over; refused is nothing."""
    begun, told = time.monotonic(), dict[str, str]()
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", 4573)
        asterisk = Asterisk(reader, writer)
        asterisk.write(environment(network_script=script))
        told = await asterisk.variables()
    return Call(begun, time.monotonic() - begun, told)


@dataclass
class Load:
    """Calls that come at a rate, whatever becomes of those before them."""

    under_way: list[asyncio.Task[Call]] = field(default_factory=list)

    def calls(self, since: float = 0.0, until: float = float("inf")) -> list[Call]:
        ended = [each.result() for each in self.under_way]
        return [each for each in ended if since < each.begun <= until]


@contextlib.asynccontextmanager
async def load(rate: float = 40) -> AsyncIterator[Load]:
    running = Load()

    async def come() -> None:
        while True:
            running.under_way.append(asyncio.ensure_future(call()))
            await asyncio.sleep(1 / rate)

    coming = asyncio.ensure_future(come())
    try:
        yield running
    finally:
        coming.cancel()
        await asyncio.gather(*running.under_way)


def longest(calls: list[Call]) -> float:
    return max(each.waited for each in calls)


def statuses(calls: list[Call]) -> Counter[str]:
    return Counter(each.status for each in calls)


def fail(fleet: Fleet, daemon: Daemon, how: str) -> None:
    if how == "loses power":
        fleet.lose_power(daemon)
    elif how == "killed":
        daemon.kill()
    else:
        daemon.signal(signal.SIGSTOP if how == "frozen" else signal.SIGTERM)


async def taken_out(fleet: Fleet, *servers: str) -> float:
    """Seconds until HAProxy gives them no call any more."""
    begun = time.monotonic()
    while any(fleet.haproxy.is_up(server) for server in servers):
        assert time.monotonic() - begun < FOUND + NOISE, fleet.haproxy.statuses()
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def test_both_serve_and_one_collects_what_the_other_has_begun(
    daemons: Fleet, api: SandboxThread
) -> None:
    ticket = (await call(f"prestage?{DID}")).told["ROUNDED_TICKET"]
    await eventually(lambda: "prestaged STAGED" in daemons.a.log + daemons.b.log)
    begun, other = daemons.a, daemons.b
    if "prestaged" in other.log:
        begun, other = other, begun
    await asyncio.sleep(0.05)  # from the log to Redis
    collected = await call(f"collect?{DID}&ticket={ticket}")
    assert [collected.told["ROUNDED_CALL_ID"]] == api.ids()
    await eventually(lambda: other.outcomes() == ["STAGED"])
    calls = [await call() for _ in range(10)]
    assert statuses(calls) == {"STAGED": 10}
    await eventually(lambda: len(daemons.a.outcomes() + daemons.b.outcomes()) == 11)
    assert len(begun.outcomes()) == 5


async def test_a_session_ends_as_it_does_without_haproxy_and_checks_say_nothing(
    daemons: Fleet,
) -> None:
    """The daemon closes its side first, and reads what the switch replies to the last command."""
    assert statuses([await call() for _ in range(10)]) == {"STAGED": 10}
    await eventually(lambda: len(daemons.a.outcomes() + daemons.b.outcomes()) == 10)
    before = [(each.log, each.descriptors()) for each in (daemons.a, daemons.b)]
    await asyncio.sleep(1.5)
    assert [(each.log, each.descriptors()) for each in (daemons.a, daemons.b)] == before
    for log, _ in before:
        assert "session" not in log
        assert "HANGUP" not in log


async def test_a_caller_who_leaves_is_known_to_the_daemon_at_once(
    daemons: Fleet, api: SandboxThread
) -> None:
    api.behave(fault="hang", fault_on=["stageCall"])
    reader, writer = await asyncio.open_connection("127.0.0.1", 4573)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment(network_script=f"stage?{DID}"))
    assert "TIER" in await asterisk.command()
    asterisk.write(b"200 result=0\n")
    await eventually(lambda: api.sandbox.hanging == 1)
    assert api.sandbox.hanging == 1
    writer.close()
    await eventually(lambda: api.sandbox.hanging == 0, within=0.5)
    assert api.sandbox.hanging == 0
    await eventually(lambda: "HANGUP" in daemons.a.log + daemons.b.log)
    assert "HANGUP" in daemons.a.log + daemons.b.log


@pytest.mark.parametrize("how", ["stopped", "killed", "frozen", "loses power"])
async def test_one_fails_under_40_calls_a_second(
    daemons: Fleet, api: SandboxThread, how: str
) -> None:
    api.behave(staging_time=STAGING)
    async with load() as running:
        await asyncio.sleep(1)
        fail(daemons, daemons.a, how)
        failed = time.monotonic()
        found = time.monotonic() + await taken_out(daemons, "a")
        await asyncio.sleep(0.5)
    before, meanwhile = running.calls(until=failed), running.calls(failed, found)
    assert len(before) > 20
    assert statuses(running.calls(found)).keys() == {"STAGED"}
    assert longest(running.calls(found)) < STAGING + NOISE
    if how == "frozen":
        assert statuses(before + meanwhile)[""] > 0
        assert statuses(meanwhile)[""] < len(meanwhile) / 4
        assert longest(before + meanwhile) < SILENT + NOISE
    else:
        assert statuses(meanwhile)[""] <= (AT_CLOSE if how == "stopped" else 0)
        assert longest(meanwhile) < CONNECT + STAGING + NOISE
        assert (statuses(before)[""] > 0) == (how != "stopped")
        assert longest(before) < (SILENT if how == "loses power" else STAGING) + NOISE
    await back(daemons, how)


async def back(fleet: Fleet, how: str) -> None:
    """It is there again, and gets its share of the calls."""
    if how == "loses power":
        power_on(fleet.a.listens[0])
    elif how == "frozen":
        fleet.a.signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(fleet.a.stop)  # what is left of it
        await asyncio.to_thread(fleet.a.start)
    await asyncio.to_thread(fleet.until, "a", up=True)
    staged = fleet.a.outcomes().count("STAGED")
    assert statuses([await call() for _ in range(4)]) == {"STAGED": 4}
    await eventually(lambda: fleet.a.outcomes().count("STAGED") == staged + 2)
    assert fleet.a.outcomes().count("STAGED") == staged + 2


@pytest.mark.parametrize("how", ["killed", "frozen", "loses power"])
async def test_both_fail_at_once(daemons: Fleet, api: SandboxThread, how: str) -> None:
    api.behave(staging_time=STAGING)
    async with load() as running:
        await asyncio.sleep(1)
        fail(daemons, daemons.a, how)
        fail(daemons, daemons.b, how)
        failed = time.monotonic()
        found = time.monotonic() + await taken_out(daemons, "a", "b")
        await asyncio.sleep(0.5)
    assert statuses(running.calls(until=failed))["STAGED"] > 20
    assert statuses(running.calls(failed)).keys() == {""}
    assert longest(running.calls(found)) < NOISE / 4
    limit = SILENT if how == "frozen" else TRIES * CONNECT
    assert longest(running.calls(failed, found)) < limit + NOISE
    assert longest(running.calls(until=failed)) < SILENT + NOISE


async def test_the_doctor_finds_the_daemons_through_haproxy(
    daemons: Fleet, api: SandboxThread
) -> None:
    """On the PBX, whose configuration has no ``listen``; and it says so where both are gone."""
    of_the_pbx = config(api.url)
    found = [each async for each in check_listeners(of_the_pbx)]
    assert {each.name: each.verdict for each in found} == {
        f"daemon.{switch}{check}": Verdict.RIGHT
        for switch in ("asterisk", "freeswitch")
        for check in ("", ".allow")
    }
    for daemon in (daemons.a, daemons.b):
        daemon.kill()
    await taken_out(daemons, "a", "b")
    verdicts = {each.name: each.verdict async for each in check_listeners(of_the_pbx)}
    assert verdicts["daemon.asterisk"] is verdicts["daemon.freeswitch"] is Verdict.WRONG


async def test_without_haproxy_a_switch_is_refused_at_once(daemons: Fleet) -> None:
    assert (await call()).status == "STAGED"
    daemons.haproxy.kill()
    refused = await call()
    assert refused.told == {}
    assert refused.waited < NOISE / 4


async def test_a_restart_one_by_one_is_made_up_for_by_the_other(
    daemons: Fleet, api: SandboxThread
) -> None:
    api.behave(staging_time=STAGING)
    async with load() as running:
        for daemon, server in ((daemons.a, "a"), (daemons.b, "b")):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(daemons.until, server, up=True)
    assert len(running.calls()) > 60
    assert statuses(running.calls()).keys() <= {"STAGED", ""}
    assert statuses(running.calls())[""] <= 2 * AT_CLOSE
    assert longest(running.calls()) < STAGING + NOISE


async def test_an_upgrade_by_hand_costs_no_call_its_staging(
    daemons: Fleet, api: SandboxThread
) -> None:
    api.behave(staging_time=STAGING)
    async with load() as running:
        for daemon, server in ((daemons.a, "a"), (daemons.b, "b")):
            await asyncio.sleep(0.5)
            daemons.haproxy.ask(f"set server rounded_freeswitch/{server} state maint")
            assert daemons.haproxy.statuses()[f"rounded_asterisk/{server}"].startswith("MAINT")
            await asyncio.sleep(1)  # those that it has end
            served = len(daemon.outcomes())
            await asyncio.sleep(0.5)
            assert len(daemon.outcomes()) == served > 0
            await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(daemon.start)
            daemons.haproxy.ask(f"set server rounded_freeswitch/{server} state ready")
            await asyncio.sleep(0.5)
            assert len(daemon.outcomes()) > served
    assert statuses(running.calls()).keys() == {"STAGED"}
    assert longest(running.calls()) < STAGING + NOISE


async def test_without_redis_calls_are_staged_as_if_nothing_had_been_begun(
    daemons: Fleet, api: SandboxThread
) -> None:
    ticket = (await call(f"prestage?{DID}")).told["ROUNDED_TICKET"]
    await eventually(lambda: "prestaged STAGED" in daemons.a.log + daemons.b.log)
    daemons.redis.kill()
    for _ in range(4):
        collected = await call(f"collect?{DID}&ticket={ticket}")
        assert collected.status == "STAGED"
        assert collected.waited < STAGING + NOISE
    assert len(api.ids()) == 5
