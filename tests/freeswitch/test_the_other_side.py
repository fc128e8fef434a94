"""When the agent's side refuses, when the caller leaves, and what belongs to the admin."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, PHONE, TRUNK, Lab, ids, settle, wait_of
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import end, wait_until
from .conftest import CAP

REFUSALS = (
    "404 Not Found",
    "480 Temporarily Unavailable",
    "486 Busy Here",
    "503 Service Unavailable",
    "603 Decline",
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


@pytest.mark.parametrize("refusing", REFUSALS, indirect=True)
def test_a_refused_agent_is_tried_once_without_the_id_then_the_fallback(refusing: Lab) -> None:
    with daemon(refusing.directory / "daemon", config(refusing.api.url)):
        refusing.call()
    assert ids(refusing.trunk.invites()) == [refusing.api.ids(), []]
    assert ids(refusing.phone.invites()) == [[]]
    assert refusing.notices("FALLBACK")[0].endswith(" kept=//")


@pytest.mark.parametrize("refusing", [""], indirect=True, ids=["silence"])
def test_a_silent_agent_is_tried_once_without_the_id_then_the_fallback(refusing: Lab) -> None:
    with daemon(refusing.directory / "daemon", config(refusing.api.url)):
        caller = refusing.call()
    assert ids(refusing.trunk.invites()) == [refusing.api.ids(), []]
    assert ids(refusing.phone.invites()) == [[]]
    # Two tries of originate_timeout seconds, which the lab has set to 3.
    assert wait_of(caller, refusing.phone.invites()[0]) < 2 * 3 + CAP + NOISE


@pytest.mark.parametrize("refusing", ["503 Service Unavailable"], indirect=True)
def test_without_a_fallback_the_caller_is_told(refusing: Lab) -> None:
    without = config(refusing.api.url, on_failure="dial").replace(', freeswitch: "600', '} # "')
    assert "freeswitch" not in without
    with daemon(refusing.directory / "daemon", without):
        # Nothing from the daemon, so the dialplan's own preset holds: the phone.
        refusing.call()
    assert ids(refusing.phone.invites()) == [[]]


REDIRECTS = {
    "a user": "sip:900@127.0.0.3",
    "the phone": "sip:900@127.0.0.4:5090",
    "an allowed user": "sip:600@127.0.0.4:5090",
    "a dial string": "sip:loopback%2F900%2Fdefault@127.0.0.3",
    "a gateway": "sip:900@127.0.0.3;gw=rounded",
}


@pytest.mark.parametrize("contact", REDIRECTS.values(), ids=REDIRECTS)
def test_the_agents_side_cannot_send_a_call_elsewhere(
    lab: Lab, served: Daemon, contact: str
) -> None:
    end(lab.trunk.process)
    with sipp.sipp(lab.directory, "trunk", sipp.redirecting(contact), TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.call()
        assert ids(trunk.invites()) == [lab.api.ids(), []]
    assert [m.first_line.split("@")[0] for m in lab.phone.invites()] == ["INVITE sip:600"]
    assert ids(lab.phone.invites()) == [[]]


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
    assert lab.notices("FALLBACK")[0].endswith(" kept=NORMAL_TEMPORARY_FAILURE//theirs")


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
        lab.call(sipp.caller(talk_ms=1500))
        assert ids(trunk.invites()) == [lab.api.ids()]
    assert ids(lab.phone.invites()) == [[]]
    assert lab.phone.invites()[0].first_line.startswith(f"INVITE sip:{reached}@")


def test_the_next_call_carries_its_own_id(lab: Lab, served: Daemon) -> None:
    lab.call()
    lab.call()
    assert ids(lab.trunk.invites()) == [[call_id] for call_id in lab.api.ids()]
    assert len(set(lab.api.ids())) == 2


def test_an_agent_who_hangs_up_ends_the_call(lab: Lab, served: Daemon) -> None:
    end(lab.trunk.process)
    with sipp.sipp(lab.directory, "trunk", sipp.callee(after=sipp.HANG_UP), TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        caller = lab.call(sipp.waiting_caller())
        assert ids(trunk.invites()) == [lab.api.ids()]
    assert [m for m in caller if not m.sent and m.first_line.startswith("BYE")]
    assert lab.phone.invites() == []


def test_an_id_of_an_earlier_pass_is_not_sent_again(lab: Lab) -> None:
    lab.call(sipp.caller("71"))  # the admin's extension leads on with an id on the channel
    assert lab.trunk.invites() == []
    assert ids(lab.phone.invites()) == [[]]


def test_nothing_but_a_did_is_dialled_from_our_context(lab: Lab) -> None:
    caller = lab.call(sipp.caller("72"))
    assert [m.first_line for m in caller if not m.sent][-1] == "SIP/2.0 404 Not Found"
    assert lab.trunk.invites() == lab.phone.invites() == []


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


def test_a_caller_who_transfers_the_agent_gets_nobody(lab: Lab, served: Daemon) -> None:
    end(lab.phone.process)
    moving = sipp.callee(sipp.refer("600").replace("300", "2500", 1))
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
    assert lab.notices("FALLBACK")[0].endswith(" kept=NORMAL_TEMPORARY_FAILURE//theirs")
