"""A SIP caller on a bare socket who keeps dialogs, for what SIPp scenarios cannot tie together."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import uuid
from collections.abc import Iterator

from .asterisk import CALLER, PBX
from .processes import wait_until

SDP = (
    f"v=0\r\no=- 1 1 IN IP4 {CALLER}\r\ns=-\r\nc=IN IP4 {CALLER}\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
)
DID = "+33612345678"


class Call:
    """One call: what was received of it, and requests within it."""

    def __init__(self, line: Line, headers: str, name: str, user: str) -> None:
        self.id, self.tag = uuid.uuid4().hex, uuid.uuid4().hex[:10]
        self.received: list[str] = []
        self._line, self._from = line, f'"{name}" <sip:{user}@{CALLER}>;tag={self.tag}'
        self._to, self._sequence = f"<sip:{DID}@{PBX}>", 1
        line.calls[self.id] = self
        self._send("INVITE", 1, headers, SDP)

    @property
    def their_tag(self) -> str:
        return self._to.partition(";tag=")[2]

    @property
    def final(self) -> int:
        """The final status of the INVITE, or 0."""
        found = [re.match(r"SIP/2\.0 ([2-6]\d\d)(?s:.*)CSeq: 1 INVITE", m) for m in self.received]
        return next((int(match[1]) for match in found if match), 0)

    @property
    def over(self) -> bool:
        return self.final >= 300 or any(m.startswith("BYE") for m in self.received)

    def request(self, method: str, headers: str = "") -> None:
        self._sequence += 1
        self._send(method, self._sequence, headers)

    def receive(self, message: str) -> None:
        self.received.append(message)
        if not message.startswith("SIP/2.0"):
            self._line.send(
                "SIP/2.0 200 OK\r\n"
                + "".join(re.findall(r"(?m)^(?:Via|From|To|Call-ID|CSeq):.*\r\n", message))
                + "Content-Length: 0\r\n\r\n"
            )
        elif " INVITE" in message and not message.startswith("SIP/2.0 100"):
            self._to = re.search(r"(?m)^To: (.*?)\r$", message)[1]  # type: ignore[index]
            if re.match(r"SIP/2\.0 [2-6]", message):
                self._send("ACK", 1, branch="ACK" if " 200 " in message[:12] else "INVITE")

    def _send(
        self, method: str, sequence: int, headers: str = "", body: str = "", branch: str = ""
    ) -> None:
        content = f"Content-Type: application/sdp\r\n{headers}" if body else headers
        self._line.send(
            f"{method} sip:{DID}@{PBX}:5060 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self._line.here};rport;"
            f"branch=z9hG4bK{self.tag}{branch or method}{sequence}\r\n"
            f"From: {self._from}\r\nTo: {self._to}\r\nCall-ID: {self.id}\r\n"
            f"CSeq: {sequence} {method}\r\nContact: <sip:c@{self._line.here}>\r\n"
            f"Max-Forwards: 70\r\n{content}Content-Length: {len(body)}\r\n\r\n{body}"
        )


class Line:
    """A socket with the calls on it."""

    def __init__(self, wire: socket.socket, port: int) -> None:
        self._port = port
        self.calls: dict[str, Call] = {}
        self.here = f"{CALLER}:{wire.getsockname()[1]}"
        self._wire = wire

    def send(self, text: str) -> None:
        self._wire.sendto(text.encode(), (PBX, self._port))

    def call(self, headers: str = "", name: str = "Ann", user: str = "+33145678901") -> Call:
        """Place a call, and wait until it is answered or refused."""
        placed = Call(self, headers, name, user)
        wait_until(lambda: placed.final, "a final answer")
        return placed

    def read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._wire.recv(65535):
                message = data.decode("utf-8", "replace")
                found = re.search(r"(?m)^Call-ID: (.*?)\r$", message)
                if found and found[1] in self.calls:
                    self.calls[found[1]].receive(message)


@contextlib.contextmanager
def line(port: int = 5060) -> Iterator[Line]:
    """A caller who calls that port of the switch's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind((CALLER, 0))
        opened = Line(wire, port)
        reader = threading.Thread(target=opened.read, daemon=True)
        reader.start()
        yield opened
        for call in opened.calls.values():
            if not call.over:
                call.request("BYE")
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)
        reader.join(5)
