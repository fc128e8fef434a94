"""A SIP caller on a bare socket, for INVITEs that SIPp would not send as they are written."""

from __future__ import annotations

import re
import socket
import time
import uuid

from .asterisk import CALLER, PBX


def invite(
    did: str = "+33612345678",
    from_user: str = "+33145678901",
    name: str = "Ann",
    headers: str = "",
    source: str = CALLER,
    limit: float = 20.0,
    port: int = 5060,
) -> int:
    """Place a call, hang up when it is answered, and return the final status."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind((source, 0))
        wire.settimeout(0.5)
        here = f"{source}:{wire.getsockname()[1]}"
        tag, call_id = uuid.uuid4().hex[:10], uuid.uuid4().hex

        def request(method: str, to: str, sequence: int, extra: str = "", body: str = "") -> None:
            text = (
                f"{method} sip:{did}@{PBX}:{port} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK{tag}{method}{sequence}\r\n"
                f'From: "{name}" <sip:{from_user}@{source}>;tag={tag}\r\n'
                f"To: {to}\r\nCall-ID: {call_id}\r\nCSeq: {sequence} {method}\r\n"
                f"Contact: <sip:c@{here}>\r\nMax-Forwards: 70\r\n{extra}"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            # What is beyond Latin-1 is meant as UTF-8, what is not, as the bare byte.
            encoding = "latin-1" if max(map(ord, text)) < 256 else "utf-8"
            wire.sendto(text.encode(encoding), (PBX, port))

        sdp = f"v=0\r\no=- 1 1 IN IP4 {CALLER}\r\ns=-\r\nc=IN IP4 {CALLER}\r\nt=0 0\r\n"
        sdp += "m=audio 6000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
        extra = "Content-Type: application/sdp\r\n" + (f"{headers}\r\n" if headers else "")
        to = f"<sip:{did}@{PBX}>"
        request("INVITE", to, 1, extra, sdp)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                answer = wire.recv(65535).decode("utf-8", "replace")
            except TimeoutError:
                continue
            status = re.match(r"SIP/2\.0 (\d{3})", answer)
            if status is None or int(status[1]) < 200:
                continue
            to = re.search(r"^To: (.*?)\r$", answer, re.MULTILINE)[1]  # type: ignore[index]
            if "1 INVITE" in answer:
                request("ACK", to, 1)
            if int(status[1]) == 200:
                time.sleep(0.1)
                request("BYE", to, 2)
                with_bye = time.monotonic() + 2
                while time.monotonic() < with_bye:
                    try:
                        if b"2 BYE" in wire.recv(65535):
                            break
                    except TimeoutError:
                        continue
            return int(status[1])
    raise AssertionError(f"no final answer to the INVITE in {limit} s")
