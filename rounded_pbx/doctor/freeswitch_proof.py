"""A call through a copy of what FreeSWITCH has loaded, whose trunk is our own listener.

The copy is a file of its own in FreeSWITCH's temp_dir, read by the call that names it (``XML:/…``)
and by no other; nothing is reloaded. Only extensions of ours are copied, as we would write them
now: what an admin has added or changed could dial. How the agent's header is put on is the
exception, as that is what is to be seen.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config_types import Address
from .asterisk_proof import FALLBACK, CannotProve
from .freeswitch_dialplan import CONTEXTS, HEADER, differences

#: The context of the copy in which a call begins.
ENTRY = "rounded_prove_public"
_HEADER = re.escape(HEADER)


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
    for difference in differences(_without_header(expected, bridge), _without_header(live, bridge)):
        raise CannotProve(f"{difference}: only what we have written is rehearsed")
    root = ET.Element("document", type="freeswitch/xml")
    # No <dialplan> in it: switch_xml_find_child without an attribute gives back the node itself.
    plan = ET.SubElement(root, "section", name="dialplan")
    for context in CONTEXTS:
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
                    element.set("data", f"{daemon}/stage async full")
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
def written(folder: Path) -> Iterator[Path]:
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
