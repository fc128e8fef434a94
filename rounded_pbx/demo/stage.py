"""Where the actors of the demonstration speak."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.text import Text

from .sip import SipMessage

HEADER = "X-Rounded-Call-Id"
_COLOURS = {
    "caller": "cyan",
    "switch": "yellow",
    "daemon": "magenta",
    "API": "blue",
    "agent": "green",
    "fallback": "green",
}


class Stage(logging.Handler):
    """Lines with the milliseconds since the scene began; the daemon's log is one of the actors."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._begun = time.monotonic()
        self.invites: list[tuple[str, str]] = []

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._console.print()
        self._console.print(Text(title, "bold"))
        self._begun = time.monotonic()
        self.invites.clear()

    def say(self, actor: str, line: str, style: str = "") -> None:
        """One line of an actor."""
        ms = (time.monotonic() - self._begun) * 1000
        text = Text(f"{ms:6.0f} ms  ", "dim")
        text.append(f"{actor:9}", _COLOURS.get(actor, "")).append(line, style)
        self._console.print(text, soft_wrap=True)

    def invited(self, actor: str, invite: SipMessage) -> None:
        """An INVITE reached a callee."""
        call_id = invite.header(HEADER)
        self.invites.append((actor, call_id))
        self.say(actor, f"<- {invite.first_line}")
        if call_id:
            self.say(actor, f"   {HEADER}: {call_id}", "bold green")
        else:
            self.say(actor, f"   (no {HEADER})")

    def verdict(self, claim: str, *, holds: bool) -> None:
        """What a scene was to show, and whether it did."""
        mark = Text("ok      ", "bold green") if holds else Text("FAILED  ", "bold red")
        self._console.print(mark.append(claim, ""), soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self.say("daemon", record.getMessage())
