"""A lab for one call after another: Asterisk, the sandbox, the daemon, and SIPp on both sides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..lab import asterisk as switches
from ..lab import sipp
from ..lab.asterisk import Asterisk, settle
from ..lab.daemon import Daemon, SandboxThread, config, daemon, sandbox
from ..lab.processes import wait_until
from ..lab.sipp import Message, Sipp

TRUNK = (switches.TRUNK, switches.TRUNK_PORT)
PHONE = (switches.PHONE, switches.PHONE_PORT)
CALLER = (switches.CALLER, switches.CALLER_PORT)
HEADER = "X-Rounded-Call-Id"
#: The dialplan's cap, and what a noisy machine may add to it.
CAP, NOISE = 2.0, 0.8


@dataclass
class Lab:
    asterisk: Asterisk
    api: SandboxThread
    directory: Path
    trunk: Sipp
    phone: Sipp
    log_start: int

    def call(self, scenario: str | None = None, *options: str, limit: float = 40) -> list[Message]:
        """Place a call with SIPp, wait until it is over, and return what the caller saw."""
        with self.dialling(scenario or sipp.caller(), *options) as caller:
            caller.wait(limit)
            messages = caller.messages()
        settle(self.asterisk)
        return messages

    @contextlib.contextmanager
    def dialling(self, scenario: str, *options: str) -> Iterator[Sipp]:
        options = options or ("-m", "1")
        pbx = f"{switches.PBX}:5060"
        with sipp.sipp(self.directory, "caller", scenario, CALLER, pbx, *options) as caller:
            yield caller

    def notices(self, start: str) -> list[str]:
        """What the admin's own dialplan logged during this test."""
        return [line for line in self.asterisk.notices(self.log_start) if line.startswith(start)]


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
def lab(asterisk: Asterisk, api: SandboxThread, tmp_path: Path) -> Iterator[Lab]:
    """The switch, the API, a trunk that answers and a phone that answers. No daemon."""
    with (
        sipp.sipp(tmp_path, "trunk", sipp.callee(), TRUNK) as trunk,
        sipp.sipp(tmp_path, "phone", sipp.callee(), PHONE) as phone,
    ):
        wait_until(lambda: trunk.ready() and phone.ready(), "SIPp to listen")
        yield Lab(asterisk, api, tmp_path, trunk, phone, asterisk.position())
    settle(asterisk)
    assert asterisk.channels() == 0, asterisk.cli("core show channels")


@pytest.fixture
def served(lab: Lab) -> Iterator[Daemon]:
    """The daemon as configured by default."""
    with daemon(lab.directory / "daemon", config(lab.api.url)) as started:
        yield started


def wait_of(messages: list[Message], invite: Message) -> float:
    """Seconds from the caller's INVITE to the INVITE that the switch sent."""
    first = next(m for m in messages if m.sent and m.first_line.startswith("INVITE"))
    return invite.at - first.at


def ids(invites: list[Message]) -> list[list[str]]:
    """The header of each INVITE: a list, since there must be neither two nor an empty one."""
    return [invite.headers(HEADER) for invite in invites]
