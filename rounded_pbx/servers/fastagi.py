"""The FastAGI server: panoramisk's Application and Request, hardened for live calls.

What is overridden, and why (panoramisk 1.4, fast_agi.py and utils.py):

- ``Application.handler``: connect-and-close spins for ever (146), nothing has a limit or a
  time-out, a query string finds no route, cancellation is swallowed (167), strict UTF-8.
- ``Application.add_route``: ``asyncio.coroutine`` is gone, ``iscoroutinefunction`` is going.
- ``Request.send_command``: ``HANGUP`` is taken for a reply, a 520 has more lines than it reads, EOF
  is a ValueError, nothing is quoted.

A session is one task that works and one that reads: a hang-up can come at any time, and it cancels
the work, the HTTP request included.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence

from panoramisk.fast_agi import Application, Request

from ..call import Switch
from ..errors import CommandFailed, Hangup, ProtocolError, SwitchError
from ..handler import ABANDON, ACTIONS, Action, Answer, Desk, abandon, not_understood
from ..logs import CALL
from ..protocol import agi
from .listener import REPLY_TIME, defect, warn_of_ignored
from .presence import Presence

log = logging.getLogger(__name__)


class Session(Request):  # type: ignore[misc]  # panoramisk has no types
    """One AGI session: commands out, replies and hang-ups in."""

    def __init__(
        self,
        app: FastAgiApplication,
        environment: agi.Environment,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        super().__init__(app, environment.values, reader, writer)
        self.environment = environment
        self._reply: asyncio.Future[agi.Reply] | None = None
        self._word = ""
        self._due: asyncio.Handle | None = None
        self.presence = Presence()
        self._ended: SwitchError | None = None
        self._reading = asyncio.ensure_future(self._read())

    def close(self) -> None:
        """Nothing more is read."""
        self._reading.cancel()

    def challenge(self) -> None:
        """Ask for the word that shows where the environment ended (see ``protocol.agi``).

        It is asked for while the API is, so it costs no time; where there is an answer at once, it
        would, and ``set_variables`` sees in another way, but later, that nothing is forged. Whoever
        sends a command waits for the word first.
        """
        self._due = asyncio.get_running_loop().call_soon(self._challenge)

    def _challenge(self) -> None:
        self._due = None
        if self._ended is None:
            self._word = secrets.token_hex(8)
            self._write(agi.challenge(self.environment.longest_command, self._word))

    async def challenge_met(self) -> None:
        """Wait until it is; the same errors as ``send_command``."""
        if self._due is not None:
            self._due.cancel()
            self._challenge()
        if self._reply is not None:
            await self._read_reply()

    async def send_command(self, command: bytes, *, last: bool = False) -> agi.Reply:
        """Write one whole line and wait for its reply; never a second line before.

        After the ``last`` one our side is closed at once: Asterisk runs it, replies, closes, and
        goes on with its dialplan without waiting for us.

        Raises:
            Hangup: the switch closed the session.
            ProtocolError: the switch wrote what is no reply, or did not meet the challenge.
        """
        await self.challenge_met()
        self._write(command)
        if last:
            self.writer.write_eof()
        return await self._read_reply()

    def _write(self, command: bytes) -> None:
        if self._ended is not None:
            raise self._ended
        self._reply = asyncio.get_running_loop().create_future()
        self.writer.write(command)

    async def _read_reply(self) -> agi.Reply:
        assert self._reply is not None  # noqa: S101 - a command has been written
        try:
            await self.writer.drain()
            return await self._reply
        except ConnectionError as error:
            raise Hangup("the switch closed the session") from error
        finally:
            self._reply = None

    async def get_variables(self, names: Sequence[str]) -> dict[str, str]:
        """The values of channel variables; what cannot be read is left out."""
        values: dict[str, str] = {}
        for name in names:
            line = agi.get_variable(self.environment.longest_command, name)
            reply = await self.send_command(line)
            if reply.ok:
                values[name] = agi.decode_variable(reply)
        return values

    async def set_variables(self, variables: Sequence[tuple[str, str]]) -> None:
        """Write channel variables in their order; that the caller left does not matter any more.

        Raises:
            CommandFailed: the switch refused one.
        """
        lines = agi.set_variables(self.environment.longest_command, variables)
        if self._due is not None and len(lines) == 1:
            # Of an environment that was ended early, the rest would be read after the first reply.
            self._due.cancel()
            self._due = None
            await self._set(lines[0], last=True)
            await asyncio.wait([self._reading])
            if self._ended is not None and not isinstance(self._ended, Hangup):
                raise self._ended
            return
        for line in lines:
            await self._set(line, last=line is lines[-1])

    async def _set(self, line: bytes, *, last: bool) -> None:
        reply = await self.send_command(line, last=last)
        if not reply.ok:
            raise CommandFailed(f"AGI: {reply.code} result={reply.result} to {line[:20]!r}")

    async def _read(self) -> None:
        """Give each reply to its command, until the session ends."""
        parser = agi.ReplyParser()
        try:
            while (line := await self.reader.readline()).endswith(b"\n"):
                event = parser.receive(line)
                if isinstance(event, agi.HangupNotice):
                    self.presence.leave(Hangup("the caller left"))
                elif self._reply is None or self._reply.done():
                    raise ProtocolError("AGI: a line that nobody asked for")
                elif event is not None:
                    if self._word and event.value != self._word:
                        raise ProtocolError("AGI: the environment is forged")
                    self._word = ""
                    self._reply.set_result(event)
            self._end(Hangup("the switch closed the session"))
        except OSError as error:
            self._end(Hangup(f"the session broke: {error}"))
        except ValueError:
            self._end(ProtocolError("AGI: a line is too long"))
        except ProtocolError as error:
            self._end(error)
        except Exception:  # whoever waits for a reply must not wait for the deadline
            log.exception("a defect of rounded_pbx while it read a session")
            self._end(SwitchError("a defect of rounded_pbx"))

    def _end(self, why: SwitchError) -> None:
        self._ended = why
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(why)
            self._reply.exception()  # seen: there may be nobody to wait for it
        self.presence.leave(why)


class FastAgiApplication(Application):  # type: ignore[misc]  # panoramisk has no types
    """What the FastAGI listener serves: ``agi://…/stage`` and the other actions.

    Args:
        desk: gives what calls are handled with; asked once a call, so that it can be changed.
    """

    def __init__(self, desk: Callable[[], Desk]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._desk = desk
        for path, action in ACTIONS.items():
            self.add_route(path, action)

    def add_route(self, path: str, endpoint: Action) -> None:
        """Serve ``agi://…/path``."""
        self._route[path] = endpoint

    async def handler(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        accepted: float,
        deadline: float,
    ) -> None:
        """One session, from its environment to the channel variables."""
        try:
            block = await reader.readuntil(b"\n\n")
        except asyncio.IncompleteReadError as error:
            if not error.partial:  # a port check, as a load balancer makes every second
                return
            raise ProtocolError("closed inside the AGI environment") from None
        except asyncio.LimitOverrunError:
            raise ProtocolError("the AGI environment is too long") from None
        try:
            environment, refused = agi.Environment.parse(block), ""
        except ProtocolError as error:
            environment, refused = agi.Environment({}), str(error)
        except Exception:
            environment, refused = agi.Environment({}), defect()
        CALL.set(environment["agi_uniqueid"])
        session = Session(self, environment, reader, writer)
        try:
            if refused:
                answer = not_understood(Switch.ASTERISK, refused)
            else:
                try:
                    answer = await self._answer(session, accepted, deadline - REPLY_TIME)
                except SwitchError:
                    raise
                except Exception:
                    answer = not_understood(Switch.ASTERISK, defect())
            try:
                if answer.variables:  # else Asterisk goes on when we close
                    if answer.result is None:
                        # A ticket stands for something from the reply on: whoever collects or
                        # abandons it may come before we have read that this session has ended.
                        await session.challenge_met()
                    await session.set_variables(answer.variables)
                answer.then()
            finally:
                answer.tell(self._desk())
        finally:
            session.close()

    async def _answer(self, session: Session, accepted: float, deadline: float) -> Answer:
        """What to tell the dialplan."""
        environment = session.environment
        action: Action | None = self._route.get(environment.path)
        if action is None and environment.path != ABANDON:
            known = ", ".join([*self._route, ABANDON])
            return not_understood(
                Switch.ASTERISK, f"no AGI script {environment.path}: expected {known}"
            )
        try:
            arguments = agi.arguments(environment)
        except ProtocolError as error:
            return not_understood(Switch.ASTERISK, str(error))
        warn_of_ignored(arguments)
        if action is None:  # nothing is challenged: a ticket that a caller forges is nobody's
            return abandon(Switch.ASTERISK, arguments.values.get("ticket", ""), self._desk())
        session.challenge()
        desk = self._desk()
        # Of arguments, or of a context, that a caller could have forged: make sure first.
        if not environment.query or desk.accounts.asks_the_call:
            await session.challenge_met()
        call = agi.to_call(environment, arguments)
        work = action(call, desk, session, accepted=accepted, deadline=deadline)
        return await session.presence.during(work)
