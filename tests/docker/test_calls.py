"""What compose.yml brings up, brought up without an engine: a call through each switch."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx.demo import freeswitch as freeswitches

from ..lab import sipp
from ..lab.processes import wait_until
from .files import context_of_the_checkout
from .stack import Stack, the_network

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
AGENT = {"asterisk": "Asterisk PBX 22", "freeswitch": "FreeSWITCH-mod_sofia"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what .dockerignore lets into the image's context, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = context_of_the_checkout(folder / "src")
    command = [
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation"),
        *("--no-deps", "-w", str(folder), str(checkout)),
    ]
    subprocess.run(command, check=True, timeout=120, env={"PATH": "/usr/bin:/bin"})
    (wheel,) = folder.glob("rounded_pbx-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "package")
    return folder / "package"


@pytest.fixture(params=["asterisk", "freeswitch"])
def kind(request: pytest.FixtureRequest) -> str:
    """The switch; FreeSWITCH where there is one."""
    name: str = request.param
    if name == "freeswitch" and freeswitches.find() is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    return name


@pytest.fixture
def stack(kind: str, package: Path, tmp_path: Path) -> Iterator[Stack]:
    """A switch with its daemon and its sandbox, and the agent."""
    with the_network():
        started = Stack(tmp_path, package)
        try:
            started.start(f"{kind}-daemon")
            yield started
        finally:
            ended = started.stop_all()
        assert set(ended.values()) == {0}, ended


def invites(stack: Stack) -> list[tuple[str, str]]:
    """What the agent showed of each INVITE: who sent it, and the line of the header."""
    return re.findall(
        r"^INVITE sip:\+33612345678@\S+ SIP/2\.0\n   User-Agent: (.*)\n   (.*)$",
        stack.said("agent"),
        re.MULTILINE,
    )


def answered(stack: Stack, kind: str) -> bool:
    """Whether the caller was answered, and says so."""
    done = stack.call(kind)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.endswith("was answered, and has ended.\n")


def refusal_of(host: str, port: int) -> str:
    """What a server says to whoever connects, before it closes."""
    with socket.create_connection((host, port), timeout=5) as connection:
        said = b""
        while data := connection.recv(4096):
            said += data
    return said.decode()


def test_the_agents_invite_carries_the_id_and_without_the_daemon_it_comes_without_one(
    kind: str, stack: Stack
) -> None:
    assert answered(stack, kind)
    staged = rf"^POST  /v1/calls/stage  201  ({UUID})$"
    (call_id,) = re.findall(staged, stack.said(f"{kind}-sandbox"), re.MULTILINE)
    ((user_agent, header),) = invites(stack)
    assert user_agent.startswith(AGENT[kind])
    assert header == f"X-Rounded-Call-Id: {call_id}"
    (outcome,) = re.findall("STAGED did=.*", stack.said(f"{kind}-daemon"))
    assert f"call_id={call_id} " in outcome
    if kind == "freeswitch":
        assert "Access Denied" in refusal_of("127.0.0.1", 8021)
    assert stack.stop(f"{kind}-daemon") == 0
    assert answered(stack, kind)
    assert [header for _, header in invites(stack)][1:] == ["(no X-Rounded-Call-Id)"]


def test_the_caller_says_so_when_a_call_is_refused(package: Path, tmp_path: Path) -> None:
    refusal = sipp.refusing("503 Service Unavailable")
    with the_network(), sipp.sipp(tmp_path, "switch", refusal, ("198.51.100.10", 5060)) as switch:
        wait_until(switch.ready, "SIPp to listen")
        done = Stack(tmp_path, package).call("asterisk")
    assert done.returncode == 1
    assert done.stdout.endswith("The call to 198.51.100.10:5060 was not answered.\n")
