"""Where the actors of the demonstration speak."""

from __future__ import annotations

import asyncio
import logging
import time

from rich.console import Console
from rich.text import Text

from ..sip import SipMessage

HEADER = "X-Rounded-Call-Id"
_COLOURS = {
    "caller": "cyan",
    "switch": "yellow",
    "daemon": "magenta",
    "API": "blue",
    "agent": "green",
    "fallback": "green",
}


#: Seconds that a line waits for earlier ones: what Asterisk does is read from its log.
_PATIENCE = 0.05


class Stage(logging.Handler):
    """Lines with the milliseconds since the scene began; the daemon's log is one of the actors."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._begun = time.time()
        self._waiting: list[tuple[float, Text]] = []
        self.invites: list[tuple[str, str]] = []

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._console.print()
        self._console.print(Text(title, "bold"))
        self._begun = time.time()
        self.invites.clear()

    def say(self, actor: str, line: str, style: str = "", at: float | None = None) -> None:
        """One line of an actor, said now or at a time of the system's clock."""
        at = at or time.time()
        text = Text(f"{(at - self._begun) * 1000:6.0f} ms  ", "dim")
        text.append(f"{actor:9}", _COLOURS.get(actor, "")).append(line, style)
        self._waiting.append((at, text))

    async def show(self) -> None:
        """Show the lines in the order of their times, until cancelled."""
        while True:
            await asyncio.sleep(0.01)
            self.flush_before(time.time() - _PATIENCE)

    def flush_before(self, limit: float) -> None:
        """Show what was said before ``limit``."""
        self._waiting.sort(key=lambda entry: entry[0])
        while self._waiting and self._waiting[0][0] <= limit:
            self._console.print(self._waiting.pop(0)[1], soft_wrap=True)

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
