"""What else a daemon that fails, or something in its place, could do to a call."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, in_place_of_the_daemon, wait_of
from ..lab.daemon import FASTAGI, Daemon


def peer(behave: Callable[[socket.socket], None]) -> contextlib.AbstractContextManager[None]:
    """Something on the daemon's port that is no daemon."""
    return in_place_of_the_daemon(FASTAGI, behave)


def test_a_daemon_that_answers_too_late_changes_nothing_any_more(lab: Lab) -> None:
    """It sets the id after the cap has fired: the call is at its fallback by then."""
    threads = []

    def late(connection: socket.socket) -> None:
        def answer() -> None:
            time.sleep(lab.switch.cap + 0.5)
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
    assert lab.switch.earliest < wait_of(caller, lab.phone.invites()[0]) < lab.switch.cap + NOISE
    served.signal(signal.SIGCONT)
