"""What ``rounded-pbx doctor`` says, as it finds it."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from .config import config_path, load, read_secrets
from .doctor.examine import examine, not_to_be_used
from .doctor.prove import prove as prove_calls
from .doctor.results import CheckResult, Verdict, exit_status, wrong
from .errors import ConfigError

_SHOWN = {
    Verdict.RIGHT: "[green]right[/]  ",
    Verdict.LOOK: "[bold yellow]LOOK[/]   ",
    Verdict.WRONG: "[bold red]WRONG[/]  ",
    Verdict.SKIPPED: "[dim]skipped[/]",
}
_INDENT = " " * 9


async def run(given: Path | None, *, prove: bool, live: bool, as_json: bool, out: Console) -> int:
    """Look, say what is seen, and return the exit status."""
    doing = asyncio.current_task()
    assert doing is not None  # noqa: S101 - this runs in one
    for number in (signal.SIGTERM, signal.SIGHUP):  # a rehearsal clears away what it has made
        asyncio.get_running_loop().add_signal_handler(number, doing.cancel)
    # What a library or the stand-in for the daemon logs is no part of what is said here.
    logging.getLogger().addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what is no Latin-1 is said all the same
            stream.reconfigure(errors="replace")
    results = []
    try:
        async for result in _results(config_path(given), prove=prove, live=live):
            results.append(result)
            if not as_json:
                _say(result, out)
    except Exception as error:  # what it found so far must not be lost, nor taken for all
        failed = wrong(
            "doctor", f"{type(error).__name__}: {error}", "a defect of ours", "report it"
        )
        results.append(failed)
        if not as_json:
            _say(failed, out)
    status = exit_status(results)
    if as_json:
        found = [dataclasses.asdict(result) for result in results]
        typer.echo(json.dumps({"status": status, "checks": found}, indent=2, ensure_ascii=True))
    else:
        count = Counter(result.verdict for result in results)
        words = {
            Verdict.WRONG: "wrong",
            Verdict.LOOK: "to look at",
            Verdict.SKIPPED: "skipped",
            Verdict.RIGHT: "right",
        }
        said = [f"{count[verdict]} {word}" for verdict, word in words.items() if count[verdict]]
        out.print(f"\n{', '.join(said)}")
    return status


async def _results(path: Path, *, prove: bool, live: bool) -> AsyncIterator[CheckResult]:
    try:
        config = load(path)
    except ConfigError as error:
        for result in not_to_be_used(error):
            yield result
        return
    async for result in examine(path, config):
        yield result
    if prove:
        try:
            keys = {n: k.get_secret_value() for n, k in read_secrets(path, config).keys.items()}
        except ConfigError:
            keys = {}  # which examine has said
        async for result in prove_calls(config, keys, live=live):
            yield result


def _say(result: CheckResult, out: Console) -> None:
    name = f"{result.name:26}"
    out.print(f"{_SHOWN[result.verdict]} [bold]{name}[/] {escape(result.seen)}", soft_wrap=True)
    for label, text in (("why", result.wrong), ("do", result.todo)):
        if text:
            out.print(f"{_INDENT}[bold]{label:4}[/]{escape(text)}", soft_wrap=True)
    for line in result.evidence:
        out.print(f"{_INDENT}[cyan]{escape(line)}[/]", soft_wrap=True)
