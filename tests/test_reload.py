"""A configuration that is read anew under live calls, and a process that restarts under them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.parts.service import Service, daemon_command
from rounded_pbx import daemon as daemons
from rounded_pbx import service
from rounded_pbx.api import RoundedClient
from rounded_pbx.call import Switch
from rounded_pbx.config_types import LOOPBACK, Address
from rounded_pbx.daemon import Daemon
from rounded_pbx.errors import ApiUnreachable
from rounded_pbx.sandbox import Behaviour
from rounded_pbx.servers.listener import Listener

from .helpers import AGENT, KEY, CountingSandbox, eventually, raw_server, sandbox
from .lab.processes import rounded_pbx
from .test_fastagi import SCRIPT, Asterisk, environment

OTHER = "00000000-0000-4000-8000-000000000000"
TEXT = """\
accounts: {{default: {{key_env: RELOAD_KEY{limits}}}}}
api: {{base_url: "{url}", warm: 1}}
calls: {{deadline: {deadline}, max_in_flight: 50}}
numbers: {{country: FR}}
prestage: {{limit: 1}}
asterisk: {{fastagi: {{listen: "127.0.0.1:{port}"}}}}
freeswitch: {{outbound: {{listen: off}}}}
status: {{listen: off}}
routes: [{{name: a, agent_id: {agent}, did: "+33612345678"}}]
"""


def text(url: str, **given: object) -> str:
    usual = {"agent": AGENT, "deadline": 1.5, "port": 0, "limits": ""}
    return TEXT.format(url=url, **{**usual, **given})


class Running:
    """A daemon of this process, and the file that it reads."""

    def __init__(self, file: Path, api: CountingSandbox, daemon: Daemon) -> None:
        self.file, self.api, self.daemon = file, api, daemon

    async def ask(self, script: str = SCRIPT) -> dict[str, str]:
        return await ask(self.daemon.addresses[Switch.ASTERISK], script)

    async def read_anew(self, **given: object) -> bool:
        self.file.write_text(text(self.api.url, **given))
        return await service.reload(self.daemon, self.file)


async def ask(address: Address, script: str = SCRIPT) -> dict[str, str]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment(network_script=script))
    return await asterisk.variables()


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setenv("RELOAD_KEY", KEY)
    file = tmp_path / "config.yml"
    async with sandbox(staging_time=0.2) as api:
        file.write_text(text(api.url))
        async with daemons.running(*service.read(file)) as daemon:
            yield Running(file, api, daemon)


async def test_calls_that_come_after_a_reload_go_by_it(running: Running) -> None:
    assert (await running.ask())["ROUNDED_AGENT_ID"] == AGENT
    assert await running.read_anew(agent=OTHER)
    told = await running.ask()
    assert (told["ROUNDED_STATUS"], told["ROUNDED_AGENT_ID"]) == ("STAGED", OTHER)


async def test_a_call_in_flight_ends_as_it_began(running: Running) -> None:
    asking = asyncio.ensure_future(running.ask())
    await eventually(lambda: running.api.calls.newest(1))
    assert await running.read_anew(agent=OTHER)
    told = await asking
    assert (told["ROUNDED_STATUS"], told["ROUNDED_AGENT_ID"]) == ("STAGED", AGENT)


async def test_a_ticket_outlives_a_reload(running: Running) -> None:
    ticket = (await running.ask(SCRIPT.replace("stage", "prestage", 1)))["ROUNDED_TICKET"]
    assert await running.read_anew(deadline=2)
    await asyncio.sleep(0.4)
    told = await running.ask(SCRIPT.replace("stage", "collect", 1) + f"&ticket={ticket}")
    assert told["ROUNDED_STATUS"] == "STAGED"
    assert [call.id for call in running.api.calls.newest(9)] == [told["ROUNDED_CALL_ID"]]


async def test_a_ticket_of_another_agent_is_staged_anew(running: Running) -> None:
    ticket = (await running.ask(SCRIPT.replace("stage", "prestage", 1)))["ROUNDED_TICKET"]
    await eventually(lambda: running.api.calls.newest(1))
    assert await running.read_anew(agent=OTHER)
    told = await running.ask(SCRIPT.replace("stage", "collect", 1) + f"&ticket={ticket}")
    assert (told["ROUNDED_STATUS"], told["ROUNDED_AGENT_ID"]) == ("STAGED", OTHER)
    requests = [call.request["agent_id"] for call in running.api.calls.newest(9)]
    assert requests == [OTHER, AGENT]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("routes: [", "config.yml:2"),
        ("calls: {deadline: soon}", "deadline"),
        ("accounts: {default: {key_env: NOBODY_SET_THIS}}", "key_env is not set"),
    ],
)
async def test_a_configuration_with_a_mistake_changes_nothing(
    running: Running, broken: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = running.daemon.config
    if not broken.startswith("accounts: {"):
        broken = f"accounts: {{default: {{key_env: RELOAD_KEY}}}}\n{broken}"
    running.file.write_text(broken)
    assert not await service.reload(running.daemon, running.file)
    assert running.daemon.config is kept
    assert said in caplog.text
    assert "NOT read anew" in caplog.text
    assert (await running.ask())["ROUNDED_AGENT_ID"] == AGENT


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("127.0.0.1:0", "127.0.0.1:4573", "asterisk.fastagi.listen"),
        ("listen: off", "listen: '127.0.0.1:0'", "freeswitch.outbound.listen"),
        ("prestage: {limit: 1", "prestage: {store: redis://h", "prestage.store"),
    ],
)
async def test_what_is_opened_once_wants_a_restart(
    running: Running, old: str, new: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = running.file.read_text()
    running.file.write_text(before.replace(old, new).replace(AGENT, OTHER))
    assert not await service.reload(running.daemon, running.file)
    line = next(i for i, each in enumerate(before.splitlines(), 1) if old in each)
    assert f"config.yml:{line}: {what} has changed" in caplog.text
    assert (await running.ask())["ROUNDED_AGENT_ID"] == AGENT


async def test_another_credential_of_the_store_wants_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RELOAD_KEY", KEY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "config.yml"
    stored = 'prestage: {{store: "redis://127.0.0.1:1", credential: {}}}'
    for name in ("first", "second"):
        (tmp_path / name).write_text("hush")
    usual = text("http://127.0.0.1:1")
    file.write_text(usual.replace("prestage: {limit: 1}", stored.format("first")))
    async with daemons.running(*service.read(file)) as daemon:
        file.write_text(usual.replace("prestage: {limit: 1}", stored.format("second")))
        assert not await service.reload(daemon, file)
    assert "config.yml:5: prestage.credential has changed" in caplog.text


async def test_a_reload_does_nothing_that_takes_long_while_calls_wait(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand routes each of these takes as long as a staging, or longer."""
    threads: dict[str, threading.Thread] = {}

    def noting(module: ModuleType, name: str) -> None:
        was = getattr(module, name)

        def noted(*arguments: object) -> object:
            threads[name] = threading.current_thread()
            return was(*arguments)

        monkeypatch.setattr(module, name, noted)

    noting(service, "load")
    noting(daemons, "desk_of")
    noting(service, "YamlFile")
    assert await running.read_anew(agent=OTHER)
    assert not await running.read_anew(port=4573)
    assert threads.keys() == {"load", "desk_of", "YamlFile"}
    assert threading.main_thread() not in threads.values()


async def test_a_defect_in_a_reload_changes_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    kept = running.daemon.config
    monkeypatch.setattr("rounded_pbx.daemon.desk_of", defect)
    assert not await running.read_anew(agent=OTHER)
    assert (running.daemon.config, len(running.daemon._generations)) == (kept, 1)
    assert "ZeroDivisionError" in caplog.text
    assert (await running.ask())["ROUNDED_AGENT_ID"] == AGENT


async def test_an_account_that_stays_keeps_its_breaker_and_its_rate(running: Running) -> None:
    assert await running.read_anew(limits=", rate: 1")
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"
    assert await running.read_anew(limits=", rate: 1", agent=OTHER)
    assert (await running.ask())["ROUNDED_STATUS"] == "LIMITED"
    (now,) = running.daemon._generations[-1][0].accounts.by_name.values()
    (before,) = running.daemon._generations[-2][0].accounts.by_name.values()
    assert now.breaker is before.breaker
    assert await running.read_anew(limits=", rate: 5")
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"


async def test_another_key_gets_a_breaker_of_its_own(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELOAD_KEY", "another")
    assert await running.read_anew()
    now, before = (each[0].accounts.by_name["default"] for each in running.daemon._generations)
    assert now.breaker is not before.breaker
    assert (await running.ask())["ROUNDED_STATUS"] == "UNAUTHORIZED"


async def test_a_ticket_whose_account_a_reload_removed_is_staged_anew(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    before = running.file.read_text()
    both = before.replace("}}", "}, acme: {key_env: RELOAD_KEY, account_codes: ['7']}}", 1)
    running.file.write_text(both)
    assert await service.reload(running.daemon, running.file)
    script = SCRIPT + "&accountcode=7"
    address = running.daemon.addresses[Switch.ASTERISK]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment(network_script=script.replace("stage", "prestage", 1)))
    ticket = (await asterisk.command()).split('"')[1]
    running.file.write_text(before)
    assert await service.reload(running.daemon, running.file)
    asterisk.write(b"200 result=0\n")
    writer.close()
    await eventually(lambda: "prestaged UNAVAILABLE" in caplog.text)
    told = await running.ask(script.replace("stage", "collect", 1) + f"&ticket={ticket}")
    assert told["ROUNDED_STATUS"] == "STAGED"
    assert "defect" not in caplog.text


async def test_a_daemon_that_stops_lets_a_call_from_before_a_reload_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own deadline is longer than the one that holds now."""
    monkeypatch.setenv("RELOAD_KEY", KEY)
    file = tmp_path / "config.yml"
    async with sandbox(staging_time=2.0) as api:
        file.write_text(text(api.url, deadline=5))
        async with daemons.running(*service.read(file)) as daemon:
            asking = asyncio.ensure_future(ask(daemon.addresses[Switch.ASTERISK]))
            await eventually(lambda: api.calls.newest(1))
            file.write_text(text(api.url, deadline=0.5))
            assert await service.reload(daemon, file)
        assert (await asking)["ROUNDED_STATUS"] == "STAGED"


async def test_a_mended_way_to_the_api_gets_a_breaker_of_its_own(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that come at once must not pay for a wrong ca_file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    usual = running.file.read_text()
    running.file.write_text(usual.replace("warm: 1", "warm: 1, trust_env: true"))
    assert await service.reload(running.daemon, running.file)
    now, before = (each[0].accounts.by_name["default"] for each in running.daemon._generations)
    assert now.breaker is not before.breaker
    assert now.limits is before.limits
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"


async def test_an_old_generation_ends_when_none_of_its_calls_can_be_left(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rounded_pbx.generation.DRAIN_MARGIN", 0.1)
    for _ in range(3):
        assert await running.read_anew(deadline=0.5)
    assert len(running.daemon._generations) == 4
    await eventually(lambda: len(running.daemon._generations) == 1, within=5)
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"


async def test_a_reload_drops_no_errand_that_is_to_be_tried_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rounded_pbx.generation.DRAIN_MARGIN", 0.1)
    monkeypatch.setattr("rounded_pbx.errands.PAUSES", (0.1, 2.5))
    fault = {"fault": "503", "fault_on": ("updateCall",), "fault_times": 2}
    running.api.behave(Behaviour.model_validate({"staging_time": 0.0, **fault}))
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"
    assert await running.read_anew(agent=OTHER)
    (call,) = running.api.calls.newest(9)
    await eventually(lambda: "pbx" in call.metadata)
    assert call.metadata["did"] == "+33612345678"
    assert running.daemon.metrics.text().count(b"rounded_errands_dropped_total{") == 0
    await eventually(lambda: len(running.daemon._generations) == 1)


async def test_reloads_that_come_together_are_done_one_by_one(running: Running) -> None:
    read = service.read(running.file)
    await asyncio.gather(*(running.daemon.reload(*read) for _ in range(3)))
    assert len(running.daemon._generations) == 4
    assert (await running.ask())["ROUNDED_STATUS"] == "STAGED"


async def test_whoever_may_connect_can_be_changed(running: Running) -> None:
    text_ = running.file.read_text()
    only = text_.replace('listen: "127.0.0.1:0"', 'listen: "127.0.0.1:0", allow: [127.9.9.9]')
    running.file.write_text(only)
    assert await service.reload(running.daemon, running.file)
    with contextlib.suppress(ConnectionError):
        assert await running.ask() == {}
    assert running.daemon.state().refused == {"asterisk": 1}


async def test_metrics_tell_of_calls_and_requests(running: Running) -> None:
    await running.ask()
    await eventually(lambda: b"rounded_calls_total{" in running.daemon.metrics.text())
    read = running.daemon.metrics.text().decode()
    assert 'rounded_calls_total{outcome="STAGED",route="a",switch="asterisk"} 1.0' in read
    for endpoint, status in [
        ("POST /v1/calls/stage", 201),
        ("GET /v1/calls/{call_id}", 200),
        ("GET /v1/phone-numbers", 200),
    ]:
        labels = f'endpoint="{endpoint}",status="{status}"'
        assert f"rounded_api_seconds_count{{{labels}}}" in read
    assert 'rounded_breaker_open{account="default"} 0.0' in read
    assert KEY not in read


async def test_what_an_api_did_not_answer_is_told_from_its_answers() -> None:
    seen: list[tuple[str, str]] = []

    async def broken(peer: object) -> None:
        raise ConnectionResetError

    async with raw_server(broken) as server:
        urls = {"broken": server.url, "unreachable": "http://127.0.0.1:1"}
        for url in urls.values():
            client = RoundedClient(url, KEY, observe=lambda *told: seen.append(told[:2]))
            async with client:
                with pytest.raises(ApiUnreachable):
                    await client.call_status(OTHER)
    assert seen == [("GET /v1/calls/{call_id}", status) for status in urls]


# A call that waited to be accepted.


async def test_a_call_that_lay_in_the_backlog_has_that_time_no_more(running: Running) -> None:
    """While a daemon restarts, systemd's socket keeps its calls; the dialplan's cap runs on."""
    assert await running.read_anew(deadline=0.6)
    running.api.behave(type(running.api.behaviour)(staging_time=30.0))
    address = running.daemon.addresses[Switch.ASTERISK]
    connection = socket.create_connection((address.host, address.port))
    connection.sendall(environment())
    begun = time.monotonic()
    time.sleep(0.4)  # noqa: ASYNC251 - the loop must not accept it
    reader, writer = await asyncio.open_connection(sock=connection)
    told = await Asterisk(reader, writer).variables()
    assert told["ROUNDED_STATUS"] == "INITIATED"
    assert 0.4 <= time.monotonic() - begun < 0.75
    assert int(told["ROUNDED_STAGE_MS"]) >= 400


async def test_a_call_that_lay_there_for_too_long_stages_nothing(running: Running) -> None:
    address = running.daemon.addresses[Switch.ASTERISK]
    connection = socket.create_connection((address.host, address.port))
    connection.sendall(environment())
    time.sleep(1.55)  # noqa: ASYNC251 - the loop must not accept it
    reader, writer = await asyncio.open_connection(sock=connection)
    with contextlib.suppress(ConnectionError):
        assert await Asterisk(reader, writer).variables() == {}
    assert running.api.calls.newest(1) == []


@pytest.mark.parametrize("passes", range(6))
async def test_a_listener_that_closes_drops_no_connection(passes: int) -> None:
    """Each is served, or is left for whoever has the socket next."""

    async def serve(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: float, deadline: float
    ) -> None:
        writer.write(b"served")

    with socket.create_server(("127.0.0.1", 0)) as held:
        held.setblocking(False)
        listener = Listener(
            serve, longest_line=100, deadline=5, allow=LOOPBACK, max_connections=100
        )
        await listener.start(None, held.dup())
        clients = [socket.create_connection(held.getsockname()) for _ in range(5)]
        for _ in range(passes):
            await asyncio.sleep(0)
        await listener.close(patience=1)
        left = []
        with contextlib.suppress(BlockingIOError):
            while True:
                left.append(held.accept()[0])
        for client in left:
            client.close()
        for client in clients:
            client.settimeout(2)
        said = [client.recv(10) for client in clients]
        for client in clients:
            client.close()
        assert said.count(b"served") + len(left) == 5


async def test_a_socket_that_is_given_keeps_its_backlog() -> None:
    """While the daemon restarts, every call waits in it; nobody would answer the 102nd."""
    served = Listener(_unserved, longest_line=100)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        await served.start(None, held.dup())
        await served.close(patience=0)
        for _ in range(300):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.5)
            client.connect(held.getsockname())


async def _unserved(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: float, deadline: float
) -> None:
    raise AssertionError


# The process.


class Systemd(Service):
    """What systemd does for the daemon: it holds the socket, and hears how it is."""

    def __init__(self, file: Path, **environ: str) -> None:
        self.file, self.log = file, file.parent / "log"
        heard = str(file.parent / "notify")
        environ = {"RELOAD_KEY": KEY, "NOTIFY_SOCKET": heard, **environ}
        super().__init__(daemon_command(file), self.log, environ)
        self.address = Address(*self.socket.getsockname()[:2])
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(heard)
        self.heard.settimeout(10)

    def until(self, what: bytes) -> bytes:
        while True:
            said = self.heard.recv(4096)
            if what in said.split(b"\n"):
                return said

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(10)

    def close(self) -> None:
        self.heard.close()
        super().close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "config.yml", WATCHDOG_USEC="300000")
    yield made
    made.close()


async def test_a_service_is_ready_reloads_shows_signs_of_life_and_stops(systemd: Systemd) -> None:
    async with sandbox(staging_time=0.0) as api:
        systemd.file.write_text(text(api.url, port=systemd.address.port))
        systemd.start()
        ready = await asyncio.to_thread(systemd.until, b"READY=1")
        assert f"asterisk on {systemd.address}".encode() in ready
        assert (await ask(systemd.address))["ROUNDED_AGENT_ID"] == AGENT
        await asyncio.to_thread(systemd.until, b"WATCHDOG=1")
        systemd.file.write_text(text(api.url, port=systemd.address.port, agent=OTHER))
        systemd.signal(signal.SIGHUP)
        assert b"MONOTONIC_USEC=" in await asyncio.to_thread(systemd.until, b"RELOADING=1")
        await asyncio.to_thread(systemd.until, b"READY=1")
        assert (await ask(systemd.address))["ROUNDED_AGENT_ID"] == OTHER
        systemd.signal(signal.SIGTERM)
        await asyncio.to_thread(systemd.until, b"STOPPING=1")
        assert await asyncio.to_thread(systemd.wait) == 0


async def test_a_frozen_daemon_shows_no_sign_of_life(systemd: Systemd) -> None:
    systemd.file.write_text(text("http://127.0.0.1:1", port=systemd.address.port))
    systemd.start()
    await asyncio.to_thread(systemd.until, b"WATCHDOG=1")
    systemd.signal(signal.SIGSTOP)
    systemd.heard.settimeout(0.5)
    said = [True]
    with contextlib.suppress(TimeoutError):
        while len(said) < 10:  # what was on its way
            said.append(bool(systemd.heard.recv(4096)))
    assert len(said) < 10
    systemd.signal(signal.SIGCONT)


async def test_a_restart_under_load_loses_no_call(systemd: Systemd) -> None:
    async with sandbox(staging_time=0.1) as api:
        systemd.file.write_text(text(api.url, port=systemd.address.port, deadline=10))
        systemd.start()
        await asyncio.to_thread(systemd.until, b"READY=1")
        calls: list[asyncio.Task[dict[str, str]]] = []

        async def call() -> None:
            calls.append(asyncio.ensure_future(ask(systemd.address)))
            await asyncio.sleep(0.04)

        for _ in range(2):
            for _ in range(10):
                await call()
            systemd.signal(signal.SIGTERM)
            while systemd.process is not None and systemd.process.poll() is None:
                await call()
            systemd.start()
            for _ in range(40):
                await call()
        statuses = [each["ROUNDED_STATUS"] for each in await asyncio.gather(*calls)]
        assert set(statuses) == {"STAGED"}
        assert len(statuses) > 100


async def test_a_daemon_that_is_stopped_while_it_starts_stops(systemd: Systemd) -> None:
    systemd.file.write_text(text("http://127.0.0.1:1", port=systemd.address.port))
    for tenths in range(1, 8, 2):
        systemd.start()
        await asyncio.sleep(tenths / 10)
        systemd.signal(signal.SIGTERM)
        assert await asyncio.to_thread(systemd.wait) in (0, -signal.SIGTERM)
    systemd.start()
    while "listening for" not in systemd.log.read_text().rpartition("stopping")[2]:
        await asyncio.sleep(0.005)
    systemd.signal(signal.SIGTERM)
    assert await asyncio.to_thread(systemd.wait) == 0


async def test_a_second_signal_does_not_wait_for_the_calls(tmp_path: Path) -> None:
    async with sandbox(staging_time=30.0) as api:
        systemd = Systemd(tmp_path / "config.yml")
        systemd.file.write_text(text(api.url, port=systemd.address.port, deadline=20))
        systemd.start()
        await asyncio.to_thread(systemd.until, b"READY=1")
        asking = asyncio.ensure_future(ask(systemd.address))
        await eventually(lambda: api.calls.newest(1))
        systemd.signal(signal.SIGTERM)
        await asyncio.to_thread(systemd.until, b"STOPPING=1")
        systemd.signal(signal.SIGTERM)
        assert await asyncio.to_thread(systemd.wait) == -signal.SIGTERM
        asking.cancel()
        systemd.close()


async def test_a_socket_for_a_switch_that_is_off_refuses_at_once(
    systemd: Systemd,
) -> None:
    other = text("http://127.0.0.1:1").replace(
        'fastagi: {listen: "127.0.0.1:0"}', "fastagi: {listen: off}"
    )
    systemd.file.write_text(
        other.replace("outbound: {listen: off}", 'outbound: {listen: "127.0.0.1:0"}')
    )
    systemd.start()
    await asyncio.to_thread(systemd.until, b"READY=1")
    with contextlib.suppress(ConnectionError):
        assert await ask(systemd.address) == {}
    assert "listen is off" in systemd.log.read_text()


async def test_a_socket_whose_unit_has_another_address_is_named(systemd: Systemd) -> None:
    """As after a change of ``listen`` without ``rounded-pbx systemd --install``."""
    systemd.file.write_text(text("http://127.0.0.1:1", port=systemd.address.port))
    systemd.start()
    await asyncio.to_thread(systemd.until, b"READY=1")
    assert "systemd --install" not in systemd.log.read_text()
    systemd.signal(signal.SIGTERM)
    assert await asyncio.to_thread(systemd.wait) == 0
    systemd.file.write_text(text("http://127.0.0.1:1", port=1))
    systemd.start()
    assert f"asterisk on {systemd.address}".encode() in await asyncio.to_thread(
        systemd.until, b"READY=1"
    )
    told = "asterisk: systemd listens there, but listen is 127.0.0.1:1: rounded-pbx systemd --inst"
    assert told in systemd.log.read_text()


async def test_a_socket_of_an_unknown_name_is_not_left_with_calls_in_it(tmp_path: Path) -> None:
    """Without FileDescriptorName= it has the name of its unit."""
    systemd = Systemd(tmp_path / "config.yml", LISTEN_FDNAMES="rounded-pbx.socket")
    systemd.file.write_text(text("http://127.0.0.1:1"))
    systemd.start()
    try:
        assert await asyncio.to_thread(systemd.wait) == 1
    finally:
        systemd.close()
    expected = "named 'rounded-pbx.socket'; expected asterisk or freeswitch"
    assert expected in systemd.log.read_text()


@pytest.mark.parametrize("wrong", ["calls: {deadline: soon}", "nonsense: 1"])
def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(f"accounts: {{default: {{key_env: A}}}}\n{wrong}\n")
    command = [str(each) for each in rounded_pbx("serve", "-c", file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, f"{file}:2: " in ended.stderr) == (2, True), ended.stderr
