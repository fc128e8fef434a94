"""Prestaged on FreeSWITCH: contexts, hooks, and numbers that are no DIDs."""

from __future__ import annotations

from ..lab import sipp
from ..lab.calls import Lab, ids
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import wait_until

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
