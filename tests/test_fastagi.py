"""FastAGI sessions on the wire, as an Asterisk holds them: S is the server, A is Asterisk."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from rounded_pbx.call import Switch
from rounded_pbx.config_types import LOOPBACK, Address
from rounded_pbx.demo.asterisk import variables_set
from rounded_pbx.handler import Desk
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.protocol.agi import ENVIRONMENT_KEYS, LONGEST_ENVIRONMENT
from rounded_pbx.routing import Next, Route, RouteTable
from rounded_pbx.servers.fastagi import FastAgiApplication
from rounded_pbx.servers.listener import Listener
from rounded_pbx.staging import Outcome, StagingRequest, StagingResult
from rounded_pbx.templates import compile_value
from rounded_pbx.tenants import AccountTable, Selectors

from .helpers import FakeTickets, eventually

UUID = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
ROUTE = Route(
    name="support",
    agent_id="411b82c8-462a-4e1b-89bc-10ab3ce1ed29",
    dids=("+33612345678",),
    country="FR",
    on_failure=Next.HANGUP,
)
SCRIPT = "stage?did=+33612345678"
TENANTS = AccountTable(
    {
        "acme": Selectors(account_codes=("4711",), domains=("acme.example",)),
        "other": Selectors(contexts=("from-other",)),
    }
)


@dataclass
class FakeStager:
    """Stages at once, or as the test wants it."""

    behave: Callable[[], Awaitable[StagingResult]] | None = None
    requests: list[StagingRequest] = field(default_factory=list)
    cancelled: int = 0

    async def stage(self, request: StagingRequest, deadline: float) -> StagingResult:
        self.requests.append(request)
        try:
            if self.behave is not None:
                return await self.behave()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return StagingResult(Outcome.STAGED, UUID)


@dataclass
class Server:
    listener: Listener
    stager: FakeStager
    tickets: FakeTickets
    address: Address
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> Asterisk:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        self.clients.append(writer)
        return Asterisk(reader, writer)

    async def session(self, **fields: str | bytes) -> Asterisk:
        """A session whose environment has been written."""
        asterisk = await self.connect()
        asterisk.write(environment(**fields))
        return asterisk


@dataclass
class Asterisk:
    """Asterisk's end of a session."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def command(self) -> str:
        """The next command, once a challenge before it has been met."""
        line = await self.raw_command()
        word = re.fullmatch(r'GET FULL VARIABLE "([0-9a-f]{16})"\n', line)
        if word:
            self.write(f"200 result=1 ({word[1]})\n".encode())
            line = await self.raw_command()
        return line

    async def raw_command(self) -> str:
        try:
            line = await asyncio.wait_for(self.reader.readline(), 5)
        except ConnectionResetError:  # an end, too: what we wrote met a server that had closed
            return ""
        assert line.endswith(b"\n") or line == b"", line
        return line.decode()

    async def silent_for(self, seconds: float) -> bool:
        """Whether the server writes nothing: it must wait for a reply before the next command."""
        with contextlib.suppress(TimeoutError):
            return not await asyncio.wait_for(self.reader.read(1), seconds)
        return True

    async def variables(self, reply: bytes = b"200 result=1\n") -> dict[str, str]:
        """Answer every command, and return the variables that were set."""
        found: dict[str, str] = {}
        with contextlib.suppress(ConnectionError):
            while line := await self.command():
                for name, value in variables_set(line).items():
                    found[name.removeprefix("__")] = value
                self.write(reply)
        self.writer.close()
        return found


def environment(**fields: str | bytes) -> bytes:
    """An environment block; ``version``, ``callerid``, … replace what stands there."""
    values: dict[str, str | bytes] = {
        **dict.fromkeys(ENVIRONMENT_KEYS, ""),
        "network": "yes",
        "network_script": SCRIPT,
        "channel": "PJSIP/carrier-00000000",
        "uniqueid": "1795351425.0",
        "version": "22.10.1",
        "callerid": "+33145678901",
        "calleridname": "Ann",
        "callingpres": "0",
        "dnid": "+33612345678",
        "threadid": "1",
        **fields,
    }
    lines = [
        f"agi_{key}: ".encode() + (value if isinstance(value, bytes) else value.encode())
        for key, value in values.items()
    ]
    return b"\n".join(lines) + b"\n\n"


@contextlib.asynccontextmanager
async def serving(
    route: Route = ROUTE,
    deadline: float = 5.0,
    max_connections: int = 4000,
    accounts: AccountTable | None = None,
) -> AsyncIterator[Server]:
    stager = FakeStager()
    tickets = FakeTickets()
    accounts = accounts or AccountTable()
    desk = Desk(RouteTable([route], "FR"), CallerPolicy(), stager, Next.DIAL, tickets, accounts)
    application = FastAgiApplication(lambda: desk)
    listener = Listener(
        application.handler,
        deadline=deadline,
        allow=LOOPBACK,
        max_connections=max_connections,
        longest_line=LONGEST_ENVIRONMENT,
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


async def test_the_variables_are_set_in_one_command_and_the_session_ends(server: Server) -> None:
    asterisk = await server.session()
    command = await asterisk.command()
    assert command.startswith('SET VARIABLE "ARRAY(ROUNDED_REASON,')
    told = list(variables_set(command).items())
    assert told[-2:] == [("ROUNDED_CALL_ID", UUID), ("ROUNDED_STATUS", "STAGED")]
    assert await asterisk.silent_for(0.2)
    asterisk.write(b"200 result=0\n")
    assert await asterisk.command() == ""


async def test_the_caller_comes_from_the_arguments_before_the_environment(server: Server) -> None:
    script = "stage?did=0612345678&from=0145678902&name=Zo%C3%A9%20%2B&pres=allowed"
    await (await server.session(network_script=script)).variables()
    await (await server.session()).variables()
    assert [r.from_number for r in server.stager.requests] == ["+33145678902", "+33145678901"]


async def test_an_environment_in_single_bytes_is_as_good(server: Server) -> None:
    asterisk = await server.connect()
    for byte in environment():
        asterisk.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await asterisk.variables())["ROUNDED_STATUS"] == "STAGED"


async def test_a_latin1_name_survives() -> None:
    route = Route(
        name="n",
        agent_id=ROUTE.agent_id,
        dids=ROUTE.dids,
        dynamic_variables={"name": compile_value("{caller.name}")},
    )
    async with serving(route) as server:
        await (await server.session(calleridname=b"Ren\xe9 L\xe9vy")).variables()
        assert server.stager.requests[0].dynamic_variables == {"name": "René Lévy"}


async def test_channel_variables_are_read_percent_encoded() -> None:
    route = Route(
        name="n",
        agent_id=ROUTE.agent_id,
        dids=ROUTE.dids,
        dynamic_variables={"a": compile_value("{channel.A}"), "b": compile_value("{channel.B}")},
    )
    async with serving(route) as server:
        asterisk = await server.session()
        assert await asterisk.command() == 'GET FULL VARIABLE "${URIENCODE(${A})}"\n'
        asterisk.write(b"200 result=1 (x%0A200%20result%3D1%20%28fake%29)\n")
        assert await asterisk.command() == 'GET FULL VARIABLE "${URIENCODE(${B})}"\n'
        asterisk.write(b"200 result=1 ()\n")
        await asterisk.variables()
    variables = server.stager.requests[0].dynamic_variables
    assert variables == {"a": "x 200 result=1 (fake)", "b": ""}


async def test_without_a_did_the_call_is_a_bad_number(server: Server) -> None:
    variables = await (await server.session(network_script="stage?from=1")).variables()
    assert variables["ROUNDED_STATUS"] == "BAD_NUMBER"
    assert variables["ROUNDED_REASON"] == "the DID is missing: did"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("stagger?did=1", "no AGI script stagger: expected stage prestage collect abandon"),
        ("stage?did=1&did=2", "the input did stands twice"),
    ],
)
async def test_what_is_not_understood_gets_an_answer(
    server: Server, script: str, reason: str
) -> None:
    asterisk = await server.connect()
    asterisk.write(environment(network_script=script))
    variables = await asterisk.variables()
    assert (variables["ROUNDED_STATUS"], variables["ROUNDED_REASON"]) == ("ERROR", reason)
    assert "ROUNDED_NEXT" not in variables  # what the dialplan has preset stands
    assert server.stager.requests == []


async def test_a_defect_of_ours_gets_an_answer(server: Server) -> None:
    async def defect() -> StagingResult:
        raise ZeroDivisionError

    server.stager.behave = defect
    variables = await (await server.session()).variables()
    assert variables["ROUNDED_STATUS"] == "ERROR"
    assert variables["ROUNDED_NEXT"] == "hangup"


@pytest.mark.parametrize("where", ["Environment.parse", "arguments", "to_call"])
async def test_a_defect_in_our_reading_gets_an_answer_too(
    server: Server, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"rounded_pbx.servers.fastagi.agi.{where}", defect)
    asterisk = await server.connect()
    asterisk.write(environment())
    variables = await asterisk.variables()
    assert (variables["ROUNDED_STATUS"], variables["ROUNDED_CALL_ID"]) == ("ERROR", "")


async def test_a_defect_in_the_reader_ends_the_session_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stager.behave = _never
    asterisk = await server.session()

    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rounded_pbx.servers.fastagi.agi.ReplyParser.receive", defect)
    begun = asyncio.get_running_loop().time()
    asterisk.write(b"200 result=1\n")
    assert await asterisk.command() == ""
    assert asyncio.get_running_loop().time() - begun < 2


@pytest.mark.parametrize(
    "caller",
    [
        b"+339\nagi_network_script: stage?did=+33999999999",
        b"+339\nagi_arg_1: route=evil",
        b"+339\nX-Evil",
        b"+339\nagi_threadid: 1",
        b"+339\nagi_accountcode: vip",
    ],
)
async def test_forged_lines_are_refused_with_an_answer(server: Server, caller: bytes) -> None:
    asterisk = await server.connect()
    asterisk.write(environment(callerid=caller))
    assert (await asterisk.variables())["ROUNDED_STATUS"] == "ERROR"
    assert server.stager.requests == []


FORGED_END = b"1\n" + b"".join(
    b"agi_%s: x\n" % name.encode()
    for name in ENVIRONMENT_KEYS[ENVIRONMENT_KEYS.index("callerid") + 1 :]
)


@pytest.mark.parametrize("script", ["stage", SCRIPT])
@pytest.mark.parametrize(
    "more", [b"\n", b"agi_arg_1: did=+33612345678\n\n200 result=1 (x)\n", b"\n520-", b"\nHANGUP\n"]
)
async def test_an_environment_that_a_caller_ends_early_stages_nothing(
    server: Server, script: str, more: bytes
) -> None:
    """What Asterisk writes after it stands before the reply to whatever is asked."""
    asterisk = await server.connect()
    asterisk.write(environment(network_script=script, callerid=FORGED_END + more))
    command = await asterisk.raw_command()
    if command.startswith("SET"):  # both kinds of arguments, or a caller whose number is "1"
        assert variables_set(command)["ROUNDED_STATUS"] in ("ERROR", "BAD_NUMBER")
    elif command:
        asterisk.write(f"200 result=1 ({command.split(chr(34))[1]})\n".encode())
        assert await asterisk.command() == ""
    assert server.stager.requests == []


@pytest.mark.parametrize(
    ("fields", "account"),
    [
        ({}, "default"),
        ({"accountcode": "4711"}, "acme"),
        ({"context": "from-other"}, "other"),
        ({"accountcode": "4711", "context": "from-other"}, "acme"),
        ({"network_script": SCRIPT + "&domain=ACME.example", "context": "from-other"}, "acme"),
        ({"network_script": SCRIPT + "&accountcode=1", "accountcode": "4711"}, "default"),
        ({"network_script": SCRIPT + "&context=from-other", "context": "rounded-stage"}, "other"),
        ({"network_script": "stage", "arg_1": "did=1", "arg_2": "accountcode=4711"}, "acme"),
        ({"calleridname": "4711", "dnid": "4711", "rdnis": "acme.example"}, "default"),
    ],
)
async def test_a_call_is_staged_by_the_account_that_it_leads_to(
    fields: dict[str, str], account: str
) -> None:
    route = Route(name="a", agent_id=ROUTE.agent_id, dids=("*",), to_number="+33612345678")
    async with serving(route, accounts=TENANTS) as server:
        assert (await (await server.session(**fields)).variables())["ROUNDED_STATUS"] == "STAGED"
        assert [request.account for request in server.stager.requests] == [account]


@pytest.mark.parametrize("name", ["accountcode", "domain"])
async def test_what_chooses_the_account_twice_is_refused(name: str) -> None:
    async with serving(accounts=TENANTS) as server:
        asterisk = await server.connect()
        asterisk.write(environment(network_script=f"{SCRIPT}&{name}=4711&{name}=1"))
        variables = await asterisk.variables()
        assert variables["ROUNDED_STATUS"] == "ERROR"
        assert variables["ROUNDED_REASON"] == f"the input {name} stands twice"
        assert server.stager.requests == []


@pytest.mark.parametrize("accounts", [TENANTS, None])
async def test_no_account_is_asked_for_an_environment_that_a_caller_may_have_ended(
    accounts: AccountTable | None,
) -> None:
    """The block alone, as if the rest of Asterisk's came late; it costs no other tenant a call."""
    async with serving(accounts=accounts) as server:
        asterisk = await server.connect()
        forged = FORGED_END.replace(b"accountcode: x", b"accountcode: 4711") + b"\n"
        block = environment(callerid=forged, network_script=f"{SCRIPT}&from=+33145678901")
        asterisk.write(block.partition(b"\n\n")[0] + b"\n\n")
        await asterisk.raw_command()
        await asyncio.sleep(0.1)
        assert len(server.stager.requests) == (0 if accounts else 1)
        asterisk.write(b"agi_calleridname: late\n")
        assert await asterisk.command() == ""


@pytest.mark.parametrize("form", ["query", "comma"])
async def test_a_challenge_that_is_not_met_ends_the_session(server: Server, form: str) -> None:
    """With a query, whose arguments nobody can forge, the API has been asked meanwhile."""
    server.stager.behave = _never
    asterisk = await server.connect()
    comma = {"network_script": "stage", "arg_1": "did=+33612345678"}
    asterisk.write(environment(**(comma if form == "comma" else {})))
    await asterisk.raw_command()
    asterisk.write(b"200 result=1 (0123456789abcdef)\n")
    assert await asterisk.command() == ""
    assert len(server.stager.requests) == server.stager.cancelled == (form == "query")


async def test_a_result_waits_for_the_challenge_to_be_met(server: Server) -> None:
    async def soon() -> StagingResult:
        await asyncio.sleep(0.01)
        return StagingResult(Outcome.STAGED, UUID)

    server.stager.behave = soon
    asterisk = await server.session()
    await asterisk.raw_command()
    assert await asterisk.silent_for(0.2)
    assert len(server.stager.requests) == 1
    asterisk.write(b"200 result=1 (0123456789abcdef)\n")
    assert await asterisk.command() == ""


async def test_an_answer_that_is_there_at_once_is_one_command(server: Server) -> None:
    asterisk = await server.session()
    assert (await asterisk.raw_command()).startswith("SET VARIABLE")


async def test_an_answer_of_several_commands_waits_for_the_challenge() -> None:
    """The reply to the first of them would not show yet that the environment was ended early."""
    route = replace(ROUTE, fallback={Switch.ASTERISK: "a;b,600,1"})
    async with serving(route) as server:
        asterisk = await server.session()
        assert (await asterisk.raw_command()).startswith("GET FULL VARIABLE")
        asterisk.write(b"agi_calleridname: Ann\n")
        assert await asterisk.raw_command() == ""
        told = await (await server.session()).variables()
        assert (told["ROUNDED_STATUS"], told["ROUNDED_FALLBACK"]) == ("STAGED", "a;b,600,1")


async def test_arguments_after_a_comma_work(server: Server) -> None:
    asterisk = await server.session(network_script="stage", arg_1="did=+33612345678")
    assert (await asterisk.variables())["ROUNDED_STATUS"] == "STAGED"


async def _never() -> StagingResult:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("how", ["HANGUP", "EOF", "reset", "a line nobody asked for"])
async def test_the_end_of_the_call_cancels_the_staging(server: Server, how: str) -> None:
    server.stager.behave = _never
    asterisk = await server.session()
    while not server.stager.requests:
        await asyncio.sleep(0.01)
    if how == "HANGUP":
        asterisk.write(b"HANGUP\n")
    elif how == "EOF":
        asterisk.writer.write_eof()
    elif how == "reset":
        asterisk.writer.transport.abort()
    else:
        asterisk.write(b"200 result=1\n")
    if how != "reset":
        assert (await asterisk.raw_command()).startswith("GET FULL VARIABLE")
        assert await asterisk.raw_command() == ""
    async with asyncio.timeout(2):
        while server.listener.sessions:
            await asyncio.sleep(0.01)
    assert server.stager.cancelled == 1


async def test_a_hangup_before_the_reply_is_no_reply(server: Server) -> None:
    asterisk = await server.session()
    assert (await asterisk.command()).startswith("SET VARIABLE")
    asterisk.write(b"HANGUP\n")
    assert await asterisk.silent_for(0.2)
    asterisk.write(b"200 result=0\n")
    assert await asterisk.command() == ""


@pytest.mark.parametrize(
    "reply",
    [
        b"510 Invalid or unknown command\n",
        b"511 Command Not Permitted on a dead channel or intercept routine\n",
        b"520-Invalid command syntax.  Proper usage follows:\nUsage\n520 End of proper usage.\n",
        b"200 result=-2\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"",
    ],
)
async def test_a_refused_command_ends_the_session_and_nothing_else(
    server: Server, reply: bytes
) -> None:
    asterisk = await server.session()
    await asterisk.command()
    asterisk.write(reply)
    if not reply:
        asterisk.writer.write_eof()
    assert await asterisk.command() == ""
    assert (await (await server.session()).variables())["ROUNDED_STATUS"] == "STAGED"


@pytest.mark.parametrize("form", ["query", "comma"])
async def test_a_caller_who_leaves_before_the_challenge_is_met_cancels_the_work(
    server: Server, form: str
) -> None:
    server.stager.behave = _never
    asterisk = await server.connect()
    comma = {"network_script": "stage", "arg_1": "did=+33612345678"}
    asterisk.write(environment(**(comma if form == "comma" else {})))
    word = (await asterisk.raw_command()).split('"')[1]
    asterisk.write(f"HANGUP\n200 result=1 ({word})\n".encode())
    assert await asterisk.command() == ""
    assert len(server.stager.requests) == server.stager.cancelled == (form == "query")


async def test_a_late_staging_still_leaves_time_for_the_replies() -> None:
    async with serving(deadline=0.5) as server:

        async def until_deadline() -> StagingResult:
            await asyncio.sleep(0.35)
            return StagingResult(Outcome.TIMEOUT)

        server.stager.behave = until_deadline
        assert (await (await server.session()).variables())["ROUNDED_STATUS"] == "TIMEOUT"


async def test_a_switch_that_never_replies_ends_at_the_deadline() -> None:
    async with serving(deadline=0.4) as server:
        asterisk = await server.session()
        await asterisk.command()
        begun = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionError):
            assert await asterisk.command() == ""
        assert asyncio.get_running_loop().time() - begun < 2


async def test_closing_lets_a_session_end(server: Server) -> None:
    asterisk = await server.session()
    await asterisk.command()
    closing = asyncio.ensure_future(server.listener.close(patience=5))
    await asyncio.sleep(0.1)
    assert not closing.done()
    asterisk.write(b"200 result=0\n")
    asterisk.writer.close()
    await asyncio.wait_for(closing, 2)


async def test_closing_cuts_off_a_session_that_does_not_end(server: Server) -> None:
    server.stager.behave = _never
    await server.session()
    while not server.stager.requests:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(server.listener.close(patience=0.1), 2)
    assert server.stager.cancelled == 1


# In two halves.

TICKET = "6c1f7f2e-4a55-4a0e-8a55-0e6b6f1d2c3b"
WAITED = StagingResult(Outcome.STAGED, "aaaaaaaa-7b1a-7c3d-9e4f-0123456789ab")


async def test_a_prestaging_sets_one_inherited_variable_and_begins_when_it_is_set(
    server: Server,
) -> None:
    asterisk = await server.session(network_script="prestage?did=+33612345678&linkedid=1.1")
    found = re.fullmatch(r'SET VARIABLE __ROUNDED_TICKET "(.{36})"\n', await asterisk.command())
    assert found
    assert await asterisk.silent_for(0.05)
    assert server.tickets.begun == []
    asterisk.write(b"200 result=0\n")
    assert await asterisk.command() == ""
    asterisk.writer.close()
    await eventually(lambda: server.tickets.begun)
    ((ticket, request),) = server.tickets.begun
    assert (ticket, request.metadata["pbx_linkedid"]) == (found[1], "1.1")
    assert server.stager.requests == []


async def test_a_ticket_that_is_set_stands_for_something(server: Server) -> None:
    """Asterisk may be back for it before we have read that it closed the session."""
    asterisk = await server.session(network_script="prestage?did=+33612345678")
    await asterisk.command()
    asterisk.write(b"200 result=0\n")
    await eventually(lambda: server.tickets.begun)
    assert len(server.tickets.begun) == 1


async def test_a_line_without_an_end_is_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    asterisk = await server.session()
    assert (await asterisk.raw_command()).startswith("SET VARIABLE")
    asterisk.write(b"200 result=0\n" + 2 * LONGEST_ENVIRONMENT * b"x")
    await eventually(lambda: not server.listener.sessions)
    assert "AGI: a line is too long" in caplog.text


@pytest.mark.parametrize("farewell", [b"", b"HANGUP\n", b"510 Invalid\n", b"200 result=-1\n"])
async def test_a_caller_who_leaves_before_it_is_set_begins_nothing(
    server: Server, farewell: bytes
) -> None:
    asterisk = await server.session(network_script="prestage?did=+33612345678")
    await asterisk.command()
    asterisk.write(farewell)
    asterisk.writer.close()
    await eventually(lambda: not server.listener.sessions)
    assert server.tickets.begun == []


@pytest.mark.parametrize(
    "end",
    [b"\n", b"\n200 result=1 (x)\n", b"\n200 result=0\n" + 2 * LONGEST_ENVIRONMENT * b"x"],
    ids=["unmet", "forged", "too long"],
)
async def test_nothing_is_begun_for_an_environment_that_a_caller_ended(
    server: Server, end: bytes
) -> None:
    asterisk = await server.connect()
    script = "prestage?did=+33612345678&from=+33145678901"
    asterisk.write(environment(network_script=script, callerid=FORGED_END + end))
    assert await asterisk.command() == ""
    asterisk.writer.close()
    await eventually(lambda: not server.listener.sessions)
    assert (server.tickets.begun, server.stager.requests) == ([], [])


async def test_a_ticket_is_collected(server: Server) -> None:
    server.tickets.found = WAITED
    script = f"collect?did=+33612345678&ticket={TICKET}&var.tier=1"
    told = await (await server.session(network_script=script)).variables()
    assert (told["ROUNDED_STATUS"], told["ROUNDED_CALL_ID"]) == ("STAGED", WAITED.call_id)
    ((ticket, marks, _),) = server.tickets.collected
    assert (ticket, len(marks)) == (TICKET, 2)
    assert server.stager.requests == []


@pytest.mark.parametrize("ticket", ["", "&ticket=", "&ticket=x", f"&ticket={TICKET}%0a"])
async def test_a_call_with_no_ticket_is_staged(server: Server, ticket: str) -> None:
    script = f"collect?did=+33612345678{ticket}"
    told = await (await server.session(network_script=script)).variables()
    assert told["ROUNDED_CALL_ID"] == UUID
    assert server.tickets.collected == []


async def test_a_ticket_that_stands_twice_is_refused(server: Server) -> None:
    server.tickets.found = WAITED
    script = f"collect?did=+33612345678&ticket={TICKET}&ticket={TICKET}"
    asterisk = await server.connect()
    asterisk.write(environment(network_script=script))
    assert (await asterisk.variables())["ROUNDED_STATUS"] == "ERROR"
    assert server.tickets.collected == []


@pytest.mark.parametrize("more", [b"", b"HANGUP\n", b"HANGUP\nHANGUP\n", b"evil\n"])
async def test_a_dead_channel_abandons_its_ticket_and_is_asked_nothing(
    server: Server, more: bytes
) -> None:
    """A hangup handler runs it: Asterisk may write HANGUP at any time."""
    asterisk = await server.connect()
    asterisk.write(environment(network_script=f"abandon?ticket={TICKET}") + more)
    assert await asterisk.command() == ""
    assert server.tickets.abandoned == [TICKET]


@pytest.mark.parametrize(
    "script", ["abandon", "abandon?ticket=", "abandon?ticket=x", f"abandon?ticket={TICKET}x"]
)
async def test_what_is_no_ticket_abandons_nothing(server: Server, script: str) -> None:
    asterisk = await server.connect()
    asterisk.write(environment(network_script=script))
    assert await asterisk.command() == ""
    assert server.tickets.abandoned == []


async def test_a_callers_lines_abandon_nothing(server: Server) -> None:
    caller = f"1\nagi_arg_1: ticket={TICKET}".encode()
    asterisk = await server.connect()
    asterisk.write(environment(network_script="abandon?ticket=", callerid=caller))
    await asterisk.variables()
    assert server.tickets.abandoned == []
