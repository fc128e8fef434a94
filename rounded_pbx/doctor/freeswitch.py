"""FreeSWITCH, as its event socket shows it: modules, dialplan, trunk."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from ..config import Config
from ..dialplan.flavours import Flavour
from ..dialplan.rendering import render
from . import freeswitch_dialplan as plans
from .asterisk_dialplan import few
from .results import CheckResult, look, of_modules, right, skipped, wrong
from .trunk import leads_to, reach

_MODULES = ("mod_commands", "mod_dialplan_xml", "mod_dptools", "mod_event_socket", "mod_sofia")
_PREFIX = "freeswitch"
#: Elements inside one another; a configuration of FreeSWITCH's has some ten.
_DEEPEST = 100
_INSTALL = (
    "rounded-pbx dialplan freeswitch --install --reload; in FusionPBX, paste the XML of "
    "rounded-pbx dialplan fusionpbx anew"
)


class EventSocket(Protocol):
    """What is asked of FreeSWITCH's event socket."""

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules are loaded."""
        ...

    async def api(self, command: str) -> str:
        """What a command says."""
        ...


async def check_freeswitch(socket: EventSocket, config: Config) -> AsyncIterator[CheckResult]:
    """Everything about FreeSWITCH, once somebody has logged in.

    Raises:
        SwitchError: it does not answer any more, or refuses what is asked.
    """
    modules = await socket.loaded(_MODULES)
    load = 'fs_cli -x "load MODULE"'
    yield of_modules(f"{_PREFIX}.modules", modules, _MODULES, load, "modules.conf.xml")
    if "mod_dialplan_xml" in modules:
        found = {context: await located(socket, context) for context in plans.CONTEXTS}
        for result in _dialplan(found, config, made_for_each_call=await _made(socket)):
            yield result
    else:
        yield skipped(f"{_PREFIX}.contexts", "mod_dialplan_xml is not loaded")
    if "mod_sofia" in modules:
        async for result in _sofia(socket, config):
            yield result
    else:
        for name in ("entrances", "transfers", "trunk"):
            yield skipped(f"{_PREFIX}.{name}", "mod_sofia is not loaded")


async def located(socket: EventSocket, context: str) -> ET.Element | None:
    """A context as it is loaded; FusionPBX's handler answers with ``public``, whatever is asked."""
    found = xml(await socket.api(f"xml_locate dialplan context name {context}"))
    return found if found is not None and found.get("name") == context else None


async def _made(socket: EventSocket) -> bool:
    """Whether a script or a web server writes the dialplan for each call, as FusionPBX's does."""
    if await socket.loaded(["mod_xml_curl"]):
        return True
    lua = xml(await socket.api("xml_locate configuration configuration name lua.conf"))
    return lua is not None and any(
        "dialplan" in (param.get("value") or "")
        for param in lua.iter("param")
        if param.get("name") == "xml-handler-bindings"
    )


def xml(text: str) -> ET.Element | None:
    """XML that FreeSWITCH wrote, or None where it has none to show."""
    try:
        root = ET.fromstring(text[text.index("<") :])  # noqa: S314 - the admin's own switch
    except (ET.ParseError, ValueError):
        return None
    level, depth = [root], 0
    while level:
        level, depth = [child for element in level for child in element], depth + 1
        if depth > _DEEPEST:
            return None
    return root


def _dialplan(
    found: dict[str, ET.Element | None], config: Config, *, made_for_each_call: bool
) -> tuple[CheckResult, ...]:
    contexts, header, plan, way = (
        f"{_PREFIX}.{name}" for name in ("contexts", "header", "dialplan", "way-in")
    )
    rendered = render(Flavour.FREESWITCH, config)
    if rendered.problems:
        why = "no dialplan can be written to compare with: " + few(rendered.problems)
        return (look(contexts, why, "nobody can say whether ours is there", "complete config.yml"),)
    expected = plans.written(rendered.files)
    live = {name: plans.ours(name, element, expected) for name, element in found.items()}
    gone = [name for name in plans.CONTEXTS if not live[name]]
    if gone and made_for_each_call:
        what = "FreeSWITCH does not show it: a handler writes the dialplan for each call"
        why = "so nobody can say whether it is there"
        return (look(contexts, what, why, "call your DID; in FusionPBX: docs/fusionpbx.md"),)
    if gone:
        what = "not loaded: " + ", ".join(gone)
        if "public" in gone:
            what += " (public: its extensions rounded-…)"
        return (wrong(contexts, what, "a call finds no way through", _INSTALL),)
    results = [right(contexts, f"{', '.join(plans.CONTEXTS)} are loaded")]
    handler = plans.header_problem(live)
    differing = plans.differences(expected, live)
    if handler:
        results.append(
            wrong(header, handler, "the id is on no INVITE, or not on the agent's alone", _INSTALL)
        )
        differing = [text for text in differing if plans.HEADER not in text]
    else:
        results.append(right(header, "in the braces of one bridge: on the agent's leg alone"))
    if differing:
        what = "what is loaded is not what the configuration says"
        results.append(wrong(plan, few(differing), what, _INSTALL))
    else:
        results.append(right(plan, "as the configuration says"))
    before = plans.before_ours(found["public"], expected, rendered.did)
    if before:
        what = f"public: {few(before)} stands before ours and may take {rendered.did}"
        todo = "see that it lets your DIDs through; 00_rounded.xml comes first by its name"
        results.append(look(way, what, "perhaps no call ever gets to ours", todo))
    else:
        results.append(right(way, "nothing in public takes the DID before ours"))
    return tuple(results)


async def _sofia(socket: EventSocket, config: Config) -> AsyncIterator[CheckResult]:
    entrances, transfers, trunk_name = (
        f"{_PREFIX}.{name}" for name in ("entrances", "transfers", "trunk")
    )
    status = xml(await socket.api("sofia xmlstatus"))
    names = {
        kind: [element.findtext("name") or "" for element in status.iter(kind)]
        for kind in ("profile", "gateway")
        if status is not None
    }
    found, looked = [], 0
    for kind, each in names.items():
        for name in each:
            if not name.isprintable() or " " in name:
                continue
            shown = xml(await socket.api(f"sofia xmlstatus {kind} {name}"))
            context = (shown.findtext(".//context") or "") if shown is not None else ""
            looked += 1
            if context in plans.INNER:
                found.append(f"{kind} {name}: context {context}")
    dialplan = xml(await socket.api("xml_locate dialplan"))
    directory = xml(await socket.api("xml_locate directory"))
    found += plans.trespassers(dialplan, directory)
    if found:
        yield wrong(
            entrances,
            few(found),
            "these calls pass by the checks of public",
            "lead calls to public only, and give rounded_bridge and rounded_after to nobody",
        )
    else:
        yield right(entrances, f"none of {looked} profiles and gateways, no user, no extension")
    sofia = xml(await socket.api("xml_locate configuration configuration name sofia.conf"))
    open_ones = plans.profiles_that_transfer(sofia)
    if sofia is None:
        yield skipped(transfers, "FreeSWITCH does not show sofia.conf")
    elif open_ones:
        yield look(
            transfers,
            f"profiles of callers without disable-transfer: {', '.join(open_ones)}",
            "a caller's REFER there can make FreeSWITCH dial anything, past every dialplan",
            'in the profile of your callers: <param name="disable-transfer" value="true"/>',
        )
    else:
        yield right(transfers, "disable-transfer is true where callers come in")
    if config.trunk is None:
        yield skipped(trunk_name, "trunk is missing in the configuration")
        return
    gateway = config.trunk.name
    shown = xml(await socket.api(f"sofia xmlstatus gateway {gateway}"))
    if shown is None:
        yield wrong(trunk_name, f"no gateway {gateway}", "there is no trunk to dial", _INSTALL)
        return
    state, proxy = shown.findtext("state") or "", shown.findtext("proxy") or ""
    if not leads_to(proxy, config.trunk):
        what = f"gateway {gateway}: proxy {proxy}, expected {config.trunk.host}"
        todo = f"{_INSTALL}; a gateway that has changed: sofia profile external killgw {gateway}"
        yield wrong(trunk_name, what, "it is not ours", todo)
    elif shown.findtext("status") == "DOWN" or state not in ("NOREG", "REGED"):
        yield wrong(
            trunk_name,
            f"gateway {gateway}: {state}, {shown.findtext('status')}",
            "no call can reach the agent",
            f"trunk.host ({config.trunk.host}), its user name and password, and the firewall",
        )
    elif state == "REGED":
        yield right(trunk_name, f"gateway {gateway} is registered at {proxy}")
    else:
        protocol = "tcp" if "transport=tcp" in proxy else "tls" if "=tls" in proxy else "udp"
        yield await reach(trunk_name, config.trunk, protocol)
