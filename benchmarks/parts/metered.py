"""The daemon, with a meter on its status page.

``python -m benchmarks.parts.metered FILE serve …`` is ``python -m rounded_pbx serve …``; FILE holds
the seconds of CPU that the page has taken so far, as a double.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Coroutine, Generator
from pathlib import Path
from time import thread_time
from types import coroutine
from typing import Any

from starlette.types import Receive, Scope, Send

from rounded_pbx import cli
from rounded_pbx.records import CallRecord
from rounded_pbx.servers.status.events import Events
from rounded_pbx.servers.status.gate import Gate
from rounded_pbx.watch import Watch

_DOUBLE = struct.Struct("d")


def read(file: Path) -> float:
    """Seconds of CPU of the page, up to now."""
    return float(_DOUBLE.unpack(file.read_bytes())[0])


def attach(file: Path) -> None:
    """Meter what the page does: each answer and stream, each telling, each call that it notes."""
    file.write_bytes(_DOUBLE.pack(0.0))
    with file.open("r+b") as opened:
        shown = mmap.mmap(opened.fileno(), _DOUBLE.size)
    total = 0.0

    def count(seconds: float) -> None:
        nonlocal total
        total += seconds
        _DOUBLE.pack_into(shown, 0, total)

    @coroutine
    def metered(work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        """Do the work, and count each of its steps."""
        raised: BaseException | None = None
        while True:
            began = thread_time()
            try:
                waits = work.send(None) if raised is None else work.throw(raised)
            except StopIteration:
                return
            finally:
                count(thread_time() - began)
            try:
                yield waits
                raised = None
            except BaseException as error:
                raised = error

    add, answer, tell = Watch.add, Gate.__call__, Events._tell

    def metered_add(watch: Watch, record: CallRecord) -> None:
        began = thread_time()
        add(watch, record)
        count(thread_time() - began)

    async def metered_answer(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        await metered(answer(gate, scope, receive, send))

    async def metered_tell(events: Events) -> None:
        await metered(tell(events))

    for owner, name, instead in (
        (Watch, "add", metered_add),
        (Gate, "__call__", metered_answer),
        (Events, "_tell", metered_tell),
    ):
        setattr(owner, name, instead)


if __name__ == "__main__":
    attach(Path(sys.argv.pop(1)))
    cli.main()
