"""What ``rounded-pbx check`` shows of several accounts."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from .config import Config
from .tenants import DEFAULT


def table(settings: Config) -> Table | None:
    """What leads to each account and how much it may stage; None where there is nothing to tell."""
    limited = any(each.max_in_flight or each.rate for each in settings.accounts.values())
    if not limited and not settings.account_table().asks_the_call:
        return None
    shown = Table(box=None)
    for column in ("account", "calls", "in flight", "a second"):
        shown.add_column(column, overflow="fold")
    for name, account in settings.accounts.items():
        shown.add_row(
            name,
            escape("\n".join(_leads(settings, name)) or "none"),
            str(account.max_in_flight or "-"),
            "-" if account.rate is None else f"{account.rate:g}",
        )
    return shown


def _leads(settings: Config, name: str) -> Iterator[str]:
    """What leads to an account, in the order in which it is looked at."""
    account = settings.accounts[name]
    yield from (f"route {route.name}" for route in settings.routes if route.account == name)
    yield from (f"account code {code}" for code in account.account_codes)
    yield from (f"domain {domain}" for domain in account.domains)
    yield from (f"context {context}" for context in account.contexts)
    if name == DEFAULT and any(route.account is None for route in settings.routes):
        yield "all others"
