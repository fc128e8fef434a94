"""Asterisk's manager interface (AMI), over panoramisk's client.

What is added to it, and why (panoramisk 1.4): each call ends by a time-out (a wrong password raises
nothing, and what is asked after it waits for ever), or at once where the connection is lost; a lost
connection is not made anew behind our back (its reconnects outlive ``close``); the login is
checked, what the peer sends is bounded, and nothing with a line end goes into an action. The rights
``system,reporting,originate`` are enough; ``command`` is not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from panoramisk import Manager
from panoramisk.ami_protocol import AMIProtocol

from ..config_types import Address
from ..errors import CommandFailed, LoginRefused, NoPermission, SwitchUnreachable
from . import said, word

_SECRET = re.compile(r"[ -~]{1,128}")
_HOLD_CONFIGURATION = ("res_pjsip", "chan_sip", "pbx_config")
#: Bytes that the manager may send from one action, or one item of a list, to the next.
_LIMIT = 128 * 1024
#: Items of a list: a large FreePBX has some 30,000 lines of dialplan.
_LONGEST_LIST = 500_000
#: Seconds that a list may take at least.
_LIST_TIME = 20.0

# panoramisk logs whole actions, the secret of the login in them: to a logger that no logging
# configuration can reach.
_silent = logging.Logger("panoramisk", logging.CRITICAL + 1)


class _Protocol(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """A connection that knows its manager from its first byte on, and bounds what it reads.

    panoramisk introduces the two in a callback, some turns of the loop later (manager.py:77), and
    what came before, an event or the end, would meet a None (ami_protocol.py:87, 92).
    """

    def __init__(self, manager: _Manager) -> None:
        self._manager = manager
        self._left = _LIMIT
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.factory = self._manager
        self.log = _silent
        self.encoding = "utf8"

    def send(self, data: Any, as_list: bool = False) -> asyncio.Future[Any]:
        self._left = _LIMIT
        reply: asyncio.Future[Any] = super().send(data, as_list=as_list)
        return reply

    def data_received(self, data: bytes) -> None:
        # Of a list, one read may hold far more than one item may. Whole lines only: panoramisk
        # decodes each read by itself (44), and a character may be split between two.
        for start in range(0, len(data), _LIMIT // 8):
            if not self.transport.is_closing():
                self._rest += data[start : start + _LIMIT // 8]
                lines, newline, self._rest = self._rest.rpartition(b"\n")
                self._receive(lines + newline)

    def _receive(self, data: bytes) -> None:
        self._left -= len(data)
        try:
            if self._left < len(self._rest):  # it would keep all, for a blank line to come (62)
                raise ValueError(f"more than {_LIMIT} bytes")
            super().data_received(data)
        except Exception:  # it trips over repeated headers: they are lists, and it expects text
            self.transport.abort()

    def handle_message(self, message: Any) -> None:
        # An event would count as a success (message.py:82), and have old actions sent again.
        if "Event" not in message:
            super().handle_message(message)
        elif self._manager.listing is not None and self._manager.listing.takes(message):
            self._left = _LIMIT

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._manager.lost.done():  # whoever closed it
            self._manager.lost.set_result(None)


class _Listing:
    """The events that an action is answered with, up to the one that completes it."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.items: list[dict[str, str]] = []
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def takes(self, event: Any) -> bool:
        """Keep an event of ours."""
        if event.action_id != self.id or self.complete.done():
            return False
        if event.eventlist.lower() == "complete":
            self.complete.set_result(None)
        else:
            if len(self.items) >= _LONGEST_LIST:
                raise ValueError(f"more than {_LONGEST_LIST} items")
            self.items.append({name.lower(): _text(value) for name, value in event.items()})
        return True


def _text(value: Any) -> str:
    return "\n".join(value) if isinstance(value, list) else str(value)


class _Manager(Manager):  # type: ignore[misc]
    """A manager that is connected once. ``lost`` is done as soon as the connection is gone."""

    def __init__(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            loop=loop,
            host=address.host,
            port=address.port,
            log=_silent,
            ping_delay=86400,
            protocol_factory=lambda: _Protocol(self),
        )
        self.lost: asyncio.Future[None] = loop.create_future()
        self.listing: _Listing | None = None

    def connection_made(self, f: asyncio.Future[Any]) -> None:
        # Where there is no connection, panoramisk tries again for ever (manager.py:72).
        if not f.cancelled() and f.exception() is None:
            super().connection_made(f)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()  # and not: connect again in two seconds (manager.py:283)


class Asterisk:
    """See ``Control``.

    Args:
        address: the manager, as in manager.conf: 127.0.0.1:5038.
        username: the section of manager.conf.
        secret: its secret.
        timeout: seconds that each call may take.
    """

    def __init__(
        self, address: Address, username: str, secret: str, *, timeout: float = 5.0
    ) -> None:
        self.address = address
        self._username = username
        self._secret = secret
        self._timeout = timeout
        self._manager: _Manager | None = None

    async def log_in(self) -> None:
        """Connect and log in, without the manager's events."""
        if not _SECRET.fullmatch(self._secret):
            raise LoginRefused("the manager's secret is one line of printable ASCII")
        username = word(self._username, "username")
        await self.close()
        try:
            await self._connect(username)
        except BaseException:  # neither let in, nor to be asked anything
            await self.close()
            raise

    async def _connect(self, username: str) -> None:
        manager = self._manager = _Manager(self.address)
        try:
            async with self._within(self._timeout):
                await manager.connect()
                await self._act("Login", Username=username, Secret=self._secret, Events="off")
        except CommandFailed:
            raise LoginRefused(
                f"{self.address}: Asterisk refused the user {username}, the secret or this address"
            ) from None
        except OSError as error:  # asyncio's own text names the address once more
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise SwitchUnreachable(f"{self.address}: {reason}") from None

    async def version(self) -> str:
        """What CoreSettings says."""
        async with self._within(self._timeout):
            reply = await self._act("CoreSettings")
        version = reply.get("AsteriskVersion")
        if not version:
            raise CommandFailed("CoreSettings: the reply has no AsteriskVersion")
        return f"Asterisk {said(version)}"

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules (``res_agi``) are loaded."""
        names = [word(module, "module") for module in modules]
        found = set()
        async with self._within(self._timeout):
            for name in names:
                try:
                    await self._act("ModuleCheck", Module=name)
                except CommandFailed as refused:
                    if "not loaded" not in str(refused):  # permission denied, unknown command
                        raise
                else:
                    found.add(name)
        return frozenset(found)

    async def reload(self) -> None:
        """Reload what holds the dialplan and the trunks, of that what is loaded."""
        names = [name for name in _HOLD_CONFIGURATION if name in await self.loaded([name])]
        async with self._within(self._timeout):
            for name in names:
                await self._act("Reload", Module=f"{name}.so")

    async def originate(self, extension: str, context: str, *, caller: str, seconds: int) -> None:
        """A call over a Local channel into a context; our side of it waits."""
        fields = {
            "Channel": f"Local/{word(extension, 'extension')}@{word(context, 'context')}",
            "CallerID": word(caller, "caller"),
            "Timeout": str(int(seconds) * 1000),
            "Application": "Wait",
            "Data": "1",
            "Async": "false",
        }
        async with self._within(self._timeout + seconds):
            await self._act("Originate", **fields)

    async def act(self, action: str, **fields: str) -> Mapping[str, str]:
        """Any other action that is answered with one reply; its headers, in lower case."""
        async with self._within(self._timeout):
            reply = await self._act(action, **_lines(fields))
        return {name.lower(): _text(value) for name, value in reply.items()}

    async def listed(self, action: str, **fields: str) -> list[dict[str, str]]:
        """Any other action that is answered with a list: its events, their headers in lower case.

        A repeated header is one value with a line each.
        """
        async with self._within(max(self._timeout, _LIST_TIME)):
            manager = self._manager
            if manager is None:
                raise SwitchUnreachable(f"{self.address}: not logged in")
            listing = manager.listing = _Listing()
            try:
                await self._act(action, ActionID=listing.id, **_lines(fields))
                ends = {listing.complete, manager.lost}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                manager.listing = None
            if not listing.complete.done():
                raise SwitchUnreachable(f"{self.address}: the connection broke")
        return listing.items

    async def close(self) -> None:
        """Close the connection."""
        manager, self._manager = self._manager, None
        if manager is None:
            return
        manager.close()
        if manager.protocol is not None:
            manager.protocol.transport.abort()  # a peer that reads nothing would keep it open
            await asyncio.wait({manager.lost})

    @contextlib.asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            await self.close()
            raise SwitchUnreachable(f"{self.address}: no answer within {seconds:g} s") from None

    async def _act(self, action: str, **fields: str) -> Any:
        manager = self._manager
        if manager is None or manager.protocol is None:
            raise SwitchUnreachable(f"{self.address}: not logged in")
        reply = None
        if not manager.protocol.closed:
            answer = manager.send_action({"Action": action, **fields}, as_list=False)
            await asyncio.wait({answer, manager.lost}, return_when=asyncio.FIRST_COMPLETED)
            reply = answer.result() if answer.done() else None
        if reply is None:
            raise SwitchUnreachable(f"{self.address}: the connection broke")
        if not reply.success:
            if "ermission" in str(reply.message):
                raise NoPermission(f"{action}: {said(reply.message)}")
            raise CommandFailed(f"{action}: {said(reply.message)}")
        return reply


def _lines(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The fields, if no value of them ends its line.

    Raises:
        CommandFailed: one does, and what follows would be a header or an action of its own.
    """
    for name, value in fields.items():
        if not value.isprintable():
            raise CommandFailed(
                f"{name} {said(value)!r}: expected one line of printable characters"
            )
    return fields
