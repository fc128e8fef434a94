"""The API client when the network, TLS or a proxy is in the way, and what it never tells."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from rounded_pbx.api import RoundedClient
from rounded_pbx.errors import (
    ApiError,
    ApiUnauthorized,
    ApiUnreachable,
    RoundedPbxError,
)

from .api_operations import (
    ENVELOPE,
    OPERATIONS,
    answered,
    every_operation,
    failure,
)
from .helpers import (
    BODY,
    KEY,
    STAGED,
    Peer,
    answer,
    ca_file,
    raw_server,
    sandbox,
    server_tls,
)


async def test_a_refused_connection_is_safe_to_retry_and_says_why() -> None:
    async with raw_server(Peer.answer_all) as server:
        url = server.url
    error = await failure(RoundedClient(url, KEY).stage(BODY))
    assert isinstance(error, ApiUnreachable)
    assert error.safe_to_retry
    assert "Connect call failed" in str(error)


async def test_a_name_that_cannot_be_resolved_is_safe_to_retry() -> None:
    error = await failure(RoundedClient("http://no-such-host.invalid", KEY).stage(BODY))
    assert isinstance(error, ApiUnreachable)
    assert error.safe_to_retry
    words = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    assert (len(words) > 8, ": " in words) == (True, False)  # the resolver's words, once


@pytest.mark.parametrize("end", [Peer.reset, lambda peer: peer.writer.close()])
async def test_a_connection_that_breaks_is_unreachable_and_not_safe_to_retry(
    end: Callable[[Peer], None],
) -> None:
    for sent in (b"", b"HTTP/1.1 2", b"HTTP/1.1 201 OK\r\nContent-Length: 99\r\n\r\n{"):

        async def script(peer: Peer, sent: bytes = sent) -> None:
            await peer.request()
            await peer.send(sent)
            await asyncio.sleep(0.02)
            end(peer)

        async with raw_server(script) as server, RoundedClient(server.url, KEY) as client:
            error = await failure(client.stage(BODY))
            assert isinstance(error, ApiUnreachable)
            assert not error.safe_to_retry
            assert client.open_connections == 0


@every_operation
@pytest.mark.parametrize("fault", ["hang", "drip"])
async def test_the_callers_deadline_holds_against_silence_and_single_bytes(
    operation: str, fault: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in b"" if fault == "hang" else STAGED:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.05)
        await peer.reader.read()

    async with raw_server(script) as server, RoundedClient(server.url, KEY) as client:
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await OPERATIONS[operation][0](client)
        assert asyncio.get_running_loop().time() - started < 0.7
        assert client.open_connections == 0


async def test_a_certificate_is_checked_against_the_ca_file_and_the_host(tmp_path: Path) -> None:
    trusted = ca_file(tmp_path)
    async with raw_server(Peer.answer_all, tls=server_tls()) as server:
        async with RoundedClient(server.url, KEY, ca_file=trusted) as client:
            assert await client.list_phone_numbers() == 0
        error = await failure(RoundedClient(server.url, KEY).list_phone_numbers())
        assert isinstance(error, ApiUnreachable)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    async with raw_server(Peer.answer_all, tls=server_tls("api.example")) as server:
        error = await failure(RoundedClient(server.url, KEY, ca_file=trusted).stage(BODY))
        assert isinstance(error, ApiUnreachable)
        assert server.requests == []


async def test_https_to_a_server_without_tls_is_unreachable(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(answer(400, ENVELOPE))

    async with raw_server(script) as server:
        url = server.url.replace("http:", "https:")
        error = await failure(RoundedClient(url, KEY, ca_file=ca_file(tmp_path)).stage(BODY))
        assert isinstance(error, ApiUnreachable)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
async def test_tls_that_breaks_in_the_middle_is_unreachable(sent: bytes, tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await asyncio.sleep(0.05)
        record = b"\x17\x03\x03\x00\x20" + bytes(32)  # application data that nobody encrypted
        os.write(peer.writer.get_extra_info("socket").fileno(), record)
        await peer.reader.read()

    async with (
        raw_server(script, tls=server_tls()) as server,
        RoundedClient(server.url, KEY, ca_file=ca_file(tmp_path)) as client,
    ):
        assert isinstance(await failure(client.stage(BODY)), ApiUnreachable)
        assert client.open_connections == 0


async def test_the_environment_redirects_nothing_unless_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with raw_server(Peer.answer_all) as server, raw_server(Peer.answer_all) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with RoundedClient(server.url, KEY) as client:
            await client.list_phone_numbers()
        assert (len(server.peers), len(proxy.peers)) == (1, 0)
    host = server.url.removeprefix("http://")
    head = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic dTpw\r\n\r\n"

    async def tunnel(peer: Peer) -> None:
        assert (await peer.reader.readuntil(b"\r\n\r\n")).decode() == head
        peer.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await peer.answer_all()

    async with raw_server(tunnel) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//u:p@"))
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//u:p@"))
        async with RoundedClient(f"http://{host}", KEY, trust_env=True) as client:
            await client.open_connection()
            await client.refresh_connection()
        assert (len(proxy.peers), proxy.peers[0].writer is not None) == (1, True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with RoundedClient(f"http://{host}", KEY, trust_env=True) as client:
            await failure(client.open_connection())
        assert len(proxy.peers) == 1


@pytest.mark.parametrize(
    "says",
    [b"HTTP/1.1 407 No\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n", b"x" * 20_000, b"SSH-2.0\r\n\r\n"],
)
async def test_a_proxy_that_gives_no_tunnel_has_not_seen_the_request(
    monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(says)

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with raw_server(refuse) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with RoundedClient("http://127.0.0.1:1", KEY, trust_env=True) as client:
            error = await failure(client.stage(BODY))
    assert isinstance(error, ApiUnreachable)
    assert KEY not in str(error)


def test_a_proxy_that_is_none_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(RoundedPbxError, match="expected http://"):
        RoundedClient("https://api.example.com", KEY, trust_env=True)


async def test_the_environments_certificates_count_only_where_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", ca_file(tmp_path))
    async with raw_server(Peer.answer_all, tls=server_tls()) as server:
        assert isinstance(await failure(RoundedClient(server.url, KEY).stage(BODY)), ApiError)
        async with RoundedClient(server.url, KEY, trust_env=True) as client:
            await client.open_connection()
    async with (
        raw_server(Peer.answer_all, tls=server_tls("other.example")) as server,
        RoundedClient(server.url, KEY, trust_env=True) as client,
    ):
        assert isinstance(await failure(client.open_connection()), ApiUnreachable)


ECHOES = {
    "message": answer(400, {"error": {"message": f"bad key {KEY}"}}),
    "message that is no text": answer(400, {"message": {"key": KEY}}),
    "details": answer(422, {"error": {"details": [{"field": KEY, "message": f"<{KEY}>"}]}}),
    "HTML": answer(200, f"<h1>{KEY}</h1>".encode()),
    "content type": answer(200, b"x").replace(b"application/json", KEY.encode()),
    "reason": answer(500, b"").replace(b"Whatever", KEY.encode()),
    "retry after": answer(429, b"", f"Retry-After: {KEY}"),
    "location": answer(302, b"", f"Location: http://[{KEY}"),
    "bad status line": f"X-Api-Key: {KEY}\r\n\r\n".encode(),
    "bad header": f"HTTP/1.1 200 OK\r\nX-Api-Key : {KEY}\r\n\r\n".encode(),
    "bad length": f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode(),
    "id": answer(201, {"data": {"call_id": KEY}}),
}


@pytest.mark.parametrize("where", ECHOES)
async def test_a_key_never_stands_in_an_error_though_the_server_repeats_it(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rounded_pbx")
    error = await answered(ECHOES[where], lambda client: client.stage(BODY))
    assert isinstance(error, ApiError)
    for text in (str(error), repr(error), str(error.details), caplog.text):
        assert KEY not in text
    assert KEY not in "".join(traceback.format_exception(error))


async def test_a_message_is_cut_after_the_key_is_out_of_it() -> None:
    text = "x" * 290 + KEY
    error = await answered(answer(400, {"message": text}), lambda client: client.stage(BODY))
    assert KEY[:3] not in str(error)


async def test_a_key_never_stands_in_a_repr_or_in_a_log_of_any_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "httpcore")  # which logs.configure() may have quieted
    async with sandbox(key="another") as api, RoundedClient(api.url, KEY) as client:
        assert type(await failure(client.stage(BODY))) is ApiUnauthorized
        assert api.seen[0][2] == KEY
        assert KEY not in repr(client)
    assert "httpcore" in caplog.text
    assert KEY not in caplog.text


def exceptions_of(module: Any) -> list[type[Exception]]:
    found = [thing for thing in vars(module).values() if isinstance(thing, type)]
    return [thing for thing in found if issubclass(thing, Exception)]


#: Raised for what we never do: bad URLs, cookies by name, a stream read twice, proxies, pools.
NEVER_RAISED_FOR_US = {
    *("InvalidURL", "CookieConflict", "HTTPStatusError"),
    *("StreamError", "StreamConsumed", "StreamClosed", "RequestNotRead", "ResponseNotRead"),
}
NEVER_RAISED_BY_A_CONNECTION = {"ConnectionNotAvailable", "ProxyError", "UnsupportedProtocol"}


@pytest.mark.parametrize("kind", exceptions_of(httpx), ids=lambda kind: kind.__name__)
async def test_every_exception_of_httpx_is_mapped(kind: Any) -> None:
    if kind.__name__ in NEVER_RAISED_FOR_US:
        return

    def handle(request: httpx.Request) -> httpx.Response:
        raise kind(f"the key is {KEY}")

    client = RoundedClient("http://api.example", KEY, transport=httpx.MockTransport(handle))
    error = await failure(client.stage(BODY))
    assert isinstance(error, ApiUnreachable)
    assert error.safe_to_retry == (kind is httpx.ConnectError)


class Breaking(httpcore.AsyncNetworkStream):
    """A connection that reads these pieces and then fails."""

    def __init__(self, pieces: list[bytes], error: Exception) -> None:
        self._pieces = pieces
        self._error = error

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._pieces:
            raise self._error
        return self._pieces.pop(0)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> None:
        return None


@pytest.mark.parametrize("pieces", [None, [], [STAGED[:-9]]], ids=["connect", "answer", "body"])
@pytest.mark.parametrize(
    "kind", [*exceptions_of(httpcore), ssl.SSLError], ids=lambda kind: kind.__name__
)
async def test_every_exception_of_httpcore_is_mapped_whenever_it_comes(
    kind: Any, pieces: list[bytes] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.__name__ in NEVER_RAISED_BY_A_CONNECTION or (kind is ssl.SSLError and pieces is None):
        return

    async def connect(*arguments: object, **options: object) -> httpcore.AsyncNetworkStream:
        if pieces is None:
            raise kind("broken")
        return Breaking(list(pieces), kind("broken"))

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    client = RoundedClient("http://api.example", KEY)
    assert isinstance(await failure(client.stage(BODY)), ApiUnreachable)
    assert client.open_connections == 0
