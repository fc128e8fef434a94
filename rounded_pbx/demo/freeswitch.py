"""A FreeSWITCH of one's own: all its directories in one folder, nothing shared with another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from ..config_types import Address
from ..dialplan.flavours import Flavour
from ..protocol import esl
from .private import PrivateSwitch, follow
from .stage import Stage
from .switches import RealSwitch, Switch, callees, free_address, written

#: Names a FreeSWITCH that is not on PATH.
BINARY = "FREESWITCH"
PASSWORD = "local"  # noqa: S105 - of a switch that nobody else can reach

# What a call needs; mod_loopback for calls that the switch places into its own dialplan.
MODULES = """\
mod_commands mod_dialplan_xml mod_dptools mod_event_socket mod_logfile mod_loopback mod_sofia
"""

_CONFIGURATION = {
    "logfile": '<settings><param name="rotate-on-hup" value="false"/></settings><profiles>'
    '<profile name="default"><settings><param name="uuid" value="false"/></settings><mappings>'
    '<map name="all" value="debug,info,notice,warning,err,crit,alert"/></mappings></profile>'
    "</profiles>",
    "switch": '<settings><param name="max-sessions" value="2000"/>'
    '<param name="sessions-per-second" value="1000"/><param name="loglevel" value="debug"/>'
    '<param name="rtp-start-port" value="20000"/><param name="rtp-end-port" value="30000"/>'
    "</settings>",
    "timezones": "",
    # FreeSWITCH takes a directive only on a line of its own.
    "sofia": '<profiles>\n<X-PRE-PROCESS cmd="include" data="sip_profiles/*.xml"/>\n</profiles>',
    "acl": '<network-lists><list name="loopback" default="deny">'
    '<node type="allow" cidr="127.0.0.0/8"/></list></network-lists>',
}


_FOLDERS = (
    *("conf", "log", "db", "run", "certs", "scripts", "temp", "recordings", "storage", "cache"),
    *("grammar", "htdocs"),
)


def find() -> Path | None:
    """A FreeSWITCH: the variable FREESWITCH, or on PATH."""
    found = os.environ.get(BINARY) or shutil.which("freeswitch")
    return Path(found) if found else None


class PrivateFreeSwitch(PrivateSwitch):
    """A FreeSWITCH with a configuration of its own, in a directory of its own.

    Args:
        binary: the program; its modules are those that it was built with.
        directory: where it may write, and where its configuration is written.
        files: the configuration's files, by their paths below its folder.
        event_socket: the port of the event socket on loopback.
        modules: loaded beside those that every call needs.
    """

    name = "FreeSWITCH"

    def __init__(
        self,
        binary: Path,
        directory: Path,
        files: Mapping[str, str],
        *,
        event_socket: int,
        modules: str = "",
    ) -> None:
        super().__init__(binary, directory)
        self.event_socket = event_socket
        self._files = files
        self._modules = [*MODULES.split(), *modules.split()]

    @property
    def log(self) -> Path:
        """The log file."""
        return self.directory / "log" / "freeswitch.log"

    def cli(self, command: str) -> str:
        """What the switch answers to a command; empty where it is not there."""
        parser = esl.Parser()
        try:
            with socket.create_connection(("127.0.0.1", self.event_socket), 5) as connection:
                connection.settimeout(30)
                connection.sendall(f"auth {PASSWORD}\n\napi {command}\n\n".encode())
                while data := connection.recv(65536):
                    for message in parser.receive(data):
                        if message.content_type == "api/response":
                            return message.reply
        except OSError:
            pass
        return ""

    def _command(self) -> Sequence[str | Path]:
        folders = ((f"-{name}", self.directory / name) for name in _FOLDERS)
        return [self.binary, "-nonat", "-nf", "-nc", *(word for pair in folders for word in pair)]

    def _is_ready(self) -> bool:
        return "is ready" in self.cli("status")

    def _write(self) -> None:
        for name in _FOLDERS:
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        event_socket = {
            "listen-ip": "127.0.0.1",
            "listen-port": str(self.event_socket),
            "password": PASSWORD,
        }
        settings = "".join(
            f'<param name="{name}" value="{value}"/>' for name, value in event_socket.items()
        )
        sections = {
            **_CONFIGURATION,
            "event_socket": f"<settings>{settings}</settings>",
            "modules": "<modules>"
            + "".join(f'<load module="{module}"/>' for module in self._modules)
            + "</modules>",
        }
        configuration = "".join(
            f'<configuration name="{name}.conf">{body}</configuration>'
            for name, body in sections.items()
        )
        files = {
            "freeswitch.xml": '<document type="freeswitch/xml">'
            f'<section name="configuration">{configuration}\n'
            '<X-PRE-PROCESS cmd="include" data="autoload_configs/*.xml"/>\n</section>\n'
            '<section name="dialplan">\n'
            '<X-PRE-PROCESS cmd="include" data="dialplan/*.xml"/>\n</section></document>',
            **self._files,
        }
        for name, text in files.items():
            path = self.directory / "conf" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


#: The profile of FreeSWITCH's own examples, in short. rtp-timer-name: without it a call in which
#: nobody sends RTP notices its BYE after five seconds.
PROFILE = """\
<profile name="external">
  <gateways>
    <X-PRE-PROCESS cmd="include" data="external/*.xml"/>
  </gateways>
  <settings>
    <param name="auth-calls" value="false"/>
    <param name="context" value="public"/>
    <param name="dialplan" value="XML"/>
    <param name="codec-prefs" value="PCMA,PCMU"/>
    <param name="rtp-ip" value="{host}"/>
    <param name="rtp-timer-name" value="soft"/>
    <param name="sip-ip" value="{host}"/>
    <param name="sip-port" value="{port}"/>
  </settings>
</profile>
"""

_DIALPLAN = """\
<include>
<context name="public">
<X-PRE-PROCESS cmd="include" data="public/*.xml"/>
</context>
<context name="default">
  <extension name="phone">
    <condition field="destination_number" expression="^600$">
      <action application="bridge" data="sofia/external/600@{phone}"/>
    </condition>
  </extension>
</context>
</include>
"""

# What FreeSWITCH's log says of the call's path.
_EXECUTING = re.compile(
    r"EXECUTE \[depth=0\] \S+ ((?:ring_ready|sched_transfer|socket|transfer|bridge)\(.*\))"
)


@contextlib.asynccontextmanager
async def real(
    stage: Stage, binary: Path, folder: Path, outbound: Address
) -> AsyncIterator[Switch]:
    """A real FreeSWITCH on the dialplan that we write.

    Raises:
        OSError: it does not start.
    """
    sip = free_address(socket.SOCK_DGRAM)
    async with callees(stage) as (agent, phone):
        freeswitch = PrivateFreeSwitch(
            binary,
            folder,
            {
                "sip_profiles/external.xml": PROFILE.format(host=sip.host, port=sip.port),
                "dialplan/demo.xml": _DIALPLAN.format(phone=phone),
                **written(Flavour.FREESWITCH, outbound, agent),
            },
            event_socket=free_address(socket.SOCK_STREAM).port,
        )
        try:
            await asyncio.to_thread(freeswitch.start)
            telling = asyncio.ensure_future(_tell(stage, freeswitch.log))
            version = re.search(r"[0-9.]+", freeswitch.cli("version"))
            name = f"FreeSWITCH {version[0]}" if version else "FreeSWITCH"
            yield RealSwitch(stage, sip, f"a real {name} ({binary})")
            telling.cancel()
        finally:
            await asyncio.to_thread(freeswitch.stop)


async def _tell(stage: Stage, log: Path) -> None:
    """Say what FreeSWITCH does, as its log grows; its lines bear no time of their own."""
    async for line in follow(log):
        if executing := _EXECUTING.search(line):
            stage.say("switch", executing[1])
