"""FreeSWITCH's inbound event socket, over greenswitch's client.

What is added to it, and why (greenswitch 0.0.19, esl.py): each call ends by a ``gevent.Timeout``
(``connect`` ignores its own while it waits for the greeting; a broken message kills the receiver,
and whoever waits for a reply waits for ever), replies are checked, and nothing with a line end or a
blank goes into a command. gevent has one loop a thread, so all of it runs in one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import gevent
from greenswitch import InboundESL
from greenswitch.esl import NotConnectedError

from ..config_types import Address
from ..errors import CommandFailed, LoginRefused, SwitchUnreachable
from . import word

Result = TypeVar("Result")

_PASSWORD = re.compile(r"[!-~]{1,128}")
#: Seconds that ``close`` may take: greenswitch's stop waits for a poll of one.
_CLOSE_TIME = 3.0


class FreeSwitch:
    """See ``Control``.

    Args:
        address: the event socket, as in event_socket.conf.xml: 127.0.0.1:8021.
        password: its password.
        timeout: seconds that each command may take.
    """

    def __init__(self, address: Address, password: str, *, timeout: float = 5.0) -> None:
        self._address = address
        self._password = password
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, "freeswitch")
        self._client: InboundESL | None = None

    async def log_in(self) -> None:
        """Connect and authenticate."""
        if not _PASSWORD.fullmatch(self._password):
            raise LoginRefused("the event socket's password is one line of visible ASCII")
        await self._within(self._timeout, self._connect)

    def _connect(self) -> None:
        host, port = self._address.host, self._address.port
        client = self._client = InboundESL(host, port, self._password, timeout=self._timeout)
        try:
            client.connect()
        except ValueError:
            raise LoginRefused(f"{self._address}: FreeSWITCH refused the password") from None
        except NotConnectedError:
            if client._auth_request_event.is_set():  # "rude rejection"
                raise LoginRefused(
                    f"{self._address}: FreeSWITCH's apply-inbound-acl keeps this address out"
                ) from None
            raise SwitchUnreachable(f"{self._address}: no answer") from None

    async def version(self) -> str:
        """What ``version`` says."""
        return await self._api("version")

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules (``mod_event_socket``) are loaded."""
        names = [word(module, "module") for module in modules]
        return frozenset(
            [name for name in names if await self._api(f"module_exists {name}") == "true"]
        )

    async def reload(self) -> None:
        """``reloadxml``."""
        self._expect_ok(await self._api("reloadxml"))

    async def originate(self, extension: str, context: str, *, caller: str, seconds: int) -> None:
        """A call over mod_loopback into a context, parked on our side."""
        # The context has a part of its own in a loopback address, so no slash gets into it.
        number = word(caller, "caller")
        where = f"{word(extension, 'extension')}/{word(context, 'context')}/XML"
        variables = f"origination_caller_id_number={number},originate_timeout={int(seconds)}"
        command = f"originate {{{variables}}}loopback/{where} &park()"
        self._expect_ok(await self._api(command, self._timeout + seconds))

    async def close(self) -> None:
        """Say nothing more; the thread ends, too."""
        try:
            await self._within(_CLOSE_TIME, self._disconnect)
        except SwitchUnreachable:  # it would not end its greenlets in time; its thread ends them
            pass
        finally:
            self._thread.shutdown(wait=False)

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and hasattr(client, "sock_file"):
            client.connected = False  # or stop() would ask for a farewell, and wait for it
            with contextlib.suppress(OSError):  # the switch may have closed it
                client.sock.shutdown(socket.SHUT_RDWR)
            client.stop()

    async def _api(self, command: str, limit: float | None = None) -> str:
        def ask() -> str:
            if self._client is None:
                raise SwitchUnreachable("not logged in")
            try:
                return str(self._client.send(f"api {command}").data).strip()
            except NotConnectedError:
                raise SwitchUnreachable(f"{self._address}: the connection is closed") from None

        reply = await self._within(limit or self._timeout, ask)
        if reply.startswith("-"):
            raise CommandFailed(f"{command.split()[0]}: {reply[:200]}")
        return reply

    @staticmethod
    def _expect_ok(reply: str) -> None:
        if not reply.startswith("+OK"):
            raise CommandFailed(f"expected +OK, got {reply[:200]!r}")

    async def _within(self, limit: float, work: Callable[[], Result]) -> Result:
        def bounded() -> Result:
            try:
                with gevent.Timeout(limit):
                    return work()
            except gevent.Timeout:
                raise SwitchUnreachable(f"{self._address}: no answer within {limit:g} s") from None
            except OSError as error:
                raise SwitchUnreachable(f"{self._address}: {error.strerror or error}") from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, bounded)
