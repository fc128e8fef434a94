"""FastAGI sessions as an Asterisk opens them, at a rate, and how long each took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

ENVIRONMENT = b"""agi_network: yes
agi_network_script: stage?did=+33612345678&from=+33145678901&pres=allowed&name=Ann
agi_request: agi://127.0.0.1:4573/stage?did=+33612345678&from=+33145678901&pres=allowed&name=Ann
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


@dataclass
class Load:
    """What came of it: milliseconds from connect to the last reply, and how many had an id."""

    milliseconds: list[float] = field(default_factory=list)
    with_id: int = 0
    failed: int = 0
    seconds: float = 0.0


class Session(asyncio.Protocol):
    def __init__(self, load: Load, begun: float, done: asyncio.Future[None]) -> None:
        self.load, self.begun, self.done = load, begun, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(ENVIRONMENT)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET FULL VARIABLE"):
            self.transport.write(b"200 result=1 (" + data.split(b'"')[1] + b")\n")
            return
        self.load.with_id += b'STATUS=\\"STAGED' in data or b'STATUS=\\"INITIATED' in data
        self.transport.write(b"200 result=0\n")

    def connection_lost(self, error: Exception | None) -> None:
        self.load.milliseconds.append((asyncio.get_running_loop().time() - self.begun) * 1000)
        if not self.done.done():
            self.done.set_result(None)


async def _session(port: int, result: Load) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    begun = loop.time()
    try:
        await loop.create_connection(lambda: Session(result, begun, done), "127.0.0.1", port)
    except OSError:
        result.failed += 1
        return
    await done


async def load(port: int, calls: int, rate: float) -> Load:
    """``calls`` sessions, ``rate`` a second (0: all at one instant)."""
    loop = asyncio.get_running_loop()
    result, start, waiting = Load(), loop.time(), []
    for number in range(calls):
        if rate:
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
        waiting.append(asyncio.ensure_future(_session(port, result)))
    await asyncio.gather(*waiting)
    result.seconds = loop.time() - start
    return result


async def saturate(port: int, sessions: int, seconds: float) -> Load:
    """As many sessions as can be had for some time, so many of them at any moment."""
    loop = asyncio.get_running_loop()
    result, start = Load(), loop.time()

    async def one_after_another() -> None:
        while loop.time() < start + seconds:
            await _session(port, result)

    await asyncio.gather(*(one_after_another() for _ in range(sessions)))
    result.seconds = loop.time() - start
    return result
