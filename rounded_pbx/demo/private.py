"""A switch of one's own: all its directories in one folder, nothing shared with another."""

from __future__ import annotations

import asyncio
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self


class PrivateSwitch(ABC):
    """A switch's process, with a configuration of its own in a directory of its own."""

    name: str

    def __init__(self, binary: Path, directory: Path) -> None:
        self.binary = binary
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None  # noqa: S101 - only asked of one that was started
        return self._process.pid

    def start(self, limit: float = 60.0) -> None:
        """Start it and wait until it is ready for calls.

        Raises:
            OSError: it does not start; the message is the end of what it printed.
        """
        self._write()
        with (self.directory / "console").open("wb") as console:
            self._process = subprocess.Popen(  # noqa: S603 - the admin's own switch
                [str(word) for word in self._command()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + limit
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                said = (self.directory / "console").read_text(errors="replace")
                raise OSError(f"{self.name} does not start: {said[-500:].strip()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it, with its calls."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @abstractmethod
    def cli(self, command: str) -> str:
        """What the switch answers to a command; empty where it is not there."""

    @abstractmethod
    def _write(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """The process's command line."""

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


async def follow(log: Path) -> AsyncIterator[str]:
    """The lines of a log, as it grows."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            line = lines.readline()
            if line:
                yield line
            else:
                await asyncio.sleep(0.005)
