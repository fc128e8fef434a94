"""What the doctor is tried on: a configuration, a daemon, and a trunk that answers OPTIONS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .daemon import AGENT

DID = "+33612345678"
SECRET = "hush-5e17c0ffee"


@dataclass
class Clinic:
    """A configuration, and what the doctor says of it."""

    folder: Path
    text: str

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

    def rounded_pbx(self, *words: str, secret: str = SECRET) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rounded_pbx", *words, "--config", str(self.file)],
            env={**os.environ, "SECRET": secret},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def interrupted(self, number: signal.Signals, seconds: float, secret: str = SECRET) -> int:
        """The exit status of a doctor that proves, and is told to end after some seconds."""
        doctor = subprocess.Popen(
            [sys.executable, "-m", "rounded_pbx", "doctor", "--prove", "--config", str(self.file)],
            env={**os.environ, "SECRET": secret},
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

    def doctor(self, *options: str, secret: str = SECRET) -> tuple[int, dict[str, Any]]:
        """The exit status, and the checks by their names."""
        ran = self.rounded_pbx("doctor", "--json", *options, secret=secret)
        assert ran.stderr == "", ran.stderr
        assert secret not in ran.stdout
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
