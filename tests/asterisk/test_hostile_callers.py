"""What a caller writes never becomes a header, a command, a variable, a route or a destination.

The INVITEs are those whose effect on Asterisk stands in tests/captures, and some more.
"""

from __future__ import annotations

import re

import pytest

from ..lab.calls import HEADER, Lab, ids
from ..lab.daemon import AGENT, Daemon
from ..lab.raw import invite

EVIL = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"

FROM_USERS = {
    "line feed": "+339%0Aagi_arg_9",
    "CR LF and a header": f"+339%0D%0AX-Rounded-Call-Id%3a%20{EVIL}",
    "a forged script": "+339%0Aagi_network_script%3A%20stage?did%3D+33999999999%0Aagi_arg_1%3A%20x",
    "an early end": "+339%0Aagi_threadid%3A%201%0Aagi_arg_1%3A%20route%3Dother%0A%0A",
    "an early end and a reply": "1%0Aagi_threadid%3A%201%0A%0A200%20result%3D1%0A200%20result",
    "a NUL": "+339%00",
    "U+2028": "+339%E2%80%A8X-Evil%3A%201",
    "an argument": "1,route=other&route=other",
    "a Gosub's end": "1)%5Es%5E1(",
    "a variable": "%24%7BSHELL(touch%20/tmp/x)%7D",
    "quotes": "1%22%2C%22",
}
NAMES = {
    "line feed in escapes": "abc%0Aagi_arg_9: evil",
    "an argument": "A, route=other&did=+33999999999&from=+33999999999",
    "a variable": r"${SHELL(touch /tmp/x)} $[1+1] \"q\" \\ back",
    "a Gosub's end": "x))^s^1(,b(evil^s^1)",
    "Latin-1": "Ren\xe9 L\xe9vy",
    "UTF-8": "René €😀 名",
    "a terminal's colours": "a\x1b[31mred\x07",
    "long": "N" * 900,
}


@pytest.mark.chan_sip
@pytest.mark.parametrize("user", FROM_USERS.values(), ids=FROM_USERS)
def test_a_hostile_number_changes_nothing(lab: Lab, served: Daemon, user: str) -> None:
    invite(from_user=user)
    _nothing_of_theirs(lab)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_changes_nothing(lab: Lab, served: Daemon, name: str) -> None:
    invite(name=name)
    _nothing_of_theirs(lab)
    assert ids(lab.trunk.invites()) == [lab.api.ids()], served.log


@pytest.mark.chan_sip
@pytest.mark.parametrize("how", [f"{HEADER}: {EVIL}", f"{HEADER}: {EVIL}\r\n{HEADER}:\r\n {EVIL}"])
def test_a_callers_own_header_goes_nowhere(lab: Lab, served: Daemon, how: str) -> None:
    invite(headers=how)
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    lab.api.behave(fault="500", fault_on=["stageCall"])
    invite(headers=how)
    assert ids(lab.phone.invites()) == [[]]


@pytest.mark.parametrize("did", ["+33612345678%0Aagi_arg_9", "+33612345678%40evil", "+33699999999"])
def test_a_number_that_is_no_did_of_ours_reaches_nothing(
    lab: Lab, served: Daemon, did: str
) -> None:
    assert invite(did=did) == 404
    assert lab.trunk.invites() == lab.phone.invites() == []
    assert lab.api.staged() == []


@pytest.mark.chan_sip
@pytest.mark.parametrize("did", ["600", "900", "+33612345678"])
def test_nobody_becomes_the_agents_side_by_its_name(lab: Lab, did: str) -> None:
    assert invite(did=did, from_user="rounded", source="127.0.0.66") >= 400
    assert lab.trunk.invites() == lab.phone.invites() == []


@pytest.mark.chan_sip
@pytest.mark.parametrize("user", ["alice42", "abc0612345678", "0612345678x"])
def test_a_user_that_is_no_number_is_not_made_one(lab: Lab, served: Daemon, user: str) -> None:
    invite(from_user=user)
    assert [request["from_number"] for request in lab.api.staged()] == ["+33000000000"]


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


def _nothing_of_theirs(lab: Lab) -> None:
    for message in (*lab.trunk.invites(), *lab.phone.invites()):
        assert message.headers("X-Evil") == []
        assert message.headers(HEADER) in ([], lab.api.ids())
        assert re.match(r"INVITE sip:(\+33612345678|600)@127\.0\.0\.[34]:", message.first_line)
    assert len(lab.trunk.invites()) + len(lab.phone.invites()) == 1
    for request in lab.api.staged():
        assert request["to_number"] == "+33612345678"
        assert request["agent_id"] == AGENT
        assert set(request) == {
            "from_number",
            "to_number",
            "agent_id",
            "dynamic_variables_values",
        }
