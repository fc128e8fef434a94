"""What installing a dialplan changes, file by file; and the changing, one atomic step a file.

A plan is made before anything is written, and every mistake is found while it is made. A crash
between two files leaves each of them whole, in an order in which no file includes one that is not
there; the same command finishes what was begun.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import blocks
from .flavours import ABOUT, Flavour

#: What a file's name is followed by where the last version before ours is kept.
BACKUP = ".before-rounded_pbx"


@dataclass(frozen=True, slots=True)
class Change:
    """A file, and what becomes of it; ``None`` is a file that is not there."""

    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order in which they are made; none of them, where there are problems."""

    changes: tuple[Change, ...]
    problems: tuple[str, ...]


def to_install(flavour: Flavour, folder: Path, files: Mapping[str, str]) -> Plan:
    """What has to change in the switch's configuration so that it holds the files."""
    about = ABOUT[flavour]
    problems: list[str] = []
    changes: list[Change] = []
    for name, text in files.items():
        with _told(folder / name, problems):
            before = _read(folder / name)
            if name not in about.shared and before is not None and not blocks.has_block(before):
                raise OSError(
                    "is there already, and not from here: move it away, or its lines would stand "
                    "twice"
                )
            if before is not None and name.endswith(".conf"):
                _check_first_line(blocks.take(before) or b"")
            changes.append(_to(folder / name, before, text))
    for name, ours in about.includes:
        with _told(folder / name, problems):
            before = _read(folder / name)
            if before is None:
                raise OSError("is not there: is this the folder of the switch's configuration?")
            if blocks.has_block(before) and not _ours(before, ours):
                raise OSError("holds the block of another flavour: --uninstall that one first")
            theirs = blocks.take(before) or b""
            _check_first_line(theirs)
            if _includes(theirs, ours):  # with a line of their own; a second one would be too many
                changes.append(Change(folder / name, before, theirs))
            else:
                changes.append(_to(folder / name, before, f"#include {ours}\n"))
    return _plan(changes, problems)


def to_uninstall(flavour: Flavour, folder: Path) -> Plan:
    """What has to change so that nothing of ours is left."""
    about = ABOUT[flavour]
    problems: list[str] = []
    changes: list[Change] = []
    # What includes a file goes first.
    for name, ours in about.includes:
        with _told(folder / name, problems):
            before = _read(folder / name)
            if before is None:
                continue
            after = blocks.take(before) if _ours(before, ours) else before
            made = _read(folder / ours)
            if made is not None and blocks.take(made) is None and _includes(after or b"", ours):
                raise OSError(
                    f"includes {ours} with a line of yours: take it out first, or the switch would "
                    "load nothing of this file"
                )
            changes.append(Change(folder / name, before, after))
    for name in reversed(about.files):
        with _told(folder / name, problems):
            before = _read(folder / name)
            if before is not None:
                changes.append(Change(folder / name, before, blocks.take(before)))
    return _plan(changes, problems)


def apply(change: Change) -> None:
    """Make one change: whole or not at all, with the file's owner, group, mode and place.

    Raises:
        OSError: it cannot be made; the file is as it was.
    """
    target = Path(os.path.realpath(change.path))  # a symbolic link stays one
    if _read(target) != change.before:
        raise OSError(f"{change.path}: somebody else changed it meanwhile; nothing was written")
    if change.before is not None and change.after is not None:
        _write(target.with_name(target.name + BACKUP), change.before, like=target)
    if change.after is None:
        target.unlink()
        _sync(target.parent)
    else:
        _write(target, change.after, like=target if change.before is not None else None)


def sweep(flavour: Flavour, folder: Path) -> None:
    """Remove what a crash left half written; to be called before the first change."""
    about = ABOUT[flavour]
    for name in (*about.files, *dict(about.includes)):
        target = Path(os.path.realpath(folder / name))
        for written in (target, target.with_name(target.name + BACKUP)):
            _new(written).unlink(missing_ok=True)


def _new(target: Path) -> Path:
    """Where a file is written before it is put in its place."""
    return target.with_name(f".{target.name}.rounded_pbx-new")


def _write(target: Path, content: bytes, *, like: Path | None) -> None:
    new = _new(target)
    new.unlink(missing_ok=True)  # of a crash
    made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(made, "wb") as file:
            file.write(content)
            file.flush()
            if like is not None:
                shutil.copystat(like, new)  # with its extended attributes, as SELinux's
                os.utime(new)  # a switch looks at the time to see that it has changed
                owner, mode = like.stat(), stat.S_IMODE(like.stat().st_mode)
            else:
                owner = target.parent.stat()
                mode = owner.st_mode & 0o666
            os.chown(new, owner.st_uid, owner.st_gid)
            new.chmod(mode)
            os.fsync(file.fileno())
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _to(path: Path, before: bytes | None, text: str) -> Change:
    return Change(path, before, blocks.put(before, text, xml=path.suffix == ".xml"))


def _plan(changes: list[Change], problems: list[str]) -> Plan:
    wanted = [change for change in changes if change.before != change.after]
    for change in wanted:
        with _told(change.path, problems):
            _check(change.path)
    return Plan((), tuple(problems)) if problems else Plan(tuple(wanted), ())


def _check(path: Path) -> None:
    """That the file can be replaced, and that it would still belong to whom it belongs to."""
    target = Path(os.path.realpath(path))
    folder = target.parent
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"no right to write in {folder}; expected root, or the switch's own user")
    owner = target if target.exists() else folder
    if os.geteuid() not in (0, owner.stat().st_uid):
        raise OSError("belongs to another user; expected root, or the switch's own user")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_first_line(theirs: bytes) -> None:
    """What stands in no context would stand in our last one, below our block."""
    for line in _without_comments(theirs).removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip() and not line.lstrip().startswith(b";"):
            if not line.lstrip().startswith((b"[", b"#")):
                raise OSError("its first lines stand in no [context]: put one before them")
            return


def _without_comments(content: bytes) -> bytes:
    """The content without Asterisk's comments of several lines."""
    return re.sub(rb"(?s);--(?!-).*?--;", b"", content)


def _includes(content: bytes, name: str) -> bool:
    """Whether the admin includes it with a line of their own."""
    content = _without_comments(content)
    path = rb"(?:[^\"<>;\s]*/)?" + re.escape(name.encode())
    line = rb'^[ \t]*#(?:try)?include[ \t]+["<]?' + path + rb'[">]?[ \t]*(?:;[^\n]*?)?\r?$'
    return re.search(line, content, re.MULTILINE | re.IGNORECASE) is not None


def _ours(content: bytes, name: str) -> bool:
    """Whether our block in it includes this file, and not that of another flavour."""
    return _includes(blocks.text(content), name)


@contextlib.contextmanager
def _told(path: Path, problems: list[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    except blocks.Damaged as error:
        problems.append(f"{path}: {error}")
