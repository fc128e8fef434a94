"""The files that hold secrets: whether they can be read, and by whom."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from ..config import Config
from .results import CheckResult, right, skipped, wrong

NAME = "secrets"


def check_files(config: Config) -> CheckResult:
    """Whether anybody but their owner and a group may read the files with secrets."""
    files, seen, open_to_all = list(_files(config)), [], []
    for path in files:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:  # which whoever needs it will say
            continue
        seen.append(f"{path} {mode:04o}")
        if mode & 0o027:
            open_to_all.append(path)
    if files and not seen:
        return skipped(NAME, "none of the files can be seen")
    text = ", ".join(seen) or "no secret stands in a file"
    if open_to_all:
        names = " ".join(map(str, open_to_all))
        return wrong(NAME, text, "others may read or change them", f"chmod 0600 {names}")
    return right(NAME, text)


def _files(config: Config) -> Iterator[Path]:
    for account in config.accounts.values():
        if account.key_file is not None:
            yield account.key_file
    for route in config.routes:
        for source in route.lookup.secret_headers.values() if route.lookup else ():
            if source.key_file is not None:
                yield source.key_file
    for login in (config.prestage, config.asterisk.ami, config.freeswitch.esl):
        if login is not None and login.secret_file is not None:
            yield login.secret_file
