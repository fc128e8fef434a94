"""The scenes: a call that is staged, and the same call while the API is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from rich.console import Console

from ..call import Switch as Kind
from ..config import Config
from ..config_types import Address
from ..daemon import running
from ..examples import CONFIG
from ..sandbox import Behaviour, Call, Fault, Sandbox, serving
from ..yamlfile import YamlFile
from . import asterisk, freeswitch
from .simulated import simulated
from .stage import Stage
from .switches import Switch

DID, NUMBER, NAME = "+33612345678", "+33145678901", "Ann Caller"
KEY = "sandbox"


async def run(console: Console, binaries: Mapping[Kind, Path | None]) -> bool:
    """Play the scenes on a switch of each kind; whether they went as they should.

    ``binaries`` names the real switch to use for a kind, or None for a simulated one. SIGTERM and
    SIGHUP cancel it, or its switches would outlive it.
    """
    if playing := asyncio.current_task():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    stage = Stage(console)

    def answered(method: str, path: str, status: int, call: Call | None) -> None:
        if path.startswith("/v1/calls"):
            seen = f"  {call.status(time.monotonic())}" if call else ""
            stage.say("API", f"{method} {path} -> {status}{seen}")

    sandbox = Sandbox(KEY, on_answer=answered)
    log = logging.getLogger("rounded_pbx.handler")
    log.addHandler(stage)
    log.setLevel(logging.INFO)
    showing = asyncio.ensure_future(stage.show())
    verdicts: list[tuple[str, bool]] = []
    try:
        async with (
            serving(sandbox, Address("127.0.0.1", 0)) as url,
            running(_config(url), {"default": KEY}) as daemon,
        ):
            for kind, binary in binaries.items():
                async with _switch(console, stage, kind, binary, daemon.addresses[kind]) as switch:
                    verdicts += await _play(stage, sandbox, kind, switch)
    finally:
        log.removeHandler(stage)
        showing.cancel()
        stage.flush_before(float("inf"))
    console.print()
    for claim, holds in verdicts:
        stage.verdict(claim, holds=holds)
    return all(holds for _, holds in verdicts)


async def _play(
    stage: Stage, sandbox: Sandbox, kind: Kind, switch: Switch
) -> list[tuple[str, bool]]:
    """Both scenes; what each was to show, and whether it did."""
    name = {Kind.ASTERISK: "Asterisk", Kind.FREESWITCH: "FreeSWITCH"}[kind]
    sandbox.behave(Behaviour(staging_time=0.25))
    stage.scene(f"{name}, 1. A call is staged while it rings, and its INVITE carries the id")
    stage.say("switch", switch.description)
    await switch.call(DID, NUMBER, NAME)
    staged = [("agent", call.id) for call in sandbox.calls.newest(1)]
    first = bool(staged) and stage.invites == staged
    await asyncio.sleep(0.1)
    sandbox.behave(Behaviour(fault=Fault.UNAVAILABLE, retry_after=None))
    stage.scene(f"{name}, 2. The same call while the API answers 503: it goes to its fallback")
    await switch.call(DID, NUMBER, NAME)
    second = stage.invites == [("fallback", "")]
    await asyncio.sleep(0.1)
    return [
        (f"{name}: the agent's INVITE carried the id that the API returned", first),
        (f"{name}: with the API down, the call reached its fallback without an id", second),
    ]


@contextlib.asynccontextmanager
async def _switch(
    console: Console, stage: Stage, kind: Kind, binary: Path | None, daemon: Address
) -> AsyncIterator[Switch]:
    """A real switch if there is one and it starts, else a simulated one."""
    real = {Kind.ASTERISK: asterisk.real, Kind.FREESWITCH: freeswitch.real}[kind]
    with tempfile.TemporaryDirectory(prefix="rounded-pbx-demo-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            switch: Switch | None = None
            if binary is not None:
                try:
                    switch = await stack.enter_async_context(
                        real(stage, binary, Path(folder), daemon)
                    )
                except OSError as error:
                    console.print(f"[red]{error}[/]", soft_wrap=True)
            if switch is None:
                switch = await stack.enter_async_context(simulated(stage, kind, daemon))
            yield switch
            await asyncio.sleep(0.1)


def _config(url: str) -> Config:
    """The example configuration, but for where the API is and where the daemon listens."""
    data = YamlFile(CONFIG).data or {}
    data["accounts"] = {"default": {"key_env": "SANDBOX_KEY"}}
    data["api"] = {"base_url": url}
    data["asterisk"] = {"fastagi": {"listen": "127.0.0.1:0"}}
    data["freeswitch"] = {"outbound": {"listen": "127.0.0.1:0"}}
    data["status"] = {"listen": "off"}
    return Config.model_validate(data)
