"""Facts -> the files of FreeSWITCH, and what FusionPBX imports."""

from __future__ import annotations

import re

from .facts import Facts, Preset
from .templates import fill, marked_xml


def freeswitch(facts: Facts) -> dict[str, str]:
    """The drop-in files, by their paths below FreeSWITCH's configuration."""
    return {
        "sip_profiles/external/rounded.xml": fill(
            "gateway.xml",
            trunk=facts.trunk.name,
            proxy=marked_xml(
                f'    <param name="proxy" value="{facts.trunk.host}"/>',
                "the platform's SIP host or host:port",
                column=64,
            ),
            realm=marked_xml(
                f'    <param name="realm" value="{facts.trunk.address}"/>',
                "the same without a port",
                column=64,
            ),
            auth=_AUTH if facts.trunk.auth else _NO_AUTH,
        ),
        "dialplan/rounded.xml": fill(
            "rounded.xml",
            prestage=_prestage(facts),
            bridge=_bridge(facts),
            after=_after(facts),
        ),
        "dialplan/public/00_rounded.xml": fill("00_rounded.xml", public=_public(facts)),
    }


def fusionpbx(facts: Facts) -> dict[str, str]:
    """What each dialplan of the Dialplan Manager is given: extensions, without a context."""
    return {
        f"{name}.xml": fill("fusionpbx.xml", name=name, text=text)
        for name, text in (
            ("rounded_after", _after(facts)),
            ("rounded_bridge", _bridge(facts)),
            ("rounded_prestage", _prestage(facts)),
            ("public", _public(facts)),
        )
    }


_AUTH = """\
    <param name="username" value="$${rounded_username}"/>       <!-- set both in vars.xml -->
    <param name="password" value="$${rounded_password}"/>
"""
_NO_AUTH = """\
    <!-- <<< if the platform gave you a user name: <param name="username" value="..."/>
         and <param name="password" value="..."/> -->
"""


def _public(facts: Facts) -> str:
    # Later ones overwrite earlier ones: an exact DID comes after every prefix, a longer prefix
    # after a shorter one.
    ordered = sorted(facts.presets, key=lambda p: (p.prefix is None, len(p.did)))
    return fill(
        "public.xml",
        dids="\n\n".join(map(_preset, ordered)),
        ringing='      <action application="ring_ready"/>\n' if facts.ringback else "",
        cap=marked_xml(
            f'      <action application="sched_transfer" data="+{facts.freeswitch_cap} $1 '
            'XML rounded_bridge"/>',
            "seconds: calls.deadline + 0.5, rounded up, + 1",
        ),
        socket=marked_xml(
            f'      <action application="socket" data="{facts.address}/collect async full"/>',
            "freeswitch.outbound.listen",
        ),
    )


def _prestage(facts: Facts) -> str:
    dids = "|".join(dict.fromkeys(map(_pattern, facts.presets)))
    # A channel of nobody's, as the caller's has gone; not async, which would never end.
    hook = (
        "api_hangup_hook=bgapi originate {process_cdr=false,rounded_in_ticket=$1}null/rounded "
        f"'sched_hangup:+5,socket:{facts.address}/abandon full' inline"
    )
    return fill(
        "prestage.xml",
        dids=marked_xml(
            f'      <condition field="destination_number" expression="^({dids})$">',
            "your DIDs: (one|another)",
        )
        + '\n        <action application="multiset" data="^^|rounded_in_did=$1|rounded_ticket=|'
        'socket_resume=true"/>',
        cap=marked_xml(
            f'        <action application="sched_transfer" data="+{facts.freeswitch_cap} '
            'rounded-then XML rounded_prestage"/>',
            "seconds: calls.deadline + 0.5, rounded up, + 1",
        ),
        socket=marked_xml(
            f'        <action application="socket" data="{facts.address}/prestage async full"/>',
            "freeswitch.outbound.listen",
        ),
        hook=marked_xml(
            f'        <action application="set" data="{hook}"/>', "freeswitch.outbound.listen"
        ),
    )


def _preset(preset: Preset) -> str:
    exact = preset.prefix is None
    did = preset.did if exact else "$1"
    pattern = _pattern(preset) if exact else f"({_pattern(preset)})"
    return "\n".join(
        [
            '  <extension name="rounded-did" continue="true">',
            marked_xml(
                f'    <condition field="destination_number" expression="^{pattern}$">', "the DID"
            ),
            marked_xml(
                f'      <action application="set" data="rounded_in_did={did}" inline="true"/>',
                "the DID",
            ),
            marked_xml(
                f'      <action application="set" data="rounded_next={preset.next}" '
                'inline="true"/>',
                "its on_failure",
            ),
            marked_xml(
                f'      <action application="set" data="rounded_fallback={preset.fallback}" '
                'inline="true"/>',
                "its fallback",
            ),
            "    </condition>",
            "  </extension>",
        ]
    )


def _pattern(preset: Preset) -> str:
    """The DID as a regular expression: what follows a prefix is digits, and nothing else."""
    prefix = preset.prefix
    if prefix is None:
        return re.escape(preset.did)
    return re.escape(prefix) + r"\d*" if prefix else r"\+?\d+"


def _bridge(facts: Facts) -> str:
    dids = "|".join(dict.fromkeys(map(_pattern, facts.presets)))
    return fill(
        "bridge.xml",
        dids=marked_xml(
            f'      <condition field="destination_number" expression="^({dids})$">',
            "your DIDs: (one|another)",
        ),
        ring=marked_xml(
            '        <action application="set" data="rounded_options=originate_timeout='
            f"{facts.trunk.ring},outbound_redirect_fatal=true,deny_refer_requests=true,"
            'rounded_leg=agent,force_transfer_context=rounded_after,force_transfer_dialplan=XML"/>',
            "seconds that the agent may ring",
        ),
        trunk=facts.trunk.name,
    )


def _after(facts: Facts) -> str:
    return fill("after.xml", transfers="\n\n".join(_transfers(facts)))


def _transfers(facts: Facts) -> list[str]:
    return [
        "\n".join(
            [
                '    <extension name="rounded-from-agent">',
                marked_xml(
                    '      <condition field="destination_number" '
                    f'expression="^{re.escape(number)}$">',
                    "one extension each; delete it for none",
                ),
                marked_xml(
                    f'        <action application="transfer" data="{target}"/>', "where it leads"
                ),
                "      </condition>",
                "    </extension>",
            ]
        )
        for number, target in facts.transfers
    ] or ["    <!-- (none) -->"]
