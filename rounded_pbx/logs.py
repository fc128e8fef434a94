"""The log: one line an event, as text or as JSON, each with the call that it belongs to.

Whatever a caller, a switch or the API said cannot begin a line or move a cursor in it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict
from typing import Literal

from .call import clean
from .records import CallRecord

Format = Literal["text", "json"]

#: The switch's unique id of the call that is being handled; every task of a session inherits it.
CALL: ContextVar[str] = ContextVar("call", default="")


class _Formatter(logging.Formatter):
    """What both formats share: one line, whatever stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return self.line(record, clean(record.getMessage(), LONGEST), clean(CALL.get(), 80))

    def line(self, record: logging.LogRecord, message: str, call: str) -> str:
        """The line, of what is safe to write."""
        raise NotImplementedError

    def trace(self, record: logging.LogRecord) -> list[str]:
        """The lines of a traceback, if there is one."""
        text = self.formatException(record.exc_info) if record.exc_info else ""
        lines = (clean(line, LONGEST) for line in text.splitlines())
        return [line for line in lines if line]


#: Characters of a message that are written.
LONGEST = 8192


class TextFormatter(_Formatter):
    """``2026-11-26 03:30:00,123 INFO rounded_pbx.handler [1795328067.92]: STAGED did=…``."""

    def line(self, record: logging.LogRecord, message: str, call: str) -> str:
        """A traceback follows its message, on the same line."""
        where = f"{record.name} [{call}]" if call else record.name
        said = " | ".join([message, *self.trace(record)])
        return f"{self.formatTime(record)} {record.levelname} {where}: {said}"


class JsonFormatter(_Formatter):
    """One JSON object a line; ``time`` is UTC; what became of a call has fields of its own."""

    def line(self, record: logging.LogRecord, message: str, call: str) -> str:
        """ASCII only, so that nothing downstream has to know of other characters."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if call:
            event["call"] = call
        if trace := self.trace(record):
            event["traceback"] = trace
        told = getattr(record, "record", None)
        if isinstance(told, CallRecord):
            fields = asdict(told)
            del fields["time"], fields["number"]
            event |= fields
        return json.dumps(event)


FORMATTERS: dict[Format, Callable[[], logging.Formatter]] = {
    "text": TextFormatter,
    "json": JsonFormatter,
}


def configure(form: Format, *, verbose: bool) -> None:
    """Log to standard error from now on; ``verbose`` adds what only a developer wants."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATTERS[form]())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True
    )
    for noisy in ("httpx", "httpcore", "panoramisk"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
