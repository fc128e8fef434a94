"""Viewers of the status page, which read what they are told and do nothing with it.

``python -m benchmarks.parts.viewers PORT COUNT`` follows the page's stream COUNT times, and says so
once all have begun.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator

from .processes import ROOT

_REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def viewers(port: int, count: int) -> Iterator[None]:
    """So many viewers, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.parts.viewers", str(port), str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"following\n"
            yield
        finally:
            process.terminate()


def main(port: int, count: int) -> None:
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            follows = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            follows.sendall(_REQUEST)
            begun = b""
            while b"data: " not in begun:
                begun += (heard := follows.recv(1 << 20))
                assert heard, f"no stream: {begun!r}"
            selector.register(follows, selectors.EVENT_READ, follows)
        print("following", flush=True)
        while True:
            for key, _ in selector.select():
                assert key.data.recv(1 << 20), "the stream has ended"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
