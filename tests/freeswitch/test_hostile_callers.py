"""What a caller writes never becomes a header, a command, a variable, a route or a destination."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from ..lab.calls import Lab, ids
from ..lab.daemon import Daemon, config, daemon
from ..lab.dialog import line
from ..lab.freeswitch import CARRIERS_PORT
from ..lab.processes import wait_until
from ..lab.raw import invite

TOUCHED = Path("/tmp/rounded-pbx-was-here")

#: What a user of a SIP URI must escape.
ESCAPED = {ord(character): f"%{ord(character):02x}" for character in ' ;>\\"'}


def test_a_name_with_quotation_marks_loses_no_call_on_its_way_to_the_fallback(lab: Lab) -> None:
    invite(name=r"Ann \"the voice\" Caller")
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


@pytest.mark.parametrize(
    "did",
    [
        "+33612345678%0Ax",
        "+33612345678%40evil",
        "0+33612345678",
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


REFERS = {
    "an address": "900@127.0.0.4:5090",
    "an extension": "x,loopback/900/default,sofia/carriers/y@127.0.0.4:5091",
    "a gateway": "x,sofia/gateway/rounded/+19005550199,sofia/carriers/y@127.0.0.4:5091",
}


@pytest.mark.parametrize("target", REFERS.values(), ids=REFERS)
def test_a_callers_refer_reaches_nothing_with_disable_transfer(
    lab: Lab, served: Daemon, target: str
) -> None:
    """At a Replaces that it does not know, mod_sofia asks no dialplan: only this helps."""
    replaces = "Replaces=zz%3Bto-tag%3Da%3Bfrom-tag%3Db"
    with line(CARRIERS_PORT) as ann:
        call = ann.call()
        call.request("REFER", f"Refer-To: <sip:{target}?{replaces}>\r\n")
        wait_until(lambda: [m for m in call.received if "CSeq: 2 REFER" in m], "an answer")
        time.sleep(0.5)
    answers = [m.partition("\r")[0] for m in call.received if "CSeq: 2 REFER" in m]
    assert answers == ["SIP/2.0 405 Method Not Allowed"]
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    assert lab.phone.invites() == []


def test_a_callers_channel_name_goes_nowhere(lab: Lab, served: Daemon) -> None:
    """mod_sofia takes it from the caller, and originate hands it on past every other setting."""
    invite(headers="X-FS-Channel-Name: theirs")
    assert lab.trunk.invites()[0].headers("X-FS-Channel-Name") == []


@pytest.mark.parametrize("where", ["name", "number"])
@pytest.mark.parametrize("up", [True, False], ids=["to the agent", "to the fallback"])
def test_a_callers_length_loses_no_call(lab: Lab, where: str, *, up: bool) -> None:
    """Both stand in the INVITE twice, which must not outgrow what UDP carries."""
    long = {"name": "N" * 40000} if where == "name" else {"from_user": "+" + "3" * 15000}
    with daemon(lab.directory / "daemon", config(lab.api.url)) if up else nullcontext():
        assert invite(**long) == 200  # type: ignore[arg-type]
    [seen] = (lab.trunk if up else lab.phone).invites()
    assert len(seen.text) < 1500  # an Ethernet's
