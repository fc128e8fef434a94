"""The benchmarks still run: a call or two of each way, on the real switch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from benchmarks import soak
from benchmarks.latency import SUBJECTS
from benchmarks.parts import greeting
from benchmarks.parts.processes import ROOT, Subject


def test_the_script_is_measured_beside_a_bare_interpreter() -> None:
    command = [sys.executable, "-m", "benchmarks.script", "--calls", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.search(r"^ rounded-agi +[0-9.]+ +[0-9.]+ +[0-9.]+", ran.stdout, re.MULTILINE), ran


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_every_way_but_the_bare_one_has_an_id(subject: Subject) -> None:
    if subject.find() is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    command = ["-m", "benchmarks.latency", "--switch", subject.name, "--calls", "1"]
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    rows = re.findall(r"^ +\d+ ms .* ([01])/1 *$", ran.stdout, re.MULTILINE)
    assert rows == ["0", "1", "1", "1", "1"] * 2, ran.stdout + ran.stderr


@pytest.mark.parametrize("subject", greeting.SUBJECTS, ids=lambda subject: subject.name)
def test_what_is_staged_early_or_late_has_an_id(subject: Subject) -> None:
    if subject.find() is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    command = ["-m", "benchmarks.early", "--switch", subject.name, "--calls", "1"]
    ran = subprocess.run(
        [sys.executable, *command, "--tickets", "20"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = ran.stdout + ran.stderr
    ways = re.findall(r"^ a greeting, (\w+) .* ([01])/1 *$", ran.stdout, re.MULTILINE)
    on_asterisk = subject.name == "asterisk"
    fixed = [("a", "1")] if on_asterisk else []  # a header, no staging
    assert ways == [("no", "0"), ("prestaged", "1"), ("then", "1"), *fixed], said
    wheres = [f"a line on {subject.title}"] if on_asterisk else []
    for where in [*wheres, "a session without a switch"]:
        for what in ("noop", "prestage", "collect"):
            assert re.search(rf"^ {where} +{what}( +[0-9.]+){{3}} *$", said, re.MULTILINE), said
    assert re.search(r"^20 results that wait: .* All abandoned: ", said, re.MULTILINE), said


def test_a_short_soak_loses_no_call() -> None:
    program = shutil.which("redis-server") or shutil.which(
        "redis-server", path=soak.CACHE / "redis"
    )
    if program is None:
        pytest.skip("no Redis: put redis-server on PATH, or scripts/unpack redis")
    command = ["--minutes", "0.2", "--rate", "10", "--reloads", "3", "--restarts", "1"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = ran.stdout + ran.stderr
    rows = dict(re.findall(r"^ (lost|held past the cap|calls) +(\d+) ", said, re.MULTILINE))
    assert (rows["lost"], rows["held past the cap"]) == ("0", "0"), said
    assert int(rows["calls"]) >= 100, said
    assert re.search(r"[1-9]\d* Redis killed, [1-9]\d* reloads, 1 restarts, 0 tracebacks", said), (
        said
    )


@pytest.mark.parametrize(
    ("with_id", "tracebacks", "lost", "failed"),
    [(1, 0, [], False), (0, 0, [], True), (1, 1, [], True), (1, 0, ["+331 at 2 s"], True)],
)
def test_a_soak_that_staged_nothing_or_met_a_defect_has_failed(
    with_id: int, tracebacks: int, lost: list[str], failed: bool
) -> None:
    seen = soak.Seen(calls=1, with_id=with_id, lost=lost)
    seen.done["tracebacks in the log"] = tracebacks
    assert seen.failed == failed


def test_the_status_page_is_measured_inside_the_daemon() -> None:
    command = [sys.executable, "-m", "benchmarks.status", "--seconds", "1", "--turns", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    rows = re.findall(r"^ *(the .*?)  +([0-9.]+) ", ran.stdout, re.MULTILINE)
    spent = {what: float(ms) for what, ms in rows}
    assert list(spent) == ["the daemon, its page included", "the page"], ran.stdout + ran.stderr
    assert 0 < spent["the page"] < spent["the daemon, its page included"]
    assert re.search(r"^The page takes [0-9.]+% of what", ran.stdout, re.MULTILINE), ran
