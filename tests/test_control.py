"""The control plane against switches that lie, stall, flood and leave.

The real ones are in asterisk/test_control.py and freeswitch/test_control.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import pytest

from rounded_pbx.config_types import Address
from rounded_pbx.control import Control, said, word
from rounded_pbx.control.asterisk import Asterisk
from rounded_pbx.control.freeswitch import FreeSwitch
from rounded_pbx.errors import CommandFailed, LoginRefused, SwitchError, SwitchUnreachable

from .helpers import eventually, every_file_closed, steps
from .lab.processes import free_port

SECRET = "hush-5e17c0ffee"
KINDS = ["asterisk", "freeswitch"]
#: Seconds that a call may take, and that it takes at most on a busy machine.
TIMEOUT, LATE = 0.3, 2.0
#: Of a client that is not to run into its time-out.
PATIENT = 10.0


def client(
    kind: str, address: Address, *, secret: str = SECRET, timeout: float = TIMEOUT
) -> Control:
    if kind == "asterisk":
        return Asterisk(address, "rounded", secret, timeout=timeout)
    return FreeSwitch(address, secret, timeout=timeout)


# What a switch says.


@dataclass
class Peer:
    """A connection as the switch sees it."""

    kind: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: list[str] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self) -> str:
        end = b"\r\n\r\n" if self.kind == "asterisk" else b"\n\n"
        request = (await self.reader.readuntil(end)).decode().removesuffix(end.decode())
        self.heard.append(request)
        return request

    async def greet(self) -> None:
        asterisk = self.kind == "asterisk"
        await self.send(
            b"Asterisk Call Manager/9.0.0\r\n" if asterisk else b"Content-Type: auth/request\n\n"
        )

    def reply(self, request: str, text: str = "", *, ok: bool = True) -> bytes:
        """Of AMI, the lines of a reply; of FreeSWITCH, the text of one."""
        if self.kind == "asterisk":
            action_id = re.search("^ActionID: (.*)\r?$", request, re.MULTILINE)
            assert action_id is not None
            response = "Success" if ok else "Error"
            head = f"Response: {response}\r\nActionID: {action_id[1].strip()}\r\n"
            return f"{head}{text or 'Message: x'}\r\n\r\n".encode()
        if request.startswith("auth"):
            text = text or ("+OK accepted" if ok else "-ERR invalid")
            return f"Content-Type: command/reply\nReply-Text: {text}\n\n".encode()
        text = text or ("+OK" if ok else "-ERR no")
        head = f"Content-Type: api/response\nContent-Length: {len(text.encode())}"
        return f"{head}\n\n{text}".encode()

    async def let_in(self) -> None:
        await self.greet()
        await self.send(self.reply(await self.request()))

    async def silence(self) -> None:
        while await self.reader.read(65536):
            pass


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Switch:
    kind: str
    address: Address
    peers: list[Peer]

    def client(self, *, secret: str = SECRET, timeout: float = TIMEOUT) -> Control:
        return client(self.kind, self.address, secret=secret, timeout=timeout)


@contextlib.asynccontextmanager
async def switch(kind: str, behave: Behaviour, host: str = "127.0.0.1") -> AsyncIterator[Switch]:
    peers: list[Peer] = []
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        peers.append(peer := Peer(kind, reader, writer))
        try:
            await behave(peer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield Switch(kind, Address(host, server.sockets[0].getsockname()[1]), peers)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await steps(3)


def threads() -> set[int]:
    """The native threads of this process, also those that Python does not know."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def timers() -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled()]


@pytest.fixture
async def nothing_stays(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """No file, thread, task or timer; no word on stderr, no error in a log, and no secret."""
    caplog.set_level(logging.DEBUG)
    before, tasks = threads(), asyncio.all_tasks()
    async with every_file_closed():
        yield
        # A thread that has been joined is a moment longer in the system's list.
        await eventually(lambda: threads() <= before)
        assert threads() - before == set()
        assert timers() == []
        assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
    records = [*caplog.get_records("call"), *caplog.records]  # of which the latter are ours
    assert [record for record in records if SECRET in record.getMessage()] == []
    assert [record for record in records if record.levelno >= logging.WARNING] == []
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def clean(error: BaseException, control: Control) -> None:
    """An error is one line, and neither it nor the object has the secret in it."""
    assert str(error)
    assert str(error).isprintable()
    for text in (repr(control), str(control), *traceback.format_exception(error)):
        assert SECRET not in text


async def ends_in_time(call: Awaitable[object], limit: float = LATE) -> SwitchError:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(SwitchError) as caught:
        await asyncio.wait_for(call, 20)
    assert asyncio.get_running_loop().time() - begun < limit
    return caught.value


def originate(control: Control, **changes: str) -> Awaitable[None]:
    arguments = {"extension": "600", "context": "default", "caller": "100", **changes}
    return control.originate(**arguments, seconds=0)


CALLS: dict[str, Callable[[Control], Awaitable[object]]] = {
    "version": lambda control: control.version(),
    "loaded": lambda control: control.loaded(["res_agi", "mod_event_socket"]),
    "reload": lambda control: control.reload(),
    "originate": originate,
}


# What a hostile peer does in place of the next thing that it should say.


async def silent(peer: Peer) -> None:
    await peer.silence()


async def closes(peer: Peer) -> None:
    pass


async def resets(peer: Peer) -> None:
    peer.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))


async def closes_its_half(peer: Peer) -> None:
    peer.writer.write_eof()
    await peer.silence()


def sends(*chunks: bytes, then_close: bool = False) -> Behaviour:
    async def behave(peer: Peer) -> None:
        for chunk in chunks:
            await peer.send(chunk)
            await asyncio.sleep(0.01)
        if not then_close:
            await peer.silence()

    return behave


def floods(chunk: bytes) -> Behaviour:
    async def behave(peer: Peer) -> None:
        while True:
            await peer.send(chunk)

    return behave


async def drips(peer: Peer) -> None:
    await asyncio.sleep(0.1)
    text = b"Response: Success\r\nX: " if peer.kind == "asterisk" else b"Content-Type: api/resp"
    while True:
        for byte in text:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)
        text = b"x"


ESL_EVENT = b"Content-Type: text/event-plain\nContent-Length: 16\n\nEvent-Name: X\n\n\n"
AMI_EVENT = b"Event: FullyBooted\r\nStatus: x\r\n\r\n"
HOSTILE: dict[str, Behaviour] = {
    "silent": silent,
    "closes": closes,
    "resets": resets,
    "closes its half": closes_its_half,
    "drips": drips,
    "a flood without a line": floods(b"A" * 65536),
    "a flood of lines": floods(b"a: b\r\n" * 10000),
    "a flood of blank lines": floods(b"\r\n" * 30000),
    "a flood of line feeds": floods(b"\n" * 60000),
    "a flood of ESL events": floods(ESL_EVENT * 1000),
    "a flood of AMI events": floods(AMI_EVENT * 1000),
    "a flood of AMI replies": floods(b"Response: Success\r\nActionID: x\r\n\r\n" * 1000),
    "half a header": sends(b"Content-Type: comm"),
    "half a header and closes": sends(b"Response: Succ", then_close=True),
    "half a message": sends(b"Content-Type: api/response\nContent-Length: 50\n\nhalf"),
    "half a message and closes": sends(
        b"Content-Type: api/response\nContent-Length: 50\n\nhalf", then_close=True
    ),
    "half a rejection and closes": sends(
        b"Content-Type: text/rude-rejection\nContent-Length: 50\n\nhalf", then_close=True
    ),
    "half an event and closes": sends(ESL_EVENT[:-9], then_close=True),
    "a huge message": sends(b"Content-Type: api/response\nContent-Length: 99999999999\n\nx"),
    "a large message": sends(b"Content-Type: api/response\nContent-Length: 9000000\n\nx"),
    "a negative length": sends(b"Content-Type: api/response\nContent-Length: -1\n\nx"),
    "no number": sends(b"Content-Type: api/response\nContent-Length: x\n\nx"),
    "no length": sends(b"Content-Type: api/response\n\nx"),
    "no reply text": sends(b"Content-Type: command/reply\n\n"),
    "no type": sends(b"X: y\n\n"),
    "no colon": sends(b"nonsense\n\n"),
    "a disconnect notice": sends(
        b"Content-Type: text/disconnect-notice\nContent-Length: 4\n\nBye\n", then_close=True
    ),
    "lingers": sends(
        b"Content-Type: text/disconnect-notice\nContent-Disposition: linger\n"
        b"Content-Length: 4\n\nBye\n"
    ),
    "the reply to another action": sends(b"Response: Success\r\nActionID: action/x/1/1\r\n\r\n"),
    "a reply to none": sends(b"Response: Success\r\nMessage: x\r\n\r\n"),
    "two IDs": sends(b"Response: Success\r\nActionID: x\r\nActionID: y\r\n\r\n"),
    "two events": sends(b"Event: x\r\nEvent: y\r\n\r\n"),
    "an event": sends(AMI_EVENT),
    "shuts down": sends(b"Event: Shutdown\r\n\r\n"),
    "shuts down and boots": sends(b"Event: Shutdown\r\n\r\n" + AMI_EVENT),
    "invalid UTF-8": sends(b"Content-Type: \xff\xfe\n\n\xff\r\n\r\n"),
    "invalid UTF-8 in a text": sends(b"Content-Type: api/response\nContent-Length: 2\n\n\xff\xfe"),
    "binary": sends(bytes(range(256)) * 64),
    "TLS": sends(bytes.fromhex("15030100020228")),
    "HTTP": sends(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", then_close=True),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_every_call_ends_in_time_whatever_the_peer_does(kind: str, name: str) -> None:
    behave = HOSTILE[name]

    async def before_the_greeting(peer: Peer) -> None:
        await behave(peer)

    async def after_the_greeting(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        await behave(peer)

    async def after_the_login(peer: Peer) -> None:
        await peer.let_in()
        await peer.request()
        await behave(peer)

    async def refused(stage: Behaviour) -> None:
        async with switch(kind, stage) as there:
            control = there.client()
            if stage is after_the_login:
                await control.log_in()
                clean(await ends_in_time(control.version()), control)
            else:
                clean(await ends_in_time(control.log_in()), control)
            for call in CALLS.values():
                error = await ends_in_time(call(control))
                assert isinstance(error, SwitchUnreachable)
                clean(error, control)
            await control.close()
            await control.close()
            assert len(there.peers) == 1

    # At once: none is in another's way.
    await asyncio.gather(*map(refused, (before_the_greeting, after_the_greeting, after_the_login)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_a_call_has_one_time_out_for_all_that_it_asks(kind: str, call: str) -> None:
    async def slow(peer: Peer) -> None:
        await peer.let_in()
        while request := await peer.request():
            await asyncio.sleep(0.25 if call == "loaded" else 5)
            text = "" if kind == "asterisk" else "true"
            await peer.send(peer.reply(request, text))

    async with switch(kind, slow) as there:
        control = there.client(timeout=0.4)
        await control.log_in()
        error = await ends_in_time(CALLS[call](control), 1.5)
        assert "within 0.4 s" in str(error)
        assert "not logged in" in str(await ends_in_time(control.version()))
        await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_a_call_that_is_placed_has_the_seconds_that_it_may_ring(kind: str) -> None:
    async def slow(peer: Peer) -> None:
        await peer.let_in()
        request = await peer.request()
        await asyncio.sleep(0.8)
        await peer.send(peer.reply(request))

    async with switch(kind, slow) as there:
        control = there.client()
        await control.log_in()
        await control.originate("600", "default", caller="100", seconds=5)
        await control.close()
    asked = there.peers[0].heard[1]
    if kind == "asterisk":
        lines = asked.split("\r\n")
        assert {"Action: Originate", "Channel: Local/600@default", "Timeout: 5000"} <= {*lines}
        assert {"CallerID: 100", "Application: Wait", "Data: 1", "Async: false"} <= {*lines}
    else:
        assert asked == (
            "api originate {origination_caller_id_number=100,originate_timeout=5}"
            "loopback/600/default/XML &park()"
        )


# What is refused.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_a_wrong_password_is_refused_in_words_without_it(kind: str) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.greet()
        request = await peer.request()
        text = f"Message: no, not {SECRET}" if kind == "asterisk" else f"-ERR invalid {SECRET}"
        await peer.send(peer.reply(request, text, ok=False))

    async with switch(kind, refuse) as there:
        control = there.client()
        error = await ends_in_time(control.log_in())
        assert isinstance(error, LoginRefused)
        clean(error, control)
        assert "not logged in" in str(await ends_in_time(control.version()))
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_an_acl_of_freeswitch_is_named() -> None:
    rejection = (
        b"Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n"
    )
    async with switch("freeswitch", sends(rejection, then_close=True)) as there:
        control = there.client()
        error = await ends_in_time(control.log_in())
        assert isinstance(error, LoginRefused)
        assert "apply-inbound-acl" in str(error)
        await control.close()


AMI_BAD = ["Message: Permission denied", "Message: a\r\nMessage: \x1b[31mb", "X: y"]
ESL_BAD = ["-ERR no \x1b[31m", "-USAGE: x\ny", "nonsense"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [*(("asterisk", text) for text in AMI_BAD), *(("freeswitch", text) for text in ESL_BAD)],
)
@pytest.mark.usefixtures("nothing_stays")
async def test_what_the_switch_refuses_is_an_error_of_one_line(
    kind: str, text: str, call: str
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.let_in()
        await peer.send(peer.reply(await peer.request(), text, ok=False))
        await peer.silence()

    async with switch(kind, refuse) as there:
        control = there.client()
        await control.log_in()
        error = await ends_in_time(CALLS[call](control))
        assert isinstance(error, CommandFailed | SwitchUnreachable)
        clean(error, control)
        await control.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("nothing_stays")
async def test_a_reply_of_another_kind_is_none(call: str) -> None:
    async def confuse(peer: Peer) -> None:
        await peer.let_in()
        await peer.request()
        await peer.send(peer.reply("auth"))
        await peer.silence()

    async with switch("freeswitch", confuse) as there:
        control = there.client()
        await control.log_in()
        assert isinstance(await ends_in_time(CALLS[call](control)), CommandFailed)
        await control.close()
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_a_login_answered_with_something_else_is_refused() -> None:
    async def confuse(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        await peer.send(peer.reply("api", "+OK accept"))
        await peer.silence()

    async with switch("freeswitch", confuse) as there:
        assert isinstance(await ends_in_time(there.client().log_in()), LoginRefused)


@pytest.mark.usefixtures("nothing_stays")
async def test_broken_xml_is_not_taken_for_a_success() -> None:
    async def reload(peer: Peer) -> None:
        await peer.let_in()
        await peer.send(peer.reply(await peer.request(), "+OK [[error near line 7]: root tag]\n"))
        await peer.silence()

    async with switch("freeswitch", reload) as there:
        control = there.client()
        await control.log_in()
        error = await ends_in_time(control.reload())
        assert isinstance(error, CommandFailed)
        assert "error near line 7" in str(error)
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_a_module_that_could_not_be_asked_for_is_not_one_that_is_not_loaded() -> None:
    replies = {"a": "Message: Module not loaded", "b": "Message: Invalid/unknown command: x."}

    async def modules(peer: Peer) -> None:
        await peer.let_in()
        while request := await peer.request():
            name = request.rpartition("Module: ")[2]
            text = replies.get(name.strip(), "")
            await peer.send(peer.reply(request, text, ok=not text))

    async with switch("asterisk", modules) as there:
        control = there.client()
        await control.log_in()
        assert await control.loaded(["a", "c"]) == {"c"}
        assert isinstance(await ends_in_time(control.loaded(["b"])), CommandFailed)
        await control.close()


# What is sent.

BAD_WORDS = [
    *["", "a b", "a\nb", "a\r\nAction: Command", "a\n\napi shutdown", "600\n", "a\tb", "a\0b"],
    *["a/b", "a,b", "{a", "a}", "a;b", "a@b", "a&b", "a|b", "a'b", 'a"b', "a`b", "$a", "${a}"],
    *["a\\b", "a:b", "a=b", "a(b", "[a]", "<a>", "a%0Ab", "a!b", "é", "a\u2028b", "\ud800"],
    "x" * 81,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_nothing_gets_into_a_command(kind: str) -> None:
    async def listen(peer: Peer) -> None:
        await peer.let_in()
        await peer.silence()

    async with switch(kind, listen) as there:
        control = there.client()
        await control.log_in()
        for bad in BAD_WORDS:
            for name in ("extension", "context", "caller"):
                error = await ends_in_time(originate(control, **{name: bad}))
                assert isinstance(error, CommandFailed)
                assert name in str(error)
                clean(error, control)
            error = await ends_in_time(control.loaded(["res_agi", bad]))
            assert isinstance(error, CommandFailed)
        await control.close()
        assert len(there.peers[0].heard) == 1


@pytest.mark.parametrize("bad", BAD_WORDS)
async def test_a_user_name_is_a_word(bad: str) -> None:
    control = Asterisk(Address("127.0.0.1", 1), bad, SECRET)
    with pytest.raises(CommandFailed, match="username"):
        await control.log_in()
    await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "end", ["\r\nAction: x", "\n\napi shutdown", "\n", "\0", "é", "\u2028", "x" * 128]
)
async def test_a_password_with_a_line_end_is_refused_unsaid(kind: str, end: str) -> None:
    control = client(kind, Address("127.0.0.1", 1), secret=SECRET + end)
    error = await ends_in_time(control.log_in())
    assert isinstance(error, LoginRefused)
    clean(error, control)
    await control.close()


def test_what_a_word_and_a_text_may_be() -> None:
    assert word("+336.*#_-", "x") == "+336.*#_-"
    assert said(" a\r\n\x1b[31m\u2028é\ud800\x9b ") == "a???[31m?é??"
    assert len(said("x" * 1000)) == 200


# The life of a client.


async def obliging(peer: Peer) -> None:
    await peer.let_in()
    while request := await peer.request():
        texts = {
            "CoreSettings": "AsteriskVersion: 22.1",
            "api version": "FreeSWITCH Version 1.11.2",
            "api module_exists": "true",
            "api reloadxml": "+OK [Success]\n",
            "api sofia profile external rescan": "Reload XML [Success]\n+OK scan complete\n",
        }
        text = next((text for start, text in texts.items() if start in request), "")
        await peer.send(peer.reply(request, text))


VERSIONS = {"asterisk": "Asterisk 22.1", "freeswitch": "FreeSWITCH Version 1.11.2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_an_obliging_switch(kind: str) -> None:
    async with switch(kind, obliging) as there:
        control = there.client()
        await control.log_in()
        for _ in range(3):
            assert await control.version() == VERSIONS[kind]
            assert await control.loaded(["a", "b"]) == {"a", "b"}
            assert await control.loaded([]) == frozenset()
            await control.reload()
            await originate(control)
        await asyncio.sleep(2 * TIMEOUT)  # idle for longer than a call may take
        assert await control.version() == VERSIONS[kind]
        await control.close()


def listing(action_id: str, *items: str, complete: bool = True) -> bytes:
    """What comes after the reply to an action that is answered with a list."""
    events = [f"Event: Item\r\nActionID: {action_id}\r\nName: {item}\r\n\r\n" for item in items]
    if complete:
        events.append(f"Event: Done\r\nActionID: {action_id}\r\nEventList: Complete\r\n\r\n")
    return "".join(events).encode()


def action_id(request: str) -> str:
    found = re.search("^ActionID: (.*)\r?$", request, re.MULTILINE)
    assert found is not None
    return found[1].strip()


@pytest.mark.usefixtures("nothing_stays")
async def test_a_list_is_its_own_events_and_no_others() -> None:
    async def lists(peer: Peer) -> None:
        await peer.let_in()
        while request := await peer.request():
            await peer.send(listing("another", "foreign"))
            await peer.send(peer.reply(request, "EventList: start"))
            await peer.send(b"Event: FullyBooted\r\n\r\n")
            theirs = listing(action_id(request), "a", "b" * 60_000, *["c"] * 3000)
            await peer.send(theirs[:100])
            await asyncio.sleep(0.01)
            await peer.send(theirs[100:])

    async with switch("asterisk", lists) as there:
        control = Asterisk(there.address, "rounded", SECRET, timeout=PATIENT)
        await control.log_in()
        for _ in range(2):
            found = await control.listed("Things", Context="rounded")
            assert [item["name"][:1] for item in found] == ["a", "b", *["c"] * 3000]
        assert there.peers[0].heard[-1].count("Context: rounded") == 1
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize("ending", ["closes", "stalls", "refuses", "floods"])
async def test_a_list_that_does_not_end_is_an_error(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rounded_pbx.control.asterisk._LIST_TIME", TIMEOUT)
    monkeypatch.setattr("rounded_pbx.control.asterisk._LONGEST_LIST", 100)

    async def half(peer: Peer) -> None:
        await peer.let_in()
        request = await peer.request()
        await peer.send(peer.reply(request, ok=ending != "refuses"))
        many = 200 if ending == "floods" else 2
        await peer.send(listing(action_id(request), *["a"] * many, complete=False))
        if ending != "closes":
            await peer.silence()

    async with switch("asterisk", half) as there:
        control = Asterisk(there.address, "rounded", SECRET, timeout=TIMEOUT)
        await control.log_in()
        error = await ends_in_time(control.listed("Things"))
        assert isinstance(error, CommandFailed if ending == "refuses" else SwitchUnreachable)
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_an_action_of_ones_own_is_answered_with_its_headers() -> None:
    async def tells(peer: Peer) -> None:
        await peer.let_in()
        while request := await peer.request():
            await peer.send(peer.reply(request, "Context: a\r\nChanVariable: x\r\nChanVariable: y"))

    async with switch("asterisk", tells) as there:
        control = Asterisk(there.address, "rounded", SECRET, timeout=PATIENT)
        await control.log_in()
        reply = await control.act("SIPshowpeer", Peer="rounded")
        assert (reply["context"], reply["chanvariable"]) == ("a", "x\ny")
        for bad in ("a\r\nAction: Reload", "a\n", "a\0"):
            with pytest.raises(CommandFailed, match="one line"):
                await control.act("SIPshowpeer", Peer=bad)
            with pytest.raises(CommandFailed, match="one line"):
                await control.listed("SIPpeers", Peer=bad)
        assert len(there.peers[0].heard) == 2
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_a_long_answer_of_freeswitch_is_read_where_one_is_expected() -> None:
    long = "<a>" + "x" * 300_000 + "</a>"

    async def tells(peer: Peer) -> None:
        await peer.let_in()
        while request := await peer.request():
            await peer.send(peer.reply(request, long))

    async with switch("freeswitch", tells) as there:
        control = FreeSwitch(there.address, SECRET, timeout=PATIENT)
        await control.log_in()
        assert await control.api("xml_locate dialplan") == long
        with pytest.raises(CommandFailed, match="one line"):
            await control.api("version\n\napi shutdown")
        error = await ends_in_time(control.version(), PATIENT)
        assert isinstance(error, SwitchUnreachable)
        await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_without_a_login_there_is_nothing_to_ask_and_nothing_to_close(kind: str) -> None:
    control = client(kind, Address("127.0.0.1", 1))
    for call in CALLS.values():
        assert "not logged in" in str(await ends_in_time(call(control)))
    await control.close()
    await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_nobody_listens(kind: str) -> None:
    control = client(kind, Address("127.0.0.1", free_port()))
    for _ in range(2):
        error = await ends_in_time(control.log_in())
        assert isinstance(error, SwitchUnreachable)
        assert str(error).endswith(": Connection refused")
    await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_one_may_log_in_again_after_anything(kind: str) -> None:
    behaviours: list[Behaviour] = [silent, closes, obliging, obliging, obliging]

    async def changing(peer: Peer) -> None:
        await behaviours.pop(0)(peer)

    async with switch(kind, changing) as there:
        control = there.client()
        for _ in range(2):
            assert isinstance(await ends_in_time(control.log_in()), SwitchUnreachable)
        await control.log_in()
        await control.log_in()  # which closes the first
        assert await control.version() == VERSIONS[kind]
        await eventually(lambda: there.peers[2].writer.is_closing())
        assert there.peers[2].writer.is_closing()
        await control.close()
        assert "not logged in" in str(await ends_in_time(control.version()))
        await control.log_in()
        assert await control.version() == VERSIONS[kind]
        await control.close()
        await control.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_a_connection_lost_while_idle_is_not_made_again(kind: str) -> None:
    async def leaves(peer: Peer) -> None:
        await peer.let_in()

    async with switch(kind, leaves) as there:
        control = there.client(timeout=PATIENT)
        await control.log_in()
        await asyncio.sleep(0.05)
        for call in CALLS.values():
            assert isinstance(await ends_in_time(call(control)), SwitchUnreachable)
        assert timers() == []  # panoramisk would try again in two seconds
        await control.close()
        assert len(there.peers) == 1


@pytest.mark.parametrize("stage", ["log_in", "version"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_whoever_gives_up_waiting_can_close_at_once(kind: str, stage: str) -> None:
    async def stall(peer: Peer) -> None:
        if stage == "version":
            await peer.let_in()
        await peer.silence()

    async with switch(kind, stall) as there:
        control = there.client(timeout=PATIENT)
        if stage == "version":
            await control.log_in()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await getattr(control, stage)()
        await control.close()
        assert asyncio.get_running_loop().time() - begun < LATE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("nothing_stays")
async def test_it_may_be_closed_under_a_call_that_waits(kind: str) -> None:
    async def stall(peer: Peer) -> None:
        await peer.let_in()
        await peer.silence()

    async with switch(kind, stall) as there:
        control = there.client(timeout=PATIENT)
        await control.log_in()
        waiting = asyncio.create_task(ends_in_time(control.version()))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(asyncio.gather(control.close(), control.close()), LATE)
        assert isinstance(await waiting, SwitchUnreachable)


@pytest.mark.usefixtures("nothing_stays")
async def test_clients_do_not_disturb_each_other() -> None:
    async def stalled(there: Switch) -> None:
        control = there.client()
        assert isinstance(await ends_in_time(control.log_in()), SwitchUnreachable)
        await control.close()

    async def busy(there: Switch) -> None:
        control = there.client(timeout=PATIENT)
        await control.log_in()
        for _ in range(30):
            assert await control.version() == VERSIONS[there.kind]
        await control.close()

    async with contextlib.AsyncExitStack() as stack:
        work = []
        for kind in KINDS:
            bad = await stack.enter_async_context(switch(kind, HOSTILE["a flood of lines"]))
            mute = await stack.enter_async_context(switch(kind, silent))
            good = await stack.enter_async_context(switch(kind, obliging))
            work += [stalled(bad), stalled(mute), *(busy(good) for _ in range(3))]
        await asyncio.wait_for(asyncio.gather(*work), 20)


@pytest.mark.usefixtures("nothing_stays")
async def test_asterisk_is_reached_over_ipv6() -> None:
    async with switch("asterisk", obliging, "::1") as there:
        control = there.client()
        await control.log_in()
        assert await control.version() == VERSIONS["asterisk"]
        await control.close()


@pytest.mark.usefixtures("nothing_stays")
async def test_freeswitch_over_ipv6_is_refused_in_words() -> None:
    async with switch("freeswitch", obliging, "::1") as there:
        error = await ends_in_time(there.client().log_in())
        assert str(error).startswith(f"[::1]:{there.address.port}: ")
        assert "IPv4 only" in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_logging_of_the_process_is_left_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The functions of the module logging, which greenswitch calls, give the root a handler.
    monkeypatch.setattr(logging.root, "handlers", [])
    for behave in (obliging, HOSTILE["half a message and closes"], HOSTILE["lingers"], closes):
        async with switch(kind, behave) as there:
            control = there.client()
            with contextlib.suppress(SwitchError):
                await control.log_in()
                await control.version()
            await control.close()
    assert logging.root.handlers == []


async def test_a_client_that_is_never_closed_ends_with_the_process() -> None:
    program = (
        "import asyncio, sys\n"
        "from rounded_pbx.config_types import Address\n"
        "from rounded_pbx.control.freeswitch import FreeSwitch\n"
        "async def main():\n"
        "    control = FreeSwitch(Address('127.0.0.1', int(sys.argv[1])), 'x', timeout=5)\n"
        "    await control.log_in()\n"
        "    print(await control.version())\n"
        "asyncio.run(main())\n"
    )
    async with switch("freeswitch", obliging) as there:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(there.address.port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        printed, said_wrong = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, printed.decode(), said_wrong) == (
        0,
        f"{VERSIONS['freeswitch']}\n",
        b"",
    )
