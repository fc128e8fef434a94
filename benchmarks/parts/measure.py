"""What is measured, and how it is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """User and system time of a process, with its reaped children where they are wanted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11 : 15 if children else 13]) / TICKS


def resident_mb(pid: int) -> float:
    """Memory in RAM, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


@dataclass
class Row:
    """A way of doing it, and what it cost; milliseconds of each call, CPU of all together."""

    way: str
    latencies: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    calls: int = 0
    with_id: int = 0
    cpu_seconds: float = 0.0

    @property
    def p50(self) -> float:
        return percentile(self.latencies, 0.5)

    @property
    def p99(self) -> float:
        return percentile(self.latencies, 0.99)

    @property
    def cpu_ms(self) -> float:
        return self.cpu_seconds / self.calls * 1000

    @property
    def figures(self) -> dict[str, object]:
        """For a file."""
        return {
            "way": self.way,
            "p50_ms": round(self.p50, 1),
            "p99_ms": round(self.p99, 1),
            "cpu_ms_a_call": round(self.cpu_ms, 1),
            "calls": self.calls,
        }


def show_boxes(axis: Any, boxes: Mapping[str, Sequence[float]]) -> None:
    """A box for each name, the first one at the top."""
    axis.boxplot(list(boxes.values()), whis=(1, 99), showfliers=False, orientation="horizontal")
    axis.set_yticks(range(1, len(boxes) + 1), list(boxes))
