"""The whole test run sits in a network namespace of its own: loopback, and free ports at will."""

from __future__ import annotations

import signal

import pytest

from rounded_pbx import netns


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM ends a run as Ctrl-C does, or its Asterisk, SIPp and daemon would outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        netns.enter()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace of their own: {error}", returncode=3)
