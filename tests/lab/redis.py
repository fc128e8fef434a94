"""A real Redis that keeps nothing on disk, frozen, killed and started again as a test wants it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .processes import end, free_port, wait_until

CACHE = Path(os.environ.get("ROUNDED_PBX_CACHE", Path(__file__).parents[2] / ".cache"))


@dataclass
class RedisServer:
    """The process; ``url`` is without its password."""

    command: list[str]
    port: int
    password: str
    running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/1"

    def start(self) -> None:
        self.running = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_until(lambda: self.ask("PING"), "Redis to answer")

    def signal(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def pause(self) -> None:
        """It accepts, and answers nobody."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.running is not None
        self.running.wait()
        self.running = None

    def ask(self, command: str) -> str:
        """The reply to an inline command, at most a kilobyte; nothing where there is none."""
        login = f"AUTH {self.password}\r\n" if self.password else ""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection,
        ):
            connection.sendall(f"{login}{command}\r\n".encode())
            reply = (
                connection.recv(1024).decode(errors="replace").removeprefix("+OK\r\n" * bool(login))
            )
            return reply or connection.recv(1024).decode(errors="replace")
        return ""


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, password: str = "") -> Iterator[RedisServer]:
    """A Redis on a free port of loopback, with its database 1 for the daemons."""
    program = shutil.which("redis-server") or shutil.which("redis-server", path=CACHE / "redis")
    if program is None:
        pytest.skip("no Redis: put redis-server on PATH, or scripts/unpack redis")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no", *options]
    command += ["--requirepass", password] if password else []
    started = RedisServer(command, port, password)
    try:
        started.start()
        yield started
    finally:
        if started.running is not None:
            started.resume()
            end(started.running)
