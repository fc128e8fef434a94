"""What ``rounded-pbx dialplan`` says and does."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from .config import Config
from .control import Control
from .dialplan.flavours import ABOUT, About, Flavour
from .dialplan.install import BACKUP, Change, Plan, apply, sweep
from .dialplan.rendering import Rendered
from .errors import SwitchError


def say_problems(problems: Sequence[str], err: Console) -> None:
    """Each in a line of its own, and exit status 2 if there are any."""
    for problem in problems:
        err.print(f"[bold red]error[/] {escape(problem)}", soft_wrap=True)
    if problems:
        raise typer.Exit(2)


def show(flavour: Flavour, rendered: Rendered, folder: Path | None, out: Console) -> None:
    """What to put where, and what is to be done besides."""
    about = ABOUT[flavour]
    for name, text in rendered.files.items():
        where = f"{folder / name}" if folder else f"the dialplan {name.removesuffix('.xml')}"
        out.rule(f"[bold]{escape(where)}[/]", align="left")
        typer.echo(text, nl=False)
    out.rule("[bold]What is left to you[/]", align="left")
    for name, ours in about.includes:
        out.print(escape(f"At the top of {name}: #include {ours}"), soft_wrap=True)
    _say_left(about, rendered, out)
    _say_reload(about, out)


def differences(plan: Plan, out: Console) -> None:
    """The changes as a unified diff; exit status 1 where there are some, as diff has it."""
    for change in plan.changes:
        for line in difflib.unified_diff(
            _lines(change.before), _lines(change.after), str(change.path), str(change.path)
        ):
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[0])
            text = escape(line.rstrip("\r\n"))
            out.print(f"[{colour}]{text}[/]" if colour else text, soft_wrap=True)
    if plan.changes:
        raise typer.Exit(1)
    out.print("[green]nothing differs[/]")


def make(
    plan: Plan,
    flavour: Flavour,
    folder: Path,
    rendered: Rendered | None,
    read: Callable[[], None] | None,
    out: Console,
    err: Console,
) -> None:
    """Make the changes, saying each; then what is left to be done.

    ``rendered`` is None to uninstall; ``read`` lets the switch read its files, also those that were
    changed before: an earlier run may have failed to.
    """
    about = ABOUT[flavour]
    with contextlib.suppress(OSError):  # the changes, if there are some, will say it better
        sweep(flavour, folder)
    if not plan.changes:
        out.print("[green]nothing to do[/]: everything is as it should be")
    for change in plan.changes:
        try:
            apply(change)
        except OSError as error:
            err.print(f"[bold red]error[/] {escape(f'{change.path}: {error}')}", soft_wrap=True)
            err.print("What stands above is done; the same command goes on from there.")
            raise typer.Exit(1) from None
        out.print(f"[green]{_done(change)}[/] {escape(str(change.path))}", soft_wrap=True)
    if any(change.before is not None and change.after is not None for change in plan.changes):
        out.print(f"What was there before stands beside each, with the ending {BACKUP}")
    if plan.changes and rendered is not None:
        _say_left(about, rendered, out)
    if read is None:
        if plan.changes:
            _say_reload(about, out)
        return
    try:
        read()
    except (OSError, SwitchError) as error:
        err.print(f"[bold red]error[/] not read yet: {escape(str(error))}", soft_wrap=True)
        _say_reload(about, err)
        raise typer.Exit(1) from None
    out.print("[green]read[/] by the switch")


def reader(flavour: Flavour, config: Config) -> Callable[[], None]:
    """What lets the switch read its configuration; exit status 2 if it cannot be known how."""
    if flavour is Flavour.FREEPBX:
        return _fwconsole
    try:
        control = switch_of(flavour, config)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--reload") from None
    return lambda: asyncio.run(_reload(control))


def switch_of(flavour: Flavour, config: Config) -> Control:
    """The switch to log in to.

    Raises:
        ValueError: the configuration does not say how, or the secret cannot be read.
    """
    from .control import login

    to = login.to_freeswitch if flavour is Flavour.FREESWITCH else login.to_asterisk
    return to(config)


async def _reload(control: Control) -> None:
    await control.log_in()
    try:
        await control.reload()
    finally:
        await control.close()


def _fwconsole() -> None:
    ran = subprocess.run(["fwconsole", "reload"], capture_output=True, text=True, check=False)  # noqa: S607
    if ran.returncode:
        raise OSError(f"fwconsole reload: {(ran.stderr or ran.stdout).strip()[-300:]}")


def _done(change: Change) -> str:
    if change.before is None:
        return "made"
    return "removed" if change.after is None else "changed"


def left_to_do(about: About, rendered: Rendered) -> list[str]:
    """What only the admin can do, with one of their DIDs for an example."""
    return [line.replace("DID", rendered.did) for line in about.left]


def _say_left(about: About, rendered: Rendered, out: Console) -> None:
    for line in left_to_do(about, rendered):
        out.print(escape(line), soft_wrap=True)


def _say_reload(about: About, out: Console) -> None:
    if about.reload:
        out.print("Then let the switch read it:")
        for command in about.reload:
            out.print(f"    {escape(command)}", soft_wrap=True)


def _lines(content: bytes | None) -> list[str]:
    return (content or b"").decode("utf-8", "replace").splitlines(keepends=True)
