"""The classic AGI script under a real Asterisk: a caller must not become its daemon."""

from __future__ import annotations

import socket

import pytest

from ..lab.calls import Lab
from ..lab.daemon import Daemon
from ..lab.raw import invite

EVIL = ("127.0.0.9", 4999)
ARGUMENT = "agi_arg_1%3A%20daemon%3D127.0.0.9%3A4999"


@pytest.mark.parametrize("user", [f"%2B339%0A{ARGUMENT}", f"%2B339%0A{ARGUMENT}%0A%0A"])
def test_a_caller_cannot_name_the_daemon(lab: Lab, served: Daemon, user: str) -> None:
    with socket.create_server(EVIL) as evil:
        evil.settimeout(0.1)
        invite(did="76", from_user=user)
        with pytest.raises(TimeoutError):
            evil.accept()
