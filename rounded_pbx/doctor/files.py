"""The files that hold secrets: whether they can be read, and by whom."""

from __future__ import annotations

import os
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
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    for file, credential in _sources(config):
        if file is not None:
            yield file
        elif credential is not None and folder:
            yield Path(folder, credential)


def _sources(config: Config) -> Iterator[tuple[Path | None, str | None]]:
    for account in config.accounts.values():
        yield account.key_file, account.credential
    for route in config.routes:
        for source in route.lookup.secret_headers.values() if route.lookup else ():
            yield source.key_file, source.credential
    for login in (config.prestage, config.asterisk.ami, config.freeswitch.esl):
        if login is not None:
            yield login.secret_file, login.credential
    yield config.status.token_file, config.status.credential
