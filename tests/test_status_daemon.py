"""The status page of a daemon at work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rounded_pbx import accounts, daemon, service
from rounded_pbx.call import Switch
from rounded_pbx.config import Config, read_secrets
from rounded_pbx.config_types import Address
from rounded_pbx.errors import ConfigError
from rounded_pbx.sandbox import Behaviour
from rounded_pbx.servers.status import StatusServer, events, server

from .helpers import AGENT, KEY, CountingSandbox, eventually, sandbox
from .status_page import Answer
from .test_fastagi import Asterisk, environment


def free() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(*probe.getsockname())


@dataclass
class Served:
    """A daemon, where Asterisk and a browser find it."""

    agi: Address
    page: Address

    async def call(self, **about: str) -> dict[str, str]:
        reader, writer = await asyncio.open_connection(self.agi.host, self.agi.port)
        asterisk = Asterisk(reader, writer)
        asterisk.write(environment(**about))
        return await asterisk.variables()

    async def get(self, path: str = "/") -> Answer:
        reader, writer = await asyncio.open_connection(self.page.host, self.page.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        data = await reader.read()
        writer.close()
        return Answer.of(data)


def settings(api: str, page: str, **more: Any) -> Config:
    return Config.model_validate(
        {
            "accounts": {"default": {"key_env": "UNUSED"}},
            "api": {"base_url": api, "warm": 1},
            "pbx": "pbx1",
            "numbers": {"country": "FR"},
            "routes": [{"name": "support", "agent_id": AGENT, "did": "*"}],
            "asterisk": {"fastagi": {"listen": "127.0.0.1:0"}},
            "freeswitch": {"outbound": {"listen": "off"}},
            "status": {"listen": page},
            **more,
        }
    )


@contextlib.asynccontextmanager
async def serving(api: CountingSandbox, **more: Any) -> AsyncIterator[Served]:
    page = free()
    config = settings(api.url, str(page), **more)
    async with daemon.running(config, {"default": KEY}) as running:
        yield Served(running.addresses[Switch.ASTERISK], page)


@pytest.fixture(autouse=True)
def never_an_old_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RENDER_EVERY", 0.0)
    monkeypatch.setattr(events, "PERIOD", 0.05)
    monkeypatch.setattr(accounts, "PROBE_AGAIN", 0.1)


async def test_a_call_of_a_real_session_is_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with sandbox(staging_time=0.0) as api, serving(api) as served:
        variables = await served.call(callerid="0145678901")
        await eventually(lambda: "STAGED did=" in caplog.text)
        body = (await served.get()).body.decode()
    assert variables["ROUNDED_STATUS"] == "STAGED"
    for cell in ("+33612345678", "014567****", "support", "STAGED"):
        assert f">{cell}</td>" in body
    assert f"<code>{variables['ROUNDED_CALL_ID']}</code>" in body
    assert "0145678901" not in body
    assert KEY not in body
    assert f"status page: http://{served.page}/" in caplog.text
    assert f"asterisk {served.agi}" in body
    assert "agent_id: " + AGENT in body
    assert caplog.text.count("STAGED did=") == 1


async def test_the_health_of_an_account_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with sandbox(staging_time=0.0) as api, serving(api) as served:
        async with asyncio.timeout(5):
            while b'<td class="ok">answers</td>' not in (await served.get()).body:
                await asyncio.sleep(0.01)
        api.behave(Behaviour(fault="503", retry_after=None))
        for _ in range(6):
            await served.call()
        body = (await served.get()).body.decode()
        assert '<td class="bad">open</td>' in body
        assert "circuit breaker of default is open" in body
        assert re.search(r">UNAVAILABLE</td>", body)


async def test_a_port_that_is_taken_costs_the_page_and_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = Address(*taken.getsockname())
        async with sandbox(staging_time=0.0) as api:
            config = settings(api.url, str(page))
            async with daemon.running(config, {"default": KEY}) as running:
                served = Served(running.addresses[Switch.ASTERISK], page)
                assert (await served.call())["ROUNDED_STATUS"] == "STAGED"
    assert f"no status page on {page}: [Errno 98]" in caplog.text


async def test_a_token_that_has_gone_costs_the_page_and_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    section = {"listen": str(free()), "token_env": "NOT_THERE"}
    async with sandbox(staging_time=0.0) as api, serving(api, status=section) as served:
        assert (await served.call())["ROUNDED_STATUS"] == "STAGED"
    assert "no status page on" in caplog.text
    assert "token_env is not set" in caplog.text


@pytest.mark.parametrize("source", ["token_file: {0}/none", "token_env: NONE", "credential: none"])
def test_a_token_that_cannot_be_read_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "config.yml"
    section = source.format(tmp_path)
    file.write_text(f"accounts: {{default: {{key_env: API_KEY}}}}\nstatus: {{{section}}}\n")
    config, keys, _ = service.read(file)
    assert keys == {"default": KEY}
    with pytest.raises(ConfigError, match="status"):  # which is what `check` says
        read_secrets(file, config)
    off = config.model_copy(update={"status": config.status.model_copy(update={"listen": None})})
    read_secrets(file, off)


async def test_a_defect_costs_the_page_and_no_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StatusServer, "start", None)
    async with sandbox(staging_time=0.0) as api, serving(api) as served:
        assert (await served.call())["ROUNDED_STATUS"] == "STAGED"
    assert "a defect of rounded_pbx: no status page on" in caplog.text


async def test_a_package_that_is_missing_costs_the_page_and_no_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rounded_pbx.servers.status", None)
    async with sandbox(staging_time=0.0) as api, serving(api) as served:
        assert (await served.call())["ROUNDED_STATUS"] == "STAGED"
    assert "no status page on" in caplog.text


async def test_without_the_page_calls_are_told_of_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(StatusServer, "start")
    caplog.set_level(logging.INFO)
    async with sandbox(staging_time=0.0) as api, serving(api, status={"listen": "off"}) as served:
        await served.call()
    assert caplog.text.count("STAGED did=") == 1


async def test_a_daemon_that_stops_says_so_while_calls_end_and_holds_up_nobody() -> None:
    async with sandbox(staging_time=0.6) as api, contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(api))
        assert (await served.get("/readyz")).status == 200
        reader, writer = await asyncio.open_connection(served.page.host, served.page.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"data: ")
        ending = asyncio.ensure_future(served.call())
        await asyncio.sleep(0.2)
        began = time.monotonic()
        stopping = asyncio.ensure_future(stack.aclose())
        await asyncio.sleep(0.1)
        assert (await served.get("/readyz")).status == 503
        assert (await served.get("/healthz")).status == 200
        assert b"Not ready" in (await served.get("/")).body
        assert (await ending)["ROUNDED_STATUS"] == "STAGED"
        await stopping
        assert time.monotonic() - began < 1.5
        rest = await reader.read()
        assert b"Not ready: no new calls are taken" in rest
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()


async def test_what_was_dropped_is_counted_over_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sandbox(staging_time=0.0) as api:
        config = settings(api.url, str(free()))
        async with daemon.running(config, {"default": KEY}) as running:
            for _ in range(2):
                running._generations[-1][0].errands._drop("default", "a test")
                await running.reload(config, {"default": KEY}, {})
            # As when the first one has ended, and its count with it.
            monkeypatch.setattr(running._generations[0][0].errands, "dropped", 0)
            assert running._facts().dropped_errands == 2
