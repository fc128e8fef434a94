"""The scenes: a call that is staged, and the same call while the API is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console

from ..call import Switch as Kind
from ..config import Config
from ..config_types import Address
from ..daemon import running
from ..sandbox import Behaviour, Call, Fault, Sandbox, serving
from ..yamlfile import YamlFile
from . import switches
from .stage import Stage

DID, NUMBER, NAME = "+33612345678", "+33145678901", "Ann Caller"
KEY = "sandbox"


def examples() -> Path:
    """The drop-in files: in the package where it is installed, else in the checkout."""
    packaged = Path(__file__).parents[1] / "dialplan_examples"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "dialplan_examples"


async def run(console: Console, asterisk: Path | None) -> bool:
    """Play both scenes on a real Asterisk, or without one; whether they went as they should.

    SIGTERM and SIGHUP cancel it, or its Asterisk would outlive it.
    """
    if playing := asyncio.current_task():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    stage = Stage(console)

    def answered(method: str, path: str, status: int, call: Call | None) -> None:
        if path.startswith("/v1/calls"):
            seen = f"  {call.status(time.monotonic())}" if call else ""
            stage.say("API", f"{method} {path} -> {status}{seen}")

    sandbox = Sandbox(KEY, Behaviour(staging_time=0.25), on_answer=answered)
    log = logging.getLogger("rounded_pbx.handler")
    log.addHandler(stage)
    log.setLevel(logging.INFO)
    showing = asyncio.ensure_future(stage.show())
    try:
        async with (
            serving(sandbox, Address("127.0.0.1", 0)) as url,
            running(_config(url), {"default": KEY}) as addresses,
            _switch(console, stage, asterisk, addresses[Kind.ASTERISK]) as switch,
        ):
            console.print(f"The switch is {switch.description}.", soft_wrap=True)
            stage.scene("1. A call is staged while it rings, and its INVITE carries the id")
            await switch.call(DID, NUMBER, NAME)
            staged = [("agent", call.id) for call in sandbox.calls.newest(1)]
            first = bool(staged) and stage.invites == staged
            await asyncio.sleep(0.1)
            sandbox.behave(Behaviour(fault=Fault.UNAVAILABLE, retry_after=None))
            stage.scene("2. The same call while the API answers 503: it goes to its fallback")
            await switch.call(DID, NUMBER, NAME)
            second = stage.invites == [("fallback", "")]
    finally:
        log.removeHandler(stage)
        showing.cancel()
        stage.flush_before(float("inf"))
    console.print()
    stage.verdict("the agent's INVITE carried the id that the API returned", holds=first)
    stage.verdict("with the API down, the call reached its fallback without an id", holds=second)
    return first and second


@contextlib.asynccontextmanager
async def _switch(
    console: Console, stage: Stage, binary: Path | None, fastagi: Address
) -> AsyncIterator[switches.Switch]:
    """A real Asterisk if there is one and it boots, else a simulated switch."""
    with tempfile.TemporaryDirectory(prefix="rounded-pbx-demo-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            switch: switches.Switch | None = None
            if binary is not None:
                try:
                    switch = await stack.enter_async_context(
                        switches.real(stage, binary, examples(), Path(folder), fastagi)
                    )
                except OSError as error:
                    console.print(f"[red]{error}[/]", soft_wrap=True)
            if switch is None:
                switch = await stack.enter_async_context(switches.simulated(stage, fastagi))
            yield switch
            await asyncio.sleep(0.1)


def _config(url: str) -> Config:
    """The example configuration, but for where the API is and where the daemon listens."""
    data = YamlFile(examples() / "config.yml").data or {}
    data["accounts"] = {"default": {"key_env": "SANDBOX_KEY"}}
    data["api"] = {"base_url": url}
    data["asterisk"] = {"fastagi": {"listen": "127.0.0.1:0"}}
    data["freeswitch"] = {"outbound": {"listen": "127.0.0.1:0"}}
    return Config.model_validate(data)
