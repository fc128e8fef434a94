"""What FreeSWITCH has loaded, beside what we would write: pure, over its own XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

#: Where a call enters, our contexts that are entered from our own only; and all that are ours.
INNER = ("rounded_bridge", "rounded_after")
STRAIGHT = ("public", *INNER)
CONTEXTS = (*STRAIGHT, "rounded_prestage")
HEADER = "sip_h_X-Rounded-Call-Id"
_INNER_NAME = re.compile(r"\bXML (?:rounded_bridge|rounded_after)\b")

#: An extension as nested tuples: tag, attributes, text (which an action prefers to its ``data``),
#: children; without comments and blanks.
Node = tuple[str, tuple[tuple[str, str], ...], str, tuple["Node", ...]]


def _node(element: ET.Element) -> Node:
    attributes = tuple(sorted(element.attrib.items()))
    text = (element.text or "").strip()
    return element.tag, attributes, text, tuple(_node(child) for child in element)


def ours(
    context: str, element: ET.Element | None, expected: Mapping[str, list[ET.Element]]
) -> list[ET.Element]:
    """Of a context, the extensions that are ours: all of our own, of public those named as ours."""
    if element is None:
        return []
    extensions = list(element.iter("extension"))
    if context != "public":
        return extensions
    names = {each.get("name") for each in expected.get(context, [])}
    return [each for each in extensions if each.get("name") in names]


def before_ours(
    public: ET.Element | None, expected: Mapping[str, list[ET.Element]], did: str
) -> list[str]:
    """The extensions of public before the last of ours that a call to the DID may end in."""
    if public is None:
        return []
    names = {each.get("name") for each in expected["public"]}
    extensions = list(public.iter("extension"))
    last = max((at for at, e in enumerate(extensions) if e.get("name") in names), default=0)
    return [
        extension.get("name") or "?"
        for extension in extensions[:last]
        if extension.get("name") not in names
        and extension.get("continue") != "true"
        and all(_lets_in(condition, did) for condition in extension.iter("condition"))
    ]


def _lets_in(condition: ET.Element, did: str) -> bool:
    """Whether a condition may hold for a call to the DID: one on something else may always."""
    if condition.get("field") != "destination_number":
        return True
    try:
        return re.search(condition.get("expression") or "", did) is not None
    except re.error:  # its regular expressions are not quite Python's
        return True


def written(files: Mapping[str, str]) -> dict[str, list[ET.Element]]:
    """The extensions that our files hold, by their contexts."""
    found: dict[str, list[ET.Element]] = {}
    for name, text in files.items():
        root = ET.fromstring(text)  # noqa: S314 - our own text
        if name.endswith("public/00_rounded.xml"):
            found["public"] = list(root.iter("extension"))
        for context in root.iter("context"):
            found[context.get("name") or ""] = list(context.iter("extension"))
    return found


def header_problem(live: Mapping[str, list[ET.Element]]) -> str:
    """What is wrong with the action that puts the header on; nothing if all is well."""
    good = False
    for context, extension in _all(live):
        for action in extension.iter("action"):
            application, data = action.get("application") or "", action.get("data") or ""
            place = f"{context}, {extension.get('name')}"
            if HEADER not in data:
                continue
            if application in ("set", "export", "multiset") and not re.search(
                HEADER + r"=(?:$|\|)", data
            ):
                return f"{place}: {application} {data[:80]} puts it on the caller's channel"
            if application == "bridge" and context == "rounded_bridge":
                if re.match(r"\{[^{}]*(?:\$\{[^{}]*\}[^{}]*)*" + HEADER + r"=\$1[^{}]*\}", data):
                    good = True
                else:
                    return f"{place}: {data[:80]} does not have {HEADER} in its braces"
    return "" if good else f"no bridge of rounded_bridge has {HEADER}: no INVITE has the id"


def differences(
    expected: Mapping[str, list[ET.Element]],
    live: Mapping[str, list[ET.Element]],
    contexts: tuple[str, ...] = CONTEXTS,
) -> list[str]:
    """Each extension of ours that is not as we would write it."""
    found = []
    for context in contexts:
        want, have = expected.get(context, []), list(live.get(context, []))
        for extension in want:
            name, node = extension.get("name"), _node(extension)
            same = next((each for each in have if _node(each) == node), None)
            if same is not None:
                have.remove(same)
                continue
            other = next((each for each in have if each.get("name") == name), None)
            if other is None:
                found.append(f"{context}: {name} is missing")
            else:
                have.remove(other)
                found.append(f"{context}: {name} {_beside(other, extension)}")
        found += [f"{context}: {each.get('name')} is not from us" for each in have]
        order = [each.get("name") for each in want]
        if not found and [each.get("name") for each in live.get(context, [])] != order:
            found.append(f"{context}: its extensions stand in another order")
    return found


def _beside(live: ET.Element, expected: ET.Element) -> str:
    """The first action or condition in which two extensions differ."""
    mine, theirs = list(expected.iter()), list(live.iter())
    for want, have in zip(mine, theirs, strict=False):
        if _node(want)[:3] != _node(have)[:3]:
            return f"has {_said(have)}, expected {_said(want)}"
    more = (theirs if len(theirs) > len(mine) else mine)[min(len(mine), len(theirs))]
    return f"{'has also' if len(theirs) > len(mine) else 'lacks'} {_said(more)}"


def _said(element: ET.Element) -> str:
    words = [element.tag, *(f'{k}="{v}"' for k, v in element.attrib.items())]
    return " ".join([*words, (element.text or "").strip()]).strip()[:160]


def trespassers(dialplan: ET.Element | None, directory: ET.Element | None) -> list[str]:
    """What of the admin's enters one of our inner contexts."""
    found = []
    for context in dialplan.iter("context") if dialplan is not None else ():
        if context.get("name") in INNER:
            continue
        for extension in context.iter("extension"):
            if (extension.get("name") or "").startswith("rounded-"):
                continue
            for action in (*extension.iter("action"), *extension.iter("anti-action")):
                if _INNER_NAME.search(action.get("data") or ""):
                    where = f"{context.get('name')}, {extension.get('name')}"
                    found.append(f"{where}: {action.get('application')} {action.get('data')}")
    for user in directory.iter("user") if directory is not None else ():
        found += [
            f"user {user.get('id')}: user_context {variable.get('value')}"
            for variable in user.iter("variable")
            if variable.get("name") == "user_context" and variable.get("value") in INNER
        ]
    return found


def profiles_that_transfer(sofia: ET.Element | None) -> list[str]:
    """The SIP profiles by which callers come in, and that let a REFER of theirs in, too."""
    found = []
    for profile in sofia.iter("profile") if sofia is not None else ():
        settings = {
            param.get("name"): param.get("value") for param in profile.findall("settings/param")
        }
        callers = settings.get("context", "public") == "public"
        if callers and settings.get("disable-transfer") not in ("true", "yes", "on", "1"):
            found.append(profile.get("name") or "?")
    return found


def _all(live: Mapping[str, list[ET.Element]]) -> list[tuple[str, ET.Element]]:
    return [(context, each) for context, extensions in live.items() for each in extensions]
