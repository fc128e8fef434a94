"""The processes that a benchmark starts: the API at a distance, and the daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rounded_pbx.demo.private import PrivateSwitch

ROOT = Path(__file__).parents[2]
AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
#: Where the daemon listens for Asterisk.
FASTAGI = 4573

#: Two DIDs, which differ in what the staging waits for.
CONFIG = """\
accounts: {{default: {{key_env: ROUNDED_API_KEY}}}}
api: {{base_url: "{url}", ca_file: "{ca_file}", warm: {warm}}}
calls: {{deadline: {deadline}}}
prestage: {{dropped_after: 600}}
numbers: {{country: FR}}
routes:
  - {{name: first, did: "+33612345678", agent_id: {agent}, wait: {wait}}}
  - {{name: poll, did: "+33612345679", agent_id: {agent}, wait: poll}}
"""


@dataclass(frozen=True)
class Api:
    """The stub of the API: its URL, and the certificate that it is known by."""

    url: str
    ca_file: Path


@contextlib.contextmanager
def stub(folder: Path, round_trip: float, staging: float = 0.0) -> Iterator[Api]:
    """The API over HTTPS at a distance of ``round_trip``, which takes ``staging`` milliseconds."""
    folder.mkdir()
    arguments = [str(folder), str(round_trip), str(staging)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.parts.stub", *arguments], cwd=ROOT
    )
    port = folder / "port"
    try:
        while not (port.exists() and port.read_text()):
            time.sleep(0.05)
        yield Api(f"https://127.0.0.1:{port.read_text()}", folder / "ca.pem")
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def running(arguments: Sequence[str], log: Path, ready: str) -> Iterator[int]:
    """A Python process, once its log says that it is ready; its pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "ROUNDED_API_KEY": "k"},
            stderr=output,
        )
    try:
        while ready not in log.read_text():
            if process.poll() is not None:
                sys.exit(f"{arguments[1]} does not start: {log.read_text()}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def daemon(
    folder: Path,
    api: Api,
    *,
    warm: int = 16,
    deadline: float = 1.5,
    wait: str = "none",
    program: Sequence[str] = ("rounded_pbx",),
) -> Iterator[int]:
    """The daemon on its usual ports, its connections open; its pid. ``wait``: of the first DID."""
    file = folder / "config.yml"
    given = {"warm": warm, "deadline": deadline, "wait": wait, "agent": AGENT}
    file.write_text(CONFIG.format(url=api.url, ca_file=api.ca_file, **given))
    command = ["-m", *program, "serve", "--config", str(file)]
    with running(command, folder / "daemon.log", "listening for freeswitch") as pid:
        time.sleep(1.5)  # it opens its connections
        yield pid


@dataclass(frozen=True)
class Subject:
    """A switch that is measured, made of a folder, the APIs by their distance, the trunk's port.

    ``ways`` has what is dialled for each way when the API is so many milliseconds away, the bare
    way first; ``rate`` is in calls a second; ``beside`` is a process that one of the ways needs.
    """

    name: str
    title: str
    find: Callable[[], Path | None]
    switch: Callable[[Path, Mapping[int, Api], int], PrivateSwitch]
    ways: Callable[[int], Mapping[str, str]]
    rate: float
    beside: Callable[[Path, Api], AbstractContextManager[int]] | None = None
