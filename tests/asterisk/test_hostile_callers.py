"""What a caller writes never becomes a header, a command, a variable, a route or a destination.

The INVITEs are those whose effect on Asterisk stands in tests/captures, and some more.
"""

from __future__ import annotations

import pytest

from ..lab.calls import Lab
from ..lab.daemon import AGENT, Daemon
from ..lab.raw import invite
from ..switches.test_hostile_callers import FROM_USERS

EVIL = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"


@pytest.mark.parametrize("did", ["+33612345678%0Aagi_arg_9", "+33612345678%40evil", "+33699999999"])
def test_a_number_that_is_no_did_of_ours_reaches_nothing(
    lab: Lab, served: Daemon, did: str
) -> None:
    assert invite(did=did) == 404
    assert lab.trunk.invites() == lab.phone.invites() == []
    assert lab.api.staged() == []


@pytest.mark.flavours
@pytest.mark.chan_sip
@pytest.mark.parametrize("did", ["600", "900", "+33612345678"])
def test_nobody_becomes_the_agents_side_by_its_name(lab: Lab, did: str) -> None:
    assert invite(did=did, from_user="rounded", source="127.0.0.66") >= 400
    assert lab.trunk.invites() == lab.phone.invites() == []


def test_callers_do_not_reach_our_inner_contexts(lab: Lab, served: Daemon) -> None:
    for did in ("s", "h", "T", "rounded-call", "600", "900"):
        assert invite(did=did) >= 400
    assert lab.trunk.invites() == lab.phone.invites() == []


@pytest.mark.parametrize("user", FROM_USERS.values(), ids=FROM_USERS)
def test_arguments_after_a_comma_cannot_be_forged_either(
    lab: Lab, served: Daemon, user: str
) -> None:
    """Asterisk writes them after the fields that a caller can fill."""
    invite(did="77", from_user=user)
    assert all(request["to_number"] == "+33612345678" for request in lab.api.staged())
    assert all(request["agent_id"] == AGENT for request in lab.api.staged())
    assert [line for line in lab.notices("ARGUMENTS") if "other" in line] == []


def test_a_latin1_name_reaches_the_agent_where_the_switch_lets_it(lab: Lab, served: Daemon) -> None:
    invite(did="77", name="Ren\xe9")
    staged = lab.api.staged()[0]["dynamic_variables_values"]
    assert isinstance(staged, dict)
    assert staged["first_name"] == ("Ren\xe9" if lab.switch.version == 16 else "Ren\ufffd")
