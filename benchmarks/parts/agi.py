"""FastAGI sessions as an Asterisk opens them, at a rate, and how long each took."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

#: What a dialplan passes of a call, as a query.
CALL = "did=+33612345678&from=+33145678901&pres=allowed&name=Ann"
STAGE = f"stage?{CALL}"

_ENVIRONMENT = """agi_network: yes
agi_network_script: {script}
agi_request: agi://127.0.0.1:4573/{script}
agi_channel: PJSIP/carrier-00000000
agi_language: en
agi_type: PJSIP
agi_uniqueid: 1795351425.0
agi_version: 22.10.1
agi_callerid: +33145678901
agi_calleridname: Ann
agi_callingpres: 0
agi_callingani2: 0
agi_callington: 0
agi_callingtns: 0
agi_dnid: +33612345678
agi_rdnis: unknown
agi_context: rounded-stage
agi_extension: s
agi_priority: 6
agi_enhanced: 0.0
agi_accountcode:
agi_threadid: 139873600140992

"""
_TICKET = re.compile(rb'TICKET "([0-9a-f-]{36})')


def environment(script: str = STAGE) -> bytes:
    """What Asterisk writes for ``AGI(agi://127.0.0.1:4573/script)``."""
    return _ENVIRONMENT.format(script=script).encode()


@dataclass
class Load:
    """What came of it: milliseconds from connect to the last reply, how many had an id, tickets."""

    milliseconds: list[float] = field(default_factory=list)
    with_id: int = 0
    tickets: list[str] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0


class Session(asyncio.Protocol):
    def __init__(self, script: str, load: Load, begun: float, done: asyncio.Future[None]) -> None:
        self.script, self.load, self.begun, self.done = script, load, begun, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(environment(self.script))

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET FULL VARIABLE"):
            self.transport.write(b"200 result=1 (" + data.split(b'"')[1] + b")\n")
            return
        self.load.with_id += b'\\"STAGED\\"' in data or b'\\"INITIATED\\"' in data
        if ticket := _TICKET.search(data):
            self.load.tickets.append(ticket[1].decode())
        self.transport.write(b"200 result=1\n")

    def connection_lost(self, error: Exception | None) -> None:
        self.load.milliseconds.append((asyncio.get_running_loop().time() - self.begun) * 1000)
        if not self.done.done():
            self.done.set_result(None)


async def _session(port: int, script: str, result: Load) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    begun = loop.time()
    try:
        await loop.create_connection(
            lambda: Session(script, result, begun, done), "127.0.0.1", port
        )
    except OSError:
        result.failed += 1
        return
    await done


async def load(port: int, scripts: Sequence[str], rate: float) -> Load:
    """A session for each script, ``rate`` a second (0: all at one instant)."""
    loop = asyncio.get_running_loop()
    result, start, waiting = Load(), loop.time(), []
    for number, script in enumerate(scripts):
        if rate:
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
        waiting.append(asyncio.ensure_future(_session(port, script, result)))
    await asyncio.gather(*waiting)
    result.seconds = loop.time() - start
    return result


async def saturate(port: int, sessions: int, seconds: float) -> Load:
    """As many sessions as can be had for some time, so many of them at any moment."""
    loop = asyncio.get_running_loop()
    result, start = Load(), loop.time()

    async def one_after_another() -> None:
        while loop.time() < start + seconds:
            await _session(port, STAGE, result)

    await asyncio.gather(*(one_after_another() for _ in range(sessions)))
    result.seconds = loop.time() - start
    return result
