"""How soon a classic AGI script has reached the daemon, beside a bare interpreter's start.

``python -m benchmarks.script [--calls N] [--output FOLDER]``

Each way starts a process as Asterisk does, writes the environment block, and is timed until its
connection is accepted; a bare interpreter until it has ended. The ways in turns, in one run.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .parts.agi import environment
from .parts.measure import percentile
from .parts.processes import ROOT

BARE = "a bare interpreter"
# The same work with the client that one would take.
HTTPX = """
import sys
import httpx
for line in sys.stdin:
    if not line.strip():
        break
try:
    httpx.get(sys.argv[1], timeout=1)
except httpx.HTTPError:
    pass
"""


def reached(command: list[str], server: socket.socket) -> float:
    """Milliseconds from its start until it has connected."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(without_network())
        process.stdin.flush()
        connection, _ = server.accept()
        took = (time.perf_counter() - begun) * 1000
        connection.close()
        process.stdin.close()
    return took


def without_network() -> bytes:
    lines = [line for line in environment().split(b"\n") if line and b"agi_network" not in line]
    return b"\n".join([*lines, b"", b""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=60, help="starts of each way")
    parser.add_argument("--output", type=Path, help="a folder for script.json")
    options = parser.parse_args()
    took: dict[str, list[float]] = defaultdict(list)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=16) as server,
        tempfile.NamedTemporaryFile("w", suffix=".py") as script,
    ):
        server.settimeout(10)
        script.write(HTTPX)
        script.flush()
        here = f"127.0.0.1:{server.getsockname()[1]}"
        ways = {
            "rounded-agi": [
                sys.executable,
                "-IS",
                str(ROOT / "rounded_pbx/rounded_agi.py"),
                f"daemon={here}",
            ],
            "the same with httpx": [sys.executable, script.name, f"http://{here}/"],
        }
        for _ in range(options.calls):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            took[BARE].append((time.perf_counter() - begun) * 1000)
            for way, command in ways.items():
                took[way].append(reached(command, server))
    rows = [
        {"way": way, "p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)}
        for way, values in took.items()
    ]
    table = Table(title="From its start until the daemon has its connection", box=None)
    for column in ("way", "p50 ms", "p99 ms", "times a bare interpreter"):
        table.add_column(column, justify="left" if column == "way" else "right")
    bare = percentile(took[BARE], 0.5)
    for way, values in took.items():
        median = percentile(values, 0.5)
        table.add_row(
            way, f"{median:.1f}", f"{percentile(values, 0.99):.1f}", f"{median / bare:.2f}"
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "script.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
