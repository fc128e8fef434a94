"""The services of compose.yml as processes: their own commands, files and health checks.

A container's paths lead to a folder; all addresses of the network are on the loopback of the tests'
own namespace. Nothing else differs, but that Asterisk is told where its modules are.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rounded_pbx.demo import freeswitch as freeswitches

from ..lab.asterisk import unpacked
from ..lab.processes import end, wait_until
from .files import COMPOSE, SERVICES, build_of, command_of, health_of, last_stage, mounts_of

# No capability, and no way to one: as cap_drop and no-new-privileges have it.
LOCKED = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]

# From linux/sockios.h.
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C


@contextlib.contextmanager
def the_network() -> Iterator[None]:
    """The network of compose.yml: each of its addresses is this machine's."""
    subnet = COMPOSE["networks"]["sip"]["ipam"]["config"][0]["subnet"]
    network = ipaddress.ip_network(subnet)
    alias = b"lo:sip"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, address in (
            (_SIOCSIFADDR, network[1]),
            (_SIOCSIFNETMASK, network.netmask),
        ):
            packed = struct.pack("16sHH4s16x", alias, socket.AF_INET, 0, address.packed)
            fcntl.ioctl(any_socket, request, packed)
        try:
            yield
        finally:  # down is gone, for an alias
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", alias, 0))


class Stack:
    """Services that are started in the order of compose.yml.

    Args:
        folder: where their files, their output and what they write is.
        package: the folder of the unpacked wheel.
    """

    def __init__(self, folder: Path, package: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._places = {name: self._placed(name) for name in SERVICES}
        binaries = [Path(sys.executable).parent, unpacked(22).parent]
        if freeswitch := freeswitches.find():
            binaries.append(freeswitch.parent)
        self._binaries = binaries
        # What is not this checkout is not measured.
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
        } | {"PYTHONPATH": str(package)}

    def said(self, name: str) -> str:
        """What a service printed."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        """Start a service, and before it what it depends on; it is healthy then, and was not."""
        if name in self._running:
            return
        for other in SERVICES[name].get("depends_on", {}):
            self.start(other)
        assert not self._is_healthy(name), f"{name} is healthy before it is started"
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                self._mapped(name, [*LOCKED, *command_of(name)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment_of(name),
            )
        wait_until(lambda: self._is_healthy(name), f"{name} to be healthy", 40)

    def stop(self, name: str) -> int:
        """Stop a service as an engine does, and say what it ended with."""
        process = self._running.pop(name)
        end(process)
        return process.returncode

    def stop_all(self) -> dict[str, int]:
        """Stop every service, the last one first."""
        return {name: self.stop(name) for name in reversed([*self._running])}

    def call(self, switch: str) -> subprocess.CompletedProcess[str]:
        """Run the caller, for one of the switches."""
        network = SERVICES[switch]["networks"]["sip"]["ipv4_address"]
        others = {
            f"{each['networks']['sip']['ipv4_address']}:5060"
            for name, each in SERVICES.items()
            if name != switch and "networks" in each
        }
        command = [word for word in command_of("caller") if word not in others]
        assert command[-1] == f"{network}:5060"
        return subprocess.run(
            self._mapped("caller", [*LOCKED, *command]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=self._environment_of("caller"),
        )

    def _placed(self, name: str) -> dict[str, Path]:
        """Paths of a service's container, and where they are here."""
        places: dict[str, Path] = {}
        build = build_of(SERVICES[name])
        for each in last_stage(build[1]) if build else ():
            if each.name == "COPY" and not each.options:
                assert build is not None
                places[each.arguments[-1].rstrip("/")] = (build[0] / each.arguments[0]).parent
        mounts = mounts_of(name)
        for target in mounts:
            places[target] = self._folder / name / target.lstrip("/")
        for target, source in mounts.items():
            here = places[target]
            if source is None:
                here.mkdir(parents=True)
                continue
            for path in [source] if source.is_file() else sorted(source.rglob("*")):
                if path.is_file():
                    copy = here / path.relative_to(source) if source.is_dir() else here
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_text(_led(path.read_text(), places))
        if name == "asterisk":
            self._tell_asterisk(places["/etc/asterisk"] / "asterisk.conf")
        return places

    def _tell_asterisk(self, file: Path) -> None:
        beside = unpacked(22).parent
        where = f"astmoddir => {beside}/modules\nastdatadir => {beside}/root/usr/share/asterisk\n"
        text = file.read_text()
        assert text.count("[directories]\n") == 1
        file.write_text(text.replace("[directories]\n", f"[directories]\n{where}"))

    def _mapped(self, name: str, command: list[str]) -> list[str]:
        return [_led(word, self._places[name]) for word in command]

    def _environment_of(self, name: str) -> dict[str, str]:
        places = self._places[name]
        found = dict(self._environment)
        # Every service runs the image that one of them builds.
        copied = [self._places["agent"]["/usr/local/bin"], *self._binaries]
        found["PATH"] = os.pathsep.join([*map(str, copied), found["PATH"]])
        if "/etc/rounded_pbx/config.yml" in places:
            found["ROUNDED_PBX_CONFIG"] = str(places["/etc/rounded_pbx/config.yml"])
        if "/tmp" in places:
            found["TMPDIR"] = str(places["/tmp"])
        return found

    def _is_healthy(self, name: str) -> bool:
        test = health_of(name)
        assert test is not None
        done = subprocess.run(
            self._mapped(name, [*LOCKED, *test]),
            capture_output=True,
            check=False,
            timeout=20,
            env=self._environment_of(name),
        )
        return done.returncode == 0


def _led(text: str, places: dict[str, Path]) -> str:
    """Text whose paths of the container are led to where they are here."""
    known = sorted(places, key=len, reverse=True)
    pattern = "|".join(rf"(?<![\w/.-]){re.escape(path)}(?![\w.-])" for path in known)
    return re.sub(pattern, lambda found: str(places[found[0]]), text) if known else text
