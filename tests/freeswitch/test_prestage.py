"""Prestaged on FreeSWITCH: contexts, hooks, and numbers that are no DIDs."""

from __future__ import annotations

import pytest

from ..lab import sipp
from ..lab.calls import TRUNK, Lab, ids
from ..lab.daemon import Daemon, config, daemon
from ..lab.freeswitch import FreeSwitch
from ..lab.processes import end, wait_until

GREETING, TWICE, UNKNOWN = "80", "88", "89"


def test_an_account_that_goes_by_the_context_is_the_same_early_and_late(lab: Lab) -> None:
    other = "  other: {key_env: ROUNDED_API_KEY, contexts: [public]}\napi:"
    text = config(lab.api.url).replace("api:", other, 1)
    with daemon(lab.directory / "daemon", text):
        lab.call(sipp.caller(GREETING))
    assert len(lab.api.ids()) == 1
    assert ids(lab.trunk.invites()) == [lab.api.ids()]


def test_the_last_ticket_of_a_call_is_the_one_that_ends(lab: Lab, served: Daemon) -> None:
    lab.api.behave(staging_time=0.0)
    lab.call(sipp.leaving_caller(500, TWICE))
    wait_until(lambda: "abandoned" in served.log, "the ticket to be dropped", 5)
    assert f"abandoned call_id={lab.api.ids()[1]}" in served.log


def test_a_number_that_is_no_did_comes_back_as_it_was(lab: Lab, served: Daemon) -> None:
    lab.call(sipp.caller(UNKNOWN))
    assert lab.api.ids() == []
    assert len(lab.phone.invites()) == 1


@pytest.mark.parametrize(("number", "rings"), [("80", True), ("86", True), ("+33612345678", False)])
def test_the_agent_is_heard_ringing_where_ringing_cannot_be_signalled_any_more(
    lab: Lab, served: Daemon, number: str, rings: bool
) -> None:
    assert isinstance(lab.switch, FreeSwitch)
    end(lab.trunk.process)
    rings_a_second = sipp.callee().replace(
        '<send retrans="500">', '<pause milliseconds="1000"/>\n<send retrans="500">', 1
    )
    with sipp.sipp(lab.directory, "trunk", rings_a_second, TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        before = lab.switch.position()
        lab.call(sipp.caller(number, talk_ms=6000 if number == "86" else 300))
        assert ids(trunk.invites()) == [lab.api.ids()]
    assert ("Play Ringback Tone" in lab.switch.said(before)) is rings
