"""The ways of a call that is greeted first, on both switches.

What is measured is the line of docs/prestage.md, as it stands there. The greeting takes two seconds
and is heard as early media.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rounded_pbx.demo.asterisk import PrivateAsterisk
from rounded_pbx.demo.asterisk import find as find_asterisk
from rounded_pbx.demo.freeswitch import PrivateFreeSwitch
from rounded_pbx.demo.freeswitch import find as find_freeswitch

from . import asterisk, freeswitch
from .processes import AGENT, ROOT, Api, Subject

#: Seconds that a call may wait for its staging, and that the dialplans wait for the daemon.
DEADLINE, CAP = 3, 4
#: Seconds after which what was prestaged is ready, and between two AGI lines.
READY, PAUSE = 1.5, 0.1
#: Port of the FastAGI server that does nothing.
NOOP = 4574

_ASTERISK = """[from-trunk]
exten => bare,1,Progress()
 same => n,Playback({sound},noanswer)
 same => n,Dial(PJSIP/+33612345678@rounded,15)
exten => header,1,Progress()
 same => n,Playback({sound},noanswer)
 same => n,Dial(PJSIP/+33612345678@rounded,15,ib(rounded-header^s^1({agent})))
{documented}
exten => late,1,Progress()
 same => n,Playback({sound},noanswer)
 same => n,Gosub(rounded,+33612345678,1)
 same => n,Hangup()
; Executes each line some times, and notes when it began and when it had ended.
exten => _repeat-X!,1,Set(most=${{EXTEN:7}})
 same => n,MSet(rounded_did=+33612345678,rounded_from=from-trunk)
 same => n,Set(rounded_sip=${{URIENCODE(${{CHANNEL(pjsip,call-id):0:128}})}})
 same => n,Gosub(repeated,s,1(nothing))
 same => n,Gosub(repeated,s,1(noop))
 same => n,Gosub(repeated,s,1(prestage))
 same => n,Wait({ready})
 same => n,Gosub(repeated,s,1(collect))
 same => n,Dial(PJSIP/+33612345678@rounded,15)
[repeated]
exten => s,1,Set(LOCAL(number)=0)
 same => n(next),Set(LOCAL(number)=$[${{number}} + 1])
 same => n,Set(rounded_ticket=${{ticket_${{number}}}})
 same => n,MSet(rounded_action=${{ARG1}},ROUNDED_CALL_ID=)
 same => n,Wait({pause})
 same => n,Gosub(line,${{ARG1}},1)
 same => n,Set(ticket_${{number}}=${{ROUNDED_TICKET}})
 same => n,GotoIf($[${{number}} < ${{most}}]?next)
 same => n,Return()
[line]
exten => nothing,1,Log(NOTICE,begun)
 same => n,Log(NOTICE,ended)
 same => n,Return()
exten => noop,1,Log(NOTICE,begun)
 same => n,AGI(agi://127.0.0.1:{noop}/noop)
 same => n,Log(NOTICE,ended)
 same => n,Return()
exten => prestage,1,Log(NOTICE,begun)
 same => n,{line}
 same => n,Log(NOTICE,ended ${{ROUNDED_TICKET}})
 same => n,Return()
exten => collect,1,Log(NOTICE,begun)
 same => n,{line}
 same => n,Log(NOTICE,ended ${{ROUNDED_CALL_ID}})
 same => n,Return()
#include extensions_rounded.conf
"""
_MODULES = "load=app_playback.so\nload=format_pcm.so\n"


def _documented(language: str, sound: str, greeting: str) -> str:
    """The first block of docs/prestage.md in a language, which greets, with a sound of ours."""
    text = (ROOT / "docs/prestage.md").read_text()
    block = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if block is None or sound not in block[1]:
        raise ValueError(f"docs/prestage.md has no greeting for {language}")
    return block[1].replace(sound, greeting)


def on_asterisk(folder: Path, apis: Mapping[int, Api], trunk_port: int) -> PrivateAsterisk:
    """An Asterisk that greets its callers; nothing but the daemon asks the API."""
    sound = folder / "greeting"
    sound.with_suffix(".alaw").write_bytes(b"\xd5" * 16_000)  # two seconds of silence
    ours = (ROOT / "dialplan_examples/asterisk/extensions_rounded.conf").read_text()
    line = re.search(r"AGI\(agi://\S+/\$\{rounded_action\}.*\)$", ours, re.MULTILINE)
    assert line is not None
    extensions = _ASTERISK.format(
        sound=sound,
        documented=_documented("ini", "custom/welcome", str(sound)),
        line=line[0],
        noop=NOOP,
        ready=READY,
        pause=PAUSE,
        agent=AGENT,
    )
    return asterisk.private(folder, extensions, trunk_port, modules=_MODULES, cap=CAP)


def on_freeswitch(folder: Path, apis: Mapping[int, Api], trunk_port: int) -> PrivateFreeSwitch:
    """A FreeSWITCH that greets its callers; nothing but the daemon asks the API."""
    tone = "tone_stream://%(2000,0,440)"
    greeting = ("pre_answer", f"playback {tone}")
    public = (
        freeswitch.extension("bare", *greeting, f"bridge {freeswitch.TO_AGENT}")
        + freeswitch.extension(
            "late", *greeting, "set rounded_then=none", f"transfer {freeswitch.DID} XML public"
        )
        + _documented("xml", "ivr/welcome.wav", tone)
    )
    # The scheduler fires up to a second early.
    return freeswitch.private(folder, public, trunk_port, modules="mod_tone_stream", cap=CAP + 1)


def _ways(distance: int) -> dict[str, str]:
    """What is dialled for each way, the bare one first."""
    return {
        "a greeting, no staging": "bare",
        "a greeting, prestaged": freeswitch.DID,
        "a greeting, then staged": "late",
    }


def _asterisk_ways(distance: int) -> dict[str, str]:
    """Those, and the bare one with a header: after Dial's b(), Asterisk sleeps a millisecond.

    (``ast_autoservice_stop``, main/autoservice.c.)
    """
    return {**_ways(distance), "a greeting, a header, no staging": "header"}


SUBJECTS = (
    Subject("asterisk", "Asterisk", find_asterisk, on_asterisk, _asterisk_ways, rate=10),
    Subject("freeswitch", "FreeSWITCH", find_freeswitch, on_freeswitch, _ways, rate=10),
)
