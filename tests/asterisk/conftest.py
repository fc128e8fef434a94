"""The lab of a real Asterisk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import asterisk as switches
from ..lab.asterisk import Asterisk
from ..lab.calls import Lab, laboratory
from ..lab.daemon import SandboxThread

#: The dialplan's cap.
CAP = 2.0

SWITCHES = {"asterisk22": 22, "asterisk16": 16, "asterisk16-chan_sip": 16}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything runs on both versions with PJSIP; what is marked chan_sip, also there."""
    if "asterisk" in metafunc.fixturenames:
        chan_sip = metafunc.definition.get_closest_marker("chan_sip")
        names = [name for name in SWITCHES if chan_sip or not name.endswith("chan_sip")]
        metafunc.parametrize("asterisk", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def asterisk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    name: str = request.param
    directory = tmp_path_factory.mktemp(name)
    chan_sip = name.endswith("chan_sip")
    files = switches.chan_sip_files() if chan_sip else switches.pjsip_files()
    with switches.running(SWITCHES[name], directory, files) as started:
        yield started


@pytest.fixture
def lab(asterisk: Asterisk, api: SandboxThread, tmp_path: Path) -> Iterator[Lab]:
    """The switch, the API, a trunk that answers and a phone that answers. No daemon."""
    with laboratory(asterisk, api, tmp_path) as prepared:
        yield prepared
