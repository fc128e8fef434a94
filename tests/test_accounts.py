"""The accounts at work: connections that stay warm, probes, a breaker and a key for each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpcore
import pytest

from rounded_pbx import accounts as module
from rounded_pbx.accounts import Accounts
from rounded_pbx.api import RoundedClient
from rounded_pbx.stager import Stager
from rounded_pbx.staging import Outcome, StagingResult

from .helpers import (
    KEY,
    REQUEST,
    STAGED,
    Peer,
    answer,
    ca_file,
    config,
    eventually,
    every_file_closed,
    raw_server,
    sandbox,
    server_tls,
    steps,
)

QUICK: dict[str, Any] = {"warm": 3, "probe_interval": 0.1}


@contextlib.asynccontextmanager
async def at_work(
    url: str, keys: dict[str, str] | None = None, **api: Any
) -> AsyncIterator[tuple[Accounts, asyncio.Task[None]]]:
    """The accounts with these keys, kept warm while inside."""
    keys = keys or {"default": KEY}
    async with Accounts(config(url, *keys, **api), keys) as accounts:
        warming = asyncio.ensure_future(accounts.keep_warm())
        try:
            yield accounts, warming
        finally:
            warming.cancel()
            await asyncio.wait([warming], timeout=2)


async def test_an_account_is_reached_as_the_configuration_says(tmp_path: Path) -> None:
    async with raw_server(Peer.answer_all, tls=server_tls()) as server:
        api: dict[str, Any] = {"ca_file": ca_file(tmp_path), "max_connections": 2}
        async with Accounts(config(server.url, **api), {"default": KEY}) as accounts:
            client = client_of(accounts)
            await asyncio.gather(*(client.list_phone_numbers() for _ in range(8)))
            assert client.open_connections == len(server.peers) == 2


def client_of(accounts: Accounts, name: str = "default") -> RoundedClient:
    client = accounts.by_name[name].api
    assert isinstance(client, RoundedClient)
    return client


async def stage(accounts: Accounts, account: str = "default") -> StagingResult:
    deadline = asyncio.get_running_loop().time() + 1.5
    request = dataclasses.replace(REQUEST, account=account)
    return await Stager(accounts.by_name, 10).stage(request, deadline)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "rounded_pbx.accounts"
    ]


async def api(peer: Peer) -> None:
    """A small API: whatever is posted is staged."""
    while True:
        request = await peer.request()
        numbers = answer(200, {"message": "", "data": {"status": "staged"}})
        await peer.send(STAGED if request.startswith(b"POST") else numbers)


async def test_connections_are_open_before_the_first_call_and_calls_use_them() -> None:
    async with raw_server(api) as server, at_work(server.url, warm=3) as (accounts, _):
        await eventually(lambda: len(server.requests) == 3)
        await asyncio.sleep(0.2)
        assert client_of(accounts).open_connections == 3
        assert (await stage(accounts)).outcome is Outcome.STAGED
        assert len(server.peers) == 3
        probes = [request for request in server.requests if b"/v1/phone-numbers" in request]
        assert len(probes) == 3
        assert all(request.startswith(b"GET ") for request in probes)


async def test_connections_are_kept_warm_by_a_light_get_each() -> None:
    async with raw_server(Peer.answer_all) as server, at_work(server.url, **QUICK) as (_, task):
        await eventually(lambda: len(server.requests) >= 12)
        assert len(server.peers) == 3
        assert all(request.startswith(b"GET /v1/phone-n") for request in server.requests)
        assert not task.done()


async def test_a_connection_that_the_api_has_closed_is_opened_anew() -> None:
    async with raw_server(Peer.answer_all) as server, at_work(server.url, **QUICK) as (accounts, _):
        await eventually(lambda: len(server.requests) == 3)
        server.peers[0].writer.close()
        await eventually(lambda: len(server.peers) == 4)
        await asyncio.sleep(0.2)
        assert (len(server.peers), client_of(accounts).open_connections) == (4, 3)


async def test_connections_beyond_those_to_be_kept_are_closed_once_idle() -> None:
    async with raw_server(Peer.answer_all) as server, at_work(server.url, **QUICK) as (accounts, _):
        client = client_of(accounts)
        await eventually(lambda: client.open_connections == 3)
        await asyncio.gather(*(client.open_connection() for _ in range(5)))
        assert len(server.peers) == 8  # the first of them may have been closed again already
        await eventually(lambda: client.open_connections == 3)
        assert client.open_connections == 3


async def test_nothing_is_sent_where_no_connection_is_to_be_kept() -> None:
    async with raw_server(api) as server, at_work(server.url, probe_interval=0.02) as (_, task):
        await asyncio.sleep(0.3)
        assert server.peers == []
        assert not task.done()


@pytest.mark.parametrize("fault", ["500", "hang", "reset", "html"])
async def test_an_api_that_is_out_opens_the_breaker_before_the_first_caller(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_LIMIT", 0.05)
    monkeypatch.setattr(module, "PROBE_AGAIN", 0.02)
    async with sandbox(fault=fault) as emulator:
        async with at_work(emulator.url, warm=2, probe_interval=0.02) as (accounts, _):
            await eventually(lambda: accounts.by_name["default"].breaker.is_open)
            started = time.monotonic()
            result = await stage(accounts)
            assert time.monotonic() - started < 0.3
            assert result.outcome is Outcome.UNAVAILABLE
            assert "breaker" in result.reason
        assert emulator.count("POST") == 0


async def test_recovery_lets_the_next_caller_try_however_long_the_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROBE_AGAIN", 0.05)
    async with (
        sandbox(fault="503", staging_time=0.0) as emulator,
        at_work(emulator.url, **QUICK) as (accounts, _),
    ):
        breaker = accounts.by_name["default"].breaker
        for _ in range(5):
            breaker.note_failure()
        for _ in range(6):  # trials that failed: the pause is as long as it gets
            breaker.hasten()
            trial = breaker.ask()
            assert trial is not None
            trial.close(worked=False)
        await asyncio.sleep(0.3)
        assert breaker.ask() is None
        emulator.behave(emulator.behaviour.model_copy(update={"fault": None}))
        deadline = time.monotonic() + 5
        while (await stage(accounts)).outcome is not Outcome.STAGED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert not breaker.is_open


async def test_a_wrong_key_is_logged_once_and_opens_no_breaker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "rounded_pbx")
    async with (
        sandbox(key="another") as emulator,
        at_work(emulator.url, {"sales": KEY}, **QUICK) as (accounts, _),
    ):
        await eventually(lambda: emulator.count("GET") >= 15)
        assert emulator.count("GET") >= 15
        assert not accounts.by_name["sales"].breaker.is_open
        assert (await stage(accounts, "sales")).outcome is Outcome.UNAUTHORIZED
    ((level, message),) = logged(caplog)
    assert level == "WARNING"
    assert "sales" in message
    assert "Invalid API key" in message
    assert KEY not in message


async def test_each_change_of_the_apis_health_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_LIMIT", 0.1)
    monkeypatch.setattr(module, "PROBE_AGAIN", 0.05)
    caplog.set_level(logging.DEBUG, "rounded_pbx")
    async with sandbox() as emulator, at_work(emulator.url, **QUICK):
        for count, fault in enumerate(["500", "hang", None, "500", None], start=1):
            behaviour = {"fault": fault}
            emulator.behave(type(emulator.behaviour).model_validate(behaviour))
            await eventually(lambda count=count: len(logged(caplog)) >= count)  # type: ignore[misc]
            await asyncio.sleep(0.15)
    levels = [level for level, _ in logged(caplog)]
    assert levels == ["WARNING", "WARNING", "INFO", "WARNING", "INFO"]
    assert "no answer in time" in logged(caplog)[1][1]


async def test_every_account_has_a_key_a_breaker_and_connections_of_its_own() -> None:
    keys = {"default": KEY, "sales": "rk-sales", "support": "rk-support"}
    async with (
        sandbox(staging_time=0.0) as emulator,
        at_work(emulator.url, keys, warm=2) as (accounts, _),
    ):
        await eventually(lambda: emulator.count("GET") == 6)
        assert sorted(key for _, _, key in emulator.seen) == sorted([*keys.values()] * 2)
        emulator.seen.clear()
        outcomes = {name: (await stage(accounts, name)).outcome for name in keys}
        assert outcomes == {
            "default": Outcome.STAGED,
            "sales": Outcome.UNAUTHORIZED,
            "support": Outcome.UNAUTHORIZED,
        }
        posts = [key for method, _, key in emulator.seen if method == "POST"]
        assert posts == list(keys.values())
        for _ in range(5):
            accounts.by_name["sales"].breaker.note_failure()
        assert "breaker" in (await stage(accounts, "sales")).reason
        assert (await stage(accounts)).outcome is Outcome.STAGED


async def test_every_account_has_the_limits_that_it_is_configured_with() -> None:
    async with sandbox(staging_time=0.0) as emulator:
        settings = config(emulator.url, "default", "acme")
        limited = settings.accounts["acme"].model_copy(update={"rate": 2.0, "max_in_flight": 9})
        settings = settings.model_copy(update={"accounts": {**settings.accounts, "acme": limited}})
        async with Accounts(settings, {"default": KEY, "acme": KEY}) as accounts:
            results = [await stage(accounts, name) for name in ("acme", "default") for _ in "123"]
    outcomes = [Outcome.STAGED, Outcome.STAGED, Outcome.LIMITED, *[Outcome.STAGED] * 3]
    assert [result.outcome for result in results] == outcomes
    assert results[2].reason == "account acme: rate 2 a second reached"


async def test_no_surprise_ends_the_warm_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, surprises = httpcore.AnyIOBackend.connect_tcp, 0

    async def surprising(*arguments: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        nonlocal surprises
        surprises += 1
        if surprises <= 2:
            raise RuntimeError("nobody has thought of this")
        return await connect(*arguments, **options)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", surprising)
    keys = {"default": KEY, "sales": "rk-sales"}
    async with (
        raw_server(Peer.answer_all) as server,
        at_work(server.url, keys, **QUICK) as (accounts, warming),
    ):
        await eventually(lambda: len(server.peers) == 6 or warming.done())
        assert not warming.done()
        assert [client_of(accounts, name).open_connections for name in keys] == [3, 3]


async def test_the_warm_keeping_ends_clean_at_any_step() -> None:
    async with raw_server(Peer.answer_all) as server:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for count in range(25):
                async with Accounts(config(server.url, warm=3), {"default": KEY}) as accounts:
                    task = asyncio.ensure_future(accounts.keep_warm())
                    await steps(count)
                    task.cancel()
                    await asyncio.wait([task])
                    assert task.cancelled()
            gc.collect()
        assert [str(warning.message) for warning in caught] == []


async def test_leaving_closes_every_connection_even_amid_a_probe() -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.1 if peer.number < 2 else 60)
        await peer.send(answer(200, {"message": "", "data": []}))
        await peer.reader.read()

    async with every_file_closed(), raw_server(slow) as server:
        async with at_work(server.url, **QUICK) as (_, warming):
            await eventually(lambda: len(server.requests) == 3)
            await asyncio.sleep(0.2)
        assert warming.cancelled()
        await eventually(lambda: all(peer.gone for peer in server.peers), within=2)
        assert [peer.number for peer in server.peers if not peer.gone] == []
