"""Simulated switches: they do what the drop-in dialplan does, and no more.

Each speaks its own protocol to the daemon on the wire, and sends the INVITE itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from urllib.parse import quote

from .. import call
from ..config_types import Address
from ..protocol.agi import ENVIRONMENT_KEYS
from ..sip import Caller
from .asterisk import variables_set
from .stage import HEADER, Stage
from .switches import Switch, callees


@contextlib.asynccontextmanager
async def simulated(stage: Stage, kind: call.Switch, daemon: Address) -> AsyncIterator[Switch]:
    """A simulated switch of a kind, that asks the daemon at an address."""
    simulation = _FreeSwitch if kind is call.Switch.FREESWITCH else _Asterisk
    async with callees(stage) as (agent, phone):
        yield simulation(stage, daemon, agent, phone)


class _Simulated:
    description = ""

    def __init__(self, stage: Stage, daemon: Address, agent: Address, phone: Address) -> None:
        self._stage = stage
        self._daemon = daemon
        self._agent = agent
        self._phone = phone

    async def call(self, did: str, number: str, name: str) -> None:
        self._stage.say("caller", f"calls {did}  From: {name} <{number}>")
        variables = await self._ask(did, number, name)
        for variable, value in variables.items():
            self._stage.say("switch", f"   {variable}={value}")
        said = {variable.upper(): value for variable, value in variables.items()}
        call_id = said.get("ROUNDED_CALL_ID", "")
        to_agent = said.get("ROUNDED_NEXT") == "dial"
        where, user = (self._agent, did) if to_agent else (self._phone, "600")
        self._stage.say("switch", f"INVITE sip:{user}@{where}")
        leg = await Caller(lambda response: None).listen("127.0.0.1")
        header = (HEADER, call_id) if call_id and to_agent else ("", "")
        await leg.call(where, user, name=name, number=number, headers=header)
        leg.hang_up()
        await asyncio.sleep(0.1)
        leg.close()

    async def _ask(self, did: str, number: str, name: str) -> dict[str, str]:
        raise NotImplementedError


class _Asterisk(_Simulated):
    description = "a SIMULATED Asterisk: it speaks AGI and SIP on the wire, but is no PBX"

    async def _ask(self, did: str, number: str, name: str) -> dict[str, str]:
        """The AGI session of a call: the environment out, the daemon's commands in."""
        query = f"did={did}&from={number}&pres=allowed&name={quote(name)}"
        self._stage.say("switch", f"AGI(agi://{self._daemon}/collect?{query})")
        environment = {
            **dict.fromkeys(ENVIRONMENT_KEYS, ""),
            "network": "yes",
            "network_script": f"collect?{query}",
            "channel": "SIMULATED/1",
            "uniqueid": "1.1",
            "version": "22.0.0",
            "callerid": number,
            "calleridname": name,
        }
        reader, writer = await asyncio.open_connection(self._daemon.host, self._daemon.port)
        lines = "".join(f"agi_{key}: {value}\n" for key, value in environment.items())
        writer.write(f"{lines}\n".encode())
        variables: dict[str, str] = {}
        while line := (await reader.readline()).decode():
            variables |= variables_set(line)
            asked = re.match('GET FULL VARIABLE "(.*)"', line)
            writer.write(f"200 result=1 ({asked[1] if asked else ''})\n".encode())
        writer.close()
        await writer.wait_closed()
        return variables


class _FreeSwitch(_Simulated):
    description = "a SIMULATED FreeSWITCH: it speaks ESL and SIP on the wire, but is no PBX"

    async def _ask(self, did: str, number: str, name: str) -> dict[str, str]:
        """The session of the outbound socket: the channel out, the daemon's commands in."""
        self._stage.say("switch", f"socket {self._daemon}/collect async full")
        channel = {
            "Unique-ID": str(uuid.uuid4()),
            "Caller-Caller-ID-Number": number,
            "Caller-Caller-ID-Name": name,
            "Caller-Context": "public",
            "variable_socket_path": "collect",
            "variable_rounded_in_did": did,
        }
        reader, writer = await asyncio.open_connection(self._daemon.host, self._daemon.port)
        variables: dict[str, str] = {}
        while command := (await reader.readuntil(b"\n\n")).decode().strip():
            if command == "noevents":  # the first command has no answer
                continue
            if command == "getvar uuid":
                writer.write(
                    f"Content-Type: command/reply\nReply-Text: {channel['Unique-ID']}\n\n".encode()
                )
            elif command.startswith("api uuid_dump "):
                lines = (f"{key}: {quote(value, safe='/')}\n" for key, value in channel.items())
                body = f"{''.join(lines)}\n".encode()
                head = f"Content-Type: api/response\nContent-Length: {len(body)}\n\n".encode()
                writer.write(head + body)
            elif command == "connect":  # the call has to wait
                writer.write(b"Content-Type: command/reply\nReply-Text: +OK\n\n")
            elif command.startswith("api uuid_setvar_multi "):
                pairs = command.split(" ", 3)[3].split(";")
                variables = dict(pair.split("=", 1) for pair in pairs)
                writer.write(b"Content-Type: api/response\nContent-Length: 4\n\n+OK\n")
            else:
                writer.write(b"Content-Type: command/reply\nReply-Text: +OK bye\n\n")
                break
        writer.close()
        await writer.wait_closed()
        return variables
