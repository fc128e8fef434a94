"""From INVITE in to INVITE out on a real switch, with and without staging.

``python -m benchmarks.latency [--switch NAME] [--calls N] [--rate R] [--output FOLDER]``

Beside the bare dialplan and rounded_pbx stand the ways that people build themselves. The API stages
at once, over HTTPS, at 0 and at 40 ms of round trip. All of it in one run, the ways in turns, so
that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns

from .parts import asterisk, freeswitch
from .parts.calls import TRUNK, place
from .parts.measure import Row, cpu_seconds, percentile
from .parts.processes import Api, Subject, daemon, stub

ROUND_TRIPS = (0, 40)
TURNS = 4
SUBJECTS = (asterisk.SUBJECT, freeswitch.SUBJECT)


def round_trip(api: Api, rate: float) -> float:
    """What the simplest client waits for an answer over a warm connection, in milliseconds."""
    context = ssl.create_default_context(cafile=str(api.ca_file))
    host = api.url.removeprefix("https://")
    connection = http.client.HTTPSConnection(host, context=context)
    waits = []
    for _ in range(40):
        begun = time.perf_counter()
        connection.request("GET", "/v1/phone-numbers", headers={"X-Api-Key": "k"})
        connection.getresponse().read()
        waits.append((time.perf_counter() - begun) * 1000)
        time.sleep(1 / rate)
    connection.close()
    return percentile(waits[1:], 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--switch", choices=[subject.name for subject in SUBJECTS])
    parser.add_argument("--calls", type=int, default=200, help="calls of each way")
    parser.add_argument("--rate", type=float, help="calls a second")
    parser.add_argument("--output", type=Path, help="a folder for the figures and the plots")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    for subject in SUBJECTS:
        if options.switch not in (None, subject.name):
            continue
        if options.switch is None and subject.find() is None:
            console.print(f"[yellow]NOT MEASURED: no {subject.title} is found here[/]")
            continue
        rate = options.rate or subject.rate
        with tempfile.TemporaryDirectory() as name:
            rows = run(subject, Path(name), options.calls, rate, console)
        show(rows, console, f"{subject.title}: INVITE in to INVITE out, {rate:g} calls a second")
        if options.output:
            write(rows, options.output / f"latency-{subject.name}", rate)


def run(subject: Subject, folder: Path, calls: int, rate: float, console: Console) -> list[Row]:
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        apis = {rtt: stack.enter_context(stub(folder / f"api{rtt}", rtt)) for rtt in ROUND_TRIPS}
        authorities = folder / "authorities.pem"
        authorities.write_text("".join(api.ca_file.read_text() for api in apis.values()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((TRUNK, 0))
            trunk_port = probe.getsockname()[1]
        switch = stack.enter_context(subject.switch(folder, apis, authorities, trunk_port))
        for rtt, api in apis.items():
            trip = round_trip(api, rate)
            console.print(f"One round trip over a warm connection: {trip:.1f} ms")
            with contextlib.ExitStack() as processes:
                pids = [processes.enter_context(daemon(folder, api))]
                if subject.beside:
                    pids.append(processes.enter_context(subject.beside(folder, api)))

                def cpu(pids: list[int] = pids) -> float:
                    return cpu_seconds(switch.pid, children=True) + sum(map(cpu_seconds, pids))

                def call(did: str, count: int, first: int) -> tuple[list[float], int]:
                    console.print(f"[dim]{subject.title}: {count} calls to {did}[/]")
                    return asyncio.run(place(did, count, rate, trunk_port, first))

                rows += measure(subject.ways(rtt), rtt, trip, calls, call, cpu)
    return rows


def measure(
    ways: Mapping[str, str],
    rtt: int,
    trip: float,
    calls: int,
    call: Callable[[str, int, int], tuple[list[float], int]],
    cpu: Callable[[], float],
) -> list[Row]:
    latencies: dict[str, list[float]] = defaultdict(list)
    with_id: dict[str, int] = defaultdict(int)
    used: dict[str, float] = defaultdict(float)
    turns = min(TURNS, calls)
    per_turn = -(-calls // turns)
    for turn in range(turns):
        for number, (way, did) in enumerate(ways.items()):
            before = cpu()
            first = 10_000_000 * (1 + ROUND_TRIPS.index(rtt)) + 100_000 * turn + 10_000 * number
            found, carried = call(did, per_turn, first)
            used[way] += cpu() - before
            latencies[way] += found
            with_id[way] += carried
    made = per_turn * turns
    return [
        Row(way, rtt, trip, latencies[way], made, with_id[way], used[way] / made * 1000)
        for way in ways
    ]


def show(rows: list[Row], console: Console, title: str) -> None:
    table = Table(title=title, box=None)
    for column in (
        "round trip",
        "way",
        "p50 ms",
        "p99 ms",
        "over bare + 1 trip",
        "CPU ms/call",
        "ids",
    ):
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in rows:
        bare = next(other for other in rows if other.distance == row.distance)
        over = ""
        if row is not bare:
            extra = (row.p50 - bare.p50 - row.round_trip, row.p99 - bare.p99 - row.round_trip)
            over = f"{extra[0]:+.1f} / {extra[1]:+.1f}"
        table.add_row(
            f"{row.distance} ms", row.way, f"{row.p50:.1f}", f"{row.p99:.1f}", over,
            f"{row.cpu_ms:.1f}", f"{row.with_id}/{row.calls}",
        )  # fmt: skip
    console.print(table)


def write(rows: list[Row], file: Path, rate: float) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    data = [
        {
            "way": row.way,
            "distance_ms": row.distance,
            "round_trip_ms": round(row.round_trip, 1),
            "p50_ms": round(row.p50, 1),
            "p99_ms": round(row.p99, 1),
            "cpu_ms_a_call": round(row.cpu_ms, 1),
            "calls": row.calls,
        }
        for row in rows
    ]
    file.with_suffix(".json").write_text(
        json.dumps({"calls_a_second": rate, "rows": data}, indent=1)
    )
    figure, axes = pyplot.subplots(1, len(ROUND_TRIPS), figsize=(10, 3.6), sharey=True)
    for axis, rtt in zip(axes, ROUND_TRIPS, strict=True):
        ours = [row for row in rows if row.distance == rtt]
        axis.boxplot(
            [row.latencies for row in ours],
            whis=(1, 99),
            showfliers=False,
            orientation="horizontal",
        )
        axis.set_yticks(range(1, len(ours) + 1), [row.way for row in ours])
        axis.set_title(f"API {rtt} ms away, HTTPS")
        axis.set_xlabel(
            "ms from INVITE in to INVITE out (box: quartiles; whiskers: p1, p99)", size=8
        )
        axis.set_xlim(left=0)
    axes[0].invert_yaxis()  # both share it
    figure.tight_layout()
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
