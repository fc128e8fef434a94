"""The switch of the demonstration: what a scene needs of it, whichever it is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Protocol

from ..config import Config
from ..config_types import Address
from ..dialplan.flavours import Flavour
from ..dialplan.rendering import render
from ..examples import CONFIG
from ..sip import Callee, Caller, SipMessage
from ..yamlfile import YamlFile
from .stage import Stage


def written(flavour: Flavour, daemon: Address, agent: Address) -> dict[str, str]:
    """What is written for the example configuration, with the addresses of the scene."""
    data = YamlFile(CONFIG).data or {}
    # The carrier and the platform have one address here; the platform never calls.
    data["trunk"] |= {"host": str(agent), "match": "192.0.2.1"}
    data["asterisk"] = {"fastagi": {"listen": str(daemon)}}
    data["freeswitch"] = {"outbound": {"listen": str(daemon)}}
    return render(flavour, Config.model_validate(data)).files


def free_address(kind: socket.SocketKind) -> Address:
    """An address on loopback that nothing uses."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(*probe.getsockname())


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


class RealSwitch:
    """A switch that calls are placed on over SIP."""

    def __init__(self, stage: Stage, sip: Address, description: str) -> None:
        self._stage = stage
        self._sip = sip
        self.description = description

    async def call(self, did: str, number: str, name: str) -> None:
        """Place a call, and hang up a moment after it was answered."""

        def heard(response: SipMessage) -> None:
            self._stage.say("caller", f"<- {response.first_line}")

        caller = await Caller(heard).listen("127.0.0.1")
        self._stage.say("caller", f"INVITE sip:{did}@{self._sip}  From: {name} <{number}>")
        await caller.call(self._sip, did, name=name, number=number)
        await asyncio.sleep(0.2)
        caller.hang_up()
        await asyncio.sleep(0.2)
        caller.close()
