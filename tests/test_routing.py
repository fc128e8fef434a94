"""Which agent a DID belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounded_pbx.call import CallContext, CallerId, Switch
from rounded_pbx.routing import Next, Route, RouteTable
from rounded_pbx.templates import compile_value

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"


def route(name: str, *dids: str) -> Route:
    return Route(name=name, agent_id=AGENT, dids=dids)


def call(did: str, route: str | None = None) -> CallContext:
    return CallContext(switch=Switch.ASTERISK, did=did, caller=CallerId(), route=route)


def matched(table: RouteTable, did: str) -> str | None:
    found = table.match(did)
    return found.name if found else None


TABLE = RouteTable(
    [
        route("support", "+33612345678", "+33612345679"),
        route("paris", "+331*"),
        route("paris 8", "+33142*"),
        route("france", "+33*"),
        route("extension", "600"),
        route("internal", "6*"),
        route("by name only"),
    ],
    country="FR",
)


@pytest.mark.parametrize(
    ("did", "name"),
    [
        ("+33612345678", "support"),
        ("+33612345679", "support"),
        ("0612345678", "support"),
        ("0033612345678", "support"),
        ("33612345678", "support"),
        ("06 12 34 56 78", "support"),
        ("+33142000000", "paris 8"),
        ("0142000000", "paris 8"),
        ("+33100000000", "paris"),
        ("+33912345678", "france"),
        ("600", "extension"),
        ("601", "internal"),
        ("6", "internal"),
        ("60", "internal"),
        ("+33", "france"),
        ("+3", None),
        ("+3361234567", "france"),
        ("+336123456789", "france"),
        ("+491234567890", None),
        ("700", None),
        ("", None),
        ("*", None),
        ("+33612345678\n", "france"),
    ],
)
def test_an_exact_did_beats_a_prefix_and_a_longer_prefix_a_shorter_one(
    did: str, name: str | None
) -> None:
    assert matched(TABLE, did) == name


@pytest.mark.parametrize("did", ["+33612345678", "700", "", "s", "evil\r\n", "${EXTEN}", "*"])
def test_a_star_takes_what_no_other_route_does(did: str) -> None:
    table = RouteTable([route("rest", "*"), route("one", "+3369*")])
    assert matched(table, did) == "rest"
    assert matched(table, "+33690000000") == "one"


def test_a_did_that_is_no_number_matches_as_it_came() -> None:
    table = RouteTable([route("sales", "sales")], country="FR")
    assert matched(table, "sales") == "sales"
    assert matched(table, "SALES") is None


def test_without_a_country_a_national_did_matches_as_it_came() -> None:
    table = RouteTable([route("a", "0612345678"), route("b", "+33612345678")])
    assert matched(table, "0612345678") == "a"
    assert matched(table, "+33612345678") == "b"


def test_an_exact_did_as_it_came_beats_a_prefix_of_its_e164_form() -> None:
    table = RouteTable([route("prefix", "+3361234567*"), route("exact", "0612345678")], "FR")
    assert matched(table, "0612345678") == "exact"


@settings(deadline=None)
@given(
    st.lists(st.from_regex(r"\A[ab]{1,5}\Z|\A[ab]{0,5}[*]\Z"), unique=True),
    st.text("ab", max_size=7),
)
def test_the_longest_pattern_that_fits_wins(patterns: list[str], did: str) -> None:
    table = RouteTable(route(pattern, pattern) for pattern in patterns)
    prefixes = [p for p in patterns if p.endswith("*") and did.startswith(p[:-1])]
    longest = max(prefixes, key=len, default=None)
    assert matched(table, did) == (did if did in patterns else longest)


def test_the_route_that_the_dialplan_names_wins_over_the_did() -> None:
    found = TABLE.find(call("+33612345678", route="by name only"))
    assert found is not None
    assert found.name == "by name only"


def test_a_route_that_is_not_there_is_none_and_does_not_fall_back_to_the_did() -> None:
    assert TABLE.find(call("+33612345678", route="no such")) is None
    assert TABLE.find(call("+33612345678", route="")) is None  # present but empty is not missing


def test_a_call_without_a_named_route_goes_by_its_did() -> None:
    found = TABLE.find(call("0612345678"))
    assert found is not None
    assert found.name == "support"


def test_a_table_lists_its_routes_in_the_order_of_the_file() -> None:
    assert [found.name for found in TABLE][:3] == ["support", "paris", "paris 8"]
    assert len(TABLE) == 7


def test_a_route_that_says_nothing_dials_and_sends_what_it_has() -> None:
    silent = route("a")
    assert silent.on_failure is Next.DIAL
    assert silent.send_unstaged
    assert silent.direction is None
    assert silent.custom_headers == {}


def test_the_channel_variables_of_a_route_are_those_that_its_templates_name() -> None:
    named = Route(
        name="a",
        agent_id=AGENT,
        dynamic_variables={
            "x": compile_value("{channel.B} {did} {channel.A}"),
            "y": compile_value({"z": "{channel.C}", "v": True}),
        },
        custom_headers={"X-A": "constant", "X-B": compile_value("{channel.A}")},  # type: ignore[dict-item]
    )
    assert named.channel_variables() == ("A", "B", "C")
    assert route("b").channel_variables() == ()
