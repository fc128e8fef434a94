"""What is asked of the API for a call, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b

from .call import CallContext, Direction, Wait, clean
from .errors import BadNumber
from .lookups import Lookup
from .numbers import CallerPolicy, caller_number, shows_none
from .routing import Route
from .templates import CHANNEL, Filled, fill

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)

#: Bytes of a SIP header line, its name included, that every middlebox lets through.
LONGEST_HEADER = 1000


def valid_uuid(text: object) -> str | None:
    """``text`` in lower case if it is a UUID, else None. Nothing else goes onto the wire."""
    return text.lower() if isinstance(text, str) and _UUID.fullmatch(text) else None


def _header_value(name: str, text: str) -> str:
    room = LONGEST_HEADER - len(f"{name}: ")
    return clean(text).encode()[:room].decode(errors="ignore").rstrip()


def _digest(*parts: object) -> str:
    return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Outcome(StrEnum):
    """What became of a staging: ``ROUNDED_STATUS``."""

    STAGED = "STAGED"
    INITIATED = "INITIATED"
    TIMEOUT = "TIMEOUT"
    REJECTED = "REJECTED"
    UNAUTHORIZED = "UNAUTHORIZED"
    LIMITED = "LIMITED"
    UNAVAILABLE = "UNAVAILABLE"
    NO_ROUTE = "NO_ROUTE"
    BAD_NUMBER = "BAD_NUMBER"
    HANGUP = "HANGUP"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class StagingResult:
    """What became of a staging; ``call_id`` is a UUID or None."""

    outcome: Outcome
    call_id: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingRequest:
    """The body of ``POST /v1/calls/stage``, with the account and the manner of asking.

    ``lookup`` is to be done first; what it finds goes into ``dynamic_variables``. ``metadata`` is
    what finds the call in the switch, for ``PATCH``. ``marks`` are digests of what a call that was
    prestaged must agree in with the one that collects it: the route, its agent, and what the
    dialplan itself passed.
    """

    account: str
    from_number: str
    to_number: str
    agent_id: str
    wait: Wait = Wait.POLL
    direction: Direction | None = None
    dynamic_variables: Mapping[str, Filled] = field(default_factory=dict)
    custom_headers: Mapping[str, str] = field(default_factory=dict)
    lookup: Lookup | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()

    @classmethod
    def build(
        cls,
        call: CallContext,
        route: Route,
        account: str,
        policy: CallerPolicy,
        channel_variables: Mapping[str, str],
    ) -> StagingRequest:
        """The request for ``call`` on ``route``, to be staged by ``account``.

        ``channel_variables`` holds what the switch knows of ``route.channel_variables()``; what is
        missing there is empty text, so that a variable that an agent's prompt names is always sent.

        Raises:
            BadNumber: a number is missing or impossible, and no policy replaces it.
        """
        from_number = caller_number(call.caller, policy, route.country)
        did = _did(call, route)
        values = {
            "account_code": call.account_code,
            "caller.name": "" if shows_none(call.caller) else call.caller.name,
            "caller.number": from_number,
            "context": call.context,
            "did": did,
            "rdnis": call.rdnis,
            "route": route.name,
            "switch": str(call.switch),
            "unique_id": call.unique_id,
        }

        def value_of(name: str) -> str:
            if name.startswith(CHANNEL):
                return channel_variables.get(name.removeprefix(CHANNEL), "")
            return values[name]

        variables = {name: fill(value, value_of) for name, value in route.dynamic_variables.items()}
        variables.update({name: clean(value) for name, value in call.dynamic_variables.items()})
        headers = {name: str(fill(value, value_of)) for name, value in route.custom_headers.items()}
        headers.update(call.custom_headers)
        return cls(
            account=account,
            from_number=from_number,
            to_number=route.to_number or did,
            agent_id=route.agent_id,
            wait=call.wait or route.wait,
            direction=call.direction or route.direction,
            dynamic_variables=variables,
            custom_headers={
                name: value
                for name, text in headers.items()
                if (value := _header_value(name, text))  # never an empty header
            },
            lookup=route.lookup.fill(route.name, value_of, call.dynamic_variables)
            if route.lookup
            else None,
            metadata=_metadata(call),
            marks=marks(call, route, account),
        )

    def with_found(self, found: Mapping[str, Filled]) -> StagingRequest:
        """The request once its lookup is done: what was found stands before the route's own."""
        return replace(self, dynamic_variables={**self.dynamic_variables, **found}, lookup=None)

    def body(self) -> dict[str, object]:
        """The JSON body; optional fields only where they say something."""
        body: dict[str, object] = {
            "from_number": self.from_number,
            "to_number": self.to_number,
            "agent_id": self.agent_id,
        }
        if self.direction is not None:
            body["direction"] = self.direction.value
        if self.dynamic_variables:
            body["dynamic_variables_values"] = self.dynamic_variables
        if self.custom_headers:
            body["custom_headers"] = self.custom_headers
        return body


def marks(call: CallContext, route: Route, account: str) -> frozenset[str]:
    """The ``StagingRequest.marks`` of ``call``, without what else a request is made of.

    Raises:
        BadNumber: the DID is impossible, and the route says no number to stand for it.
    """
    return frozenset(
        [
            _digest(account, route.name, route.agent_id, route.to_number or _did(call, route)),
            *(_digest("variable", *each) for each in call.dynamic_variables.items()),
            *(_digest("header", *each) for each in call.custom_headers.items()),
            *([_digest("direction", call.direction.value)] if call.direction else []),
        ]
    )


def _did(call: CallContext, route: Route) -> str:
    """The DID as E.164; as it came where it cannot be, and the route has a number of its own."""
    try:
        return route.number(call.did)
    except BadNumber as error:
        if route.to_number is None:
            raise BadNumber(f"DID: {error}") from None
        return call.did


def _metadata(call: CallContext) -> dict[str, str]:
    known = {
        "did": call.did,
        "pbx_unique_id": call.unique_id,
        "pbx_linkedid": call.linkedid,
        "sip_call_id": call.sip_call_id,
    }
    return {name: text for name, value in known.items() if (text := clean(value, 256))}
