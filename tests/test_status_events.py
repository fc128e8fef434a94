"""The stream of the status page: nothing is missed, nothing stands twice, nobody is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rounded_pbx.config_status import STATUS_CONNECTIONS, Status
from rounded_pbx.servers.status import AccountHealth, StatusServer, door, events
from rounded_pbx.servers.status.messages import Teller
from rounded_pbx.watch import MINUTES, MOST_CALLS, Watch

from .helpers import Clock, eventually
from .status_page import FACTS, TOKEN, Page, Viewer, chunks, page, record, viewer


@dataclass
class Table:
    """What stands in a viewer's table, and the hour that it draws."""

    dids: list[str] = field(default_factory=list)
    total: int = 0
    minutes: list[Any] = field(default_factory=list)
    minute: int = 0

    def take(self, message: dict[str, Any]) -> None:
        if message.get("snapshot"):
            self.dids, self.minutes = [], []
        else:
            assert message["from"] == self.total
            passed = message["minute"] - self.minute
            self.minutes = (self.minutes + [[{}, None, None]] * passed)[-MINUTES:]
        self.dids = (self.dids + [call[2] for call in message["calls"]])[-MOST_CALLS:]
        self.total, self.minute = message["total"], message["minute"]
        new = message["minutes"]
        self.minutes[max(0, MINUTES - len(new)) :] = new


def is_right(table: Table, shown: Page) -> bool:
    watch = shown.watch
    dids = [call.did for call in watch.calls(0, watch.total)]
    minutes = [[dict(m.outcomes), m.p50, m.p95] for m in watch.last(MINUTES)]
    return (table.dids, table.total, table.minutes) == (dids, watch.total, minutes)


async def caught_up(follows: Viewer, table: Table, shown: Page) -> None:
    while not is_right(table, shown):
        table.take(await follows.message())


async def test_a_call_is_told_of_without_being_asked() -> None:
    async with page() as shown, viewer(shown) as follows:
        message = await follows.message()
        assert (message["snapshot"], message["calls"], message["total"]) == (True, [], 0)
        shown.watch.add(record(did="+33600000001", caller="+3361****", call_id="x", reason="y"))
        message = await follows.message()
    assert message["calls"] == [
        [1_000_000, "STAGED", "+33600000001", "+3361****", "", 123, "x", "", "y"]
    ]
    assert message["health"] == ["ok", "All is well"]
    assert abs(message["now"] - time.time()) < 5


@pytest.mark.parametrize("seed", range(5))
async def test_a_viewer_is_right_whatever_happens(seed: int) -> None:
    """Calls one by one and in bursts beyond the table, minutes, an hour, viewers that come late."""
    chance, number = random.Random(seed), 0
    async with page() as shown, contextlib.AsyncExitStack() as stack:
        tables: list[tuple[Viewer, Table]] = []
        for _ in range(12):
            if chance.random() < 0.4:
                tables.append((await stack.enter_async_context(viewer(shown)), Table()))
            shown.clock.advance(chance.choice([0.0, 0.0, 60.0, 61.0, 7000.0]))
            for _ in range(chance.choice([0, 1, 3, 50, MOST_CALLS, MOST_CALLS + 1, 500])):
                number += 1
                outcome = chance.choice(["STAGED", "TIMEOUT", "HANGUP"])
                shown.watch.add(record(did=str(number), outcome=outcome, ms=number % 900))
            await asyncio.sleep(chance.choice([0.0, 0.03, 0.07]))
        for follows, table in tables:
            await caught_up(follows, table, shown)
            assert is_right(table, shown)


def test_no_minute_is_drawn_twice_where_one_begins_before_a_late_viewer_is_told() -> None:
    clock, table = Clock(0.0), Table()
    watch = Watch(clock)
    teller = Teller(watch, lambda: True, lambda: FACTS)
    watch.add(record(ms=7))
    told = teller.now()
    clock.advance(60.0)
    watch.add(record(ms=7))
    table.take(json.loads(teller.snapshot(told).removeprefix(b"data: ")))
    assert [sum(minute[0].values()) for minute in table.minutes[-2:]] == [0, 1]
    table.take(json.loads(teller.update(told, teller.now()).removeprefix(b"data: ")))
    assert [sum(minute[0].values()) for minute in table.minutes[-3:]] == [0, 1, 1]


async def test_what_changes_beside_calls_is_told_and_accounts_only_then() -> None:
    async with page() as shown, viewer(shown) as follows:
        assert (await follows.message())["accounts"] == []
        shown.facts = replace(FACTS, accounts=(AccountHealth("a", True, "503"),), in_flight=7)
        message = await follows.message()
        assert message["accounts"] == [["a", True, "503"]]
        assert message["counts"] == [0, 7, 0, 0, 0]
        assert message["health"][0] == "bad"
        shown.ready = False
        message = await follows.message()
        assert "accounts" not in message
        assert message["health"] == ["bad", "Not ready: no new calls are taken"]


async def test_another_configuration_is_another_page() -> None:
    async with page() as shown, viewer(shown) as follows:
        body = (await shown.get()).body.decode()
        first = await follows.message()
        assert f'<body data-page="{first["page"]}">' in body
        shown.facts = replace(FACTS, configuration="calls: {deadline: 2}\n")
        assert (await follows.message())["page"] != first["page"]


async def test_a_quiet_stream_says_something_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUIET", 0.2)
    async with page() as shown, viewer(shown) as follows:
        await follows.message()
        began = time.monotonic()
        message = await follows.message()
        assert 0.15 < time.monotonic() - began < 3.0
        assert message["calls"] == []


async def test_a_message_is_made_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counting(name: str) -> Callable[..., bytes]:
        make: Callable[..., bytes] = getattr(Teller, name)

        def counted(*arguments: object) -> bytes:
            made.append(name)
            return make(*arguments)

        return counted

    for name in ("update", "snapshot"):
        monkeypatch.setattr(Teller, name, counting(name))
    async with page() as shown, contextlib.AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(viewer(shown)) for _ in range(10)]
        told = [await follows.message() for follows in viewers]
        assert made.count("snapshot") == 1
        made.clear()
        shown.watch.add(record())
        told = [await follows.message() for follows in viewers]
        assert told == told[:1] * 10
        assert made == ["update"]


async def test_without_viewers_nothing_is_done() -> None:
    async with page() as shown:
        async with viewer(shown) as follows:
            await follows.message()
        await eventually(lambda: shown.server._events._telling is None)
        assert shown.server.viewers == 0
        assert shown.server._events._telling is None
        tasks = len(asyncio.all_tasks())
        shown.watch.add(record())
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == tasks


# Those who are in the way.


async def test_there_are_so_many_viewers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_VIEWERS", 3)
    async with page() as shown:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(viewer(shown))
            await eventually(lambda: shown.server.viewers == 3)
            answer = await shown.get("/events")
            assert (answer.status, answer.headers["retry-after"]) == (503, "30")
            assert (await shown.get("/")).status == 200
        await eventually(lambda: shown.server.viewers == 0)
        async with viewer(shown) as follows:
            assert (await follows.message())["snapshot"]


async def test_viewers_of_one_address_leave_it_room_to_ask_how_we_are() -> None:
    async with page() as shown, contextlib.AsyncExitStack() as stack:
        for _ in range(door.MOST_OF_ONE):
            _, writer = await shown.connect()
            stack.callback(writer.close)
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: shown.server.viewers == events.VIEWERS_OF_ONE)
        await eventually(lambda: len(shown.server._door.connections) == events.VIEWERS_OF_ONE)
        assert (await shown.get("/healthz")).status == 200
        assert (await shown.get("/")).status == 200
        elsewhere = await asyncio.open_connection(
            shown.address.host, shown.address.port, local_addr=("127.0.0.9", 0)
        )
        elsewhere[1].write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await elsewhere[0].readuntil(b"data: ")
        elsewhere[1].close()


def test_viewers_are_fewer_than_connections() -> None:
    assert door.MOST_OF_ONE <= events.MOST_VIEWERS < STATUS_CONNECTIONS


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_viewer_who_vanishes_is_forgotten_at_once(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "QUIET", 60.0)
    async with page() as shown:
        async with viewer(shown) as follows:
            await follows.message()
            assert shown.server.viewers == 1
            getattr(follows.writer.transport, how)()
            await eventually(lambda: shown.server.viewers == 0)
            assert shown.server.viewers == 0
        assert not shown.server._door.connections


async def stuck(shown: Page, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A viewer that reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, (shown.address.host, shown.address.port))
    await loop.sock_sendall(client, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client


def held_back(shown: Page) -> int:
    """Bytes that wait in this process for those who do not read."""
    waiting = [each.transport.get_write_buffer_size() for each in shown.server._door.connections]
    return max(waiting, default=0)


async def pressed(shown: Page, seconds: float, until: int) -> int:
    """Long messages for so long, or until so many bytes wait; the most that waited."""
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and most < until:
        for _ in range(MOST_CALLS):
            shown.watch.add(record(reason="\u20ac" * 200))
        await asyncio.sleep(0.01)
        most = max(most, held_back(shown))
    return most


async def test_a_viewer_who_does_not_read_is_dropped_and_the_others_see_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "ANSWER_TIME", 0.5)
    async with page() as shown, viewer(shown) as follows:
        table = Table()
        with contextlib.closing(await stuck(shown, asyncio.get_running_loop())):
            reading = asyncio.ensure_future(_read_for_ever(follows, table))
            most = await pressed(shown, 10.0, until=100_000)
            assert most > 65_536, "it was never stuck"
            await eventually(lambda: shown.server.viewers == 1)
            assert shown.server.viewers == 1
            shown.watch.add(record(did="last"))
            await eventually(lambda: table.dids[-1:] == ["last"])
            assert is_right(table, shown)
            reading.cancel()
            await asyncio.wait([reading])


async def _read_for_ever(follows: Viewer, table: Table) -> None:
    while True:
        table.take(await follows.message())


async def test_what_waits_for_a_viewer_who_does_not_read_does_not_grow() -> None:
    async with page() as shown:
        with contextlib.closing(await stuck(shown, asyncio.get_running_loop())):
            await pressed(shown, 10.0, until=66_000)
            assert held_back(shown) > 65_536
            before = held_back(shown)
            most = await pressed(shown, 1.0, until=10**9)
            assert most < before + 1_000_000
            assert most == before


async def test_a_viewer_who_reads_again_is_told_all_anew() -> None:
    async with page() as shown:
        loop = asyncio.get_running_loop()
        client = await stuck(shown, loop)
        await pressed(shown, 10.0, until=66_000)
        shown.watch.add(record(did="last"))
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection(sock=client)
        await reader.readuntil(b"\r\n\r\n")
        table = Table()
        async with asyncio.timeout(10.0):
            async for chunk in chunks(reader):
                if chunk.startswith(b"data: "):
                    table.take(json.loads(chunk.removeprefix(b"data: ")))
                if table.dids[-1:] == ["last"]:
                    break
        assert is_right(table, shown)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_the_end_comes_at_once_and_in_good_order() -> None:
    async with page() as shown, viewer(shown) as follows:
        await follows.message()
        with contextlib.closing(await stuck(shown, asyncio.get_running_loop())):
            silent = await shown.connect()
            await pressed(shown, 10.0, until=66_000)
            reading = asyncio.ensure_future(_to_the_end(follows))
            began = time.monotonic()
            await shown.server.close()
            assert time.monotonic() - began < 1.0
            await reading
            assert await silent[0].read() == b""
            silent[1].close()
        with pytest.raises(OSError, match="Connect"):
            await shown.connect()


async def test_who_comes_while_it_ends_is_sent_away_and_starts_nothing() -> None:
    async with page() as shown:
        reader, writer = await shown.connect()
        await eventually(lambda: shown.server._door.connections)
        (connection,) = shown.server._door.connections
        stream = shown.server._events.response(connection)
        await shown.server._events.close()
        assert (await shown.get("/events")).status == 503
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "state": {"connection": connection}}
        await stream(scope, lambda: asyncio.sleep(0), send)  # type: ignore[arg-type,return-value]
        assert [message.get("more_body") for message in sent] == [None, True, False]
        assert shown.server._events._telling is None
        writer.close()
        assert await reader.read() == b""


async def _to_the_end(follows: Viewer) -> None:
    async for _ in chunks(follows.reader):  # it ends with the last chunk, or this raises
        pass


async def test_a_defect_ends_the_streams_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with page() as shown:
        async with viewer(shown) as follows:
            await follows.message()
            shown.facts = None  # type: ignore[assignment]
            with contextlib.suppress(ConnectionError):
                assert await follows.reader.read() is not None
            assert [each.message for each in caplog.records] == [
                "a defect of rounded_pbx in the status page"
            ]
        shown.facts = FACTS
        async with viewer(shown) as follows:
            assert (await follows.message())["snapshot"]
        caplog.clear()


# Where it listens.


def server(**section: object) -> StatusServer:
    made = Status.model_validate({"listen": "127.0.0.1:0", **section})
    watch = Watch(Clock())
    return StatusServer(made, watch=watch, ready=lambda: True, metrics=bytes, facts=lambda: FACTS)


async def test_it_listens_on_a_socket_that_was_handed_over() -> None:
    handed = socket.create_server(("127.0.0.1", 0))
    made = server()
    address = await made.start(handed)
    assert address.port == handed.getsockname()[1]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(b"ok\n")
    writer.close()
    await made.close()


async def test_it_listens_on_ipv6() -> None:
    made = server(listen="[::1]:0")
    address = await made.start()
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET / HTTP/1.0\r\nHost: [::1]:9810\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await made.close()


async def test_a_socket_beyond_loopback_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="beyond loopback, so it needs a token"):
        await server().start(socket.create_server(("0.0.0.0", 0)))
    monkeypatch.setenv("STATUS_TOKEN", TOKEN)
    made = server(token_env="STATUS_TOKEN")
    await made.start(socket.create_server(("0.0.0.0", 0)))
    await made.close()


async def test_a_socket_that_is_none_of_tcp_is_refused() -> None:
    with pytest.raises(ValueError, match="none of TCP"):
        await server().start(socket.socket(socket.AF_UNIX))


async def test_a_token_that_cannot_be_read_is_said_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATUS_TOKEN", "short")
    with pytest.raises(ValueError, match="holds no token of 16 characters or more") as caught:
        server(token_env="STATUS_TOKEN")
    assert "short" not in str(caught.value)


async def test_a_stream_needs_the_token_too() -> None:
    async with page(token=True) as shown:
        assert (await shown.get("/events")).status == 401
        async with viewer(shown, f"Authorization: Bearer {TOKEN}") as follows:
            assert (await follows.message())["snapshot"]


def test_uvicorn_changes_nobody_elses_log() -> None:
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error")]
    before = [[*logger.handlers] for logger in loggers]
    server()
    assert [logger.handlers for logger in loggers] == before
