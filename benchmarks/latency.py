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
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns

from .parts import asterisk, freeswitch
from .parts.calls import Placed, free_port, in_turns, place
from .parts.measure import Row, cpu_seconds, percentile, show_boxes
from .parts.processes import Api, Subject, daemon, stub

ROUND_TRIPS = (0, 40)
SUBJECTS = (asterisk.SUBJECT, freeswitch.SUBJECT)


@dataclass(frozen=True)
class Trip:
    """The ways through a switch, the API so many milliseconds away.

    ``milliseconds`` are those of a request over a warm connection, at the median.
    """

    distance: int
    milliseconds: float
    rows: list[Row]


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
            trips = run(subject, Path(name), options.calls, rate, console)
        show(trips, console, f"{subject.title}: INVITE in to INVITE out, {rate:g} calls a second")
        if options.output:
            write(trips, options.output / f"latency-{subject.name}", rate)


def run(subject: Subject, folder: Path, calls: int, rate: float, console: Console) -> list[Trip]:
    trips: list[Trip] = []
    with contextlib.ExitStack() as stack:
        apis = {rtt: stack.enter_context(stub(folder / f"api{rtt}", rtt)) for rtt in ROUND_TRIPS}
        trunk_port = free_port()
        switch = stack.enter_context(subject.switch(folder, apis, trunk_port))
        for number, (rtt, api) in enumerate(apis.items(), 1):
            trip = round_trip(api, rate)
            console.print(f"One round trip over a warm connection: {trip:.1f} ms")
            with contextlib.ExitStack() as processes:
                pids = [processes.enter_context(daemon(folder, api))]
                if subject.beside:
                    pids.append(processes.enter_context(subject.beside(folder, api)))

                def cpu(pids: list[int] = pids) -> float:
                    return cpu_seconds(switch.pid, children=True) + sum(map(cpu_seconds, pids))

                def call(did: str, count: int, first: int) -> Placed:
                    console.print(f"[dim]{subject.title}: {count} calls to {did}[/]")
                    return asyncio.run(place(did, count, rate, trunk_port, first))

                rows = in_turns(subject.ways(rtt), calls, call, cpu, 10_000_000 * number)
            trips.append(Trip(rtt, trip, rows))
    return trips


def show(trips: list[Trip], console: Console, title: str) -> None:
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
    for trip in trips:
        bare = trip.rows[0]
        for row in trip.rows:
            over = ""
            if row is not bare:
                extra = (
                    each - trip.milliseconds for each in (row.p50 - bare.p50, row.p99 - bare.p99)
                )
                over = " / ".join(f"{each:+.1f}" for each in extra)
            table.add_row(
                f"{trip.distance} ms", row.way, f"{row.p50:.1f}", f"{row.p99:.1f}", over,
                f"{row.cpu_ms:.1f}", f"{row.with_id}/{row.calls}",
            )  # fmt: skip
    console.print(table)


def write(trips: list[Trip], file: Path, rate: float) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    data = [
        {
            "distance_ms": trip.distance,
            "round_trip_ms": round(trip.milliseconds, 1),
            **row.figures,
        }
        for trip in trips
        for row in trip.rows
    ]
    file.with_suffix(".json").write_text(
        json.dumps({"calls_a_second": rate, "rows": data}, indent=1)
    )
    figure, axes = pyplot.subplots(1, len(trips), figsize=(10, 3.6), sharey=True)
    for axis, trip in zip(axes, trips, strict=True):
        show_boxes(axis, {row.way: row.latencies for row in trip.rows})
        axis.set_title(f"API {trip.distance} ms away, HTTPS")
        axis.set_xlabel(
            "ms from INVITE in to INVITE out (box: quartiles; whiskers: p1, p99)", size=8
        )
        axis.set_xlim(left=0)
    axes[0].invert_yaxis()  # both share it
    figure.tight_layout()
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
