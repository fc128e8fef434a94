"""When the agent's side refuses, when the caller leaves, and what belongs to the admin."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, TRUNK, Lab, ids, settle, wait_of
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import end, wait_until
from .conftest import CAP

REFUSALS = (
    "404 Not Found",
    "480 Temporarily Unavailable",
    "486 Busy Here",
    "503 Service Unavailable",
)


@pytest.fixture
def refusing(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab with a trunk that does what the test names."""
    end(lab.trunk.process)
    status: str = request.param
    scenario = sipp.refusing(status) if status else sipp.SILENT
    with sipp.sipp(lab.directory, "trunk", scenario, TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.trunk = trunk
        yield lab


@pytest.mark.chan_sip
@pytest.mark.parametrize("refusing", REFUSALS, indirect=True)
def test_a_refused_agent_is_tried_once_without_the_id_then_the_fallback(
    refusing: Lab, request: pytest.FixtureRequest
) -> None:
    with daemon(refusing.directory / "daemon", config(refusing.api.url)):
        refusing.call()
    assert ids(refusing.trunk.invites()) == [refusing.api.ids(), []]
    assert ids(refusing.phone.invites()) == [[]]


REDIRECTS = {
    "a user": "sip:900@127.0.0.3",
    "an allowed user": "sip:600@127.0.0.3",
    "a Local channel": "sip:Local%2F900%40from-internal@127.0.0.3",
    "a PJSIP endpoint": "sip:PJSIP%2F900%40phone@127.0.0.3",
    "a SIP peer": "sip:SIP%2Fphone%2F900@127.0.0.3",
    "any URI": "sip:PJSIP%2Fphone%2Fsip%3A900%40127.0.0.4%3A5090@127.0.0.3",
}


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
    # Two tries of rounded_ring seconds, which the lab has set to 3.
    assert wait_of(caller, refusing.phone.invites()[0]) < 2 * 3 + CAP + NOISE


@pytest.mark.parametrize("refusing", ["503 Service Unavailable"], indirect=True)
def test_without_a_fallback_the_admins_next_line_runs(refusing: Lab) -> None:
    nowhere = config(refusing.api.url, on_failure="dial", fallback="nowhere,600,1")
    with daemon(refusing.directory / "daemon", nowhere):
        refusing.call()
    assert refusing.phone.invites() == []
    assert refusing.notices("ADMIN-BACK") == ["ADMIN-BACK +33612345678 STAGED dial"]


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
    assert lab.notices("ADMIN-H")[0].endswith(" UNAVAILABLE ")
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
@pytest.mark.parametrize("seconds", [3, 5])
def test_the_admins_own_time_out_still_ends_the_call(
    lab: Lab, served: Daemon, seconds: int
) -> None:
    """The context sets TIMEOUT(absolute) to its first digit and a half; the staging takes 0.8 s."""
    lab.api.behave(staging_time=0.8)
    scenario = sipp.waiting_caller(f"{seconds}1")
    caller = lab.call(scenario)
    start = next(m.at for m in caller if m.sent and m.first_line.startswith("INVITE"))
    bye = next(m.at for m in caller if not m.sent and m.first_line.startswith("BYE"))
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert seconds + 0.4 < bye - start < seconds + 0.5 + NOISE
    assert [line.split()[:2] for line in lab.notices("ADMIN-T")] == [["ADMIN-T", "mine"]]
    assert len(lab.notices("ADMIN-H")) == 1


def test_an_admins_time_out_shorter_than_the_cap_holds(lab: Lab, served: Daemon) -> None:
    served.signal(signal.SIGSTOP)
    caller = lab.call(sipp.caller("11"))
    last = [m for m in caller if not m.sent][-1]
    start = next(m.at for m in caller if m.sent)
    assert last.first_line.startswith("SIP/2.0 480"), last  # the admin's T hangs up with cause 31
    assert 1.4 < last.at - start < 1.5 + NOISE
    assert len(lab.notices("ADMIN-T")) == 1
    assert lab.trunk.invites() == lab.phone.invites() == []


@pytest.mark.chan_sip
@pytest.mark.parametrize(("target", "allowed"), [("600", True), ("900", False)])
def test_an_agents_transfer_reaches_the_allow_list_only(
    lab: Lab, served: Daemon, target: str, allowed: bool
) -> None:
    end(lab.trunk.process)
    transfer = sipp.callee(after=sipp.refer(target))
    with sipp.sipp(lab.directory, "trunk", transfer, TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.call(sipp.caller(talk_ms=1500))
        told = [m.text.split("SIP/2.0 ")[-1][:3] for m in trunk.received("NOTIFY")]
        assert ids(trunk.invites()) == [lab.api.ids()]
        if not allowed:  # the call stays as it was, until the caller ends it
            assert trunk.received("BYE")[0].at > trunk.received("NOTIFY")[0].at + 0.5
    assert ids(lab.phone.invites()) == ([[]] if allowed else [])
    assert told[-1][0] == ("2" if allowed else "4"), told


@pytest.mark.chan_sip
@pytest.mark.parametrize(("target", "status"), [("600", 200), ("900", 404), ("+33612345678", 404)])
def test_a_call_from_the_agents_side_reaches_the_allow_list_only(
    lab: Lab, target: str, status: int
) -> None:
    end(lab.trunk.process)
    scenario = sipp.caller(target, '"Agent" <sip:agent@127.0.0.3>')
    with sipp.sipp(lab.directory, "agent", scenario, TRUNK, "127.0.0.1:5060", "-m", "1") as agent:
        agent.wait(20)
        final = [m.first_line for m in agent.received("SIP/2.0") if m.first_line[8] != "1"]
    settle(lab.switch)
    assert final[0].startswith(f"SIP/2.0 {status}"), final
    assert len(lab.phone.invites()) == (status == 200)


@pytest.mark.chan_sip
def test_the_next_call_carries_its_own_id(lab: Lab, served: Daemon) -> None:
    lab.call()
    lab.call()
    assert ids(lab.trunk.invites()) == [[call_id] for call_id in lab.api.ids()]
    assert len(set(lab.api.ids())) == 2
