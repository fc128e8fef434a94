"""Ten minutes in which everything goes wrong that may, and no call is lost.

``python -m benchmarks.soak [--minutes N] [--rate N] [--output FOLDER]``

A real Asterisk on the files of ``dialplan_examples`` takes calls, half of them staged when
they come in and collected half a second later. Meanwhile the daemon reads its configuration again
(SIGHUP), is restarted as systemd restarts it (its socket outlives it), Redis is killed and started
again, and the API answers 503, nothing, or closes its connections. The restarts are in the first
half, so that the second shows the memory of one process.

Its exit status is 1 where a call was lost or waited past its cap, where memory grew, where the
daemon's log has a traceback, and where no call was staged at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rounded_pbx import netns

from .parts import asterisk
from .parts.calls import CALLER, TRUNK, Caller, Trunk, free_port
from .parts.measure import percentile, resident_mb
from .parts.processes import AGENT, FASTAGI, ROOT, Api, stub
from .parts.service import Service, daemon_command

#: Milliseconds that the API is away, and that a staging takes it.
LATENCY, STAGING = 40, 200
#: Seconds: the daemon's deadline, the dialplan's cap, and the wait between the two halves.
DEADLINE, CAP, BETWEEN = 1.5, 2.0, 0.5
#: Milliseconds beyond its cap after which a call was held too long: Asterisk, two shared cores.
SLACK = 500
#: Megabytes by which memory may differ between the thirds of the second half.
GROWTH = 6.0
RTP = 4000
CACHE = Path(os.environ.get("ROUNDED_PBX_CACHE", ROOT / ".cache"))

_CONFIG = """\
accounts: {{default: {{key_env: ROUNDED_API_KEY}}}}
api: {{base_url: "{url}", ca_file: "{ca_file}", warm: 8}}
calls: {{deadline: {deadline}}}
numbers: {{country: FR}}
prestage: {{store: "redis://127.0.0.1:{redis}/0", limit: 5}}
freeswitch: {{outbound: {{listen: off}}}}
routes:
  - name: support{turn}
    did: "+33612345678"
    agent_id: {agent}
    on_failure: fallback
    fallback: {{asterisk: "from-internal,600,1"}}
"""
_EXTENSIONS = """\
[from-trunk]
exten => straight,1,Gosub(rounded,+33612345678,1)
 same => n,Hangup()
exten => early,1,Gosub(rounded-prestage,+33612345678,1)
 same => n,Wait({between})
 same => n,Gosub(rounded,+33612345678,1)
 same => n,Hangup()
[from-internal]
exten => 600,1,Dial(PJSIP/600@rounded,15)
#include extensions_rounded.conf
"""
_SDP = (
    f"v=0\r\no=- 1 1 IN IP4 {CALLER}\r\ns=-\r\nc=IN IP4 {CALLER}\r\nt=0 0\r\n"
    f"m=audio {RTP} RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
)


@dataclass
class Seen:
    """What came of it. ``memory`` has seconds, megabytes and the process that they are of."""

    calls: int = 0
    with_id: int = 0
    lost: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float, int]] = field(default_factory=list)
    switch_memory: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something has happened that must not."""
        wrong = self.lost or self.late or self.done["tracebacks in the log"]
        return bool(wrong) or not self.with_id or self.growth() > GROWTH

    def growth(self) -> float:
        """Megabytes that the last process had more in the last third of its time than before."""
        last = [mb for _, mb, pid in self.memory if pid == self.memory[-1][2]]
        third = len(last) // 3
        if not third:
            return 0.0
        return percentile(last[-third:], 0.5) - percentile(last[third : 2 * third], 0.5)


class Soak:
    """The things that go wrong, and the calls beside them."""

    def __init__(self, folder: Path, api: Api, minutes: float, rate: float, every: Every) -> None:
        self.folder, self.api = folder, api
        self.seconds, self.rate, self.every = minutes * 60, rate, every
        self.seen = Seen()
        self.redis_port = _tcp_port()
        self.redis: subprocess.Popen[bytes] | None = None
        self.turn = 0
        self.write()
        command = daemon_command(folder / "config.yml")
        environ = {"ROUNDED_API_KEY": "k"}
        self.service = Service(command, folder / "log", environ, ("127.0.0.1", FASTAGI))

    def write(self) -> None:
        """A configuration that differs from the one before."""
        self.turn += 1
        text = _CONFIG.format(
            url=self.api.url, ca_file=self.api.ca_file, deadline=DEADLINE,
            redis=self.redis_port, agent=AGENT, turn=self.turn,
        )  # fmt: skip
        (self.folder / "config.yml").write_text(text)

    def start_redis(self) -> None:
        program = shutil.which("redis-server") or shutil.which("redis-server", path=CACHE / "redis")
        if program is None:
            sys.exit("no redis-server: scripts/unpack redis unpacks one")
        options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self.redis = subprocess.Popen(
            [program, "--port", str(self.redis_port), *options], stdout=subprocess.DEVNULL
        )

    def kill_redis(self) -> None:
        if self.redis is not None:
            self.redis.kill()
            self.redis.wait()
            self.redis = None

    async def reloads(self) -> None:
        while True:
            await asyncio.sleep(self.every.reload)
            process = self.service.process
            if process is not None and process.poll() is None:
                self.write()
                self.service.signal(signal.SIGHUP)

    async def restarts(self) -> None:
        for _ in range(self.every.restarts):
            await asyncio.sleep(self.seconds / 2 / (self.every.restarts + 1))
            await asyncio.to_thread(self.service.stop)
            self.service.start()
            self.seen.done["restarts"] += 1

    async def outages_of_redis(self) -> None:
        while True:
            await asyncio.sleep(self.every.redis)
            self.kill_redis()
            self.seen.done["Redis killed"] += 1
            await asyncio.sleep(self.every.redis / 6)
            self.start_redis()

    async def outages_of_the_api(self) -> None:
        fault = self.api.ca_file.with_name("fault")
        while True:
            for what in ("503", "hang", "reset"):
                await asyncio.sleep(self.every.api)
                fault.write_text(what)
                self.seen.done[f"API: {what}"] += 1
                await asyncio.sleep(self.every.api / 4)
                fault.unlink()

    async def memory(self, switch_pid: int) -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(self.seconds / 240)
            process = self.service.process
            if process is not None and process.poll() is None:
                sample = (time.monotonic() - begun, resident_mb(process.pid), process.pid)
                self.seen.memory.append(sample)
            self.seen.switch_memory.append(resident_mb(switch_pid))

    async def calls(self, trunk_port: int) -> None:
        """The calls, then what became of each."""
        loop = asyncio.get_running_loop()
        to_trunk, trunk = await loop.create_datagram_endpoint(Trunk, (TRUNK, trunk_port))
        to_caller, caller = await loop.create_datagram_endpoint(Caller, (CALLER, 0))
        begun: dict[str, float] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
            ears.bind((CALLER, RTP))
            start = loop.time()
            while loop.time() - start < self.seconds:
                number = len(begun)
                await asyncio.sleep(max(0.0, start + number / self.rate - loop.time()))
                call = f"+331{number:08d}"
                did = caller.dialled[call] = "early" if number % 2 else "straight"
                begun[call] = loop.time()
                caller.send("INVITE", call, f"<sip:{did}@127.0.0.1>", 1, _SDP)
            await asyncio.sleep(2 * CAP + BETWEEN + 1)
        to_trunk.close()
        to_caller.close()
        self.judge(begun, trunk, caller)

    def judge(self, begun: dict[str, float], trunk: Trunk, caller: Caller) -> None:
        """A call is lost that did not come out, or whose caller was not answered."""
        seen = self.seen
        seen.calls = len(begun)
        # One that is staged early asks the daemon twice.
        caps = {"straight": CAP, "early": 2 * CAP + BETWEEN}
        for call, at in begun.items():
            did = caller.dialled[call]
            came, call_id = trunk.invites.get(call, (float("nan"), ""))
            if call not in trunk.invites or caller.finals.get(call) != 200:
                seen.lost.append(f"{call} at {at - min(begun.values()):.1f} s")
                continue
            waited = (came - at) * 1000
            seen.waits.setdefault(did, []).append(waited)
            seen.with_id += bool(call_id)
            if waited > caps[did] * 1000 + SLACK:
                seen.late.append(f"{call} ({did}): {waited:.0f} ms")

    async def run(self, trunk_port: int, switch_pid: int) -> Seen:
        """All of it at the same time, until the last call has ended."""
        chores = [
            asyncio.ensure_future(chore)
            for chore in (
                self.reloads(),
                self.restarts(),
                self.outages_of_redis(),
                self.outages_of_the_api(),
                self.memory(switch_pid),
            )
        ]
        try:
            calling = asyncio.ensure_future(self.calls(trunk_port))
            waiting: set[asyncio.Future[None]] = {calling, *chores}
            while not calling.done():
                ended, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                for each in ended:  # a chore that failed ends it all
                    each.result()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
        log = (self.folder / "log").read_text(errors="replace")
        self.seen.outcomes.update(re.findall(r"handler[^:]*: ([A-Z_]+) did=", log))
        self.seen.done["reloads"] = log.count("was read anew; routes")
        self.seen.done["tracebacks in the log"] = log.count("Traceback")
        return self.seen


@dataclass(frozen=True)
class Every:
    """Seconds between two reloads, two kills of Redis, two faults of the API; the restarts."""

    reload: float
    redis: float
    api: float
    restarts: int


def _tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def soak(
    folder: Path, minutes: float, rate: float, every: Every, tell: Callable[[str], None]
) -> Seen:
    """All processes, and the time between them."""
    trunk_port = free_port()
    with stub(folder / "api", LATENCY, STAGING) as api:
        all_of_it = Soak(folder, api, minutes, rate, every)
        switch = asterisk.private(folder, _EXTENSIONS.format(between=BETWEEN), trunk_port, cap=CAP)
        try:
            all_of_it.start_redis()
            all_of_it.service.start()
            switch.start()
            tell(f"{minutes:g} minutes, {rate:g} calls a second")
            return asyncio.run(all_of_it.run(trunk_port, switch.pid))
        finally:
            switch.stop()
            all_of_it.service.close()
            all_of_it.kill_redis()


def show(seen: Seen, console: Console) -> None:
    table = Table(box=None, show_header=False)
    table.add_row("calls", f"{seen.calls}")
    table.add_row("with an id", f"{seen.with_id} ({100 * seen.with_id / max(1, seen.calls):.1f} %)")
    for did, waits in seen.waits.items():
        shown = " / ".join(f"{percentile(waits, share):.0f}" for share in (0.5, 0.99, 1.0))
        table.add_row(f"{did}: INVITE in to INVITE out", f"{shown} ms (p50 / p99 / longest)")
    table.add_row("outcomes", ", ".join(f"{n} {name}" for name, n in seen.outcomes.most_common()))
    table.add_row("meanwhile", ", ".join(f"{n} {name}" for name, n in sorted(seen.done.items())))
    table.add_row("memory of the last daemon", f"{seen.growth():+.1f} MB in the last third")
    table.add_row("lost", f"{len(seen.lost)} {' '.join(seen.lost[:5])}")
    table.add_row("held past the cap", f"{len(seen.late)} {' '.join(seen.late[:5])}")
    console.print(table)


def write(seen: Seen, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "calls": seen.calls,
        "with_id": seen.with_id,
        "lost": len(seen.lost),
        "held_past_the_cap": len(seen.late),
        "waits_ms": {
            did: {
                f"p{int(100 * share)}": round(percentile(waits, share)) for share in (0.5, 0.99, 1)
            }
            for did, waits in seen.waits.items()
        },
        "outcomes": dict(seen.outcomes),
        "meanwhile": dict(seen.done),
        "memory_mb": [[round(at), round(mb, 1), pid] for at, mb, pid in seen.memory],
        "asterisk_mb": [round(mb, 1) for mb in seen.switch_memory],
    }
    (folder / "soak.json").write_text(json.dumps(data, indent=1) + "\n")
    plot(seen, folder / "soak.svg")


def plot(seen: Seen, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 2.6))
    for pid in dict.fromkeys(pid for *_, pid in seen.memory):
        points = [(at / 60, mb) for at, mb, of in seen.memory if of == pid]
        axis.plot(*zip(*points, strict=True), linewidth=1.2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("minutes; a line for each process: the restarts are in the first half")
    axis.set_ylabel("MB")
    axis.set_title("memory of the daemon")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--output", type=Path, help="a folder for the figures and the plot")
    options = parser.parse_args()
    netns.enter()
    console = Console(width=None if sys.stdout.isatty() else 160)
    seconds = options.minutes * 60
    # Some reloads fall into a restart and are lost with the process: a few more are asked for.
    every = Every(
        reload=seconds / (options.reloads * 1.1 + 1),
        redis=seconds / 10,
        api=seconds / 30,
        restarts=options.restarts,
    )
    with tempfile.TemporaryDirectory() as name:
        seen = soak(Path(name), options.minutes, options.rate, every, console.print)
        if seen.failed:
            shutil.copy(Path(name) / "log", "soak.log")
    show(seen, console)
    if options.output:
        write(seen, options.output)
    sys.exit(1 if seen.failed else 0)


if __name__ == "__main__":
    main()
