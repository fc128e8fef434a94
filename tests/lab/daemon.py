"""The sandbox in a thread, and the daemon as the process that an admin runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rounded_pbx.config_types import Address
from rounded_pbx.sandbox import Behaviour, Sandbox, serving

from .processes import answers, end, rounded_pbx, wait_until

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
FASTAGI = Address("127.0.0.1", 4573)
OUTBOUND = Address("127.0.0.1", 8084)

CONFIG = """\
accounts:
  default: {{key_env: ROUNDED_API_KEY}}
api: {{base_url: "{url}"}}
calls: {{deadline: 1.5, wait: {wait}}}
numbers: {{country: FR{withheld}}}
routes:
  - name: support
    did: "{did}"
    agent_id: {agent}
    dynamic_variables: {{first_name: "{{caller.name}}", tier: "{{channel.TIER}}", vip: true}}
    on_failure: {on_failure}
    fallback: {{asterisk: "{fallback}", freeswitch: "{freeswitch}"}}
"""


def config(
    url: str,
    *,
    wait: str = "poll",
    did: str = "+33612345678",
    withheld: str | None = "+33000000000",
    on_failure: str = "fallback",
    fallback: str = "from-internal,600,1",
    freeswitch: str = "600 XML default",
) -> str:
    return CONFIG.format(
        url=url,
        wait=wait,
        did=did,
        agent=AGENT,
        on_failure=on_failure,
        fallback=fallback,
        freeswitch=freeswitch,
        withheld=f', withheld: "{withheld}"' if withheld else "",
    )


@dataclass
class SandboxThread:
    url: str
    sandbox: Sandbox
    loop: asyncio.AbstractEventLoop
    answered: list[tuple[str, str, int]] = field(default_factory=list)

    def behave(self, **behaviour: object) -> None:
        wanted = Behaviour.model_validate({"staging_time": 0.1, **behaviour})
        self.loop.call_soon_threadsafe(self.sandbox.behave, wanted)
        wait_until(lambda: self.sandbox.behaviour == wanted, "the sandbox to behave")

    def staged(self) -> list[dict[str, object]]:
        """The requests that became calls, oldest first."""
        return [call.request for call in reversed(self.sandbox.calls.newest(100_000))]

    def ids(self) -> list[str]:
        return [call.id for call in reversed(self.sandbox.calls.newest(100_000))]


@contextlib.contextmanager
def sandbox(key: str = "sandbox") -> Iterator[SandboxThread]:
    started: list[SandboxThread] = []
    answered: list[tuple[str, str, int]] = []
    stop = threading.Event()

    async def serve() -> None:
        emulated = Sandbox(
            key,
            Behaviour(staging_time=0.1),
            on_answer=lambda method, path, status, call: answered.append((method, path, status)),
        )
        async with serving(emulated, Address("127.0.0.1", 0)) as url:
            started.append(SandboxThread(url, emulated, asyncio.get_running_loop(), answered))
            while not stop.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    wait_until(lambda: started, "the sandbox to listen")
    try:
        yield started[0]
    finally:
        stop.set()
        thread.join(10)


@dataclass
class Daemon:
    """The daemon's process: stopped, frozen, killed and started again as a test wants it."""

    directory: Path
    command: list[str | Path]
    running: subprocess.Popen[bytes] | None = None
    listens: tuple[str, int] = (OUTBOUND.host, OUTBOUND.port)

    @property
    def log(self) -> str:
        return (self.directory / "daemon.log").read_text(encoding="utf-8", errors="replace")

    def outcomes(self) -> list[str]:
        """The outcomes in the log, one a call."""
        return re.findall(r"rounded_pbx\.handler[^:]*: ([A-Z_]+) did=", self.log)

    def start(self) -> None:
        with (self.directory / "daemon.log").open("ab") as log:
            self.running = subprocess.Popen(
                [str(word) for word in self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "ROUNDED_API_KEY": "sandbox"},
            )
        wait_until(lambda: answers(*self.listens), "the daemon to listen")

    def signal(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def stop(self) -> None:
        if self.running is not None:
            end(self.running)
            self.running = None

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.running is not None
        self.running.wait()
        self.running = None

    def descriptors(self) -> int:
        """How many file descriptors its process has open."""
        assert self.running is not None
        return len(list(Path(f"/proc/{self.running.pid}/fd").iterdir()))


@contextlib.contextmanager
def daemon(directory: Path, text: str) -> Iterator[Daemon]:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.yml"
    file.write_text(text)
    started = Daemon(directory, rounded_pbx("serve", "--config", file))
    try:
        started.start()
        yield started
    finally:
        if started.running is not None:
            started.signal(signal.SIGCONT)
        started.stop()
