"""FreeSWITCH's inbound event socket, over greenswitch's client.

What is added to it, and why (greenswitch 0.0.19, esl.py): each call ends by a ``gevent.Timeout``
(``connect`` ignores its own while it waits for the greeting), or at once where the connection is
lost or a message broken (whoever waited for a reply would wait for ever); what the peer sends is
bounded, replies are checked, and nothing with a line end or a blank goes into a command. gevent has
one loop a thread, so all of it runs in one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import gevent
from greenswitch import InboundESL
from greenswitch.esl import NotConnectedError

from ..config_types import Address
from ..errors import CommandFailed, LoginRefused, SwitchUnreachable
from . import said, word

Result = TypeVar("Result")

_PASSWORD = re.compile(r"[!-~]{1,128}")
#: Bytes that the switch may send from one command to the next.
_LIMIT = 64 * 1024
#: The same for a command whose answer is a configuration: a dialplan, a directory.
_LONGEST_ANSWER = 32 * 1024 * 1024
#: Seconds that such a command may take at least.
_LONG_TIME = 20.0


class _Reader:
    """What greenswitch reads from, instead of the socket's own file.

    That one gives no other greenlet its turn while there are bytes to read, so that no time-out
    fires in a flood; and at the end of the stream ``_read_socket`` asks it for more for ever (98).
    """

    def __init__(self, sock: Any) -> None:
        self.limit = self.left = _LIMIT
        self._sock = sock
        self._read = bytearray()  # of which a line is taken without copying the rest

    def readline(self) -> bytes:
        while b"\n" not in self._read:
            self._fill()
        return self.read(self._read.index(b"\n") + 1)

    def read(self, length: int) -> bytes:
        if not 0 <= length <= self.limit:
            raise ValueError(f"a message of {length} bytes")
        while len(self._read) < length:
            self._fill()
        data = bytes(self._read[:length])
        del self._read[:length]
        return data

    def _fill(self) -> None:
        gevent.sleep(0)
        data = self._sock.recv(16384)
        self.left -= len(data)
        if not data or self.left < 0:
            raise EOFError
        self._read += data


class _Client(InboundESL):  # type: ignore[misc]  # greenswitch has no types
    """greenswitch's client, whose waiters learn of the end of its connection."""

    sock_file: Any
    rejected = False

    def start_event_handlers(self) -> None:
        # Without its other greenlet, for the events that nobody asked for: it polls once a second.
        self.sock_file.close()
        self.sock_file = _Reader(self.sock)
        self._receive_events_greenlet = gevent.spawn(self._receive)

    def _receive(self) -> None:
        # Whatever breaks a message is the end; gevent would print a traceback.
        with contextlib.suppress(Exception):
            self.receive_events()
        self.connected = False
        self._auth_request_event.set()
        for waiting in self._commands_sent:
            waiting.set_exception(NotConnectedError())

    def handle_event(self, event: Any) -> None:
        kind = event.headers["Content-Type"]
        self.rejected = self.rejected or kind == "text/rude-rejection"
        # The rest are events that nobody asked for: none may end up in its queue, or its log (121).
        if kind in ("auth/request", "command/reply", "api/response"):
            super().handle_event(event)
        elif kind.startswith("text/disconnect") or self.rejected:
            raise EOFError
        else:
            self.sock_file.read(int(event.headers.get("Content-Length", 0)))

    def send(self, data: str, limit: int = _LIMIT) -> Any:
        if self.connected:
            self.sock_file.limit = self.sock_file.left = limit
        return super().send(data)

    def authenticate(self) -> None:
        # Its own reads a header that a reply to something else does not have (246).
        if self.send(f"auth {self.password}").data != "+OK accepted":
            raise ValueError

    def end(self) -> None:
        """Instead of its ``stop``, which says farewell, waits for a reply, and polls."""
        if self._receive_events_greenlet is not None:
            self._receive_events_greenlet.kill()
        if hasattr(self, "sock"):
            self.sock.close()


class FreeSwitch:
    """See ``Control``.

    Args:
        address: the event socket, as in event_socket.conf.xml: 127.0.0.1:8021. IPv4 only.
        password: its password.
        timeout: seconds that each call may take.
    """

    def __init__(self, address: Address, password: str, *, timeout: float = 5.0) -> None:
        self.address = address
        self._password = password
        self._timeout = timeout
        self._thread: ThreadPoolExecutor | None = None
        self._client: _Client | None = None

    async def log_in(self) -> None:
        """Connect and authenticate."""
        if not _PASSWORD.fullmatch(self._password):
            raise LoginRefused("the event socket's password is one line of visible ASCII")
        if ":" in self.address.host:  # esl.py:225
            raise SwitchUnreachable(f"{self.address}: greenswitch connects over IPv4 only")
        await self.close()
        self._thread = ThreadPoolExecutor(1, "freeswitch")
        try:
            await self._within(self._timeout, self._connect)
        except BaseException:
            await self.close()
            raise

    def _connect(self) -> None:
        host, port = self.address.host, self.address.port
        client = self._client = _Client(host, port, self._password, timeout=self._timeout)
        try:
            client.connect()
        except ValueError:
            raise LoginRefused(f"{self.address}: FreeSWITCH refused the password") from None
        except NotConnectedError:
            if client.rejected:
                raise LoginRefused(
                    f"{self.address}: FreeSWITCH's apply-inbound-acl keeps this address out"
                ) from None
            raise

    async def version(self) -> str:
        """What ``version`` says."""
        reply = await self._within(self._timeout, lambda: self._api("version"))
        if not reply.startswith("FreeSWITCH"):
            raise CommandFailed(f"version: {said(reply)}")
        return said(reply)

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules (``mod_event_socket``) are loaded."""
        names = [word(module, "module") for module in modules]

        def ask() -> frozenset[str]:
            replies = {name: self._api(f"module_exists {name}") for name in names}
            for reply in replies.values():
                if reply not in ("true", "false"):
                    raise CommandFailed(f"module_exists: {said(reply)}")
            return frozenset(name for name, reply in replies.items() if reply == "true")

        return await self._within(self._timeout, ask)

    async def reload(self) -> None:
        """``reloadxml``, and the gateways of the profile ``external`` that are new."""
        reply = await self._within(self._timeout, lambda: self._api("reloadxml"))
        if reply != "+OK [Success]":  # what is wrong with the XML comes after an +OK, too
            raise CommandFailed(f"reloadxml: {said(reply)}")
        rescan = "sofia profile external rescan"
        reply = await self._within(self._timeout, lambda: self._api(rescan))
        if "+OK scan complete" not in reply:  # what is wrong comes before it, or without an -ERR
            raise CommandFailed(f"{rescan}: {said(reply)}")

    async def originate(self, extension: str, context: str, *, caller: str, seconds: int) -> None:
        """A call over mod_loopback into a context, parked on our side."""
        # The context has a part of its own in a loopback address, so no slash gets into it.
        number = word(caller, "caller")
        where = f"{word(extension, 'extension')}/{word(context, 'context')}/XML"
        variables = f"origination_caller_id_number={number},originate_timeout={int(seconds)}"
        command = f"originate {{{variables}}}loopback/{where} &park()"
        reply = await self._within(self._timeout + seconds, lambda: self._api(command))
        if not reply.startswith("+OK"):
            raise CommandFailed(f"originate: {said(reply)}")

    async def api(self, command: str) -> str:
        """What any other command says, ``-ERR …`` too; it may be as long as a whole dialplan."""
        if not command.isprintable():
            raise CommandFailed(f"{said(command)!r}: expected one line of printable characters")
        limit = max(self._timeout, _LONG_TIME)
        return await self._within(limit, lambda: self._api(command, _LONGEST_ANSWER))

    async def close(self) -> None:
        """Say nothing more; the thread ends, too."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        # A call that somebody gave up waiting for has the thread still: this ends it.
        with contextlib.suppress(AttributeError, OSError):
            self._client.sock._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        ended = thread.submit(self._end)
        thread.shutdown(wait=False)
        await asyncio.wait({asyncio.wrap_future(ended)})  # which, given up, goes on
        thread.shutdown()  # a moment: it has nothing left to do

    def _end(self) -> None:
        self._disconnect()
        gevent.get_hub().destroy(destroy_loop=True)  # or its descriptors would outlive the thread

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.end()

    def _api(self, command: str, limit: int = _LIMIT) -> str:
        if self._client is None:
            raise SwitchUnreachable(f"{self.address}: not logged in")
        reply = self._client.send(f"api {command}", limit)
        data = str(reply.data).strip()
        if reply.headers["Content-Type"] != "api/response":  # no permission; or no reply to this
            raise CommandFailed(f"{command.split()[0]}: {said(data)}")
        return data

    async def _within(self, limit: float, work: Callable[[], Result]) -> Result:
        def bounded() -> Result:
            try:
                with gevent.Timeout(limit):
                    return work()
            except gevent.Timeout:
                failure = f"no answer within {limit:g} s"
            except NotConnectedError:
                failure = "the connection broke"
            except OSError as error:
                failure = error.strerror or str(error)
            self._disconnect()
            raise SwitchUnreachable(f"{self.address}: {failure}")

        if self._thread is None:
            raise SwitchUnreachable(f"{self.address}: not logged in")
        return await asyncio.get_running_loop().run_in_executor(self._thread, bounded)
