"""The processes that a benchmark starts: the API at a distance, and the daemon."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"

#: Two DIDs, which differ in what the staging waits for.
CONFIG = """\
accounts: {{default: {{key_env: ROUNDED_API_KEY}}}}
api: {{base_url: "{url}", ca_file: "{ca_file}", warm: {warm}}}
calls: {{deadline: {deadline}}}
numbers: {{country: FR}}
routes:
  - {{name: none, did: "+33612345678", agent_id: {agent}, wait: none}}
  - {{name: poll, did: "+33612345679", agent_id: {agent}, wait: poll}}
"""


@dataclass(frozen=True)
class Api:
    """The stub of the API: its URL, and the certificate that it is known by."""

    url: str
    ca_file: Path


@contextlib.contextmanager
def stub(folder: Path, round_trip: float) -> Iterator[Api]:
    """The API over HTTPS at a distance of ``round_trip`` milliseconds."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.parts.stub", str(folder), str(round_trip)]
    process = subprocess.Popen(command, cwd=ROOT)
    port = folder / "port"
    try:
        while not (port.exists() and port.read_text()):
            time.sleep(0.05)
        yield Api(f"https://127.0.0.1:{port.read_text()}", folder / "ca.pem")
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def daemon(folder: Path, api: Api, *, warm: int = 16, deadline: float = 1.5) -> Iterator[int]:
    """The daemon on FastAGI's usual port, its connections open; its pid."""
    file, log = folder / "config.yml", folder / "daemon.log"
    file.write_text(
        CONFIG.format(url=api.url, ca_file=api.ca_file, warm=warm, deadline=deadline, agent=AGENT)
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rounded_pbx", "serve", "--config", str(file)],
            env={**os.environ, "ROUNDED_API_KEY": "k"},
            stderr=output,
        )
    try:
        while not re.search("FastAGI listens", log.read_text()):
            if process.poll() is not None:
                sys.exit(f"the daemon does not start: {log.read_text()}")
            time.sleep(0.05)
        time.sleep(1.5)  # it opens its connections
        yield process.pid
    finally:
        process.terminate()
        process.wait()
