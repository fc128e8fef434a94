"""What a caller writes never becomes a header, a command, a variable, a route or a destination.

The INVITEs are those whose effect on the switches stands in tests/captures, and some more.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..lab.calls import HEADER, Lab, ids
from ..lab.daemon import AGENT, Daemon
from ..lab.raw import invite

EVIL = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
TOUCHED = Path("/tmp/rounded-pbx-was-here")

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
    "line feed, again": "+339%0Avariable_rounded_in_route%3A%20other",
    "CR LF and a header, again": f"+339%0D%0AX-Rounded-Call-Id%3a%20{EVIL}",
    "a forged block": "1%0A%0AContent-Type%3A%20command/reply%0AReply-Text%3A%20%2BOK%0A%0A",
    "a NUL, again": "+339%00",
    "U+2028, again": "+339%E2%80%A8X-Evil%3A%201",
    "separators": "1,2%3B3",
    "a dial string's end": "1%7D%5Bx%3Dy%5Dloopback/900/default",
    "a variable, again": f"%24%7Bsystem(touch%20{TOUCHED})%7D",
    "quotes, again": "1%22%2C%22%5C",
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
    "line feed in escapes, again": "abc%0Avariable_rounded_in_did: +33999999999",
    "CR LF in escapes": f"abc%0D%0AX-Rounded-Call-Id: {EVIL}",
    "a dial string": "A, rounded_in_route=other;x}loopback/900/default",
    "a variable, again": rf"${{system(touch {TOUCHED})}} ${{rounded_call_id}} \"q\" \\ back",
    "quotation marks": r"Ann \"the voice\" Caller",
    "Latin-1, again": "Ren\xe9 L\xe9vy",
    "UTF-8, again": "René €😀 名",
    "U+2028": "a\u2028X-Evil: 1",
    "a terminal's colours, again": "a\x1b[31mred\x07",
    "long, again": "N" * 900,
}
HEADERS = {
    "line feed in escapes": "X-Customer: a%0AX-Evil: 1%0D%0AX-Evil: 2",
    "a variable of ours": "X-rounded_in_did: +33999999999\r\nrounded_in_route: other",
    "a variable's name": f"X-sip_h_X-Evil: {EVIL}\r\nvariable_rounded_in_route: other",
    "the switch's own": "X-FS-Rounded: 1\r\nP-Rounded: 1\r\nX-FS-Display-Name: evil%0A",
}


@pytest.mark.chan_sip
@pytest.mark.parametrize("user", FROM_USERS.values(), ids=FROM_USERS)
def test_a_hostile_number_changes_nothing(lab: Lab, served: Daemon, user: str) -> None:
    invite(from_user=user)
    _nothing_of_theirs(lab)
    # Asked once more, and this time nothing is staged.
    lab.api.behave(fault="500", fault_on=["stageCall"])
    invite(from_user=user)
    assert ids(lab.phone.invites())[-1:] == [[]]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_changes_nothing(lab: Lab, served: Daemon, name: str) -> None:
    invite(name=name)
    _nothing_of_theirs(lab)
    assert ids(lab.trunk.invites()) == [lab.api.ids()], served.log


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_changes_nothing(lab: Lab, served: Daemon, headers: str) -> None:
    invite(headers=headers)
    _nothing_of_theirs(lab)


OWN = [
    f"{HEADER}: {EVIL}",
    f"{HEADER}: {EVIL}\r\n{HEADER}:\r\n {EVIL}",
    f"{HEADER.lower()}: {EVIL}\r\n{HEADER.upper()}: {EVIL}",
    f"{HEADER}: {EVIL}%0D%0A{HEADER}: {EVIL}",
]


@pytest.mark.flavours
@pytest.mark.chan_sip
@pytest.mark.parametrize("how", OWN)
def test_a_callers_own_header_goes_nowhere(lab: Lab, served: Daemon, how: str) -> None:
    invite(headers=how)
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    lab.api.behave(fault="500", fault_on=["stageCall"])
    invite(headers=how)
    assert ids(lab.phone.invites()) == [[]]


@pytest.mark.parametrize("how", OWN)
def test_nor_does_it_without_a_daemon(lab: Lab, how: str) -> None:
    invite(headers=how)
    assert ids(lab.phone.invites()) == [[]]


@pytest.mark.chan_sip
@pytest.mark.parametrize("user", ["alice42", "abc0612345678", "0612345678x"])
def test_a_user_that_is_no_number_is_not_made_one(lab: Lab, served: Daemon, user: str) -> None:
    invite(from_user=user)
    assert [request["from_number"] for request in lab.api.staged()] == ["+33000000000"]


def _nothing_of_theirs(lab: Lab) -> None:
    assert not TOUCHED.exists()
    for message in (*lab.trunk.invites(), *lab.phone.invites()):
        assert message.headers("X-Evil") == []
        assert not re.search(r"(?m)^\S*rounded_in\S*:", message.text)  # as text, it may stand there
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
