"""The server of FreeSWITCH's outbound socket: ``socket 127.0.0.1:8084/stage async full``.

A session has three round trips: which channel it is; what describes it; and, written together, the
command that sets the channel variables and ``exit``. The first has run when FreeSWITCH reads
the second, so the variables are there when the dialplan goes on, in async and in sync mode.
``resume`` is never sent: one that comes late resets a call that is already bridged.

``connect``, which usually comes first, is sent only where a call has to wait: after it the channel
is parked and goes on up to 20 ms late (switch_ivr_park of FreeSWITCH 1.11); without it, at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ..call import Switch, mask_numbers
from ..errors import CommandFailed, Hangup, ProtocolError, SwitchError
from ..handler import ABANDON, ACTIONS, Answer, Desk, abandon, not_understood
from ..logs import CALL
from ..protocol import esl
from .listener import REPLY_TIME, defect, warn_of_ignored
from .presence import Presence

log = logging.getLogger(__name__)

_AT_ONCE = 64 * 1024  # bytes
#: Seconds that a channel may wait without being parked: it looks for our answer every millisecond.
SOON = 0.1


class Session:
    """One session: commands out, replies and the caller's hang-up in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.presence = Presence()
        self.heard = False
        self._reader = reader
        self._writer = writer
        self._replies: deque[asyncio.Future[esl.Message]] = deque()
        self._ended: SwitchError | None = None

    def send(self, *commands: bytes) -> list[asyncio.Future[esl.Message]]:
        """Write commands together; the replies come in their order.

        Raises:
            Hangup: the session is over; so do the replies where it ends before them.
        """
        if self._ended is not None:
            raise self._ended
        loop = asyncio.get_running_loop()
        replies = [loop.create_future() for _ in commands]
        self._replies.extend(replies)
        self._writer.write(b"".join(commands))
        return replies

    def park(self) -> None:
        """Let the channel wait as long waits should; nothing if the session is over."""
        if self._ended is None:
            self.send(esl.CONNECT)

    async def read(self) -> None:
        """Give each reply to its command, until the session ends."""
        parser = esl.Parser()
        try:
            while data := await self._reader.read(_AT_ONCE):
                self.heard = True
                for message in parser.receive(data):
                    if message.content_type == "text/disconnect-notice":
                        self._end(Hangup("the caller left"))
                        return
                    if message.content_type not in ("command/reply", "api/response"):
                        raise ProtocolError("ESL: a message that nobody asked for")
                    if not self._replies:
                        raise ProtocolError("ESL: a reply that nobody asked for")
                    reply = self._replies.popleft()
                    if not reply.done():
                        reply.set_result(message)
            self._end(Hangup("the switch closed the session"))
        except OSError as error:
            self._end(Hangup(f"the session broke: {error}"))
        except ProtocolError as error:
            self._end(error)
        except Exception:  # whoever waits for a reply must not wait for the deadline
            log.exception("a defect of rounded_pbx while it read a session")
            self._end(SwitchError("a defect of rounded_pbx"))

    def _end(self, why: SwitchError) -> None:
        self._ended = why
        while self._replies:
            reply = self._replies.popleft()
            if not reply.done():
                reply.set_exception(why)
                reply.exception()  # seen: there may be nobody to wait for it
        self.presence.leave(why)


class _Channel:
    """What the handler reads of the channel: FreeSWITCH has told it all at once."""

    def __init__(self, channel: esl.Channel) -> None:
        self._channel = channel

    async def get_variables(self, names: Sequence[str]) -> dict[str, str]:
        return {name: self._channel.variable(name) for name in names}


class OutboundServer:
    """What the outbound listener serves.

    Args:
        desk: gives what calls are handled with; asked once a call, so that it can be changed.
    """

    def __init__(self, desk: Callable[[], Desk]) -> None:
        self._desk = desk

    async def handler(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        accepted: float,
        deadline: float,
    ) -> None:
        """One session, from the channel's id to its variables and FreeSWITCH's farewell."""
        session = Session(reader, writer)
        reading = asyncio.ensure_future(session.read())
        try:
            [which] = session.send(esl.WHICH)
            try:
                message = await which
            except Hangup:
                if not session.heard:  # a port check, as a load balancer makes every second
                    return
                raise
            described = await session.send(esl.describe(message.reply))[0]
            if described.content_type == "command/reply":
                log.error("socket … without full: no variable can be set; write: async full")
                session.send(esl.EXIT)
                await reading
                return
            channel = esl.Channel.parse(described)
            CALL.set(channel.id)
            parking = asyncio.get_running_loop().call_later(SOON, session.park)
            try:
                answer = await self._answer(session, channel, accepted, deadline - REPLY_TIME)
            except SwitchError:
                raise
            except Exception:
                answer = not_understood(Switch.FREESWITCH, defect())
            finally:
                parking.cancel()
            try:
                if not answer.variables:
                    session.send(esl.EXIT)
                    await reading
                    return
                command = esl.set_variables(channel.id, answer.variables)
                reply = await session.send(command, esl.EXIT)[0]
                if not reply.ok:
                    raise CommandFailed(f"uuid_setvar_multi: {mask_numbers(reply.reply[:80])}")
                answer.then()
            finally:
                answer.tell(self._desk())
            await reading
        finally:
            reading.cancel()

    async def _answer(
        self, session: Session, channel: esl.Channel, accepted: float, deadline: float
    ) -> Answer:
        """What to tell the dialplan."""
        action = ACTIONS.get(channel.path)
        if action is None and channel.path != ABANDON:
            known = ", ".join([*ACTIONS, ABANDON])
            return not_understood(
                Switch.FREESWITCH, f"no path {channel.path} after the port: expected {known}"
            )
        try:
            inputs = esl.inputs(channel)
        except ProtocolError as error:
            return not_understood(Switch.FREESWITCH, str(error))
        warn_of_ignored(inputs)
        if action is None:
            return abandon(Switch.FREESWITCH, inputs.values.get("ticket", ""), self._desk())
        work = action(
            esl.to_call(channel, inputs),
            self._desk(),
            _Channel(channel),
            accepted=accepted,
            deadline=deadline,
        )
        return await session.presence.during(work)
