"""The ways through Asterisk: bare, ours, the dialplan's own CURL(), an AGI script for each call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rounded_pbx.demo.asterisk import MODULES, PrivateAsterisk, find

from .calls import CALLER, TRUNK
from .processes import ROOT, Api, Subject

AGI_SCRIPT = """#!{python}
import json, ssl, sys, urllib.request
while sys.stdin.readline().strip():
    pass
body = {{"from_number": "+33145678901", "to_number": "+33612345678",
        "agent_id": "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"}}
request = urllib.request.Request(sys.argv[1] + "/v1/calls/stage", json.dumps(body).encode(),
    {{"X-Api-Key": "k", "Content-Type": "application/json"}})
context = ssl.create_default_context(cafile=sys.argv[2])
answer = json.load(urllib.request.urlopen(request, context=context))
print('SET VARIABLE ROUNDED_CALL_ID "%s"' % answer["data"]["call_id"], flush=True)
sys.stdin.readline()
"""

EXTENSIONS = """[from-trunk]
exten => bare,1,Dial(PJSIP/+33612345678@rounded,15)
exten => none,1,Gosub(rounded,+33612345678,1)
exten => poll,1,Gosub(rounded,+33612345679,1)
exten => _curl-X!,1,Ringing()
 same => n,Set(CURLOPT(ssl_verifypeer)=0)
 same => n,Set(CURLOPT(httpheader)=X-Api-Key: k)
 same => n,Set(CURLOPT(httpheader)=Content-Type: application/json)
 same => n,Set(body={{"from_number":"+33145678901","to_number":"+33612345678"}})
 same => n,Set(answer=${{CURL(${{API${{EXTEN:5}}}}/v1/calls/stage,${{body}})}})
 same => n,Set(id=${{JSON_DECODE(answer,data.call_id)}})
 same => n,Dial(PJSIP/+33612345678@rounded,15,b(rounded-header^s^1(${{id}})))
exten => _script-X!,1,Ringing()
 same => n,AGI({script},${{API${{EXTEN:7}}}},{authority})
 same => n,Dial(PJSIP/+33612345678@rounded,15,b(rounded-header^s^1(${{ROUNDED_CALL_ID}})))
[globals]
API0={api0}
API40={api40}
#include extensions_rounded.conf
"""

PJSIP = f"""[transport-udp]
type=transport
protocol=udp
bind=127.0.0.1:5060
[carrier]
type=endpoint
context=from-trunk
disallow=all
allow=alaw
[carrier]
type=identify
endpoint=carrier
match={CALLER}
#include pjsip_rounded.conf
"""


def switch(
    folder: Path, apis: Mapping[int, Api], authorities: Path, trunk_port: int
) -> PrivateAsterisk:
    binary = find()
    if binary is None:
        sys.exit("no Asterisk: scripts/unpack asterisk-22 unpacks one")
    script = folder / "stage.py"
    script.write_text(AGI_SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    examples = ROOT / "dialplan_examples/asterisk"
    dialplan = (examples / "extensions_rounded.conf").read_text()
    trunk = (
        (examples / "pjsip_rounded.conf")
        .read_text()
        .replace("match=sip.example.net", f"match={TRUNK}")
    )
    return PrivateAsterisk(
        binary,
        folder / "asterisk",
        {
            "modules.conf": MODULES + "load=func_curl.so\nload=res_curl.so\nload=func_json.so\n",
            "extensions.conf": EXTENSIONS.format(
                script=script, authority=authorities, api0=apis[0].url, api40=apis[40].url
            ),
            "extensions_rounded.conf": dialplan,
            "pjsip.conf": PJSIP,
            "pjsip_rounded.conf": trunk.replace("sip:sip.example.net", f"sip:{TRUNK}:{trunk_port}"),
            "logger.conf": "[general]\n[logfiles]\nmessages => error\n",
        },
    )


def ways(distance: int) -> dict[str, str]:
    """What is dialled for each way, the bare one first."""
    return {
        "no staging": "bare",
        "rounded_pbx, wait: none": "none",
        "rounded_pbx, wait: poll": "poll",
        "dialplan CURL()": f"curl-{distance}",
        "AGI script a call": f"script-{distance}",
    }


SUBJECT = Subject("asterisk", "Asterisk", find, switch, ways, rate=10)
