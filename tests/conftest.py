"""The whole test run sits in a network namespace of its own: loopback, and free ports at will."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rounded_pbx import netns

from .lab.calls import Lab
from .lab.daemon import Daemon, SandboxThread, config, daemon, sandbox


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM ends a run as Ctrl-C does, or its Asterisk, SIPp and daemon would outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        netns.enter()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace of their own: {error}", returncode=3)


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
def served(lab: Lab) -> Iterator[Daemon]:
    """The daemon as configured by default, for the switch that a folder's ``lab`` has."""
    with daemon(lab.directory / "daemon", config(lab.api.url)) as started:
        yield started
