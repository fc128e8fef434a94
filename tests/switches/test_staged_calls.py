"""A call on a real switch: staged, carried, and what the dialplan does with every outcome."""

from __future__ import annotations

import re

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, wait_of
from ..lab.daemon import AGENT, Daemon, config, daemon
from ..lab.processes import wait_until


@pytest.mark.flavours
@pytest.mark.chan_sip
@pytest.mark.parametrize("wait", ["poll", "sync", "none"])
def test_the_agents_invite_carries_the_id_once(lab: Lab, wait: str) -> None:
    with daemon(lab.directory / "daemon", config(lab.api.url, wait=wait)) as served:
        caller = lab.call()
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert lab.phone.invites() == []
    assert served.outcomes() == ["INITIATED" if wait == "none" else "STAGED"]
    assert lab.api.staged() == [
        {
            "from_number": "+33145678901",
            "to_number": "+33612345678",
            "agent_id": AGENT,
            "dynamic_variables_values": {"first_name": "Ann Caller", "tier": "", "vip": True},
        }
    ]
    assert lab.trunk.invites()[0].first_line.startswith("INVITE sip:+33612345678@")
    assert any(message.first_line.startswith("SIP/2.0 200") for message in caller)


@pytest.mark.chan_sip
def test_the_context_in_which_a_call_came_in_chooses_its_account(lab: Lab) -> None:
    folder = lab.directory / "daemon"
    folder.mkdir()
    (folder / "key").write_text("another\n")
    ours = "  default: {key_env: ROUNDED_API_KEY}\n"
    accounts = f"  default: {{key_file: {folder}/key}}\n" + ours.replace("default", "acme").replace(
        "}", ", contexts: [from-trunk, public]}"
    )
    text = config(lab.api.url)
    assert ours in text
    with daemon(folder, text.replace(ours, accounts)) as served:
        lab.call()
    assert served.outcomes() == ["STAGED"]
    assert ids(lab.trunk.invites()) == [lab.api.ids()]


def test_the_caller_hears_ringing_while_the_call_is_staged(lab: Lab, served: Daemon) -> None:
    lab.api.behave(staging_time=0.6)
    caller = lab.call()
    ringing = next(m for m in caller if m.first_line.startswith("SIP/2.0 180"))
    answer = next(m for m in caller if m.first_line.startswith("SIP/2.0 200"))
    assert ringing.at < lab.trunk.invites()[0].at - 0.4
    assert answer.at > lab.trunk.invites()[0].at


@pytest.mark.chan_sip
def test_the_id_has_a_column_of_its_own_in_the_cdr(lab: Lab, served: Daemon) -> None:
    lab.call()
    row = f"+33145678901,{lab.switch.answered},{lab.api.ids()[0]}"
    wait_until(lambda: row in lab.switch.cdr(), "the CDR to be written")


OUTCOMES = {
    "STAGED": {},
    "INITIATED": {"staging_time": 60},
    "TIMEOUT": {"fault": "hang"},
    "REJECTED": {"fault": "422"},
    "UNAUTHORIZED": {"fault": "401"},
    "LIMITED": {"fault": "429", "retry_after": 60},
    "UNAVAILABLE": {"fault": "500"},
}
AGAIN_UNAVAILABLE = ("503", "reset", "html", "half-json", "bad-id")


@pytest.mark.parametrize(
    ("outcome", "behaviour"),
    [
        *OUTCOMES.items(),
        *(("UNAVAILABLE", {"fault": fault, "retry_after": 60}) for fault in AGAIN_UNAVAILABLE),
        ("TIMEOUT", {"fault": "drip"}),
    ],
    ids=[*OUTCOMES, *AGAIN_UNAVAILABLE, "drip"],
)
def test_every_answer_of_the_api_leads_somewhere(
    lab: Lab, served: Daemon, outcome: str, behaviour: dict[str, object]
) -> None:
    lab.api.behave(fault_on=["stageCall"], **behaviour)
    caller = lab.call()
    assert served.outcomes() == [outcome]
    if outcome in ("STAGED", "INITIATED"):
        assert ids(lab.trunk.invites()) == [lab.api.ids()]
        reached = lab.trunk.invites()[0]
    else:
        assert lab.trunk.invites() == []
        assert ids(lab.phone.invites()) == [[]]
        assert lab.notices("FALLBACK")[0].startswith(f"FALLBACK {outcome} reason=")
        reached = lab.phone.invites()[0]
    assert wait_of(caller, reached) < lab.switch.cap + NOISE


@pytest.mark.parametrize(
    ("outcome", "changes", "from_"),
    [
        ("NO_ROUTE", {"did": "+33699999999"}, '"A" <sip:+33145678901@127.0.0.2>'),
        ("BAD_NUMBER", {"withheld": None}, '"A" <sip:anonymous@anonymous.invalid>'),
    ],
)
def test_what_the_configuration_refuses_leads_somewhere(
    lab: Lab, outcome: str, changes: dict[str, str | None], from_: str
) -> None:
    with daemon(lab.directory / "daemon", config(lab.api.url, **changes)) as served:  # type: ignore[arg-type]
        lab.call(sipp.caller(from_=from_))
    assert served.outcomes() == [outcome]
    assert lab.api.staged() == []
    reached = lab.trunk if outcome == "NO_ROUTE" else lab.phone  # default_on_failure is dial
    assert ids(reached.invites()) == [[]]


def test_the_policy_dial_calls_the_agent_without_an_id(lab: Lab) -> None:
    lab.api.behave(fault="500", fault_on=["stageCall"])
    with daemon(lab.directory / "daemon", config(lab.api.url, on_failure="dial")):
        lab.call()
    assert ids(lab.trunk.invites()) == [[]]


def test_the_policy_hangup_ends_the_call(lab: Lab) -> None:
    lab.api.behave(fault="500", fault_on=["stageCall"])
    with daemon(lab.directory / "daemon", config(lab.api.url, on_failure="hangup")):
        caller = lab.call()
    assert lab.trunk.invites() == lab.phone.invites() == []
    assert [m.first_line for m in caller if not m.sent][-1] == "SIP/2.0 503 Service Unavailable"


def test_a_withheld_caller_gets_the_configured_number(lab: Lab, served: Daemon) -> None:
    hidden = [
        'P-Asserted-Identity: "Ann" <sip:+33145678901@127.0.0.2>',
        "Privacy: id",
    ]
    lab.call(sipp.caller(from_='"Anonymous" <sip:anonymous@anonymous.invalid>', headers=hidden))
    assert lab.api.staged()[0]["from_number"] == "+33000000000"


def test_the_variables_reach_the_dialplan(lab: Lab, served: Daemon) -> None:
    lab.api.behave(fault="422", fault_on=["stageCall"])
    lab.call()
    notice = lab.notices("FALLBACK")[0]
    assert re.match(
        r"FALLBACK REJECTED reason=HTTP 422: Fault on demand fault: 422 route=support "
        rf"agent={AGENT} ms=\d+ next=fallback id= ",
        notice,
    ), notice
