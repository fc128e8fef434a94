"""What is asked of the API for a call."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounded_pbx.call import CallContext, CallerId, Direction, Switch, Wait
from rounded_pbx.errors import BadNumber
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.routing import Next, Route
from rounded_pbx.staging import StagingRequest, valid_uuid
from rounded_pbx.templates import compile_value

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
POLICY = CallerPolicy(withheld="+33000000000", malformed="+33000000001")
CALL = CallContext(
    switch=Switch.ASTERISK,
    did="0612345678",
    caller=CallerId("0700000001", "Jean Löwy"),
    rdnis="+33644444444",
    unique_id="1795328067.92",
    channel="PJSIP/trunk-00000052",
    context="from-trunk",
    account_code="acme",
)
ROUTE = Route(name="support", agent_id=AGENT, country="FR")


def request(
    call: Mapping[str, object] | None = None,
    route: Mapping[str, object] | None = None,
    policy: CallerPolicy = POLICY,
    **channel: str,
) -> StagingRequest:
    """The request for CALL on ROUTE with some of their fields changed."""
    changes: Any = dict(route or {})
    for name in ("dynamic_variables", "custom_headers"):
        if name in changes:
            changes[name] = {key: compile_value(value) for key, value in changes[name].items()}
    called: Any = call or {}
    return StagingRequest.build(
        dataclasses.replace(CALL, **called),
        dataclasses.replace(ROUTE, **changes),
        "one",
        policy,
        channel,
    )


SAME: list[tuple[dict[str, object], dict[str, object]]] = [
    ({}, {}),
    ({"did": "+33612345678"}, {}),
    ({"rdnis": "", "unique_id": "2", "linkedid": "3", "channel": "Local/1", "context": "b"}, {}),
    ({"caller": CallerId("+33700000009", "Zoé")}, {}),
    ({"ticket": "x", "sip_call_id": "y", "wait": Wait.NONE}, {}),
    ({}, {"on_failure": Next.HANGUP, "dynamic_variables": {"a": "{channel.A}"}}),
]
OTHER: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"did": "0612345679"}, {}),
    ({}, {"to_number": "+33612345679"}),
    ({}, {"agent_id": str(uuid.uuid4())}),
    ({}, {"name": "the same agent, and other variables"}),
    ({"dynamic_variables": {"tier": "2"}}, {}),
    ({"dynamic_variables": {"header": "1"}}, {}),
    ({"custom_headers": {"tier": "1"}}, {}),
    ({"dynamic_variables": {"tier": "1", "name": "a"}}, {}),
    ({"direction": Direction.OUTBOUND}, {}),
]
BEGUN = {"dynamic_variables": {"tier": "1"}, "custom_headers": {"X-Tier": "1"}}


@pytest.mark.parametrize(("call", "route"), SAME)
def test_a_call_may_collect_what_was_begun_for_it(
    call: dict[str, object], route: dict[str, object]
) -> None:
    assert request(call, route).marks <= request(BEGUN).marks


@pytest.mark.parametrize(("call", "route"), OTHER)
def test_a_call_may_not_collect_what_was_begun_for_another(
    call: dict[str, object], route: dict[str, object]
) -> None:
    assert not request(call, route).marks <= request(BEGUN).marks


def test_another_account_may_not_collect_it_either() -> None:
    theirs = StagingRequest.build(CALL, ROUTE, "two", POLICY, {})
    assert not theirs.marks <= request(BEGUN).marks


def test_what_a_mark_is_made_of_cannot_be_read_from_it() -> None:
    assert all(re.fullmatch("[0-9a-f]{24}", mark) for mark in request(BEGUN).marks)


def test_a_plain_call_asks_for_nothing_but_what_it_must() -> None:
    plain = request()
    assert plain.body() == {
        "from_number": "+33700000001",
        "to_number": "+33612345678",
        "agent_id": AGENT,
    }
    assert (plain.account, plain.wait) == ("one", Wait.POLL)


def test_a_route_with_everything_asks_for_everything() -> None:
    full = request(
        route={
            "to_number": "+33199999999",
            "direction": Direction.INBOUND,
            "dynamic_variables": {"name": "{caller.name}", "vip": True, "m": {"a": 1.5}},
            "custom_headers": {"X-Customer": "{channel.CUSTOMER}"},
        },
        CUSTOMER="42",
    )
    assert full.body() == {
        "from_number": "+33700000001",
        "to_number": "+33199999999",
        "agent_id": AGENT,
        "direction": "inbound",
        "dynamic_variables_values": {"name": "Jean Löwy", "vip": True, "m": {"a": 1.5}},
        "custom_headers": {"X-Customer": "42"},
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account_code", "acme"),
        ("caller.name", "Jean Löwy"),
        ("caller.number", "+33700000001"),
        ("channel.ACCOUNT", "a-1"),
        ("channel.NOT_SET", ""),
        ("context", "from-trunk"),
        ("did", "+33612345678"),
        ("rdnis", "+33644444444"),
        ("route", "support"),
        ("switch", "asterisk"),
        ("unique_id", "1795328067.92"),
    ],
)
def test_each_field_of_a_template_says_what_it_promises(field: str, value: str) -> None:
    route = {"dynamic_variables": {"x": f"<{{{field}}}>"}}
    assert request(route=route, ACCOUNT="a-1").dynamic_variables == {"x": f"<{value}>"}


def test_a_withheld_caller_appears_nowhere_with_their_number() -> None:
    caller = CallerId("+33700000009", "", withheld=True)
    route = {"dynamic_variables": {"n": "{caller.number}"}}
    body = json.dumps(request({"caller": caller}, route).body())
    assert "+33000000000" in body
    assert "33700000009" not in body


@pytest.mark.parametrize("did", ["", "s", "600", "+33612345678\r\n", "${EXTEN}", "0" * 50])
def test_a_did_that_is_no_number_is_refused_unless_the_route_brings_one(did: str) -> None:
    with pytest.raises(BadNumber, match=r"^DID: not a p"):
        request({"did": did})
    assert request({"did": did}, {"to_number": "+33612345678"}).to_number == "+33612345678"


def test_a_caller_without_a_number_is_refused_where_no_policy_replaces_it() -> None:
    with pytest.raises(BadNumber, match=r"^caller withheld, and numbers\.withheld is not set$"):
        request({"caller": CallerId()}, policy=CallerPolicy())


@pytest.mark.parametrize("number", ["anonymous", "Unknown", "", "restricted"])
def test_a_caller_who_shows_no_number_shows_no_name_either(number: str) -> None:
    hidden = request(
        call={"caller": CallerId(number, "Jean Löwy")},
        route={"dynamic_variables": {"name": "{caller.name}"}},
    )
    assert (hidden.from_number, hidden.dynamic_variables) == ("+33000000000", {"name": ""})


def test_a_did_is_sent_as_it_was_matched() -> None:
    """The country of numbers reads it for the match, the route's is for its callers."""
    route = {"country": "DE", "home": "FR", "dids": ("+33612345678", "0612345678")}
    assert request(route=route).to_number == "+33612345678"
    assert request(route={**route, "dids": ("+336*",)}).to_number == "+33612345678"
    assert request(route={**route, "dids": ("+49*",)}).to_number == "+49612345678"


def test_a_number_is_read_in_the_routes_country() -> None:
    belgian = request({"did": "0470123456"}, {"country": "BE"})
    assert (belgian.to_number, belgian.from_number) == ("+32470123456", "+32700000001")


@pytest.mark.parametrize("wait", Wait)
def test_the_dialplan_may_choose_how_to_wait(wait: Wait) -> None:
    assert request({"wait": wait}, {"wait": Wait.NONE}).wait is wait
    assert request(route={"wait": wait}).wait is wait


def test_the_dialplan_may_choose_the_direction() -> None:
    chosen = request({"direction": Direction.OUTBOUND}, {"direction": Direction.INBOUND})
    assert chosen.body()["direction"] == "outbound"


def test_what_the_dialplan_passes_stands_over_the_configuration() -> None:
    passed = request(
        {
            "dynamic_variables": {"name": "A\r\nB", "more": "{did}"},
            "custom_headers": {"X-A": "a\r\nX-Evil: b", "X-Empty": ""},
        },
        {
            "dynamic_variables": {"name": "{caller.name}", "kept": 1},
            "custom_headers": {"X-A": "configured", "X-Kept": "b"},
        },
    )
    assert passed.dynamic_variables == {"name": "A  B", "kept": 1, "more": "{did}"}
    assert passed.custom_headers == {"X-A": "a  X-Evil: b", "X-Kept": "b"}


@pytest.mark.parametrize("customer", ["", " ", "\r\n", "\x00"])
def test_a_header_that_would_be_empty_is_not_sent(customer: str) -> None:
    route = {"custom_headers": {"X-Customer": "{channel.CUSTOMER}"}}
    assert "custom_headers" not in request(route=route, CUSTOMER=customer).body()
    assert "custom_headers" not in request(route=route).body()


@pytest.mark.parametrize("character", ["x", "é", "名", "😀"])
def test_no_header_line_is_longer_than_middleboxes_let_pass(character: str) -> None:
    name = "X-" + "a" * 62  # the longest that the configuration takes
    route = {"custom_headers": {name: "{channel.LONG}"}}
    value = request(route=route, LONG=character * 5000).custom_headers[name]
    assert value.startswith(character)
    length = len(f"{name}: {value}\r\n".encode())
    assert length <= 1024


Hostile = st.text(max_size=40) | st.sampled_from(["\r\nX-Evil: 1", "a\u2028b", "{did}", "\x00"])


@settings(deadline=None)
@given(Hostile, Hostile, Hostile, Hostile)
def test_no_callers_text_brings_a_line_or_a_control_into_the_request(
    number: str, name: str, rdnis: str, variable: str
) -> None:
    asked = request(
        {"caller": CallerId(number, name), "rdnis": rdnis},
        {
            "dynamic_variables": {"v": {"n": "{caller.name}", "r": "{rdnis} {caller.number}"}},
            "custom_headers": {"X-V": "{channel.V}", "X-N": "{caller.name}"},
        },
        V=variable,
    )
    nested: Any = asked.dynamic_variables["v"]
    for text in (asked.from_number, *nested.values(), *asked.custom_headers.values()):
        assert len(text.splitlines()) <= 1
        assert not any(ord(character) < 32 or character == "\x7f" for character in text)
    assert set(asked.custom_headers) <= {"X-V", "X-N"}
    json.dumps(asked.body(), allow_nan=False).encode("utf-8")


@settings(deadline=None)
@given(st.uuids())
def test_a_uuid_is_taken_in_either_case_and_given_in_lower(value: uuid.UUID) -> None:
    assert valid_uuid(str(value).upper()) == str(value)
    assert valid_uuid(str(value)) == str(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        42,
        b"018f4c2e-7b1a-7c3d-9e4f-0123456789ab",
        "018f4c2e7b1a7c3d9e4f0123456789ab",
        "{018f4c2e-7b1a-7c3d-9e4f-0123456789ab}",
        "urn:uuid:018f4c2e-7b1a-7c3d-9e4f-0123456789ab",
        "018f4c2e-7b1a-7c3d-9e4f-0123456789ab\n",
        " 018f4c2e-7b1a-7c3d-9e4f-0123456789ab",
        "018f4c2e-7b1a-7c3d-9e4f-0123456789ag",
        "018f4c2e-7b1a-7c3d-9e4f-0123456789a,b",
        "\u066018f4c2e-7b1a-7c3d-9e4f-0123456789ab",
        "018f4c2e-7b1a-7c3d-9e4f-0123456789ab\r\nX: y",
    ],
)
def test_what_is_no_uuid_is_none(value: object) -> None:
    assert valid_uuid(value) is None
