"""Any interleaving of calls, outages, reloads, restarts and deaths, beside one small model."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from rounded_pbx.breaker import Breaker
from rounded_pbx.call import CallContext, CallerId, Switch
from rounded_pbx.errors import ApiServerError
from rounded_pbx.handler import Answer, Desk, abandon, collect, prestage
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.prestage import MemoryStore, Prestaged, Prestages, Store
from rounded_pbx.routing import Next, Route, RouteTable
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome
from rounded_pbx.tenants import AccountTable

from .helpers import Result, VirtualLoop, examples, steps

LIMIT, DEADLINE, PATIENCE = 4.0, 1.4, 0.7
FRESH = (9.0, 3.0)
AGENTS = [str(uuid.UUID(int=number)) for number in (1, 2)]
DIDS = ("+33612345678", "+33612345679")
ACCOUNTS = ("default", "one")
#: Seconds of a staging that goes well, and of a look at its status.
STAGING, POLL = 0.2, 0.3
#: Seconds that the clock may be beyond a deadline: what is rounded.
ROUNDING = 0.001


@dataclass(frozen=True)
class Staged:
    """A call that the platform has staged; ``early`` while nobody waited for it."""

    account: str
    agent: str
    number: str
    variables: Mapping[str, object]
    asked: float
    early: bool


@dataclass
class Platform:
    """The API of every account: ``manner`` is how it behaves."""

    manner: str = "fine"
    fine_since: float = 0.0
    staged: dict[str, Staged] = field(default_factory=dict)
    open: int = 0


@dataclass
class Api:
    platform: Platform
    account: str

    async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
        now = asyncio.get_running_loop().time()
        manner = self.platform.manner
        self.platform.open += 1
        try:
            await asyncio.sleep({"slow": 2.0, "black hole": 3600.0}.get(manner, STAGING))
        finally:
            self.platform.open -= 1
        if manner == "failing":
            raise ApiServerError("oops", status=500)
        call_id, variables = str(uuid.uuid4()), body.get("dynamic_variables_values", {})
        task = asyncio.current_task()
        assert isinstance(variables, dict)
        assert task is not None
        self.platform.staged[call_id] = Staged(
            self.account,
            str(body["agent_id"]),
            str(body["to_number"]),
            variables,
            now,
            early="Prestages" in repr(task.get_coro()),
        )
        return call_id

    async def call_status(self, call_id: str) -> str:
        await asyncio.sleep(POLL)
        return "initiated" if self.platform.manner == "never staged" else "staged"


@dataclass
class Server:
    """What a Redis does, each step at once; ``manner`` is how it is reached."""

    manner: str = "fine"
    fine_since: float = 0.0
    keys: dict[str, tuple[Prestaged | None, float]] = field(default_factory=dict)

    def live(self, ticket: str) -> tuple[Prestaged | None, float] | None:
        found = self.keys.get(ticket)
        if found is not None and found[1] <= asyncio.get_running_loop().time():
            del self.keys[ticket]
            return None
        return found


class Gone(Exception):
    """No reply."""


class SharedStore:
    """The steps of RedisStore, on a server that loses requests or replies."""

    shared = True

    def __init__(self, server: Server) -> None:
        self._server = server

    def __len__(self) -> int:
        return 0

    async def _before(self) -> None:
        await asyncio.sleep({"slow": 0.09}.get(self._server.manner, 0.001))
        if self._server.manner == "requests lost":
            await asyncio.sleep(0.2)
            raise Gone

    async def _after(self) -> None:
        if self._server.manner == "replies lost":
            await asyncio.sleep(0.2)
            raise Gone
        await asyncio.sleep({"slow": 0.09}.get(self._server.manner, 0.001))

    async def announce(self, ticket: str, seconds: float) -> bool:
        now = asyncio.get_running_loop().time()
        try:
            await self._before()
            new = self._server.live(ticket) is None
            if new:
                self._server.keys[ticket] = (None, now + seconds)
            await self._after()
        except Gone:
            return False
        return new

    async def put(self, ticket: str, prestaged: Prestaged, seconds: float) -> bool:
        try:
            await self._before()
            found = self._server.live(ticket)
            if found is not None:
                self._server.keys[ticket] = (prestaged, found[1])
            await self._after()
        except Gone:
            return True
        return found is not None

    async def take(self, ticket: str, deadline: float | None) -> Prestaged | None:
        clock = asyncio.get_running_loop().time
        until = clock() + (0 if deadline is None else 0.5 * (deadline - clock()))
        try:
            while clock() + 0.05 < until:
                await self._before()
                found = self._server.live(ticket)
                await self._after()
                if found is None or found[0] is not None:
                    break
                await asyncio.sleep(0.05)
            await self._before()
            found = self._server.live(ticket)
            self._server.keys.pop(ticket, None)
            await self._after()
        except Gone:
            return None
        return None if found is None else found[0]

    async def aclose(self) -> None:
        pass


class Channel:
    async def get_variables(self, names: object) -> Mapping[str, str]:
        await asyncio.sleep(0.001)
        return {}


class Daemon:
    """One that stays over reloads; ``disposed`` outlives it."""

    def __init__(
        self, platform: Platform, server: Server | None, disposed: list[str], fresh: float
    ) -> None:
        self.platform = platform
        self.disposed = disposed
        self.dead = False
        clock = asyncio.get_running_loop().time
        self.breakers = {name: Breaker(clock=clock) for name in ACCOUNTS}
        self.stagers = [self.stager()]
        store: Store = MemoryStore(self.dispose) if server is None else SharedStore(server)
        self.tickets = Prestages(
            self.stagers[0], store, limit=LIMIT, fresh=fresh, most=50, dispose=self.dispose
        )
        self.desk = self.configured(0, 1)

    def stager(self) -> Stager:
        accounts = {n: Account(Api(self.platform, n), self.breakers[n]) for n in ACCOUNTS}
        return Stager(accounts, 1000)

    def dispose(self, account: str, call_id: str) -> None:
        assert self.platform.staged[call_id].account == account
        if not self.dead:
            self.disposed.append(call_id)

    def kill(self) -> None:
        """As SIGKILL does: whatever it would do as it ends, it does not."""
        self.dead = True
        for task in (*self.tickets._chores, *(f.task for f in self.tickets._flights.values())):
            task.cancel()

    def configured(self, agents: int, accounts: int) -> Desk:
        """What a configuration says: which agent a DID has, and which account the first."""
        routes = [
            Route(name="a", agent_id=AGENTS[agents], dids=(DIDS[0],), account=ACCOUNTS[accounts]),
            Route(name="b", agent_id=AGENTS[1 - agents], dids=(DIDS[1],)),
        ]
        return Desk(
            routes=RouteTable(routes),
            policy=CallerPolicy(withheld="+33000000000"),
            stager=self.stagers[-1],
            default_on_failure=Next.DIAL,
            tickets=self.tickets,
            accounts=AccountTable(),
        )

    def reload(self, agents: int, accounts: int) -> None:
        self.stagers.append(self.stager())
        self.tickets.stager = self.stagers[-1]
        self.desk = self.configured(agents, accounts)


@dataclass(frozen=True)
class Call:
    """What a dialplan asks with."""

    did: str
    variables: Mapping[str, str]

    def context(self, ticket: str = "") -> CallContext:
        return CallContext(
            switch=Switch.ASTERISK,
            did=self.did,
            caller=CallerId("+33700000001"),
            dynamic_variables=self.variables,
            ticket=ticket,
        )


@dataclass
class Begun:
    """A ticket: what for, when, by whom; and what has become of it."""

    call: Call
    route: Route
    at: float
    by: Daemon
    wanted: bool = True
    abandoned: bool = False


@dataclass
class Collecting:
    """A call that collects, and its answer."""

    call: Call
    ticket: str
    route: Route
    account: str
    began: float
    ready: bool
    healthy: bool
    worthless: bool
    task: asyncio.Task[Answer]
    answered: float = 0.0


CALLS = st.builds(Call, st.sampled_from(DIDS), st.sampled_from([{}, {"tier": "1"}, {"tier": "2"}]))
SECONDS = st.sampled_from([0.0, 0.001, 0.1, 0.2, 0.25, 0.3, 1.0, 2.0, LIMIT, 5.0, *FRESH])


class Machine(RuleBasedStateMachine):
    """One daemon that keeps its results in memory."""

    tickets = Bundle("tickets")
    daemons = 1

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.defects: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.defects.append(context))
        self.platform = Platform()
        self.server = Server() if self.daemons > 1 else None
        self.disposed: list[str] = []
        self.handed: list[str] = []
        self.begun: dict[str, Begun] = {}
        self.collecting: list[Collecting] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    async def _daemon(self) -> Daemon:
        return Daemon(self.platform, self.server, self.disposed, self.fresh)

    @initialize(fresh=st.sampled_from(FRESH))
    def start(self, fresh: float) -> None:
        self.fresh = fresh
        self.at = [self.run(self._daemon()) for _ in range(self.daemons)]

    # What calls do.

    @rule(
        target=tickets,
        call=CALLS,
        at=st.integers(0, 1),
        stays=st.sampled_from([True] * 4 + [False]),
    )
    def prestage(self, call: Call, at: int, stays: bool) -> str:
        daemon, now = self.at[at % self.daemons], self.loop.time()
        answer = self.run(
            prestage(call.context(), daemon.desk, Channel(), accepted=now, deadline=now + DEADLINE)
        )
        assert self.loop.time() <= now + 0.01
        ((name, ticket),) = answer.variables
        assert name == "__ROUNDED_TICKET"
        assert answer.route is not None
        if stays:
            assert uuid.UUID(ticket) not in map(uuid.UUID, self.begun)
            self.begun[ticket] = Begun(call, answer.route, self.loop.time(), daemon)

            async def then() -> None:
                answer.then()

            self.run(then())
        return ticket

    @rule(ticket=tickets, call=CALLS, same=st.booleans(), at=st.integers(0, 1))
    def collect(self, ticket: str, call: Call, same: bool, at: int) -> None:
        begun = self.begun.get(ticket)
        if begun is not None and same:
            call = dataclasses.replace(begun.call, variables=begun.call.variables if at else {})
        self._collect(ticket, call, at)

    @rule(call=CALLS, at=st.integers(0, 1), ticket=st.uuids().map(str) | st.just("") | st.text())
    def collect_with_what_a_caller_invents(self, call: Call, at: int, ticket: str) -> None:
        self._collect(ticket, call, at)

    def _collect(self, ticket: str, call: Call, at: int) -> None:
        daemon, now, begun = self.at[at % self.daemons], self.loop.time(), self.begun.get(ticket)
        route = daemon.desk.routes.match(call.did)
        assert route is not None
        account = route.account or "default"
        breakers = [breaker.is_open for each in self.at for breaker in each.breakers.values()]
        work = collect(
            call.context(ticket), daemon.desk, Channel(), accepted=now, deadline=now + DEADLINE
        )
        healthy = begun is None or self.platform.fine_since < begun.at
        healthy = healthy and self.platform.manner == "fine" and not any(breakers)
        mine = Collecting(
            call=call,
            ticket=ticket,
            route=route,
            account=account,
            began=now,
            ready=healthy and self._is_ready(begun, daemon, call, route),
            healthy=healthy,
            worthless=begun is None or (begun.abandoned and self.server is None),
            task=self.loop.create_task(work),
        )
        if begun is not None:
            begun.wanted = False
        self.collecting.append(mine)
        mine.task.add_done_callback(lambda _: setattr(mine, "answered", self.loop.time()))

    def _is_ready(self, begun: Begun | None, at: Daemon, call: Call, route: Route) -> bool:
        """Whether a ticket must be good for this call, and not only may be."""
        if begun is None or not begun.wanted or begun.route != route:
            return False
        if not STAGING + POLL + 0.1 <= self.loop.time() - begun.at < self.fresh - 0.5:
            return False
        if self.server is not None and (
            self.server.manner != "fine" or self.server.fine_since >= begun.at
        ):
            return False
        if begun.by is not at and (self.server is None or begun.by.dead):
            return False
        return begun.call.variables.items() >= call.variables.items() and not begun.by.dead

    @rule(ticket=tickets | st.uuids().map(str) | st.text(), at=st.integers(0, 1))
    def abandon(self, ticket: str, at: int) -> None:
        async def work() -> None:
            assert abandon(Switch.ASTERISK, ticket, self.at[at % self.daemons].desk).variables == ()

        self.run(work())
        if ticket in self.begun:
            self.begun[ticket].wanted, self.begun[ticket].abandoned = False, True

    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        """A caller hangs up while he waits to be collected."""
        waiting = [each for each in self.collecting if not each.task.done()]
        if waiting:
            waiting[which % len(waiting)].task.cancel()

    # What the world does.

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(count=st.integers(1, 6))
    def turn(self, count: int) -> None:
        self.run(steps(count))

    @rule(manner=st.sampled_from(["fine", "fine", "slow", "failing", "black hole", "never staged"]))
    def api(self, manner: str) -> None:
        if manner == "fine" != self.platform.manner:
            self.platform.fine_since = self.loop.time()
        self.platform.manner = manner
        for each in self.collecting:
            each.healthy = each.healthy and (manner == "fine" or each.task.done())
            each.ready = each.ready and (manner == "fine" or each.task.done())

    @rule(at=st.integers(0, 1), agents=st.integers(0, 1), accounts=st.integers(0, 1))
    def reload(self, at: int, agents: int, accounts: int) -> None:
        self.at[at % self.daemons].reload(agents, accounts)

    @rule(at=st.integers(0, 1))
    def restart(self, at: int) -> None:
        """Its listeners let the calls end first."""
        at %= self.daemons

        async def work() -> None:
            calls = [each.task for each in self.collecting if not each.task.done()]
            if calls:
                await asyncio.wait(calls)
            begun = self.loop.time()
            await self.at[at].tickets.aclose(PATIENCE)
            assert self.loop.time() - begun <= 2 * PATIENCE + ROUNDING
            assert len(self.at[at].tickets) == 0

        self.run(work())
        self._lost(self.at[at])
        self.at[at] = self.run(self._daemon())

    def _lost(self, daemon: Daemon) -> None:
        for begun in self.begun.values():
            recent = self.loop.time() - begun.at < LIMIT
            if begun.by is daemon and (self.server is None or recent):
                begun.wanted = False

    # What must hold.

    @invariant()
    def every_answer_is_right(self) -> None:
        ended = [each for each in self.collecting if each.task.done()]
        self.collecting = [each for each in self.collecting if not each.task.done()]
        for each in ended:
            if not each.task.cancelled():
                self._check(each, each.task.result())
        for each in self.collecting:
            assert self.loop.time() <= each.began + DEADLINE + ROUNDING

    def _check(self, each: Collecting, answer: Answer) -> None:
        assert each.answered <= each.began + DEADLINE + ROUNDING
        assert answer.result is not None
        call_id = answer.result.call_id
        assert dict(answer.variables)["ROUNDED_CALL_ID"] == (call_id or "")
        if call_id is None:
            assert not each.healthy, answer.result
            assert answer.result.outcome in (Outcome.TIMEOUT, Outcome.UNAVAILABLE)
            return
        staged = self.platform.staged[call_id]
        assert call_id not in self.handed
        assert call_id not in self.disposed
        self.handed.append(call_id)
        wanted = (each.account, each.route.agent_id, each.call.did)
        assert (staged.account, staged.agent, staged.number) == wanted
        assert staged.variables.items() >= each.call.variables.items()
        assert each.answered - staged.asked <= self.fresh + ROUNDING
        if each.ready:
            assert staged.early
        if each.worthless:
            assert staged.asked >= each.began
            assert staged.variables == each.call.variables

    @invariant()
    def nothing_is_disposed_of_twice_or_after_it_was_handed_out(self) -> None:
        assert len(set(self.disposed)) == len(self.disposed)
        assert not set(self.disposed) & set(self.handed)

    def teardown(self) -> None:
        try:
            self.pass_time(DEADLINE + ROUNDING)
            self.every_answer_is_right()
            assert self.collecting == []
            self.pass_time(LIMIT + self.fresh)
            self.nothing_is_left()
            assert self.defects == []
        finally:
            self.loop.close()

    def nothing_is_left(self) -> None:
        """All has been collected, was abandoned, or has expired."""
        assert [len(daemon.tickets) for daemon in self.at] == [0] * self.daemons
        assert asyncio.all_tasks(self.loop) == set()
        assert [timer for timer in self.loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
        assert self.platform.open == 0
        assert all(s.in_flight == 0 for daemon in self.at for s in daemon.stagers)
        early = {call_id for call_id, staged in self.platform.staged.items() if staged.early}
        assert early >= set(self.disposed)
        if self.server is None:
            assert early == {*self.disposed, *(set(self.handed) & early)}


class TwoDaemons(Machine):
    """Two that share a store, which fails; and each of them can die."""

    daemons = 2

    @rule(manner=st.sampled_from(["fine", "fine", "slow", "requests lost", "replies lost"]))
    def store(self, manner: str) -> None:
        assert self.server is not None
        if manner == "fine" != self.server.manner:
            self.server.fine_since = self.loop.time()
        self.server.manner = manner
        for each in self.collecting:
            each.ready = each.ready and (manner == "fine" or each.task.done())

    @rule(at=st.integers(0, 1))
    def kill(self, at: int) -> None:
        """With its calls: their switch goes on without an answer."""
        self.at[at].kill()
        for each in self.collecting:
            each.task.cancel()
        self.run(steps(9))
        self._lost(self.at[at])
        self.at[at] = self.run(self._daemon())

    def nothing_is_left(self) -> None:
        super().nothing_is_left()
        assert self.server is not None

        async def look() -> None:
            assert self.server is not None
            assert [t for t in [*self.server.keys] if self.server.live(t)] == []

        self.run(look())


@pytest.mark.parametrize("machine", [Machine, TwoDaemons])
def test_no_interleaving_gives_a_wrong_id_one_twice_or_loses_a_call(
    machine: type[Machine],
) -> None:
    run_state_machine_as_test(machine, settings=settings(examples(300), stateful_step_count=40))
