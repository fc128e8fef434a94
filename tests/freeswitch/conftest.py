"""The lab of a real FreeSWITCH: the variable FREESWITCH, or ``freeswitch`` on PATH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx.demo.freeswitch import find

from ..lab import freeswitch as switches
from ..lab.calls import Lab, laboratory
from ..lab.daemon import SandboxThread
from ..lab.freeswitch import FreeSwitch

#: The dialplan's cap is three seconds, and the scheduler fires up to one early.
EARLIEST, CAP = 1.9, 3.1


@pytest.fixture(scope="session")
def freeswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreeSwitch]:
    program = find()
    if program is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    with switches.running(program, tmp_path_factory.mktemp("freeswitch")) as started:
        yield started


@pytest.fixture
def lab(freeswitch: FreeSwitch, api: SandboxThread, tmp_path: Path) -> Iterator[Lab]:
    """The switch, the API, a trunk that answers and a phone that answers. No daemon."""
    with laboratory(freeswitch, api, tmp_path) as prepared:
        yield prepared
