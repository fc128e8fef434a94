"""Asterisk's manager interface (AMI), over panoramisk's client.

What is added to it, and why (panoramisk 1.4, manager.py): each action ends by a time-out (a wrong
password raises nothing, and what is asked after it waits for ever), a lost connection is not made
anew behind our back (its reconnects outlive ``close``), the login is checked, and nothing with a
line end goes into an action. The rights ``system,reporting,originate`` are enough; ``command`` is
not used.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any

from panoramisk import Manager

from ..config_types import Address
from ..errors import CommandFailed, LoginRefused, SwitchUnreachable
from . import word

_SECRET = re.compile(r"[ -~]{1,128}")

_log = logging.getLogger(__name__)
_log.setLevel(logging.CRITICAL)  # panoramisk logs whole actions, the secret of the login in them


class _Manager(Manager):  # type: ignore[misc]  # panoramisk has no types
    """A manager that is connected once."""

    def connection_made(self, f: asyncio.Future[Any]) -> None:
        if not f.cancelled() and f.exception() is None:
            super().connection_made(f)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()


class Asterisk:
    """See ``Control``.

    Args:
        address: the manager, as in manager.conf: 127.0.0.1:5038.
        username: the section of manager.conf.
        secret: its secret.
        timeout: seconds that each action may take.
    """

    def __init__(
        self, address: Address, username: str, secret: str, *, timeout: float = 5.0
    ) -> None:
        self._address = address
        self._username = username
        self._secret = secret
        self._timeout = timeout
        self._manager: _Manager | None = None

    async def log_in(self) -> None:
        """Connect and log in, without the manager's events."""
        if not _SECRET.fullmatch(self._secret):
            raise LoginRefused("the manager's secret is one line of printable ASCII")
        username = word(self._username, "username")
        manager = self._manager = _Manager(
            loop=asyncio.get_running_loop(),
            host=self._address.host,
            port=self._address.port,
            log=_log,
            ping_delay=86400,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await manager.connect()
        except TimeoutError:
            raise SwitchUnreachable(f"{self._address}: no answer") from None
        except OSError as error:
            raise SwitchUnreachable(f"{self._address}: {error.strerror or error}") from None
        await asyncio.sleep(0)  # panoramisk takes the connection in a callback
        try:
            await self._act("Login", Username=username, Secret=self._secret, Events="off")
        except CommandFailed:
            raise LoginRefused(
                f"{self._address}: Asterisk refused the user {username}, the secret or this address"
            ) from None

    async def version(self) -> str:
        """What CoreSettings says."""
        reply = await self._act("CoreSettings")
        return f"Asterisk {reply['AsteriskVersion']}"

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules (``res_agi``) are loaded."""
        found = set()
        for module in modules:
            try:
                await self._act("ModuleCheck", Module=word(module, "module"))
            except CommandFailed as refused:
                if "permission" in str(refused).lower():
                    raise
            else:
                found.add(module)
        return frozenset(found)

    async def reload(self) -> None:
        """Reload pbx_config, which holds the dialplan."""
        await self._act("Reload", Module="pbx_config.so")

    async def originate(self, extension: str, context: str, *, caller: str, seconds: int) -> None:
        """A call over a Local channel into a context; our side of it waits."""
        await self._act(
            "Originate",
            limit=self._timeout + seconds,
            Channel=f"Local/{word(extension, 'extension')}@{word(context, 'context')}",
            CallerID=word(caller, "caller"),
            Timeout=str(int(seconds) * 1000),
            Application="Wait",
            Data=str(int(seconds)),
            Async="false",
        )

    async def close(self) -> None:
        """Close the connection."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()

    async def _act(self, action: str, *, limit: float | None = None, **fields: str) -> Any:
        manager = self._manager
        if manager is None or manager.protocol is None or manager.protocol.closed:
            raise SwitchUnreachable(f"{self._address}: not connected")
        seconds = limit or self._timeout
        try:
            async with asyncio.timeout(seconds):
                reply = await manager.send_action({"Action": action, **fields}, as_list=False)
        except TimeoutError:
            raise SwitchUnreachable(
                f"{self._address}: no answer to {action} within {seconds:g} s"
            ) from None
        if not reply.success:
            raise CommandFailed(f"{action}: {reply.message[:200]}")
        return reply
