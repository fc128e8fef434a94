"""What belongs to the admin, and whom the agent's side may reach."""

from __future__ import annotations

import re
import signal
import time

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, PHONE, TRUNK, Lab, ids
from ..lab.daemon import Daemon, config, daemon
from ..lab.dialog import line
from ..lab.processes import end, wait_until
from ..lab.raw import invite


@pytest.mark.parametrize("refusing", ["503 Service Unavailable"], indirect=True)
def test_the_dialplans_own_fallback_holds_where_the_configuration_has_none(refusing: Lab) -> None:
    without = config(refusing.api.url, on_failure="dial").replace(', freeswitch: "600', '} # "')
    assert "freeswitch" not in without
    with daemon(refusing.directory / "daemon", without):
        refusing.call()
    assert ids(refusing.phone.invites()) == [[]]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_admins_own_timer_still_ends_the_call(
    lab: Lab, served: Daemon, *, frozen: bool
) -> None:
    """The admin's extension schedules a hang-up after five seconds; the scheduler fires early."""
    if frozen:
        served.signal(signal.SIGSTOP)
    caller = lab.call(sipp.waiting_caller("51"))
    served.signal(signal.SIGCONT)
    start = next(m.at for m in caller if m.sent and m.first_line.startswith("INVITE"))
    bye = next(m.at for m in caller if not m.sent and m.first_line.startswith("BYE"))
    assert ids(lab.trunk.invites()) == ([] if frozen else [lab.api.ids()])
    assert 3.9 < bye - start < 5.1 + NOISE


def test_what_the_admin_had_set_is_put_back(lab: Lab) -> None:
    lab.call(sipp.caller("70"))  # without a daemon: to the fallback
    kept = " kept=NORMAL_TEMPORARY_FAILURE/NORMAL_CLEARING/true/inline/their 'own'|one"
    assert lab.notices("FALLBACK")[0].endswith(kept)


@pytest.mark.flavours
@pytest.mark.parametrize(
    ("target", "reached"), [("600", "600"), ("900", "600"), ("rounded-fallback", "600")]
)
def test_an_agents_transfer_reaches_the_allow_list_or_the_fallback(
    lab: Lab, served: Daemon, target: str, reached: str
) -> None:
    """FreeSWITCH accepts every REFER, so a call that may not go there goes to its fallback."""
    end(lab.trunk.process)
    transfer = sipp.callee(after=sipp.refer(target))
    with sipp.sipp(lab.directory, "trunk", transfer, TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.call(sipp.caller(talk_ms=2500))
        assert ids(trunk.invites()) == [lab.api.ids()]
    assert ids(lab.phone.invites()) == [[]]
    assert lab.phone.invites()[0].first_line.startswith(f"INVITE sip:{reached}@")


def test_an_agent_who_hangs_up_ends_the_call(lab: Lab, served: Daemon) -> None:
    end(lab.trunk.process)
    with sipp.sipp(lab.directory, "trunk", sipp.callee(after=sipp.HANG_UP), TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        caller = lab.call(sipp.waiting_caller())
        assert ids(trunk.invites()) == [lab.api.ids()]
    assert [m for m in caller if not m.sent and m.first_line.startswith("BYE")]
    assert lab.phone.invites() == []


def test_an_id_of_an_earlier_pass_is_not_sent_again(lab: Lab) -> None:
    lab.call(sipp.caller("73"))  # the admin's extension leads on with an id on the channel
    assert lab.trunk.invites() == []
    assert ids(lab.phone.invites()) == [[]]


def test_a_did_of_an_earlier_pass_is_not_staged_again(lab: Lab, served: Daemon) -> None:
    lab.call(sipp.caller("75"))
    assert lab.api.staged() == []
    assert lab.trunk.invites() == lab.phone.invites() == []


def test_a_caller_id_of_the_admins_stays(lab: Lab, served: Daemon) -> None:
    invite(did="76", name=r"Ann \"x\"", from_user="%7B")
    (seen,) = lab.trunk.invites()
    assert seen.headers("From")[0].startswith('"Theirs" <sip:42@')


@pytest.mark.flavours
def test_nothing_but_a_did_is_dialled_from_our_context(lab: Lab) -> None:
    caller = lab.call(sipp.caller("72"))
    assert [m.first_line for m in caller if not m.sent][-1].startswith("SIP/2.0 503 ")
    assert lab.trunk.invites() == lab.phone.invites() == []


def test_a_did_that_the_second_file_lacks_has_its_fallback_and_no_cap_on_it(lab: Lab) -> None:
    caller = lab.call(sipp.caller("74", talk_ms=3500))
    assert any(m.first_line.startswith("SIP/2.0 200") for m in caller)
    assert [m.first_line.split("@")[0] for m in lab.phone.invites()] == ["INVITE sip:600"]
    assert lab.trunk.invites() == []


def test_the_fallback_gets_the_callers_headers_but_no_id(lab: Lab) -> None:
    """FreeSWITCH hands on a caller's X- headers unless the admin forbids it."""
    own = "X-Rounded-Call-Id: 018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
    lab.call(sipp.caller(headers=["X-Customer: 42", own]))
    assert lab.phone.invites()[0].headers("X-Customer") == ["42"]
    assert ids(lab.phone.invites()) == [[]]


def _calls_the_phone(lab: Lab) -> None:
    """As click to call does: the switch dials the phone and leads it to a DID."""
    number = f"{PHONE[0]}:{PHONE[1]}"
    lab.switch.cli(f"originate sofia/external/900@{number} +33612345678 XML public")


def test_a_leg_that_the_switch_dialled_gets_its_fallback_too(lab: Lab) -> None:
    _calls_the_phone(lab)
    try:
        wait_until(lambda: len(lab.phone.invites()) == 2, "the fallback", 8)
    finally:
        lab.switch.cli("hupall")


@pytest.mark.parametrize("target", ["600", "70", "rounded-fallback"])
def test_a_caller_who_transfers_the_agent_gets_nobody(
    lab: Lab, served: Daemon, target: str
) -> None:
    end(lab.phone.process)
    moving = sipp.callee(sipp.refer(target).replace("300", "2500", 1))
    with sipp.sipp(lab.directory, "phone", moving, PHONE) as phone:
        wait_until(phone.ready, "the phone to listen")
        _calls_the_phone(lab)
        wait_until(lambda: lab.trunk.received("BYE"), "the agent's BYE", 10)
        time.sleep(0.5)
        assert len(phone.invites()) == len(lab.trunk.invites()) == 1
        lab.switch.cli("hupall")


def test_a_second_pass_keeps_what_the_admin_had(lab: Lab, served: Daemon) -> None:
    end(lab.trunk.process)
    with (
        sipp.sipp(lab.directory, "trunk", sipp.SILENT, TRUNK) as silent,
        lab.dialling(sipp.waiting_caller("70")),
    ):
        wait_until(lambda: silent.received("INVITE"), "the agent's INVITE", 8)
        time.sleep(0.7)  # "show channels" is behind
        [uuid] = re.findall(r"(?m)^([0-9a-f-]{36}),inbound", lab.switch.cli("show channels"))
        lab.switch.cli(f"uuid_transfer {uuid} +33612345678 XML rounded_bridge")
        wait_until(lambda: lab.notices("FALLBACK"), "the fallback", 20)
        lab.switch.cli("hupall")
    assert "kept=NORMAL_TEMPORARY_FAILURE/NORMAL_CLEARING/" in lab.notices("FALLBACK")[0]


def test_a_caller_who_transfers_one_agent_to_another_gets_nobody(lab: Lab, served: Daemon) -> None:
    """Two calls of one caller, tied together by a Replaces: the agents would talk for ever."""
    with line() as ann:
        first, second = ann.call(), ann.call()
        tags = f"%3Bto-tag%3D{second.their_tag}%3Bfrom-tag%3D{second.tag}"
        first.request("REFER", f"Refer-To: <sip:x@127.0.0.1?Replaces={second.id}{tags}>\r\n")
        wait_until(lambda: any(m.startswith("NOTIFY") for m in first.received), "the NOTIFY")
        time.sleep(0.3)
    try:
        wait_until(lambda: lab.switch.channels() == 0, "the agents' legs to end", 3)
    finally:
        lab.switch.cli("hupall")
