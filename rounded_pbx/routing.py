"""Which agent a DID belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .call import CallContext, Direction, Switch, Wait
from .errors import BadNumber
from .lookups import LookupTemplate
from .numbers import E164, to_e164
from .templates import CHANNEL, Template, Value, fields


class Next(StrEnum):
    """What the dialplan does now: ``ROUNDED_NEXT``."""

    DIAL = "dial"
    FALLBACK = "fallback"
    HANGUP = "hangup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of the configuration, every default filled in.

    ``dids`` are exact numbers, each as it is written and as E.164 if it can be, prefixes that end
    in ``*``, or nothing for a route that a dialplan reaches by its name only. ``account`` is None
    where the call itself decides. ``direction`` and ``custom_headers`` are sent only where they are
    set: one published version of the API's reference lacks them.
    """

    name: str
    agent_id: str
    dids: tuple[str, ...] = ()
    account: str | None = None
    country: str | None = None
    home: str | None = None
    to_number: str | None = None
    direction: Direction | None = None
    wait: Wait = Wait.POLL
    send_unstaged: bool = True
    dynamic_variables: Mapping[str, Value] = field(default_factory=dict)
    custom_headers: Mapping[str, str | Template] = field(default_factory=dict)
    lookup: LookupTemplate | None = None
    on_failure: Next = Next.DIAL
    fallback: Mapping[Switch, str] = field(default_factory=dict)

    def number(self, did: str) -> str:
        """``did`` as E.164: in ``home`` if it is the route's only there, else in ``country``.

        Raises:
            BadNumber: it is possible in neither.
        """
        countries = dict.fromkeys([self.country, self.home])
        readings = [number_forms(did, country)[0] for country in countries]
        readings = [reading for reading in readings if E164.fullmatch(reading)]
        own = [reading for reading in readings if any(_fits(reading, each) for each in self.dids)]
        return (own or readings or [to_e164(did, self.country)])[0]

    def channel_variables(self) -> tuple[str, ...]:
        """The channel variables that the route's templates and its lookup name, sorted."""
        named = {*fields(self.dynamic_variables), *fields(self.custom_headers)}
        if self.lookup is not None:
            named.update(self.lookup.url.fields)
        return tuple(
            sorted(name.removeprefix(CHANNEL) for name in named if name.startswith(CHANNEL))
        )


class RouteTable:
    """The routes, ready to be asked.

    An exact DID beats a prefix, a longer prefix a shorter one, and ``*`` matches what is left.
    """

    def __init__(self, routes: Iterable[Route], country: str | None = None) -> None:
        self._routes = tuple(routes)
        self._country = country
        self._by_name = {route.name: route for route in self._routes}
        self._exact: dict[str, Route] = {}
        self._prefixes: dict[str, Route] = {}
        for route in self._routes:
            for did in route.dids:
                table = self._prefixes if did.endswith("*") else self._exact
                table[did.removesuffix("*")] = route
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def find(self, call: CallContext) -> Route | None:
        """The route that the dialplan names, else the one that its DID matches."""
        return self.match(call.did) if call.route is None else self._by_name.get(call.route)

    def match(self, did: str) -> Route | None:
        """The route for ``did``, as E.164 where it can be, and as it came."""
        forms = number_forms(did, self._country)
        for form in forms:
            if form in self._exact:
                return self._exact[form]
        for length in self._lengths:
            for form in forms:
                if len(form) >= length and form[:length] in self._prefixes:
                    return self._prefixes[form[:length]]
        return None


def _fits(did: str, pattern: str) -> bool:
    return did.startswith(pattern[:-1]) if pattern.endswith("*") else did == pattern


def number_forms(did: str, country: str | None) -> tuple[str, ...]:
    """A DID as E.164, if it can be, and as it is written."""
    try:
        e164 = to_e164(did, country)
    except BadNumber:
        return (did,)
    return (did,) if e164 == did else (e164, did)
