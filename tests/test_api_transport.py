"""The transport: which connection a request takes, when it is sent again, and that none leaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rounded_pbx.api import KeepAliveTransport, RoundedClient
from rounded_pbx.api.transport import NEW, OLDEST
from rounded_pbx.errors import ApiError, ApiUnreachable

from .helpers import (
    KEY,
    Peer,
    RawServer,
    answer,
    ca_file,
    eventually,
    every_file_closed,
    raw_server,
    server_tls,
    steps,
)

EVERYTHING = 1e9  # seconds: longer than anything has been idle


@pytest.fixture(params=["http", "https"])
def https(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "https")


@contextlib.asynccontextmanager
async def talking(
    script: Callable[[Peer], Awaitable[None]],
    directory: Path | None = None,
    max_connections: int = 4,
) -> AsyncIterator[tuple[RawServer, RoundedClient]]:
    """A server that does what ``script`` says, over TLS if there is a directory, and a client."""
    tls = server_tls() if directory else None
    trusted = ca_file(directory) if directory else None
    async with (
        raw_server(script, tls=tls) as server,
        RoundedClient(server.url, KEY, ca_file=trusted, max_connections=max_connections) as client,
    ):
        yield server, client


async def at_once(client: RoundedClient, server: RawServer, gate: asyncio.Event) -> None:
    """Prove that four requests can be under way at the same time, and end."""
    gate.clear()
    tasks = [asyncio.ensure_future(client.terminate_call(f"proof-{i}")) for i in range(4)]
    await eventually(lambda: sum(b"/proof-" in request for request in server.requests) == 4)
    assert sum(b"/proof-" in request for request in server.requests) == 4
    gate.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)


def gated(gate: asyncio.Event) -> Callable[[Peer], Awaitable[None]]:
    """A script that answers requests while ``gate`` is open."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(answer(200, {"message": "", "data": peer.number}))

    return script


def ending(end: Callable[[Peer], Any], on: int, fine: int) -> Callable[[Peer], Awaitable[None]]:
    """A script: the connections up to ``on`` answer ``fine`` requests, and end at the next one."""

    async def script(peer: Peer) -> None:
        for _ in range(fine if peer.number <= on else 1000):
            await peer.request()
            await peer.send(answer(200, {"message": "", "data": peer.number}))
        await peer.request()
        end(peer)

    return script


def close(peer: Peer) -> None:
    peer.writer.close()


async def test_the_connection_given_back_last_is_taken_first_and_the_oldest_on_demand() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def script(peer: Peer) -> None:
        await gated(gates[peer.number])(peer)

    async with talking(script) as (server, client):
        pending = {asyncio.ensure_future(client.list_phone_numbers()) for _ in range(3)}
        await eventually(lambda: len(server.requests) == 3)
        for number in (0, 2, 1):
            gates[number].set()
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        assert [await client.list_phone_numbers() for _ in range(3)] == [1, 1, 1]
        assert await client.list_phone_numbers(OLDEST) == 0
        assert await client.list_phone_numbers() == 0
        assert client.open_connections == len(server.peers) == 3


async def test_a_new_connection_is_opened_on_demand_though_others_are_idle() -> None:
    async with talking(Peer.answer_all) as (server, client):
        assert [await client.list_phone_numbers(NEW) for _ in range(3)] == [0, 1, 2]
        assert client.open_connections == len(server.peers) == 3


async def test_connections_opened_on_demand_stay_within_max_connections() -> None:
    async with talking(Peer.answer_all, max_connections=2) as (_, client):
        for _ in range(5):
            await client.open_connection()
        assert client.open_connections <= 2


@pytest.mark.parametrize("end", [close, Peer.reset])
async def test_a_kept_connection_that_closes_before_any_byte_is_replaced_once(
    https: bool, end: Callable[[Peer], None], tmp_path: Path
) -> None:
    script = ending(end, on=0, fine=1)
    async with talking(script, tmp_path if https else None) as (server, client):
        assert [await client.list_phone_numbers() for _ in range(3)] == [0, 1, 1]
        assert len(server.requests) == 4
        assert server.requests[1] == server.requests[2]


@pytest.mark.parametrize("end", [close, Peer.reset])
async def test_a_request_is_replaced_once_and_not_a_second_time(
    https: bool, end: Callable[[Peer], None], tmp_path: Path
) -> None:
    async def script(peer: Peer) -> None:
        await ending(end, on=99, fine=1 if peer.number == 0 else 0)(peer)

    async with talking(script, tmp_path if https else None) as (server, client):
        await client.list_phone_numbers()
        with pytest.raises(ApiUnreachable) as caught:
            await client.list_phone_numbers()
        assert not caught.value.safe_to_retry
        assert len(server.requests) == 3
        assert client.open_connections == 0


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_request_is_not_sent_again_once_a_byte_of_an_answer_came(
    https: bool, part: bytes, tmp_path: Path
) -> None:
    def end(peer: Peer) -> None:
        peer.writer.write(part)
        peer.writer.close()

    script = ending(end, on=99, fine=1)
    async with talking(script, tmp_path if https else None) as (server, client):
        await client.list_phone_numbers()
        with pytest.raises(ApiUnreachable) as caught:
            await client.list_phone_numbers()
        assert not caught.value.safe_to_retry
        assert len(server.requests) == 2


@pytest.mark.parametrize("end", [close, Peer.reset])
async def test_a_request_on_a_fresh_connection_is_never_sent_again(
    https: bool, end: Callable[[Peer], None], tmp_path: Path
) -> None:
    script = ending(end, on=99, fine=0)
    async with talking(script, tmp_path if https else None) as (server, client):
        with pytest.raises(ApiUnreachable) as caught:
            await client.list_phone_numbers()
        assert not caught.value.safe_to_retry
        assert len(server.requests) == 1


async def test_no_request_goes_to_a_kept_connection_that_the_peer_has_ended() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(200, {"message": "", "data": peer.number}))
        if peer.number == 0:
            peer.writer.write_eof()  # and go on reading
        await peer.answer_all()

    async with talking(script) as (server, client):
        assert await client.list_phone_numbers() == 0
        await asyncio.sleep(0.1)
        assert await client.list_phone_numbers() == 1
        assert len(server.requests) == 2


async def test_idle_connections_that_the_peer_has_ended_are_cleared_away() -> None:
    async with talking(Peer.answer_all) as (server, client):
        for _ in range(3):
            await client.open_connection()
        server.peers[1].writer.close()
        await asyncio.sleep(0.1)
        assert await client.stale_connections(EVERYTHING, keep=4) == 0
        assert client.open_connections == 2
        assert await client.list_phone_numbers() == 2


async def test_of_those_idle_for_long_the_oldest_are_closed_beyond_what_is_kept() -> None:
    async with talking(Peer.answer_all) as (server, client):
        for _ in range(4):
            await client.open_connection()
        assert await client.stale_connections(EVERYTHING, keep=1) == 0
        assert client.open_connections == 4
        assert await client.stale_connections(0.0, keep=3) == 3
        assert await client.stale_connections(0.0, keep=3) == 3
        await eventually(lambda: server.peers[0].gone)
        assert [peer.gone for peer in server.peers] == [True, False, False, False]


async def test_closing_idle_connections_forgets_none_though_it_is_cancelled() -> None:
    async with every_file_closed(), talking(Peer.answer_all) as (_, client):
        for _ in range(4):
            await client.open_connection()
        closing = asyncio.ensure_future(client.stale_connections(0.0, keep=0))
        await steps(1)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()


async def test_an_answer_closed_twice_gives_its_place_back_once() -> None:
    async with raw_server(Peer.answer_all) as server:
        transport = KeepAliveTransport(server.url, ssl_context=None, max_connections=1)
        request = httpx.Request("GET", server.url)
        response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        for _ in range(2):
            await response.stream.aclose()
        assert transport.open_connections == 0
        first = await transport.handle_async_request(request)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await transport.handle_async_request(request)
        await first.aclose()
        await transport.aclose()


async def test_no_more_requests_are_under_way_than_max_connections() -> None:
    busy, most = 0, 0

    async def script(peer: Peer) -> None:
        nonlocal busy, most
        while True:
            await peer.request()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.002)
            busy -= 1
            await peer.send(answer(200, {"message": ""}))

    async with talking(script) as (server, client):
        await asyncio.gather(*(client.list_phone_numbers() for _ in range(60)))
        assert most == len(server.peers) == client.open_connections == 4


async def test_whoever_waits_for_a_place_keeps_the_deadline_and_the_place_is_not_lost() -> None:
    gate = asyncio.Event()
    async with talking(gated(gate)) as (server, client):

        async def call() -> float:
            started = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.list_phone_numbers()
            return time.monotonic() - started

        took = await asyncio.gather(*(call() for _ in range(40)))
        assert max(took) < 0.8
        assert 4 <= len(server.requests) < 40
        await at_once(client, server, gate)


@pytest.mark.parametrize("again", [None, 1, 2])
@pytest.mark.parametrize("which", [NEW, OLDEST])
async def test_a_request_cancelled_at_any_step_leaves_its_place_and_no_open_file(
    https: bool, which: str, again: int | None, tmp_path: Path
) -> None:
    """``again`` steps after it, a second cancellation comes: a hang-up beside the deadline."""
    gate = asyncio.Event()
    gate.set()
    async with (
        every_file_closed(),
        talking(gated(gate), tmp_path if https else None) as (server, client),
    ):
        for count in range(1000):
            if which == OLDEST and client.open_connections == 0:
                await client.open_connection()
            task = asyncio.ensure_future(client.list_phone_numbers(which))
            await steps(count)
            task.cancel()
            if again is not None:
                await steps(again)
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                break
            await client.stale_connections(0.0, keep=1)
        assert not task.cancelled()
        assert count > 5
        await at_once(client, server, gate)
        await client.aclose()
        await eventually(lambda: all(peer.gone for peer in server.peers), 1.0)
        assert [peer.number for peer in server.peers if not peer.gone] == []


@pytest.mark.parametrize("seed", range(3))
async def test_many_requests_cancelled_at_random_leave_every_place_and_no_open_file(
    https: bool, seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    gate = asyncio.Event()
    gate.set()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await asyncio.sleep(dice.uniform(0, 0.004))
            if dice.random() < 0.1:
                return peer.reset()
            whole = answer(200, {"message": "", "data": peer.number})
            cut = dice.randrange(len(whole))
            await peer.send(whole[:cut])
            await asyncio.sleep(0)
            await peer.send(whole[cut:])

    async with (
        every_file_closed(),
        talking(script, tmp_path if https else None) as (server, client),
    ):

        async def call() -> None:
            await asyncio.sleep(dice.uniform(0, 0.1))
            with contextlib.suppress(TimeoutError, ApiError):
                async with asyncio.timeout(dice.uniform(0, 0.03)):
                    await client.list_phone_numbers(dice.choice([None, None, NEW, OLDEST]))

        await asyncio.gather(*(call() for _ in range(150)))
        dice.random = lambda: 1.0  # type: ignore[method-assign]  # no more resets
        await at_once(client, server, gate)


async def test_a_handshake_cut_short_by_the_deadline_leaves_no_open_file(tmp_path: Path) -> None:
    async def silent(peer: Peer) -> None:
        await peer.reader.read()

    async with every_file_closed(), raw_server(silent) as server:
        url = server.url.replace("http:", "https:")
        async with RoundedClient(url, KEY, ca_file=ca_file(tmp_path)) as client:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.list_phone_numbers()
            await eventually(lambda: all(peer.gone for peer in server.peers), 1.0)
            assert [peer.gone for peer in server.peers] == [True] * 3


async def test_a_busy_connection_closes_with_its_answer_once_the_client_is_closed() -> None:
    gate = asyncio.Event()
    async with every_file_closed(), talking(gated(gate)) as (server, client):
        task = asyncio.ensure_future(client.list_phone_numbers())
        await eventually(lambda: server.requests)
        await client.aclose()
        gate.set()
        assert await task == 0
        await eventually(lambda: server.peers[0].gone, 1.0)
        assert server.peers[0].gone


@pytest.mark.parametrize("surplus", [1.0, 0.5])
async def test_an_answer_that_nobody_asked_for_is_not_the_next_requests_answer(
    surplus: float,
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = (await peer.request()).decode()
            asked = request.split(" ")[1].removeprefix("/v1/calls/")
            reply = answer(200, {"message": "", "data": {"status": f"the status of {asked}"}})
            twice = reply[: int(surplus * len(reply))] if asked == "first" else b""
            await peer.send(reply + twice)

    async with talking(script) as (_, client):
        assert await client.call_status("first") == "the status of first"
        for name in ("second", "third", "fourth"):
            with contextlib.suppress(ApiUnreachable):
                assert await client.call_status(name) == f"the status of {name}"


async def test_a_request_costs_the_same_however_many_connections_are_idle() -> None:
    async with talking(Peer.answer_all, max_connections=300) as (_, client):

        async def cost() -> float:
            costs = []
            for _ in range(5):
                started = time.process_time()
                for _ in range(30):
                    await client.list_phone_numbers()
                costs.append(time.process_time() - started)
            return min(costs)

        few = await cost()
        for _ in range(200):
            await client.open_connection()
        assert await cost() < 2 * few
