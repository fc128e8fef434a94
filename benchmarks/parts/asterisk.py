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


def private(
    folder: Path, extensions: str, trunk_port: int, *, modules: str = "", cap: float = 2
) -> PrivateAsterisk:
    """A real Asterisk on the files of dialplan_examples, and the dialplan that leads there.

    ``cap``: seconds that its dialplan waits for the daemon.
    """
    binary = find()
    if binary is None:
        sys.exit("no Asterisk: scripts/unpack asterisk-22 unpacks one")
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
            "modules.conf": MODULES + modules,
            "extensions.conf": extensions,
            "extensions_rounded.conf": dialplan.replace("rounded_cap)=2", f"rounded_cap)={cap}"),
            "pjsip.conf": PJSIP,
            "pjsip_rounded.conf": trunk.replace("sip:sip.example.net", f"sip:{TRUNK}:{trunk_port}"),
            "rtp.conf": "[general]\nrtpstart=20000\nrtpend=30000\n",
            "logger.conf": "[general]\ndateformat=%s.%6q\n[logfiles]\nmessages => error,notice\n",
        },
    )


def switch(folder: Path, apis: Mapping[int, Api], trunk_port: int) -> PrivateAsterisk:
    """An Asterisk with the ways that are measured here."""
    authorities = folder / "authorities.pem"
    authorities.write_text("".join(api.ca_file.read_text() for api in apis.values()))
    script = folder / "stage.py"
    script.write_text(AGI_SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    extensions = EXTENSIONS.format(
        script=script, authority=authorities, api0=apis[0].url, api40=apis[40].url
    )
    modules = "load=func_curl.so\nload=res_curl.so\nload=func_json.so\n"
    return private(folder, extensions, trunk_port, modules=modules)


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
