"""Which account a call belongs to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rounded_pbx.call import CallContext, CallerId, Switch
from rounded_pbx.routing import Route
from rounded_pbx.tenants import AccountTable, Selectors

from .helpers import AGENT

TABLE = AccountTable(
    {
        "default": Selectors(),
        "by-route": Selectors(),
        "by-code": Selectors(account_codes=("4711", "4712")),
        "by-domain": Selectors(domains=("acme.example.net",)),
        "by-context": Selectors(contexts=("from-acme", "acme")),
    }
)
#: What leads to each account, the first one first.
LEADS: dict[str, dict[str, str]] = {
    "by-route": {"account": "by-route"},
    "by-code": {"account_code": "4711"},
    "by-domain": {"domain": "acme.example.net"},
    "by-context": {"context": "from-acme"},
}


def route(account: str | None = None) -> Route:
    return Route(name="a", agent_id=AGENT, account=account)


def call(**fields: Any) -> CallContext:
    return CallContext(switch=Switch.FREESWITCH, did="+33612345678", caller=CallerId(), **fields)


def chosen(account: str | None = None, **fields: str) -> str:
    return TABLE.choose(route(account), call(**fields))


@pytest.mark.parametrize(
    "given", [each for n in range(5) for each in itertools.combinations(LEADS, n)]
)
def test_the_route_decides_then_the_code_the_domain_the_context_and_default(
    given: tuple[str, ...],
) -> None:
    fields = {key: value for name in given for key, value in LEADS[name].items()}
    assert chosen(**fields) == (given[0] if given else "default")


@pytest.mark.parametrize("missed", [n for n in LEADS if n != "by-route"])
def test_what_leads_nowhere_is_passed_over(missed: str) -> None:
    fields = {
        key: value for name in LEADS if name != "by-route" for key, value in LEADS[name].items()
    }
    [name] = LEADS[missed]
    following = {"by-code": "by-domain", "by-domain": "by-code", "by-context": "by-code"}[missed]
    assert chosen(**{**fields, name: "unheard-of"}) == following
    assert chosen(**{name: "unheard-of"}) == chosen(**{name: ""}) == "default"


def test_a_domain_is_the_same_in_any_case_and_nothing_else_is() -> None:
    assert chosen(domain="ACME.Example.NET") == "by-domain"
    assert chosen(context="From-Acme") == "default"
    table = AccountTable({"a": Selectors(account_codes=("Ab",))})
    assert table.choose(route(), call(account_code="ab")) == "default"


@pytest.mark.parametrize(
    "fields",
    [
        {"account_code": "4711\n"},
        {"account_code": " 4711"},
        {"account_code": "acme.example.net"},
        {"domain": "acme.example.net."},
        {"domain": "x.acme.example.net"},
        {"domain": "acme.example.net\x00"},
        {"domain": "from-acme"},
        {"context": "4711"},
        {"channel": "SIP/4711", "unique_id": "4711", "rdnis": "4711"},
        {"dynamic_variables": {"accountcode": "4711", "domain": "acme.example.net"}},
        {"custom_headers": {"accountcode": "4711", "domain": "acme.example.net"}},
    ],
)
def test_what_only_looks_like_it_leads_to_nobody(fields: dict[str, Any]) -> None:
    assert TABLE.choose(route(), call(**fields)) == "default"


def test_nothing_of_the_caller_decides() -> None:
    caller = CallerId("4711", "acme.example.net")
    forged = CallContext(switch=Switch.ASTERISK, did="4711", caller=caller)
    assert TABLE.choose(route(), forged) == "default"


def test_a_table_knows_whether_it_asks_the_call() -> None:
    assert TABLE.asks_the_call
    assert not AccountTable().asks_the_call
    assert not AccountTable({"a": Selectors(), "default": Selectors()}).asks_the_call
    for name in LEADS:
        if name != "by-route":
            [(field, value)] = LEADS[name].items()
            fields: Any = {f"{field}s": (value,)}
            assert AccountTable({"a": Selectors(**fields)}).asks_the_call


def test_the_candidates_of_a_route_are_all_that_may_be_chosen() -> None:
    assert TABLE.candidates(route("by-code")) == ("by-code",)
    assert TABLE.candidates(route()) == ("by-code", "by-domain", "by-context", "default")
    assert AccountTable().candidates(route()) == ("default",)
