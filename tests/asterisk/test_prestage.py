"""Prestaged in a dialplan that has variables and contexts of its own."""

from __future__ import annotations

from ..lab import sipp
from ..lab.calls import Lab, ids
from ..lab.daemon import Daemon, config, daemon


def test_the_argument_of_a_macro_is_no_greeting(lab: Lab, served: Daemon) -> None:
    """It stands in the channel's ARG1, and a Gosub without arguments does not hide it."""
    lab.call(sipp.caller("87"))
    assert lab.notices("ADMIN-BACK") == ["ADMIN-BACK theirs"]
    assert lab.trunk.invites() == []


def test_an_account_that_goes_by_the_context_is_the_same_early_and_late(lab: Lab) -> None:
    """Here it is collected by a Local channel, in a context of its own."""
    other = "  other: {key_env: ROUNDED_API_KEY, contexts: [from-trunk]}\napi:"
    text = config(lab.api.url).replace("api:", other, 1)
    with daemon(lab.directory / "daemon", text):
        lab.call(sipp.caller("84"))
    assert len(lab.api.ids()) == 1
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
