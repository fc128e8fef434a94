"""What a caller writes never becomes a header, a command, a variable, a route or a destination."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from ..lab.calls import HEADER, Lab, ids
from ..lab.daemon import AGENT, Daemon, config, daemon
from ..lab.raw import invite

EVIL = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
TOUCHED = Path("/tmp/rounded-pbx-was-here")

#: What a user of a SIP URI must escape.
ESCAPED = {ord(character): f"%{ord(character):02x}" for character in ' ;>\\"'}

FROM_USERS = {
    "line feed": "+339%0Avariable_rounded_in_route%3A%20other",
    "CR LF and a header": f"+339%0D%0AX-Rounded-Call-Id%3a%20{EVIL}",
    "a forged block": "1%0A%0AContent-Type%3A%20command/reply%0AReply-Text%3A%20%2BOK%0A%0A",
    "a NUL": "+339%00",
    "U+2028": "+339%E2%80%A8X-Evil%3A%201",
    "separators": "1,2%3B3",
    "a dial string's end": "1%7D%5Bx%3Dy%5Dloopback/900/default",
    "a variable": f"%24%7Bsystem(touch%20{TOUCHED})%7D",
    "quotes": "1%22%2C%22%5C",
}
NAMES = {
    "line feed in escapes": "abc%0Avariable_rounded_in_did: +33999999999",
    "CR LF in escapes": f"abc%0D%0AX-Rounded-Call-Id: {EVIL}",
    "a dial string": "A, rounded_in_route=other;x}loopback/900/default",
    "a variable": rf"${{system(touch {TOUCHED})}} ${{rounded_call_id}} \"q\" \\ back",
    "quotation marks": r"Ann \"the voice\" Caller",
    "Latin-1": "Ren\xe9 L\xe9vy",
    "UTF-8": "René €😀 名",
    "U+2028": "a\u2028X-Evil: 1",
    "a terminal's colours": "a\x1b[31mred\x07",
    "long": "N" * 900,
}
HEADERS = {
    "line feed in escapes": "X-Customer: a%0AX-Evil: 1%0D%0AX-Evil: 2",
    "a variable of ours": "X-rounded_in_did: +33999999999\r\nrounded_in_route: other",
    "a variable's name": f"X-}}sip_h_X-Evil: {EVIL}",
    "the switch's own": "X-FS-Rounded: 1\r\nP-Rounded: 1\r\nX-FS-Display-Name: evil%0A",
}


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


def test_a_name_with_quotation_marks_loses_no_call_on_its_way_to_the_fallback(lab: Lab) -> None:
    invite(name=NAMES["quotation marks"])
    assert ids(lab.phone.invites()) == [[]]


BREAKS = ["%0D%0AX-Evil: 1", "%0D%0A%0D%0AX-Evil: 1", "%0A%0AX-Evil: 1", '\\"', "${uuid}", "a;b=c>"]


@pytest.mark.parametrize("up", [True, False], ids=["to the agent", "to the fallback"])
@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("where", ["name", "number"])
def test_a_caller_breaks_no_line_of_an_invite(
    lab: Lab, where: str, breaks: str, *, up: bool
) -> None:
    started = daemon(lab.directory / "daemon", config(lab.api.url)) if up else nullcontext()
    with started:
        if where == "name":
            assert invite(name=f"Ann{breaks}") == 200
        elif re.search("[;> \\\\]", breaks):  # no user of a SIP URI
            invite(from_user=f"+33145678901{breaks.translate(ESCAPED)}")
        else:
            assert invite(from_user=f"+33145678901{breaks}") == 200
    [seen] = (lab.trunk if up else lab.phone).invites()
    assert ids([seen]) == ([lab.api.ids()] if up else [[]])
    head = re.split(r"\r?\n\r?\n", seen.text, maxsplit=1)[0].splitlines()[1:]
    assert [line for line in head if not re.match(r"[A-Za-z-]+:", line)] == []
    assert "X-Evil" not in [line.partition(":")[0] for line in head]
    assert seen.headers("Content-Length") != []


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


@pytest.mark.parametrize(
    "did",
    [
        "+33612345678%0Ax",
        "+33612345678%40evil",
        "+33699999999",
        "rounded-fallback",
        "rounded_bridge",
        "bridge-+19005550199",
        "600",
        "900",
        "stage",
        "gw+rounded",
        "600;gw=rounded",
        "+19005550199;gw=rounded",
    ],
)
def test_a_number_that_is_no_did_of_ours_reaches_nothing(
    lab: Lab, served: Daemon, did: str
) -> None:
    assert invite(did=did) >= 400
    assert lab.trunk.invites() == lab.phone.invites() == []
    assert lab.api.staged() == []


def _nothing_of_theirs(lab: Lab) -> None:
    assert not TOUCHED.exists()
    for message in (*lab.trunk.invites(), *lab.phone.invites()):
        assert message.headers("X-Evil") == []
        assert "rounded_in" not in message.text
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
