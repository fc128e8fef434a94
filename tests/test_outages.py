"""What a bad hour of the network, of the API or of our own load may cost, and what it must not."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rounded_pbx.accounts import Accounts
from rounded_pbx.api import RoundedClient
from rounded_pbx.api import client as client_module
from rounded_pbx.breaker import Breaker
from rounded_pbx.call import Wait
from rounded_pbx.errors import ApiError
from rounded_pbx.stager import Account, Stager
from rounded_pbx.staging import Outcome
from rounded_pbx.threads import Unwaited

from .helpers import (
    AGENT,
    BODY,
    CALL_ID,
    KEY,
    REQUEST,
    STAGED,
    Peer,
    answer,
    ca_file,
    config,
    raw_server,
    sandbox,
    server_tls,
)


def _black_hole(peer: Peer) -> None:
    """From now on the peer's kernel drops what comes: no ACK, no FIN, no RST."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
    attach = struct.pack("HL", 1, ctypes.addressof(program))
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, 26, attach)


async def test_a_failover_that_leaves_every_connection_dead_loses_no_call() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            staged = answer(200, {"message": "", "data": {"status": "staged"}})
            await peer.send(STAGED if request.startswith(b"POST") else staged)

    async with (
        raw_server(script) as server,
        Accounts(config(server.url), {"default": KEY}) as accounts,
    ):
        stager, clock = Stager(accounts.by_name, 1000), asyncio.get_running_loop().time
        await asyncio.gather(*(stager.stage(REQUEST, clock() + 1.4) for _ in range(20)))
        assert len(server.peers) > 4
        for peer in server.peers:
            _black_hole(peer)
        for _ in range(4):
            result = await stager.stage(REQUEST, clock() + 1.4)
            assert result.outcome is Outcome.STAGED


@pytest.mark.parametrize("wait", Wait)
async def test_a_queue_of_our_own_is_not_the_apis_fault(wait: Wait) -> None:
    request = dataclasses.replace(REQUEST, wait=wait)
    async with (
        sandbox(latency=0.1, staging_time=0.1) as api,
        Accounts(config(api.url, max_connections=10), {"default": KEY}) as accounts,
    ):
        stager, clock = Stager(accounts.by_name, 1000), asyncio.get_running_loop().time
        burst = [stager.stage(request, clock() + 0.7) for _ in range(200)]
        outcomes = Counter(result.outcome for result in await asyncio.gather(*burst))
        assert outcomes[Outcome.TIMEOUT] > 50
        assert outcomes[Outcome.UNAVAILABLE] == 0
        assert not accounts.by_name["default"].breaker.is_open


async def test_after_an_outage_the_calls_do_not_wait_for_one_another() -> None:
    """The trial has done its work when there is an id, not when the agent is ready."""
    breaker = Breaker(threshold=1, pause=0.0)
    breaker.note_failure()
    async with sandbox(staging_time=0.5) as api, RoundedClient(api.url, KEY) as client:
        stager, clock = (
            Stager({"default": Account(client, breaker)}, 10),
            asyncio.get_running_loop().time,
        )
        first = asyncio.ensure_future(stager.stage(REQUEST, clock() + 3))
        await asyncio.sleep(0.2)
        second = await stager.stage(REQUEST, clock() + 3)
        assert (await first).outcome is second.outcome is Outcome.STAGED


def test_probes_that_work_take_back_what_probes_said() -> None:
    breaker = Breaker(threshold=2)
    for _ in range(5):
        breaker.note_failure()
        breaker.hasten()
    assert not breaker.is_open


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", ["in a record of its own", "its rest with the next answer"])
async def test_an_answer_that_nobody_asked_for_is_no_other_calls_id(
    tmp_path: Path, tls: bool, how: str
) -> None:
    foreign = answer(201, {"message": "", "data": {"call_id": AGENT}})

    async def script(peer: Peer) -> None:
        number = 0
        while True:
            await peer.request()
            number += 1
            if how.startswith("in") and number == 1:
                peer.writer.write(STAGED)
                peer.writer.write(foreign)
            elif how.startswith("its") and number < 3:
                first, rest = foreign[:40], foreign[40:]
                peer.writer.write(STAGED + first if number == 1 else rest + STAGED)
            else:
                peer.writer.write(STAGED)
            await peer.writer.drain()

    async with (
        raw_server(script, tls=server_tls() if tls else None) as server,
        RoundedClient(server.url, KEY, ca_file=ca_file(tmp_path) if tls else None) as client,
    ):
        found = []
        for _ in range(4):
            try:
                found.append(await client.stage(BODY))
            except ApiError:
                found.append("")
            await asyncio.sleep(0.02)
    assert set(found) <= {CALL_ID, ""}
    assert found.count(CALL_ID) >= 2


async def test_a_probe_does_not_read_the_list_that_it_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "json", None)
    async with sandbox() as api, RoundedClient(api.url, KEY) as client:
        await client.open_connection()
        await client.refresh_connection()


@pytest.mark.parametrize("key", ["rk-SECRET\n", "rk SECRET", "rk-clé", ""])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        RoundedClient("https://api.example.com", key)
    assert "SECRET" not in repr(caught.value)


async def test_connections_are_closed_beside_calls_that_take_them() -> None:
    async with sandbox(latency=0.01) as api, RoundedClient(api.url, KEY) as client:
        await asyncio.gather(*(client.open_connection() for _ in range(30)))
        await asyncio.gather(
            client.stale_connections(0.0, keep=0),
            *(client.list_phone_numbers() for _ in range(30)),
        )
        await client.stale_connections(0.0, keep=0)
        assert client.open_connections == 0


def test_work_that_never_ends_holds_up_neither_the_next_nor_the_end() -> None:
    """A silent name server holds a look-up for ten seconds; asyncio's own threads would be out."""
    for_ever = threading.Event()

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Unwaited())
        for _ in range(100):
            loop.run_in_executor(None, for_ever.wait)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        return await asyncio.wait_for(loop.run_in_executor(None, lambda: "done"), 5)

    begun = time.monotonic()
    try:
        assert asyncio.run(main()) == "done"
        assert time.monotonic() - begun < 5
    finally:
        for_ever.set()


async def test_the_accounts_look_names_up_in_such_threads() -> None:
    async with Accounts(config("http://127.0.0.1:1"), {"default": KEY}):
        executor = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]
        assert isinstance(executor, Unwaited)
