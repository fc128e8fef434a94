"""The daemon as systemd runs it: its sockets are held for it, and outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# The descriptor becomes the third one, and the pid is that of whoever takes it (sd_listen_fds(3)).
_HAND_OVER = 'exec 3<&"$0"; LISTEN_PID=$$ exec "$@"'
_HANDED_OVER = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "asterisk"}


class Service:
    """A daemon whose FastAGI socket is ours.

    Args:
        command: starts it.
        log: where it writes.
        environ: beside this process's own.
        address: where the socket listens; port 0 is a free one.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environ: Mapping[str, str],
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.socket = socket.create_server(address, backlog=1024)
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [str(word) for word in command]
        self._log = log
        self._environ = environ

    def start(self) -> None:
        """Start it; it may take calls only some time later."""
        place = self.socket.fileno()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", _HAND_OVER, str(place), *self._command],
                env={**os.environ, **_HANDED_OVER, **self._environ},
                pass_fds=[place],
                stdout=log,
                stderr=log,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it as systemd does, and wait until it has ended; its exit status."""
        if self.process is None:
            return 0
        self.signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        """End it, and hold its socket no more."""
        self.stop()
        self.socket.close()


def daemon_command(config: Path) -> list[str | Path]:
    """The command of a daemon."""
    return [sys.executable, "-m", "rounded_pbx", "serve", "--config", config]
