"""What ``rounded-pbx systemd`` says and does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from .config import Config
from .dialplan.install import BACKUP, Change, apply
from .units import reach
from .units.rendering import MARK, NAMES, SERVICE, credentials, other_sources, render

_READ = "systemctl daemon-reload"
_BEGIN = (_READ, "systemctl enable --now rounded-pbx")
# The sockets stay open: a call that comes meanwhile waits for the new daemon.
_AGAIN = (_READ, "systemctl enable rounded-pbx", "systemctl restart rounded-pbx")
# Stopped before the units are read: systemd would not stop a socket whose unit has gone.
_ANEW = ("systemctl stop rounded-pbx", *_BEGIN)


def units(config: Config, file: Path, err: Console) -> tuple[dict[str, str], bool]:
    """The units, and whether the service can run from them: what keeps it from it is said."""
    try:
        program = reach.program()
    except OSError as error:
        err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    file = file.absolute()
    problems = [
        f"{path}: {problem}"
        for path in [*reach.needed(program), file]
        if (problem := reach.out_of_reach(path)) is not None
    ]
    for problem in problems:
        err.print(f"[bold red]error[/] {escape(problem)}", soft_wrap=True)
    if problems:
        err.print(
            "The service runs as a user of its own, and could not start. Install where others can "
            "read, after umask 022: PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install …",
            soft_wrap=True,
        )
    for note in _notes(config, file.parent):
        err.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    return render(config, program=program, file=file), not problems


def show(units: Mapping[str, str], folder: Path, out: Console) -> None:
    """What to put where, and what is to be done besides."""
    for name, text in units.items():
        out.rule(f"[bold]{escape(str(folder / name))}[/]", align="left")
        typer.echo(text, nl=False)
    out.rule("[bold]What is left to you[/]", align="left")
    _say(_ANEW if any((folder / name).exists() for name in NAMES) else _BEGIN, out)


def install(units: Mapping[str, str], folder: Path, out: Console, err: Console) -> None:
    """Write the units, and remove a socket of ours that is no longer wanted.

    No units at all remove the service, too.
    """
    try:
        changes = [
            change
            for name in NAMES
            if (change := _change(folder / name, units.get(name))) is not None
        ]
        for change in changes:
            apply(change)
            done = "removed" if change.after is None else "written"
            out.print(f"[green]{done}[/] {escape(str(change.path))}", soft_wrap=True)
    except OSError as error:
        err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    if not changes:
        out.print("[green]nothing to do[/]: everything is as it should be")
        return
    if any(change.before is not None and change.after is not None for change in changes):
        out.print(f"What was there before stands beside each, with the ending {BACKUP}")
    if not units:
        _say((_READ,), out)
    elif all(change.before is None for change in changes):
        _say(_BEGIN, out)
    else:
        _say(_AGAIN if all(change.path.name == SERVICE for change in changes) else _ANEW, out)


def _change(path: Path, text: str | None) -> Change | None:
    """What becomes of a unit; one that is not from here is not removed."""
    before = path.read_bytes() if path.exists() else None
    after = None if text is None else text.encode()
    if before == after or (after is None and not (before or b"").startswith(MARK.encode())):
        return None
    return Change(path, before, after)


def _notes(config: Config, folder: Path) -> Iterator[str]:
    for name in credentials(config):
        if not os.path.exists(folder / name):  # noqa: PTH110 - a Path's own raises PermissionError
            yield f"the credential {name} is not there yet: expected it in {folder / name}"
    for place, file in other_sources(config):
        if file is None:
            yield f"{place}: the service has that variable only if you give it one: systemctl edit"
        elif reach.out_of_reach(file) is not None:
            yield (
                f"{place}: the service cannot read {file}; expected credential: {file.name}, which "
                "systemd hands to it"
            )
    ca_file = config.api.ca_file
    if ca_file is not None and (problem := reach.out_of_reach(ca_file.absolute())) is not None:
        yield f"api.ca_file: the service cannot read {ca_file}, and could not start: {problem}"


def _say(commands: tuple[str, ...], out: Console) -> None:
    out.print("Then:")
    for command in commands:
        out.print(f"    {command}")
