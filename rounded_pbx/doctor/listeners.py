"""The daemon, as a switch would find it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..call import Switch
from ..config import Config
from ..config_types import Listening
from ..servers.listener import is_allowed
from .results import CheckResult, right, said, skipped, wrong

_SETTINGS = {Switch.ASTERISK: "asterisk.fastagi", Switch.FREESWITCH: "freeswitch.outbound"}
#: Seconds for the connection, and for each answer.
_LIMIT = 2.0
#: Seconds after which a daemon that refuses an address has closed the connection.
_AT_ONCE = 0.3


@dataclass(frozen=True, slots=True)
class _Knock:
    """A connection to the daemon: where it came from, and how it ended."""

    source: str
    closed_at_once: bool
    let_go: bool


async def check_listeners(config: Config) -> AsyncIterator[CheckResult]:
    """Each listener that the configuration asks for, and who may use it. No call is made."""
    for switch, section in (
        (Switch.ASTERISK, config.asterisk.fastagi),
        (Switch.FREESWITCH, config.freeswitch.outbound),
    ):
        if section.listen is not None:
            async for result in _check(switch, section):
                yield result


async def _check(switch: Switch, section: Listening) -> AsyncIterator[CheckResult]:
    assert section.listen is not None  # noqa: S101 - for the type checker
    setting = _SETTINGS[switch]
    name, acl = f"daemon.{switch}", f"daemon.{switch}.allow"
    host, port = section.listen.host, section.listen.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    place = f"{host}:{port}"
    try:
        knock = await _knock(host, port)
    except (OSError, TimeoutError) as error:
        todo = f"start it: systemctl start rounded-pbx; it listens where {setting}.listen says"
        yield wrong(name, f"{place}: {said(error)}", "the daemon is not there", todo)
        yield skipped(acl, "the daemon is not there")
        return
    allowed = is_allowed(knock.source, section.allow)
    if allowed and knock.closed_at_once:
        yield wrong(
            name,
            f"{place} closes the connection from {knock.source} at once",
            f"{setting}.allow has that address: the daemon runs with another configuration, has "
            "too many connections, or it is another program",
            "restart the daemon: systemctl restart rounded-pbx",
        )
    elif not (knock.closed_at_once or knock.let_go):
        yield wrong(
            name,
            f"{place} takes the connection and says nothing for {_LIMIT:g} s",
            "the daemon hangs, or it is another program",
            "restart the daemon: systemctl restart rounded-pbx",
        )
    else:
        yield right(name, f"listening on {place}")
    networks = ", ".join(map(str, section.allow))
    if allowed:
        yield right(acl, f"{knock.source} is in {networks}")
    else:
        yield wrong(
            acl,
            f"{setting}.allow: {networks}",
            f"the switch asks from {knock.source}, which is in none of them",
            f"add {knock.source}/32 to {setting}.allow; then: systemctl reload rounded-pbx",
        )


async def _knock(host: str, port: int) -> _Knock:
    """Connect, say nothing, and close our side: for the daemon, a port check."""
    async with asyncio.timeout(_LIMIT):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        source = str(writer.get_extra_info("sockname")[0])
        try:
            async with asyncio.timeout(_AT_ONCE):
                closed = not await reader.read(4096)
        except TimeoutError:
            closed = False
        except OSError:
            closed = True
        let_go = False
        if not closed:
            with contextlib.suppress(TimeoutError, OSError):
                writer.write_eof()
                async with asyncio.timeout(_LIMIT):
                    while await reader.read(4096):
                        pass
                    let_go = True
        return _Knock(source, closed, let_go)
    finally:
        writer.transport.abort()
