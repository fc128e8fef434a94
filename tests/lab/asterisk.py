"""A real Asterisk with its own etc, run, log and lib, on the very files of dialplan_examples."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rounded_pbx.demo.asterisk import MODULES, PrivateAsterisk
from rounded_pbx.dialplan import blocks
from rounded_pbx.dialplan.flavours import ABOUT, Flavour

from .daemon import FASTAGI

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "dialplan_examples"
CACHE = Path(os.environ.get("ROUNDED_PBX_CACHE", ROOT / ".cache"))

# Addresses in the tests' own network namespace.
PBX, CALLER, TRUNK, PHONE = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
CALLER_PORT, TRUNK_PORT, PHONE_PORT = 5070, 5080, 5090

# The admin's own dialplan: one line leads to ours, the rest is theirs and must go on working.
EXTENSIONS = """[general]
static=yes
writeprotect=yes
[globals]
TRANSFER_CONTEXT=from-internal
[from-trunk]
exten => +33612345678,1,Gosub(rounded,${EXTEN},1)
 same => n,Log(NOTICE,ADMIN-BACK ${EXTEN} ${ROUNDED_STATUS} ${ROUNDED_NEXT})
 same => n,Hangup(21)
exten => 77,1,AGI(agi://127.0.0.1:4573/stage,did=+33612345678)
 same => n,Log(NOTICE,ARGUMENTS ${ROUNDED_STATUS} ${ROUNDED_ROUTE} ${ROUNDED_CALL_ID})
 same => n,Hangup()
exten => 76,1,Ringing()
 same => n,AGI({script},limit=3,did=+33612345678,from=${CALLERID(num)})
 same => n,Log(NOTICE,ARGUMENTS ${ROUNDED_STATUS} ${ROUNDED_ROUTE} ${ROUNDED_CALL_ID})
 same => n,Hangup()
exten => 79,1,Gosub(rounded,+33699999999,1)
 same => n,Log(NOTICE,ADMIN-BACK ${ROUNDED_STATUS} ${ROUNDED_NEXT})
 same => n,Hangup(21)
exten => 78,1,Goto(rounded,+33612345678,1)
exten => 83,1,Gosub(rounded-prestage,+33612345678,1)
 same => n,Ringing()
 same => n,Wait(1)
 same => n,Hangup(21)
exten => 84,1,Gosub(rounded-prestage,+33612345678,1)
 same => n,Dial(Local/+33612345678@member/n)
 same => n,Hangup()
exten => 85,1,Goto(rounded-prestage,+33612345678,1)
exten => 87,1,Set(ARG1=theirs)
 same => n,Gosub(rounded-prestage,+33612345678,1)
 same => n,Log(NOTICE,ADMIN-BACK ${ARG1})
 same => n,Hangup(21)
#include early.conf
exten => _[1-9]1,1,Set(TIMEOUT(absolute)=${EXTEN:0:1}.5)
 same => n,Set(ADMIN=mine)
 same => n,Gosub(rounded,+33612345678,1)
 same => n,Hangup(21)
exten => h,1,Log(NOTICE,ADMIN-H ${ADMIN} ${CHANNEL} ${ROUNDED_STATUS} ${ROUNDED_CALL_ID})
exten => T,1,Log(NOTICE,ADMIN-T ${ADMIN} ${CHANNEL})
 same => n,Hangup(31)
[member]
exten => +33612345678,1,Gosub(rounded,${EXTEN},1)
 same => n,Hangup()
[from-internal]
exten => 600,1,Set(seen=${ROUNDED_STATUS} reason=${ROUNDED_REASON} route=${ROUNDED_ROUTE})
 same => n,Set(seen=${seen} agent=${ROUNDED_AGENT_ID} ms=${ROUNDED_STAGE_MS})
 same => n,Set(seen=${seen} next=${ROUNDED_NEXT} id=${ROUNDED_CALL_ID} stack=${STACK_PEEK(1,c,1)})
 same => n,Log(NOTICE,FALLBACK ${seen})
 same => n,Dial(PJSIP/600@phone,20)
 same => n,Hangup()
exten => 900,1,Dial(PJSIP/${EXTEN}@phone,20)
#include extensions_rounded.conf
""".replace("{script}", str(ROOT / "rounded_pbx" / "rounded_agi.py"))


def documented(language: str, *, changes: Mapping[str, str]) -> str:
    """The blocks of docs/prestage.md in a language, each with the changes that the lab needs."""
    text = (ROOT / "docs" / "prestage.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    found = "".join(blocks)
    for old, new in changes.items():
        assert old in found, f"{old!r} is not in docs/prestage.md"
        found = found.replace(old, new)
    return found


def early(directory: Path) -> str:
    """What docs/prestage.md has for Asterisk: the greeting is 80, the IVR 86, the queue 82."""
    directory.mkdir(parents=True, exist_ok=True)
    sound = directory / "greeting"
    sound.with_suffix(".alaw").write_bytes(b"\xd5" * 16_000)  # two seconds of silence
    text = documented(
        "ini",
        changes={"custom/welcome": str(sound), "custom/menu": str(sound), ",,,,20)": ",,,,2)"},
    )
    for number in ("80", "86", "82"):
        text = text.replace("exten => +33612345678,1", f"exten => {number},1", 1)
    return text.replace("${EXTEN}", "+33612345678")


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

# 22 has the writer in a module of its own.
CDR_MODULES = "load=res_cdrel_custom.so\nload=cdr_custom.so\n"
# What docs/prestage.md has before the agent.
EARLY_MODULES = "".join(
    f"load={name}.so\n"
    for name in (
        *("app_originate", "app_playback", "app_queue", "app_read"),
        *("format_pcm", "res_musiconhold"),
    )
)
QUEUES = "[support]\nstrategy=ringall\njoinempty=yes\n"
CDR_CUSTOM = """[mappings]
rounded.csv => ${CDR(src)},${CDR(disposition)},${CDR(rounded_call_id)}
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


class Asterisk(PrivateAsterisk):
    """A private Asterisk, and what the tests read of it."""

    version = 0
    asks, cap, earliest = FASTAGI, 2.0, 1.8
    answered = "ANSWERED"

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

    def cdr(self) -> list[str]:
        """The lines of the CDR file."""
        file = self.directory / "log" / "cdr-custom" / "rounded.csv"
        return file.read_text(errors="replace").splitlines() if file.exists() else []


def unpacked(version: int) -> Path:
    found = CACHE / f"asterisk-{version}" / "asterisk"
    assert found.exists(), f"{found} is missing: scripts/unpack asterisk-{version}"
    return found


@contextlib.contextmanager
def running(version: int, directory: Path, files: Mapping[str, str]) -> Iterator[Asterisk]:
    asterisk = Asterisk(
        unpacked(version),
        directory,
        {
            "modules.conf": MODULES + CDR_MODULES + EARLY_MODULES,
            "early.conf": early(directory),
            "queues.conf": QUEUES,
            "cdr.conf": "[general]\nenable=yes\nunanswered=yes\n",
            "cdr_custom.conf": CDR_CUSTOM,
            "rtp.conf": "[general]\nrtpstart=20000\nrtpend=30000\n",
            **files,
        },
    )
    asterisk.version = version
    with asterisk:
        yield asterisk


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
                "contact=sip:sip.example.net": f"contact=sip:{TRUNK}:{TRUNK_PORT}",
                "match=sip.example.net": f"match={TRUNK}",
            },
        ),
    }


# The trunk as FreePBX writes it from its page, and where it lets an admin add to it.
FREEPBX_TRUNK = f"""[rounded]
type=endpoint
transport=transport-udp
context=from-pstn
disallow=all
allow=alaw,ulaw
aors=rounded
#include pjsip.endpoint_custom_post.conf
[rounded]
type=aor
contact=sip:{TRUNK}:{TRUNK_PORT}
[rounded]
type=identify
endpoint=rounded
match={TRUNK}
"""


def freepbx_files() -> dict[str, str]:
    """The same lab as FreePBX has it: calls come from a Custom Destination, which is a Goto."""
    ours = EXAMPLES / "freepbx"
    gosub, goto = "Gosub(rounded,${EXTEN},1)", "Goto(rounded,${EXTEN},1)"
    assert gosub in EXTENSIONS
    custom = marked(
        (ours / "extensions_custom.conf").read_text(), {"rounded_ring)=15": "rounded_ring)=3"}
    )
    endpoint = (ours / "pjsip.endpoint_custom_post.conf").read_text()
    return {
        "extensions.conf": EXTENSIONS.replace(gosub, goto).replace(
            "extensions_rounded.conf", "extensions_custom.conf"
        ),
        "extensions_custom.conf": blocks.put(b"[theirs]\n", custom, xml=False).decode(),
        "pjsip.conf": PJSIP.replace("#include pjsip_rounded.conf", FREEPBX_TRUNK),
        "pjsip.endpoint_custom_post.conf": blocks.put(b"", endpoint, xml=False).decode(),
    }


def installed(files: Mapping[str, str], includes: Mapping[str, str]) -> dict[str, str]:
    """The files as --install leaves them: ours between marks, an include of it at the top."""
    done = dict(files)
    for name, ours in includes.items():
        line = f"#include {ours}\n"
        assert line in done[name]
        theirs = done[name].replace(line, "").encode()
        done[name] = blocks.put(theirs, line, xml=False).decode()
        done[ours] = blocks.put(None, done[ours], xml=False).decode()
    return done


def installed_pjsip_files() -> dict[str, str]:
    """The same lab as --install makes it."""
    return installed(pjsip_files(), dict(ABOUT[Flavour.ASTERISK].includes))


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
        "modules.conf": re.sub("(?m)^load=.*pjsip.*$", "", MODULES)
        + "load=chan_sip.so\n"
        + CDR_MODULES
        + EARLY_MODULES,
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
