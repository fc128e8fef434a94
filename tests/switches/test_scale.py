"""A real switch that asks HAProxy of docs/scale.md, and daemons on other machines that fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, wait_of
from ..lab.fleet import Fleet, fleet
from ..lab.processes import wait_until
from ..lab.sipp import Message

GREETING = "80"
#: Seconds within which a daemon that fails gets no call any more, and those of all tries of one.
FOUND, TRIES = 2.0, 0.45


@pytest.fixture
def daemons(lab: Lab) -> Iterator[Fleet]:
    with fleet(lab.directory / "fleet", lab.api) as started:
        yield started


def waits(messages: list[Message]) -> list[float]:
    """Seconds from each caller's INVITE to its answer; every call must have one."""
    begun, answered = dict[str, float](), dict[str, float]()
    for message in messages:
        call = message.headers("Call-ID")[0]
        if message.sent and message.first_line.startswith("INVITE"):
            begun.setdefault(call, message.at)
        elif not message.sent and message.first_line.startswith("SIP/2.0 200"):
            answered.setdefault(call, message.at)
    assert begun.keys() == answered.keys()
    return [answered[call] - begun[call] for call in begun]


def until_served(lab: Lab, more: int) -> None:
    enough = len(lab.api.ids()) + more
    wait_until(lambda: len(lab.api.ids()) >= enough, "calls to be served")


def test_calls_are_staged_and_what_one_has_begun_the_other_collects(
    lab: Lab, daemons: Fleet
) -> None:
    lab.call()
    lab.call()
    assert ids(lab.trunk.invites()) == [[each] for each in lab.api.ids()]
    wait_until(lambda: daemons.a.outcomes() == daemons.b.outcomes() == ["STAGED"], "both to say so")
    lab.call(sipp.caller(GREETING))
    assert ids(lab.trunk.invites())[-1] == [lab.api.ids()[-1]]
    assert len(lab.api.ids()) == 3
    begun = "prestaged STAGED" in daemons.a.log, "prestaged STAGED" in daemons.b.log
    collected = len(daemons.a.outcomes()) == 2, len(daemons.b.outcomes()) == 2
    assert sorted(begun) == sorted(collected) == [False, True]
    assert begun != collected
    for each in (daemons.a, daemons.b):
        assert "session" not in each.log


@pytest.mark.parametrize("how", ["killed", "frozen", "loses power"])
def test_one_that_fails_under_20_calls_a_second_loses_no_call(
    lab: Lab, daemons: Fleet, how: str
) -> None:
    calls = 120
    with lab.dialling(sipp.caller(talk_ms=100), "-m", str(calls), "-r", "20") as caller:
        until_served(lab, 30)
        failed = time.time()
        if how == "loses power":
            daemons.lose_power(daemons.a)
        else:
            daemons.a.signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        daemons.until("a", up=False)
        found = time.time()
        assert found - failed < FOUND + NOISE
        assert caller.wait(30) == 0
        messages = caller.messages()
    waited = waits(messages)
    assert len(waited) == calls
    assert max(waited) < lab.switch.cap + NOISE
    # Each went somewhere, once; and what went without an id was with the daemon that failed.
    assert len(lab.trunk.invites()) + len(lab.phone.invites()) == calls
    sent = ids(lab.trunk.invites())
    assert all(len(header) == 1 for header in sent)
    assert len({header[0] for header in sent}) == len(sent)
    assert {header[0] for header in sent} <= set(lab.api.ids())
    limit = found if how == "frozen" else failed
    assert all(m.at < limit + lab.switch.cap + NOISE for m in lab.phone.invites())
    assert 0 < len(lab.phone.invites()) <= 10


@pytest.mark.parametrize("how", ["killed", "loses power"])
def test_when_all_are_down_calls_go_on_at_once(lab: Lab, daemons: Fleet, how: str) -> None:
    if how == "killed":
        daemons.a.kill()
        daemons.b.kill()
    else:
        daemons.lose_power(daemons.a, daemons.b)
    caller = lab.call()
    assert wait_of(caller, lab.phone.invites()[0]) < TRIES + NOISE
    daemons.until("a", up=False)
    daemons.until("b", up=False)
    caller = lab.call()
    assert wait_of(caller, lab.phone.invites()[1]) < NOISE
    assert lab.trunk.invites() == []


def test_without_haproxy_calls_go_on_at_once(lab: Lab, daemons: Fleet) -> None:
    daemons.haproxy.kill()
    caller = lab.call()
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE
    assert lab.trunk.invites() == []


def test_a_frozen_haproxy_costs_the_cap(lab: Lab, daemons: Fleet) -> None:
    daemons.haproxy.process.send_signal(signal.SIGSTOP)
    caller = lab.call()
    daemons.haproxy.process.send_signal(signal.SIGCONT)
    assert lab.switch.earliest < wait_of(caller, lab.phone.invites()[0]) < lab.switch.cap + NOISE
    assert lab.trunk.invites() == []


def test_an_upgrade_by_hand_costs_no_call_its_staging(lab: Lab, daemons: Fleet) -> None:
    calls = 140
    with lab.dialling(sipp.caller(talk_ms=100), "-m", str(calls), "-r", "20") as caller:
        for daemon, server in ((daemons.a, "a"), (daemons.b, "b")):
            until_served(lab, 10)
            daemons.haproxy.ask(f"set server rounded_freeswitch/{server} state maint")
            time.sleep(1)
            daemon.stop()
            daemon.start()
            daemons.haproxy.ask(f"set server rounded_freeswitch/{server} state ready")
        assert caller.process.poll() is None
        assert caller.wait(30) == 0
        messages = caller.messages()
    assert len(waits(messages)) == calls
    assert lab.phone.invites() == []
    assert sorted(header[0] for header in ids(lab.trunk.invites())) == sorted(lab.api.ids())
