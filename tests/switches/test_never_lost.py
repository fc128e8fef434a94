"""Whatever becomes of the daemon, a call goes on, and none waits longer than its cap."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from ..lab import sipp
from ..lab.calls import NOISE, Lab, ids, in_place_of_the_daemon, wait_of
from ..lab.daemon import Daemon, config, daemon
from ..lab.processes import wait_until


@pytest.mark.flavours
@pytest.mark.chan_sip
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
            connection.sendall(b"connect\n\n")  # to Asterisk, a command that it does not know
        connection.close()

    with in_place_of_the_daemon(lab.switch.asks, end):
        caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert wait_of(caller, lab.phone.invites()[0]) < NOISE


def test_a_daemon_that_accepts_and_is_silent_costs_the_cap(lab: Lab) -> None:
    kept: list[socket.socket] = []
    with in_place_of_the_daemon(lab.switch.asks, kept.append):
        caller = lab.call()
        assert ids(lab.phone.invites()) == [[]]
        assert (
            lab.switch.earliest < wait_of(caller, lab.phone.invites()[0]) < lab.switch.cap + NOISE
        )
    for connection in kept:
        connection.close()


@pytest.mark.flavours
@pytest.mark.chan_sip
def test_a_frozen_daemon_costs_the_cap_and_thaws(lab: Lab, served: Daemon) -> None:
    served.signal(signal.SIGSTOP)
    caller = lab.call()
    assert ids(lab.phone.invites()) == [[]]
    assert lab.switch.earliest < wait_of(caller, lab.phone.invites()[0]) < lab.switch.cap + NOISE
    served.signal(signal.SIGCONT)
    lab.call()
    assert ids(lab.trunk.invites()) == [[lab.api.ids()[-1]]]


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
    calls, restarts = 240, 0
    with (
        daemon(lab.directory / "daemon", config(lab.api.url)) as served,
        lab.dialling(sipp.caller(talk_ms=100), "-m", str(calls), "-r", "20") as caller,
    ):
        while caller.process.poll() is None:
            enough = len(lab.api.ids()) + 10
            while caller.process.poll() is None and len(lab.api.ids()) < enough:
                time.sleep(0.01)
            served.kill() if how == "killed" else served.stop()
            time.sleep(0.2)
            served.start()
            restarts += 1
        messages = caller.messages()
    assert restarts >= 4
    answered = [m for m in messages if not m.sent and m.first_line.startswith("SIP/2.0 200")]
    invites = {m.headers("Call-ID")[0]: m.at for m in messages if m.first_line.startswith("INVITE")}
    assert len(invites) == calls
    answers: dict[str, float] = {}
    for message in answered:
        answers.setdefault(message.headers("Call-ID")[0], message.at)
    assert invites.keys() == answers.keys()
    assert max(answers[call] - invites[call] for call in invites) < lab.switch.cap + NOISE
    # Every call went somewhere, and every id that went out is one of the API's, used once.
    assert len(lab.trunk.invites()) + len(lab.phone.invites()) == calls
    sent = [header for header in ids(lab.trunk.invites()) if header]
    assert all(len(header) == 1 for header in sent)
    assert len({header[0] for header in sent}) == len(sent)
    assert {header[0] for header in sent} <= set(lab.api.ids())
    assert len(sent) >= 6 * (restarts - 1)  # of ten stagings a round, a kill may cost some
    assert all(header == [] for header in ids(lab.phone.invites()))
