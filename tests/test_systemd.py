"""What systemd hands over and is told, with real sockets in its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx import systemd

_TAKES = """
import json, os, sys
from rounded_pbx import systemd
from rounded_pbx.errors import RoundedPbxError
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
try:
    found = systemd.take_sockets()
except RoundedPbxError as error:
    sys.exit(str(error))
left = [name for name in os.environ if name.startswith("LISTEN")]
inherited = [os.get_inheritable(each.fileno()) for each in found.values()]
print(json.dumps([{name: each.getsockname()[1] for name, each in found.items()}, left, inherited]))
"""


def take(
    *sockets: socket.socket, names: str | None, of_another: bool = False
) -> subprocess.CompletedProcess[str]:
    """What a process takes that gets the sockets from descriptor 3 on."""
    keep = [os.dup(each.fileno()) for each in sockets]
    places = range(systemd.FIRST, systemd.FIRST + len(keep))
    moves = " ".join(f"{place}<&{fd}" for place, fd in zip(places, keep, strict=True))
    environ = {**os.environ, "LISTEN_FDS": str(len(keep))}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    program = [sys.executable, "-c", _TAKES, "1" if of_another else "0"]
    try:
        return subprocess.run(
            ["bash", "-c", f'exec {moves}; exec "$@"', "bash", *program],
            env=environ,
            pass_fds=keep,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for fd in keep:
            os.close(fd)


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def test_sockets_come_by_their_names_and_no_child_inherits_them(
    listening: list[socket.socket],
) -> None:
    ports = [each.getsockname()[1] for each in listening]
    ended = take(*listening, names="asterisk:freeswitch")
    wanted = f'[{{"asterisk": {ports[0]}, "freeswitch": {ports[1]}}}, [], [false, false]]'
    assert ended.stdout.strip() == wanted, ended.stderr


def test_sockets_that_are_for_another_process_are_left_alone(
    listening: list[socket.socket],
) -> None:
    ended = take(*listening, names="asterisk:freeswitch", of_another=True)
    assert ended.stdout.startswith("[{}, [], ")


@pytest.mark.parametrize("names", ["asterisk:asterisk", "", None])
def test_two_sockets_of_one_name_are_refused(
    listening: list[socket.socket], names: str | None
) -> None:
    ended = take(*listening, names=names)
    assert (ended.returncode, "two sockets named" in ended.stderr) == (1, True)


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket() as idle:
        ended = take(idle, names="asterisk")
    assert (ended.returncode, "does not listen" in ended.stderr) == (1, True)


def test_without_systemd_there_is_nothing() -> None:
    assert systemd.take_sockets({}) == {}
    assert systemd.watchdog_seconds({}) is None
    systemd.notify("READY=1", environ={})


@pytest.mark.parametrize("abstract", [False, True])
def test_a_notice_reaches_systemd(tmp_path: Path, abstract: bool) -> None:
    path = f"@rounded-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path.replace("@", "\0"))
        heard.settimeout(5)
        systemd.notify("READY=1", "STATUS=a", environ={"NOTIFY_SOCKET": path})
        assert heard.recv(100) == b"READY=1\nSTATUS=a"


def test_a_systemd_that_hears_nothing_holds_nobody_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    systemd.notify("READY=1", environ={"NOTIFY_SOCKET": path})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(path)
        for _ in range(5000):  # its queue is full long before
            systemd.notify("x" * 1000, environ={"NOTIFY_SOCKET": path})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_time_is_read(environ: dict[str, str], seconds: float | None) -> None:
    assert systemd.watchdog_seconds(environ) == seconds
