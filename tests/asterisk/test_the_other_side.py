"""What belongs to the admin, and whom the agent's side may reach."""

from __future__ import annotations

import signal

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, TRUNK, Lab, ids, settle
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import end, wait_until


@pytest.mark.parametrize("refusing", ["503 Service Unavailable"], indirect=True)
def test_without_a_fallback_the_admins_next_line_runs(refusing: Lab) -> None:
    nowhere = config(refusing.api.url, on_failure="dial", fallback="nowhere,600,1")
    with daemon(refusing.directory / "daemon", nowhere):
        refusing.call()
    assert refusing.phone.invites() == []
    assert refusing.notices("ADMIN-BACK") == ["ADMIN-BACK +33612345678 STAGED dial"]


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


@pytest.mark.flavours
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


@pytest.mark.flavours
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
def test_a_did_without_lines_of_its_own_is_staged_or_comes_back(lab: Lab) -> None:
    lab.call(sipp.caller("79"))
    assert lab.notices("ADMIN-BACK") == ["ADMIN-BACK UNAVAILABLE fallback"]
    with daemon(lab.directory / "daemon", config(lab.api.url, did="+336*")):
        lab.call(sipp.caller("79"))
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert lab.trunk.invites()[0].first_line.startswith("INVITE sip:+33699999999@")
    assert lab.phone.invites() == []


def test_the_classic_script_hands_the_call_to_the_daemon(lab: Lab, served: Daemon) -> None:
    lab.call(sipp.caller("76"))
    assert lab.notices("ARGUMENTS") == [f"ARGUMENTS STAGED support {lab.api.ids()[0]}"]


def test_the_classic_script_ends_at_once_without_a_daemon(lab: Lab) -> None:
    caller = lab.call(sipp.caller("76"))
    assert lab.notices("ARGUMENTS") == ["ARGUMENTS UNAVAILABLE  "]
    invite = next(m for m in caller if m.sent and m.first_line.startswith("INVITE"))
    final = next(m for m in caller if not m.sent and m.first_line[8] in "456")
    assert final.at - invite.at < NOISE


def test_a_caller_who_leaves_ends_the_classic_script_and_its_staging(
    lab: Lab, served: Daemon
) -> None:
    lab.api.behave(fault="hang", fault_on=["stageCall"])
    with lab.dialling(sipp.leaving_caller(after_ms=1000, did="76")) as caller:
        wait_until(lambda: lab.api.sandbox.hanging == 1, "the staging to be under way")
        caller.wait(10)
        wait_until(lambda: lab.api.sandbox.hanging == 0, "the request to be cancelled", 2)
    settle(lab.switch)
    assert served.outcomes() == ["HANGUP"]
