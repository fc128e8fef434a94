"""A call on a real FreeSWITCH: staged, carried, and what becomes of it on every outcome."""

from __future__ import annotations

import pytest

from ..lab.calls import Lab, ids
from ..lab.daemon import AGENT, config, daemon


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
