"""Whether the service, which is nobody's home and nobody's group, can get at a file."""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
from pathlib import Path

# What ProtectHome and PrivateTmp keep from it.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - not used, refused
# Anything else would have to be escaped in a unit, and differently in each of its lines.
_PLAIN = re.compile(r"/[A-Za-z0-9_.,+@/-]*")


def program() -> Path:
    """The ``rounded-pbx`` that belongs to this Python, whatever link it was called by.

    Raises:
        OSError: there is none.
    """
    found = Path(sysconfig.get_path("scripts"), "rounded-pbx")
    if not found.is_file():
        raise OSError(f"{found} is not there: expected rounded_pbx to be installed, as by pipx")
    return found


def needed(program: Path) -> list[Path]:
    """What the service reads before it can say anything itself."""
    return [program, Path(sys.executable), Path(os.__file__), Path(__file__)]


def out_of_reach(path: Path) -> str | None:
    """Why the service could not read a file; None where it can."""
    if not _PLAIN.fullmatch(str(path)):
        return "its path holds more than A-Z a-z 0-9 _ . , + @ / -"
    real = Path(os.path.realpath(path))
    for each in (path, real):
        for hidden in _HIDDEN:
            if each.is_relative_to(hidden):
                return f"a service sees nothing below {hidden}"
    for each in (real, *real.parents, *path.parents):
        try:
            mode = stat.S_IMODE(each.stat().st_mode)
        except OSError as error:
            return str(error.strerror)
        if not mode & (stat.S_IROTH if each == real else stat.S_IXOTH):
            return f"{each} is closed to others: its mode is {mode:o}"
    return None
