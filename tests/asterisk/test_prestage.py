"""Prestaged in a dialplan that has variables of its own."""

from __future__ import annotations

from ..lab import sipp
from ..lab.calls import Lab
from ..lab.daemon import Daemon


def test_the_argument_of_a_macro_is_no_greeting(lab: Lab, served: Daemon) -> None:
    """It stands in the channel's ARG1, and a Gosub without arguments does not hide it."""
    lab.call(sipp.caller("87"))
    assert lab.notices("ADMIN-BACK") == ["ADMIN-BACK theirs"]
    assert lab.trunk.invites() == []
