"""Prestaged on a real switch: what docs/prestage.md shows, and callers who leave."""

from __future__ import annotations

import signal

import pytest

from ..lab import sipp
from ..lab.calls import HEADER, NOISE, Lab, ids, settle, wait_of
from ..lab.daemon import Daemon
from ..lab.processes import wait_until

GREETING, IVR, QUEUE, LEAVES, NO_WAY_BACK = "80", "86", "82", "83", "85"
#: Seconds that the greeting of the lab takes.
GREETING_TIME = 2.0


@pytest.mark.flavours
@pytest.mark.chan_sip
def test_a_greeting_hides_the_staging(lab: Lab, served: Daemon) -> None:
    lab.api.behave(latency=0.3, staging_time=0.8)
    caller = lab.call(sipp.caller(GREETING))
    assert served.outcomes() == ["STAGED"]
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert len(lab.api.staged()) == 1
    waited = wait_of(caller, lab.trunk.invites()[0])
    assert GREETING_TIME - 0.1 < waited < GREETING_TIME + NOISE
    early = next(m for m in caller if m.first_line.startswith("SIP/2.0 183"))
    answer = next(m for m in caller if m.first_line.startswith("SIP/2.0 200"))
    assert early.at < lab.trunk.invites()[0].at - 1.5  # the greeting is early media
    assert answer.at > lab.trunk.invites()[0].at


@pytest.mark.chan_sip
@pytest.mark.parametrize("number", [IVR, QUEUE], ids=["IVR", "queue"])
def test_an_ivr_and_a_queue_do_so_too(lab: Lab, served: Daemon, number: str) -> None:
    lab.api.behave(latency=0.3, staging_time=0.8)
    caller = lab.call(sipp.caller(number, talk_ms=6000))
    assert served.outcomes() == ["STAGED"]
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert len(lab.api.staged()) == 1
    answer = next(m for m in caller if m.first_line.startswith("SIP/2.0 200"))
    assert answer.at < lab.trunk.invites()[0].at - 1.0  # the IVR answers


def test_a_caller_who_leaves_ends_what_was_begun(lab: Lab, served: Daemon) -> None:
    lab.api.behave(fault="hang", fault_on=["stageCall"])
    caller = sipp.leaving_caller(300, LEAVES)
    with lab.dialling(caller) as leaving:
        wait_until(lambda: lab.api.sandbox.hanging == 1, "the staging to be under way")
        leaving.wait(20)
    wait_until(lambda: lab.api.sandbox.hanging == 0, "the staging to be cancelled", 3)
    assert "abandoned" in served.log
    assert served.outcomes() == []
    assert lab.trunk.invites() == []


def test_a_caller_who_leaves_drops_what_was_staged(lab: Lab, served: Daemon) -> None:
    lab.api.behave(staging_time=0.0)
    lab.call(sipp.leaving_caller(500, LEAVES))
    wait_until(lambda: "abandoned" in served.log, "the ticket to be dropped", 5)
    assert len(lab.api.ids()) == 1
    assert lab.trunk.invites() == []


def test_a_call_that_the_switch_ends_is_not_held_by_a_frozen_daemon(
    lab: Lab, served: Daemon
) -> None:
    with lab.dialling(sipp.caller(LEAVES)) as caller:
        wait_until(lambda: lab.api.staged(), "the staging to begin")
        served.signal(signal.SIGSTOP)
        caller.wait(20)
        messages = caller.messages()
    refusal = next(m for m in messages if m.first_line.startswith(("SIP/2.0 4", "SIP/2.0 6")))
    ringing = next(m for m in messages if m.first_line.startswith("SIP/2.0 180"))
    assert refusal.at < ringing.at + 1.0 + NOISE
    served.signal(signal.SIGCONT)


@pytest.mark.chan_sip
def test_a_call_that_the_switch_ends_drops_what_was_staged(lab: Lab, served: Daemon) -> None:
    lab.api.behave(staging_time=0.0)
    lab.call(sipp.caller(LEAVES))
    wait_until(lambda: "abandoned" in served.log, "the ticket to be dropped", 5)


def test_a_caller_who_leaves_a_frozen_daemon_is_let_go(lab: Lab, served: Daemon) -> None:
    """Its channels, too: they would count as calls for as long as the daemon is frozen."""
    before = len(lab.switch.cdr())
    with lab.dialling(sipp.leaving_caller(300, LEAVES)) as caller:
        wait_until(lambda: lab.api.staged(), "the staging to begin")
        served.signal(signal.SIGSTOP)
        assert caller.wait(20) == 0
    settle(lab.switch, 8)
    served.signal(signal.SIGCONT)
    assert len(lab.switch.cdr()) == before + 1


@pytest.mark.chan_sip
def test_without_a_daemon_the_greeting_is_heard_and_the_call_goes_on(lab: Lab) -> None:
    caller = lab.call(sipp.caller(GREETING))
    assert lab.trunk.invites() == []
    assert len(lab.phone.invites()) == 1
    assert wait_of(caller, lab.phone.invites()[0]) < GREETING_TIME + NOISE


def test_a_frozen_daemon_costs_its_caps(lab: Lab, served: Daemon) -> None:
    served.signal(signal.SIGSTOP)
    caller = lab.call(sipp.caller(GREETING))
    served.signal(signal.SIGCONT)
    assert len(lab.phone.invites()) == 1
    waited = wait_of(caller, lab.phone.invites()[0])
    assert waited < GREETING_TIME + 2 * lab.switch.cap + NOISE


def test_a_daemon_that_was_restarted_stages_anew(lab: Lab, served: Daemon) -> None:
    with lab.dialling(sipp.caller(GREETING)) as caller:
        wait_until(lambda: lab.api.staged(), "the staging to begin")
        served.kill()
        served.start()
        caller.wait(20)
    assert len(lab.api.ids()) == 2
    assert ids(lab.trunk.invites()) == [[lab.api.ids()[1]]]


def test_a_call_that_cannot_come_back_goes_on_to_the_agent(lab: Lab, served: Daemon) -> None:
    lab.call(sipp.caller(NO_WAY_BACK))
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert served.outcomes() == ["STAGED"]


def test_the_platform_is_told_how_the_switch_calls_the_call(lab: Lab, served: Daemon) -> None:
    caller = lab.call(sipp.caller(GREETING))
    (call,) = lab.api.sandbox.calls.newest(9)
    wait_until(lambda: call.metadata, "the call's metadata")
    invite = next(m for m in caller if m.sent and m.first_line.startswith("INVITE"))
    assert call.metadata["sip_call_id"] == invite.headers("Call-ID")[0]
    assert call.metadata["did"] == "+33612345678"
    assert call.metadata["pbx"]
    assert call.metadata["pbx_linkedid"]
    assert f"unique_id={call.metadata['pbx_unique_id']}" in served.log
    assert lab.trunk.invites()[0].headers(HEADER) == [call.id]
