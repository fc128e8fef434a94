"""Whatever becomes of the daemon, a call goes on, and none waits longer than its cap."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, in_place_of_the_daemon, restarts_lose_no_call, wait_of
from ..lab.daemon import OUTBOUND, Daemon
from ..lab.processes import wait_until
from .conftest import CAP, EARLIEST

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


def test_without_a_daemon_the_fallback_is_reached_at_once(lab: Lab) -> None:
    caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert lab.trunk.invites() == []
    assert lab.notices("FALLBACK")[0].startswith("FALLBACK UNAVAILABLE reason= ")
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE


@pytest.mark.parametrize("how", ["closes", "resets", "connects and closes"])
def test_a_daemon_that_closes_at_once_costs_nothing(lab: Lab, how: str) -> None:
    def end(connection: socket.socket) -> None:
        if how == "resets":
            linger = b"\1\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif how != "closes":
            connection.sendall(b"connect\n\n")
        connection.close()

    with peer(end):
        caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE


def test_a_daemon_that_accepts_and_is_silent_costs_the_cap(lab: Lab) -> None:
    kept: list[socket.socket] = []
    with peer(kept.append):
        caller = lab.call()
        assert ids(lab.phone.invites()) == [[]]
        assert EARLIEST < wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE
    for connection in kept:
        connection.close()


def test_a_frozen_daemon_costs_the_cap_and_thaws(lab: Lab, served: Daemon) -> None:
    served.signal(signal.SIGSTOP)
    caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert EARLIEST < wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE
    served.signal(signal.SIGCONT)
    lab.call()
    assert ids(lab.trunk.invites()) == [[lab.api.ids()[-1]]]


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
    assert ids(lab.phone.invites()) == [[]]
    assert lab.trunk.invites() == []
    assert wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE


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


def test_a_daemon_killed_while_it_stages_costs_nothing_more(lab: Lab, served: Daemon) -> None:
    lab.api.behave(fault="hang", fault_on=["stageCall"])
    with lab.dialling(sipp.caller()) as caller:
        wait_until(lambda: lab.api.sandbox.hanging == 1, "the staging to be under way")
        killed = time.time()
        served.kill()
        caller.wait(20)
    assert ids(lab.phone.invites()) == [[]]
    assert lab.phone.invites()[0].at - killed < NOISE


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_restarts_under_20_calls_a_second_lose_no_call(lab: Lab, how: str) -> None:
    restarts_lose_no_call(lab, how, CAP)
