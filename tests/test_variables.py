"""The channel variables that a dialplan goes by."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounded_pbx.call import Switch
from rounded_pbx.routing import Next, Route
from rounded_pbx.staging import Outcome, StagingResult
from rounded_pbx.variables import Variables, build, reason_text

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
CALL_ID = "018f4c2e-7b1a-7c3d-9e4f-0123456789ab"
ROUTE = Route(
    name="support",
    agent_id=AGENT,
    on_failure=Next.FALLBACK,
    fallback={Switch.ASTERISK: "from-internal,600,1"},
)


def built(
    result: StagingResult, route: Route | None = ROUTE, switch: Switch = Switch.ASTERISK
) -> Variables:
    return build(switch, route, result, stage_ms=42, default=Next.HANGUP)


def test_a_staged_call_is_told_in_the_order_of_the_contract() -> None:
    assert built(StagingResult(Outcome.STAGED, CALL_ID)) == (
        ("ROUNDED_REASON", ""),
        ("ROUNDED_STAGE_MS", "42"),
        ("ROUNDED_ROUTE", "support"),
        ("ROUNDED_AGENT_ID", AGENT),
        ("ROUNDED_NEXT", "dial"),
        ("ROUNDED_FALLBACK", "from-internal,600,1"),
        ("ROUNDED_CALL_ID", CALL_ID),
        ("ROUNDED_STATUS", "STAGED"),
    )


@pytest.mark.parametrize(
    ("outcome", "route"),
    [(outcome, None) for outcome in Outcome]
    + [(outcome, ROUTE) for outcome in Outcome if outcome is not Outcome.NO_ROUTE],
)
def test_the_id_and_then_the_status_are_written_last_whatever_happened(
    outcome: Outcome, route: Route | None
) -> None:
    variables = built(StagingResult(outcome), route)
    assert variables[-2:] == (("ROUNDED_CALL_ID", ""), ("ROUNDED_STATUS", outcome.value))
    names = [name for name, _ in variables]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "outcome", sorted(set(Outcome) - {Outcome.STAGED, Outcome.INITIATED, Outcome.NO_ROUTE})
)
@pytest.mark.parametrize("policy", Next)
def test_without_an_id_the_route_says_what_happens_next(outcome: Outcome, policy: Next) -> None:
    route = Route(name="a", agent_id=AGENT, on_failure=policy)
    assert dict(built(StagingResult(outcome), route))["ROUNDED_NEXT"] == policy.value


def test_an_id_that_is_not_confirmed_is_dialled() -> None:
    told = dict(built(StagingResult(Outcome.INITIATED, CALL_ID, "not staged in time")))
    assert (told["ROUNDED_CALL_ID"], told["ROUNDED_NEXT"]) == (CALL_ID, "dial")
    assert told["ROUNDED_REASON"] == "not staged in time"


def test_a_route_that_sends_no_unstaged_id_keeps_it_and_takes_its_fallback() -> None:
    route = Route(name="a", agent_id=AGENT, on_failure=Next.FALLBACK, send_unstaged=False)
    told = dict(built(StagingResult(Outcome.INITIATED, CALL_ID), route))
    assert (told["ROUNDED_CALL_ID"], told["ROUNDED_NEXT"]) == ("", "fallback")
    assert told["ROUNDED_STATUS"] == "INITIATED"
    told = dict(built(StagingResult(Outcome.STAGED, CALL_ID), route))
    assert (told["ROUNDED_CALL_ID"], told["ROUNDED_NEXT"]) == (CALL_ID, "dial")


def test_a_call_without_a_route_does_what_the_configuration_says_for_it() -> None:
    assert built(StagingResult(Outcome.NO_ROUTE, reason="no route for this DID"), None) == (
        ("ROUNDED_REASON", "no route for this DID"),
        ("ROUNDED_STAGE_MS", "42"),
        ("ROUNDED_NEXT", "hangup"),
        ("ROUNDED_CALL_ID", ""),
        ("ROUNDED_STATUS", "NO_ROUTE"),
    )


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.BAD_NUMBER])
def test_a_request_that_is_not_understood_leaves_the_dialplans_presets(outcome: Outcome) -> None:
    assert {name for name, _ in built(StagingResult(outcome), None)} == {
        "ROUNDED_REASON",
        "ROUNDED_STAGE_MS",
        "ROUNDED_CALL_ID",
        "ROUNDED_STATUS",
    }


def test_a_fallback_is_told_to_the_switch_that_it_is_for() -> None:
    both = {Switch.ASTERISK: "from-internal,600,1", Switch.FREESWITCH: "600 XML default"}
    route = Route(name="a", agent_id=AGENT, fallback=both)
    failed = StagingResult(Outcome.TIMEOUT)
    for switch, target in both.items():
        said = {name.upper(): value for name, value in built(failed, route, switch)}
        assert said["ROUNDED_FALLBACK"] == target
    assert "rounded_fallback" not in dict(built(failed, ROUTE, Switch.FREESWITCH))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("HTTP 429: slow down", "HTTP 429: slow down"),
        ("from_number: bad; to_number: bad", "from_number: bad to_number: bad"),
        ("a\r\nSET VARIABLE X 1\x00", "a SET VARIABLE X 1"),
        ('"quoted", ${EXTEN} $[1+1]', "quoted EXTEN 1+1"),
        ("a,b;c^d|e{f}\\g%0Ah", "a b c d e f g 0Ah"),
        ("Réseau indisponible", "R seau indisponible"),
        ("   ", ""),
        ("x" * 200, "x" * 128),
        ("x" * 127 + " y", "x" * 127),
    ],
)
def test_a_reason_is_told_in_characters_that_no_dialplan_expands(reason: str, told: str) -> None:
    assert reason_text(reason) == told
    assert dict(built(StagingResult(Outcome.ERROR, reason=reason)))["ROUNDED_REASON"] == told


@settings(deadline=None)
@given(st.text())
def test_no_reason_leaves_the_characters_and_the_length_of_the_contract(reason: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9 .:/_+-]{0,128}", reason_text(reason))
