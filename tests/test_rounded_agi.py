"""The classic AGI script, beside something that stands for the daemon."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rounded_pbx import rounded_agi
from rounded_pbx.errors import ProtocolError
from rounded_pbx.protocol import agi

BLOCK = b"".join(
    b"agi_%s: %s\n" % (key.encode(), b"22.10.1" if key == "version" else b"x")
    for key in agi.ENVIRONMENT_KEYS
    if not key.startswith("network")
)
UNAVAILABLE = b'SET VARIABLE ROUNDED_CALL_ID ""\nSET VARIABLE ROUNDED_STATUS "UNAVAILABLE"\n'


class Pbx:
    """The script's two pipes, as Asterisk holds them."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._in, self._out = stdin, stdout

    def send(self, data: bytes) -> None:
        os.write(self._in, data)

    def line(self) -> bytes:
        read = b""
        while not read.endswith(b"\n") and (more := os.read(self._out, 1)):
            read += more
        return read

    def has_more(self) -> bool:
        return bool(select.select([self._out], [], [], 0.1)[0])

    def close(self) -> None:
        os.close(self._in)


@pytest.fixture
def pbx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pbx]:
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    monkeypatch.setattr(rounded_agi, "STDIN", theirs_in)
    monkeypatch.setattr(rounded_agi, "STDOUT", theirs_out)
    yield Pbx(ours_in, ours_out)
    for descriptor in (theirs_in, ours_in, ours_out, theirs_out):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@contextlib.contextmanager
def session(*arguments: str) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=rounded_agi.main, args=[list(arguments)])
    thread.start()
    yield thread
    thread.join(5)
    assert not thread.is_alive()


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server, f"daemon=127.0.0.1:{server.getsockname()[1]}"


BLOCK += b"agi_arg_1: did=1\n"  # as Asterisk adds its arguments


def received(connection: socket.socket, end: bytes) -> bytes:
    connection.settimeout(5)
    data = b""
    while not data.endswith(end):
        more = connection.recv(65536)
        assert more, data
        data += more
    return data


def test_the_session_is_the_daemons(pbx: Pbx) -> None:
    with listening() as (server, here), session("limit=3", here, "did=+33612345678", "from=%2B1 &"):
        pbx.send(BLOCK + b"\n")
        connection, _ = server.accept()
        with connection:
            environment = agi.Environment.parse(received(connection, b"\n\n"))
            assert environment.path == "stage"
            inputs = agi.arguments(environment)
            assert dict(inputs.values) == {"did": "+33612345678", "from": "+1 &"}
            assert inputs.ignored == ()
            connection.sendall(b"GET FULL VARIABLE x\nSET VARIABLE ")
            assert pbx.line() == b"GET FULL VARIABLE x\n"
            pbx.send(b"200 result=1 (y)\n")
            assert received(connection, b"\n") == b"200 result=1 (y)\n"
            connection.sendall(b'ROUNDED_STATUS "STAGED"\n')
            assert pbx.line() == b'SET VARIABLE ROUNDED_STATUS "STAGED"\n'
            pbx.send(b"200 result=1\n")
            received(connection, b"result=1\n")


def says_unavailable(pbx: Pbx) -> None:
    said = b""
    for _ in range(2):
        said += pbx.line()
        pbx.send(b"200 result=1\n")
    assert said == UNAVAILABLE


def test_without_a_daemon_it_says_so_and_ends_at_once(pbx: Pbx) -> None:
    with listening() as (_, here):
        pass
    start = time.monotonic()
    with session(here, "did=1"):
        pbx.send(BLOCK + b"\n")
        says_unavailable(pbx)
    assert time.monotonic() - start < 0.5


def silent(connection: socket.socket) -> None:
    time.sleep(1)


def closing(connection: socket.socket) -> None:
    pass


def resetting(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize("behave", [silent, closing, resetting])
def test_a_daemon_that_says_nothing_is_none(
    pbx: Pbx, behave: Callable[[socket.socket], None]
) -> None:
    start = time.monotonic()
    with listening() as (server, here), session(here, "limit=0.3", "did=1"):
        pbx.send(BLOCK + b"\n")
        connection, _ = server.accept()
        with connection:
            received(connection, b"\n\n")
            if behave is not silent:
                behave(connection)
                connection.close()
            says_unavailable(pbx)
    assert time.monotonic() - start < 1


def test_what_a_daemon_has_said_stands_when_it_dies(pbx: Pbx) -> None:
    with listening() as (server, here), session(here, "did=1"):
        pbx.send(BLOCK + b"\n")
        connection, _ = server.accept()
        with connection:
            connection.sendall(b'SET VARIABLE ROUNDED_STATUS "STAGED"\nSET VARIABLE HA')
            assert pbx.line() == b'SET VARIABLE ROUNDED_STATUS "STAGED"\n'
    assert not pbx.has_more()  # half a line would be run as a whole one


@pytest.mark.parametrize("dies", [False, True])
def test_a_daemon_that_asks_and_then_says_no_more_is_none(pbx: Pbx, *, dies: bool) -> None:
    """Every session begins with a question of the daemon's."""
    with listening() as (server, here), session(here, "limit=0.3", "did=1"):
        pbx.send(BLOCK + b"\n")
        connection, _ = server.accept()
        with connection:
            received(connection, b"\n\n")
            connection.sendall(b"GET FULL VARIABLE x\nSET VARIABLE ROUNDED_STATUS")
            assert pbx.line() == b"GET FULL VARIABLE x\n"
            if dies:
                connection.close()
            says_unavailable(pbx)


@pytest.mark.parametrize("sent", [b"", BLOCK])
def test_an_asterisk_that_says_nothing_holds_it_no_longer_than_its_limit(
    pbx: Pbx, sent: bytes
) -> None:
    start = time.monotonic()
    with session("limit=0.3", "daemon=127.0.0.1:1"):
        pbx.send(sent + b"agi")
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("limit", ["inf", "nan", "0", "-1", "1e300"])
def test_a_limit_that_is_none_is_told(limit: str) -> None:
    with pytest.raises(ValueError, match="expected seconds, at most 300"):
        rounded_agi.main([f"limit={limit}"])


def test_an_asterisk_that_closes_ends_it(pbx: Pbx) -> None:
    with listening() as (server, here), session(here, "did=1"):
        pbx.send(BLOCK + b"\n")
        connection, _ = server.accept()
        with connection:
            received(connection, b"\n\n")
            pbx.close()
            assert connection.recv(1) == b""


def test_a_block_without_an_end_is_passed_on_and_bounded(pbx: Pbx) -> None:
    with listening() as (server, here), session(here, "did=1"):
        pbx.send(BLOCK)
        pbx.close()
        connection, _ = server.accept()
        with connection:
            assert received(connection, b"\n\n").endswith(b"agi_threadid: x\n\n")


@pytest.mark.parametrize("argument", ["limit=soon", "daemon=127.0.0.1:x", "daemon=", "limit="])
def test_a_bad_argument_is_told(pbx: Pbx, argument: str) -> None:
    pbx.send(BLOCK + b"\n")
    with pytest.raises(ValueError, match=r"could not convert|invalid literal"):
        rounded_agi.main([argument, "did=1"])


def test_what_comes_after_the_first_argument_is_no_option_of_ours() -> None:
    """As after a comma in a caller's number."""
    options, query = rounded_agi.parsed(["limit=2", "from=x", "daemon=127.0.0.9:1", "a\nb=\udce9"])
    assert options == {"limit": "2"}
    assert query == b"from=x&daemon=127.0.0.9:1&a%0Ab=%E9"
    options, query = rounded_agi.parsed(["domain=acme.example", "accountcode=47 11", "did=1"])
    assert (options, query) == ({}, b"domain=acme.example&accountcode=47%2011&did=1")


@pytest.mark.parametrize(
    "forged",
    [
        b"agi_arg_1: daemon=127.0.0.9:1\n",
        b"agi_arg_1: did=+1\n\n",
        b"agi_network_script: stage?did=+1\n",
    ],
)
def test_lines_of_a_callers_change_no_argument(pbx: Pbx, forged: bytes) -> None:
    number = b"agi_callerid: x\n"
    assert number in BLOCK
    with listening() as (server, here), session(here, "did=+33612345678"):
        pbx.send(BLOCK.replace(number, number + forged) + b"\n")
        connection, _ = server.accept()
        with connection:
            sent = received(connection, b"\n\n" if forged.endswith(b"\n\n") else b"x\n\n")
            with contextlib.suppress(ProtocolError):  # it is refused, or it is ours
                environment = agi.Environment.parse(sent.partition(b"\n\n")[0])
                assert agi.arguments(environment).values["did"] == "+33612345678"
            connection.sendall(b'SET VARIABLE ROUNDED_STATUS "ERROR"\n')
