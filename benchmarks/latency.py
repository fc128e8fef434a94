"""From INVITE in to INVITE out on a real Asterisk, with and without staging.

``python -m benchmarks.latency [--calls N] [--rate R] [--output FOLDER]``

Beside the bare dialplan and rounded_pbx stand the ways that people build themselves: the dialplan's
own CURL() and an AGI script for each call. The API stages at once, over HTTPS, at 0 and at 40 ms of
round trip. All of it in one run, the ways in turns, so that a noisy machine is noisy for all.
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
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns
from rounded_pbx.demo.asterisk import MODULES, PrivateAsterisk, find

from .parts.calls import CALLER, TRUNK, place
from .parts.measure import Row, cpu_seconds, percentile
from .parts.processes import ROOT, Api, daemon, stub

ROUND_TRIPS = (0, 40)
BARE = "no staging"
OURS, OURS_POLL = "rounded_pbx, wait: none", "rounded_pbx, wait: poll"
CURL, SCRIPT = "dialplan CURL()", "AGI script a call"
TURNS = 4

AGI_SCRIPT = """#!{python}
import json, ssl, sys, urllib.request
while sys.stdin.readline().strip():
    pass
body = {{"from_number": "+33145678901", "to_number": "+33612345678",
        "agent_id": "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"}}
request = urllib.request.Request(sys.argv[1] + "/v1/calls/stage", json.dumps(body).encode(),
    {{"X-Api-Key": "k", "Content-Type": "application/json"}})
context = ssl.create_default_context(cafile=sys.argv[2])
answer = json.load(urllib.request.urlopen(request, context=context))
print('SET VARIABLE ROUNDED_CALL_ID "%s"' % answer["data"]["call_id"], flush=True)
sys.stdin.readline()
"""

EXTENSIONS = """[from-trunk]
exten => bare,1,Dial(PJSIP/+33612345678@rounded,15)
exten => none,1,Gosub(rounded,+33612345678,1)
exten => poll,1,Gosub(rounded,+33612345679,1)
exten => _curl-X!,1,Ringing()
 same => n,Set(CURLOPT(ssl_verifypeer)=0)
 same => n,Set(CURLOPT(httpheader)=X-Api-Key: k)
 same => n,Set(CURLOPT(httpheader)=Content-Type: application/json)
 same => n,Set(body={{"from_number":"+33145678901","to_number":"+33612345678"}})
 same => n,Set(answer=${{CURL(${{API${{EXTEN:5}}}}/v1/calls/stage,${{body}})}})
 same => n,Set(id=${{JSON_DECODE(answer,data.call_id)}})
 same => n,Dial(PJSIP/+33612345678@rounded,15,b(rounded-header^s^1(${{id}})))
exten => _script-X!,1,Ringing()
 same => n,AGI({script},${{API${{EXTEN:7}}}},{authority})
 same => n,Dial(PJSIP/+33612345678@rounded,15,b(rounded-header^s^1(${{ROUNDED_CALL_ID}})))
[globals]
API0={api0}
API40={api40}
#include extensions_rounded.conf
"""

PJSIP = f"""[transport-udp]
type=transport
protocol=udp
bind=127.0.0.1:5060
[carrier]
type=endpoint
context=from-trunk
disallow=all
allow=alaw
[carrier]
type=identify
endpoint=carrier
match={CALLER}
#include pjsip_rounded.conf
"""


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


def switch(
    folder: Path, apis: dict[int, Api], authorities: Path, trunk_port: int
) -> PrivateAsterisk:
    binary = find()
    if binary is None:
        sys.exit("no Asterisk: scripts/unpack asterisk-22 unpacks one")
    script = folder / "stage.py"
    script.write_text(AGI_SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    examples = ROOT / "dialplan_examples/asterisk"
    dialplan = (examples / "extensions_rounded.conf").read_text()
    trunk = (
        (examples / "pjsip_rounded.conf")
        .read_text()
        .replace("match=sip.example.net", f"match={TRUNK}")
    )
    return PrivateAsterisk(
        binary,
        folder / "asterisk",
        {
            "modules.conf": MODULES + "load=func_curl.so\nload=res_curl.so\nload=func_json.so\n",
            "extensions.conf": EXTENSIONS.format(
                script=script, authority=authorities, api0=apis[0].url, api40=apis[40].url
            ),
            "extensions_rounded.conf": dialplan,
            "pjsip.conf": PJSIP,
            "pjsip_rounded.conf": trunk.replace("sip.example.net:5060", f"{TRUNK}:{trunk_port}"),
            "logger.conf": "[general]\n[logfiles]\nmessages => error\n",
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=200, help="calls of each way")
    parser.add_argument("--rate", type=float, default=10.0, help="calls a second")
    parser.add_argument("--output", type=Path, help="a folder for latency.json and latency.svg")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        rows = run(Path(name), stack, options.calls, options.rate, console)
    show(rows, console, options.rate)
    if options.output:
        write(rows, options.output, options.rate)


def run(
    folder: Path, stack: contextlib.ExitStack, calls: int, rate: float, console: Console
) -> list[Row]:
    apis = {rtt: stack.enter_context(stub(folder / f"api{rtt}", rtt)) for rtt in ROUND_TRIPS}
    authorities = folder / "authorities.pem"
    authorities.write_text("".join(api.ca_file.read_text() for api in apis.values()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((TRUNK, 0))
        trunk_port = probe.getsockname()[1]
    asterisk = stack.enter_context(switch(folder, apis, authorities, trunk_port))
    rows: list[Row] = []
    for rtt in ROUND_TRIPS:
        trip = round_trip(apis[rtt], rate)
        console.print(f"One round trip over a warm connection: {trip:.1f} ms")
        with daemon(folder, apis[rtt]) as pid:
            ways = {
                BARE: "bare",
                OURS: "none",
                OURS_POLL: "poll",
                CURL: f"curl-{rtt}",
                SCRIPT: f"script-{rtt}",
            }
            latencies: dict[str, list[float]] = defaultdict(list)
            with_id: dict[str, int] = defaultdict(int)
            cpu: dict[str, float] = defaultdict(float)
            per_turn = -(-calls // TURNS)
            for turn in range(TURNS):
                for way, did in ways.items():
                    console.print(f"[dim]{rtt} ms, turn {turn + 1} of {TURNS}: {way}[/]")
                    before = cpu_seconds(pid) + cpu_seconds(asterisk.pid, children=True)
                    first = 1_000_000 * (1 + len(rows)) + 10_000 * turn
                    first += 1000 * list(ways).index(way)
                    found, carried = asyncio.run(place(did, per_turn, rate, trunk_port, first))
                    after = cpu_seconds(pid) + cpu_seconds(asterisk.pid, children=True)
                    latencies[way] += found
                    with_id[way] += carried
                    cpu[way] += after - before
        calls_made = per_turn * TURNS
        rows += [
            Row(w, rtt, trip, latencies[w], calls_made, with_id[w], cpu[w] / calls_made * 1000)
            for w in ways
        ]
    return rows


def show(rows: list[Row], console: Console, rate: float) -> None:
    table = Table(title=f"INVITE in to INVITE out, {rate:g} calls a second", box=None)
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
        bare = next(r for r in rows if r.way == BARE and r.distance == row.distance)
        over = ""
        if row is not bare:
            extra = (row.p50 - bare.p50 - row.round_trip, row.p99 - bare.p99 - row.round_trip)
            over = f"{extra[0]:+.1f} / {extra[1]:+.1f}"
        table.add_row(
            f"{row.distance} ms", row.way, f"{row.p50:.1f}", f"{row.p99:.1f}", over,
            f"{row.cpu_ms:.1f}", f"{row.with_id}/{row.calls}",
        )  # fmt: skip
    console.print(table)


def write(rows: list[Row], folder: Path, rate: float) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
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
    (folder / "latency.json").write_text(
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
    figure.savefig(folder / "latency.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
