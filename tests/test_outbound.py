"""Sessions of the outbound socket on the wire, as FreeSWITCH holds them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from rounded_pbx.config_types import LOOPBACK, Address, Network
from rounded_pbx.errors import Hangup, SwitchError
from rounded_pbx.handler import Desk
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.protocol import esl
from rounded_pbx.protocol.esl import LONGEST_BLOCK
from rounded_pbx.routing import Next, Route, RouteTable
from rounded_pbx.servers.listener import Listener
from rounded_pbx.servers.outbound import OutboundServer
from rounded_pbx.servers.presence import Presence
from rounded_pbx.staging import Outcome, StagingRequest, StagingResult
from rounded_pbx.templates import compile_value
from rounded_pbx.tenants import AccountTable

from .helpers import FakeTickets, eventually
from .test_esl_protocol import UUID as CHANNEL
from .test_esl_protocol import described, pieces
from .test_fastagi import ROUTE, TENANTS, UUID, FakeStager

DID = {"variable_socket_path": "stage", "variable_rounded_in_did": "+33612345678"}
_SESSION = pieces("01_async_full_session")
SET = next(piece for piece in _SESSION if piece.endswith(b"\n\n+OK\n"))
BYE = _SESSION[-1]
NO_CHANNEL = next(
    piece for piece in pieces("31_cancel_midsession_linger_sync") if b"-ERR No such" in piece
)
WHICH = f"Content-Type: command/reply\nReply-Text: {CHANNEL}\n\n".encode()
CONNECTED = _SESSION[0]
SAME_ID: dict[str, str | bytes | None] = {"Unique-ID": CHANNEL}
NOTICES = {
    "async": pieces("33_cancel_midsession_noevents_nolinger_async")[1:],
    "sync": pieces("33_cancel_midsession_noevents_nolinger_sync")[1:],
}
NOT_FULL = next(piece for piece in pieces("03_async_nofull") if b"-ERR" in piece)


@dataclass
class TimedStager(FakeStager):
    """Keeps how many seconds each staging has."""

    seconds: list[float] = field(default_factory=list)

    async def stage(self, request: StagingRequest, deadline: float) -> StagingResult:
        self.seconds.append(deadline - asyncio.get_running_loop().time())
        return await super().stage(request, deadline)


@dataclass
class FreeSwitch:
    """FreeSWITCH's end of a session."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def written(self) -> bytes:
        """What the server has written at once; nothing where it has closed."""
        try:
            return await asyncio.wait_for(self.reader.read(65536), 5)
        except ConnectionResetError:  # an end, too: what we wrote met a server that had closed
            return b""

    async def silent_for(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            return not await asyncio.wait_for(self.reader.read(1), seconds)
        return True

    async def say_which(self) -> None:
        """Say which channel it is, and be asked for its description."""
        assert await self.written() == esl.WHICH
        self.write(WHICH)
        assert await self.written() == esl.describe(CHANNEL)

    async def command(self) -> str:
        """The command that sets the variables; ``exit`` comes with it, before any reply."""
        data = (await self.written()).decode()
        if data.startswith("connect\n\n"):  # it had to wait
            self.write(CONNECTED)
            data = data.removeprefix("connect\n\n") or (await self.written()).decode()
        found = re.fullmatch(r"(api uuid_setvar_multi [^\n]*)\n\nexit\n\n", data)
        assert found, data
        return found[1]

    async def variables(self, reply: bytes = SET) -> dict[str, str]:
        """Answer the command, say goodbye, and return the variables that were set."""
        _, _, _, pairs = (await self.command()).split(" ", 3)
        self.write(reply, BYE)
        assert await self.written() == b"", "it does not close by itself"
        self.writer.close()
        return dict(re.findall("([^=;]+)=([^;]*)", pairs))


@dataclass
class Server:
    listener: Listener
    stager: TimedStager
    tickets: FakeTickets
    address: Address
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> FreeSwitch:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        self.clients.append(writer)
        return FreeSwitch(reader, writer)

    async def session(
        self,
        changes: Mapping[str, str | bytes | None] | None = None,
        capture: str = "01_async_full_session",
    ) -> FreeSwitch:
        """A session whose channel has been described."""
        freeswitch = await self.connect()
        await freeswitch.say_which()
        freeswitch.write(described({**DID, **SAME_ID, **(changes or {})}, capture))
        return freeswitch

    async def working(self) -> FreeSwitch:
        """A session whose staging goes on until somebody ends it."""
        self.stager.behave = _never
        freeswitch = await self.session()
        await eventually(lambda: self.stager.requests)
        assert len(self.stager.requests) == 1
        return freeswitch

    async def ended(self, within: float = 1.0) -> bool:
        await eventually(lambda: not self.listener.sessions, within)
        return self.listener.sessions == 0


async def _never() -> StagingResult:
    await asyncio.Event().wait()
    raise AssertionError


@contextlib.asynccontextmanager
async def serving(
    route: Route = ROUTE,
    deadline: float = 5.0,
    max_connections: int = 4000,
    allow: Sequence[Network] = LOOPBACK,
    accounts: AccountTable | None = None,
) -> AsyncIterator[Server]:
    stager = TimedStager()
    tickets = FakeTickets()
    accounts = accounts or AccountTable()
    desk = Desk(RouteTable([route], "FR"), CallerPolicy(), stager, Next.DIAL, tickets, accounts)
    listener = Listener(
        OutboundServer(lambda: desk).handler,
        deadline=deadline,
        allow=allow,
        max_connections=max_connections,
        longest_line=LONGEST_BLOCK,
    )
    address = await listener.start(Address("127.0.0.1", 0))
    server = Server(listener, stager, tickets, address)
    try:
        yield server
    finally:
        await listener.close(patience=0.5)
        for client in server.clients:
            client.transport.abort()
        await asyncio.sleep(0)
    assert listener.sessions == 0


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as started:
        yield started


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level and "rounded" in r.name]


# A call.


@pytest.mark.parametrize("capture", ["01_async_full_session", "02_sync_full"])
async def test_a_session_is_three_round_trips(
    server: Server, capture: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.session(capture=capture)
    command = await freeswitch.command()
    assert re.fullmatch(
        f"api uuid_setvar_multi {CHANNEL} rounded_reason=;rounded_stage_ms=[0-9]+;"
        f"rounded_route=support;rounded_agent_id={ROUTE.agent_id};rounded_next=dial;"
        f"rounded_call_id={UUID};rounded_status=STAGED",
        command,
    )
    assert await freeswitch.silent_for(0.1)  # it waits for FreeSWITCH to close
    freeswitch.write(SET, BYE)
    assert await freeswitch.written() == b""
    assert await server.ended()
    [line] = messages(caplog)
    assert line.startswith("STAGED did=+33612345678 from=+3391234**** route=support ms=")


@pytest.mark.parametrize(
    ("changes", "account"),
    [
        ({}, "default"),
        ({"variable_accountcode": "4711"}, "acme"),
        ({"variable_domain_name": "ACME.example"}, "acme"),
        ({"Caller-Context": "from-other"}, "other"),
        ({"variable_rounded_in_domain": "acme.example", "Caller-Context": "from-other"}, "acme"),
        ({"variable_rounded_in_accountcode": "1", "variable_accountcode": "4711"}, "default"),
        ({"variable_rounded_in_context": "from-other"}, "other"),
        ({"variable_sip_h_accountcode": "4711", "variable_sip_to_host": "acme.example"}, "default"),
        ({"variable_sip_req_host": "acme.example", "variable_sip_h_X-Context": "4711"}, "default"),
        ({"Caller-Caller-ID-Name": b"x%0Avariable_accountcode: 4711"}, "default"),
    ],
)
async def test_a_call_is_staged_by_the_account_that_it_leads_to(
    changes: dict[str, str | bytes | None], account: str
) -> None:
    async with serving(accounts=TENANTS) as server:
        assert (await (await server.session(changes)).variables())["rounded_status"] == "STAGED"
        assert [request.account for request in server.stager.requests] == [account]


async def test_an_account_code_with_a_line_break_is_refused() -> None:
    async with serving(accounts=TENANTS) as server:
        freeswitch = await server.session({"variable_rounded_in_accountcode": "4711\n"})
        assert (await freeswitch.variables())["rounded_status"] == "ERROR"
        assert server.stager.requests == []


async def test_in_single_bytes_it_is_as_good(server: Server) -> None:
    freeswitch = await server.connect()
    await freeswitch.say_which()
    for byte in described(DID):
        freeswitch.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await freeswitch.variables())["rounded_status"] == "STAGED"


async def test_a_large_channel_is_read(server: Server) -> None:
    headers = {f"variable_sip_h_X-{n}": "\u2028" * 800 for n in range(25)}  # 7200 bytes each
    assert (await (await server.session(headers)).variables())["rounded_status"] == "STAGED"


async def test_every_value_comes_from_the_channel() -> None:
    route = Route(
        name="n",
        agent_id=ROUTE.agent_id,
        dids=ROUTE.dids,
        country="FR",
        dynamic_variables={
            "tier": compile_value("{channel.TIER}"),
            "none": compile_value("{channel.NONE}"),
            "rest": compile_value("{caller.name}|{account_code}|{context}|{rdnis}|{switch}"),
        },
    )
    async with serving(route) as server:
        more: dict[str, str | bytes | None] = {
            "variable_tier": b"gold%0Aold",
            "variable_accountcode": "acme",
            "Caller-Caller-ID-Name": b"Ren%E9",
            "Caller-RDNIS": "+33644444444",
            "variable_rounded_in_from": "0145678902",
            "variable_rounded_in_var_First": "Zoé",
            "variable_rounded_in_header_X-Tier": "7",
            "variable_rounded_in_direction": "outbound",
        }
        await (await server.session(more)).variables()
        [request] = server.stager.requests
    assert request.dynamic_variables == {
        "tier": "gold old",
        "none": "",
        "rest": "René|acme|lab|+33644444444|freeswitch",
        "First": "Zoé",
    }
    assert (request.from_number, request.to_number) == ("+33145678902", "+33612345678")
    assert (request.custom_headers, request.direction) == ({"X-Tier": "7"}, "outbound")


async def test_without_a_did_the_call_is_a_bad_number(server: Server) -> None:
    variables = await (await server.session({"variable_rounded_in_did": None})).variables()
    assert variables["rounded_status"] == "BAD_NUMBER"
    assert variables["rounded_call_id"] == ""
    assert server.stager.requests == []


async def test_without_full_nothing_is_staged(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    freeswitch = await server.connect()
    await freeswitch.say_which()
    freeswitch.write(NOT_FULL)
    assert await freeswitch.written() == b"exit\n\n"
    freeswitch.write(BYE)
    assert await freeswitch.written() == b""
    assert await server.ended()
    assert server.stager.requests == []
    [line] = messages(caplog)
    assert "without full" in line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"variable_socket_path": "stagger"},
            "no path stagger after the port: expected stage prestage collect abandon",
        ),
        (
            {"variable_socket_path": None},
            "no path after the port: expected stage prestage collect abandon",
        ),
        (
            {"variable_rounded_in_did": b"%2B336%0A12345678"},
            "rounded_in_did holds a control character",
        ),
    ],
)
async def test_what_is_not_understood_gets_an_answer(
    server: Server, changes: dict[str, str | bytes | None], reason: str
) -> None:
    variables = await (await server.session(changes)).variables()
    assert (variables["rounded_status"], variables["rounded_reason"]) == ("ERROR", reason)
    assert "rounded_next" not in variables  # what the dialplan has preset stands
    assert server.stager.requests == []


async def test_inputs_that_mean_nothing_are_said(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {"variable_rounded_in_dd": "+33699999999", "variable_rounded_in_wait": "long%0Aer"}
    assert (await (await server.session(odd)).variables())["rounded_status"] == "STAGED"
    [line] = messages(caplog, logging.WARNING)
    assert line.startswith("inputs that mean nothing: ")
    assert "dd=+3369999****" in line
    assert "wait=long%0Aer" in line


@pytest.mark.parametrize("how", ["unknown path", "unknown input", "failure", "refused set"])
async def test_no_callers_number_is_logged(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    changes = {"variable_sip_h_X-Secret": "s3cret", "Caller-Caller-ID-Name": "Jean s3cret"}
    number, reply = "33912345678", SET
    if how == "unknown path":
        changes["variable_socket_path"] = number
    elif how == "unknown input":
        changes["variable_rounded_in_x"] = f"+{number}"
    elif how == "failure":

        async def failing() -> StagingResult:
            return StagingResult(Outcome.REJECTED, reason=f"{number} is no number")

        server.stager.behave = failing
    else:
        said = f"-ERR {number}".encode()
        reply = b"Content-Type: api/response\nContent-Length: %d\n\n" % len(said) + said
    freeswitch = await server.session(changes)
    await freeswitch.variables(reply)
    assert await server.ended()
    assert messages(caplog)
    assert number not in caplog.text
    assert "s3cret" not in caplog.text


# The caller leaves.


@pytest.mark.parametrize("how", ["async", "sync", "EOF", "reset", "unasked", "event", "garbage"])
async def test_the_end_of_the_call_cancels_the_staging(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.working()
    if how in NOTICES:
        freeswitch.write(*NOTICES[how])
    elif how == "EOF":
        freeswitch.writer.write_eof()
    elif how == "reset":
        freeswitch.writer.transport.abort()
    elif how == "unasked":
        freeswitch.write(SET)
    elif how == "event":
        freeswitch.write(b"Content-Type: text/event-plain\nContent-Length: 0\n\n")
    else:
        freeswitch.write(b"HTTP/1.1 400 Bad Request\nContent-Length: 3\n\n")
    assert await server.ended()
    assert server.stager.cancelled == 1
    if how != "reset":
        assert await freeswitch.written() == b""
    outcome, why = messages(caplog)
    assert outcome.startswith("HANGUP did=+33612345678 ")
    said = {
        "async": "the caller left",
        "sync": "the caller left",
        "EOF": "the switch closed the session",
        "reset": "the s",
        "unasked": "ESL: a reply that nobody asked for",
        "event": "ESL: a message that nobody asked for",
        "garbage": "ESL: a line is no name: value",
    }
    assert said[how] in why


async def test_a_notice_is_a_hangup_whatever_follows_it(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.working()
    freeswitch.write(*NOTICES["async"], b"nonsense\n\n")
    assert await server.ended()
    assert messages(caplog)[-1].endswith("the caller left")


@pytest.mark.parametrize("how", ["async", "EOF"])
async def test_a_caller_who_leaves_with_the_channels_description_is_not_staged(
    server: Server, how: str
) -> None:
    server.stager.behave = _never
    freeswitch = await server.connect()
    await freeswitch.say_which()
    freeswitch.write(described(DID), *NOTICES.get(how, []))
    if how == "EOF":
        freeswitch.writer.write_eof()
    assert await freeswitch.written() == b""
    assert await server.ended()
    assert server.stager.cancelled == len(server.stager.requests)


@pytest.mark.parametrize("why", ["an unknown path", "no full"])
async def test_a_caller_who_has_left_is_not_answered(
    server: Server, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes = {"variable_socket_path": "x"}
    said = NOT_FULL if why == "no full" else described({**DID, **changes})
    freeswitch = await server.connect()
    await freeswitch.say_which()
    freeswitch.write(said, *NOTICES["async"])
    assert await freeswitch.written() == b""
    assert await server.ended()
    assert messages(caplog)[-1].endswith("the caller left")


@pytest.mark.parametrize("how", ["async", "EOF", "reset", "nonsense", "half"])
async def test_a_hangup_before_the_reply_ends_the_session(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.session()
    await freeswitch.command()
    if how == "async":
        freeswitch.write(*NOTICES[how])
    elif how == "nonsense":
        freeswitch.write(b"\xff\x00\n\n")
    elif how == "half":
        freeswitch.write(SET[:-1])
    if how in ("EOF", "half"):
        freeswitch.writer.write_eof()
    if how == "reset":
        freeswitch.writer.transport.abort()
    assert await server.ended()
    assert messages(caplog)[0].startswith("STAGED ")
    assert len(messages(caplog)) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (NO_CHANNEL, "uuid_setvar_multi: -ERR No such channel!"),
        (NOT_FULL, "uuid_setvar_multi: -ERR command not found"),
        (b"Content-Type: api/response\nContent-Length: 0\n\n", "uuid_setvar_multi: "),
    ],
)
async def test_a_refused_command_ends_the_session_and_nothing_else(
    server: Server, reply: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.session()
    await freeswitch.command()
    freeswitch.write(reply)
    assert await freeswitch.written() == b""
    assert await server.ended()
    staged, refused = messages(caplog)
    assert staged.startswith("STAGED ")
    assert refused.endswith(f": {said}")
    assert (await (await server.session()).variables())["rounded_status"] == "STAGED"


# What goes wrong here.


async def test_a_defect_in_the_stager_gets_an_answer(server: Server) -> None:
    async def defect() -> StagingResult:
        raise ZeroDivisionError

    server.stager.behave = defect
    variables = await (await server.session()).variables()
    assert (variables["rounded_status"], variables["rounded_next"]) == ("ERROR", "hangup")


@pytest.mark.parametrize("where", ["inputs", "to_call", "Channel.path"])
async def test_a_defect_in_our_reading_gets_an_answer_too(
    server: Server,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    broken = property(defect) if where == "Channel.path" else defect
    monkeypatch.setattr(f"rounded_pbx.servers.outbound.esl.{where}", broken)
    variables = await (await server.session()).variables()
    assert (variables["rounded_status"], variables["rounded_call_id"]) == ("ERROR", "")
    assert variables["rounded_reason"] == "a defect of rounded_pbx: see its log"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("when", ["before the channel", "while it works", "after the command"])
async def test_a_defect_in_the_reader_ends_the_session_at_once(
    server: Server,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    if when == "before the channel":
        freeswitch = await server.connect()
        await freeswitch.written()
    elif when == "while it works":
        freeswitch = await server.working()
    else:
        freeswitch = await server.session()
        await freeswitch.command()
    monkeypatch.setattr("rounded_pbx.servers.outbound.esl.Parser.receive", defect)
    freeswitch.write(SET)
    assert await freeswitch.written() == b""
    assert await server.ended()
    assert "a defect of rounded_pbx while it read a session" in caplog.text
    assert server.stager.cancelled == (when == "while it works")


async def test_values_beyond_the_contract_are_not_written(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(
        "rounded_pbx.handler.build", lambda *_, **__: (("rounded_call_id", "a;b=c"),)
    )
    freeswitch = await server.session()
    assert await freeswitch.written() == b""
    assert messages(caplog)[-1].endswith("no channel variable of the contract")


# Time.


async def test_a_staging_leaves_time_for_the_replies(server: Server) -> None:
    await (await server.session()).variables()
    [seconds] = server.stager.seconds
    assert 4 < seconds <= 4.9


async def test_a_late_staging_is_still_written() -> None:
    async with serving(deadline=0.5) as server:

        async def until_deadline() -> StagingResult:
            await asyncio.sleep(0.35)
            return StagingResult(Outcome.TIMEOUT)

        server.stager.behave = until_deadline
        assert (await (await server.session()).variables())["rounded_status"] == "TIMEOUT"


@pytest.mark.parametrize("silent", ["at once", "in the channel", "while it works", "at the end"])
async def test_a_switch_that_never_replies_ends_at_the_deadline(
    silent: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(deadline=0.4) as server:
        begun = asyncio.get_running_loop().time()
        if silent == "while it works":
            freeswitch = await server.working()
        elif silent == "at the end":
            freeswitch = await server.session()
            await freeswitch.command()
            freeswitch.write(SET)
        else:
            freeswitch = await server.connect()
            if silent == "in the channel":
                await freeswitch.say_which()
                freeswitch.write(described(DID)[:-1])
            else:
                await freeswitch.written()
        assert await freeswitch.written() in (b"", b"connect\n\n")
        assert await server.ended()
        assert 0.35 < asyncio.get_running_loop().time() - begun < 2
        assert server.stager.cancelled == (silent == "while it works")
    assert "the session was not over after 0.4 s" in caplog.text


# Those who are no FreeSWITCH.


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\nContent-Length: 3\n\nbad",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\n\n",
        SET,  # an answer, but none that was asked for
        NOT_FULL,
        pieces("74_connect_hostile")[1],
        b"Content-Type: auth/request\n\n",
        NOTICES["async"][0],
        b"A: " + b"x" * (LONGEST_BLOCK + 1),
        b"Content-Length: 262145\n\n",
        WHICH.replace(CHANNEL.encode(), b"a b"),
        WHICH.replace(CHANNEL.encode(), b"peer%40host"),
    ],
)
async def test_what_is_no_answer_ends_the_session_in_one_line(
    server: Server, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.connect()
    assert await freeswitch.written() == esl.WHICH
    freeswitch.write(said)
    assert await freeswitch.written() == b""
    assert await server.ended()
    [line] = messages(caplog)
    assert line.startswith("('127.0.0.1', ")
    assert "\n" not in line
    assert server.stager.requests == []


@pytest.mark.parametrize("how", ["close", "reset", "EOF", "close after connect"])
async def test_a_port_check_is_not_logged(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(5):
        freeswitch = await server.connect()
        if how == "close after connect":
            await freeswitch.written()
        if how == "reset":
            freeswitch.writer.transport.abort()
        elif how == "EOF":
            freeswitch.writer.write_eof()
            assert await freeswitch.written() == esl.WHICH
            assert await freeswitch.written() == b""
        else:
            freeswitch.writer.close()
        await asyncio.sleep(0.05)
    assert await server.ended()
    assert messages(caplog) == []


async def test_half_an_answer_is_no_port_check(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    freeswitch = await server.connect()
    freeswitch.write(WHICH[:30])
    freeswitch.writer.write_eof()
    assert await server.ended()
    [line] = messages(caplog)
    assert line.endswith("the switch closed the session")


async def test_beyond_the_cap_a_connection_is_closed_at_once() -> None:
    async with serving(max_connections=3) as server:
        silent = [await server.connect() for _ in range(3)]
        for freeswitch in silent:
            assert await freeswitch.written() == esl.WHICH
        assert await (await server.connect()).written() == b""
        for freeswitch in silent:
            freeswitch.writer.close()
        assert await server.ended()
        assert (await (await server.session()).variables())["rounded_status"] == "STAGED"


@pytest.mark.parametrize(("allow", "served"), [("127.0.0.2/32", False), ("127.0.0.1/32", True)])
async def test_only_allowed_networks_are_served(allow: str, served: bool) -> None:
    async with serving(allow=[ip_network(allow)]) as server:
        freeswitch = await server.connect()
        assert await freeswitch.written() == (esl.WHICH if served else b"")


# The end of the daemon.


async def test_closing_lets_a_session_end(server: Server) -> None:
    freeswitch = await server.session()
    await freeswitch.command()
    closing = asyncio.ensure_future(server.listener.close(patience=5))
    await asyncio.sleep(0.1)
    assert not closing.done()
    freeswitch.write(SET, BYE)
    await asyncio.wait_for(closing, 2)
    assert await freeswitch.written() == b""


async def test_closing_cuts_off_a_session_that_does_not_end(server: Server) -> None:
    freeswitch = await server.working()
    await asyncio.wait_for(server.listener.close(patience=0.1), 2)
    assert server.stager.cancelled == 1
    assert await freeswitch.written() in (b"", b"connect\n\n")
    assert await freeswitch.written() == b""


# Presence.


async def test_work_for_a_peer_who_has_left_does_not_begin() -> None:
    presence, begun = Presence(), []

    async def work() -> None:
        begun.append(1)

    presence.leave(Hangup("first"))
    presence.leave(SwitchError("second"))
    with pytest.raises(SwitchError, match="second"):
        await presence.during(work())
    assert begun == []


async def test_a_peer_who_leaves_after_the_work_cancels_nothing() -> None:
    presence = Presence()
    assert await presence.during(asyncio.sleep(0, "done")) == "done"
    presence.leave(Hangup("gone"))
    await asyncio.sleep(0)


async def test_who_is_cancelled_by_others_stays_cancelled() -> None:
    """By a deadline or by close(), although the peer leaves in the same moment."""
    presence = Presence()
    task = asyncio.ensure_future(presence.during(asyncio.Event().wait()))
    await asyncio.sleep(0)
    presence.leave(Hangup("gone"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    alone = asyncio.ensure_future(Presence().during(asyncio.Event().wait()))
    await asyncio.sleep(0)
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone


async def test_a_deadline_after_a_hangup_is_still_a_deadline() -> None:
    presence = Presence()

    async def leave() -> None:
        presence.leave(Hangup("gone"))
        await asyncio.Event().wait()

    async def serve() -> None:
        with contextlib.suppress(Hangup):
            await presence.during(leave())
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await serve()


# In two halves.

TICKET = "6c1f7f2e-4a55-4a0e-8a55-0e6b6f1d2c3b"
WAITED = StagingResult(Outcome.STAGED, "aaaaaaaa-7b1a-7c3d-9e4f-0123456789ab")


async def test_a_prestaging_sets_the_ticket_and_begins_when_it_is_set(server: Server) -> None:
    freeswitch = await server.session({"variable_socket_path": "prestage"})
    found = re.fullmatch(
        r"api uuid_setvar_multi [0-9a-f-]{36} rounded_ticket=(.{36})", await freeswitch.command()
    )
    assert found
    assert await freeswitch.silent_for(0.05)
    assert server.tickets.begun == []
    freeswitch.write(SET)
    await eventually(lambda: server.tickets.begun)
    assert [ticket for ticket, _ in server.tickets.begun] == [found[1]]
    freeswitch.write(BYE)
    assert await freeswitch.written() == b""
    assert server.stager.seconds == []


@pytest.mark.parametrize("farewell", [b"", NO_CHANNEL, b"".join(NOTICES["async"])])
async def test_a_caller_who_leaves_before_it_is_set_begins_nothing(
    server: Server, farewell: bytes
) -> None:
    freeswitch = await server.session({"variable_socket_path": "prestage"})
    await freeswitch.command()
    freeswitch.write(farewell)
    freeswitch.writer.close()
    assert await server.ended()
    assert server.tickets.begun == []


async def test_a_ticket_is_collected(server: Server) -> None:
    server.tickets.found = WAITED
    collects = {"variable_socket_path": "collect", "variable_rounded_in_ticket": TICKET}
    told = await (await server.session({**collects, "variable_rounded_in_var_a": "1"})).variables()
    assert (told["rounded_status"], told["rounded_call_id"]) == ("STAGED", WAITED.call_id)
    ((ticket, marks, _),) = server.tickets.collected
    assert (ticket, len(marks)) == (TICKET, 2)
    assert server.stager.requests == []


@pytest.mark.parametrize("ticket", [None, "", "x", TICKET[1:]])
async def test_a_call_with_no_ticket_is_staged(server: Server, ticket: str | None) -> None:
    collects = {"variable_socket_path": "collect", "variable_rounded_in_ticket": ticket}
    told = await (await server.session(collects)).variables()
    assert told["rounded_call_id"] == UUID
    assert server.tickets.collected == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rounded_in_ticket", [TICKET]),
        ("sip_h_rounded_in_ticket", []),
        ("sip_h_X-rounded_in_ticket", []),
        ("rounded_ticket", []),
    ],
)
async def test_only_the_dialplans_own_ticket_is_abandoned(
    server: Server, name: str, told: list[str]
) -> None:
    freeswitch = await server.session(
        {"variable_socket_path": "abandon", f"variable_{name}": TICKET}
    )
    assert await freeswitch.written() == b"exit\n\n"
    freeswitch.write(BYE)
    assert await server.ended()
    assert server.tickets.abandoned == told
