"""Facts -> the files of Asterisk: with PJSIP, with chan_sip, and of FreePBX."""

from __future__ import annotations

from .facts import Facts, Preset
from .templates import fill, marked

_STEPS = """\
; 1. Put this file beside extensions.conf, and this line at the top of extensions.conf:
;        #include {file}
; 2. In the context where your calls come in, lead the DID here:
;        exten => {did},1,Gosub(rounded,${{EXTEN}},1)
;         same => n,Hangup()
;    Gosub comes back only when neither the agent nor a fallback could be had, so what follows it
;    is yours: a voicemail, a Dial, a Hangup.
; 3. asterisk -rx "dialplan reload\""""

_FREEPBX_STEPS = """\
; 1. This belongs into extensions_custom.conf, at its top.
; 2. Admin > Custom Destinations: for each DID, a target such as rounded,{did},1
; 3. Connectivity > Inbound Routes: the DID, its destination that Custom Destination.
; 4. fwconsole reload"""

_PJSIP_HEADER = " same => n,Set(PJSIP_HEADER(add,X-Rounded-Call-Id)=${ARG1})"
_SIP_HEADER = " same => n,SIPAddHeader(X-Rounded-Call-Id: ${ARG1})"

# The Call-ID of the caller's leg, for the call's metadata: only its own channel driver knows it. A
# call with a ticket has told it, and PJSIP takes its time to say it.
_PJSIP_CALL_ID = """\
 same => n,GotoIf($["${CHANNEL(channeltype)}" != "PJSIP" | "${rounded_ticket}" != ""]?capped)
 same => n,Set(LOCAL(rounded_sip)=${URIENCODE(${CHANNEL(pjsip,call-id):0:128})})
"""
_SIP_CALL_ID = "${URIENCODE(${SIPCALLID:0:128})}"


def pjsip(facts: Facts) -> dict[str, str]:
    """The files for PJSIP, by their names."""
    name = "extensions_rounded.conf"
    return {
        name: _extensions(
            facts,
            "asterisk",
            "Asterisk 16 to 22 with PJSIP",
            _STEPS.format(file=name, did=facts.did),
        ),
        "pjsip_rounded.conf": fill(
            "pjsip.conf",
            flavour="asterisk",
            trunk=facts.trunk.name,
            transport=marked(
                f"transport={facts.trunk.transport}", "the name of your own [transport]", column=40
            ),
            auth=_auth(facts),
            contact=marked(
                f"contact=sip:{facts.trunk.host}",
                "the platform's SIP address, which came with the trunk",
                column=40,
            ),
            match=_matches(facts),
        ),
    }


def chan_sip(facts: Facts) -> dict[str, str]:
    """The files for chan_sip, by their names."""
    name = "extensions_rounded_chan_sip.conf"
    host, _, port = facts.trunk.host.partition(":")
    return {
        name: _extensions(
            facts,
            "asterisk-chan-sip",
            "Asterisk 16 to 20 with chan_sip",
            _STEPS.format(file=name, did=facts.did),
        ),
        "sip_rounded.conf": fill(
            "sip.conf",
            flavour="asterisk-chan-sip",
            trunk=facts.trunk.name,
            host=marked(
                f"host={host}", "the platform's SIP address, which came with the trunk", column=40
            )
            + "\n"
            + marked(f"port={port or 5060}", "and its port", column=40),
        ),
    }


def freepbx(facts: Facts) -> dict[str, str]:
    """What goes into files of FreePBX, by their names."""
    return {
        "extensions_custom.conf": _extensions(
            facts, "freepbx", "FreePBX 15 to 17 with PJSIP", _FREEPBX_STEPS.format(did=facts.did)
        ),
        "pjsip.endpoint_custom_post.conf": fill("freepbx.conf", trunk=facts.trunk.name),
    }


def _extensions(facts: Facts, flavour: str, title: str, steps: str) -> str:
    chan_sip = flavour == "asterisk-chan-sip"
    trunk = facts.trunk.name
    return fill(
        "extensions.conf",
        title=title,
        flavour=flavour,
        steps=steps,
        dids="\n".join(_presets(facts)),
        ringing=" same => n,Ringing()\n" if facts.ringback else "",
        ring=marked(
            f" same => n,Set(LOCAL(rounded_ring)={facts.trunk.ring})",
            "seconds that the agent may ring",
        ),
        cap=marked(
            f"exten => s,1,MSet(LOCAL(rounded_cap)={facts.asterisk_cap},"
            "LOCAL(rounded_left)=${TIMEOUT(absolute)})",
            "seconds: calls.deadline + 0.5",
        ),
        agent=f"SIP/{trunk}/${{rounded_did}}" if chan_sip else f"PJSIP/${{rounded_did}}@{trunk}",
        header=_SIP_HEADER if chan_sip else _PJSIP_HEADER,
        sip="" if chan_sip else _PJSIP_CALL_ID,
        sipnow=_SIP_CALL_ID if chan_sip else "",
        address=facts.address,
        transfers="\n".join(_transfers(facts)),
    )


# Where no route takes every DID.
_REST = """\
; A DID without lines of its own is staged all the same; where the daemon does not answer for it,
; the call comes back to your next line.
exten => _[+0-9]!,1,Set(ROUNDED_NEXT=fallback)
 same => n,Set(ROUNDED_FALLBACK=)
 same => n,Goto(rounded-call,${FILTER(0-9+,${EXTEN})},1)"""


def _presets(facts: Facts) -> list[str]:
    every = [_preset(preset) for preset in facts.presets]
    return every if any(preset.prefix == "" for preset in facts.presets) else [*every, _REST]


def _preset(preset: Preset) -> str:
    patterns = {None: preset.did, "": "_[+0-9]!"}
    pattern = patterns.get(preset.prefix, f"_{preset.prefix}!")
    return "\n".join(
        [
            marked(
                f"exten => {pattern},1,Set(ROUNDED_NEXT={preset.next})", "the DID; its on_failure"
            ),
            marked(
                f" same => n,Set(ROUNDED_FALLBACK={preset.fallback})", "its fallback; may be empty"
            ),
            " same => n,Goto(rounded-call,${FILTER(0-9+,${EXTEN})},1)",
        ]
    )


def _transfers(facts: Facts) -> list[str]:
    lines = [f"exten => {number},1,Goto({target})" for number, target in facts.transfers]
    comment = "one line each; delete it for none"
    return [marked(line, comment) for line in lines] or ["; (none)"]


def _auth(facts: Facts) -> str:
    name = f"outbound_auth={facts.trunk.name}-auth"
    line = marked(
        name if facts.trunk.auth else f";{name}",
        "if the platform gave you a user name: a section",
        column=40,
    )
    return line + "\n" + 40 * " " + "; of yours with type=auth, username and password"


def _matches(facts: Facts) -> str:
    hosts = facts.trunk.match or (facts.trunk.address,)
    comment = (
        "the addresses or networks it calls from; a name is\n"
        + 40 * " "
        + "; looked up once, and must be known when Asterisk starts"
    )
    first, *rest = [f"match={host}" for host in hosts]
    return "\n".join([marked(first, comment, column=40), *rest])
