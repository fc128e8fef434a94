"""Debian's HAProxy on the very file of docs/scale, and what its runtime socket tells."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .lan import PBX
from .processes import answers, end, free_port, wait_until

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("ROUNDED_PBX_CACHE", ROOT / ".cache"))
DOCUMENTED = ROOT / "docs" / "scale" / "haproxy.cfg"


def for_the_lab(text: str, runtime: int) -> str:
    """The documented file for a machine without the user haproxy, which is every host at once."""
    changes = {
        "    user haproxy\n": "",
        "    group haproxy\n": "",
        "    chroot /var/lib/haproxy\n": "",
        "maxconn 10000": "maxconn 4000",  # what a shell's limit of open files lets be
        "/run/haproxy/admin.sock mode 660": f"ipv4@127.0.0.1:{runtime}",
        "default-server inter": f"default-server source {PBX} inter",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is not in {DOCUMENTED}"
        text = text.replace(old, new)
    return text


@dataclass
class HAProxy:
    """The process."""

    directory: Path
    process: subprocess.Popen[bytes]
    runtime: int

    @property
    def log(self) -> str:
        return (self.directory / "haproxy.log").read_text()

    def ask(self, command: str) -> str:
        """The answer of the runtime socket."""
        with socket.create_connection(("127.0.0.1", self.runtime), timeout=5) as runtime:
            runtime.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: runtime.recv(65536), b"")).decode()

    def statuses(self) -> dict[str, str]:
        """What HAProxy thinks of each server: ``{"rounded_asterisk/a": "UP"}``."""
        rows = csv.DictReader(io.StringIO(self.ask("show stat").removeprefix("# ")))
        return {
            f"{row['pxname']}/{row['svname']}": row["status"]
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        }

    def is_up(self, server: str) -> bool:
        """Whether both listeners of a daemon get calls."""
        statuses = self.statuses()
        return all(
            statuses[f"{listener}/{server}"].startswith("UP")
            for listener in ("rounded_asterisk", "rounded_freeswitch")
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def haproxy(directory: Path) -> Iterator[HAProxy]:
    """HAProxy, once it has seen that both daemons are there."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path=CACHE / "haproxy")
    if program is None:
        pytest.skip("no HAProxy: put haproxy on PATH, or scripts/unpack haproxy")
    directory.mkdir()
    file = directory / "haproxy.cfg"
    runtime = free_port()
    file.write_text(for_the_lab(DOCUMENTED.read_text(), runtime))
    with (directory / "haproxy.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    started = HAProxy(directory, process, runtime)
    ports = (4573, 8084, runtime)
    try:
        wait_until(lambda: all(answers("127.0.0.1", each) for each in ports), "HAProxy to listen")
        wait_until(lambda: started.is_up("a") and started.is_up("b"), "the daemons to be found")
        yield started
    finally:
        process.send_signal(signal.SIGCONT)
        end(process)
