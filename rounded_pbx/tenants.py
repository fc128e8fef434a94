"""Which account a call belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .call import CallContext
from .routing import Route

#: The account of the calls that nothing else leads to another.
DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """What of a call leads to an account; domains are in lower case."""

    account_codes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


class AccountTable:
    """The accounts, ready to be asked; no code, domain or context stands in two of them.

    A route's own account comes first, then the account code, the domain, the context, ``default``.
    """

    def __init__(self, accounts: Mapping[str, Selectors] | None = None) -> None:
        accounts = accounts or {}
        self._codes = {code: name for name, by in accounts.items() for code in by.account_codes}
        self._domains = {domain: name for name, by in accounts.items() for domain in by.domains}
        self._contexts = {each: name for name, by in accounts.items() for each in by.contexts}

    @property
    def asks_the_call(self) -> bool:
        """Whether anything but a call's route can lead it to an account."""
        return bool(self._codes or self._domains or self._contexts)

    def choose(self, route: Route, call: CallContext) -> str:
        """The name of the account that stages ``call``."""
        return (
            route.account
            or self._codes.get(call.account_code)
            or self._domains.get(call.domain.lower())
            or self._contexts.get(call.context)
            or DEFAULT
        )

    def candidates(self, route: Route) -> tuple[str, ...]:
        """Every account that can stage a call of ``route``."""
        if route.account is not None:
            return (route.account,)
        by_call = [*self._codes.values(), *self._domains.values(), *self._contexts.values()]
        return tuple(dict.fromkeys([*by_call, DEFAULT]))
