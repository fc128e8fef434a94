"""As much SIP over UDP as it takes to place a call, and to answer one, on loopback.

A caller and a callee for the demonstration and the doctor: no authentication, no media. They are
no stack for real calls; those are the switch's business. And an OPTIONS, to see who is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .config_types import Address
from .errors import ProtocolError


@dataclass(frozen=True, slots=True)
class SipMessage:
    """A request or a response: its first line and its headers, in their order."""

    first_line: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, datagram: bytes) -> SipMessage:
        """A datagram's message.

        Raises:
            ProtocolError: it is none.
        """
        head = datagram.decode("utf-8", "replace").partition("\r\n\r\n")[0]
        first, *lines = re.sub(r"\r\n[ \t]+", " ", head).split("\r\n")
        pairs = [line.partition(":") for line in lines]
        if "SIP/2.0" not in first or not all(colon for _, colon, _ in pairs):
            raise ProtocolError("a datagram that is no SIP message")
        return cls(first, tuple((name.strip(), value.strip()) for name, _, value in pairs))

    @property
    def method(self) -> str:
        """The method of a request; of a response, the one that it answers."""
        if self.status is None:
            return self.first_line.split(" ", 1)[0]
        return self.header("CSeq").rpartition(" ")[2]

    @property
    def status(self) -> int | None:
        """The status of a response."""
        match = re.match(r"SIP/2\.0 ([1-6][0-9]{2})", self.first_line)
        return int(match[1]) if match else None

    def header(self, name: str) -> str:
        """The first header of this name, or nothing."""
        return next((value for value in self.all(name)), "")

    def all(self, name: str) -> list[str]:
        """Every header of this name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


def _message(first_line: str, headers: list[tuple[str, str]], body: str = "") -> bytes:
    if body:
        headers = [*headers, ("Content-Type", "application/sdp")]
    lines = [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([first_line, *lines, f"Content-Length: {len(body)}", "", body]).encode()


def _sdp(host: str) -> str:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        "m=audio 4000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
    )


class _Endpoint(asyncio.DatagramProtocol):
    """A UDP socket that takes SIP messages, and leaves out what is none."""

    def __init__(self) -> None:
        self.here = Address("127.0.0.1", 0)

    async def listen(self, host: str, port: int = 0) -> Self:
        """Take a port, or a free one.

        Raises:
            OSError: somebody else has it.
        """
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, (host, port))
        self.here = Address(*self.transport.get_extra_info("sockname")[:2])
        return self

    def close(self) -> None:
        """Close the socket."""
        self.transport.close()

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        """Called by asyncio."""
        try:
            message = SipMessage.parse(data)
        except ProtocolError:
            return
        if message.status is None:
            self.on_request(message, peer)
        else:
            self.on_response(message, peer)

    def on_request(self, message: SipMessage, peer: tuple[str, int]) -> None:
        """A request came; anything but an ACK wants an answer."""
        if message.method != "ACK":
            self.answer(message, peer, "200 OK")

    def on_response(self, message: SipMessage, peer: tuple[str, int]) -> None:
        """A response came."""

    def answer(
        self, request: SipMessage, peer: tuple[str, int], status: str, body: str = ""
    ) -> None:
        """Answer a request."""
        to = request.header("To")
        if ";tag=" not in to and not status.startswith("100"):
            to += f";tag={self.here.port}"
        headers = [("Via", via) for via in request.all("Via")]
        headers += [("From", request.header("From")), ("To", to)]
        headers += [(name, request.header(name)) for name in ("Call-ID", "CSeq")]
        headers += [("Contact", f"<sip:{self.here}>")]
        self.transport.sendto(_message(f"SIP/2.0 {status}", headers, body), peer)


class Callee(_Endpoint):
    """Answers every call, and tells of each INVITE once."""

    def __init__(self, on_invite: Callable[[SipMessage], None]) -> None:
        super().__init__()
        self._on_invite = on_invite
        self._seen: set[str] = set()

    def on_request(self, message: SipMessage, peer: tuple[str, int]) -> None:
        """Answer, with a media description where it is an INVITE."""
        if message.method != "INVITE":
            super().on_request(message, peer)
            return
        if message.header("Call-ID") not in self._seen:
            self._seen.add(message.header("Call-ID"))
            self._on_invite(message)
        self.answer(message, peer, "200 OK", _sdp(self.here.host))


class Caller(_Endpoint):
    """Places one call, tells of every response, and hangs up."""

    def __init__(self, on_response: Callable[[SipMessage], None]) -> None:
        super().__init__()
        self._on_response = on_response
        self._final: asyncio.Future[SipMessage] = asyncio.get_running_loop().create_future()
        self._tag, self._call_id = uuid.uuid4().hex[:8], uuid.uuid4().hex
        self._peer = Address("127.0.0.1", 5060)
        self._headers: list[tuple[str, str]] = []

    async def call(
        self,
        switch: Address,
        did: str,
        *,
        name: str,
        number: str,
        headers: tuple[str, str] = ("", ""),
    ) -> SipMessage:
        """Call ``did`` on a switch; the final response."""
        self._peer = switch
        self._headers = [headers] if headers[0] else []
        self._uri = f"sip:{did}@{switch}"
        self._from = f'"{name}" <sip:{number}@{self.here.host}>;tag={self._tag}'
        self._send("INVITE", f"<{self._uri}>", 1, _sdp(self.here.host))
        return await self._final

    def hang_up(self) -> None:
        """End the call that was answered."""
        self._send("BYE", self._final.result().header("To"), 2)

    def on_response(self, message: SipMessage, peer: tuple[str, int]) -> None:
        """Acknowledge a final response to the INVITE."""
        if message.method != "INVITE" or message.status is None:
            return
        if message.status >= 200:
            self._send("ACK", message.header("To"), 1)
        if not self._final.done():
            self._on_response(message)
            if message.status >= 200:
                self._final.set_result(message)

    def _send(self, method: str, to: str, sequence: int, body: str = "") -> None:
        headers = [
            ("Via", f"SIP/2.0/UDP {self.here};rport;branch=z9hG4bK{self._tag}{method}"),
            ("From", self._from),
            ("To", to),
            ("Call-ID", self._call_id),
            ("CSeq", f"{sequence} {method}"),
            ("Contact", f"<sip:{self.here}>"),
            ("Max-Forwards", "70"),
            *(self._headers if method == "INVITE" else []),
        ]
        peer = (self._peer.host, self._peer.port)
        self.transport.sendto(_message(f"{method} {self._uri} SIP/2.0", headers, body), peer)


class _Pinger(asyncio.DatagramProtocol):
    """Waits for one answer, or for the news that nobody is there."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[SipMessage] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(ProtocolError):
            message = SipMessage.parse(data)
            if message.status is not None and not self.answer.done():
                self.answer.set_result(message)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def ping(host: str, port: int, *, limit: float = 2.0) -> SipMessage:
    """What a SIP server answers to OPTIONS, over UDP; any answer says that it is there.

    Raises:
        OSError: there is no such host, or nothing listens there.
        TimeoutError: it said nothing within ``limit`` seconds, as some do.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limit):
        transport, pinger = await loop.create_datagram_endpoint(_Pinger, remote_addr=(host, port))
        try:
            here = Address(*transport.get_extra_info("sockname")[:2])
            tag = uuid.uuid4().hex[:12]
            headers = [
                ("Via", f"SIP/2.0/UDP {here};rport;branch=z9hG4bK{tag}"),
                ("From", f"<sip:doctor@{here}>;tag={tag}"),
                ("To", f"<sip:{host}:{port}>"),
                ("Call-ID", uuid.uuid4().hex),
                ("CSeq", "1 OPTIONS"),
                ("Max-Forwards", "70"),
            ]
            request = _message(f"OPTIONS sip:{host}:{port} SIP/2.0", headers)
            while True:
                transport.sendto(request)
                done, _ = await asyncio.wait({pinger.answer}, timeout=0.5)
                if done:
                    return pinger.answer.result()
        finally:
            transport.close()
            pinger.answer.cancel()
