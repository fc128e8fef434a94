"""A call through a copy of what FreeSWITCH has loaded, whose trunk is our own listener.

The copy is a file of its own in FreeSWITCH's temp_dir, read by the call that names it (``XML:/…``)
and by no other; nothing is reloaded. What it may do is listed below, and anything else is not
copied: what the proof does not know could dial.
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
from .freeswitch_dialplan import CONTEXTS

#: The context of the copy in which a call begins.
ENTRY = "rounded_prove_public"
_HARMLESS = {"set", "multiset", "sched_cancel", "hangup", "ring_ready"}
_SETS = re.compile(
    r"(?:\^\^\|)?(?:rounded_\w+|effective_caller_id_\w+|socket_resume|continue_on_fail|"
    r"hangup_after_bridge|sip_copy_custom_headers|force_transfer_\w+|sip_h_X-Rounded-Call-Id)="
)


def copy(
    live: Mapping[str, list[ET.Element]],
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
        gateway: the name of the trunk's gateway.
        profile: the SIP profile of it.
        listener: where every call goes instead.
        daemon: where the dialplan asks instead; None to leave it.
        file: the path that the copy will have.

    Raises:
        CannotProve: an action does what is not known here.
    """
    root = ET.Element("document", type="freeswitch/xml")
    # No <dialplan> in it: switch_xml_find_child without an attribute gives back the node itself.
    plan = ET.SubElement(root, "section", name="dialplan")

    def data(context: str, extension: str, application: str, text: str) -> tuple[str, str]:
        if application == "bridge":
            there = f"sofia/gateway/{gateway}/${{rounded_did}}"
            if re.fullmatch(r"\{.*\}" + re.escape(there), text):
                text = text.removesuffix(there)
                return (
                    application,
                    f"{_moved(text, file)}sofia/{profile}/${{rounded_did}}@{listener}",
                )
        elif application == "socket":
            found = re.fullmatch(r"[0-9.]+:[0-9]+/stage async full", text)
            if found:
                return application, f"{daemon}/stage async full" if daemon else text
        elif application in ("transfer", "sched_transfer"):
            if extension == "rounded-fallback" and text == "$1":
                return "bridge", f"sofia/{profile}/{FALLBACK}@{listener}"
            if re.fullmatch(r"(?:\+\d+ )?\S+ XML rounded_(?:bridge|after)", text):
                return application, _moved(text, file)
        elif application in ("set", "multiset"):
            if _SETS.match(text):
                return application, _moved(text, file)
        elif application in _HARMLESS:
            return application, text
        raise CannotProve(
            f"{context}, {extension}: {application} {text[:120]} is not what a proof can copy"
        )

    for context in CONTEXTS:
        name = ENTRY if context == "public" else _moved(context, file)
        copied = ET.SubElement(plan, "context", name=name)
        for extension in live[context]:
            if extension.get("name") == "rounded-from-agent":  # it leads to the admin's own
                continue
            mine = ET.fromstring(ET.tostring(extension))  # noqa: S314 - its own text
            for element in mine.iter():
                if element.tag in ("action", "anti-action"):
                    given = element.get("application") or "", element.get("data") or ""
                    application, text = data(context, extension.get("name") or "", *given)
                    element.set("application", application)
                    element.set("data", text)
                elif element.tag == "condition":
                    for key, value in element.attrib.items():
                        element.set(key, _moved(value, file))
                elif element.tag != "extension":
                    raise CannotProve(f"{context}: <{element.tag}> is not what a proof can copy")
            copied.append(mine)
    return ET.tostring(root, encoding="unicode")


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
    number, name = tempfile.mkstemp(prefix="rounded_prove_", suffix=".xml", dir=folder)
    path = Path(name)
    try:
        os.close(number)
        path.chmod(0o644)
        yield path
    finally:
        path.unlink(missing_ok=True)
