"""Whether somebody is there at the other end of the trunk; no call is made."""

from __future__ import annotations

import asyncio
import contextlib
import re

from ..config import Trunk
from ..sip import ping
from .results import CheckResult, look, right, said, wrong

_LIMIT = 3.0
_URI = re.compile(r"(?:sips?:)?(?:[^@]*@)?([^:;>]+)(?::([0-9]+))?")


def leads_to(uri: str, trunk: Trunk) -> bool:
    """Whether a SIP URI that a switch shows is the trunk's host and port."""
    found = _URI.match(uri)
    host, _, port = trunk.host.partition(":")
    return found is not None and (found[1].lower(), found[2] or "5060") == (
        host.lower(),
        port or "5060",
    )


async def reach(name: str, trunk: Trunk, protocol: str) -> CheckResult:
    """Ask the trunk's host for its OPTIONS, or, where it is not UDP, for a connection."""
    _, _, port_given = trunk.host.partition(":")
    port = int(port_given or (5061 if protocol == "tls" else 5060))
    todo = f"trunk.host ({trunk.host}), its DNS name, and the firewall"
    try:
        if protocol == "udp":
            answer = await ping(trunk.address, port, limit=_LIMIT)
            return right(name, f"{trunk.host} answers OPTIONS: {answer.first_line}")
        async with asyncio.timeout(_LIMIT):
            _, writer = await asyncio.open_connection(trunk.address, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return right(name, f"{trunk.host} takes a connection over {protocol}")
    except TimeoutError:
        if protocol == "udp":
            return look(
                name,
                f"{trunk.host} said nothing to OPTIONS within {_LIMIT:g} s",
                "it is not there, a firewall keeps it away, or it answers no OPTIONS",
                "call one of your DIDs; if the agent does not answer: " + todo,
            )
        seen = f"{trunk.host}: no connection within {_LIMIT:g} s"
    except OSError as error:
        seen = f"{trunk.host}: {said(error)}"
    return wrong(name, seen, "no call can reach the agent", todo)
