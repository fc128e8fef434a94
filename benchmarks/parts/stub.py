"""An API that stages, and a round trip put in front of it.

``python -m benchmarks.parts.stub DIRECTORY RTT_MS STAGING_MS`` listens with TLS on a free port,
writes that port and its certificate into DIRECTORY, and lets every byte take half a round trip each
way; a new connection waits two, as the handshakes of TCP and TLS would. A call is ``staged``
STAGING_MS after the POST has come. It does as little as it can, so that what is measured is whoever
calls it. A file ``fault`` in DIRECTORY makes it fail while it is there: ``503`` answers that,
``hang`` answers nothing, ``reset`` closes the connection.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import uuid
from pathlib import Path
from typing import cast

import trustme


class Stub(asyncio.Protocol):
    """HTTP/1.1, keep-alive: POST stages, GET says how far that is.

    Args:
        delay: seconds that a byte takes each way.
        staging: seconds until a call is staged.
        staged_at: when each call is, for all connections.
        faults: what goes wrong now, or nothing, for all connections.
    """

    def __init__(
        self, delay: float, staging: float, staged_at: dict[str, float], faults: list[str]
    ) -> None:
        self.delay = delay
        self.staging = staging
        self.staged_at = staged_at
        self.faults = faults
        self.buffer = b""
        self.ready_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        # A handshake of TCP and one of TLS 1.3 have not been waited for: two round trips.
        self.ready_at = self.loop.time() + 4 * self.delay

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        fault = self.faults[0]
        if fault == "reset":
            self.transport.abort()
        if fault in ("reset", "hang"):
            return
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            answer = self.answer(head)
            when = max(self.loop.time() + 2 * self.delay, self.ready_at + 2 * self.delay)
            if self.delay:
                self.loop.call_at(when, self.transport.write, answer)
            else:
                self.transport.write(answer)

    def answer(self, head: bytes) -> bytes:
        if self.faults[0] == "503":
            data: object = None
            status = "503 Service Unavailable"
        elif head.startswith(b"post /v1/calls/stage"):
            call_id = str(uuid.uuid4())
            if self.staging:
                self.staged_at[call_id] = self.loop.time() + self.staging
            data = {"call_id": call_id}
            status = "201 Created"
        elif head.startswith(b"get /v1/calls/"):
            call_id = head[14:50].decode()
            ready = self.staged_at.get(call_id, 0.0) <= self.loop.time()
            data, status = {"id": call_id, "status": "staged" if ready else "initiated"}, "200 OK"
        else:
            data, status = [], "200 OK"
        body = json.dumps({"message": "ok", "data": data, "error": None}).encode()
        return (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body


async def main(directory: Path, delay: float, staging: float) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    loop = asyncio.get_running_loop()
    staged_at: dict[str, float] = {}
    faults = [""]
    server = await loop.create_server(
        lambda: Stub(delay, staging, staged_at, faults), "127.0.0.1", 0, ssl=context, backlog=4096
    )
    (directory / "port").write_text(str(server.sockets[0].getsockname()[1]))
    fault = directory / "fault"
    while True:
        faults[0] = fault.read_text().strip() if fault.exists() else ""
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]) / 2000, float(sys.argv[3]) / 1000))
