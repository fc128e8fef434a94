"""SIPp as the caller, as the trunk and as a phone; what it saw is read from its message trace."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .processes import end

SDP = """v=0
o=lab 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8
a=rtpmap:8 PCMA/8000
"""

# Calls of earlier tests: a switch goes on repeating an INVITE that nobody has answered for 32 s.
EARLIER: set[str] = set()

FAILURES = (403, 404, 408, 480, 486, 488, 500, 503, 600, 603)

CALLER = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="caller">
<send retrans="500"><![CDATA[
INVITE sip:{did}@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:caller@[local_ip]:[local_port]>
Max-Forwards: 70
{headers}Content-Type: application/sdp
Content-Length: [len]

{sdp}]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true"/>
<recv response="181" optional="true"/>
<recv response="183" optional="true"/>
{failures}
<recv response="200" {timeout}/>
<send><![CDATA[
ACK sip:{did}@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Contact: <sip:caller@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Length: 0

]]></send>
{after}
<label id="8"/>
<send retrans="500"><![CDATA[
BYE sip:{did}@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200" next="10"/>
<label id="9"/>
<send><![CDATA[
ACK sip:{did}@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<label id="10"/>
</scenario>
"""

CANCEL = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="caller who leaves">
{invite}
<recv response="100"/>
<recv response="180"/>
<pause milliseconds="{after_ms}"/>
<send retrans="500"><![CDATA[
CANCEL sip:{did}@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 CANCEL
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="180" optional="true"/>
<recv response="200"/>
<recv response="487"/>
<send><![CDATA[
ACK sip:{did}@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
From: {from_};tag=[pid]caller[call_number]
To: <sip:{did}@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
</scenario>
"""

_REPLY = """<send{retrans}><![CDATA[
SIP/2.0 {status}
[last_Via:]
[last_From:]
[last_To:];tag=[pid]callee[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:callee@[local_ip]:[local_port]>
{body}
]]></send>
"""
_WITH_SDP = "Content-Type: application/sdp\nContent-Length: [len]\n\n" + SDP
_EMPTY = "Content-Length: 0\n"

CALLEE = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="callee">
<recv request="INVITE" rrs="true">{keep}</recv>
{ringing}{answer}
<recv request="ACK" optional="true" next="1"/>
<recv request="BYE" next="2"/>
<label id="1"/>
{after}
<recv request="BYE"/>
<label id="2"/>
{bye}
</scenario>
"""

REFUSAL = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="callee who refuses">
<recv request="INVITE"/>
{answer}
<recv request="ACK"/>
</scenario>
"""

SILENT = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="callee who says nothing">
<recv request="INVITE"/>
<recv request="CANCEL"/>
<pause milliseconds="60000"/>
</scenario>
"""

REFER = """<send retrans="500"><![CDATA[
REFER [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:callee@[local_ip]:[local_port]>;tag=[pid]callee[call_number]
To: [$1]
Call-ID: [call_id]
CSeq: 1 REFER
Contact: <sip:callee@[local_ip]:[local_port]>
Max-Forwards: 70
Refer-To: <sip:{target}@127.0.0.1>
Content-Length: 0

]]></send>
<recv response="202"/>
"""

#: What an agent does who hangs up, after a while of talking: see ``callee``.
HANG_UP = """<pause milliseconds="300"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:callee@[local_ip]:[local_port]>;tag=[pid]callee[call_number]
To: [$1]
Call-ID: [call_id]
CSeq: 1 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200"/>
"""


@dataclass(frozen=True)
class Message:
    at: float
    sent: bool
    text: str

    @property
    def first_line(self) -> str:
        return self.text.split("\r\n", 1)[0].split("\n", 1)[0]

    def headers(self, name: str) -> list[str]:
        head = re.split(r"\r?\n\r?\n", self.text, maxsplit=1)[0]
        return re.findall(
            rf"^{re.escape(name)}\s*:[ \t]*(.*?)\r?$", head, re.MULTILINE | re.IGNORECASE
        )


@dataclass
class Sipp:
    """A running SIPp, and what it has seen so far."""

    process: subprocess.Popen[bytes]
    trace: Path
    local: tuple[str, int]

    def ready(self) -> bool:
        """Whether it is bound: an answering SIPp writes its screen only afterwards."""
        assert self.process.poll() is None, f"{self.trace.with_suffix('.out').read_text()[-2000:]}"
        port = f":{self.local[1]:04X} "
        return port in Path("/proc/net/udp").read_text()

    def messages(self) -> list[Message]:
        if not self.trace.exists():
            return []
        raw = self.trace.read_text(encoding="utf-8", errors="surrogateescape")
        found = []
        blocks = re.split(
            r"^-{20,} (\d{4}-\d\d-\d\d)\s+(\d\d:\d\d:\d\d)\.(\d+)\n", raw, flags=re.MULTILINE
        )
        for day, clock, fraction, text in zip(*[iter(blocks[1:])] * 4, strict=True):
            head = re.match(r"UDP message (sent|received).*?\n\n", text, re.DOTALL)
            if head is None:
                continue
            at = time.mktime(time.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S"))
            found.append(
                Message(at + float(f"0.{fraction}"), head[1] == "sent", text[head.end() :])
            )
        return found

    def received(self, start: str) -> list[Message]:
        return [m for m in self.messages() if not m.sent and m.first_line.startswith(start)]

    def sent(self, start: str) -> list[Message]:
        return [m for m in self.messages() if m.sent and m.first_line.startswith(start)]

    def invites(self) -> list[Message]:
        """The INVITEs received, without retransmissions."""
        seen: dict[str, Message] = {}
        for message in self.received("INVITE"):
            seen.setdefault(message.headers("Call-ID")[0], message)
        return [message for call, message in seen.items() if call not in EARLIER]

    def wait(self, limit: float) -> int:
        return self.process.wait(limit)


@contextlib.contextmanager
def sipp(
    directory: Path,
    name: str,
    scenario: str,
    local: tuple[str, int],
    remote: str = "",
    *options: str,
) -> Iterator[Sipp]:
    file, trace = directory / f"{name}.xml", directory / f"{name}.messages"
    for old in (trace, directory / f"{name}.errors"):
        old.unlink(missing_ok=True)
    file.write_text(scenario, encoding="latin-1")
    command = [
        "sipp", *([remote] if remote else []), "-sf", str(file), "-i", local[0],
        "-p", str(local[1]),
        "-mi", local[0], "-trace_msg", "-message_file", str(trace), "-trace_err", "-error_file",
        str(directory / f"{name}.errors"), "-nostdin", "-aa", *options,
    ]  # fmt: skip
    with (directory / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    seen = Sipp(process, trace, local)
    try:
        yield seen
    finally:
        end(process)
        EARLIER.update(m.headers("Call-ID")[0] for m in seen.received("INVITE"))


def caller(
    did: str = "+33612345678",
    from_: str = '"Ann Caller" <sip:+33145678901@127.0.0.2>',
    headers: Sequence[str] = (),
    *,
    talk_ms: int = 300,
    patience_ms: int = 30000,
) -> str:
    """A caller who talks for a while and hangs up."""
    return CALLER.format(
        did=did,
        from_=from_,
        headers="".join(f"{line}\n" for line in headers),
        sdp=SDP,
        failures="".join(
            f'<recv response="{code}" optional="true" next="9"/>\n' for code in FAILURES
        ),
        timeout=f'timeout="{patience_ms}"',
        after=f'<pause milliseconds="{talk_ms}"/>',
    )


def waiting_caller(
    did: str = "+33612345678", from_: str = '"Ann" <sip:+33145678901@127.0.0.2>'
) -> str:
    """A caller who talks until the other side hangs up."""
    text = caller(did, from_)
    return text.replace(
        '<pause milliseconds="300"/>',
        '<recv request="BYE"/>\n'
        + _REPLY.format(status="200 OK", body=_EMPTY, retrans="")
        .replace(";tag=[pid]callee[call_number]", "")
        .replace("</send>", '</send>\n<nop next="10"/>'),
    )


def leaving_caller(after_ms: int, did: str = "+33612345678") -> str:
    """A caller who gives up after a while."""
    from_ = '"Ann" <sip:+33145678901@127.0.0.2>'
    whole = caller(did, from_)
    invite = whole[whole.index("<send") : whole.index("</send>") + len("</send>")]
    return CANCEL.format(invite=invite, after_ms=after_ms, did=did, from_=from_)


_KEEP_FROM = """
<action><ereg regexp=".*" search_in="hdr" header="From:" assign_to="1"/></action>
"""


def callee(after: str = "", *, ring: bool = True) -> str:
    """Someone who answers, and waits for the BYE."""
    return CALLEE.format(
        keep=_KEEP_FROM if "[$1]" in after else "",
        ringing=_REPLY.format(status="180 Ringing", body=_EMPTY, retrans="") if ring else "",
        answer=_REPLY.format(status="200 OK", body=_WITH_SDP, retrans=' retrans="500"'),
        after=after,
        bye=_REPLY.format(status="200 OK", body=_EMPTY, retrans="").replace(
            ";tag=[pid]callee[call_number]", ""
        ),
    )


def refer(target: str) -> str:
    """What an agent does who transfers the caller, after a while of talking."""
    return '<pause milliseconds="300"/>' + REFER.format(target=target)


def refusing(status: str) -> str:
    """Someone who refuses every call: ``503 Service Unavailable``."""
    return REFUSAL.format(
        answer=_REPLY.format(status=status, body=_EMPTY, retrans=' retrans="500"')
    )


def redirecting(contact: str) -> str:
    """Someone who sends every call elsewhere."""
    return refusing("302 Moved Temporarily").replace("sip:callee@[local_ip]:[local_port]", contact)
