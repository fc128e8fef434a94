"""A real Asterisk with its own etc, run, log and lib, on the very files of dialplan_examples."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .processes import process, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "dialplan_examples"
CACHE = Path(os.environ.get("ROUNDED_PBX_CACHE", ROOT / ".cache"))

# Addresses in the tests' own network namespace.
PBX, CALLER, TRUNK, PHONE = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
CALLER_PORT, TRUNK_PORT, PHONE_PORT = 5070, 5080, 5090

MODULES = """[modules]
autoload=yes
noload={noload}
noload=chan_iax2.so
noload=chan_skinny.so
noload=chan_mgcp.so
noload=chan_unistim.so
noload=chan_dahdi.so
noload=pbx_dundi.so
noload=pbx_ael.so
noload=res_phoneprov.so
noload=res_calendar.so
noload=res_snmp.so
noload=cdr_csv.so
noload=cdr_radius.so
noload=cel_radius.so
noload=cdr_pgsql.so
noload=cel_pgsql.so
noload=cdr_tds.so
noload=cel_tds.so
noload=res_config_pgsql.so
noload=res_config_ldap.so
noload=res_hep.so
noload=res_xmpp.so
noload=chan_motif.so
"""

# The admin's own dialplan: one line leads to ours, the rest is theirs and must go on working.
EXTENSIONS = """[general]
static=yes
writeprotect=yes
[globals]
[from-trunk]
exten => +33612345678,1,Gosub(rounded,${EXTEN},1)
 same => n,Log(NOTICE,ADMIN-BACK ${EXTEN} ${ROUNDED_STATUS} ${ROUNDED_NEXT})
 same => n,Hangup(21)
exten => 77,1,AGI(agi://127.0.0.1:4573/stage,did=+33612345678)
 same => n,Log(NOTICE,ARGUMENTS ${ROUNDED_STATUS} ${ROUNDED_ROUTE} ${ROUNDED_CALL_ID})
 same => n,Hangup()
exten => _[1-9]1,1,Set(TIMEOUT(absolute)=${EXTEN:0:1}.5)
 same => n,Set(ADMIN=mine)
 same => n,Gosub(rounded,+33612345678,1)
 same => n,Hangup(21)
exten => h,1,Log(NOTICE,ADMIN-H ${ADMIN} ${CHANNEL} ${ROUNDED_STATUS} ${ROUNDED_CALL_ID})
exten => T,1,Log(NOTICE,ADMIN-T ${ADMIN} ${CHANNEL})
 same => n,Hangup(31)
[from-internal]
exten => 600,1,Set(seen=${ROUNDED_STATUS} reason=${ROUNDED_REASON} route=${ROUNDED_ROUTE})
 same => n,Set(seen=${seen} agent=${ROUNDED_AGENT_ID} ms=${ROUNDED_STAGE_MS})
 same => n,Set(seen=${seen} next=${ROUNDED_NEXT} id=${ROUNDED_CALL_ID} stack=${STACK_PEEK(1,c,1)})
 same => n,Log(NOTICE,FALLBACK ${seen})
 same => n,Dial(PJSIP/600@phone,20)
 same => n,Hangup()
exten => 900,1,Dial(PJSIP/${EXTEN}@phone,20)
#include extensions_rounded.conf
"""

PJSIP = f"""[global]
type=global
user_agent=lab
[transport-udp]
type=transport
protocol=udp
bind={PBX}:5060
[carrier]
type=endpoint
transport=transport-udp
context=from-trunk
disallow=all
allow=alaw,ulaw
direct_media=no
aors=carrier
[carrier]
type=aor
contact=sip:{CALLER}:{CALLER_PORT}
[carrier]
type=identify
endpoint=carrier
match={CALLER}
[phone]
type=endpoint
transport=transport-udp
context=from-internal
disallow=all
allow=alaw,ulaw
aors=phone
[phone]
type=aor
contact=sip:{PHONE}:{PHONE_PORT}
#include pjsip_rounded.conf
"""

LOGGER = """[general]
dateformat=%s.%3q
[logfiles]
messages => notice,warning,error,verbose(5)
"""

CDR_CUSTOM = """[mappings]
rounded.csv => ${CDR(src)},${CDR(dst)},${CDR(disposition)},${CDR(rounded_call_id)}
"""


def marked(text: str, changes: Mapping[str, str]) -> str:
    """The text with changes in its marked lines; anywhere else they are refused."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the example"
        lines = []
        for line in text.splitlines(keepends=True):
            assert old not in line or "<<<" in line, f"{line!r} is not marked <<<"
            lines.append(line.replace(old, new))
        text = "".join(lines)
    return text


@dataclass
class Asterisk:
    version: int
    directory: Path
    binary: Path

    @property
    def log(self) -> Path:
        return self.directory / "log" / "messages"

    def cli(self, command: str) -> str:
        return subprocess.run(
            [self.binary, "-C", self.directory / "asterisk.conf", "-rx", command],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        ).stdout

    def notices(self, since: int = 0) -> list[str]:
        """What the test dialplan logged, from a position of the log on."""
        with self.log.open("rb") as log:
            log.seek(since)
            text = log.read().decode("utf-8", "replace")
        return re.findall(r"NOTICE\S* Ext\. \S+: (.*)", text)

    def position(self) -> int:
        return self.log.stat().st_size

    def channels(self) -> int:
        found = re.search(r"(\d+) active channel", self.cli("core show channels count"))
        return int(found[1]) if found else -1

    def cdr(self) -> list[list[str]]:
        file = self.directory / "log" / "cdr-custom" / "rounded.csv"
        with file.open(newline="") as rows:
            return list(csv.reader(rows))


def binary(version: int) -> Path:
    found = CACHE / f"asterisk-{version}" / "asterisk"
    assert found.exists(), f"{found} is missing: scripts/install-asterisk {version} unpacks it"
    return found


@contextlib.contextmanager
def running(
    version: int, directory: Path, files: Mapping[str, str], noload: str = "chan_sip.so"
) -> Iterator[Asterisk]:
    asterisk = Asterisk(version, directory, binary(version))
    prefix = asterisk.binary.parent
    paths = {
        "astetcdir": directory,
        "astmoddir": prefix / "modules",
        "astvarlibdir": directory / "lib",
        "astdbdir": directory / "lib",
        "astkeydir": directory / "lib",
        "astdatadir": prefix / "root/usr/share/asterisk",
        "astagidir": directory / "agi-bin",
        "astspooldir": directory / "spool",
        "astrundir": directory / "run",
        "astlogdir": directory / "log",
    }
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    (directory / "log" / "cdr-custom").mkdir(exist_ok=True)
    texts = {
        "asterisk.conf": "[directories]\n"
        + "".join(f"{name} => {path}\n" for name, path in paths.items())
        + "[options]\nverbose=5\n",
        "modules.conf": MODULES.format(noload=noload),
        "logger.conf": LOGGER,
        "cdr.conf": "[general]\nenable=yes\nunanswered=yes\n",
        "cdr_custom.conf": CDR_CUSTOM,
        "rtp.conf": "[general]\nrtpstart=20000\nrtpend=30000\n",
        **files,
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    configuration = directory / "asterisk.conf"
    with process(asterisk.binary, "-C", configuration, "-f", log=directory / "console") as started:
        wait_until(
            lambda: started.poll() is not None or "booted" in asterisk.cli("core waitfullybooted"),
            "Asterisk to boot",
            60,
        )
        assert started.poll() is None, (directory / "console").read_text()[-3000:]
        try:
            yield asterisk
        finally:
            asterisk.cli("core stop now")
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(10)


def pjsip_files() -> dict[str, str]:
    """The drop-in files with their marked lines changed for the lab, and the admin's own."""
    ours = EXAMPLES / "asterisk"
    return {
        "extensions.conf": EXTENSIONS,
        "pjsip.conf": PJSIP,
        "extensions_rounded.conf": marked(
            (ours / "extensions_rounded.conf").read_text(),
            {"rounded_ring)=15": "rounded_ring)=3"},
        ),
        "pjsip_rounded.conf": marked(
            (ours / "pjsip_rounded.conf").read_text(),
            {
                "sip.example.net:5060": f"{TRUNK}:{TRUNK_PORT}",
                "match=sip.example.net": f"match={TRUNK}",
            },
        ),
    }


SIP = f"""[general]
bindaddr={PBX}
udpbindaddr={PBX}:5060
context=from-nowhere
allowguest=no
directmedia=no
[carrier]
type=peer
host={CALLER}
insecure=port,invite
context=from-trunk
disallow=all
allow=alaw,ulaw
[phone]
type=peer
host={PHONE}
port={PHONE_PORT}
context=from-internal
disallow=all
allow=alaw,ulaw
#include sip_rounded.conf
"""


def chan_sip_files() -> dict[str, str]:
    """The same lab with chan_sip."""
    ours = EXAMPLES / "asterisk"
    extensions = EXTENSIONS.replace("PJSIP/600@phone", "SIP/phone/600").replace(
        "PJSIP/${EXTEN}@phone", "SIP/phone/${EXTEN}"
    )
    return {
        "extensions.conf": extensions.replace(
            "extensions_rounded.conf", "extensions_rounded_chan_sip.conf"
        ),
        "extensions_rounded_chan_sip.conf": marked(
            (ours / "extensions_rounded_chan_sip.conf").read_text(),
            {"rounded_ring)=15": "rounded_ring)=3"},
        ),
        "sip.conf": SIP,
        "sip_rounded.conf": marked(
            (ours / "sip_rounded.conf").read_text(),
            {"sip.example.net": TRUNK, "port=5060": f"port={TRUNK_PORT}"},
        ),
    }


def settle(asterisk: Asterisk, limit: float = 10.0) -> None:
    """Wait until no call is left."""
    wait_until(lambda: asterisk.channels() == 0, "the channels to end", limit)
    time.sleep(0.05)
