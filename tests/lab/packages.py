"""What is published: the wheel and the sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .asterisk import CACHE, ROOT

#: All that an installation takes from PyPI, fetched by scripts/wheels.
WHEELS = CACHE / "wheels"


@dataclass(frozen=True)
class Packages:
    wheel: Path
    sdist: Path

    def in_wheel(self) -> list[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()

    def in_sdist(self) -> list[str]:
        """The names below the folder of the version."""
        with tarfile.open(self.sdist) as archive:
            return [name.partition("/")[2] for name in archive.getnames()]


def build(into: Path, source: Path = ROOT) -> Packages:
    """The sdist, and the wheel that is made of it, as an index gets them."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", into, source],
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel], [sdist] = into.glob("*.whl"), into.glob("*.tar.gz")
    return Packages(wheel, sdist)
