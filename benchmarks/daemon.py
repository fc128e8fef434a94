"""One daemon process under load: FastAGI sessions in, stagings over HTTPS out.

``python -m benchmarks.daemon [--seconds S] [--output FOLDER]``

The API is 40 ms away and stages at once (``wait: none``). Milliseconds are those of a whole
session, from connect to the last reply. Beside what stands in the README's table, what a cold
daemon makes of the same load, so that the figures have something to be compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns

from .parts.agi import STAGE, Load, load, saturate
from .parts.measure import cpu_seconds, percentile, resident_mb
from .parts.processes import FASTAGI, Api, daemon, stub

ROUND_TRIP = 40
#: The API while 2,000 sessions wait for it, in milliseconds, and the deadline beyond it in seconds.
SLOW, PATIENT = 3000, 5.0


@dataclass(frozen=True)
class Row:
    """A load, and what came of it."""

    load: str
    calls: int
    with_id: int
    p50: float
    p99: float
    longest: float
    cpu_ms: float
    rate: float


def measured(name: str, pid: int, run: Callable[[], Coroutine[Any, Any, Load]]) -> Row:
    before = cpu_seconds(pid)
    result = asyncio.run(run())
    cpu = cpu_seconds(pid) - before
    calls = len(result.milliseconds)
    return Row(
        name,
        calls + result.failed,
        result.with_id,
        percentile(result.milliseconds, 0.5),
        percentile(result.milliseconds, 0.99),
        max(result.milliseconds),
        cpu / calls * 1000,
        calls / result.seconds,
    )


def latencies(folder: Path, api: Api, seconds: int, console: Console) -> list[Row]:
    """Loads at a rate, on warm connections and on none."""
    rows = []
    for warm, loads in {
        16: [("200 calls within a second, 16 warm", 200, 200.0)],
        32: [
            (f"300 calls a second for {seconds} s, 32 warm", 300 * seconds, 300.0),
            ("200 calls at one instant, 32 warm", 200, 0.0),
        ],
        0: [("200 calls within a second, none warm", 200, 200.0)],
    }.items():
        with daemon(folder, api, warm=warm) as pid:
            for name, calls, rate in loads:
                console.print(f"[dim]{name}[/]")
                run = partial(load, FASTAGI, [STAGE] * calls, rate)
                rows.append(measured(name, pid, run))
    return rows


def saturation(folder: Path, api: Api, seconds: int, console: Console) -> Row:
    """As many stagings as one process does, 64 sessions at any time."""
    name = f"saturation: 64 sessions at any time for {seconds} s"
    console.print(f"[dim]{name}[/]")
    with daemon(folder, api, warm=64) as pid:
        return measured(name, pid, lambda: saturate(FASTAGI, 64, seconds))


def memory(folder: Path, console: Console) -> dict[str, float]:
    """2,000 sessions in flight over 200 connections to an API that takes its time."""
    console.print("[dim]2,000 sessions in flight, 200 connections[/]")

    async def run(pid: int) -> tuple[Load, float]:
        loading, most = asyncio.ensure_future(load(FASTAGI, [STAGE] * 2000, 0.0)), 0.0
        while not loading.done():
            await asyncio.sleep(0.1)
            most = max(most, resident_mb(pid))
        return loading.result(), most

    with (
        stub(folder / "slow", SLOW) as api,
        daemon(folder, api, warm=199, deadline=PATIENT) as pid,
    ):
        before = resident_mb(pid)
        result, most = asyncio.run(run(pid))
    return {
        "sessions": len(result.milliseconds),
        "idle_mb": round(before),
        "most_mb": round(most),
        "longest_ms": round(max(result.milliseconds)),
        "deadline_ms": PATIENT * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each long load")
    parser.add_argument("--output", type=Path, help="a folder for daemon.json")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stub(folder / "api", ROUND_TRIP) as api:
            rows = latencies(folder, api, options.seconds, console)
            rows.append(saturation(folder, api, options.seconds, console))
        used = memory(folder, console)
    show(rows, used, console)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        data = {
            "round_trip_ms": ROUND_TRIP,
            "rows": [
                {k: round(v, 2) if isinstance(v, float) else v for k, v in vars(row).items()}
                for row in rows
            ],
            "memory": used,
        }
        (options.output / "daemon.json").write_text(json.dumps(data, indent=1) + "\n")


def show(rows: list[Row], used: dict[str, float], console: Console) -> None:
    table = Table(title=f"One daemon, HTTPS, API {ROUND_TRIP} ms away, wait: none", box=None)
    table.add_column("load")
    for column in ("ids", "p50 ms", "p99 ms", "longest", "calls/s", "CPU ms/call", "calls/CPU s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.load,
            f"{row.with_id}/{row.calls}",
            *(f"{value:.1f}" for value in (row.p50, row.p99, row.longest)),
            f"{row.rate:.0f}",
            f"{row.cpu_ms:.2f}",
            f"{1000 / row.cpu_ms:.0f}",
        )
    console.print(table)
    console.print(
        f"{used['sessions']:.0f} sessions in flight over 200 connections: {used['most_mb']:.0f} MB "
        f"({used['idle_mb']:.0f} MB before); the last one ended after {used['longest_ms']:.0f} ms, "
        f"its deadline was {used['deadline_ms']:.0f} ms."
    )


if __name__ == "__main__":
    main()
