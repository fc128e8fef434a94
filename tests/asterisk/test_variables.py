"""The command that sets a call's variables, as a real Asterisk takes it apart."""

from __future__ import annotations

import re
import socket
import string

import pytest

from rounded_pbx.protocol import agi

from ..lab.calls import Lab, in_place_of_the_daemon
from ..lab.daemon import FASTAGI
from ..lab.raw import invite

PLAIN = string.ascii_letters + string.digits + " .:/_+,@*#-"
VALUES = [
    ["", ""],
    ["", "x", ""],
    ["x", "", "", "y"],
    [" ", " x ", "  "],
    [",", ",,", ",a,", "from-internal,600,1"],
    ["#", "*", "@", "#,*,@", "/:._+-"],
    [PLAIN, PLAIN[::-1], PLAIN + PLAIN[:55]],
    ["a" * 128, "b" * 128],
    [f"{n}" for n in range(12)],
]


@pytest.mark.parametrize("hung_up", [False, True])
def test_every_plain_value_arrives_as_it_is(lab: Lab, hung_up: bool) -> None:
    found: list[list[str]] = []

    def ask(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as session:

            def command(line: bytes) -> agi.Reply:
                session.write(line)
                session.flush()
                parser = agi.ReplyParser()
                reply = None
                while not isinstance(reply, agi.Reply):
                    reply = parser.receive(session.readline())
                return reply

            while session.readline() != b"\n":
                pass
            if hung_up:
                command(b"HANGUP\n")
                while command(b"CHANNEL STATUS\n").code != 511:  # not on a dead channel
                    pass
            for values in VALUES:
                names = [f"V{n}" for n in range(len(values))]
                (line,) = agi.set_variables(2047, [*zip(names, values, strict=True)])
                assert re.match(rb'SET VARIABLE "ARRAY\(', line)
                assert command(line).ok
                asked = [command(agi.get_variable(2047, name)) for name in names]
                found.append([agi.decode_variable(reply) for reply in asked])

    with in_place_of_the_daemon(FASTAGI, ask):
        invite(did="77")
    assert found == VALUES
