"""What else a daemon that fails, or something in its place, could do to a call."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, in_place_of_the_daemon, wait_of
from ..lab.daemon import OUTBOUND
from ..lab.processes import wait_until
from ..lab.sipp import Message, Sipp

UUID = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"


def peer(behave: Callable[[socket.socket], None]) -> contextlib.AbstractContextManager[None]:
    """Something on the daemon's port that is no daemon."""
    return in_place_of_the_daemon(OUTBOUND, behave)


class Later:
    """A peer that connects, and does something after a while."""

    def __init__(self, seconds: float, *commands: str, close: bool = True) -> None:
        self._seconds, self._commands, self._close = seconds, commands, close
        self._threads: list[threading.Thread] = []
        self.kept: list[socket.socket] = []

    def __call__(self, connection: socket.socket) -> None:
        self._threads.append(threading.Thread(target=self._run, args=[connection]))
        self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        self.kept.append(connection)
        with contextlib.suppress(OSError):
            connection.sendall(b"connect\n\n")
            block = connection.recv(65536).decode()
            channel = block.partition("Unique-ID: ")[2].partition("\n")[0]
            time.sleep(self._seconds)
            for command in self._commands:
                connection.sendall(command.replace("UUID", channel).encode() + b"\n\n")
            if self._close:
                connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
        for connection in self.kept:
            connection.close()


def ended_with(bye: Message, callee: Sipp) -> bool:
    """Whether the callee was left in the call until then.

    (Two SIPps' clocks: the one's BYE may seem to come before the other has sent it. And a BYE of
    another test's call may be sent again.)
    """
    (call,) = callee.invites()[0].headers("Call-ID")
    ends = [m.at for m in callee.received("BYE") if m.headers("Call-ID") == [call]]
    return bool(ends) and ends[0] > bye.at - 0.2


@pytest.mark.parametrize(
    ("seconds", "commands"),
    [
        (4.0, ()),
        (4.0, (f"api uuid_setvar_multi UUID rounded_call_id={UUID};rounded_status=STAGED",)),
        (4.0, (f"api uuid_setvar_multi UUID rounded_call_id={UUID}", "exit")),
        (4.0, ("exit",)),
        (0.3, ("exit",)),
    ],
    ids=["a close", "a set and a close", "a set and exit", "exit", "exit in time"],
)
def test_a_late_close_resets_no_call_that_is_bridged(
    lab: Lab, seconds: float, commands: tuple[str, ...]
) -> None:
    """The cap has fired, the call is at its fallback and talks, when the daemon closes."""
    late = Later(seconds, *commands)
    with peer(late):
        caller = lab.call(sipp.caller(talk_ms=3500))
        late.join()
    answered = next(m.at for m in caller if m.first_line.startswith("SIP/2.0 200"))
    bye = next(m for m in caller if m.first_line.startswith("BYE"))
    assert bye.sent
    assert bye.at - answered > 3.4
    # Whoever is reset hears nothing more: the caller's own side does not tell, the other one does.
    assert ended_with(bye, lab.phone)
    assert ids(lab.phone.invites()) == [[]]
    assert lab.trunk.invites() == []
    assert wait_of(caller, lab.phone.invites()[0]) < lab.switch.cap + NOISE


def test_a_late_close_resets_no_call_that_talks_to_the_agent(lab: Lab) -> None:
    """The id was set and the daemon hangs: the cap leads to the agent, with the id."""
    late = Later(0.1, f"api uuid_setvar_multi UUID rounded_call_id={UUID}", close=False)
    with peer(late), lab.dialling(sipp.caller(talk_ms=2500)) as caller:
        wait_until(lambda: lab.trunk.invites(), "the agent's INVITE")
        time.sleep(0.7)
        late.join()  # it closes
        caller.wait(20)
        messages = caller.messages()
    assert ids(lab.trunk.invites()) == [[UUID]]
    answered = next(m.at for m in messages if m.first_line.startswith("SIP/2.0 200"))
    bye = next(m for m in messages if m.first_line.startswith("BYE"))
    assert bye.sent
    assert bye.at - answered > 2.4
    assert ended_with(bye, lab.trunk)


@pytest.mark.parametrize(
    ("setting", "reaches"),
    [
        (f"rounded_call_id={UUID}x", "phone"),
        ("rounded_call_id=a,sip_h_X-Evil=1", "phone"),
        ("rounded_call_id=a}loopback/900/default", "phone"),
        ("rounded_call_id=${system(touch /tmp/x)}", "phone"),
        ("rounded_next=a,b", "phone"),
        ("rounded_fallback=", None),
        ("rounded_fallback=600 XML", None),
        ("rounded_fallback=600 XML default extra", None),
        ("rounded_cap_id=", "phone"),
        ("rounded_did=900", "phone"),
    ],
)
def test_nonsense_in_a_variable_dials_nothing_else(
    lab: Lab, setting: str, reaches: str | None
) -> None:
    """Something else may sit on the daemon's port."""
    nonsense = Later(0.0, f"api uuid_setvar_multi UUID {setting}", "exit", close=False)
    with peer(nonsense):
        caller = lab.call()
        nonsense.join()
    assert lab.trunk.invites() == []
    assert ids(lab.phone.invites()) == ([[]] if reaches else [])
    if not reaches:
        assert [m.first_line for m in caller if not m.sent][-1].startswith("SIP/2.0 503")
