"""What is wrong with a configuration, in our words and with its place."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

from .config_types import DID, Address, as_list, as_text, parse_address
from .numbers import E164
from .routing import number_forms
from .tenants import DEFAULT
from .yamlfile import Loc

# What pydantic calls its findings, and what is to be said of them.
_KINDS = {
    "bool_parsing": "is not true or false",
    "bool_type": "is not true or false",
    "dict_type": "is not a map",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "int_from_float": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_type": "is not a whole number",
    "list_type": "is not a list",
    "mapping_type": "is not a map",
    "model_attributes_type": "is not a map",
    "model_type": "is not a map",
    "path_type": "is not a path",
    "string_type": "is not text",
    "tuple_type": "is not a list",
}
# Values are shown only where no key can stand in them, and never more than this.
_KEYS_STAND_IN = {"accounts", "ami", "esl", "lookup", "prestage", "status"}
_LONGEST_VALUE = 60

#: Every listener, and where it listens unless the configuration says otherwise.
_LISTENERS: Mapping[Loc, str] = {
    ("asterisk", "fastagi"): "127.0.0.1:4573",
    ("freeswitch", "outbound"): "127.0.0.1:8084",
    ("status",): "127.0.0.1:9810",
}

_SELECTORS = {"account_codes": "account code", "domains": "domain", "contexts": "context"}


def cross_checks(data: object) -> Iterator[tuple[Loc, str]]:
    """What one part of a configuration says of another, as far as its shape lets it be seen."""
    if not isinstance(data, dict):
        return
    numbers, calls = _section(data, "numbers"), _section(data, "calls")
    accounts = data.get("accounts")
    yield from _selector_checks(accounts)
    yield from _listener_checks(data)
    routes = data.get("routes")
    routes = routes if isinstance(routes, list) else []
    names: dict[str, int] = {}
    dids: dict[str, int] = {}
    for index, route in enumerate(routes):
        if not isinstance(route, dict):
            continue
        here: Loc = ("routes", index)
        name = str(route.get("name"))
        if "name" in route and names.setdefault(name, index) != index:
            yield (*here, "name"), f"a second route is named {name}"
        account = route.get("account")
        missing = DEFAULT if account is None else account
        known = [str(each) for each in accounts] if isinstance(accounts, dict) else []
        if (
            isinstance(accounts, dict)
            and isinstance(missing, str | int)
            and str(missing) not in known
        ):
            text = f"account {missing} is not in accounts: {', '.join(known) or 'none'}"
            hint = "; expected it for calls that lead to no other, or an account of this route"
            yield (*here, "account"), text + (hint if account is None else "")
        on_failure = route.get("on_failure") or calls.get("default_on_failure")
        fallback = route.get("fallback")
        some = any(fallback.values()) if isinstance(fallback, dict) else bool(fallback)
        if on_failure == "fallback" and not some:
            where = "on_failure" if route.get("on_failure") else "name"
            text = "on_failure is fallback; expected a fallback for at least one switch"
            yield (*here, where), text
        yield from _lookup_in_time(here, route, calls)
        country = route.get("country") or numbers.get("country")
        for loc, did in _dids(here, route):
            # At a call, the country of numbers reads the DID before it is matched.
            readings = (country, numbers.get("country"))
            forms = [
                form for each in readings for form in number_forms(did, str(each or "") or None)
            ]
            for form in forms:
                if dids.setdefault(form, index) != index:
                    other = routes[dids[form]].get("name")
                    yield loc, f"{did} already leads to the route {other}"
                    break
            if (
                not did.endswith("*")
                and not E164.fullmatch(forms[0])
                and route.get("to_number") is None
            ):
                text = f"{did} is no number in E.164; expected a to_number beside it"
                yield loc, text + ("" if country else ", or a country in numbers")


def _selector_checks(accounts: object) -> Iterator[tuple[Loc, str]]:
    """What leads to two accounts; a key may stand in its place, so it is not repeated."""
    taken: dict[tuple[str, str], str] = {}
    for name, account in accounts.items() if isinstance(accounts, dict) else ():
        for option, what in _SELECTORS.items() if isinstance(account, dict) else ():
            given = account.get(option)
            for index, value in enumerate(as_list(given)):
                text = as_text(value)
                if not isinstance(text, str):
                    continue
                key = (option, text.lower() if option == "domains" else text)
                if taken.setdefault(key, str(name)) != str(name):
                    loc: Loc = ("accounts", str(name), option)
                    loc = (*loc, index) if isinstance(given, list) else loc
                    where = ".".join(map(str, loc))
                    yield loc, f"{where}: this {what} already leads to the account {taken[key]}"


def _listener_checks(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Two listeners on one port; said of the one that the file names, as the other may be ours."""
    taken: list[tuple[Loc, Address, bool]] = []
    for loc, default in _LISTENERS.items():
        section: Mapping[str, Any] = data
        for step in loc:
            section = _section(section, str(step))
        given = section.get("listen", default)
        try:
            address = parse_address(given)
        except ValueError:  # off, or said to be no address
            continue
        taken.append((loc, address, "listen" in section))
    for index, (loc, address, given_here) in enumerate(taken):
        for other, its, _ in taken[:index]:
            if address.port and address.port == its.port and _overlap(address.host, its.host):
                mine, theirs = (loc, other) if given_here else (other, loc)
                text = f"{address if given_here else its} is taken by {'.'.join(map(str, theirs))}"
                yield (*mine, "listen"), f"{'.'.join(map(str, mine))}.listen: {text}"


def _overlap(host: str, other: str) -> bool:
    one, two = ipaddress.ip_address(host), ipaddress.ip_address(other)
    everywhere = one.is_unspecified or two.is_unspecified
    return one == two or (everywhere and one.version == two.version)


def _lookup_in_time(
    here: Loc, route: Mapping[str, Any], calls: Mapping[str, Any]
) -> Iterator[tuple[Loc, str]]:
    lookup = route.get("lookup")
    if not isinstance(lookup, dict):
        return
    deadline, timeout = calls.get("deadline", 1.5), lookup.get("timeout", 0.4)
    numbers = isinstance(deadline, int | float) and isinstance(timeout, int | float)
    if numbers and deadline <= timeout <= 30:  # beyond, it is told that it is too much
        text = (
            f"a timeout of {timeout:g} s leaves a call no time; expected less than calls.deadline"
        )
        yield (*here, "lookup", "timeout"), f"{text}, {deadline:g} s"


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


def _dids(here: Loc, route: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    """The DIDs of a route that are some, and where they stand."""
    given = route.get("did", [])
    one = not isinstance(given, list)
    for index, did in enumerate([given] if one else given):
        text = as_text(did)
        if isinstance(text, str) and DID.fullmatch(text):
            yield ((*here, "did") if one else (*here, "did", index)), text


def explain(model: type[pydantic.BaseModel], error: Any) -> tuple[Loc, str]:
    """A pydantic error as a place and a sentence in our words."""
    loc: Loc = tuple(step for step in error["loc"] if step != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    name = ".".join(str(step) for step in loc) or "the file"
    if kind == "missing":
        return loc, f"{name} is missing"
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(known)
        return loc, f"{name} is not known; {hint}"
    if kind in ("value_error", "assertion_error"):
        return loc, f"{name}: {context['error']}"
    what = f"is not one of {context['expected']}" if kind == "enum" else _KINDS.get(kind)
    shown = _shown(loc, error.get("input"))
    return loc, f"{name}{shown} {what}" if what else f"{name}{shown}: {error['msg'].lower()}"


def _shown(loc: Loc, value: object) -> str:
    """A value for a message, where it can be no secret and is a plain one."""
    if not loc or _KEYS_STAND_IN.intersection(loc) or not isinstance(value, str | int | float):
        return ""
    return ": " + repr(value)[:_LONGEST_VALUE]


def _known_keys(model: Any, loc: Loc) -> list[str]:
    for step in loc:
        if isinstance(step, int):
            continue
        field = getattr(model, "model_fields", {}).get(step)
        annotation = field.annotation if field is not None else model
        model = next((m for m in _models(annotation)), model)
    return sorted(getattr(model, "model_fields", {}))


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The sections inside a type: of ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
