"""The status page as HTML: whole without JavaScript, and every text in it escaped."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

from ...records import CallRecord
from ...watch import MINUTES, Minute, Watch
from .facts import LATELY, AccountHealth, Facts, Group, Level, group_of, verdict, worst_first
from .messages import Told, counts, mark, problem, row

#: Seconds after which a browser without JavaScript loads the page again.
RELOAD = 15
#: A plot, in units of its own.
_WIDTH, _HEIGHT = 10, 100

_MARKS = {Level.OK: "\N{BLACK CIRCLE}", Level.WARNING: "\N{BLACK UP-POINTING TRIANGLE}"}
_COUNTS = {
    "total": "calls since the start",
    "in_flight": "stagings in flight",
    "prestaged": "prestaged",
    "dropped": "errands dropped",
    "refused": "connections refused",
}
_GROUPS = {
    Group.STAGED: "staged",
    Group.INITIATED: "with an id, not seen ready",
    Group.FAILED: "without an id",
    Group.HANGUP: "hung up before",
}
_COLUMNS = ("Time", "Outcome", "DID", "Caller", "Route", "ms", "Call id", "Reason")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


_STYLE, _SCRIPT = _asset("page.css"), _asset("page.js")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def policy(style: str, script: str) -> str:
    """Nothing but this style and this script, and events from where the page came from."""
    own = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'"
    nothing = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {own}; img-src data:; {nothing}"


POLICY = policy(_STYLE, _SCRIPT)


def render(watch: Watch, told: Told) -> bytes:
    """The page."""
    facts, minutes = told.facts, watch.last(MINUTES)
    level, text = verdict(facts, told.ready, minutes[-LATELY:])
    parts = [
        _HEAD.format(
            title=escape(f"{text} \N{MIDDLE DOT} {facts.pbx}"), style=_STYLE, reload=RELOAD
        ),
        f'<body data-page="{mark(facts)}">\n',
        _header(facts, told.total, level, text),
        "<main>\n",
        _accounts(facts.accounts),
        _plots(minutes),
        _calls(watch.calls(0, told.total)),
        "<details><summary><h2>Configuration</h2></summary>\n"
        f"<p>As it runs, without secrets.</p>\n<pre>{escape(facts.configuration)}</pre>\n"
        "</details>\n",
        f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n",
    ]
    return "".join(parts).encode("utf-8", "replace")


_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<noscript><meta http-equiv="refresh" content="{reload}"></noscript>
</head>
"""


def _header(facts: Facts, total: int, level: Level, text: str) -> str:
    mark = _MARKS.get(level, "\N{BLACK SQUARE}")
    numbers = "".join(
        f'<div><dt>{label}</dt><dd id="{name}">{number}</dd></div>'
        for (name, label), number in zip(_COUNTS.items(), counts(facts, total), strict=True)
    )
    listening = ", ".join(f"{escape(name)} {escape(where)}" for name, where in facts.listening)
    return (
        f"<header>\n<h1>rounded_pbx <small>on {escape(facts.pbx)}</small></h1>\n"
        f'<p id="health" class="{level}" role="status"><span aria-hidden="true">{mark}</span> '
        f"<b>{escape(text)}</b></p>\n<dl>{numbers}</dl>\n"
        f"<p>Version {escape(facts.version)}, up since {_time(facts.started)}, "
        f"listening: {listening or 'nowhere'}.</p>\n"
        f'<p id="live">As of {_time(time.time())}. '
        f'<a href="">Load again</a><noscript>; it is, every {RELOAD} seconds</noscript></p>\n'
        "</header>\n"
    )


def _accounts(accounts: Iterable[AccountHealth]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(account.name)}</th>{_breaker(account)}{_api(account)}</tr>\n'
        for account in worst_first(accounts)
    )
    return (
        '<section aria-labelledby="accounts_h"><h2 id="accounts_h">Accounts</h2>\n'
        '<div class="scroll few" role="region" tabindex="0" aria-labelledby="accounts_h">'
        '<table><thead><tr><th scope="col">Account</th>'
        '<th scope="col">Circuit breaker</th><th scope="col">API</th></tr></thead>\n'
        f'<tbody id="accounts">{rows}</tbody></table></div></section>\n'
    )


def _breaker(account: AccountHealth) -> str:
    open_ = account.breaker_open
    return f'<td class="{"bad" if open_ else "ok"}">{"open" if open_ else "closed"}</td>'


def _api(account: AccountHealth) -> str:
    if account.problem is None:
        return "<td>not asked yet</td>"
    shown = escape(problem(account.problem) or "")
    return f'<td class="bad">{shown}</td>' if shown else '<td class="ok">answers</td>'


def _plots(minutes: Sequence[Minute]) -> str:
    totals: dict[str, int] = {}
    for minute in minutes:
        for outcome, number in minute.outcomes.items():
            totals[outcome] = totals.get(outcome, 0) + number
    most = nice(max(sum(minute.outcomes.values()) for minute in minutes))
    longest = nice(max(minute.p95 or 0 for minute in minutes))
    bars = "".join(_bar(x, minute, most) for x, minute in enumerate(minutes))
    ranges = "".join(_range(x, minute, longest) for x, minute in enumerate(minutes))
    key = "".join(f'<li class="{group}">{label}</li>' for group, label in _GROUPS.items())
    counted = ", ".join(f"{escape(name)} {number}" for name, number in sorted(totals.items()))
    return (
        '<section aria-labelledby="hour_h"><h2 id="hour_h">The last hour</h2>\n'
        '<div class="plots">\n'
        + _figure("calls_plot", "Calls a minute, by outcome", key, str(most), bars)
        + _figure(
            "ms_plot",
            "Milliseconds of a call, by minute",
            '<li class="p50">half of the calls took no longer</li>'
            '<li class="p95">95 % took no longer</li>',
            f"{longest} ms",
            ranges,
        )
        + f'</div>\n<p id="outcomes">{counted or "No calls"}.</p></section>\n'
    )


def _figure(name: str, title: str, key: str, most: str, drawn: str) -> str:
    return (
        f'<figure><figcaption><h3 id="{name}_h">{title}</h3><ul class="key">{key}</ul></figcaption>'
        f'<span class="most" id="{name}_most">{most}</span>'
        f'<svg id="{name}" role="img" aria-labelledby="{name}_h" preserveAspectRatio="none" '
        f'viewBox="0 0 {_WIDTH * MINUTES} {_HEIGHT}">{drawn}</svg>'
        '<div class="axis"><span>an hour ago</span><span>now</span></div></figure>\n'
    )


def nice(value: int) -> int:
    """The next 1, 2 or 5 with noughts: where a scale ends."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if value <= factor * step:
                return factor * step
        step *= 10


def _bar(x: int, minute: Minute, most: int) -> str:
    groups = dict.fromkeys(Group, 0)
    for outcome, number in minute.outcomes.items():
        groups[group_of(outcome)] += number
    drawn, top = "", float(_HEIGHT)
    for group, number in groups.items():
        height = _HEIGHT * number / most
        top -= height
        drawn += _rect(x, top, height, group) if number else ""
    return drawn


def _range(x: int, minute: Minute, longest: int) -> str:
    if minute.p50 is None or minute.p95 is None:
        return ""
    p50, p95 = (_HEIGHT * value / longest for value in (minute.p50, minute.p95))
    return _rect(x, _HEIGHT - p95, p95, "p95") + _rect(x, _HEIGHT - p50, p50, "p50")


def _rect(x: int, y: float, height: float, name: str) -> str:
    return (
        f'<rect class="{name}" x="{x * _WIDTH + 1}" y="{y:.1f}" width="{_WIDTH - 2}" '
        f'height="{height:.1f}"/>'
    )


def _calls(records: Sequence[CallRecord]) -> str:
    columns = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    return (
        '<section aria-labelledby="calls_h"><h2 id="calls_h">Calls</h2>\n'
        '<p id="tools" hidden><label>Show only <input id="filter" type="search" '
        'placeholder="a number, an id, an outcome" autocomplete="off" spellcheck="false"></label> '
        '<label><input id="hold" type="checkbox"> hold still</label> '
        '<span id="shown" role="status"></span></p>\n'
        '<div class="scroll" role="region" tabindex="0" aria-labelledby="calls_h">'
        f'<table class="calls"><thead><tr>{columns}</tr></thead>\n'
        f'<tbody id="calls">{"".join(_rows(records))}</tbody></table></div>\n'
        '<p id="none"><small>The last 200, newest first. The last four digits of callers are '
        "hidden.</small></p></section>\n"
    )


def _rows(records: Sequence[CallRecord]) -> Iterator[str]:
    for record in reversed(records):
        at, *texts = row(record)
        outcome, did, caller, route, ms, call_id, unique_id, reason = (
            escape(str(text)) for text in texts
        )
        yield (
            f'<tr class="{group_of(record.outcome)}"><td class="time">{_time(at)}</td>'
            f'<td class="outcome">{outcome}</td><td class="did">{did}</td>'
            f'<td class="caller">{caller}</td><td class="route">{route}</td>'
            f'<td class="ms">{ms}</td><td class="id"><code>{call_id}</code> '
            f'<small>{unique_id}</small></td><td class="reason">{reason}</td></tr>\n'
        )


def _time(at: object) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(at))))
