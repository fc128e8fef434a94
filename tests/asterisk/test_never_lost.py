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
from ..lab.daemon import FASTAGI, Daemon
from ..lab.processes import wait_until
from .conftest import CAP


def peer(behave: Callable[[socket.socket], None]) -> contextlib.AbstractContextManager[None]:
    """Something on the daemon's port that is no daemon."""
    return in_place_of_the_daemon(FASTAGI, behave)


@pytest.mark.chan_sip
def test_without_a_daemon_the_fallback_is_reached_at_once(lab: Lab) -> None:
    caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert lab.trunk.invites() == []
    assert lab.notices("FALLBACK")[0].startswith("FALLBACK UNAVAILABLE reason= ")
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE


def test_a_daemon_that_closes_at_once_costs_nothing(lab: Lab) -> None:
    with peer(lambda connection: connection.close()):
        caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE


def test_a_daemon_that_accepts_and_is_silent_costs_the_cap(lab: Lab) -> None:
    kept: list[socket.socket] = []
    with peer(kept.append):
        caller = lab.call()
        assert ids(lab.phone.invites()) == [[]]
        assert CAP - 0.2 < wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE
    for connection in kept:
        connection.close()


@pytest.mark.chan_sip
def test_a_frozen_daemon_costs_the_cap_and_thaws(lab: Lab, served: Daemon) -> None:
    served.signal(signal.SIGSTOP)
    caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert CAP - 0.2 < wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE
    served.signal(signal.SIGCONT)
    lab.call()
    assert ids(lab.trunk.invites()) == [[lab.api.ids()[-1]]]


def test_a_daemon_that_answers_too_late_changes_nothing_any_more(lab: Lab) -> None:
    """It sets the id after the cap has fired: the call is at its fallback by then."""
    threads = []

    def late(connection: socket.socket) -> None:
        def answer() -> None:
            time.sleep(CAP + 0.5)
            with contextlib.suppress(OSError), connection:
                uuid = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
                connection.sendall(f'SET VARIABLE ROUNDED_CALL_ID "{uuid}"\n'.encode())

        threads.append(threading.Thread(target=answer))
        threads[-1].start()

    with peer(late):
        lab.call(sipp.caller(talk_ms=1500))
    for thread in threads:
        thread.join(5)
    assert ids(lab.phone.invites()) == [[]]
    assert lab.notices("ADMIN-H") == []  # the call ended at the fallback, in from-internal
    assert lab.trunk.invites() == []


EVIL = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"


@pytest.mark.chan_sip
@pytest.mark.parametrize(
    ("variable", "value", "back"),
    [
        ("ROUNDED_CALL_ID", f"{EVIL}nX: y", False),
        ("ROUNDED_CALL_ID", f"{EVIL})", False),
        ("ROUNDED_CALL_ID", 'a"b$[', False),
        ("ROUNDED_NEXT", 'a"b', False),
        ("ROUNDED_FALLBACK", "from-internal,600", True),
        ("ROUNDED_FALLBACK", "from-internal,600,1)", True),
        ("ROUNDED_FALLBACK", "from-internal,700,1", True),
    ],
)
def test_nonsense_in_a_variable_loses_no_call(
    lab: Lab, variable: str, value: str, back: bool
) -> None:
    """Something else may sit on the daemon's port, or a line be changed that is not marked."""

    def set_it(connection: socket.socket) -> None:
        quoted = value.replace('"', '\\"')
        with connection:
            connection.recv(8192)
            connection.sendall(f'SET VARIABLE {variable} "{quoted}"\n'.encode())
            connection.recv(64)

    with peer(set_it):
        lab.call()
    assert lab.trunk.invites() == []
    assert ids(lab.phone.invites()) == ([] if back else [[]])
    assert len(lab.notices("ADMIN-BACK")) == back


@pytest.mark.chan_sip
def test_a_call_that_comes_with_goto_is_staged_and_capped_too(lab: Lab, served: Daemon) -> None:
    lab.call(sipp.caller("78"))
    assert ids(lab.trunk.invites()) == [lab.api.ids()]
    served.signal(signal.SIGSTOP)
    caller = lab.call(sipp.caller("78"))
    assert CAP - 0.2 < wait_of(caller, lab.phone.invites()[0]) < CAP + NOISE
    served.signal(signal.SIGCONT)


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
