"""A clean root: a host that has a Python and pipx, and nothing of this checkout.

Every command runs in a mount namespace of its own, by chroot: the host's /usr can only be read,
/usr/local is empty, and what is written stays in a folder of the test's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .packages import WHEELS
from .processes import process

# Binds are gone with the namespace, that is with the command.
_ENTER = """\
set -eu
root=$1 python=$2 wheels=$3 libraries=$4
shift 4
mount --bind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr" || [ "$MAPPED" = 1 ]  # who cannot write there anyway
mount --bind "$root/local" "$root/usr/local"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount --bind "$wheels" "$root/wheels"
[ "$python" = /usr ] || mount --bind "$python" "$root/opt/python"
exec chroot "$root" /usr/bin/env -i LD_LIBRARY_PATH="$libraries" "$@"
"""
_ETC = ("alternatives", "group", "hosts", "ld.so.cache", "nsswitch.conf", "passwd", "ssl")
#: Where the stand-ins of the host's programs are.
TOOLS = "/opt/tools/bin"


def mapped() -> bool:
    """Whether root here is somebody else outside, who can become nobody else."""
    return Path("/proc/self/uid_map").read_text().split()[2] == "1"


@dataclass
class Root:
    """A folder that commands have for their root."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("usr", "local", "dev", "proc", "wheels", "opt/python", "opt/tools/bin"):
            (self.folder / name).mkdir(parents=True)
        for name in ("etc/systemd/system", "home/admin", "root", "run", "tmp", "var"):
            (self.folder / name).mkdir(parents=True)
        for path in (self.folder, *(each for each in self.folder.rglob("*") if each.is_dir())):
            path.chmod(0o755)
        (self.folder / "tmp").chmod(0o1777)
        (self.folder / "root").chmod(0o700)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_dir():
                (self.folder / name).symlink_to(f"usr/{name}")
        for name in _ETC:
            source, target = Path("/etc", name), self.folder / "etc" / name
            if source.is_dir():
                with contextlib.suppress(shutil.Error):  # what only root may read
                    shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy(source, target)
        self._base = Path(sys.base_prefix)
        there = self._base if self._base == Path("/usr") else Path("/opt/python")
        self.python = there / "bin" / f"python3.{sys.version_info.minor}"
        self.environment = {
            "PATH": f"{TOOLS}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/wheels",
            "PIPX_SHARED_LIBS": "/opt/tools",
            "PIPX_DEFAULT_PYTHON": str(self.python),
        }
        self._pipx()

    def path(self, name: str) -> Path:
        """A file of the root, as it is called outside."""
        return self.folder / name.lstrip("/")

    def program(self, name: str, text: str) -> None:
        """A program on the PATH, before any of the host's."""
        file = self.path(f"{TOOLS}/{name}")
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)

    def command(self, *words: str | Path, environment: Mapping[str, str]) -> list[str | Path]:
        libraries = "" if self._base == Path("/usr") else "/opt/python/lib"
        variables = {**self.environment, **environment}
        return [
            *("unshare", "--mount", "--propagation", "private", "bash", "-c"),
            *(_ENTER, "enter", self.folder, self._base, WHEELS, libraries),
            *(f"{name}={value}" for name, value in variables.items()),
            *words,
        ]

    def run(
        self, *words: str | Path, environment: Mapping[str, str], limit: float = 180
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, environment=environment),
            env={"PATH": os.environ["PATH"], "MAPPED": str(int(mapped()))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )

    @contextlib.contextmanager
    def running(
        self, words: Sequence[str | Path], environment: Mapping[str, str], log: Path
    ) -> Iterator[None]:
        command = self.command(*words, environment=environment)
        with process(*command, log=log, environment={"MAPPED": str(int(mapped()))}):
            yield

    def _pipx(self) -> None:
        assert any(WHEELS.glob("pipx-*.whl")), f"no wheels in {WHEELS}: scripts/wheels"
        [pip] = WHEELS.glob("pip-*.whl")
        made = self.run(
            *("bash", "-c"),
            f"{self.python} -m venv --without-pip /opt/tools && "
            f"PYTHONPATH=/wheels/{pip.name} /opt/tools/bin/python -m pip install -q pip pipx",
            environment={"HOME": "/root"},
        )
        assert made.returncode == 0, made.stdout + made.stderr
