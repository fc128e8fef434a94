"""The ways through FreeSWITCH: bare, ours in both modes, Lua and curl, greenswitch's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rounded_pbx.demo.freeswitch import PROFILE, PrivateFreeSwitch, find

from .calls import TRUNK
from .processes import ROOT, Api, Subject, running

EVENT_SOCKET = 8021
GREENSWITCH = 8085
DID = "+33612345678"
TO_AGENT = f"sofia/gateway/rounded/{DID}"
OURS = ROOT / "dialplan_examples/freeswitch"
DROP_IN = OURS / "dialplan/public/00_rounded.xml"

# What people write with mod_lua and mod_curl.
LUA = """\
session:execute("ring_ready")
local answer = freeswitch.API():executeString("curl " .. argv[1] .. "/v1/calls/stage " ..
  "insecure append_headers X-Api-Key:k content-type application/json post " ..
  '{"from_number":"+33145678901","to_number":"+33612345678"}')
local id = string.match(answer or "", '"call_id": *"([0-9a-f-]+)"')
session:setVariable("rounded_call_id", id or "")
"""


class _Quiet(PrivateFreeSwitch):
    """Writes no log of what it does, as the Asterisk of this benchmark."""

    def start(self, limit: float = 60.0) -> None:
        super().start(limit)
        self.cli("fsctl loglevel err")


def extension(number: str, *actions: str) -> str:
    lines = "".join(
        f'<action application="{application}" data="{data}"/>\n'
        for application, _, data in (action.partition(" ") for action in actions)
    )
    return (
        f'<extension name="{number}"><condition field="destination_number" '
        f'expression="^{number}$">\n{lines}</condition></extension>\n'
    )


def _dialplan(folder: Path, apis: Mapping[int, Api]) -> str:
    """The ways beside ours; sync is the drop-in's own extension without the word async."""
    drop_in = DROP_IN.read_text()
    staged = "bridge {sip_h_X-Rounded-Call-Id=${rounded_call_id}}" + TO_AGENT
    stage = drop_in[drop_in.index('<extension name="rounded-stage">') : drop_in.index("</include>")]
    sync = stage.replace("async full", "full").replace("$1", DID)
    sync = sync.replace("${rounded_in_did}", "destination_number").replace("^(.+)$", "^sync$")
    # A sync socket with socket_resume would never end.
    sync = sync.replace("socket_resume=true", "socket_resume=false")
    ring = '<action application="ring_ready"/>'
    sync = sync.replace(ring, f'<action application="set" data="rounded_in_did={DID}"/>{ring}')
    ways = [
        extension("bare", f"bridge {TO_AGENT}"),
        sync,
        extension(
            "greenswitch",
            "ring_ready",
            "set socket_resume=true",
            f"socket 127.0.0.1:{GREENSWITCH} async full",
            staged,
        ),
        *(
            extension(f"lua{distance}", f"lua {folder}/stage.lua {api.url}", staged)
            for distance, api in apis.items()
        ),
    ]
    return "".join(ways)


def private(
    folder: Path, public: str, trunk_port: int, *, modules: str = "", cap: int = 3
) -> PrivateFreeSwitch:
    """A real FreeSWITCH on the files of dialplan_examples, and extensions that stand before them.

    ``cap``: seconds that its dialplan waits for the daemon.
    """
    binary = find()
    if binary is None:
        sys.exit("no FreeSWITCH: have it on PATH, or name it in the variable FREESWITCH")
    trunk = (OURS / "sip_profiles/external/rounded.xml").read_text()
    return _Quiet(
        binary,
        folder / "freeswitch",
        {
            "sip_profiles/external.xml": PROFILE.format(host="127.0.0.1", port=5060),
            "sip_profiles/external/rounded.xml": trunk.replace(
                "sip.example.net", f"{TRUNK}:{trunk_port}"
            ),
            "dialplan/benchmark.xml": f'<include>\n<context name="public">\n{public}'
            '<X-PRE-PROCESS cmd="include" data="public/*.xml"/>\n</context>\n</include>\n',
            "dialplan/public/00_rounded.xml": _capped(DROP_IN, cap),
            "dialplan/rounded.xml": _capped(OURS / "dialplan/rounded.xml", cap),
        },
        event_socket=EVENT_SOCKET,
        modules=modules,
    )


def _capped(file: Path, seconds: int) -> str:
    return file.read_text().replace(
        '"sched_transfer" data="+3 ', f'"sched_transfer" data="+{seconds} '
    )


def switch(folder: Path, apis: Mapping[int, Api], trunk_port: int) -> PrivateFreeSwitch:
    """A FreeSWITCH with the ways that are measured here."""
    (folder / "stage.lua").write_text(LUA)
    return private(folder, _dialplan(folder, apis), trunk_port, modules="mod_lua mod_curl")


@contextlib.contextmanager
def greenswitch(folder: Path, api: Api) -> Iterator[int]:
    """greenswitch's own outbound server, staging with httpx; its pid."""
    command = ["-m", "benchmarks.parts.greenswitch_server", str(GREENSWITCH), api.url]
    with running([*command, str(api.ca_file)], folder / "greenswitch.log", "bound to port") as pid:
        yield pid


def ways(distance: int) -> dict[str, str]:
    """What is dialled for each way, the bare one first."""
    return {
        "no socket": "bare",
        "rounded_pbx, socket async": DID,
        "rounded_pbx, socket sync": "sync",
        "Lua and curl": f"lua{distance}",
        "greenswitch's server": "greenswitch",
    }


SUBJECT = Subject("freeswitch", "FreeSWITCH", find, switch, ways, rate=50, beside=greenswitch)
