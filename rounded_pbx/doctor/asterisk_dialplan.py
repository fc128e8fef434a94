"""What Asterisk has loaded, beside what we would write: pure, over ShowDialPlan's events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: Where a call enters; every other context of ours is entered from our own only.
ENTRANCE, EARLY_ENTRANCE = "rounded", "rounded-prestage"
FROM_AGENT = "rounded-from-agent"
#: What a call passes that was not prestaged.
STRAIGHT = (ENTRANCE, "rounded-call", "rounded-goto", "rounded-stage", "rounded-header")
INNER = (*STRAIGHT[1:], "rounded-left", "rounded-abandon", FROM_AGENT)
OURS = (ENTRANCE, EARLY_ENTRANCE, *INNER)

_LINE = re.compile(
    r"(?:exten => (?P<extension>[^,]+),1|[ ]same => n(?:\((?P<label>\w+)\))?)"
    r",(?P<application>\w+)\((?P<data>.*)\)"
)
_INNER_NAME = re.compile(r"(?<![\w-])(?:" + "|".join(INNER) + r")(?![\w-])")
_ENTRANCE_NAME = re.compile(r"(?<![\w@/-])rounded(?:,|-prestage,[^,]*,1\()")
_HANDLER = re.compile(r"(\w?)\(rounded-header\^")


@dataclass(frozen=True, slots=True)
class Line:
    """One priority of an extension."""

    context: str
    extension: str
    priority: int
    application: str
    data: str
    label: str = ""

    @property
    def place(self) -> str:
        """Where it stands, as an admin writes it."""
        return f"{self.context},{self.extension},{self.priority}"

    @property
    def text(self) -> str:
        """What it does."""
        label = f"({self.label}) " if self.label else ""
        return f"{label}{self.application}({self.data})"


@dataclass(frozen=True, slots=True)
class Dialplan:
    """Contexts, their lines, and which context includes which."""

    contexts: frozenset[str]
    lines: tuple[Line, ...]
    includes: tuple[tuple[str, str], ...] = ()

    def of(self, context: str) -> dict[tuple[str, int], Line]:
        """The lines of a context, by extension and priority."""
        return {(li.extension, li.priority): li for li in self.lines if li.context == context}


def written(text: str) -> Dialplan:
    """What a file of ours holds; comments are left out."""
    lines: list[Line] = []
    contexts: list[str] = []
    for row in text.splitlines():
        row = re.sub(r"\s+;.*", "", row).rstrip()
        if row.startswith("["):
            contexts.append(row.strip("[]"))
        elif found := _LINE.fullmatch(row):
            last = lines[-1] if lines else None
            begins = found["extension"]
            lines.append(
                Line(
                    contexts[-1],
                    begins or (last.extension if last else ""),
                    1 if begins or last is None else last.priority + 1,
                    found["application"],
                    found["data"],
                    found["label"] or "",
                )
            )
    return Dialplan(frozenset(contexts), tuple(lines))


def loaded(events: Iterable[Mapping[str, str]]) -> Dialplan:
    """What ShowDialPlan tells."""
    contexts, lines, includes = set(), [], []
    for event in events:
        context = event.get("context", "")
        contexts.add(context)
        priority = event.get("priority", "")
        if "includecontext" in event:
            includes.append((context, event["includecontext"]))
        elif "switch" in event:
            includes.append((context, f"the switch {event['switch']}"))
        elif priority == "hint":
            includes.append((context, f"a hint of {event.get('extension', '')}"))
        elif re.fullmatch(r"[0-9]{1,6}", priority):
            lines.append(
                Line(
                    context,
                    event.get("extension", ""),
                    int(priority),
                    event.get("application", ""),
                    event.get("appdata", ""),
                    event.get("extensionlabel", ""),
                )
            )
    return Dialplan(frozenset(contexts), tuple(lines), tuple(includes))


def handler_problem(live: Dialplan) -> str:
    """What is wrong with the line that puts the header on; nothing if it is on the agent's leg."""
    calls = [line for line in live.lines if line.context in (ENTRANCE, "rounded-call")]
    options = [
        (line, found[1])
        for line in calls
        if line.application.lower() == "dial"
        for found in _HANDLER.finditer(line.data)
    ]
    for line, option in options:
        if option != "b":
            whose = {"B": "on the caller's channel", "U": "after the agent has answered"}
            when = whose.get(option, "elsewhere than before the agent's INVITE")
            return f"{line.place}: {option}(rounded-header…) runs {when}; expected b(…)"
    for line in calls:
        if line.application.lower() == "gosub" and "rounded-header" in line.data:
            return f"{line.place}: {line.text} runs on the caller's channel; expected b(…) of Dial"
    return "" if options else "no Dial of rounded-call runs rounded-header: no INVITE has the id"


@dataclass(frozen=True, slots=True)
class Difference:
    """A line that is not as we would write it; ``live`` is None where it is missing."""

    text: str
    live: Line | None = None


def compared(
    expected: Dialplan, live: Dialplan, contexts: Iterable[str] = OURS
) -> list[Difference]:
    """Where our contexts differ from what we would write; those that are missing are left out."""
    found = []
    for context in contexts:
        if context not in live.contexts:
            continue
        want, have = expected.of(context), live.of(context)
        for key in [*want, *(key for key in have if key not in want)]:
            line, other = want.get(key), have.get(key)
            if line is None and other is not None:
                found.append(Difference(f"{other.place}: {other.text} is not from us", other))
            elif line is not None and other is None:
                found.append(Difference(f"{line.place}: {line.text} is missing"))
            elif line is not None and other is not None and line.text != other.text:
                found.append(Difference(f"{line.place}: {_beside(other.text, line.text)}", other))
        found += [
            Difference(f"{context} includes {other}")
            for here, other in live.includes
            if here == context
        ]
    return found


def _beside(live: str, expected: str) -> str:
    """Two texts that differ, from shortly before where they do."""
    same = next(
        (at for at, (a, b) in enumerate(zip(live, expected, strict=False)) if a != b),
        min(len(live), len(expected)),
    )
    start = max(0, same - 30)
    cut = "…" if start else ""
    return f"has {cut}{live[start : start + 90]}, expected {cut}{expected[start : start + 90]}"


def ways_in(live: Dialplan) -> list[Line]:
    """The admin's lines that lead to us."""
    return [
        line for line in live.lines if line.context not in OURS and _ENTRANCE_NAME.search(line.data)
    ]


def trespassers(live: Dialplan) -> list[str]:
    """What of the admin's dialplan enters one of our inner contexts."""
    found = [
        f"{line.place}: {line.application}({line.data[:80]})"
        for line in live.lines
        if line.context not in OURS and _INNER_NAME.search(line.data)
    ]
    found += [
        f"[{context}] includes {other}"
        for context, other in live.includes
        if context not in OURS and other in INNER
    ]
    return found


def dials_over_chan_sip(live: Dialplan) -> bool:
    """Whether what is loaded dials a peer of chan_sip, and no endpoint of PJSIP."""
    return any(line.data.startswith("SIP/") for line in live.lines if line.context in OURS)


def missing(expected: Dialplan, live: Dialplan) -> list[str]:
    """Our contexts that are not loaded, in their order in the file."""
    return [name for name in OURS if name in expected.contexts and name not in live.contexts]


def few(texts: Sequence[str], most: int = 3) -> str:
    """Some of them, and how many more there are."""
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
