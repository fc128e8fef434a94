"""What a caller may put into a name or a number, and what of it reaches a log or the API."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounded_pbx.call import clean, mask

C0_AND_C1 = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
LINE_ENDS = ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
# Unicode's Bidi_Control, whole: with one of these a name reorders what stands beside it.
DIRECTIONS = [
    chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
]


@pytest.mark.parametrize("character", [*C0_AND_C1, "\u2028", "\u2029", "\ufeff"], ids=ascii)
def test_a_control_character_in_a_name_becomes_a_space(character: str) -> None:
    assert clean(f"a{character}b") == "a b"


@pytest.mark.parametrize("character", DIRECTIONS, ids=ascii)
def test_a_change_of_direction_in_a_name_becomes_a_space(character: str) -> None:
    assert clean(f"a{character}b") == "a b"


@settings(deadline=None)
@given(st.text(st.sampled_from([*LINE_ENDS, "a", " ", "é"])))
def test_a_cleaned_name_is_one_line_for_everyone_who_splits_lines(text: str) -> None:
    assert len(clean(text).splitlines()) <= 1


@settings(deadline=None)
@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize("name", ["René Löwy", "名前", "😀 O'Neil", 'a "q" \\ ${EXTEN}', "a%0Ab"])
def test_what_people_are_called_stays_as_it_is(name: str) -> None:
    assert clean(name) == name


def test_spaces_and_controls_around_a_name_go() -> None:
    assert clean("\r\n \t Jean \x00") == "Jean"


@settings(deadline=None)
@given(st.text(), st.integers(0, 50))
def test_a_cleaned_name_is_no_longer_than_was_asked(text: str, longest: int) -> None:
    assert len(clean(text, longest)) <= longest


def test_a_name_without_end_is_cut_at_1024_characters() -> None:
    assert clean("x" * 1_000_000) == "x" * 1024


@pytest.mark.parametrize(
    ("number", "logged"),
    [
        ("+33612345678", "+3361234****"),
        ("0612345678", "061234****"),
        ("12345", "1****"),
        ("1234", "****"),
        ("600", "****"),
        ("", "****"),
        ("+33612345678\n", "+3361234****"),
        ("\r\n  1234", "****"),
    ],
)
def test_a_logged_number_hides_its_last_four_digits(number: str, logged: str) -> None:
    assert mask(number) == logged


@pytest.mark.parametrize(
    "number",
    [
        "+33612345678;user=phone",
        "+33612345678;cpc=payphone",
        "0612345678@sip.example.net",
        "+33 6 12 34 56 78",
        "+33-6-12-34-56-78",
        "+33612345678 (mobile)",
        "+33612345678" + " " * 30 + "x",
    ],
)
def test_what_a_peer_adds_to_a_number_does_not_uncover_it_in_the_log(number: str) -> None:
    digits = "".join(filter(str.isdigit, mask(number)))
    assert digits in "33612345678"[:-4] or digits in "0612345678"[:-4]


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789+\r\n\x00\x1b\u2028 "), max_size=100))
def test_a_logged_number_is_one_short_line_without_controls(number: str) -> None:
    logged = mask(number)
    assert logged.endswith("****")
    assert len(logged) <= 40
    assert clean(logged) == logged
