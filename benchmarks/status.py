"""What the status page costs: the daemon's CPU at 100 calls a second, with and without viewers.

``python -m benchmarks.status [--seconds S] [--turns N] [--output FOLDER]``

The daemon is measured whole, with ten viewers and with none, in turns; what two such figures differ
by is little more than this machine's noise. So the page is measured alone, too: its server, in a
process that does nothing else, is told of 100 calls a second and has ten viewers, or none, or is
left alone. The share is that of this second figure in the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns
from rounded_pbx.call import Switch
from rounded_pbx.config_status import Status
from rounded_pbx.records import CallRecord
from rounded_pbx.servers.status import AccountHealth, Facts, StatusServer
from rounded_pbx.watch import MOST_CALLS, Watch

from .parts.agi import STAGE, load
from .parts.processes import FASTAGI, daemon, stub
from .parts.viewers import viewers

ROUND_TRIP = 40
RATE, VIEWERS = 100, 10
#: Where the daemon has its page.
PAGE = 9810
#: Seconds between two handfuls of calls that the page alone is told of.
_STEP = 0.5


def cpu_ms(pid: int) -> float:
    """Milliseconds that the main thread of a process has run; ticks would be too coarse."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def whole(pid: int, seconds: int, turns: int) -> dict[int, list[float]]:
    """Milliseconds of CPU a second of the daemon's main thread, by how many viewers it has."""
    found: dict[int, list[float]] = {0: [], VIEWERS: []}
    for turn in range(2 * turns):
        count = VIEWERS if turn % 2 else 0
        with viewers(PAGE, count):
            before, began = cpu_ms(pid), time.monotonic()
            result = asyncio.run(load(FASTAGI, [STAGE] * (RATE * seconds), RATE))
            found[count].append((cpu_ms(pid) - before) / (time.monotonic() - began))
        assert result.with_id == RATE * seconds, "a call without an id"
    return found


def _calls() -> Iterator[CallRecord]:
    number = 0
    while True:
        number += 1
        yield CallRecord(
            time=time.time(),
            switch=Switch.ASTERISK,
            outcome="INITIATED",
            did="+33612345678",
            caller=f"+33145{number % 1000:03d}****",
            route="support",
            ms=40 + number % 20,
            call_id=str(uuid.UUID(int=number)),
            unique_id=f"1795351425.{number}",
            reason="readiness not asked for",
        )


async def alone(seconds: int, turns: int) -> dict[str, list[float]]:
    """The same of a process with nothing in it but the page."""
    watch, calls = Watch(time.monotonic), _calls()
    known = [next(calls) for _ in range(10 * MOST_CALLS)]
    facts = Facts(version="0", pbx="a", started=0.0, accounts=(AccountHealth("a", False, ""),))
    section = Status.model_validate({"listen": "127.0.0.1:0"})
    page = StatusServer(section, watch=watch, ready=lambda: True, metrics=None, facts=lambda: facts)
    port = (await page.start()).port
    found: dict[str, list[float]] = {}

    async def measure(told: bool) -> float:
        before, began, number = _own(), time.monotonic(), 0
        while time.monotonic() < began + seconds:
            await asyncio.sleep(_STEP)
            for _ in range(int(RATE * _STEP)):
                number += 1
                if told:
                    watch.add(known[number % len(known)])
        return (_own() - before) / (time.monotonic() - began)

    try:
        for _ in range(turns):
            found.setdefault("left alone", []).append(await measure(told=False))
            found.setdefault("told of calls", []).append(await measure(told=True))
            following = viewers(port, VIEWERS)
            await asyncio.to_thread(following.__enter__)
            found.setdefault("told, ten viewers", []).append(await measure(told=True))
            following.__exit__(None, None, None)
            while page.viewers:
                await asyncio.sleep(0.05)
    finally:
        await page.close()
    return found


def _own() -> float:
    return time.thread_time() * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each turn")
    parser.add_argument("--turns", type=int, default=5, help="of each way")
    parser.add_argument("--output", type=Path, help="a folder for status.json")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stub(folder / "api", ROUND_TRIP) as api, daemon(folder, api) as pid:
            asyncio.run(load(FASTAGI, [STAGE] * (2 * RATE), RATE))
            busy = whole(pid, options.seconds, options.turns)
    page = asyncio.run(alone(options.seconds, options.turns))
    figures = {
        "daemon, no viewer": busy[0],
        "daemon, ten viewers": busy[VIEWERS],
        **{f"the page alone, {name}": values for name, values in page.items()},
    }
    own = median(page["told, ten viewers"]) - median(page["left alone"])
    share = own / median(busy[0])
    table = Table(title=f"CPU of {RATE} calls a second, ms a second", box=None)
    table.add_column("what")
    for column in ("median", "least", "most"):
        table.add_column(column, justify="right")
    for name, values in figures.items():
        table.add_row(
            name, *(f"{value:.2f}" for value in (median(values), min(values), max(values)))
        )
    console.print(table)
    console.print(
        f"The page with {VIEWERS} viewers: {own:.2f} ms a second, {share:.2%} of the daemon's."
    )
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        data = {
            "rate": RATE,
            "viewers": VIEWERS,
            "cpu_ms_a_second": {k: [round(v, 3) for v in each] for k, each in figures.items()},
            "page_ms_a_second": round(own, 3),
            "share": round(share, 5),
        }
        (options.output / "status.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
