"""What it costs to begin a staging early and to collect it late.

``python -m benchmarks.early [--switch NAME] [--calls N] [--tickets N] [--output FOLDER]``

Calls that are greeted for two seconds, with and without staging; the AGI lines that prestage and
collect, beside one that does nothing; and the memory of results that wait. All of it in one run,
the ways in turns, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns
from rounded_pbx.demo.asterisk import PrivateAsterisk

from .parts.agi import CALL, Load, load
from .parts.calls import Placed, free_port, in_turns, place
from .parts.greeting import DEADLINE, NOOP, PAUSE, READY, SUBJECTS
from .parts.measure import Row, cpu_seconds, percentile, resident_mb, show_boxes
from .parts.processes import FASTAGI, Subject, daemon, running, stub

#: Milliseconds that the API is away, and that a staging takes it.
LATENCY, STAGING = 300, 800
#: AGI lines in a row, or sessions that come one by one.
IN_A_ROW = 10
#: Tickets that are asked for at one instant, and those of the round that warms the daemon up.
AT_ONCE, WARM_UP = 100, 200
PRESTAGE = f"prestage?{CALL}"

Lines = Mapping[str, list[float]]

# What the dialplan of ``parts.greeting`` notes before and after an AGI line.
_LINE = re.compile(
    r"^\[([\d.]+)\] NOTICE\S* Ext\. (\w+): begun\n"
    r"\[([\d.]+)\] NOTICE\S* Ext\. \2: ended ?(\S*)$",
    re.MULTILINE,
)


def greeted(
    subject: Subject, folder: Path, pid: int, calls: int, rate: float, console: Console
) -> tuple[list[Row], Lines]:
    """The ways of a call through a switch; on Asterisk, milliseconds of each AGI line as well."""
    trunk_port = free_port()
    lines: dict[str, list[float]] = defaultdict(list)
    with subject.switch(folder, {}, trunk_port) as switch:

        def cpu() -> float:
            return cpu_seconds(switch.pid, children=True) + cpu_seconds(pid)

        def call(did: str, count: int, first: int) -> Placed:
            console.print(f"[dim]{subject.title}: {count} calls to {did}[/]")
            return asyncio.run(place(did, count, rate, trunk_port, first))

        rows = in_turns(subject.ways(LATENCY), calls, call, cpu, 10_000_000)
        if isinstance(switch, PrivateAsterisk):
            for turn in range(-(-calls // IN_A_ROW)):
                call(f"repeat-{min(calls, IN_A_ROW)}", 1, 20_000_000 + turn)
            for begun, kind, ended, result in _LINE.findall(switch.log.read_text()):
                if kind in ("prestage", "collect") and not result:
                    sys.exit(f"{kind} came to nothing on {subject.title}")
                lines[kind].append((float(ended) - float(begun)) * 1000)
    return rows, lines


def sessions(calls: int, console: Console) -> Lines:
    """The same without an Asterisk: milliseconds of sessions, which come one by one."""
    console.print("[dim]sessions without a switch[/]")
    lines: dict[str, list[float]] = defaultdict(list)

    def one_by_one(kind: str, port: int, scripts: Sequence[str]) -> Load:
        result = asyncio.run(load(port, scripts, 1 / PAUSE))
        lines[kind] += result.milliseconds
        return result

    for _ in range(-(-calls // IN_A_ROW)):
        count = min(calls, IN_A_ROW)
        one_by_one("noop", NOOP, ["noop"] * count)
        begun = one_by_one("prestage", FASTAGI, [PRESTAGE] * count)
        time.sleep(READY)
        collects = [f"collect?{CALL}&ticket={ticket}" for ticket in begun.tickets]
        collected = one_by_one("collect", FASTAGI, collects)
        if collected.with_id != count:
            sys.exit(f"{collected.with_id} of {count} were collected")
    return lines


def waiting(folder: Path, tickets: int, console: Console) -> dict[str, float]:
    """What results that wait cost in memory, and what is left of them when they are abandoned."""
    log = folder / "daemon.log"
    done = {"prestaged STAGED": 0, "abandoned call_id": 0}

    def at_once(scripts: Sequence[str], what: str) -> list[str]:
        """Sessions, and whatever they begin, until the log has it; their tickets."""
        found: list[str] = []
        for first in range(0, len(scripts), AT_ONCE):
            some = scripts[first : first + AT_ONCE]
            found += asyncio.run(load(FASTAGI, some, 0.0)).tickets
            done[what] += len(some)
            end = time.monotonic() + 20
            while log.read_text().count(what) < done[what]:
                if time.monotonic() > end:
                    sys.exit(f"not all are {what}")
                time.sleep(0.01)
        return found

    def begin(count: int) -> list[str]:
        return at_once([PRESTAGE] * count, "prestaged STAGED")

    def abandon(given: Sequence[str]) -> None:
        at_once([f"abandon?ticket={ticket}" for ticket in given], "abandoned call_id")

    console.print(f"[dim]{tickets} results that wait, twice[/]")
    with stub(folder / "prompt", 0) as api, daemon(folder, api, wait="poll") as pid:
        abandon(begin(min(tickets, WARM_UP)))
        idle = resident_mb(pid)
        first = begin(tickets)
        most = resident_mb(pid)
        abandon(first)
        after = resident_mb(pid)
        second = begin(tickets)
        again = resident_mb(pid)
        abandon(second)
    return {
        "tickets": tickets,
        "idle_mb": round(idle, 1),
        "waiting_mb": round(most, 1),
        "kb_each": round((most - idle) * 1000 / tickets, 2),
        "abandoned_mb": round(after, 1),
        "waiting_again_mb": round(again, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--switch", choices=[subject.name for subject in SUBJECTS])
    parser.add_argument("--calls", type=int, default=100, help="calls of each way, lines of each")
    parser.add_argument("--rate", type=float, help="calls a second")
    parser.add_argument("--tickets", type=int, default=10_000, help="results that wait")
    parser.add_argument("--output", type=Path, help="a folder for the figures and the plot")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    greetings: dict[str, list[Row]] = {}
    agi: dict[str, Lines] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            stub(folder / "api", LATENCY, STAGING) as api,
            daemon(folder, api, warm=32, deadline=DEADLINE, wait="poll") as pid,
            running(["-m", "benchmarks.parts.noop", str(NOOP)], folder / "noop.log", "listening"),
        ):
            for subject in SUBJECTS:
                if options.switch not in (None, subject.name):
                    continue
                if options.switch is None and subject.find() is None:
                    console.print(f"[yellow]NOT MEASURED: no {subject.title} is found here[/]")
                    continue
                rate = options.rate or subject.rate
                own = folder / subject.name
                own.mkdir()
                rows, lines = greeted(subject, own, pid, options.calls, rate, console)
                greetings[subject.title] = rows
                if lines:
                    agi[f"a line on {subject.title}"] = lines
            agi["a session without a switch"] = sessions(options.calls, console)
        memory = waiting(folder, options.tickets, console)
    for title, rows in greetings.items():
        show_greeted(title, rows, console)
    show_lines(agi, console)
    console.print(
        f"{memory['tickets']} results that wait: {memory['waiting_mb']} MB, {memory['idle_mb']} MB "
        f"before: {memory['kb_each']} KB each. All abandoned: {memory['abandoned_mb']} MB. As many "
        f"again: {memory['waiting_again_mb']} MB."
    )
    if options.output:
        write(greetings, agi, memory, options.output)


def show_greeted(title: str, rows: list[Row], console: Console) -> None:
    table = Table(title=f"{title}: INVITE in to INVITE out, API {LATENCY} ms away", box=None)
    for column in (
        "way",
        "p50 ms",
        "p99 ms",
        "added p50 / p99",
        "heard after",
        "CPU ms/call",
        "ids",
    ):
        table.add_column(column, justify="left" if column == "way" else "right")
    bare = rows[0]
    for row in rows:
        added = "" if row is bare else f"{row.p50 - bare.p50:+.1f} / {row.p99 - bare.p99:+.1f}"
        table.add_row(
            row.way, f"{row.p50:.1f}", f"{row.p99:.1f}", added,
            f"{percentile(row.heard, 0.5):.1f}", f"{row.cpu_ms:.1f}", f"{row.with_id}/{row.calls}",
        )  # fmt: skip
    console.print(table)


def show_lines(agi: Mapping[str, Lines], console: Console) -> None:
    table = Table(title="AGI: a no-op, /prestage, /collect of a ready result", box=None)
    for column in ("where", "what", "p50 ms", "p99 ms", "times a no-op"):
        table.add_column(column, justify="left" if column in ("where", "what") else "right")
    for where, lines in agi.items():
        for kind, values in lines.items():
            times = percentile(values, 0.5) / percentile(lines["noop"], 0.5)
            table.add_row(
                where,
                kind,
                f"{percentile(values, 0.5):.2f}",
                f"{percentile(values, 0.99):.2f}",
                f"{times:.2f}",
            )
    console.print(table)


def write(
    greetings: Mapping[str, list[Row]],
    agi: Mapping[str, Lines],
    memory: Mapping[str, float],
    folder: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "latency_ms": LATENCY,
        "staging_ms": STAGING,
        "greetings": {
            title: [
                {**row.figures, "heard_p50_ms": round(percentile(row.heard, 0.5), 1)}
                for row in rows
            ]
            for title, rows in greetings.items()
        },
        "agi": [
            {
                "where": where,
                "what": kind,
                "p50_ms": round(percentile(values, 0.5), 3),
                "p99_ms": round(percentile(values, 0.99), 3),
                "lines": len(values),
            }
            for where, lines in agi.items()
            for kind, values in lines.items()
        ],
        "tickets": memory,
    }
    (folder / "early.json").write_text(json.dumps(data, indent=1) + "\n")
    if greetings:
        plot(greetings, folder / "early.svg")


def plot(greetings: Mapping[str, list[Row]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(greetings), figsize=(10, 2.6), sharey=True, squeeze=False)
    for axis, (title, rows) in zip(axes[0], greetings.items(), strict=True):
        bare = rows[0].p50
        show_boxes(axis, {row.way: [each - bare for each in row.latencies] for row in rows})
        axis.set_title(f"{title}: API {LATENCY} ms away, {STAGING} ms of staging")
        axis.set_xlabel(
            "ms beyond the median without staging (box: quartiles; whiskers: p1, p99)", size=8
        )
    axes[0][0].invert_yaxis()  # all share it
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
