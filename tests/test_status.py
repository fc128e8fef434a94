"""The status page: what it shows, that hostile texts are texts, and what machines ask of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from rounded_pbx.servers.status import (
    AccountHealth,
    Facts,
    server,
)
from rounded_pbx.servers.status.facts import Level, verdict
from rounded_pbx.servers.status.page import _COUNTS, nice
from rounded_pbx.watch import MOST_CALLS, Minute

from .helpers import CALL_ID
from .status_page import FACTS, Answer, Page, page, record, viewer

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>\u202e\ud83d\u00e9"


class Text(HTMLParser):
    """The tags of a page, and its texts by the class of the cell that they stand in."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[tuple[str, str]] = []
        self._in_cell = False
        self.feed(html.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "td":
            self.cells.append((dict(attrs).get("class") or "", ""))
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            name, text = self.cells[-1]
            self.cells[-1] = (name, text + data)

    def column(self, name: str) -> list[str]:
        return [text.strip() for cell, text in self.cells if cell == name]


# What it shows.


async def first(shown: Page) -> dict[str, Any]:
    """The message by which a viewer is told all."""
    async with viewer(shown) as follows:
        return await follows.message()


async def test_the_page_shows_the_calls_newest_first_without_javascript() -> None:
    async with page() as shown:
        shown.watch.add(record(did="+33600000001", caller="+3361****", call_id=CALL_ID))
        shown.watch.add(record(outcome="TIMEOUT", did="+33600000002", reason="no answer in time"))
        answer = await shown.get()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = Text(answer.body)
    assert text.column("did") == ["+33600000002", "+33600000001"]
    assert text.column("outcome") == ["TIMEOUT", "STAGED"]
    assert text.column("caller") == ["", "+3361****"]
    assert text.column("id") == ["", CALL_ID]
    assert text.column("ms") == ["123", "123"]
    assert text.column("reason") == ["no answer in time", ""]
    expected = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_000_000.0))
    assert text.column("time") == [expected, expected]


async def test_the_page_shows_no_more_than_the_last_calls() -> None:
    async with page() as shown:
        for number in range(MOST_CALLS + 5):
            shown.watch.add(record(did=str(number)))
        dids = Text((await shown.get()).body).column("did")
    assert dids == [str(number) for number in range(MOST_CALLS + 4, 4, -1)]


async def test_the_page_shows_what_is_beside_calls() -> None:
    async with page() as shown:
        shown.facts = replace(
            FACTS,
            listening=(("asterisk", "127.0.0.1:4573"),),
            accounts=(
                AccountHealth("default", False, ""),
                AccountHealth("acme", True, "503: try again"),
                AccountHealth("third"),
            ),
            in_flight=41,
            prestaged=42,
            dropped_errands=43,
            refused=44,
        )
        body = (await shown.get()).body.decode()
    assert "asterisk 127.0.0.1:4573" in body
    assert "<pre>calls: {}\n</pre>" in body
    assert "circuit breaker of acme is open" in body
    assert re.findall(r"<td class=\"(?:ok|bad)\">(.*?)</td>", body) == [
        *["open", "503: try again", "closed", "answers", "closed"],
    ]
    numbers = re.findall(r'<dd id="(\w+)">(\d+)</dd>', body)
    assert numbers == list(zip(_COUNTS, ["0", "41", "42", "43", "44"], strict=True))


async def test_the_plots_are_drawn_to_scale() -> None:
    async with page() as shown:
        for _ in range(3):
            shown.watch.add(record(ms=100))
        shown.watch.add(record(outcome="TIMEOUT", ms=900))
        shown.clock.advance(60.0)
        body = (await shown.get()).body.decode()
    rects = re.findall(
        r'<rect class="(\w+)" x="(\d+)" y="([0-9.]+)" width="8" height="([0-9.]+)"', body
    )
    assert rects == [
        ("staged", "581", "40.0", "60.0"),
        ("failed", "581", "20.0", "20.0"),
        ("p95", "581", "2.8", "97.2"),
        ("p50", "581", "89.7", "10.3"),
    ]
    assert '<span class="most" id="calls_plot_most">5</span>' in body
    assert '<span class="most" id="ms_plot_most">1000 ms</span>' in body
    assert "STAGED 3, TIMEOUT 1." in body


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 5),
        (5, 5),
        (6, 10),
        (11, 20),
        (21, 50),
        (999, 1000),
        (10**6, 10**6),
    ],
)
def test_a_scale_ends_with_a_round_number(value: int, end: int) -> None:
    assert nice(value) == end


def test_the_verdict_names_the_worst() -> None:
    accounts = (AccountHealth("a", True, "x"), AccountHealth("b", False, "x"), AccountHealth("c"))
    bad = [Minute({"STAGED": 8, "TIMEOUT": 2, "HANGUP": 2}), Minute({"REJECTED": 1})]
    good = [Minute({"STAGED": 9, "INITIATED": 9, "TIMEOUT": 3})]
    facts = replace(FACTS, accounts=accounts)
    assert verdict(facts, False, bad) == (Level.BAD, "Not ready: no new calls are taken")
    assert verdict(facts, True, bad)[1] == "The API is out: the circuit breaker of a is open"
    facts = replace(FACTS, accounts=accounts[1:])
    assert verdict(facts, True, bad) == (Level.WARNING, "The API does not answer b as it should")
    assert verdict(FACTS, True, bad) == (
        Level.WARNING,
        "3 of the 13 calls of the last 5 minutes got no id",
    )
    assert verdict(FACTS, True, good) == (Level.OK, "All is well")
    many = replace(FACTS, accounts=tuple(AccountHealth(str(n), True) for n in range(9)))
    assert "of 0, 1, 2 and 6 more is open" in verdict(many, True, [])[1]


async def test_a_page_is_not_rendered_for_each_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with page() as shown:
        monkeypatch.setattr(server, "RENDER_EVERY", 60.0)
        first = (await shown.get()).body
        shown.watch.add(record())
        assert (await shown.get()).body == first


# Hostile texts.


@pytest.mark.parametrize(
    "name", ["outcome", "did", "caller", "route", "call_id", "unique_id", "reason"]
)
async def test_a_hostile_text_is_text(name: str) -> None:
    async with page() as shown:
        shown.watch.add(record(**{name: "harmless"}))
        clean = Text((await shown.get()).body)
        shown.clock.advance(3600.0)
        for _ in range(MOST_CALLS):
            shown.watch.add(record(**{name: HOSTILE}))
        body = (await shown.get()).body
        message = await first(shown)
    text = Text(body)
    assert text.tags.count("script") == text.tags.count("style") == 1
    assert "img" not in text.tags
    assert {name for name, _ in text.attributes} == {name for name, _ in clean.attributes}
    column = {"call_id": "id", "unique_id": "id"}.get(name, name)
    assert text.column(column) == [HOSTILE.encode("utf-8", "replace").decode()] * MOST_CALLS
    assert HOSTILE in message["calls"][0]


async def test_hostile_texts_beside_calls_are_text() -> None:
    async with page() as shown:
        shown.facts = Facts(
            version=HOSTILE,
            pbx=HOSTILE,
            started=0.0,
            listening=((HOSTILE, HOSTILE),),
            accounts=(AccountHealth(HOSTILE, True, HOSTILE),),
            configuration=HOSTILE,
        )
        text = Text((await shown.get()).body)
        assert "accounts" in await first(shown)
    assert text.tags.count("script") == text.tags.count("style") == text.tags.count("title") == 1
    assert "img" not in text.tags


async def test_a_long_text_is_cut() -> None:
    async with page() as shown:
        shown.watch.add(record(**dict.fromkeys(["did", "caller", "reason", "route"], "x" * 10**6)))
        assert len((await shown.get()).body) < 100_000
        message = await first(shown)
    assert len(json.dumps(message)) < 10_000


async def test_a_message_is_one_line_of_ascii() -> None:
    async with page() as shown:
        shown.watch.add(record(reason="a\r\n\r\ndata: b\u2028\u0085c"))
        reader, writer = await shown.connect()
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"retry: 2000\n\n\r\n")
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
    assert data.startswith(b"data: {")
    assert (data.count(b"\n"), data.count(b"\r"), data.isascii()) == (2, 0, True)


# Headers.


async def test_the_policy_allows_the_page_its_own_style_and_script_and_nothing_else() -> None:
    async with page() as shown:
        answer = await shown.get()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest())
        assert f"{tag}-src 'sha256-{digest.decode()}'" in policy
    assert not re.search(rb"https?://", answer.body.replace(b"http://www.w3.org/2000/svg", b""))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/none", 404)],
)
async def test_every_answer_is_guarded_and_ends_its_connection(path: str, status: int) -> None:
    async with page() as shown:
        answer = await shown.get(path)
    assert answer.status == status
    for name, value in {
        "cache-control": "no-store",
        "connection": "close",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }.items():
        assert answer.headers[name] == value
    assert "content-security-policy" in answer.headers
    assert "server" not in answer.headers


# What machines ask.


async def test_a_load_balancer_and_a_monitoring_system_are_answered() -> None:
    async with page() as shown:
        assert (await shown.get("/healthz")).body == b"ok\n"
        assert (await shown.get("/readyz")).body == b"ready\n"
        shown.ready = False
        assert (await shown.get("/healthz")).status == 200
        assert (await shown.get("/readyz")).status == 503
        metrics = await shown.get("/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert metrics.body == b"calls_total 1\n"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
async def test_a_request_of_http_1_0_without_a_host_is_answered_to_balancers_only(
    path: str,
) -> None:
    async with page() as shown:
        answer = Answer.of(await shown.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode()))
    assert answer.status == (421 if path == "/" else 200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/events", "/healthz", "/metrics"])
async def test_nothing_can_be_changed(method: str, path: str) -> None:
    async with page() as shown:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
        assert Answer.of(await shown.raw(request.encode())).status == 405


async def test_a_head_of_the_page_and_of_the_stream_ends() -> None:
    async with page() as shown:
        for path in ("/", "/events"):
            answer = Answer.of(
                await shown.raw(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            )
            assert (answer.status, answer.body.strip(b"0\r\n")) == (200, b"")
