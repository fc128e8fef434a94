"""The daemon as a whole: how it stops, and how many sessions the system's open files allow."""

from __future__ import annotations

import asyncio
import logging
import resource

import pytest

from rounded_pbx import daemon
from rounded_pbx.call import Switch
from rounded_pbx.config import (
    Api,
    AsteriskSection,
    Calls,
    Config,
    FastAgi,
    FreeSwitchSection,
    Numbers,
    Outbound,
    RouteSection,
)
from rounded_pbx.config_prestage import Prestage
from rounded_pbx.config_secrets import Account
from rounded_pbx.config_status import STATUS_CONNECTIONS, Status
from rounded_pbx.config_types import Address
from rounded_pbx.doctor.listener import rehearsal

from .helpers import AGENT, KEY, Peer, answer, raw_server, sandbox
from .test_fastagi import Asterisk, environment

NO_PAGE = Status.model_validate({"listen": "off"})


async def test_a_daemon_that_stops_lets_its_calls_end() -> None:
    async with sandbox(staging_time=0.6) as api:
        settings = Config(
            accounts={"default": Account(key_env="UNUSED")},
            api=Api(base_url=api.url, warm=0),
            numbers=Numbers(country="FR"),
            routes=(RouteSection(name="a", agent_id=AGENT, did=["+33612345678"]),),
            asterisk=AsteriskSection(fastagi=FastAgi(listen=Address("127.0.0.1", 0))),
            freeswitch=FreeSwitchSection(outbound=Outbound.model_validate({"listen": "off"})),
            status=NO_PAGE,
        )
        async with daemon.running(settings, {"default": KEY}) as running:
            address = running.addresses[Switch.ASTERISK]
            reader, writer = await asyncio.open_connection(address.host, address.port)
            asterisk = Asterisk(reader, writer)
            asterisk.write(environment())
            ending = asyncio.ensure_future(asterisk.variables())
            await asyncio.sleep(0.2)
        assert (await ending)["ROUNDED_STATUS"] == "STAGED"
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection(address.host, address.port)


async def test_each_tenants_calls_are_staged_with_its_own_key_and_limits() -> None:
    async with sandbox(staging_time=0.0) as api:
        settings = Config(
            accounts={
                "default": Account(key_env="UNUSED", rate=1.0),
                "acme": Account(key_env="UNUSED", account_codes=["4711"]),
            },
            api=Api(base_url=api.url, warm=0),
            routes=(RouteSection(name="a", agent_id=AGENT, did=["+33612345678"]),),
            asterisk=AsteriskSection(fastagi=FastAgi(listen=Address("127.0.0.1", 0))),
            freeswitch=FreeSwitchSection(outbound=Outbound.model_validate({"listen": "off"})),
            status=NO_PAGE,
        )
        keys = {"default": "wrong", "acme": KEY}
        told = []
        async with daemon.running(settings, keys) as running:
            address = running.addresses[Switch.ASTERISK]
            for code in ("4711", "", "", "4711"):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                asterisk = Asterisk(reader, writer)
                asterisk.write(environment(accountcode=code))
                told.append(await asterisk.variables())
    statuses = [each["ROUNDED_STATUS"] for each in told]
    assert statuses == ["STAGED", "UNAUTHORIZED", "LIMITED", "STAGED"]
    assert told[2]["ROUNDED_REASON"] == "account default: rate 1 a second reached"
    assert [key for method, _, key in api.seen if method == "POST"] == [KEY, "wrong", KEY]


async def test_a_daemon_looks_a_caller_up_and_a_rehearsal_of_it_does_not() -> None:
    async def customer(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(200, {"name": "Jean"}))

    async with sandbox(staging_time=0.0) as api, raw_server(customer) as crm:
        lookup = {
            "url": crm.url + "/{caller.number}",
            "secret_headers": {"Authorization": {"key_env": "UNUSED"}},
            "variables": {"first_name": "name"},
        }
        settings = Config.model_validate(
            {
                "accounts": {"default": {"key_env": "UNUSED"}},
                "api": {"base_url": api.url, "warm": 0},
                "numbers": {"country": "FR"},
                "routes": [{"name": "a", "agent_id": AGENT, "did": "*", "lookup": lookup}],
                "asterisk": {"fastagi": {"listen": "127.0.0.1:0"}},
                "freeswitch": {"outbound": {"listen": "off"}},
                "status": {"listen": "off"},
            }
        )

        async def called(address: Address) -> str:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            asterisk = Asterisk(reader, writer)
            asterisk.write(environment(callerid="0700000001"))
            return (await asterisk.variables())["ROUNDED_STATUS"]

        secrets = {"a": {"Authorization": "Bearer x"}}
        async with daemon.running(settings, {"default": KEY}, secrets) as running:
            assert await called(running.addresses[Switch.ASTERISK]) == "STAGED"
        (call,) = api.calls.newest(9)
        assert call.request["dynamic_variables_values"] == {"first_name": "Jean"}
        assert crm.requests[0].startswith(b"GET /%2B33700000001 HTTP/1.1\r\n")
        async with rehearsal(settings) as rehearsed:
            assert await called(rehearsed.address[Switch.ASTERISK]) == "STAGED"
        assert len(crm.requests) == 1


INFINITY = resource.RLIM_INFINITY


@pytest.fixture(autouse=True)
def the_runs_own_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lowered once is lowered for every test that follows, and for what it starts."""
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)


@pytest.mark.parametrize(
    ("soft", "hard", "sessions", "asked_for"),
    [
        (INFINITY, INFINITY, 4000, None),
        (65536, 65536, 4000, None),
        (1024, INFINITY, 4000, 4896),
        (1024, 524288, 4000, 4896),
        (1024, 4096, 3200, 4096),
        (256, 256, 1, 256),
    ],
)
def test_there_are_never_more_sessions_than_open_files_allow(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    sessions: int,
    asked_for: int | None,
) -> None:
    """Without a descriptor left accept() fails, and who waits there waits past the deadline."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    accounts = {"a": Account(key_env="A"), "b": Account(key_env="B")}
    config = Config(
        accounts=accounts,
        api=Api(max_connections=200),
        calls=Calls(max_in_flight=2000),
        status=NO_PAGE,
    )
    with caplog.at_level(logging.WARNING):
        assert daemon._most_sessions(config, 1) == sessions
    assert asked == ([] if asked_for is None else [(asked_for, hard)])
    assert bool(caplog.records) is (sessions < 4000)


def test_lookups_have_open_files_of_their_own_for_each_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    urls = ["http://a/x", "http://a/{did}", "http://b/"]
    routes = tuple(
        RouteSection.model_validate(
            {
                "name": str(index),
                "agent_id": AGENT,
                "lookup": {"url": url, "variables": {"a": "b"}},
            }
        )
        for index, url in enumerate(urls)
    )
    config = Config(accounts={"a": Account(key_env="A")}, routes=routes, status=NO_PAGE)
    assert daemon._most_sessions(config, 1) == 4096 - 2 * (208 + 2 * 50) - daemon.OTHER_FILES


def test_redis_has_open_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    shared = Prestage(store="redis://127.0.0.1")
    config = Config(accounts={"a": Account(key_env="A")}, prestage=shared, status=NO_PAGE)
    assert daemon._most_sessions(config, 1) == 4096 - 2 * 208 - daemon.OTHER_FILES - 64


def test_the_status_page_has_open_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    config = Config(accounts={"a": Account(key_env="A")})
    left = 4096 - 2 * 208 - daemon.OTHER_FILES - STATUS_CONNECTIONS
    assert daemon._most_sessions(config, 1) == left
