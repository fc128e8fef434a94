"""What the status page costs: its share of the CPU at 100 calls a second, with ten viewers.

``python -m benchmarks.status [--seconds S] [--turns N] [--output FOLDER]``

The daemon is measured whole, and of it, by a meter inside, what the page does: its answers and
streams, the telling, the calls that it notes. Two daemons, one without a page, would differ by less
than this machine's noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns

from .parts import metered
from .parts.agi import STAGE, load
from .parts.processes import FASTAGI, daemon, stub
from .parts.viewers import viewers

ROUND_TRIP = 40
RATE, VIEWERS = 100, 10
#: Where the daemon has its page.
PAGE = 9810


def cpu_ms(pid: int) -> float:
    """Milliseconds that the main thread of a process has run; ticks would be too coarse."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def measure(pid: int, meter: Path, seconds: int, turns: int) -> dict[str, list[float]]:
    """Milliseconds of CPU a second: of the daemon's main thread, and of the page in it."""
    found: dict[str, list[float]] = {"the daemon, its page included": [], "the page": []}
    for _ in range(turns):
        before, page, began = cpu_ms(pid), metered.read(meter), time.monotonic()
        result = asyncio.run(load(FASTAGI, [STAGE] * (RATE * seconds), RATE))
        took = time.monotonic() - began
        assert result.with_id == RATE * seconds, "a call without an id"
        spent = (cpu_ms(pid) - before, (metered.read(meter) - page) * 1000)
        for values, each in zip(found.values(), spent, strict=True):
            values.append(each / took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each turn")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--output", type=Path, help="a folder for status.json")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        meter = folder / "page"
        program = ("benchmarks.parts.metered", str(meter))
        with (
            stub(folder / "api", ROUND_TRIP) as api,
            daemon(folder, api, program=program) as pid,
            viewers(PAGE, VIEWERS),
        ):
            asyncio.run(load(FASTAGI, [STAGE] * (2 * RATE), RATE))
            figures = measure(pid, meter, options.seconds, options.turns)
    whole, page = figures.values()
    share = median(part / (all_of_it - part) for all_of_it, part in zip(whole, page, strict=True))
    table = Table(title=f"{RATE} calls a second, {VIEWERS} viewers: CPU, ms a second", box=None)
    table.add_column("what")
    for column in ("median", "least", "most"):
        table.add_column(column, justify="right")
    for what, values in figures.items():
        table.add_row(
            what, *(f"{value:.2f}" for value in (median(values), min(values), max(values)))
        )
    console.print(table)
    console.print(f"The page takes {share:.2%} of what the rest of the daemon does.")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        data = {
            "rate": RATE,
            "viewers": VIEWERS,
            "cpu_ms_a_second": {k: [round(v, 3) for v in each] for k, each in figures.items()},
            "share": round(share, 5),
        }
        (options.output / "status.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
