"""What is done on the platform while nobody waits: on a clock of its own, then for real."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Mapping

import pytest
from starlette.types import Receive, Scope, Send

from rounded_pbx import daemon
from rounded_pbx.call import Switch
from rounded_pbx.config import Config
from rounded_pbx.config_types import Address
from rounded_pbx.errands import ATTEMPT_LIMIT, MOST_WAITING, PAUSES, Errands
from rounded_pbx.errors import (
    ApiBadAnswer,
    ApiLimited,
    ApiRejected,
    ApiServerError,
    ApiTimeout,
    ApiUnauthorized,
    ApiUnreachable,
)

from .helpers import AGENT, CALL_ID, KEY, CountingSandbox, at_once, eventually, sandbox, steps
from .test_fastagi import Asterisk, environment

METADATA = {"did": "+33612345678", "pbx_unique_id": "1795328067.92"}

Step = Exception | float | None


class Api:
    """Takes ``seconds`` for each, and does what its script says; the last step is repeated."""

    def __init__(self, *script: Step) -> None:
        self.script: list[Step] = [*script] or [None]
        self.asked: list[tuple[float, str, Mapping[str, object] | None]] = []
        self.at_once = self.most_at_once = 0

    async def _play(self, call_id: str, metadata: Mapping[str, object] | None) -> None:
        self.asked.append((asyncio.get_running_loop().time(), call_id, metadata))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(step if isinstance(step, float) else 0.0)
        finally:
            self.at_once -= 1
        if isinstance(step, Exception):
            raise step

    async def update_call(self, call_id: str, metadata: Mapping[str, object]) -> None:
        await self._play(call_id, metadata)

    async def terminate_call(self, call_id: str) -> None:
        await self._play(call_id, None)

    def pauses(self) -> list[float]:
        times = [time for time, *_ in self.asked]
        return [round(b - a, 3) for a, b in itertools.pairwise(times)]


@contextlib.asynccontextmanager
async def running(
    *, at_once: int = 1, terminate: bool = True, **apis: Api
) -> AsyncIterator[Errands]:
    errands = Errands(apis, pbx="pbx1", at_once=at_once, terminate=terminate)
    task = asyncio.ensure_future(errands.run())
    await steps(3)
    try:
        yield errands
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "rounded" in record.name]


def test_the_platform_is_told_in_order_how_the_switch_calls_each_call() -> None:
    api = Api(0.1)

    async def work() -> None:
        async with running(a=api) as errands:
            for name in "xyz":
                errands.correlate("a", name, METADATA)
            errands.dispose("a", "x")
            await errands.finish(5.0)
            assert errands.dropped == 0

    at_once(work())
    assert [call_id for _, call_id, _ in api.asked] == ["x", "y", "z", "x"]
    assert api.asked[0][2] == {"pbx": "pbx1", **METADATA}
    assert api.asked[3][2] is None


@pytest.mark.parametrize(
    "failure",
    [
        ApiServerError("oops", status=500),
        ApiServerError("busy", status=503),
        ApiUnreachable("refused"),
        ApiLimited("slowly", status=429),
        ApiTimeout("late", status=408),
        60.0,
    ],
    ids=repr,
)
def test_what_may_work_later_is_tried_again_and_then_dropped(
    failure: Step, caplog: pytest.LogCaptureFixture
) -> None:
    took = ATTEMPT_LIMIT if isinstance(failure, float) else 0.0
    healed, broken = Api(failure, None), Api(failure)

    async def work() -> None:
        async with running(healed=healed, broken=broken) as errands:
            errands.correlate("healed", CALL_ID, METADATA)
            errands.correlate("broken", CALL_ID, METADATA)
            await errands.finish(60.0)
            assert errands.dropped == 1

    at_once(work())
    assert healed.pauses() == [took + PAUSES[0]]
    assert broken.pauses() == [took + pause for pause in PAUSES]
    (line,) = told(caplog)
    assert line.startswith("account broken: the platform was not told of a call: ")
    assert line.endswith("; dropped so far: 1")


@pytest.mark.parametrize(
    "refusal",
    [
        ApiUnauthorized("who?", status=401),
        ApiUnauthorized("no", status=403),
        ApiRejected("which?", status=404),
        ApiRejected("what?", status=422),
        ApiBadAnswer("HTML"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_what_will_not_work_later_is_not_tried_again(refusal: Exception) -> None:
    api = Api(refusal, None)

    async def work() -> None:
        async with running(a=api) as errands:
            errands.correlate("a", "first", METADATA)
            errands.correlate("a", "second", METADATA)
            await errands.finish(60.0)

    at_once(work())
    assert [call_id for _, call_id, _ in api.asked] == ["first", "second"]


def test_what_finds_no_room_is_dropped_counted_and_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with running(a=Api(4.9)) as errands:
            for _ in range(MOST_WAITING + 50):
                errands.correlate("a", CALL_ID, METADATA)
            assert errands.dropped == 50
            assert len(told(caplog)) == 1
            await asyncio.sleep(61)
            for _ in range(50):
                errands.correlate("a", CALL_ID, METADATA)
            assert len(told(caplog)) == 2

    at_once(work())
    assert f"{MOST_WAITING} are waiting already; dropped so far: 1" in told(caplog)[0]


def test_an_outage_of_one_account_holds_up_no_other() -> None:
    good = Api(0.1)

    async def work() -> None:
        async with running(at_once=2, bad=Api(60.0), good=good) as errands:
            for _ in range(100):
                errands.correlate("bad", CALL_ID, METADATA)
                errands.correlate("good", CALL_ID, METADATA)
            await asyncio.sleep(5.1)
            assert len(good.asked) == 100
            assert good.most_at_once == 2

    at_once(work())


@pytest.mark.parametrize("failure", [60.0, ApiServerError("oops", status=500)], ids=repr)
def test_a_daemon_that_stops_waits_a_little_and_counts_what_it_drops(failure: Step) -> None:
    async def work() -> None:
        clock = asyncio.get_running_loop().time
        async with running(at_once=2, a=Api(failure), b=Api(0.5)) as errands:
            for _ in range(10):
                errands.correlate("a", CALL_ID, METADATA)
            errands.correlate("b", CALL_ID, METADATA)
            begun = clock()
            await errands.finish(0.6)
            assert clock() - begun <= 0.601
            assert errands.dropped == 8
        assert errands.dropped == 10  # two were under way

    at_once(work())


def test_nothing_to_do_takes_no_time_to_finish() -> None:
    async def work() -> None:
        async with running(a=Api()) as errands:
            before = asyncio.get_running_loop().time()
            await errands.finish(9.0)
            assert asyncio.get_running_loop().time() == before

    at_once(work())


@pytest.mark.parametrize("terminate", [True, False])
def test_what_nobody_dials_is_ended_only_where_that_is_wanted(terminate: bool) -> None:
    api = Api()

    async def work() -> None:
        async with running(terminate=terminate, a=api) as errands:
            errands.dispose("a", CALL_ID)
            errands.dispose("another daemon's", CALL_ID)
            await errands.finish(5.0)

    at_once(work())
    assert len(api.asked) == terminate


def test_no_number_is_uncovered_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with running(a=Api(ApiRejected("no call for +33700000001"))) as errands:
            errands.correlate("a", CALL_ID, METADATA)
            await errands.finish(5.0)

    at_once(work())
    assert len(told(caplog)) == 1
    assert "0001" not in caplog.text


# Through a daemon.


def settings(url: str, **prestage: object) -> Config:
    return Config.model_validate(
        {
            "accounts": {"default": {"key_env": "UNUSED"}},
            "api": {"base_url": url, "warm": 0},
            "pbx": "pbx1",
            "numbers": {"country": "FR"},
            "routes": [{"name": "a", "agent_id": AGENT, "did": "*"}],
            "prestage": prestage,
            "asterisk": {"fastagi": {"listen": "127.0.0.1:0"}},
            "freeswitch": {"outbound": {"listen": "off"}},
            "status": {"listen": "off"},
        }
    )


async def ask(address: Address, script: str) -> dict[str, str]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment(network_script=script))
    return await asterisk.variables()


def metadata(api: CountingSandbox) -> list[dict[str, object]]:
    return [call.metadata for call in reversed(api.calls.newest(9))]


async def test_a_call_is_found_on_the_platform_by_what_the_switch_calls_it() -> None:
    known = "linkedid=1795351425.0&sip_call_id=a%40b&from=%2B33145678901"
    expected = {
        "pbx": "pbx1",
        "did": "+33612345678",
        "pbx_unique_id": "1795351425.0",
        "pbx_linkedid": "1795351425.0",
        "sip_call_id": "a@b",
    }
    async with sandbox(staging_time=0.0) as api:
        async with daemon.running(settings(api.url), {"default": KEY}) as running:
            address = running.addresses[Switch.ASTERISK]
            staged = await ask(address, f"stage?did=%2B33612345678&{known}")
            assert staged["ROUNDED_STATUS"] == "STAGED"
            begun = await ask(address, f"prestage?did=%2B33612345678&{known}")
            ticket = begun["ROUNDED_TICKET"]
            collected = await ask(address, f"collect?did=%2B33612345678&ticket={ticket}&{known}")
            assert collected["ROUNDED_STATUS"] == "STAGED"
            assert collected["ROUNDED_CALL_ID"] != staged["ROUNDED_CALL_ID"]
            await eventually(lambda: metadata(api) == [expected] * 2)
        assert metadata(api) == [expected] * 2
        assert (api.count("PATCH"), api.count("POST")) == (2, 2)


@pytest.mark.parametrize("terminate", [True, False])
async def test_a_caller_who_leaves_ends_the_call_where_that_is_wanted(terminate: bool) -> None:
    async with sandbox(staging_time=0.0) as api:
        wanted = settings(api.url, terminate_abandoned=terminate)
        async with daemon.running(wanted, {"default": KEY}) as running:
            address = running.addresses[Switch.ASTERISK]
            ticket = (await ask(address, "prestage?did=%2B33612345678"))["ROUNDED_TICKET"]
            await eventually(lambda: api.count("PATCH"))
            assert await ask(address, f"abandon?ticket={uuid.uuid4()}") == {}
            assert await ask(address, f"abandon?ticket={ticket}") == {}
            await eventually(lambda: api.count("POST") == 2, within=0.3 + terminate)
            (call,) = api.calls.newest(9)
            assert (call.ended is not None) is terminate


async def test_what_waits_when_a_daemon_stops_is_ended_where_that_is_wanted() -> None:
    async with sandbox(staging_time=0.0) as api:
        wanted = settings(api.url, terminate_abandoned=True)
        async with daemon.running(wanted, {"default": KEY}) as running:
            await ask(running.addresses[Switch.ASTERISK], "prestage?did=%2B33612345678")
            await eventually(lambda: api.count("PATCH"))
        (call,) = api.calls.newest(9)
        assert call.ended is not None


async def test_a_patch_that_hangs_holds_up_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = CountingSandbox.__call__

    async def held(self: CountingSandbox, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "PATCH":
            await asyncio.sleep(0.6)
        await answer(self, scope, receive, send)

    monkeypatch.setattr(CountingSandbox, "__call__", held)
    clock = asyncio.get_running_loop().time
    async with sandbox(staging_time=0.0) as api:
        async with daemon.running(settings(api.url), {"default": KEY}) as running:
            for _ in range(3):
                begun = clock()
                told = await ask(running.addresses[Switch.ASTERISK], "stage?did=%2B33612345678")
                assert told["ROUNDED_STATUS"] == "STAGED"
                assert clock() - begun < 0.5
        assert all(metadata(api))  # the daemon has waited for them before it ended
