"""An Asterisk of one's own: all its directories in one folder, nothing shared with another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from ..config_types import Address
from ..dialplan.flavours import Flavour
from .private import PrivateSwitch, follow
from .stage import Stage
from .switches import RealSwitch, Switch, callees, free_address, written

#: Where ``scripts/unpack`` unpacks: ``asterisk-22/asterisk``.
CACHE = "ROUNDED_PBX_CACHE"

# What a call needs, and nothing that looks for a database, a sound card or a neighbour.
MODULES = """\
[modules]
autoload=no
load=app_dial.so
load=app_stack.so
load=app_verbose.so
load=bridge_simple.so
load=chan_pjsip.so
load=codec_alaw.so
load=codec_ulaw.so
load=func_callerid.so
load=func_cdr.so
load=func_channel.so
load=func_dialplan.so
load=func_logic.so
load=func_strings.so
load=func_timeout.so
load=func_uri.so
load=pbx_config.so
load=res_agi.so
load=res_pjproject.so
load=res_pjsip.so
load=res_pjsip_acl.so
load=res_pjsip_caller_id.so
load=res_pjsip_endpoint_identifier_ip.so
load=res_pjsip_endpoint_identifier_user.so
load=res_pjsip_header_funcs.so
load=res_pjsip_nat.so
load=res_pjsip_pubsub.so
load=res_pjsip_refer.so
load=res_pjsip_rfc3326.so
load=res_pjsip_sdp_rtp.so
load=res_pjsip_session.so
load=res_rtp_asterisk.so
load=res_sorcery_astdb.so
load=res_sorcery_config.so
load=res_sorcery_memory.so
load=res_speech.so
load=res_timing_timerfd.so
"""


def find() -> Path | None:
    """An Asterisk: on PATH, or unpacked in the cache."""
    on_path = shutil.which("asterisk")
    if on_path:
        return Path(on_path)
    cache = Path(os.environ.get(CACHE, ".cache"))
    unpacked = sorted(cache.glob("asterisk-*/asterisk"), reverse=True)
    return unpacked[0].absolute() if unpacked else None


class PrivateAsterisk(PrivateSwitch):
    """An Asterisk with a configuration of its own, in a directory of its own.

    Args:
        binary: the program; modules and data beside it, if they are there, are used.
        directory: where it may write, and where its configuration is written.
        files: the configuration's files; asterisk.conf is ours.
    """

    name = "Asterisk"

    def __init__(self, binary: Path, directory: Path, files: Mapping[str, str]) -> None:
        super().__init__(binary, directory)
        self._files = {"modules.conf": MODULES, **files}

    @property
    def log(self) -> Path:
        """The log file that logger.conf names: messages."""
        return self.directory / "log" / "messages"

    def cli(self, command: str) -> str:
        """The output of a console command."""
        return subprocess.run(  # noqa: S603
            [self.binary, "-C", self.directory / "asterisk.conf", "-rx", command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        ).stdout

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, "-C", self.directory / "asterisk.conf", "-f"]

    def _is_ready(self) -> bool:
        return "booted" in self.cli("core waitfullybooted")

    def _write(self) -> None:
        names = {"astetcdir": "", "astrundir": "run", "astlogdir": "log", "astspooldir": "spool"}
        names |= dict.fromkeys(("astvarlibdir", "astdbdir", "astkeydir"), "lib")
        paths = {name: self.directory / part for name, part in names.items()}
        paths["astagidir"] = self.directory / "agi-bin"
        for path in (*paths.values(), self.directory / "log" / "cdr-custom"):
            path.mkdir(parents=True, exist_ok=True)
        beside = self.binary.parent
        if (beside / "modules").is_dir():
            paths["astmoddir"] = beside / "modules"
            paths["astdatadir"] = beside / "root/usr/share/asterisk"
        directories = "".join(f"{name} => {path}\n" for name, path in paths.items())
        files = {
            "asterisk.conf": f"[directories]\n{directories}[options]\nverbose=5\n",
            "logger.conf": "[general]\ndateformat=%s.%6q\n"
            "[logfiles]\nmessages => notice,warning,error,verbose(5)\n",
            **self._files,
        }
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")


_EXTENSIONS = """\
[from-trunk]
exten => +33612345678,1,Gosub(rounded,${EXTEN},1)
 same => n,Hangup()
[from-internal]
exten => 600,1,Dial(PJSIP/600@phone,10)
#include extensions_rounded.conf
"""

_PJSIP = """\
[transport-udp]
type=transport
protocol=udp
bind={switch}
[carrier]
type=endpoint
context=from-trunk
disallow=all
allow=alaw
[carrier]
type=identify
endpoint=carrier
match=127.0.0.1
[phone]
type=endpoint
context=from-internal
disallow=all
allow=alaw
aors=phone
[phone]
type=aor
contact=sip:{phone}
#include pjsip_rounded.conf
"""

# What Asterisk's log says of the call's path.
_EXECUTING = re.compile(
    r"^\[([0-9.]+)\].*Executing \[(\S+?)@(\S+?):\d+\] "
    r'(AGI|Dial|Goto|Gosub|Ringing)\("[^"]*", "(.*)"\)'
)
_COMMAND = re.compile(r"^\[([0-9.]+)\].*AGI Rx << (SET VARIABLE .*)$")


def variables_set(command: str) -> dict[str, str]:
    """What a command of the daemon sets on the channel: one variable, or those of an ``ARRAY``."""
    words = shlex.split(command)
    if words[:2] != ["SET", "VARIABLE"]:
        return {}
    _, _, name, value = words
    array = re.fullmatch(r"ARRAY\((.*)\)", name)
    if array is None:
        return {name: value}
    return dict(zip(array[1].split(","), re.findall('"(.*?)"', value), strict=True))


@contextlib.asynccontextmanager
async def real(stage: Stage, binary: Path, folder: Path, fastagi: Address) -> AsyncIterator[Switch]:
    """A real Asterisk on the dialplan that we write.

    Raises:
        OSError: it does not boot.
    """
    sip = free_address(socket.SOCK_DGRAM)
    async with callees(stage) as (agent, phone):
        asterisk = PrivateAsterisk(
            binary,
            folder,
            {
                "extensions.conf": _EXTENSIONS,
                "pjsip.conf": _PJSIP.format(switch=sip, phone=phone),
                **written(Flavour.ASTERISK, fastagi, agent),
            },
        )
        try:
            await asyncio.to_thread(asterisk.start)
            asterisk.cli("agi set debug on")
            telling = asyncio.ensure_future(_tell(stage, asterisk.log))
            version = re.search(r"Asterisk \S+", asterisk.cli("core show version"))
            name = version[0] if version else "Asterisk"
            yield RealSwitch(stage, sip, f"a real {name} ({binary})")
            telling.cancel()
        finally:
            await asyncio.to_thread(asterisk.stop)


async def _tell(stage: Stage, log: Path) -> None:
    """Say what Asterisk does, as its log grows."""
    async for line in follow(log):
        if executing := _EXECUTING.search(line):
            at, extension, context, application, arguments = executing.groups()
            said = f"[{extension}@{context}] {application}({arguments})"
            stage.say("switch", said, at=float(at))
        elif command := _COMMAND.search(line):
            for name, value in variables_set(command[2]).items():
                stage.say("switch", f"   {name}={value}", at=float(command[1]))
