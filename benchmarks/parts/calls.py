"""SIP calls through a switch at a rate, and how long each took from INVITE in to INVITE out."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from .measure import Row

CALLER, TRUNK = "127.0.0.2", "127.0.0.3"
TURNS = 4

_RTP = 4000
_SDP = (
    "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
    f"m=audio {_RTP} RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
)


@dataclass
class Placed:
    """Milliseconds from each INVITE in to its INVITE out, and to its 183; how many had an id."""

    latencies: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    with_id: int = 0


def free_port() -> int:
    """A port for the trunk."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((TRUNK, 0))
        return int(probe.getsockname()[1])


def _header(text: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


class Trunk(asyncio.DatagramProtocol):
    """Answers, and notes when the INVITE of each caller came, and with which id."""

    def __init__(self) -> None:
        self.invites: dict[str, tuple[float, str]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        now = asyncio.get_running_loop().time()
        text = data.decode("utf-8", "replace")
        method = text.split(" ", 1)[0]
        if method == "ACK" or method.startswith("SIP/"):
            return
        body = ""
        if method == "INVITE":
            number = re.search(r"<sip:(\+\d+)@", _header(text, "From"))
            if number:
                self.invites.setdefault(number[1], (now, _header(text, "X-Rounded-Call-Id")))
            body = _SDP.format(host=TRUNK)
        kept = "".join(
            f"{line}\r\n"
            for line in text.split("\r\n\r\n")[0].split("\r\n")[1:]
            if re.match("(Via|From|Call-ID|CSeq):", line)
        )
        to = _header(text, "To")
        to += "" if ";tag=" in to else ";tag=t"
        port = self.transport.get_extra_info("sockname")[1]
        self.transport.sendto(
            f"SIP/2.0 200 OK\r\n{kept}To: {to}\r\nContact: <sip:t@{TRUNK}:{port}>\r\n"
            f"{'Content-Type: application/sdp' + chr(13) + chr(10) if body else ''}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode(),
            peer,
        )


class Caller(asyncio.DatagramProtocol):
    """Places calls and hangs up as soon as they are answered."""

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        self.finals: dict[str, int] = {}
        self.dialled: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.here = f"{CALLER}:{transport.get_extra_info('sockname')[1]}"

    def send(self, method: str, call: str, to: str, sequence: int, body: str = "") -> None:
        did = self.dialled[call]
        kind = "Content-Type: application/sdp\r\n" if body else ""
        self.transport.sendto(
            f"{method} sip:{did}@127.0.0.1:5060 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.here};branch=z9hG4bK{call[1:]}{method}\r\n"
            f'From: "Bench" <sip:{call}@{CALLER}>;tag=c{call[1:]}\r\nTo: {to}\r\n'
            f"Call-ID: {call[1:]}@bench\r\nCSeq: {sequence} {method}\r\n"
            f"Contact: <sip:c@{self.here}>\r\nMax-Forwards: 70\r\n{kind}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode(),
            ("127.0.0.1", 5060),
        )

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        text = data.decode("utf-8", "replace")
        status = re.match(r"SIP/2\.0 (\d+)", text)
        call = "+" + _header(text, "Call-ID").partition("@")[0]
        if status is not None and status[1] == "183":
            self.heard.setdefault(call, asyncio.get_running_loop().time())
        if status is None or int(status[1]) < 200 or "INVITE" not in _header(text, "CSeq"):
            return
        to = _header(text, "To")
        self.send("ACK", call, to, 1)
        if call not in self.finals:
            self.finals[call] = int(status[1])
            if status[1] == "200":
                self.send("BYE", call, to, 2)


async def place(did: str, count: int, rate: float, trunk_port: int, first: int) -> Placed:
    """Calls to ``did``, ``rate`` a second, from the caller's numbers ``first`` and on."""
    loop = asyncio.get_running_loop()
    to_trunk, trunk = await loop.create_datagram_endpoint(Trunk, (TRUNK, trunk_port))
    to_caller, caller = await loop.create_datagram_endpoint(Caller, (CALLER, 0))
    begun: dict[str, float] = {}
    # Nobody reads what the callers hear: the kernel drops it, and answers nothing to the switch.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
        ears.bind((CALLER, _RTP))
        start = loop.time()
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
            call = f"+331{first + number:08d}"
            caller.dialled[call] = did
            begun[call] = loop.time()
            caller.send("INVITE", call, f"<sip:{did}@127.0.0.1>", 1, _SDP.format(host=CALLER))
        end = loop.time() + 8
        while len(trunk.invites) < count and loop.time() < end:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
    to_trunk.close()
    to_caller.close()
    return Placed(
        [(at - begun[call]) * 1000 for call, (at, _) in trunk.invites.items() if call in begun],
        [(at - begun[call]) * 1000 for call, at in caller.heard.items()],
        sum(bool(call_id) for _, call_id in trunk.invites.values()),
    )


def in_turns(
    ways: Mapping[str, str],
    calls: int,
    call: Callable[[str, int, int], Placed],
    cpu: Callable[[], float],
    first: int,
) -> list[Row]:
    """Every way in turns, ``calls`` of each or a few more; ``first`` as for ``place``."""
    rows = {way: Row(way) for way in ways}
    turns = min(TURNS, calls)
    per_turn = -(-calls // turns)
    for turn in range(turns):
        for number, (way, did) in enumerate(ways.items()):
            before = cpu()
            placed = call(did, per_turn, first + 100_000 * turn + 10_000 * number)
            row = rows[way]
            row.cpu_seconds += cpu() - before
            row.calls += per_turn
            row.latencies += placed.latencies
            row.heard += placed.heard
            row.with_id += placed.with_id
    return list(rows.values())
