"""A thousand bad connections leave no task, no file descriptor and no slowed neighbour."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, create_connection, socket
from struct import pack
from typing import Any

import pytest

from rounded_pbx.config_types import Address
from rounded_pbx.handler import Desk
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.routing import Next, RouteTable
from rounded_pbx.servers.fastagi import FastAgiApplication
from rounded_pbx.servers.listener import Listener, is_allowed

from . import test_fastagi, test_outbound
from .helpers import FakeTickets
from .test_esl_protocol import described
from .test_fastagi import ROUTE, FakeStager, environment, serving
from .test_outbound import DID, NOTICES, SET, WHICH


def _close_at_once(peer: socket) -> None:
    peer.close()


def _reset_at_once(peer: socket) -> None:
    peer.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
    peer.close()


def _say_nothing(peer: socket) -> None:
    pass


def _flood(peer: socket) -> None:
    for _ in range(4):
        peer.sendall(b"agi_x: " + b"A" * 65536)


def _lines_without_end(peer: socket) -> None:
    for number in range(2000):
        peer.sendall(b"agi_key_%d: value\n" % number)


def _binary(peer: socket) -> None:
    peer.sendall(bytes(range(256)) * 64)


def _tls(peer: socket) -> None:
    peer.sendall(bytes.fromhex("16030100f8010000f40303") + os.urandom(240))


def _http(peer: socket) -> None:
    peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def _partial_line(peer: socket) -> None:
    peer.sendall(b"agi_network: yes\nagi_network_scr")
    peer.close()


def _partial_and_silent(peer: socket) -> None:
    peer.sendall(environment()[:-30])


def _never_reply(peer: socket) -> None:
    peer.sendall(environment())


def _reply_nonsense(peer: socket) -> None:
    peer.sendall(environment() + b"200 result=1\n" * 50 + b"\x00\xff" * 500)


def _block_without_end(peer: socket) -> None:
    for _ in range(5):
        peer.sendall(b"A: " + b"x" * 65536)


def _headers_without_end(peer: socket) -> None:
    for number in range(2000):
        peer.sendall(b"variable_%d: value\n" % number)


def _say_which(peer: socket) -> None:
    """Say which channel it is, and wait until the server asks for more."""
    peer.sendall(WHICH)
    while b"uuid_dump" not in peer.recv(4096):
        pass


def _half_a_block(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID)[:3000])
    peer.close()


def _half_a_block_and_silent(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID)[:-1])


def _channel_and_silent(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID))


def _channel_and_reset(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID))
    _reset_at_once(peer)


def _channel_and_nonsense(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID) + SET[:-1] + b"\x00\xff\n\n" * 500)


def _replies(peer: socket) -> None:
    peer.sendall(SET * 3000)


def _notices(peer: socket) -> None:
    _say_which(peer)
    peer.sendall(described(DID) + b"".join(NOTICES["async"]) * 1000)


def _huge_body(peer: socket) -> None:
    peer.sendall(b"Content-Length: 999999999\n\n" + b"x" * 65536)


ANYWHERE = (_close_at_once, _reset_at_once, _say_nothing, _binary, _tls, _http)


@dataclass(frozen=True)
class Kind:
    """A server, and those who are no switch."""

    serving: Callable[..., contextlib.AbstractAsyncContextManager[Any]]
    status: str
    bad: Sequence[Callable[[socket], None]]

    async def neighbour(self, server: Any) -> float:
        """How long a good session takes beside the bad ones."""
        begun = asyncio.get_running_loop().time()
        variables = await (await server.session()).variables()
        assert variables[self.status] == "STAGED"
        return asyncio.get_running_loop().time() - begun


KINDS = {
    "agi": Kind(
        test_fastagi.serving,
        "ROUNDED_STATUS",
        (
            *ANYWHERE,
            _flood,
            _lines_without_end,
            _partial_line,
            _partial_and_silent,
            _never_reply,
            _reply_nonsense,
        ),
    ),
    "esl": Kind(
        test_outbound.serving,
        "rounded_status",
        (
            *ANYWHERE,
            _block_without_end,
            _headers_without_end,
            _half_a_block,
            _half_a_block_and_silent,
            _channel_and_silent,
            _channel_and_reset,
            _channel_and_nonsense,
            _replies,
            _notices,
            _huge_body,
        ),
    ),
}


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _attack(
    address: Address,
    bad: Sequence[Callable[[socket], None]],
    connections: int,
    kept: list[socket],
    go_on: threading.Event,
) -> None:
    for number in range(connections):
        if not go_on.is_set():
            return
        with contextlib.suppress(OSError):
            peer = create_connection((address.host, address.port), timeout=5)
            kept.append(peer)
            with contextlib.suppress(OSError):
                bad[number % len(bad)](peer)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_thousand_bad_connections_leave_nothing_behind(kind: Kind) -> None:
    async with kind.serving(deadline=1.5) as server:
        before = statistics.median([await kind.neighbour(server) for _ in range(30)])
        descriptors, tasks = _descriptors(), len(asyncio.all_tasks())
        kept: list[socket] = []
        go_on = threading.Event()
        go_on.set()
        attack = threading.Thread(
            target=_attack, args=(server.address, kind.bad, 1000, kept, go_on)
        )
        attack.start()
        during = []
        while attack.is_alive():
            during.append(await kind.neighbour(server))
            await asyncio.sleep(0.02)
        attack.join()
        assert len(kept) == 1000
        async with asyncio.timeout(10):
            while server.listener.sessions:
                await asyncio.sleep(0.05)
        for peer in kept:
            peer.close()
        await asyncio.sleep(0.1)
        after = statistics.median([await kind.neighbour(server) for _ in range(30)])
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert _descriptors() <= descriptors + 2
    # The attackers' thread shares this interpreter with the server, hence the generous factor.
    assert len(during) >= 10
    assert statistics.median(during) < 20 * before + 0.02
    assert after < 3 * before + 0.005


async def test_beyond_the_cap_a_connection_is_closed_at_once() -> None:
    async with serving(max_connections=5) as server:
        silent = [await server.connect() for _ in range(5)]
        await asyncio.sleep(0.1)
        refused = await server.connect()
        with contextlib.suppress(ConnectionError):
            assert await refused.command() == ""
        for asterisk in silent:
            asterisk.writer.close()
        await asyncio.sleep(0.1)
        assert (await (await server.session()).variables())["ROUNDED_STATUS"] == "STAGED"


@pytest.mark.parametrize(("allow", "served"), [("127.0.0.2/32", False), ("127.0.0.1/32", True)])
async def test_only_allowed_networks_are_served(allow: str, served: bool) -> None:
    desk = Desk(RouteTable([ROUTE], "FR"), CallerPolicy(), FakeStager(), Next.DIAL, FakeTickets())
    listener = Listener(
        FastAgiApplication(lambda: desk).handler,
        deadline=1,
        allow=[ip_network(allow)],
        max_connections=5,
        longest_line=32768,
    )
    address = await listener.start(Address("127.0.0.1", 0))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(environment())
    line = b""
    with contextlib.suppress(ConnectionError):
        line = await asyncio.wait_for(reader.readline(), 3)
    assert line.endswith(b"\n") is served
    writer.transport.abort()
    await listener.close(patience=0)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("10.1.2.3", True),
        ("10.2.2.3", False),
        ("::ffff:127.0.0.1", True),  # an IPv4 peer of an IPv6 socket
        ("::ffff:8.8.8.8", False),
        ("::1", False),
        ("fe80::1%eth0", True),
    ],
)
def test_a_peer_is_known_by_its_address(host: str, allowed: bool) -> None:
    networks = [ip_network(text) for text in ("127.0.0.0/8", "10.1.0.0/16", "fe80::/64")]
    assert is_allowed(host, networks) is allowed
