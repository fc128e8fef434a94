"""Numbers as people, switches and carriers write them, and callers who show none."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rounded_pbx.call import CallerId
from rounded_pbx.errors import BadNumber
from rounded_pbx.numbers import E164, CallerPolicy, caller_number, to_e164

WITHHELD, MALFORMED = "+33000000000", "+33000000001"
POLICY = CallerPolicy(withheld=WITHHELD, malformed=MALFORMED)


@pytest.mark.parametrize(
    ("number", "country", "e164"),
    [
        ("+33612345678", None, "+33612345678"),
        ("+33612345678", "US", "+33612345678"),
        ("0612345678", "FR", "+33612345678"),
        ("06 12 34 56 78", "FR", "+33612345678"),
        ("06.12.34.56.78", "FR", "+33612345678"),
        ("06/12-34-56-78", "FR", "+33612345678"),
        ("+33 (0)6 12 34 56 78", "FR", "+33612345678"),
        ("0033612345678", "FR", "+33612345678"),
        ("01133612345678", "US", "+33612345678"),
        ("2025550123", "US", "+12025550123"),
        ("12025550123", "US", "+12025550123"),
        ("+1 (202) 555-0123", None, "+12025550123"),
        ("061234567", "IT", "+39061234567"),  # Italy keeps the zero
        ("+39061234567", None, "+39061234567"),
        ("84951234567", "RU", "+74951234567"),
        ("0000000000", "FR", "+33000000000"),  # possible is enough; nobody asks who has it
    ],
)
def test_a_possible_number_becomes_e164(number: str, country: str | None, e164: str) -> None:
    assert to_e164(number, country) == e164


@pytest.mark.parametrize(
    ("number", "country"),
    [("33612345678", "FR"), ("33612345678", None), ("447911123456", "FR"), ("447911123456", None)],
)
def test_a_trunk_that_leaves_the_plus_out_is_understood(number: str, country: str | None) -> None:
    assert to_e164(number, country) == f"+{number}"


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("", "FR"),
        ("+", "FR"),
        ("anonymous", "FR"),
        ("0800 FLOWERS", "FR"),
        ("+33612345678;user=phone", "FR"),
        ("sip:+33612345678", "FR"),
        ("+33612345678\n", "FR"),
        ("+336\r\n12345678", "FR"),
        ("+33612345678\x00", "FR"),
        ("0612345678,,1", "FR"),
        ("0612345678x12", "FR"),
        ("0612345678#", "FR"),
        ("*310612345678", "FR"),
        ("${EXTEN}", "FR"),
        ("٠٦١٢٣٤٥٦٧٨", "FR"),  # digits of other scripts
        ("０６１２３４５６７８", "FR"),  # noqa: RUF001
        ("++33612345678", "FR"),
        ("1" * 41, "FR"),
    ],
    ids=ascii,
)
def test_what_is_no_number_is_refused(number: str, country: str) -> None:
    with pytest.raises(BadNumber, match=r"^not a phone number$"):
        to_e164(number, country)


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("112", "FR"),
        ("600", "FR"),
        ("3615", "FR"),
        ("110", "DE"),
        ("5550123", "US"),  # a local number without its area code
        ("06123456789", "FR"),
        ("+0612345678", "FR"),
        ("+33", "FR"),
        ("+3361234567890123", "FR"),
        ("1" * 39, "FR"),
    ],
)
def test_an_impossible_number_is_refused_with_the_country_that_was_asked(
    number: str, country: str
) -> None:
    with pytest.raises(BadNumber, match=f"^not a possible number in {country}$"):
        to_e164(number, country)


@pytest.mark.parametrize("number", ["0612345678", "0033612345678", "2025550123", "+999123456789"])
def test_without_a_country_only_an_international_number_will_do(number: str) -> None:
    with pytest.raises(BadNumber, match=r"^not in E\.164$"):
        to_e164(number, None)


def test_a_possible_number_too_short_for_the_api_is_refused() -> None:
    assert phonenumbers.is_possible_number(phonenumbers.parse("+491234"))
    with pytest.raises(BadNumber):
        to_e164("+491234", None)


Countries = st.sampled_from([None, "FR", "DE", "US", "IT", "RU", "GB", "ZZ", ""])


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"\+?[0-9 ().\-/]{1,60}"), Countries)
@example("+33612345678", "FR")
def test_whatever_comes_in_only_e164_comes_out(number: str, country: str | None) -> None:
    try:
        e164 = to_e164(number, country)
    except BadNumber:
        return
    assert E164.fullmatch(e164)
    assert to_e164(e164, country) == e164


@pytest.mark.parametrize(
    "number",
    [
        *["", " ", "-", "anonymous", "Anonymous", " ANONYMOUS ", "unknown", "Restricted"],
        *["private", "unavailable", "withheld", "asterisk"],
    ],
)
def test_a_caller_without_a_number_gets_the_configured_one(number: str) -> None:
    assert caller_number(CallerId(number), POLICY, "FR") == WITHHELD


def test_a_withheld_caller_gets_the_configured_number_though_the_trunk_tells_theirs() -> None:
    caller = CallerId("+33700000000", "Real", withheld=True)
    assert caller_number(caller, POLICY, "FR") == WITHHELD


@pytest.mark.parametrize("number", ["600", "alice", "+339", "+339\r\nX-Evil", "sip:a@b", "0" * 60])
def test_a_caller_whose_number_is_none_gets_the_number_for_malformed_ones(number: str) -> None:
    assert caller_number(CallerId(number), POLICY, "FR") == MALFORMED


def test_a_caller_with_a_number_keeps_it() -> None:
    assert caller_number(CallerId(" 0612345678 "), POLICY, "FR") == "+33612345678"


def test_without_a_policy_a_withheld_caller_is_refused_and_the_setting_is_named() -> None:
    with pytest.raises(BadNumber, match=r"^caller withheld, and numbers\.withheld is not set$"):
        caller_number(CallerId("+33700000000", withheld=True), CallerPolicy(), "FR")


def test_without_a_policy_a_malformed_caller_is_refused_and_never_repeated() -> None:
    with pytest.raises(BadNumber) as caught:
        caller_number(CallerId("evil\r\n"), CallerPolicy(withheld=WITHHELD), "FR")
    assert str(caught.value) == "caller: not a phone number, and numbers.malformed is not set"
    assert caught.value.__cause__ is None
