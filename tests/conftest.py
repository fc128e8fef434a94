"""The whole test run sits in a network namespace of its own: loopback, and free ports at will."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx import netns
from rounded_pbx.demo import freeswitch as freeswitches

from .lab import asterisk, freeswitch, sipp
from .lab.calls import TRUNK, Lab, Switch, laboratory
from .lab.daemon import Daemon, SandboxThread, config, daemon, sandbox
from .lab.processes import end, wait_until

ASTERISKS = {"asterisk22": 22, "asterisk16": 16, "asterisk16-chan_sip": 16}


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM ends a run as Ctrl-C does, or its switches, SIPp and daemon would outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        netns.enter()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace of their own: {error}", returncode=3)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One switch after another, as they share their ports: the folder says which.

    On Asterisk, everything runs on both versions with PJSIP; what is marked chan_sip, also there.
    """
    if "switch" in metafunc.fixturenames:
        folder = metafunc.definition.path.parent.name
        chan_sip = metafunc.definition.get_closest_marker("chan_sip")
        names = [name for name in ASTERISKS if chan_sip or not name.endswith("chan_sip")]
        wanted = {"asterisk": names, "freeswitch": ["freeswitch"]}
        names = wanted.get(folder, [*names, "freeswitch"])
        metafunc.parametrize("switch", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def switch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Switch]:
    """A real switch on the very files of dialplan_examples."""
    name: str = request.param
    directory = tmp_path_factory.mktemp(name)
    if name == "freeswitch":
        program = freeswitches.find()
        if program is None:
            pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
        with freeswitch.running(program, directory) as started:
            yield started
    else:
        chan_sip = name.endswith("chan_sip")
        files = asterisk.chan_sip_files() if chan_sip else asterisk.pjsip_files()
        with asterisk.running(ASTERISKS[name], directory, files) as began:
            yield began


@pytest.fixture(scope="session")
def the_sandbox() -> Iterator[SandboxThread]:
    with sandbox() as started:
        yield started


@pytest.fixture
def api(the_sandbox: SandboxThread) -> SandboxThread:
    the_sandbox.sandbox.calls.clear()
    the_sandbox.answered.clear()
    the_sandbox.behave()
    return the_sandbox


@pytest.fixture
def lab(switch: Switch, api: SandboxThread, tmp_path: Path) -> Iterator[Lab]:
    """The switch, the API, a trunk that answers and a phone that answers. No daemon."""
    with laboratory(switch, api, tmp_path) as prepared:
        yield prepared


@pytest.fixture
def served(lab: Lab) -> Iterator[Daemon]:
    """The daemon as configured by default."""
    with daemon(lab.directory / "daemon", config(lab.api.url)) as started:
        yield started


@pytest.fixture
def refusing(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab with a trunk that does what the test names."""
    end(lab.trunk.process)
    status: str = request.param
    scenario = sipp.refusing(status) if status else sipp.SILENT
    with sipp.sipp(lab.directory, "trunk", scenario, TRUNK) as trunk:
        wait_until(trunk.ready, "the trunk to listen")
        lab.trunk = trunk
        yield lab
