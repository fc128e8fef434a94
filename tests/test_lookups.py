"""HTTP lookups, the pure part: no caller leads a URL astray, no answer brings what is no value."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rounded_pbx.call import CallContext, CallerId, Switch
from rounded_pbx.lookups import (
    LONGEST_URL,
    LookupTemplate,
    compile_path,
    compile_url,
    found_in,
)
from rounded_pbx.numbers import CallerPolicy
from rounded_pbx.routing import Route
from rounded_pbx.staging import StagingRequest

from .helpers import AGENT, examples

TEMPLATE = "https://crm.example.net:8443/v1/c/{caller.name}/of-{did}?n={caller.name}&x={channel.X}"
URL = compile_url(TEMPLATE)

HOSTILE = st.lists(
    st.sampled_from([*"./\\;%?#&=@: \r\n\x00", "%2e", "%2F", "%252e", "..", "é", "\ud83d", "a"])
    | st.text(max_size=3)
).map("".join)


def filled(url: str, **values: str) -> str | None:
    return compile_url(url).fill(lambda name: values[name.replace(".", "_")])


def often_decoded(text: str) -> str:
    while (plain := unquote(text)) != text:
        text = plain
    return text


@examples(500)
@given(HOSTILE, HOSTILE)
@example("..", "1")
@example("%252e%252e%252fadmin", "1")
@example("..;a", "1")
@example("x" * 10_000, "&" * 10_000)
def test_a_hostile_value_never_leaves_its_place(name: str, did: str) -> None:
    values = {"caller.name": name, "did": did, "channel.X": name}
    target = URL.fill(lambda field: values[field])
    if target is None:
        return
    assert re.fullmatch(r"[!-~]+", target)
    assert len(URL.origin + target) <= LONGEST_URL
    url = urlsplit(URL.origin + target)
    assert (url.scheme, url.netloc, url.fragment) == ("https", "crm.example.net:8443", "")
    assert len(url.path.split("/")) == 5
    assert [key for key, _ in parse_qsl(url.query, keep_blank_values=True)] == ["n", "x"]
    assert url.query.count("&") == 1
    # A server that decodes as often as it can still sees four names, none of which leads away.
    segments = re.split(r"[/\\]", often_decoded(url.path))
    assert len(segments) == 5
    assert segments[4].startswith("of-")
    assert not {".", "..", ""} & {segment.partition(";")[0].strip() for segment in segments[1:]}


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ".",
        "..",
        "a/b",
        "a\\b",
        "/",
        "%2e%2e",
        "%252E.",
        "..%2fadmin",
        ";x",
        "..;x",
        "\r\n",
    ],
)
def test_a_value_that_would_lead_away_in_the_path_leaves_the_lookup_out(value: str) -> None:
    assert filled("https://h/c/{did}/x", did=value) is None
    target = filled("https://h/c?x={did}", did=value)
    assert target is not None
    assert re.fullmatch(r"/c\?x=[A-Za-z0-9._%-]*", target)


def test_dots_that_meet_literal_ones_are_seen() -> None:
    assert filled("https://h/.{did}/x", did=".") is None
    assert filled("https://h/a%2F{did}/x", did="..") is None
    assert filled("https://h/a%2F{did}/x", did="b") == "/a%2Fb/x"
    assert filled("https://h/v1.{did}/x", did="2") == "/v1.2/x"


def test_a_value_is_encoded_whole_and_cut() -> None:
    assert (
        filled("https://h/{did}", did="+33 6 é&b=c?#:@")
        == "/%2B33%206%20%C3%A9%26b%3Dc%3F%23%3A%40"
    )
    assert filled("https://h/{did}", did="a" * 300) == "/" + "a" * 256
    assert filled("https://h/x?a={did}", did="a\r\nX: b\x00") == "/x?a=a%20%20X%3A%20b"


def test_a_url_that_grows_too_long_leaves_the_lookup_out() -> None:
    six = "".join(f"&{name}={{did}}" for name in "abcdef")
    assert filled(f"https://h/?{six}", did="é" * 100) is not None
    assert filled(f"https://h/?{six}", did="é" * 256) is None


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://crm.example.net", "https://crm.example.net", "/"),
        ("HTTP://CRM:8080?x={did}", "http://crm:8080", "/?x=1"),
        ("http://[::1]:80/a//b/?x=%2F/{did}", "http://[::1]:80", "/a//b/?x=%2F/1"),
        ("https://h/a'(b)*;c=1/{did}.json", "https://h", "/a'(b)*;c=1/1.json"),
        ("https://127.0.0.1/{did}{did}", "https://127.0.0.1", "/11"),
    ],
)
def test_what_is_literal_stays_as_it_is_written(url: str, origin: str, target: str) -> None:
    assert compile_url(url).origin == origin
    assert filled(url, did="1") == target


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (7, "is not text"),
        ("", "is not a URL such as https://crm.example.net/"),
        ("/v1/x", "is not a URL such as https://crm.example.net/"),
        ("ftp://h/", "is not a URL such as https://crm.example.net/"),
        ("https:///x", "is not a URL such as https://crm.example.net/"),
        ("https://a..b/", "is not a URL such as https://crm.example.net/"),
        ("https://1.2.3.999/", "is not a URL such as https://crm.example.net/"),
        ("https://[::g]/", "is not a URL such as https://crm.example.net/"),
        ("https://h:0/", "is not a URL such as https://crm.example.net/"),
        ("https://h:65536/", "is not a URL such as https://crm.example.net/"),
        ("https://h:1\n/", "is not a URL such as https://crm.example.net/"),
        ("https://" + "a" * 64 + "/", "is not a URL such as https://crm.example.net/"),
        ("https://{did}/x", "scheme, host and port are literal"),
        ("https://crm{did}.example.net/x", "scheme, host and port are literal"),
        ("https://h:{did}/x", "scheme, host and port are literal"),
        ("{did}://h/x", "scheme, host and port are literal"),
        ("https://u:hush@h/x", "expected it in secret_headers, as Authorization"),
        ("https://h/x#hush", "has a fragment (#); expected %23"),
        ("https://h/x#{did}", "has a fragment (#); expected %23"),
        ("https://h/hush x", "holds ' '; expected %20"),
        ("https://h/é", "holds 'é'; expected %C3%A9"),
        ("https://h/%zz", "holds '%'; expected %25"),
        ("https://h/%{did}", "holds '%'; expected %25"),
        ("https://h/%2{did}", "holds '%'; expected %25"),
        ("https://h/{{did}}", "holds '{'; expected %7B"),
        ("https://h/a\\b", r"holds '\\'; expected %5C"),
        ("https://h/a\r\nX: y", r"holds '\r'; expected %0D"),
        ("https://h/?a?b", "second question mark; expected %3F"),
        (
            "https://h/hush/{foo}",
            "{foo} is not known; expected one of {account_code}, {caller.name}",
        ),
        ("https://h/hush/{did!r}", "{did} is not known"),
        ("https://h/hush/{did", "expected '}' before end of string"),
        ("https://h/a/../b", "has . or .. in its path"),
        ("https://h/%2e%2E/{did}", "has . or .. in its path"),
        ("https://h/a%2f../{did}", "has . or .. in its path"),
        ("https://h/.", "has . or .. in its path"),
    ],
)
def test_a_url_that_is_none_is_told_and_never_repeated(url: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        compile_url(url)
    assert "hush" not in str(caught.value)


def test_the_fields_of_a_url_are_all_found() -> None:
    assert sorted(URL.fields) == ["caller.name", "caller.name", "channel.X", "did"]


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", ("a",)),
        ("customer.tags[0].name", ("customer", "tags", 0, "name")),
        ("[0][12].a", (0, 12, "a")),
        ("a.0", ("a", "0")),
        ("First Name.@id", ("First Name", "@id")),
        ("prénom", ("prénom",)),
    ],
)
def test_a_path_is_names_and_indices(path: str, steps: tuple[str | int, ...]) -> None:
    assert compile_path(path) == steps


@pytest.mark.parametrize(
    "path",
    [
        *["", ".a", "a.", "a..b", "$.a", "a[*]", "a[-1]", "a['b']", "a[00]", "a[1", "a]", "a[0]b"],
        *["a[x]", " a", "a ", "a\nb", "a.*", "a[99999999]", "a" * 129, ".".join("a" * 300)],
        *[1.5, None],
    ],
)
def test_a_path_that_is_none_is_told_with_one_that_is(path: object) -> None:
    with pytest.raises(ValueError, match=r"such as customer.tags\[0\].name; expected names joined"):
        compile_path(path)


def found(answer: object, path: str = "a") -> object:
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return found_in(raw, {"x": compile_path(path)}).get("x")


@pytest.mark.parametrize(
    ("answer", "path", "value"),
    [
        ({"a": "Jean"}, "a", "Jean"),
        ({"a": ""}, "a", ""),
        ({"a": 42}, "a", 42),
        ({"a": -1.5}, "a", -1.5),
        ({"a": True}, "a", True),
        ({"a": {"b": "c", "d": {"e": 1}}}, "a", {"b": "c", "d": {"e": 1}}),
        ({"a": [{"b": 1}, {"b": 2}]}, "a[1].b", 2),
        ([["x", "y"]], "[0][1]", "y"),
        ({"a": {"0": "zero"}}, "a.0", "zero"),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', "a", "é"),
        ({"a": 2**53}, "a", 2**53),
    ],
)
def test_a_value_is_taken_with_its_type(answer: object, path: str, value: object) -> None:
    taken = found(answer, path)
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        ({"a": None}, "a"),
        ({"a": []}, "a"),
        ({"a": ["x"]}, "a"),
        ({"a": {}}, "a"),
        ({"a": {"b": None, "c": [1]}}, "a"),
        ({}, "a"),
        ({"a": "text"}, "a.b"),
        ({"a": "text"}, "a[0]"),
        ({"a": [1]}, "a[1]"),
        ({"a": [1]}, "a.0"),
        ({"a": {"0": 1}}, "a[0]"),
        ("text", "a"),
        ([1], "a"),
        (None, "a"),
        (b'{"a": NaN}', "a"),
        (b'{"a": -Infinity}', "a"),
        (b'{"a": 1e999}', "a"),
        (b'{"a": ' + b"9" * 50_000 + b"}", "a"),
        (b'{"a": -' + b"9" * 17 + b"}", "a"),
        ({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, "a"),
        ({"a": {str(n): "x" * 100 for n in range(60)}}, "a"),
    ],
)
def test_what_is_no_value_leaves_its_variable_out_and_no_other(answer: object, path: str) -> None:
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    assert found(raw, path) is None
    if raw.startswith(b'{"'):
        both = {"x": compile_path(path), "y": compile_path("ok")}
        assert found_in(b'{"ok": 1, ' + raw[1:], both) == {"y": 1}


def test_a_map_keeps_what_are_values_in_it() -> None:
    names = b'"": 2, "a\\u0000b": 3, "\\ud83d": 4'
    raw = b'{"a": {"n": null, "l": [1], "x": 1, %b, "m": {"n": null}}}' % names
    assert found(raw) == {"x": 1}


def test_text_comes_clean_short_and_whole() -> None:
    assert found({"a": "Jean\r\nX: y\x00\u202e"}) == "Jean  X: y"
    assert found({"a": "x" * 5000}) == "x" * 1024
    assert found(b'{"a": "\\ud83d!"}') == "?!"


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>", b'{"a": ', b'{"a": 1} x', b"\xff\xfe", b"[" * 60_000, b'{"a":' * 10_000],
)
def test_an_answer_that_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own
        found(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@examples(300)
@given(JSON)
def test_whatever_the_answer_only_plain_values_come_of_it(answer: object) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return bool(value) and all(map(plain, value.values()))
        if isinstance(value, str):
            value.encode()
            return len(value.splitlines()) <= 1
        return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))

    value = found({"a": answer})
    assert value is None or plain(value)
    assert json.dumps(value, allow_nan=False)


CALL = CallContext(
    switch=Switch.ASTERISK, did="+33612345678", caller=CallerId("+33700000001", "Jean")
)
ROUTE = Route(
    name="support",
    agent_id=AGENT,
    dynamic_variables={"first_name": "client", "vip": False},
    lookup=LookupTemplate(
        url=compile_url("https://h/c/{caller.number}?x={channel.X}"),
        headers={"X-Tenant": "acme"},
        secret_headers=("Authorization",),
        variables={"first_name": ("name",), "tier": ("tier",)},
    ),
)


def requested(call: CallContext = CALL, **channel: str) -> StagingRequest:
    return StagingRequest.build(call, ROUTE, "default", CallerPolicy(), channel)


def test_a_request_carries_the_lookup_of_its_call() -> None:
    assert ROUTE.channel_variables() == ("X",)
    lookup = requested(X="a&b").lookup
    assert lookup is not None
    assert lookup.url == "https://h/c/%2B33700000001?x=a%26b"
    assert (lookup.route, lookup.timeout) == ("support", 0.4)
    assert (lookup.headers, lookup.secret_headers) == ({"X-Tenant": "acme"}, ("Authorization",))
    assert dataclasses.replace(ROUTE, lookup=None).channel_variables() == ()


def test_what_is_found_beats_the_route_and_yields_to_the_dialplan() -> None:
    told = dataclasses.replace(CALL, dynamic_variables={"first_name": "Jeanne"})
    request = requested(told)
    assert request.lookup is not None
    assert [*request.lookup.variables] == ["tier"]
    done = request.with_found({"tier": "gold"})
    assert done.lookup is None
    expected = {"first_name": "Jeanne", "vip": False, "tier": "gold"}
    assert done.body()["dynamic_variables_values"] == expected
    found = requested().with_found({"first_name": "Jean"})
    assert found.dynamic_variables == {"first_name": "Jean", "vip": False}
    assert requested().with_found({}).dynamic_variables == {"first_name": "client", "vip": False}


def test_a_dialplan_that_says_everything_itself_needs_no_lookup() -> None:
    told = {"first_name": "Jeanne", "tier": "gold"}
    assert requested(dataclasses.replace(CALL, dynamic_variables=told)).lookup is None
