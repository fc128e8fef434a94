"""The files that hold secrets: whether they can be read, and by whom."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from ..config import Config
from .results import CheckResult, look, right, wrong

NAME = "secrets"


def check_files(config: Config) -> CheckResult:
    """Whether anybody but their owner and a group may read the files with secrets."""
    seen, open_to_all, unknown = [], [], []
    for path in _files(config):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            unknown.append(f"{path}: {error.strerror}")
            continue
        seen.append(f"{path} {mode:04o}")
        if mode & 0o027:
            open_to_all.append(path)
    text = ", ".join(seen) or "no secret stands in a file"
    if open_to_all:
        names = " ".join(map(str, open_to_all))
        return wrong(NAME, text, "others may read or change them", f"chmod 0600 {names}")
    if unknown:
        todo = "run the doctor as root, or as the user of the service"
        return look(NAME, text, "; ".join(unknown), todo)
    return right(NAME, text)


def _files(config: Config) -> Iterator[Path]:
    for account in config.accounts.values():
        if account.key_file is not None:
            yield account.key_file
    for login in (config.asterisk.ami, config.freeswitch.esl):
        if login is not None and login.secret_file is not None:
            yield login.secret_file
