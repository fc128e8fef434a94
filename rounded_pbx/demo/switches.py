"""The switch of the demonstration: a real Asterisk, or one that is simulated."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from ..config_types import Address
from ..protocol.agi import ENVIRONMENT_KEYS
from .asterisk import PrivateAsterisk
from .sip import Callee, Caller, SipMessage
from .stage import HEADER, Stage

_EXTENSIONS = """\
[from-trunk]
exten => +33612345678,1,Gosub(rounded,${EXTEN},1)
 same => n,Hangup()
[from-internal]
exten => 600,1,Dial(PJSIP/600@phone,10)
#include extensions_rounded.conf
"""

_PJSIP = """\
[transport-udp]
type=transport
protocol=udp
bind={switch}
[carrier]
type=endpoint
context=from-trunk
disallow=all
allow=alaw
[carrier]
type=identify
endpoint=carrier
match=127.0.0.1
[phone]
type=endpoint
context=from-internal
disallow=all
allow=alaw
aors=phone
[phone]
type=aor
contact=sip:{phone}
#include pjsip_rounded.conf
"""

# What Asterisk's log says of the call's path.
_EXECUTING = re.compile(
    r"^\[([0-9.]+)\].*Executing \[(\S+?)@(\S+?):\d+\] "
    r'(AGI|Dial|Goto|Gosub|Ringing)\("[^"]*", "(.*)"\)'
)
_VARIABLES = re.compile(r"^\[([0-9.]+)\].*Executing Application: \(MSet\) Options: \((.*)\)")


class Switch(Protocol):
    """A switch that calls can be placed on."""

    description: str

    async def call(self, did: str, number: str, name: str) -> None:
        """Place a call, and hang up a moment after it was answered."""
        ...


@contextlib.asynccontextmanager
async def callees(stage: Stage) -> AsyncIterator[tuple[Address, Address]]:
    """The agent's side and the fallback's phone; where they listen."""
    agent = await Callee(lambda invite: stage.invited("agent", invite)).listen("127.0.0.1")
    phone = await Callee(lambda invite: stage.invited("fallback", invite)).listen("127.0.0.1")
    try:
        yield agent.here, phone.here
    finally:
        agent.close()
        phone.close()


@contextlib.asynccontextmanager
async def real(
    stage: Stage, binary: Path, examples: Path, folder: Path, fastagi: Address
) -> AsyncIterator[Switch]:
    """A real Asterisk on the drop-in files, with their addresses changed to the scene's.

    Raises:
        OSError: it does not boot.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        sip = Address(*probe.getsockname())
    async with callees(stage) as (agent, phone):
        dialplan = (examples / "asterisk/extensions_rounded.conf").read_text()
        trunk = (examples / "asterisk/pjsip_rounded.conf").read_text()
        # The carrier and the platform have one address here; the platform never calls.
        trunk = trunk.replace("match=sip.example.net", "match=192.0.2.1")
        asterisk = PrivateAsterisk(
            binary,
            folder,
            {
                "extensions.conf": _EXTENSIONS,
                "extensions_rounded.conf": dialplan.replace("127.0.0.1:4573", str(fastagi)),
                "pjsip.conf": _PJSIP.format(switch=sip, phone=phone),
                "pjsip_rounded.conf": trunk.replace("sip.example.net:5060", str(agent)),
            },
        )
        try:
            await asyncio.to_thread(asterisk.start)
            telling = asyncio.ensure_future(_tell(stage, asterisk.log))
            version = re.search(r"Asterisk \S+", asterisk.cli("core show version"))
            name = version[0] if version else "Asterisk"
            yield _RealSwitch(stage, sip, f"a real {name} ({binary})")
            telling.cancel()
        finally:
            await asyncio.to_thread(asterisk.stop)


async def _tell(stage: Stage, log: Path) -> None:
    """Say what Asterisk does, as its log grows."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            line = lines.readline()
            if not line:
                await asyncio.sleep(0.005)
            elif executing := _EXECUTING.search(line):
                at, extension, context, application, arguments = executing.groups()
                said = f"[{extension}@{context}] {application}({arguments})"
                stage.say("switch", said, at=float(at))
            elif variables := _VARIABLES.search(line):
                for pair in re.split(r",(?=ROUNDED_)", variables[2]):
                    stage.say("switch", f"   {pair}", at=float(variables[1]))


class _RealSwitch:
    def __init__(self, stage: Stage, sip: Address, description: str) -> None:
        self._stage = stage
        self._sip = sip
        self.description = description

    async def call(self, did: str, number: str, name: str) -> None:
        def heard(response: SipMessage) -> None:
            self._stage.say("caller", f"<- {response.first_line}")

        caller = await Caller(heard).listen("127.0.0.1")
        self._stage.say("caller", f"INVITE sip:{did}@{self._sip}  From: {name} <{number}>")
        await caller.call(self._sip, did, name=name, number=number)
        await asyncio.sleep(0.2)
        caller.hang_up()
        await asyncio.sleep(0.2)
        caller.close()


@contextlib.asynccontextmanager
async def simulated(stage: Stage, fastagi: Address) -> AsyncIterator[Switch]:
    """A switch that does what the drop-in dialplan does, and no more."""
    async with callees(stage) as (agent, phone):
        yield _SimulatedSwitch(stage, fastagi, agent, phone)


class _SimulatedSwitch:
    description = "a SIMULATED switch: it speaks AGI and SIP on the wire, but is no PBX"

    def __init__(self, stage: Stage, fastagi: Address, agent: Address, phone: Address) -> None:
        self._stage = stage
        self._fastagi = fastagi
        self._agent = agent
        self._phone = phone

    async def call(self, did: str, number: str, name: str) -> None:
        self._stage.say("caller", f"calls {did}  From: {name} <{number}>")
        variables = await self._agi(did, number, name)
        for variable, value in variables.items():
            self._stage.say("switch", f"   {variable}={value}")
        call_id = variables.get("ROUNDED_CALL_ID", "")
        to_agent = variables.get("ROUNDED_NEXT") == "dial"
        where, user = (self._agent, did) if to_agent else (self._phone, "600")
        self._stage.say("switch", f"INVITE sip:{user}@{where}")
        leg = await Caller(lambda response: None).listen("127.0.0.1")
        header = (HEADER, call_id) if call_id and to_agent else ("", "")
        await leg.call(where, user, name=name, number=number, headers=header)
        leg.hang_up()
        await asyncio.sleep(0.1)
        leg.close()

    async def _agi(self, did: str, number: str, name: str) -> dict[str, str]:
        """The AGI session of a call: the environment out, the daemon's commands in."""
        query = f"did={did}&from={number}&pres=allowed&name={quote(name)}"
        self._stage.say("switch", f"AGI(agi://{self._fastagi}/stage?{query})")
        environment = {
            **dict.fromkeys(ENVIRONMENT_KEYS, ""),
            "network": "yes",
            "network_script": f"stage?{query}",
            "channel": "SIMULATED/1",
            "uniqueid": "1.1",
            "version": "22.0.0",
            "callerid": number,
            "calleridname": name,
        }
        reader, writer = await asyncio.open_connection(self._fastagi.host, self._fastagi.port)
        lines = "".join(f"agi_{key}: {value}\n" for key, value in environment.items())
        writer.write(f"{lines}\n".encode())
        variables: dict[str, str] = {}
        while line := (await reader.readline()).decode():
            unquoted = line.replace('\\"', '"')
            variables |= dict(re.findall(r'(ROUNDED_[A-Z_]+)="?(.*?)"(?=[,"\n])', unquoted))
            asked = re.match('GET FULL VARIABLE "(.*)"', line)
            writer.write(f"200 result=1 ({asked[1] if asked else ''})\n".encode())
        writer.close()
        await writer.wait_closed()
        return variables
