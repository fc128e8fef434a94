"""When the agent's side refuses, and when the caller leaves."""

from __future__ import annotations

import time

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, TRUNK, Lab, ids, settle, wait_of
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import end, wait_until

REFUSALS = (
    "404 Not Found",
    "480 Temporarily Unavailable",
    "486 Busy Here",
    "503 Service Unavailable",
    "603 Decline",
)


@pytest.mark.flavours
@pytest.mark.chan_sip
@pytest.mark.parametrize("refusing", REFUSALS, indirect=True)
def test_a_refused_agent_is_tried_once_without_the_id_then_the_fallback(
    refusing: Lab,
) -> None:
    with daemon(refusing.directory / "daemon", config(refusing.api.url)):
        refusing.call()
    assert ids(refusing.trunk.invites()) == [refusing.api.ids(), []]
    assert ids(refusing.phone.invites()) == [[]]


REDIRECTS = {
    "a user": "sip:900@127.0.0.3",
    "an allowed user": "sip:600@127.0.0.3",
    "the phone": "sip:900@127.0.0.4:5090",
    "a Local channel": "sip:Local%2F900%40from-internal@127.0.0.3",
    "a PJSIP endpoint": "sip:PJSIP%2F900%40phone@127.0.0.3",
    "a SIP peer": "sip:SIP%2Fphone%2F900@127.0.0.3",
    "any URI": "sip:PJSIP%2Fphone%2Fsip%3A900%40127.0.0.4%3A5090@127.0.0.3",
    "a loopback channel": "sip:loopback%2F900%2Fdefault@127.0.0.3",
    "a gateway": "sip:900@127.0.0.3;gw=rounded",
}


@pytest.mark.flavours
@pytest.mark.chan_sip
@pytest.mark.parametrize("contact", REDIRECTS.values(), ids=REDIRECTS)
def test_the_agents_side_cannot_send_a_call_elsewhere(
    lab: Lab, served: Daemon, contact: str
) -> None:
    """A slash in the user of a 302's Contact names a technology, past every context."""
    end(lab.trunk.process)
    with sipp.sipp(lab.directory, "trunk", sipp.redirecting(contact), TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.call()
        assert ids(trunk.invites()) == [lab.api.ids(), []]
    assert [m.first_line.split("@")[0] for m in lab.phone.invites()] == ["INVITE sip:600"]
    assert ids(lab.phone.invites()) == [[]]


@pytest.mark.parametrize("refusing", [""], indirect=True, ids=["silence"])
def test_a_silent_agent_is_tried_once_without_the_id_then_the_fallback(refusing: Lab) -> None:
    with daemon(refusing.directory / "daemon", config(refusing.api.url)):
        caller = refusing.call()
    assert ids(refusing.trunk.invites()) == [refusing.api.ids(), []]
    assert ids(refusing.phone.invites()) == [[]]
    # Two tries of the ringing, which the lab has set to 3.
    assert wait_of(caller, refusing.phone.invites()[0]) < 2 * 3 + refusing.switch.cap + NOISE


def test_a_caller_who_leaves_while_staging_cancels_the_request(lab: Lab, served: Daemon) -> None:
    lab.api.behave(fault="hang", fault_on=["stageCall"])
    with lab.dialling(sipp.leaving_caller(after_ms=400)) as caller:
        wait_until(lambda: lab.api.sandbox.hanging == 1, "the staging to be under way")
        assert caller.wait(10) == 0, caller.messages()
        left = next(m for m in caller.messages() if m.first_line.startswith("CANCEL")).at
        wait_until(lambda: lab.api.sandbox.hanging == 0, "the request to be cancelled", 2)
        assert time.time() - left < 1.0
    settle(lab.switch)
    assert served.outcomes() == ["HANGUP"]
    assert len(lab.notices("ADMIN-H")) == 1
    assert lab.trunk.invites() == lab.phone.invites() == []


@pytest.mark.chan_sip
def test_callers_who_leave_leave_nothing_behind(lab: Lab, served: Daemon) -> None:
    lab.api.behave(staging_time=30)
    lab.call()  # everything that is opened once is open now
    assert served.running is not None
    before = served.descriptors()
    with lab.dialling(sipp.leaving_caller(after_ms=300), "-m", "40", "-r", "20") as caller:
        caller.wait(30)
    settle(lab.switch)
    wait_until(lambda: served.descriptors() <= before + 2, "the descriptors to be closed", 5)
    assert len(lab.notices("ADMIN-H")) == 41
    assert served.outcomes().count("HANGUP") == 40


@pytest.mark.chan_sip
def test_the_next_call_carries_its_own_id(lab: Lab, served: Daemon) -> None:
    lab.call()
    lab.call()
    assert ids(lab.trunk.invites()) == [[call_id] for call_id in lab.api.ids()]
    assert len(set(lab.api.ids())) == 2
