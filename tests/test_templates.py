"""Templates of dynamic variables and custom headers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rounded_pbx.templates import FIELDS, Template, compile_value, fields, fill


def filled(value: object, **known: str) -> object:
    return fill(compile_value(value), lambda name: known[name.replace(".", "_")])


@pytest.mark.parametrize(
    "constant", ["text", "", "+33612345678", "0123", 0, 7, -1, 1.5, True, False, "€ 名"]
)
def test_a_constant_keeps_its_type(constant: object) -> None:
    value = filled(constant)
    assert value == constant
    assert type(value) is type(constant)


def test_a_nested_map_keeps_its_shape_and_is_filled_inside() -> None:
    template = {"vip": True, "caller": {"name": "{caller.name}", "age": 42, "more": {"d": "{did}"}}}
    assert filled(template, caller_name="Jean", did="+331") == {
        "vip": True,
        "caller": {"name": "Jean", "age": 42, "more": {"d": "+331"}},
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_that_is_promised_can_be_named(name: str) -> None:
    assert isinstance(compile_value(f"{{{name}}}"), Template)


def test_text_stands_around_and_between_fields() -> None:
    assert filled("a {did}-{did} z", did="1") == "a 1-1 z"


def test_doubled_braces_are_text() -> None:
    assert filled("{{did}}") == "{did}"
    assert filled("{{did}} {did} {{", did="1") == "{did} 1 {"
    assert filled("{{{did}}}", did="1") == "{1}"


def test_a_field_is_text_even_where_it_looks_like_a_number() -> None:
    assert filled("{did}", did="42") == "42"


@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "{0}",
        "{caller}",
        "{caller.number.real}",
        "{Caller.Name}",
        "{ did }",
        "{did!r}",
        "{did:>10}",
        "{did:{context}}",
        "{did.__class__}",
        "{did[0]}",
        "{channel}",
        "{channel.}",
        "{channel.1A}",
        "{channel.A B}",
        "{channel.CALLERID(num)}",
        "{channel.A}{channel.B}}}{channel.é}",
        "{channel." + "A" * 81 + "}",
    ],
)
def test_an_unknown_field_is_refused_with_the_list_of_those_there_are(template: str) -> None:
    with pytest.raises(ValueError, match="is not known; expected one of") as caught:
        compile_value(template)
    assert all(f"{{{name}}}" in str(caught.value) for name in FIELDS)


@pytest.mark.parametrize("template", ["{", "}", "a { b", "a } b", "{did", "{did!}", "{did}}"])
def test_a_stray_brace_is_refused_with_the_way_to_write_it(template: str) -> None:
    with pytest.raises(ValueError, match=r"write \{\{ and \}\} for braces that are text$"):
        compile_value(template)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "is empty"), ([1], "is a list"), (b"x", "is a bytes"), ({"a": {"b": [1]}}, "a list")],
)
def test_what_the_api_does_not_take_is_refused_with_what_it_does(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match="a number, true or false, or a nested map") as caught:
        compile_value(value)
    assert kind in str(caught.value)


def test_a_callers_controls_do_not_pass_a_template() -> None:
    assert filled("<{caller.name}>", caller_name="a\r\nX: y\x00") == "<a  X: y>"


def test_a_callers_braces_are_not_read_as_a_template() -> None:
    assert filled("{caller.name}", caller_name="{did} {channel.SECRET}") == "{did} {channel.SECRET}"


@settings(deadline=None)
@given(st.text())
def test_a_filled_field_is_one_short_line_whatever_the_caller_is_called(name: str) -> None:
    value = filled("{caller.name}", caller_name=name)
    assert isinstance(value, str)
    assert len(value) <= 1024
    assert len(value.splitlines()) <= 1


@settings(deadline=None)
@given(
    st.recursive(st.text() | st.integers(), lambda v: st.dictionaries(st.text(), v), max_leaves=8)
)
def test_any_text_can_be_written_with_its_braces_doubled(value: object) -> None:
    def doubled(part: object) -> object:
        if isinstance(part, dict):
            return {name: doubled(inner) for name, inner in part.items()}
        return part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else part

    assert filled(doubled(value)) == value


def test_the_fields_of_a_tree_are_all_found() -> None:
    tree = compile_value(
        {"a": "{did} {did}", "b": {"c": "{channel.X}", "d": 1}, "e": "no field", "f": True}
    )
    assert list(fields(tree)) == ["did", "did", "channel.X"]
