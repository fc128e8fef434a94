"""The whole test run sits in a network namespace of its own: loopback, and free ports at will."""

from __future__ import annotations

import pytest

from rounded_pbx import netns


def pytest_configure(config: pytest.Config) -> None:
    try:
        netns.enter()
    except OSError as error:
        pytest.exit(f"the tests need a network namespace of their own: {error}", returncode=3)
