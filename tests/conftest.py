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
from .lab.packages import Packages, build
from .lab.processes import end, wait_until

ASTERISKS = {
    "asterisk22": (22, asterisk.pjsip_files),
    "asterisk16": (16, asterisk.installed_pjsip_files),
    "asterisk16-chan_sip": (16, asterisk.chan_sip_files),
    "asterisk22-freepbx": (22, asterisk.freepbx_files),
}
FREESWITCHES = {
    "freeswitch": freeswitch.files,
    "freeswitch-fusionpbx": freeswitch.fusionpbx_files,
}


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM ends a run as Ctrl-C does, or its switches, SIPp and daemon would outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        netns.enter()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace of their own: {error}", returncode=3)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One switch after another, as they share their ports: the folder says which.

    On Asterisk, everything runs on both versions with PJSIP; what is marked chan_sip, also there,
    and what is marked flavours, on the files of every other flavour, too.
    """
    if "switch" in metafunc.fixturenames:
        folder = metafunc.definition.path.parent.name
        chan_sip = metafunc.definition.get_closest_marker("chan_sip")
        flavours = metafunc.definition.get_closest_marker("flavours")
        left_out = {
            *([] if chan_sip else ["asterisk16-chan_sip"]),
            *([] if flavours else ["asterisk22-freepbx", "freeswitch-fusionpbx"]),
        }
        wanted = {"asterisk": [*ASTERISKS], "freeswitch": [*FREESWITCHES]}
        names = wanted.get(folder, [*ASTERISKS, *FREESWITCHES])
        names = [name for name in names if name not in left_out]
        metafunc.parametrize("switch", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def switch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Switch]:
    """A real switch on the very files of dialplan_examples."""
    name: str = request.param
    directory = tmp_path_factory.mktemp(name)
    if name in FREESWITCHES:
        program = freeswitches.find()
        if program is None:
            pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
        files = FREESWITCHES[name](directory)
        with freeswitch.running(program, directory, files) as started:
            yield started
    else:
        version, write = ASTERISKS[name]
        with asterisk.running(version, directory, write()) as began:
            yield began


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The wheel and the sdist, built once."""
    return build(tmp_path_factory.mktemp("dist"))


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
