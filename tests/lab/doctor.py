"""What the doctor is tried on: a configuration, a daemon, and a trunk that answers OPTIONS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .daemon import AGENT, Daemon

DID = "+33612345678"
SECRET = "hush-5e17c0ffee"


@dataclass
class Clinic:
    """A configuration, and what the doctor says of it."""

    folder: Path
    text: str
    secret: str = SECRET

    @property
    def file(self) -> Path:
        return self.folder / "config.yml"

    def write(self, *changes: tuple[str, str]) -> None:
        """The configuration, with changes."""
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.file.write_text(text)

    def rounded_pbx(
        self, *words: str, secret: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rounded_pbx", *words, "--config", str(self.file)],
            env={**os.environ, "SECRET": secret or self.secret},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def interrupted(self, number: signal.Signals, seconds: float) -> int:
        """The exit status of a doctor that proves, and is told to end after some seconds."""
        doctor = subprocess.Popen(
            [sys.executable, "-m", "rounded_pbx", "doctor", "--prove", "--config", str(self.file)],
            env={**os.environ, "SECRET": self.secret},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert doctor.stdout is not None
        for line in doctor.stdout:
            if ".trunk" in line:  # the last that comes before the proof
                break
        time.sleep(seconds)
        doctor.send_signal(number)
        rest = doctor.communicate(timeout=30)[0]
        assert "Traceback" not in rest, rest
        return doctor.returncode

    def doctor(self, *options: str, secret: str | None = None) -> tuple[int, dict[str, Any]]:
        """The exit status, and the checks by their names."""
        ran = self.rounded_pbx("doctor", "--json", *options, secret=secret)
        assert ran.stderr == "", ran.stderr
        if self.secret == SECRET:  # another may be any word
            assert SECRET not in ran.stdout
        said = json.loads(ran.stdout)
        assert said["status"] == ran.returncode
        names = [check["name"] for check in said["checks"]]
        assert len(names) == len(set(names))
        return ran.returncode, {check["name"]: check for check in said["checks"]}


def verdicts(checks: dict[str, Any], *wanted: str) -> dict[str, str]:
    """The checks that are not right, as name: what was seen and why."""
    return {
        name: f"{check['seen']} | {check['wrong']} | {check['todo']}"
        for name, check in checks.items()
        if check["verdict"] in (wanted or ("wrong", "look"))
    }


@dataclass
class Ward:
    """A switch's daemon, the doctor, and what both are connected to."""

    clinic: Clinic
    daemon: Daemon
    trunk: str
    api: str

    def found(self, *options: str, secret: str | None = None) -> dict[str, str]:
        """What the doctor says is wrong."""
        status, checks = self.clinic.doctor(*options, secret=secret)
        found = verdicts(checks, "wrong")
        assert status == (2 if found else 1 if verdicts(checks) else 0)
        return found


Place = TypeVar("Place", bound=Ward)


class Faults(dict[str, tuple[str, str, Callable[[Place], AbstractContextManager[None]]]]):
    """Faults by their names: the check that must name it, what must be said, how it is made."""

    def __init__(self, switch: str) -> None:
        super().__init__()
        for name, (check, says, inject) in _OF_ANY_SWITCH.items():
            self[name] = (check.format(switch=switch), says, inject)

    def fault(
        self, check: str, says: str
    ) -> Callable[[Callable[[Place], Iterator[None]]], Callable[[Place], Iterator[None]]]:
        """Register what makes a fault, yields, and ends it."""

        def register(
            inject: Callable[[Place], Iterator[None]],
        ) -> Callable[[Place], Iterator[None]]:
            self[inject.__name__] = (check, says, contextlib.contextmanager(inject))
            return inject

        return register

    def are_named(self, ward: Place, name: str) -> None:
        """The fault is named, and no other."""
        check, says, inject = self[name]
        with inject(ward):
            found = ward.found()
        assert list(found) == [check]
        assert re.search(says, found[check]), found[check]


_OF_ANY_SWITCH: dict[str, tuple[str, str, Callable[[Any], AbstractContextManager[None]]]] = {}


def _of_any_switch(
    check: str, says: str
) -> Callable[[Callable[[Ward], Iterator[None]]], Callable[[Ward], Iterator[None]]]:
    def register(inject: Callable[[Ward], Iterator[None]]) -> Callable[[Ward], Iterator[None]]:
        _OF_ANY_SWITCH[inject.__name__] = (check, says, contextlib.contextmanager(inject))
        return inject

    return register


@_of_any_switch("daemon.{switch}.allow", "127.0.0.1/32")
def wrong_acl(ward: Ward) -> Iterator[None]:
    ward.daemon.stop()
    ward.clinic.write(("['127.0.0.0/8']", "['127.0.0.9/32']"))
    ward.daemon.start()
    yield
    ward.daemon.stop()
    ward.clinic.write()
    ward.daemon.start()


@_of_any_switch("daemon.{switch}", "another configuration")
def daemon_with_an_older_configuration(ward: Ward) -> Iterator[None]:
    ward.daemon.stop()
    ward.clinic.write(("['127.0.0.0/8']", "['127.0.0.9/32']"))
    ward.daemon.start()
    ward.clinic.write()
    yield
    ward.daemon.stop()
    ward.daemon.start()


@_of_any_switch("daemon.{switch}", "is not there")
def daemon_down(ward: Ward) -> Iterator[None]:
    ward.daemon.stop()
    yield
    ward.daemon.start()


@_of_any_switch("daemon.{switch}", "hangs")
def daemon_frozen(ward: Ward) -> Iterator[None]:
    ward.daemon.signal(signal.SIGSTOP)
    yield
    ward.daemon.signal(signal.SIGCONT)


@_of_any_switch("api.key.default", "wrong")
def api_key_wrong(ward: Ward) -> Iterator[None]:
    key = ward.clinic.folder / "api_key"
    key.write_text("another\n")
    yield
    key.write_text("sandbox\n")


@_of_any_switch("secrets", "chmod 0600")
def key_open_to_all(ward: Ward) -> Iterator[None]:
    key = ward.clinic.folder / "api_key"
    key.chmod(0o644)
    yield
    key.chmod(0o600)


@_of_any_switch("api.reach", "does not answer")
def api_away(ward: Ward) -> Iterator[None]:
    ward.clinic.write((ward.api, "http://127.0.0.1:9"))
    yield
    ward.clinic.write()


@_of_any_switch("{switch}.dialplan", "rounded_cap|sched_transfer")
def stale_dialplan(ward: Ward) -> Iterator[None]:
    ward.clinic.write(("routes:", "calls: {deadline: 3.0}\nroutes:"))
    yield
    ward.clinic.write()


def config(api: str, trunk: str, daemon: str, folder: Path, switch: str) -> str:
    key = folder / "api_key"
    key.write_text("sandbox\n")
    key.chmod(0o600)
    return f"""\
accounts: {{default: {{key_file: {key}}}}}
api: {{base_url: "{api}"}}
numbers: {{country: FR, withheld: "+33000000000"}}
routes:
  - name: support
    did: "{DID}"
    agent_id: {AGENT}
    on_failure: fallback
    fallback: {{asterisk: "from-internal,600,1", freeswitch: "600 XML default"}}
trunk:
  host: "{trunk}"
  match: 127.0.0.3
  transfers: {{"600": {{asterisk: "from-internal,600,1", freeswitch: "600 XML default"}}}}
{switch.format(daemon=daemon)}
"""


@contextlib.contextmanager
def answering_options() -> Iterator[str]:
    """A trunk that answers every request; its address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.3", 0))

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, peer = sock.recvfrom(65536)
                    if not data:
                        return
                    lines = data.decode("utf-8", "replace").split("\r\n")[1:]
                    kept = [
                        line
                        for line in lines
                        if line.split(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
                    ]
                    head = ["SIP/2.0 200 OK", *kept, "Content-Length: 0", "", ""]
                    sock.sendto("\r\n".join(head).encode(), peer)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        host, port = sock.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (host, port))
            thread.join(5)
