"""The AGI environment: as real Asterisks 16 and 22 wrote it, and as callers write into it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rounded_pbx.call import CallContext, CallerId, Direction, Wait
from rounded_pbx.errors import ProtocolError
from rounded_pbx.protocol import agi
from rounded_pbx.protocol.agi import Environment, ReplyParser
from rounded_pbx.protocol.dialplan import Inputs, is_withheld

CAPTURES = Path(__file__).parent / "captures"
REFUSED = {
    "env-fromuser-crlf.bin": "a line is no agi_key: value",
    "env-fromuser-lf.bin": "a line is no agi_key: value",
    "env-ruri-lf.bin": "a line is no agi_key: value",
    "agi-injcidagi.env.bin": "agi_arg_1 is out of its place",
    "agi-unquote.env.bin": "agi_arg_1 is out of its place",
}
BLOCKS = {f"{p.parent.name}/{p.name}": p.read_bytes() for p in sorted(CAPTURES.glob("*/*.bin"))}
ACCEPTED = [name for name in BLOCKS if name.partition("/")[2] not in REFUSED]
VERSIONS = ["asterisk-16", "asterisk-22"]


def environment(*more: str, script: str = "stage?did=+33612345678", caller: str = "1") -> bytes:
    """A block as Asterisk 22 writes it, the caller's number as it came, then its arguments."""
    block = BLOCKS["asterisk-22/agi-black.env.bin"].decode()
    block = block.replace("black?agent_id=ag_1", script).replace("+33912345678", caller)
    return (block[:-1] + "".join(f"{line}\n" for line in more) + "\n").encode()


def called(block: bytes) -> CallContext:
    parsed = Environment.parse(block)
    return agi.to_call(parsed, agi.arguments(parsed))


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_real_environment_is_read_as_it_was_written(name: str) -> None:
    values = Environment.parse(BLOCKS[name]).values
    written = "".join(f"{key}: {value}\n" for key, value in values.items()) + "\n"
    latin1 = name == "asterisk-16/env-name-latin1.bin"
    assert written.encode("latin-1" if latin1 else "utf-8") == BLOCKS[name]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n\n"])
def test_the_blank_line_at_the_end_says_nothing(end: bytes) -> None:
    block = BLOCKS["asterisk-22/agi-black.env.bin"]
    assert Environment.parse(block.rstrip(b"\n") + end) == Environment.parse(block)


@pytest.mark.parametrize("more", [b"HANGUP\n", b"200 result=1\n", b"agi_x: y\n", b"\x00"])
def test_what_follows_the_blank_line_is_not_taken_for_environment(more: bytes) -> None:
    with pytest.raises(ProtocolError, match="a line is no agi_key: value"):
        Environment.parse(BLOCKS["asterisk-22/agi-black.env.bin"] + more)


@pytest.mark.parametrize(
    "line", ["agi_x y: z", "agi_X: z", "agi_: z", " agi_x: z", "agi_x", f"agi_{'x' * 41}: z", ": z"]
)
def test_a_line_that_is_no_key_and_value_is_refused(line: str) -> None:
    assert Environment.parse(environment("agi_x: z")).values["agi_x"] == "z"
    with pytest.raises(ProtocolError, match="a line is no agi_key: value"):
        Environment.parse(environment(line))


@pytest.mark.parametrize("name", ["agi-black.env.bin", "env-name-utf8.bin"])
def test_an_environment_cut_at_any_byte_is_refused_or_says_nothing_else(name: str) -> None:
    whole = Environment.parse(BLOCKS[f"asterisk-22/{name}"]).values
    for cut in range(len(BLOCKS[f"asterisk-22/{name}"])):
        try:
            part = Environment.parse(BLOCKS[f"asterisk-22/{name}"][:cut]).values
        except ProtocolError:
            continue
        assert list(part) == list(whole)[: len(part)]
        assert all(whole[key].startswith(value) for key, value in part.items())


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(ACCEPTED), st.integers(0, 600))
def test_no_bytes_at_all_raise_anything_but_a_protocol_error(
    junk: bytes, name: str, where: int
) -> None:
    for block in (junk, BLOCKS[name][:where] + junk + BLOCKS[name][where:]):
        try:
            call = called(block)
        except ProtocolError:
            continue
        assert isinstance(call, CallContext)


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - set(ACCEPTED)))
def test_an_environment_that_a_caller_has_written_into_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=REFUSED[name.partition("/")[2]]):
        Environment.parse(BLOCKS[name])


def test_a_script_that_a_caller_repeats_is_refused() -> None:
    text = (CAPTURES / "asterisk-22/env-injection-via-sip-from-user.txt").read_text()
    block = b"".join(ast.literal_eval(line) for line in re.findall(r" A> (.*)", text))
    with pytest.raises(ProtocolError, match="agi_network_script stands twice"):
        Environment.parse(block.partition(b"\n\n")[0])


@pytest.mark.parametrize(("version", "longest"), [("asterisk-16", 2047), ("asterisk-22", 8191)])
def test_each_version_gets_commands_as_long_as_it_reads(version: str, longest: int) -> None:
    for name in ACCEPTED:
        if name.startswith(version):
            assert Environment.parse(BLOCKS[name]).longest_command == longest


@pytest.mark.parametrize("version", ["22.6.0", "22.10.1~dfsg", "23.0.0", "100.1"])
def test_a_version_that_reads_long_commands_gets_them(version: str) -> None:
    assert Environment({"agi_version": version}).longest_command == 8191


@pytest.mark.parametrize(
    "version",
    ["", "20.2.1", "1.8", "GIT-22", "certified/18.9", "x", "21.10.2", "22.0.0", "22.5.2", "22"],
)
def test_a_version_in_doubt_gets_short_commands(version: str) -> None:
    assert Environment({"agi_version": version}).longest_command == 2047


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "caller"),
    [
        ("anonymous", CallerId("+33700000000", "Real", withheld=True)),
        ("nouser", CallerId("", "", withheld=True)),
        ("noname", CallerId("+339", "")),
        ("name-utf8", CallerId("+339", "René €😀 名")),
        ("name-esc1", CallerId("+339", "a\x1b[31mred\x07")),
        ("name-nul", CallerId("+3", "ab")),
        ("name-pct", CallerId("+339", "abc%0Aagi_arg_9: evil")),
        ("name-quotes", CallerId("+339", r"A \"q\" \\ back ${EXTEN} $[1+1]")),
        ("longname", CallerId("+339", "N" * 79)),
    ],
)
def test_a_caller_is_who_asterisk_says(version: str, name: str, caller: CallerId) -> None:
    parsed = Environment.parse(BLOCKS[f"{version}/env-{name}.bin"])
    call = agi.to_call(parsed, Inputs())
    assert call.caller == caller
    assert (call.context, call.channel[:6]) == ("from-trunk", "PJSIP/")
    assert re.fullmatch(r"[0-9]+\.[0-9]+", call.unique_id)
    assert call.did == ""  # inside a Gosub the extension says nothing, so only did= counts


@pytest.mark.parametrize(
    ("version", "name"), [("asterisk-16", "René Lévy"), ("asterisk-22", "Ren\ufffd L\ufffdvy")]
)
def test_a_latin_1_name_survives_as_far_as_asterisk_lets_it(version: str, name: str) -> None:
    parsed = Environment.parse(BLOCKS[f"{version}/env-name-latin1.bin"])
    assert parsed["agi_calleridname"] == name


def test_who_diverted_a_call_is_told() -> None:
    parsed = Environment.parse(BLOCKS["asterisk-22/env-diversion.bin"])
    assert agi.to_call(parsed, Inputs()).rdnis == "+33644444444"


def test_arguments_in_the_query_are_decoded_once() -> None:
    call = called(BLOCKS["asterisk-22/agi-queryamp.env.bin"])
    assert (call.did, call.caller) == ("queryamp", CallerId("+33912345678", "Jean, Éric & co"))
    call = called(environment(script="stage?did=%252B33&name=a%2Bb+c%E9&from=%zz"))
    assert (call.did, call.caller) == ("%2B33", CallerId("%zz", "a+b+cé"))


def test_a_comma_in_a_callers_name_does_not_add_an_argument_to_a_query() -> None:
    parsed = Environment.parse(BLOCKS["asterisk-22/agi-commaq.env.bin"])
    with pytest.raises(ProtocolError, match="in the query and after a comma; use one"):
        agi.arguments(parsed)


GIVEN = [
    *["did=+33612345678", "from=+33700000001", "name=Jean", "context=ctx", "route=vip"],
    *["direction=outbound", "wait=none", "pres=prohib", "var.a=1", "header.X-A=b", "odd=1"],
]


@pytest.mark.parametrize("form", ["query", "comma"])
def test_both_forms_of_the_arguments_mean_the_same(form: str) -> None:
    if form == "query":
        block = environment(script="stage?" + "&".join(GIVEN))
    else:
        listed = [f"agi_arg_{i}: {argument}" for i, argument in enumerate(GIVEN, 1)]
        block = environment(*listed, script="stage")
    parsed = Environment.parse(block)
    arguments = agi.arguments(parsed)
    call = agi.to_call(parsed, arguments)
    assert parsed.path == "stage"
    assert arguments.ignored == ("odd=1",)
    assert call.caller == CallerId("+33700000001", "Jean", withheld=True)
    assert (call.did, call.context, call.route) == ("+33612345678", "ctx", "vip")
    assert (call.direction, call.wait) == (Direction.OUTBOUND, Wait.NONE)
    assert (call.dynamic_variables, call.custom_headers) == ({"a": "1"}, {"X-A": "b"})


def decided(block: bytes) -> tuple[str, str, str]:
    call = called(block)
    return call.account_code, call.domain, call.context


def set_by_asterisk(block: bytes, **values: str) -> bytes:
    """The block with these values of Asterisk's own."""
    for key, value in values.items():
        block = re.sub(rb"(?m)^agi_%s: .*$" % key.encode(), f"agi_{key}: {value}".encode(), block)
    return block


def test_what_chooses_the_account_comes_from_the_arguments_before_the_environment() -> None:
    own = {"accountcode": "4711", "context": "from-acme"}
    block = set_by_asterisk(environment(), **own)
    assert decided(block) == ("4711", "", "from-acme")
    query = "stage?did=1&accountcode=a%26b&domain=Acme.example&context=c"
    assert decided(set_by_asterisk(environment(script=query), **own)) == (
        "a&b",
        "Acme.example",
        "c",
    )
    empty = set_by_asterisk(environment(script="stage?did=1&accountcode=&domain=&context="), **own)
    assert decided(empty) == ("", "", "")


def test_a_caller_s_name_number_and_did_are_no_account_code_and_no_domain() -> None:
    caller = "4711@acme.example?accountcode=4711&domain=acme.example"
    block = set_by_asterisk(environment(caller=caller), calleridname=caller, dnid=caller)
    assert decided(block)[:2] == ("", "")


def test_an_argument_that_is_present_but_empty_is_not_missing() -> None:
    call = called(environment(script="stage?did=&from=&name=&var.a=&direction=up&wait=&&"))
    assert (call.did, call.caller) == ("", CallerId("", ""))
    assert (call.dynamic_variables, call.direction, call.wait) == ({"a": ""}, None, None)


@pytest.mark.parametrize(
    "script",
    [
        *["stage?did=1&did=2", "stage?var.a=1&var.a=2", "stage?x=1&x="],
        *["stage?accountcode=1&accountcode=2", "stage?domain=a&domain=a"],
    ],
)
def test_an_argument_that_stands_twice_is_refused(script: str) -> None:
    with pytest.raises(ProtocolError, match="stands twice"):
        called(environment(script=script))


@pytest.mark.parametrize("name", ["X Y", "X:Y", "X\rY", "X\x00Y", "é", "X" * 2000])
def test_no_argument_names_a_header_that_the_configuration_would_refuse(name: str) -> None:
    parsed = Environment.parse(environment(f"agi_arg_1: header.{name}=1", script="stage"))
    try:
        headers = agi.arguments(parsed).headers
    except ProtocolError:
        return
    assert headers == {}


Lines = st.lists(
    st.sampled_from(["", "agi_threadid: 1", "agi_arg_1: did=+1", "agi_arg_9: route=evil", "200"])
    | st.sampled_from(["agi_arg_9: var.a=b", "agi_network_script: stage?route=evil", "HANGUP"])
    | st.text(max_size=20),
    max_size=5,
)


@pytest.mark.parametrize("form", ["query", "comma"])
@settings(deadline=None)
@given(Lines)
@example(["1", "agi_arg_9: route=evil"])
def test_a_callers_lines_decide_nothing(form: str, forged: list[str]) -> None:
    caller = "\n".join(forged)
    if form == "query":
        raw = environment(caller=caller)
    else:
        raw = environment("agi_arg_1: did=+33612345678", script="stage", caller=caller)
    block, _, rest = raw.partition(b"\n\n")
    try:
        call = called(block)
    except ProtocolError:
        return
    if rest and form == "comma":  # what is left ends the session before anything is decided
        return
    decided = (call.did, call.route, call.dynamic_variables, call.custom_headers)
    assert decided == ("+33612345678", None, {}, {})


def test_a_caller_cannot_hide_the_rest_of_the_environment_as_a_usage_text() -> None:
    raw = environment(caller="1\nagi_accountcode: vip\nagi_threadid: 1\n\n520-")
    block, _, rest = raw.partition(b"\n\n")

    def read() -> None:
        Environment.parse(block)
        parser = ReplyParser()
        for line in rest.split(b"\n"):
            parser.receive(line)

    with pytest.raises(ProtocolError):
        read()


@pytest.mark.parametrize(
    ("presentation", "withheld"),
    [
        *[("allowed_not_screened", False), ("allowed", False), ("0", False), ("3", False)],
        *[("prohib_not_screened", True), ("prohib", True), ("unavailable", True), ("32", True)],
        *[("35", True), ("67", True), ("64", True), ("", False), ("nonsense", False)],
    ],
)
def test_a_presentation_says_whether_the_caller_is_withheld(
    presentation: str, withheld: bool
) -> None:
    assert is_withheld(presentation) is withheld
