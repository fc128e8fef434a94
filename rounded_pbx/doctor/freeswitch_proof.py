"""A call through a copy of what FreeSWITCH has loaded, whose trunk is our own listener.

The copy is a file of its own in FreeSWITCH's temp_dir, read by the call that names it (``XML:/…``)
and by no other; nothing is reloaded. Only extensions of ours are copied, as we would write them
now: what an admin has added or changed could dial. How the agent's header is put on is the
exception, as that is what is to be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_types import Address
from ..control import word
from ..errors import CommandFailed
from .freeswitch import located, xml
from .freeswitch_dialplan import HEADER, STRAIGHT, differences, ours
from .freeswitch_dialplan import written as ours_written
from .listener import Trunk
from .proof import FALLBACK, CannotProve, ProofCall

if TYPE_CHECKING:
    from ..control.freeswitch import FreeSwitch

#: The context of the copy in which a call begins.
ENTRY = "rounded_prove_public"
_HEADER = re.escape(HEADER)
#: Global variables that every channel has, and that would take a call elsewhere, or run something.
_LEAD_ELSEWHERE = (
    *("sip_route_uri", "sip_network_destination", "sip_h_", "api_", "execute_on_", "exec_after_"),
    *("bridge_pre_", "bridge_post_", "session_in_hangup_hook", "transfer_after_", "transfer_on_"),
)
#: Seconds after which FreeSWITCH itself ends a call whose doctor was killed.
_LONGEST = 60
#: Seconds that a call goes on after our listener has been asked.
_STAY = 0.5


def copy(
    live: Mapping[str, list[ET.Element]],
    expected: Mapping[str, list[ET.Element]],
    *,
    gateway: str,
    profile: str,
    listener: Address,
    daemon: Address | None,
    file: str,
) -> str:
    """The copy's XML.

    Args:
        live: our extensions by context, as they are loaded.
        expected: the same, as we would write them.
        gateway: the name of the trunk's gateway.
        profile: the SIP profile of it.
        listener: where every call goes instead.
        daemon: where the dialplan asks instead; None to leave it.
        file: the path that the copy will have.

    Raises:
        CannotProve: an extension is not ours.
    """
    there = f"sofia/gateway/{gateway}/${{rounded_did}}"
    bridge = re.compile(
        rf"\{{\$\{{rounded_options\}}(?:,rounded_call_id=\$1)?(?:,{_HEADER}=\$1)?\}}"
        + re.escape(there)
    )
    want, have = _without_header(expected, bridge), _without_header(live, bridge)
    for difference in differences(want, have, STRAIGHT):
        raise CannotProve(f"{difference}: only what we have written is rehearsed")
    root = ET.Element("document", type="freeswitch/xml")
    # No <dialplan> in it: switch_xml_find_child without an attribute gives back the node itself.
    plan = ET.SubElement(root, "section", name="dialplan")
    for context in STRAIGHT:
        name = ENTRY if context == "public" else _moved(context, file)
        copied = ET.SubElement(plan, "context", name=name)
        for extension in live[context]:
            if extension.get("name") == "rounded-from-agent":  # it leads to the admin's own
                continue
            mine = _cloned(extension)
            for element in mine.iter():
                for key, value in element.attrib.items():
                    element.set(key, _moved(value, file))
                application, data = element.get("application"), element.get("data") or ""
                if application == "bridge":
                    instead = f"sofia/{profile}/${{rounded_did}}@{listener}"
                    element.set("data", data.removesuffix(there) + instead)
                elif application == "socket" and daemon is not None:
                    element.set("data", re.sub(r"^[^/]*", str(daemon), data))
                elif application == "transfer" and data == "$1":
                    element.set("application", "bridge")
                    element.set("data", f"sofia/{profile}/{FALLBACK}@{listener}")
            copied.append(mine)
    return ET.tostring(root, encoding="unicode")


def _without_header(
    extensions: Mapping[str, list[ET.Element]], bridge: re.Pattern[str]
) -> dict[str, list[ET.Element]]:
    """The extensions without what puts the header on, wherever that is."""
    found: dict[str, list[ET.Element]] = {}
    for context, each in extensions.items():
        found[context] = [_cloned(extension) for extension in each]
        for condition in (c for extension in found[context] for c in extension.iter("condition")):
            for action in condition.findall("action"):
                data = action.get("data") or ""
                if action.get("application") == "bridge" and bridge.fullmatch(data):
                    action.set("data", "the agent")
                elif re.fullmatch(rf"(?:nolocal:)?{_HEADER}=\$1", data):
                    condition.remove(action)
    return found


def _cloned(extension: ET.Element) -> ET.Element:
    return ET.fromstring(ET.tostring(extension))  # noqa: S314 - its own text


def _moved(text: str, file: str) -> str:
    """The text with our contexts, and the dialplan that they stand in, those of the copy."""
    text = re.sub(r"(?<=[ =])XML(?= rounded_|\||,|\}|$)", f"XML:{file}", text)
    return re.sub(r"\brounded_(?=(?:bridge|after)\b)", "rounded_prove_", text)


@contextlib.contextmanager
def file_in(folder: Path) -> Iterator[Path]:
    """A file that FreeSWITCH's user can read, and nobody else can change; removed at the end.

    Raises:
        OSError: it cannot be written there.
    """
    for left in folder.glob("rounded_prove_*.xml"):  # of a proof that was killed
        left.unlink(missing_ok=True)
    number, name = tempfile.mkstemp(prefix="rounded_prove_", suffix=".xml", dir=folder)
    path = Path(name)
    try:
        os.close(number)
        path.chmod(0o644)
        yield path
    finally:
        path.unlink(missing_ok=True)


async def rehearse(
    control: FreeSwitch, call: ProofCall, listener: Trunk, daemon: Address | None
) -> None:
    """One call through a copy, which ends at our listener.

    Raises:
        CannotProve: what is loaded cannot be copied safely.
        SwitchError: FreeSWITCH did not do as it was told.
    """
    section = call.config.trunk
    assert section is not None  # noqa: S101 - a dialplan could be written
    live, expected = {}, ours_written(call.rendered.files)
    for context in STRAIGHT:
        element = await located(control, context)
        live[context] = ours(context, element, expected)
        if not live[context]:
            raise CannotProve(f"not loaded: {context}")
    gateway = xml(await control.api(f"sofia xmlstatus gateway {section.name}"))
    profile = (gateway.findtext("profile") or "") if gateway is not None else ""
    shown = xml(await control.api(f"sofia xmlstatus profile {word(profile, 'profile')}"))
    proxy = (shown.findtext(".//outbound-proxy") or "") if shown is not None else "?"
    if proxy != "N/A":
        raise CannotProve(f"the profile {profile} has outbound-proxy={proxy}")
    # A channel has FreeSWITCH's global variables, too.
    for name in re.findall(r"(?m)^([^=]+)=.", await control.api("global_getvar")):
        if name.startswith(_LEAD_ELSEWHERE):
            raise CannotProve(f"the global variable {name} is set, and could lead a call elsewhere")
    folder = Path((await control.api("global_getvar temp_dir")).strip())
    if not re.fullmatch(r"/[A-Za-z0-9_./-]+", str(folder)):  # it stands in names of dialplans
        raise CannotProve(f"FreeSWITCH's temp_dir is {folder}: expected letters, digits, _ . -")
    call_id = str(uuid.uuid4())
    try:
        with file_in(folder) as file:
            file.write_text(
                copy(
                    live,
                    expected,
                    gateway=section.name,
                    profile=profile,
                    listener=listener.here,
                    daemon=daemon,
                    file=str(file),
                ),
                encoding="utf-8",
            )
            number = word(call.caller, "caller")
            variables = f"origination_uuid={call_id},origination_caller_id_number={number}"
            where = f"{word(call.did, 'DID')} XML:{file} {ENTRY}"
            await control.api(f"sched_api +{_LONGEST} none uuid_kill {call_id}")
            reply = await control.api(f"originate {{{variables}}}null/1 {where}")
            if not reply.startswith("+OK"):
                raise CommandFailed(f"originate: {reply.strip()[:200]}")
            try:
                await listener.until_asked(call.patience)
                await asyncio.sleep(_STAY)
            finally:
                await asyncio.shield(control.api(f"uuid_kill {call_id}"))
    except OSError as error:
        raise CannotProve(
            f"{folder}: {error.strerror}; expected FreeSWITCH's temp_dir, on this machine"
        ) from None
