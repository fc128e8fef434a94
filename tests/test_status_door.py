"""Who gets to see the status page: by its address, by the name it asks for, by its token."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
import time

import pytest

from rounded_pbx.config_status import STATUS_CONNECTIONS
from rounded_pbx.config_types import Address
from rounded_pbx.servers.status import (
    door,
    gate,
)

from .helpers import eventually
from .status_page import TOKEN, page, record

# By which name it is asked.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9810", 200),
        ("localhost.", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:9810", 200),
        ("127.3.4.5:1", 200),
        ("[::1]:9810", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("pbx.example.net:9810", 200),
        ("PBX.example.NET", 200),
        ("192.0.2.9", 200),
        ("evil.example.net", 421),
        ("evil.example.net:9810", 421),
        ("localhost.evil.example.net", 421),
        ("127.0.0.1.evil.example.net", 421),
        ("127.0.0.1@evil.example.net", 421),
        ("pbx.example.net.evil.example", 421),
        ("192.0.2.8", 421),
        ("0.0.0.0:9810", 421),
        ("[::ffff:192.0.2.8]", 421),
        ("[::1", 421),
        ("localhost:port", 421),
        ("localhost, evil", 421),
        ("2130706433", 421),
        ("", 421),
    ],
)
async def test_only_a_name_of_ours_is_answered_to(host: str, status: int) -> None:
    async with page(hosts=["pbx.example.net", "192.0.2.9"]) as shown:
        for path in ("/", "/events", "/metrics", "/healthz"):
            if status == 200 and path == "/events":
                continue
            answer = await shown.get(path, host=host)
            assert answer.status == status, path
            assert status == 200 or answer.body == b""


async def test_two_hosts_are_no_request() -> None:
    async with page() as shown:
        assert (await shown.get("/", "Host: evil.example.net")).status == 400


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("same-site", "cors", 403),
    ],
)
async def test_another_page_can_lead_here_and_take_nothing(
    site: str, mode: str, status: int
) -> None:
    async with page() as shown:
        headers = (f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")
        assert (await shown.get("/metrics", *headers)).status == status


# The token.


def basic(password: str, user: str = "admin") -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "header",
    [
        f"Authorization: Bearer {TOKEN}",
        f"authorization: bearer  {TOKEN}",
        basic(TOKEN),
        basic(TOKEN, user=""),
    ],
)
@pytest.mark.parametrize("path", ["/", "/metrics"])
async def test_the_token_lets_in(header: str, path: str) -> None:
    async with page(token=True) as shown:
        assert (await shown.get(path, header)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "X: y",
        "Authorization: Bearer",
        f"Authorization: Bearer {TOKEN}x",
        f"Authorization: Bearer {TOKEN[:-1]}",
        f"Authorization: Token {TOKEN}",
        f"Authorization: {TOKEN}",
        "Authorization: Bearer \xff\xfe",
        basic(""),
        basic(TOKEN.upper()),
        f"Authorization: Basic {TOKEN}",
        "Authorization: Basic ====",
        f"Cookie: token={TOKEN}",
    ],
)
@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/none"])
async def test_without_the_token_nothing_is_said(header: str, path: str) -> None:
    async with page(token=True) as shown:
        shown.watch.add(record(did="+33600000001"))
        answer = await shown.get(path + f"?token={TOKEN}", header)
    assert (answer.status, answer.body) == (401, b"A token is required\n")
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


async def test_a_balancer_needs_no_token() -> None:
    async with page(token=True) as shown:
        assert (await shown.get("/healthz")).status == 200
        assert (await shown.get("/readyz")).status == 200
        for path in ("//healthz", "/healthz/", "/healthz/../", "/%68ealthz/x", "/healthz;/metrics"):
            assert (await shown.get(path)).status == 401, path


async def test_wrong_tokens_are_slow_and_few_at_a_time() -> None:
    async with page(token=True) as shown:
        began = time.monotonic()
        tries = [shown.get("/", f"Authorization: Bearer {number}") for number in range(20)]
        answers = await asyncio.gather(*tries)
        statuses = sorted(answer.status for answer in answers)
        assert statuses == [401] * gate.TRIES + [429] * (20 - gate.TRIES)
        assert time.monotonic() - began >= gate.PENALTY
        assert (await shown.get("/", basic(TOKEN))).status == 200


async def test_whoever_does_not_wait_for_the_answer_has_no_more_tries() -> None:
    async with page(token=True) as shown:
        for _ in range(gate.TRIES):
            _, writer = await shown.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n")
            await asyncio.sleep(0.01)
            writer.transport.abort()
        assert (await shown.get("/", basic(TOKEN))).status == 429
        await asyncio.sleep(gate.PENALTY)
        assert (await shown.get("/", basic(TOKEN))).status == 200
        application = shown.server._config.app
        assert isinstance(application, gate.Gate)
        assert application._wrong == {}


async def test_a_stranger_who_guesses_locks_nobody_else_out() -> None:
    async with page(token=True) as shown:

        async def guess() -> None:
            loop = asyncio.get_running_loop()
            with socket.socket() as stranger:
                stranger.setblocking(False)
                stranger.bind(("127.0.0.9", 0))
                await loop.sock_connect(stranger, (shown.address.host, shown.address.port))
                await loop.sock_sendall(
                    stranger,
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n",
                )
                await loop.sock_recv(stranger, 100)

        guessing = [asyncio.ensure_future(guess()) for _ in range(40)]
        await asyncio.sleep(0.05)
        assert (await shown.get("/", basic(TOKEN))).status == 200
        await asyncio.gather(*guessing)


async def test_a_guess_whose_peer_has_left_before_it_is_read_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with page(token=True) as shown:
        application = shown.server._config.app
        assert isinstance(application, gate.Gate)
        with socket.create_connection((shown.address.host, shown.address.port)) as guess:
            guess.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n")
            # Reset before it is accepted: the system no longer knows whose it was.
            guess.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await eventually(lambda: bool(application._wrong))
        assert dict(application._wrong) == {"127.0.0.1": 1}
        await eventually(lambda: not application._wrong)
    assert not caplog.records


def test_a_network_of_ipv6_is_one_peer() -> None:
    assert door.peer_of("2001:db8::1") == door.peer_of("2001:db8::ffff:0:2%eth0") == "2001:db8::"
    assert door.peer_of("2001:db8:0:1::1") != door.peer_of("2001:db8::1")
    assert door.peer_of("::ffff:192.0.2.1") == door.peer_of("192.0.2.1") == "192.0.2.1"


# Who may connect, and for how long.


async def test_only_a_source_in_allow_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    async with page(allow=["127.0.0.7"], listen="127.0.0.7:0") as shown:
        shown.address = Address("127.0.0.7", shown.address.port)
        with socket.socket() as other:
            other.bind(("127.0.0.8", 0))
            for path in ("/", "/healthz"):
                with contextlib.suppress(ConnectionError):
                    assert await shown.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode()) == b""
        assert shown.server.refused == 2
    assert caplog.text.count("refused: not in status.allow") == 1


async def test_a_connection_that_asks_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "REQUEST_TIME", 0.2)
    async with page() as shown:
        for beginning in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: "):
            with contextlib.suppress(ConnectionError):
                assert await shown.raw(beginning, within=2.0) == b""


async def test_a_request_that_trickles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "REQUEST_TIME", 0.3)
    async with page() as shown:
        _, writer = await shown.connect()
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + 5:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 2


async def test_silent_connections_leave_room_for_others() -> None:
    async with page() as shown:
        held = [await shown.connect() for _ in range(door.MOST_OF_ONE)]
        await eventually(lambda: len(shown.server._door.connections) == door.MOST_OF_ONE)
        with contextlib.suppress(ConnectionError):
            assert await shown.raw(b"GET /healthz HTTP/1.0\r\n\r\n") == b""
        for path in ("/healthz", "/"):
            reader, writer = await asyncio.open_connection(
                shown.address.host, shown.address.port, local_addr=("127.0.0.9", 0)
            )
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
        for _, writer in held:
            writer.close()
        await eventually(lambda: not shown.server._door.connections)
        assert (await shown.get()).status == 200
        assert shown.server._door._peers == {}


async def test_there_are_never_more_connections_than_files_were_put_by_for() -> None:
    async with page() as shown:
        writers = []
        for number in range(STATUS_CONNECTIONS + 20):
            source = (f"127.0.1.{number % 4}", 0)
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection(
                    shown.address.host, shown.address.port, local_addr=source
                )
                writers.append(writer)
        await eventually(lambda: shown.server.refused == 20)
        assert len(shown.server._door.connections) == STATUS_CONNECTIONS
        for writer in writers:
            writer.transport.abort()


JUNK = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\r\n" * 1000,
    b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n X: folded\r\n\x00: y\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"".join(b"X%d: y\r\n" % number for number in range(20_000)),
    bytes(range(256)) * 200,
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
async def test_junk_harms_nobody(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with page() as shown:
        with contextlib.suppress(ConnectionError):
            await shown.raw(junk)
        assert (await shown.get()).status == 200
    assert not caplog.records


async def test_a_websocket_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async with page() as shown:
        answer = await shown.get(
            "/events", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            "Sec-Fetch-Site: cross-site",
        )  # fmt: skip
        assert answer.status == 403
    assert not caplog.records


async def test_junk_behind_a_request_that_is_being_answered_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with page() as shown:
        reader, writer = await shown.connect()
        writer.write(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        reader, writer = await shown.connect()
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\xff" * 100_000)
        await reader.readuntil(b"data: ")
        writer.write(b"\xff" * 100_000)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        assert (await shown.get()).status == 200
    assert not caplog.records


async def test_a_body_without_end_is_not_waited_for() -> None:
    async with page() as shown:
        reader, writer = await shown.connect()
        writer.write(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
            + bytes(1000)
        )
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 405")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await eventually(lambda: not shown.server._door.connections)
        assert not shown.server._door.connections
