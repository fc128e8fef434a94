"""Asterisk, as its manager shows it: modules, dialplan, trunk. ``command`` is not needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from ..config import Config, Trunk
from ..dialplan.flavours import Flavour
from ..dialplan.rendering import Rendered, render
from ..errors import CommandFailed, NoPermission
from . import asterisk_dialplan as plans
from .asterisk_dialplan import Dialplan, few
from .results import CheckResult, look, of_modules, right, skipped, wrong
from .trunk import leads_to, reach

#: The rights that a manager's user needs, as manager.conf has them.
RIGHTS = "read = system,reporting,originate and write = the same; then: manager reload"
_MODULES = (
    "pbx_config",
    "app_dial",
    "app_stack",
    "res_agi",
    "func_callerid",
    "func_cdr",
    "func_channel",
    "func_dialplan",
    "func_logic",
    "func_strings",
    "func_timeout",
    "func_uri",
)
_PJSIP = (
    "res_pjsip",
    "chan_pjsip",
    "res_pjsip_header_funcs",
    "res_pjsip_endpoint_identifier_ip",
)
_PREFIX = "asterisk"
#: Without it, a TRANSFER_CONTEXT of the admin's would take the agent's transfers elsewhere.
_TRANSFERS = f"TRANSFER_CONTEXT={plans.FROM_AGENT}"
#: Endpoints whose contexts are looked at; each takes a round trip.
_MOST_ENDPOINTS = 5000


class Manager(Protocol):
    """What is asked of Asterisk's manager."""

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules are loaded."""
        ...

    async def act(self, action: str, **fields: str) -> Mapping[str, str]:
        """An action that is answered with one reply."""
        ...

    async def listed(self, action: str, **fields: str) -> list[dict[str, str]]:
        """An action that is answered with a list of events."""
        ...


async def check_asterisk(manager: Manager, config: Config) -> AsyncIterator[CheckResult]:
    """Everything about Asterisk, once somebody has logged in.

    Raises:
        SwitchError: it does not answer any more, or refuses what is asked.
    """
    modules = await manager.loaded((*_MODULES, *_PJSIP, "chan_sip"))
    sip = "chan_sip" in modules and "chan_pjsip" not in modules
    live = None
    if "pbx_config" in modules:
        live = await read_dialplan(manager)
        sip = sip or ("chan_sip" in modules and plans.dials_over_chan_sip(live))
    needed = (*_MODULES, "chan_sip") if sip else (*_MODULES, *_PJSIP)
    load = 'asterisk -rx "module load MODULE.so"'
    yield of_modules(f"{_PREFIX}.modules", modules, needed, load, "modules.conf")
    flavour = Flavour.ASTERISK_CHAN_SIP if sip else Flavour.ASTERISK
    rendered = render(flavour, config)
    if live is not None and "app-blackhole" in live.contexts and not sip:
        flavour = Flavour.FREEPBX
    for result in _dialplan(live, rendered, flavour):
        yield result
    if config.trunk is None:
        yield skipped(f"{_PREFIX}.trunk", "trunk is missing in the configuration")
        return
    driver = "chan_sip" if sip else "chan_pjsip"
    if driver not in modules or not (sip or "res_pjsip" in modules):
        for name in ("entrances", "trunk"):
            yield skipped(f"{_PREFIX}.{name}", f"{driver} is not loaded")
        return
    yield await _entrances(manager, live, config.trunk, sip=sip)
    yield await (_chan_sip_trunk if sip else _pjsip_trunk)(manager, config.trunk, flavour)


async def read_dialplan(manager: Manager) -> Dialplan:
    """All that is loaded."""
    live = plans.loaded(await manager.listed("ShowDialPlan"))
    if plans.FROM_AGENT in live.contexts:
        return live
    # A context without a line, as ours is without transfers, is told only when it is asked for.
    try:
        await manager.listed("ShowDialPlan", Context=plans.FROM_AGENT)
    except CommandFailed:
        return live
    return replace(live, contexts=live.contexts | {plans.FROM_AGENT})


def _dialplan(
    live: Dialplan | None, rendered: Rendered, flavour: Flavour
) -> tuple[CheckResult, ...]:
    contexts, header, plan, way = (
        f"{_PREFIX}.{name}" for name in ("contexts", "header", "dialplan", "way-in")
    )
    install = f"rounded-pbx dialplan {flavour} --install --reload"
    if live is None:
        return (skipped(contexts, "pbx_config is not loaded"),)
    if rendered.problems:
        why = "no dialplan can be written to compare with: " + few(rendered.problems)
        return (look(contexts, why, "nobody can say whether ours is there", "complete config.yml"),)
    text = next(text for name, text in rendered.files.items() if name.startswith("extensions"))
    expected = plans.written(text)
    gone = plans.missing(expected, live)
    if gone:
        what = f"not loaded: {', '.join(gone)}"
        return (wrong(contexts, what, "a call finds no way through", install),)
    results = [right(contexts, f"{len(expected.contexts)} contexts are loaded")]
    handler = plans.handler_problem(live)
    differing = [difference.text for difference in plans.compared(expected, live)]
    if handler:
        results.append(
            wrong(header, handler, "the id is on no INVITE, or not on the agent's alone", install)
        )
        differing = [text for text in differing if "rounded-header" not in text]
    else:
        results.append(right(header, "b(rounded-header…): on the agent's leg alone"))
    if differing:
        what = "what is loaded is not what the configuration says"
        results.append(wrong(plan, few(differing), what, install))
    else:
        results.append(right(plan, "as the configuration says, line by line"))
    if ways := plans.ways_in(live):
        results.append(right(way, few([line.place for line in ways])))
    else:
        results.append(
            look(
                way,
                "no line of the dialplan leads to rounded",
                "perhaps no call ever gets there",
                "where your calls come in: Gosub(rounded,${EXTEN},1), or in FreePBX a Custom "
                "Destination",
            )
        )
    return tuple(results)


async def _entrances(
    manager: Manager, live: Dialplan | None, trunk: Trunk, *, sip: bool
) -> CheckResult:
    """Whether anything but our own dialplan and the trunk comes into our inner contexts."""
    name = f"{_PREFIX}.entrances"
    found = plans.trespassers(live) if live is not None else []
    listing, one = ("SIPpeers", "SIPshowpeer") if sip else ("PJSIPShowEndpoints", "")
    endpoints = [event.get("objectname", "") for event in await manager.listed(listing)]
    for endpoint in endpoints[:_MOST_ENDPOINTS]:
        try:
            if sip:
                context = (await manager.act(one, Peer=endpoint)).get("context", "")
            else:
                context = (await read_endpoint(manager, endpoint))[0].get("context", "")
        except CommandFailed:  # it has gone meanwhile, or its name is no word
            continue
        if context in plans.INNER and (endpoint, context) != (trunk.name, plans.FROM_AGENT):
            found.append(f"{'peer' if sip else 'endpoint'} {endpoint}: context={context}")
    if found:
        return wrong(
            name,
            few(found),
            "these calls pass by the checks of [rounded]",
            "lead calls to rounded only, and give the inner contexts to nobody",
        )
    more = len(endpoints) - _MOST_ENDPOINTS
    if more > 0:
        what = f"{more} endpoints were not looked at"
        return look(name, what, "one of them may enter", "look at their context= yourself")
    return right(name, f"none of {len(endpoints)} endpoints, and no line, enters inner contexts")


async def read_endpoint(manager: Manager, name: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """An endpoint, and the objects that belong to it."""
    events = await manager.listed("PJSIPShowEndpoint", Endpoint=name)
    details = [event for event in events if event.get("objecttype") == "endpoint"]
    return (details[0] if details else {}), events


async def _pjsip_trunk(manager: Manager, trunk: Trunk, flavour: Flavour) -> CheckResult:
    name, install = f"{_PREFIX}.trunk", f"rounded-pbx dialplan {flavour} --install --reload"
    if flavour is Flavour.FREEPBX:
        install = f"in Connectivity > Trunks, the pjsip trunk {trunk.name}; then: {install}"
    try:
        endpoint, events = await read_endpoint(manager, trunk.name)
    except NoPermission:
        raise
    except CommandFailed:
        return wrong(name, f"no endpoint {trunk.name}", "there is no trunk to dial", install)
    contacts = [event for event in events if event.get("event") == "ContactStatusDetail"]
    protocol = next((e.get("protocol", "") for e in events if e.get("protocol")), "udp")
    amiss = []
    if endpoint.get("context") != plans.FROM_AGENT:
        amiss.append(f"context={endpoint.get('context')}, expected {plans.FROM_AGENT}")
    if endpoint.get("identifyby", "").replace(" ", "") != "ip":
        amiss.append(f"identify_by={endpoint.get('identifyby')}, expected ip")
    if _TRANSFERS not in endpoint.get("setvar", "").split("\n"):
        amiss.append(f"no set_var={_TRANSFERS}")
    if trunk.auth and not endpoint.get("outboundauth"):
        amiss.append("no outbound_auth, and trunk.auth is true")
    if not contacts:
        amiss.append(f"no contact, expected sip:{trunk.host}")
    uris = [contact.get("uri", "") for contact in contacts]
    if contacts and not all(leads_to(uri, trunk) for uri in uris):
        amiss.append(f"contact {', '.join(uris)}, expected sip:{trunk.host}")
    if amiss:
        return wrong(name, f"endpoint {trunk.name}: {few(amiss)}", "it is not ours", install)
    down = [c for c in contacts if c.get("status", "") in ("Unreachable", "Unavailable")]
    if down:
        return _unreachable(name, f"Asterisk says that {uris[0]} is {down[0]['status']}", trunk)
    if state := await _registration(manager, trunk):
        return wrong(
            name,
            f"registration of {trunk.name}: {state}",
            "the platform does not take our login",
            "the username, the password and server_uri of the registration",
        )
    if any(contact.get("status") == "Reachable" for contact in contacts):
        return right(name, f"endpoint {trunk.name}: Asterisk reaches {uris[0]}")
    return await reach(name, trunk, protocol)


async def _registration(manager: Manager, trunk: Trunk) -> str:
    """How a registration of the trunk's is, unless it is there or none is wanted."""
    try:
        events = await manager.listed("PJSIPShowRegistrationsOutbound")
    except CommandFailed:  # there is no module for it
        return ""
    states = [
        event.get("status", "")
        for event in events
        if event.get("objecttype") == "registration" and event.get("endpoint") == trunk.name
    ]
    return next((state for state in states if state != "Registered"), "")


async def _chan_sip_trunk(manager: Manager, trunk: Trunk, flavour: Flavour) -> CheckResult:
    name, install = f"{_PREFIX}.trunk", f"rounded-pbx dialplan {flavour} --install --reload"
    try:
        peer = await manager.act("SIPshowpeer", Peer=trunk.name)
    except NoPermission:
        raise
    except CommandFailed:
        return wrong(name, f"no peer {trunk.name}", "there is no trunk to dial", install)
    amiss = []
    if peer.get("context") != plans.FROM_AGENT:
        amiss.append(f"context={peer.get('context')}, expected {plans.FROM_AGENT}")
    if _TRANSFERS not in peer.get("chanvariable", "").split("\n"):
        amiss.append(f"no setvar={_TRANSFERS}")
    there = [
        f"sip:{peer.get(host)}:{peer.get('address-port')}" for host in ("tohost", "address-ip")
    ]
    if not any(leads_to(uri, trunk) for uri in there):
        amiss.append(f"host and port {there[0].removeprefix('sip:')}, expected {trunk.host}")
    if amiss:
        return wrong(name, f"peer {trunk.name}: {few(amiss)}", "it is not ours", install)
    status = peer.get("status", "")
    if status.startswith(("UNREACHABLE", "UNKNOWN")):
        return _unreachable(name, f"Asterisk says that {trunk.host} is {status}", trunk)
    if status.startswith(("OK", "LAGGED")):
        return right(name, f"peer {trunk.name}: Asterisk reaches {trunk.host}, {status}")
    return await reach(name, trunk, "udp")


def _unreachable(name: str, seen: str, trunk: Trunk) -> CheckResult:
    return wrong(
        name,
        seen,
        "no call can reach the agent",
        f"trunk.host ({trunk.host}), the firewall, and qualify: only if the platform answers it",
    )
