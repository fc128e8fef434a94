"""The daemon's own limits: how many sessions the system's open files allow."""

from __future__ import annotations

import logging
import resource

import pytest

from rounded_pbx import daemon
from rounded_pbx.config import Account, Api, Calls, Config

INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "sessions", "asked_for"),
    [
        (INFINITY, INFINITY, 4000, None),
        (65536, 65536, 4000, None),
        (1024, INFINITY, 4000, 4464),
        (1024, 524288, 4000, 4464),
        (1024, 4096, 3632, 4096),
        (256, 256, 1, 256),
    ],
)
def test_there_are_never_more_sessions_than_open_files_allow(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    sessions: int,
    asked_for: int | None,
) -> None:
    """Without a descriptor left accept() fails, and who waits there waits past the deadline."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    accounts = {"a": Account(key_env="A"), "b": Account(key_env="B")}
    config = Config(
        accounts=accounts, api=Api(max_connections=200), calls=Calls(max_in_flight=2000)
    )
    with caplog.at_level(logging.WARNING):
        assert daemon._most_sessions(config, 2) == sessions
    assert asked == ([] if asked_for is None else [(asked_for, hard)])
    assert bool(caplog.records) is (sessions < 4000)
