"""The example configuration: shown in the demonstration, and what an admin begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PACKAGED = Path(__file__).parent / "dialplan_examples"
#: In the package where it is installed, else in the checkout.
FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "dialplan_examples"
CONFIG = FOLDER / "config.yml"


def begin(config: Path) -> Iterator[tuple[Path, bool]]:
    """Make the configuration and the file for its key; says of each whether it was made just now.

    What is there stays as it is.

    Raises:
        OSError: one of them cannot be made.
    """
    if not config.parent.exists():
        config.parent.mkdir(parents=True)
        config.parent.chmod(0o755)  # whatever the umask: the service reads the configuration
    yield config, _made(config, CONFIG.read_bytes(), 0o644)
    key = config.parent / "api_key"
    yield key, _made(key, b"", 0o600)


def _made(path: Path, content: bytes, mode: int) -> bool:
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(opened, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(content)
    return True
