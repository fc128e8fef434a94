"""The status page in a real Chromium: what an admin sees, and what a hostile caller cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rounded_pbx.config_status import Status
from rounded_pbx.servers.status import AccountHealth, Facts, StatusServer, events, server
from rounded_pbx.servers.status import page as pages
from rounded_pbx.watch import MOST_CALLS, Watch

from .helpers import CALL_ID, Clock
from .lab.chromium import Browser, Page, chromium, find
from .lab.daemon import FASTAGI, SandboxThread, config, daemon
from .lab.processes import free_port
from .status_page import FACTS, TOKEN, record
from .test_fastagi import Asterisk, environment

HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>&amp;'


@dataclass
class Site:
    """A status page in a thread of its own, which is told of calls from this one."""

    loop: asyncio.AbstractEventLoop
    options: dict[str, Any]
    clock: Clock = field(default_factory=lambda: Clock(0.0))
    facts: Facts = FACTS
    port: int = 0
    watch: Watch = field(init=False)
    status: StatusServer = field(init=False)

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def start(self) -> None:
        """Start it with nothing in memory, on its port, if it had one."""

        async def begin() -> None:
            self.watch = Watch(self.clock)
            section = {"listen": f"127.0.0.1:{self.port}", **self.options}
            self.status = StatusServer(
                Status.model_validate(section),
                watch=self.watch,
                ready=lambda: True,
                metrics=bytes,
                facts=lambda: self.facts,
            )
            self.port = (await self.status.start()).port

        self.do(begin())

    def stop(self) -> None:
        self.do(self.status.close())

    def add(self, *calls: dict[str, Any]) -> None:
        async def add() -> None:
            for call in calls:
                self.watch.add(record(**call))

        self.do(add())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def html(self) -> str:
        with urllib.request.urlopen(self.url) as answer:
            text: str = answer.read().decode()
            return text


@contextlib.contextmanager
def site(**options: Any) -> Iterator[Site]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = Site(loop, options)
    try:
        made.start()
        yield made
        made.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def never_an_old_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RENDER_EVERY", 0.0)


@pytest.fixture
def status() -> Iterator[Site]:
    with site() as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("no Chromium: scripts/unpack chromium, or install one")
    with chromium(program, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that nothing was wrong with in the end: no error, no violation, no foreign request."""
    with browser.page() as opened:
        opened.looks(1200, 900)
        yield opened
        opened.run("1")
        assert opened.complaints == []
        origins = {re.split("(?<=[^:/])/", url)[0] for url in opened.requests}
        assert len(origins - {"data:,"}) == 1, opened.requests


def live(page: Page) -> None:
    page.until(lambda: page.has("#live", "Live"), "the page to be live")


# What an admin sees.


def test_a_call_appears_within_two_seconds_without_a_reload(status: Site, page: Page) -> None:
    page.open(status.url)
    live(page)
    for number in range(4):
        time.sleep(0.4)
        told = time.monotonic()
        status.add({"did": f"+3360000000{number}", "call_id": CALL_ID})
        expected = f"+3360000000{number}"
        page.until(lambda: expected in page.texts("td.did"), "the call", within=4.0)  # noqa: B023
        assert time.monotonic() - told < 2.0
    assert page.loads == 1
    assert page.texts("td.did") == [f"+3360000000{number}" for number in (3, 2, 1, 0)]
    assert page.texts("#total") == ["4"]
    assert page.has("#outcomes", "STAGED 4.")


def test_the_script_shows_what_the_daemon_has_rendered(status: Site, page: Page) -> None:
    """The table, the plots and the accounts, before and after the first message."""
    status.facts = replace(
        FACTS,
        accounts=(
            AccountHealth("a", True, "503"),
            AccountHealth("b", False, ""),
            AccountHealth("c"),
        ),
    )
    for minute in range(70):
        status.clock.now = 60.0 * minute
        outcomes = ["STAGED", "INITIATED", "TIMEOUT", "HANGUP"][: minute % 5]
        status.add(*({"outcome": each, "ms": 37 * minute, "did": str(minute)} for each in outcomes))
    shown = (
        "#calls tr", "#accounts tr", "#calls_plot_most", "#ms_plot_most", "#outcomes", "#health",
        "header dd",
    )  # fmt: skip
    shapes = (
        "Array.from(document.querySelectorAll('svg rect'), r => [r.getAttribute('class'), "
        "r.x.baseVal.value, r.y.baseVal.value, r.height.baseVal.value].join(' ')).sort()"
    )
    page.command("Emulation.setScriptExecutionDisabled", value=True)
    page.open(status.url)
    rendered = [page.texts(selector) for selector in shown]
    drawn = page.run(shapes)
    page.command("Emulation.setScriptExecutionDisabled", value=False)
    page.open(status.url)
    live(page)
    scripted = [[each.replace(" Copy", "") for each in page.texts(sel)] for sel in shown]
    assert scripted == rendered
    assert len(drawn) > 200
    assert page.run(shapes) == drawn


def test_the_table_has_so_many_rows_and_no_more(status: Site, page: Page) -> None:
    status.add(*({"did": str(number)} for number in range(150)))
    page.open(status.url)
    live(page)
    for first, last in ((150, 260), (260, 1000)):
        status.add(*({"did": str(number)} for number in range(first, last)))
        page.until(lambda: page.texts("td.did")[0] == str(last - 1), "the newest")  # noqa: B023
        expected = [str(number) for number in range(last - 1, last - 1 - MOST_CALLS, -1)]
        assert page.texts("td.did") == expected
    assert page.loads == 1


def test_the_page_is_whole_without_javascript(
    status: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "RELOAD", 1)
    status.add({"did": "+33600000001", "call_id": CALL_ID, "outcome": "TIMEOUT"})
    with browser.page() as page:
        page.command("Emulation.setScriptExecutionDisabled", value=True)
        page.open(status.url)
        assert page.texts("td.did") == ["+33600000001"]
        assert page.texts("td.id code") == [CALL_ID]
        assert page.texts("button") == []
        assert not page.run("document.getElementById('tools').checkVisibility()")
        assert page.run("document.querySelectorAll('svg rect').length") > 0
        status.add({"did": "+33600000002"})
        loads = page.loads
        page.until(lambda: page.loads > loads, "the page to load itself again")
        assert page.texts("td.did") == ["+33600000002", "+33600000001"]
        assert status.status.viewers == 0
        assert page.complaints == []


@pytest.mark.parametrize("asked", ["x", "GET /"])
def test_the_configuration_is_folded_away(status: Site, page: Page, asked: str) -> None:
    status.facts = replace(FACTS, configuration=f"calls: {{deadline: 1.5}}\n{asked}\n")
    page.open(status.url)
    live(page)
    assert not page.run("document.querySelector('pre').checkVisibility()")
    page.run("document.querySelector('summary').click()")
    assert page.run("document.querySelector('pre').checkVisibility()")
    assert page.texts("pre") == [f"calls: {{deadline: 1.5}}\n{asked}\n"]


def test_a_number_an_id_or_an_outcome_is_found(status: Site, page: Page) -> None:
    status.add(
        {"did": "+33612345678", "caller": "+3370000****", "call_id": CALL_ID},
        {
            "did": "+33699999999",
            "caller": "+3314567****",
            "outcome": "TIMEOUT",
            "unique_id": "17.4",
        },
    )
    page.open(status.url)
    live(page)

    def found(text: str) -> list[str]:
        page.run(
            f"(f => {{ f.value = {text!r}; f.dispatchEvent(new Event('input')); }})"
            "(document.getElementById('filter'))"
        )
        shown: list[str] = page.run(
            "Array.from(document.querySelectorAll('#calls tr'))"
            ".filter(r => r.checkVisibility()).map(r => r.querySelector('.did').textContent)"
        )
        return shown

    one, two = "+33612345678", "+33699999999"
    assert found("") == [two, one]
    assert found("timeout") == [two]
    assert found(CALL_ID[:8].upper()) == [one]
    assert found("7.4") == [two]
    assert found("06 12 34 56 78") == [one]
    assert found("+33 6 99 99 99 99") == [two]
    assert found("01 45 67 89 01") == [two], "a caller, whose last digits nobody knows"
    assert found("0033145678901") == [two]
    assert found("0700001234") == [one]
    assert found("0145678") == []
    assert found("nothing of the kind") == []
    status.add({"did": "+33600000003", "outcome": "TIMEOUT"}, {"did": "+33600000004"})
    assert found("timeout") == [two]
    page.until(lambda: found("timeout") == ["+33600000003", two], "the new call, alone")
    assert page.has("#shown", "2 of 4 shown")


def test_the_table_can_be_held_still(status: Site, page: Page) -> None:
    status.add({"did": "1"})
    page.open(status.url)
    live(page)
    page.run("document.getElementById('hold').click()")
    status.add({"did": "2"}, {"did": "3"})
    page.until(lambda: page.has("#shown", "2 held back"), "the calls to be held back")
    assert page.texts("td.did") == ["1"]
    assert page.texts("#total") == ["3"]
    page.run("document.getElementById('hold').click()")
    assert page.texts("td.did") == ["3", "2", "1"]
    assert page.texts("#shown") == [""]


# The button.


def click(page: Page, selector: str) -> None:
    """Press and release the mouse on it, as a hand does."""
    page.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    box = page.run(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
        f"(document.querySelector({selector!r}).getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.command(
            "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1
        )


def test_the_button_copies_the_id(status: Site, page: Page) -> None:
    status.add({"call_id": CALL_ID}, {"outcome": "TIMEOUT"})
    page.open(status.url)
    live(page)
    page.browser.command(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        origin=status.url.rstrip("/"),
        browserContextId=page.context,
    )
    assert page.texts("button.copy") == ["Copy"], "there is nothing to copy of a call without an id"
    click(page, "button.copy")
    page.until(lambda: page.has("button.copy", "Copied"), "the button to say so")
    assert page.run("navigator.clipboard.readText()") == CALL_ID
    page.until(lambda: page.texts("button.copy") == ["Copy"], "the button to be as before")


def test_the_button_copies_where_the_browser_keeps_its_clipboard_to_itself(page: Page) -> None:
    """That is over plain HTTP from another machine."""
    with site(hosts=["pbx.test"]) as status:
        status.add({"call_id": CALL_ID})
        page.open(f"http://pbx.test:{status.port}/")
        live(page)
        assert page.run("[isSecureContext, typeof navigator.clipboard]") == [False, "undefined"]
        page.run("document.addEventListener('copy', () => window.copied = String(getSelection()))")
        click(page, "button.copy")
        page.until(lambda: page.has("button.copy", "Copied"), "the button to say so")
        assert page.run("window.copied") == CALL_ID


# Hostile callers.


def test_hostile_texts_are_text_and_no_script_of_theirs_runs(status: Site, page: Page) -> None:
    names = ("outcome", "did", "caller", "route", "call_id", "unique_id", "reason")
    status.facts = replace(FACTS, accounts=(AccountHealth(HOSTILE, True, HOSTILE),))
    status.add(*({name: HOSTILE} for name in names))

    def is_harmless() -> None:
        for name, column in zip(names, [*names[:4], "id code", "id small", "reason"], strict=True):
            assert page.texts(f"td.{column}").count(HOSTILE) == 1, name
        assert page.run("[document.images.length, document.scripts.length]") == [0, 1]
        assert page.run("window.owned") is None
        assert page.texts("#accounts th") == [HOSTILE]

    page.command("Emulation.setScriptExecutionDisabled", value=True)
    page.open(status.url)
    is_harmless()
    page.command("Emulation.setScriptExecutionDisabled", value=False)
    page.open(status.url)
    live(page)
    is_harmless()
    status.stop()
    status.start()
    page.until(lambda: not page.texts("td.did"), "the daemon that was started again")
    status.add(*({name: HOSTILE} for name in names))
    page.until(lambda: len(page.texts("td.did")) == len(names), "the calls")
    is_harmless()
    click(page, "button.copy")
    time.sleep(0.2)
    is_harmless()


def test_the_policy_stops_a_script_that_had_got_in(status: Site, browser: Browser) -> None:
    with browser.page() as page:
        page.open(status.url)
        page.run(
            "(d => { d.innerHTML = '<img src=x onerror=\"window.owned = 1\">'; "
            "document.body.append(d); })(document.createElement('div'))"
        )
        page.run("document.body.append(Object.assign(document.createElement('script'), "
                 "{textContent: 'window.owned = 1'}))")  # fmt: skip
        page.until(lambda: len(page.complaints) >= 2, "the browser to complain")
        assert page.run("window.owned") is None
        assert all("Content Security Policy" in each for each in page.complaints)


def test_a_foreign_name_that_leads_here_shows_nothing(status: Site, browser: Browser) -> None:
    status.add({"did": "+33600000001"})
    with browser.page() as page:
        page.command("Page.navigate", url=f"http://rebound.test:{status.port}/")
        page.until(lambda: any("421" in each for each in page.complaints), "the browser to say so")
        assert page.texts("td.did") == []


ATTACK = """<!DOCTYPE html><iframe id="frame" src="{url}"></iframe><script>
window.heard = [];
const source = new EventSource("{url}events");
source.onmessage = (event) => heard.push("message");
source.onerror = () => heard.push("refused");
fetch("{url}").then((answer) => heard.push("read"), () => heard.push("refused"));
fetch("{url}metrics", {{mode: "no-cors"}}).then((answer) => heard.push("opaque"), () => 0);
</script>"""


def test_another_page_can_neither_show_it_nor_read_it(status: Site, browser: Browser) -> None:
    class Attacker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = ATTACK.format(url=status.url).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    status.add({"did": "+33600000001"})
    with HTTPServer(("127.0.0.1", 0), Attacker) as attacker, browser.page() as page:
        thread = threading.Thread(target=attacker.serve_forever)
        thread.start()
        try:
            page.open(f"http://attacker.test:{attacker.server_port}/")
            page.until(lambda: len(page.run("heard")) >= 2, "the attack")
            time.sleep(0.3)
            assert set(page.run("heard")) == {"refused"}
            assert status.status.viewers == 0
            assert page.run("document.getElementById('frame').contentDocument") is None
            assert any("frame" in each.lower() for each in page.complaints)
        finally:
            attacker.shutdown()
            thread.join()


def test_a_browser_logs_in_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATUS_TOKEN", TOKEN)
    with site(token_env="STATUS_TOKEN") as status, browser.page() as page:
        status.add({"did": "+33600000001"})
        page.open(f"http://admin:{TOKEN}@127.0.0.1:{status.port}/")
        live(page)
        status.add({"did": "+33600000002"})
        page.until(lambda: "+33600000002" in page.texts("td.did"), "the call")
        assert page.complaints == []
        assert TOKEN not in page.run("document.documentElement.outerHTML")


# The line that breaks.


def test_a_daemon_that_is_started_again_is_found_again(status: Site, page: Page) -> None:
    status.add({"did": "before"})
    page.open(status.url)
    live(page)
    assert page.texts("td.did") == ["before"]
    status.stop()
    page.until(lambda: page.has("#health", "No word from the daemon"), "the page to say so")
    assert page.has("#live", "trying again")
    time.sleep(1.0)
    status.start()
    status.add({"did": "after"})
    page.until(lambda: page.texts("td.did") == ["after"], "the page to be right again")
    live(page)
    assert page.has("#health", "All is well")
    status.add({"did": "later"})
    page.until(lambda: page.texts("td.did") == ["later", "after"], "the next call")
    assert page.loads == 1
    page.complaints[:] = [each for each in page.complaints if "net::ERR_" not in each]


async def staged() -> str:
    """The id of a call that a real Asterisk would have asked for."""
    reader, writer = await asyncio.open_connection(FASTAGI.host, FASTAGI.port)
    asterisk = Asterisk(reader, writer)
    asterisk.write(environment())
    return (await asterisk.variables())["ROUNDED_CALL_ID"]


def test_a_daemon_that_is_killed_is_found_again_with_the_calls_that_it_knows(
    api: SandboxThread, page: Page, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    text = config(api.url) + f"status: {{listen: '{address}'}}\n"
    with daemon(tmp_path / "daemon", text) as served:
        page.open(f"http://{address}/")
        live(page)
        first = asyncio.run(staged())
        page.until(lambda: page.texts("td.id code") == [first], "the call")
        page.until(lambda: page.texts("#accounts td") == ["closed", "answers"], "the API's health")
        served.kill()
        page.until(lambda: page.has("#health", "No word from the daemon"), "the page to say so")
        served.start()
        second = asyncio.run(staged())
        page.until(lambda: page.texts("td.id code") == [second], "the page to be right again")
        live(page)
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 2.0
    assert "Traceback" not in served.log
    page.complaints[:] = [each for each in page.complaints if "net::ERR_" not in each]


def test_another_configuration_is_loaded_anew(status: Site, page: Page) -> None:
    page.open(status.url)
    live(page)
    page.run("document.getElementById('filter').value = 'kept'")
    status.facts = replace(FACTS, configuration="calls: {deadline: 9}\n", version="0.2.0")
    page.until(lambda: page.has("pre", "deadline: 9"), "the new configuration")
    live(page)
    assert page.run("document.getElementById('filter').value") == "kept"
    assert page.loads == 2


def test_a_viewer_too_many_is_shown_the_page_and_gets_in_later(
    status: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_VIEWERS", 0)
    status.add({"did": "1"})
    with browser.page() as page:
        page.open(status.url)
        page.until(lambda: page.has("#live", "No live updates"), "the page to say so")
        assert page.texts("td.did") == ["1"]
        monkeypatch.setattr(events, "MOST_VIEWERS", 1)
        status.add({"did": "2"})
        page.until(lambda: page.texts("td.did") == ["2", "1"], "room")
        live(page)


def test_a_daemon_that_says_nothing_any_more_is_noticed(
    status: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that broke in silence, as when a telephone has slept."""
    script = pages._SCRIPT.replace("SILENCE = 25000", "SILENCE = 1000")
    assert script != pages._SCRIPT
    monkeypatch.setattr(pages, "_SCRIPT", script)
    monkeypatch.setattr(events, "QUIET", 2.5)
    policy = pages.policy(pages._STYLE, script)
    status.status._state.default_headers = [
        (name, policy.encode() if name == b"content-security-policy" else value)
        for name, value in status.status._state.default_headers
    ]
    page.open(status.url)
    live(page)
    page.until(lambda: page.has("#health", "No word from the daemon"), "the page to say so")
    page.until(lambda: page.has("#health", "All is well"), "a new stream")


# How it looks.


WIDEST = "document.documentElement.scrollWidth"
LONG = {
    "did": "d" * 200,
    "caller": "c" * 200,
    "route": "r" * 64,
    "call_id": "i" * 200,
    "unique_id": "u" * 80,
    "reason": "no answer " * 20 + "w" * 200,
    "outcome": "UNAUTHORIZED",
    "ms": 123456,
}


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("width", [320, 360, 720, 800, 1200])
def test_nothing_is_wider_than_the_window(
    status: Site, page: Page, width: int, script: bool
) -> None:
    status.facts = replace(
        FACTS,
        pbx="p" * 64,
        listening=(("asterisk", "[2001:db8:1111:2222:3333:4444:5555:6666]:4573"),) * 2,
        accounts=(AccountHealth("a" * 64, True, "x" * 200),),
        configuration="c" * 500,
    )
    status.add({"did": "+33612345678", "caller": "+3314567****", "call_id": CALL_ID}, LONG)
    page.looks(width, 740)
    page.command("Emulation.setScriptExecutionDisabled", value=not script)
    page.open(status.url)
    if script:
        live(page)
    page.run("document.querySelector('details').open = true")
    assert page.run(WIDEST) <= width


def test_on_a_phone_a_call_is_read_without_scrolling_sideways(status: Site, page: Page) -> None:
    status.add({"did": "+33612345678", "caller": "+3314567****", "call_id": CALL_ID, "route": "a"})
    page.looks(360, 740)
    page.open(status.url)
    live(page)
    boxes = page.run(
        "Array.from(document.querySelectorAll('#calls td, #calls code, #calls button'), e => "
        "{ const b = e.getBoundingClientRect(); return [e.className, b.left, b.right]; })"
    )
    assert len(boxes) == 10
    for name, left, right in boxes:
        assert 0 <= left <= right <= 360, name
    size = page.run("parseFloat(getComputedStyle(document.querySelector('td.did')).fontSize)")
    assert size >= 13


CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const bright = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.tagName === "SCRIPT") continue;
    const one = bright(parse(getComputedStyle(e).color)), two = bright(behind(e));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    found.push([ratio, e.tagName + "." + e.className, e.textContent.slice(0, 30)]);
  }
  return {least: found.sort((a, b) => a[0] - b[0])[0], texts: found.length,
          page: bright(parse(getComputedStyle(document.body).backgroundColor))};
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_by_day_and_in_the_dark(
    status: Site, page: Page, scheme: str
) -> None:
    accounts = (AccountHealth("a", True, "503"), AccountHealth("b", False, ""), AccountHealth("c"))
    status.facts = replace(FACTS, accounts=accounts)
    outcomes = ("STAGED", "INITIATED", "TIMEOUT", "HANGUP")
    status.add(*({"outcome": each, "call_id": CALL_ID, "reason": "why"} for each in outcomes))
    page.looks(1200, 900, scheme)
    page.open(status.url)
    live(page)
    page.run("document.querySelector('details').open = true")
    for facts in (status.facts, replace(FACTS, accounts=accounts[1:]), FACTS):
        status.facts = facts
        page.until(
            lambda: len(page.texts("#accounts tr")) == len(facts.accounts),  # noqa: B023
            "the accounts",
        )
        seen = page.run(CONTRAST)
        assert seen["texts"] > 50
        assert seen["least"][0] >= 4.5, seen["least"]
        assert (seen["page"] < 0.02) if scheme == "dark" else (seen["page"] > 0.8)


def test_what_a_colour_says_is_said_in_words_too(status: Site, page: Page) -> None:
    page.open(status.url)
    live(page)
    tree = page.command("Accessibility.getFullAXTree")["nodes"]
    names = {(_value(node, "role"), _value(node, "name")) for node in tree}
    for expected in [
        ("heading", "Calls"), ("heading", "Accounts"), ("heading", "The last hour"),
        ("columnheader", "Outcome"), ("searchbox", "Show only"), ("checkbox", "hold still"),
        ("image", "Calls a minute, by outcome"),
    ]:  # fmt: skip
        assert expected in names
    assert page.run("document.getElementById('health').getAttribute('role')") == "status"


def _value(node: dict[str, Any], name: str) -> str:
    return str(node.get(name, {}).get("value", "")).strip()
