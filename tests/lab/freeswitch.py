"""A real FreeSWITCH of its own, on the very files of dialplan_examples."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rounded_pbx.demo.freeswitch import PROFILE, PrivateFreeSwitch
from rounded_pbx.dialplan import blocks

from .asterisk import EXAMPLES, PBX, PHONE, PHONE_PORT, TRUNK, TRUNK_PORT, documented, marked
from .daemon import OUTBOUND

OURS = EXAMPLES / "freeswitch"
EVENT_SOCKET = 8021

SEEN = (
    "${rounded_status} reason=${rounded_reason} route=${rounded_route} agent=${rounded_agent_id} "
    "ms=${rounded_stage_ms} next=${rounded_next} id=${rounded_call_id} "
    "kept=${continue_on_fail}/${hangup_after_bridge}/${sip_copy_custom_headers}/"
    "${force_transfer_dialplan}/${force_transfer_context}"
)
_FIELD = '<condition field="destination_number" expression="{}">'


def _extension(name: str, expression: str, *actions: str) -> str:
    lines = "".join(
        f'<action application="{application}" data="{data}"/>\n'
        for application, _, data in (action.partition(" ") for action in actions)
    )
    condition = _FIELD.format(expression)
    return f'<extension name="{name}">{condition}\n{lines}</condition></extension>\n'


# A profile for callers alone, as the README has it.
CARRIERS_PORT = 5061
CARRIERS = re.sub(
    "(?s)  <gateways>.*</gateways>\n", "", PROFILE.format(host=PBX, port=CARRIERS_PORT)
)
CARRIERS = CARRIERS.replace("external", "carriers").replace(
    "  </settings>", '    <param name="disable-transfer" value="true"/>\n  </settings>'
)

# The admin's own extensions before ours: they set things of theirs and go on into ours.
PUBLIC = f"""<include>
<context name="public">
<extension name="admin-logs-hangup" continue="true"><condition>
<action application="set" data="api_hangup_hook=log NOTICE ADMIN-H ${{uuid}}"/>
</condition></extension>
{
    _extension(
        "timed",
        "^([1-9])1$",
        "sched_hangup +$1 ALLOTTED_TIMEOUT",
        "set admin=mine",
        "transfer +33612345678 XML public",
    )
}
{
    _extension(
        "kept",
        "^70$",
        "set continue_on_fail=NORMAL_TEMPORARY_FAILURE",
        "set hangup_after_bridge=NORMAL_CLEARING",
        "set sip_copy_custom_headers=true",
        "set force_transfer_dialplan=inline",
        "set force_transfer_context=their 'own'|one",
        "transfer +33612345678 XML public",
    )
}
{
    _extension(
        "stale",
        "^73$",
        "set rounded_call_id=018f4c2e-7b1a-7c3d-9e4f-0123456789ab",
        "transfer +33612345678 XML public",
    )
}
{
    _extension(
        "forgotten",
        "^74$",
        "set rounded_fallback=600 XML default",
        "set socket_resume=true",
        "sched_transfer +3 +33611111111 XML rounded_bridge",
        "set rounded_cap_id=${last_sched_id}",
        "transfer +33611111111 XML rounded_bridge",
    )
}
{_extension("again", "^75$", "set rounded_in_did=+33612345678", "transfer 999 XML public")}
{
    _extension(
        "named",
        "^76$",
        "set effective_caller_id_name=Theirs",
        "set effective_caller_id_number=42",
        "transfer +33612345678 XML public",
    )
}
{_extension("wrong", "^72$", "set rounded_next=dial", "transfer 900 XML rounded_bridge")}
{
    _extension(
        "leaves",
        "^83$",
        "unset api_hangup_hook",
        "set rounded_then=83-then XML default",
        "transfer +33612345678 XML rounded_prestage",
    )
}
{_extension("nowhere", "^85$", "transfer +33612345678 XML rounded_prestage")}
{
    _extension(
        "twice",
        "^88$",
        "unset api_hangup_hook",
        "set rounded_then=88-then XML default",
        "transfer +33612345678 XML rounded_prestage",
    )
}
{_extension("unknown", "^89$", "transfer +33688888888 XML rounded_prestage")}
{_extension("theirs", "^.33688888888$", "transfer 600 XML default")}
<X-PRE-PROCESS cmd="include" data="public/*.xml"/>
</context>
</include>
"""

# What docs/prestage.md has: the greeting is 80, the IVR 86. mod_callcenter is not everywhere, so
# the queue, 82, is a pause.
_DOCUMENTED = documented(
    "xml",
    changes={
        "ivr/welcome.wav": "tone_stream://%(2000,0,440)",
        "ivr/menu.wav": "tone_stream://%(500,0,440)",
        "1 1 1 3000 #": "1 1 1 1500 #",
        'application="callcenter" data="support@default"': 'application="sleep" data="2000"',
    },
).split("<!-- ")
_GREETING, _FIRST, _MENU, _QUEUE = (f"<!-- {each}" for each in _DOCUMENTED[1:])
EARLY = "<include>\n{}</include>\n".format(
    _GREETING.replace(r"^\+33612345678$", "^80$")
    + _FIRST.replace(r"^\+33612345678$", "^86$")
    + _FIRST.replace(r"^\+33612345678$", "^82$").replace("=5000 XML", "=6000 XML")
)
DEFAULT = f"""<include>
<context name="default">
{
    _extension(
        "phone",
        "^600$",
        f"log NOTICE FALLBACK {SEEN}",
        "set hangup_after_bridge=true",
        f"bridge sofia/external/600@{PHONE}:{PHONE_PORT}",
    )
}
{_extension("other", "^900$", f"bridge sofia/external/900@{PHONE}:{PHONE_PORT}")}
{
    _extension(
        "twice-then",
        "^88-then$",
        "set rounded_then=83-then XML default",
        "transfer +33612345678 XML rounded_prestage",
    )
}
{_extension("leaves-then", "^83-then$", "ring_ready", "sleep 1000", "hangup USER_BUSY")}
{_MENU}
{_QUEUE.replace("5000", "6000")}
</context>
</include>
"""

CDR = (
    '<include>\n<configuration name="cdr_csv.conf"><settings>'
    '<param name="default-template" value="rounded"/><param name="legs" value="a"/>'
    '<param name="log-base" value="{}"/></settings><templates>'
    '<template name="rounded">${{caller_id_number}},${{hangup_cause}},'
    "${{rounded_call_id}}\n</template></templates></configuration>\n</include>"
)


class FreeSwitch(PrivateFreeSwitch):
    """A private FreeSWITCH, and what the tests read of it."""

    version = 1
    # The dialplan's cap is three seconds, and the scheduler fires up to one early.
    asks, cap, earliest = OUTBOUND, 3.1, 1.9
    answered = "NORMAL_CLEARING"

    def notices(self, since: int = 0) -> list[str]:
        """What the test dialplan logged, from a position of the log on."""
        return re.findall(r"\[NOTICE\] \S+ ((?:FALLBACK|ADMIN)\S* ?.*)", self.said(since))

    def said(self, since: int) -> str:
        """The log from a position on."""
        with self.log.open("rb") as log:
            log.seek(since)
            return log.read().decode("utf-8", "replace")

    def position(self) -> int:
        return self.log.stat().st_size

    def channels(self) -> int:
        found = re.search(r"(\d+) total", self.cli("show channels count"))
        return int(found[1]) if found else -1

    def cdr(self) -> list[str]:
        """The lines of the CDR file."""
        file = self.directory / "log" / "cdr-csv" / "Master.csv"
        return file.read_text(errors="replace").splitlines() if file.exists() else []


def files(directory: Path) -> dict[str, str]:
    """The files as --install leaves them, their marked lines changed, and the admin's own."""
    bridge = OURS / "dialplan" / "rounded.xml"
    trunk = OURS / "sip_profiles" / "external" / "rounded.xml"
    given = {
        "dialplan/public/00_rounded.xml": (OURS / "dialplan/public/00_rounded.xml").read_text(),
        "dialplan/rounded.xml": marked(
            bridge.read_text(), {"originate_timeout=15": "originate_timeout=3"}
        ),
        "sip_profiles/external/rounded.xml": marked(
            trunk.read_text(),
            {
                '"proxy" value="sip.example.net"': f'"proxy" value="{TRUNK}:{TRUNK_PORT}"',
                '"realm" value="sip.example.net"': f'"realm" value="{TRUNK}"',
            },
        ),
    }
    return {
        "autoload_configs/cdr_csv.conf.xml": CDR.format(directory / "log"),
        "sip_profiles/external.xml": PROFILE.format(host=PBX, port=5060),
        "sip_profiles/carriers.xml": CARRIERS,
        "dialplan/public.xml": PUBLIC,
        "dialplan/public/000_support.xml": EARLY,
        "dialplan/default.xml": DEFAULT,
        # Between the marks that --install puts around them.
        **{name: blocks.put(None, text, xml=True).decode() for name, text in given.items()},
    }


# In a context of the admin's, FusionPBX looks through the global dialplans, too, in their order.
_GLOBAL = _extension("global", ".*", f"bridge sofia/external/900@{PHONE}:{PHONE_PORT}")


def fusionpbx_files(directory: Path) -> dict[str, str]:
    """The same lab as FusionPBX puts its dialplans together, out of what it was given."""
    given = {
        name: marked(
            (EXAMPLES / "fusionpbx" / f"{name}.xml").read_text(),
            {"originate_timeout=15": "originate_timeout=3"} if name == "rounded_bridge" else {},
        )
        for name in ("public", "rounded_bridge", "rounded_after", "rounded_prestage")
    }
    contexts = "".join(
        f'<context name="{name}">\n{given[name]}\n{_GLOBAL}</context>\n'
        for name in ("rounded_bridge", "rounded_after", "rounded_prestage")
    )
    return {
        **files(directory),
        "dialplan/public/00_rounded.xml": f"<include>\n{given['public']}\n</include>\n",
        "dialplan/rounded.xml": f"<include>\n{contexts}</include>\n",
    }


@contextlib.contextmanager
def running(program: Path, directory: Path, files: Mapping[str, str]) -> Iterator[FreeSwitch]:
    freeswitch = FreeSwitch(
        program,
        directory,
        files,
        event_socket=EVENT_SOCKET,
        modules="mod_cdr_csv mod_tone_stream",
    )
    with freeswitch:
        yield freeswitch
