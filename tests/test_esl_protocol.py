"""The event socket's bytes: as FreeSWITCH 1.11.2 wrote them, and as callers write into them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rounded_pbx.call import CallContext, CallerId, Direction, Switch, Wait
from rounded_pbx.errors import ProtocolError
from rounded_pbx.protocol import esl
from rounded_pbx.protocol.dialplan import Inputs
from rounded_pbx.protocol.esl import Channel, Message, Parser

from .helpers import examples

CAPTURES = Path(__file__).parent / "captures" / "freeswitch-1.11"
_PIECE = re.compile(rb"\n##### \[\+[0-9.]+s conn 1\] FS -> server, ([0-9]+) bytes #####\n")
# What stands in them; in 74 the caller's name ends the session: its second answer is not encoded.
MESSAGES = {
    "01_async_full_session": 20,
    "02_sync_full": 13,
    "03_async_nofull": 13,
    "04_sync_nofull": 13,
    "28_queued_set_then_getvar_async": 6,
    "29_http_garbage_first": 0,
    "30_cancel_midsession_nolinger_sync": 3,
    "31_cancel_midsession_linger_sync": 12,
    "33_cancel_midsession_noevents_nolinger_async": 2,
    "33_cancel_midsession_noevents_nolinger_sync": 2,
    "74_connect_hostile": 1,
    "98_did_pipelined": 4,
}
OK = b"Content-Type: command/reply\nReply-Text: +OK\n\n"
UUID = "3bd7a881-a94d-4c93-9d0f-5abe0d39021c"


def pieces(capture: str) -> list[bytes]:
    """What FreeSWITCH wrote, in the pieces in which it came."""
    text = (CAPTURES / f"{capture}.txt").read_bytes()
    return [text[found.end() :][: int(found[1])] for found in _PIECE.finditer(text)]


def received(parts: Iterable[bytes]) -> tuple[list[Message], str]:
    """The messages up to the first error, and the error."""
    parser, messages = Parser(), []
    try:
        for part in parts:
            for message in parser.receive(part):
                messages.append(message)  # noqa: PERF402 - what came before an error counts
    except ProtocolError as error:
        return messages, str(error)
    return messages, ""


def cut(data: bytes, *places: int) -> list[bytes]:
    """``data`` in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def written(message: Message) -> bytes:
    """A message as FreeSWITCH writes it."""
    lines = [name.encode("latin-1") + b": " + raw + b"\n" for name, raw in message.headers.items()]
    return b"".join(lines) + b"\n" + message.body


def dumped(headers: Mapping[str, bytes]) -> Message:
    """An answer to ``uuid_dump``: its body has what is headers in the answer to ``connect``."""
    own = ("Content-Type", "Reply-Text", "Socket-Mode", "Control")
    body = written(Message({name: raw for name, raw in headers.items() if name not in own}))
    length = str(len(body)).encode()
    return Message({"Content-Type": b"api/response", "Content-Length": length}, body)


def described(
    changes: Mapping[str, str | bytes | None] | None = None,
    capture: str = "01_async_full_session",
) -> bytes:
    """The answer to ``uuid_dump``; ``changes`` are set, or left out where None.

    Text is encoded as FreeSWITCH does it, bytes stand as they are.
    """
    [message], _ = received(pieces(capture)[:1])
    headers: dict[str, str | bytes | None] = {**message.headers, **(changes or {})}
    raw = {
        name: quote(value, safe="/,").encode() if isinstance(value, str) else value
        for name, value in headers.items()
        if value is not None
    }
    return written(dumped(raw))


def channel(changes: Mapping[str, str | bytes | None] | None = None) -> Channel:
    [message] = Parser().receive(described(changes))
    return Channel.parse(message)


def given_inputs(**values: str) -> tuple[Channel, Inputs]:
    found = channel({f"variable_rounded_in_{name}": value for name, value in values.items()})
    return found, esl.inputs(found)


def called(changes: Mapping[str, str | bytes | None]) -> CallContext:
    found = channel(changes)
    return esl.to_call(found, esl.inputs(found))


# The parser.


def test_every_capture_is_here() -> None:
    assert {path.stem for path in CAPTURES.glob("*.txt")} == set(MESSAGES)


@pytest.mark.parametrize("capture", MESSAGES)
def test_a_real_session_is_read_as_it_was_written(capture: str) -> None:
    parts = pieces(capture)
    messages, error = received(parts)
    assert len(messages) == MESSAGES[capture]
    whole = b"".join(parts)
    if capture == "74_connect_hostile":
        assert error == "ESL: the header 'Reply-Text' stands twice"
        assert whole.startswith(b"".join(map(written, messages)))
    else:
        assert error == ""
        assert b"".join(map(written, messages)) == whole


@pytest.mark.parametrize("capture", MESSAGES)
def test_the_pieces_in_which_it_comes_do_not_matter(capture: str) -> None:
    parts = pieces(capture)
    whole, expected = b"".join(parts), received(parts)
    assert received([whole]) == expected
    assert received(bytes([byte]) for byte in whole) == expected
    random = Random(capture)
    for _ in range(30):
        places = [random.randrange(len(whole) + 1) for _ in range(random.randrange(1, 40))]
        assert received(cut(whole, *places)) == expected


@examples(300)
@given(
    st.lists(
        st.sampled_from([b"\n", b"\n\n", b": ", b":", b"Content-Length: ", b"Content-Type: ", OK])
        | st.sampled_from([b"0", b"7", b"262145", b"Reply-Text: ", b"reply-text: ", b"\x00", b"\r"])
        | st.binary(max_size=20),
        max_size=20,
    ),
    st.lists(st.integers(0, 400), max_size=10),
)
def test_no_bytes_raise_anything_but_a_protocol_error(
    parts: list[bytes], places: list[int]
) -> None:
    whole = b"".join(parts)
    expected = received([whole])
    assert received(cut(whole, *places)) == expected
    assert received(bytes([byte]) for byte in whole) == expected
    for message in expected[0]:
        assert message.ok is message.reply.startswith("+OK")
        try:
            found = Channel.parse(message)
            esl.to_call(found, esl.inputs(found))
        except ProtocolError:
            pass


@examples(200)
@given(st.binary(max_size=60), st.integers(0, 6300), st.booleans())
def test_a_damaged_channel_raises_nothing_but_a_protocol_error(
    junk: bytes, where: int, instead: bool
) -> None:
    block = described()
    data = block[:where] + junk + block[where + len(junk) * instead :]
    for message in received([data])[0]:
        try:
            found = Channel.parse(message)
            esl.to_call(found, esl.inputs(found))
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (b"\n\n", "no name: value"),
        (b"\n" + OK, "no name: value"),
        (b"nonsense\n\n", "no name: value"),
        (b": x\n\n", "no name: value"),
        (b"A\x01: x\n\n", "no name: value"),
        (b"\rA: x\n\n", "no name: value"),
        (b"N" * 1025 + b": x\n\n", "no name: value"),
        (b"HTTP/1.1 400 Bad Request\nContent-Length: 3\n\n", "no name: value"),
        (b"A: 1\nB: 2\nA: 1\n\n", "'A' stands twice"),
        (b"Reply-Text: +OK\nREPLY-text: -ERR\n\n", "'REPLY-text' stands twice"),
        (b"\xc0: 1\n\xe0: 1\n\n", "stands twice"),  # one letter, in Latin-1
        (b"A\x9b: 1\na\x9b: 1\n\n", r"'a\x9b' stands twice"),  # no terminal gets a CSI of it
    ],
)
def test_a_block_that_is_none_is_refused(block: bytes, error: str) -> None:
    messages, said = received([block])
    assert messages == []
    assert error in said


def test_what_came_before_an_error_is_read() -> None:
    assert len(received([OK + OK + b"nonsense\n\n" + OK])[0]) == 2


@pytest.mark.parametrize("length", [1, 2])
def test_a_name_may_stand_close_to_its_value(length: int) -> None:
    separator = b": "[:length]
    [message], _ = received([b"A" + separator + b"b: c\xff\n\n"])
    assert message.headers == {"A": b"b: c\xff"}


@pytest.mark.parametrize("more", [0, 1])
def test_a_block_has_a_longest(more: int) -> None:
    name = b"A: "
    block = name + b"x" * (esl.LONGEST_BLOCK - len(name) + more) + b"\n\n"
    whole = received([block])
    assert whole == received([block[:-2], b"\n", b"\n"]) == received([block[:-1], b"\n"])
    assert (len(whole[0]), whole[1]) == (
        (0, "ESL: a header block is too long") if more else (1, "")
    )


@pytest.mark.parametrize("line", [b"x", b"A: b\n"])
def test_a_block_without_an_end_is_not_kept(line: bytes) -> None:
    part = (line * 65536)[:65536]
    messages, error = received([part] * 4 + [b"A:"])
    assert (messages, error) == ([], "ESL: a header block is too long")


@pytest.mark.parametrize("length", [0, 1, 67, esl.LONGEST_BODY])
def test_a_body_is_as_long_as_it_says(length: int) -> None:
    head = b"Content-Type: api/response\nContent-Length: %d\n\n" % length
    body = (b"\n\nA: b" * 44000)[:length]
    first, second = received([head + body + OK])[0]
    assert (first.body, second) == (body, received([OK])[0][0])
    if length:
        assert received([head + body[:-1]]) == ([], "")


@pytest.mark.parametrize(
    "length",
    [
        *[b"-1", b"+1", b"1e3", b"0x10", b"1.0", b"", b"1 2", b"1_0", b"4,5", b"NaN", b"\x004"],
        *[b"262145", b"999999999", b"9999999999", b"9" * 5000],
        *["٤".encode(), "\uff14".encode(), b"\xb2"],
    ],
)
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    messages, error = received([b"Content-Length: " + length + b"\n\n" + b"x" * 100])
    assert messages == []
    assert "no Content-Length up to 262144" in error
    assert len(error) < 150


def test_replies_say_whether_a_command_has_run() -> None:
    session = received(pieces("01_async_full_session"))[0]
    api = [message for message in session if message.content_type == "api/response"]
    assert [message.reply for message in api] == ["+OK", "+OK", "RND-0001", "_undef_"]
    assert [message.ok for message in api] == [True, True, False, False]
    refused = received(pieces("03_async_nofull"))[0]
    assert "-ERR command not found" in [message.reply for message in refused if not message.ok]
    gone = received(pieces("31_cancel_midsession_linger_sync"))[0]
    assert "-ERR No such channel!" in [message.reply for message in gone if not message.ok]
    last = session[-1]
    assert (last.content_type, last.reply) == ("text/disconnect-notice", "")
    assert last.body.startswith(b"Disconnected, goodbye.\n")


def test_only_its_body_is_the_reply_of_an_api() -> None:
    head = b"Content-Type: api/response\nReply-Text: +OK\nContent-Length: 4\n\n"
    assert not received([head + b"-ERR"])[0][0].ok
    head = b"Content-Type: command/reply\nReply-Text: -ERR\nContent-Length: 4\n\n"
    assert not received([head + b"+OK\n"])[0][0].ok


# The channel.


@pytest.mark.parametrize("capture", ["01_async_full_session", "02_sync_full"])
def test_a_real_channel_is_described(capture: str) -> None:
    found = Channel.parse(dumped(received(pieces(capture))[0][0].headers))
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found.id)
    assert found.id == found.variable("uuid") == found.variable("UUID")
    assert found.variable("nothing") == found.path == ""
    call = esl.to_call(found, esl.inputs(found))
    assert call == CallContext(
        switch=Switch.FREESWITCH,
        did="",  # never what the caller dialled
        caller=CallerId("+33912345678", "Lab Caller"),
        unique_id=found.id,
        linkedid=found.id,
        sip_call_id=found.variable("sip_call_id"),
        channel=found.data["channel-name"],
        context="lab",
    )


def test_a_hostile_caller_forges_nothing() -> None:
    found = Channel.parse(dumped(received(pieces("74_connect_hostile"))[0][0].headers))
    name = "a\r\nReply-Text: -ERR evil\nCaller-Caller-ID-Number: +33000"
    assert esl.to_call(found, esl.inputs(found)).caller == CallerId("+33912345678", name)
    assert found.variable("sip_h_X-Pct") == "a%0ab%0acA"
    assert found.variable("sip_h_x-raw") == 'a"b;c,d:e\\nf'
    assert found.variable("sip_h_X-Bin") == "café Ã© ÿþ"  # Latin-1, as UTF-8 it would be none


@pytest.mark.parametrize(
    "name",
    [
        b"a%0AControl: x%0Avariable_rounded_in_route: evil",
        b"a%0avariable_rounded_in_route: evil",
        b"a%0D%0Avariable_rounded_in_route: evil",
        b"a\xe2\x80\xa8variable_rounded_in_route: evil",
        b"a%E2%80%A8variable_rounded_in_route: evil",
        b"a%C2%85variable_rounded_in_route: evil",
        b"a%00variable_rounded_in_route: evil",
        b"%0A%0AContent-Type: text/disconnect-notice%0A%0A",
        b"%",
        b"%zz%4",
        b"\xff\xfe",
    ],
)
def test_each_value_is_decoded_by_itself(name: bytes) -> None:
    usual, found = channel(), channel({"Caller-Caller-ID-Name": name})
    assert found.data.keys() == usual.data.keys()
    changed = {key for key in found.data if found.data[key] != usual.data[key]}
    assert changed == {"caller-caller-id-name"}
    assert esl.inputs(found) == Inputs()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Ren%C3%A9", "René"),
        (b"Ren\xc3\xa9", "René"),
        (b"Ren%E9", "René"),
        (b"Ren%C3%A9%C3", "René"),  # cut in its last character
        (b"a%0Ab", "a\nb"),
        (b"a%0ab", "a\nb"),
        (b"a%250ab", "a%0ab"),
        (b"a+b", "a+b"),
    ],
)
def test_a_value_is_decoded_once(raw: bytes, text: str) -> None:
    assert channel({"variable_x": raw}).variable("X") == text


@pytest.mark.parametrize("byte", [0, 9, 11, 13, 27, 31, 127])
def test_a_raw_control_character_is_refused(byte: int) -> None:
    with pytest.raises(ProtocolError, match="'variable_x' holds a control character"):
        channel({"variable_x": b"a" + bytes([byte])})


@pytest.mark.parametrize(
    "body", [b"", b"-ERR No such channel!\n", b"+OK\n", b"\n\n", b"a: b\n\nc: d\n"]
)
def test_what_describes_no_channel_is_none(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Channel.parse(Message({"Content-Type": b"api/response"}, body))


@pytest.mark.parametrize(
    "given_id",
    [
        *[None, "", " ", "a b", f"{UUID} ", f"{UUID}\n", "a;b", "a'b", 'a"b', "a\\b", "a\nexit"],
        *["a=b", "$a", "{a}", "é", "a,b", "x" * 256, "a\x00", "<a@b>"],
    ],
)
def test_an_id_that_no_command_can_name_is_refused(given_id: str | None) -> None:
    with pytest.raises(ProtocolError, match="no id that a command can name"):
        channel({"Unique-ID": given_id})
    if given_id is not None:
        with pytest.raises(ProtocolError, match="no id of a channel"):
            esl.set_variables(given_id, [("a", "b")])


@pytest.mark.parametrize("raw", [b"27769%40lab", b"abc%41", b"a%2Bb"])
def test_an_id_with_an_escape_could_be_that_of_another_call(raw: bytes) -> None:
    """FreeSWITCH writes an @ as %40, and so it writes a caller's own %40."""
    with pytest.raises(ProtocolError, match="no id"):
        channel({"Unique-ID": raw})


@pytest.mark.parametrize("given_id", [UUID, "27769-647216010", "a.b_c~5", "x" * 255])
def test_an_id_may_be_a_call_id(given_id: str) -> None:
    assert channel({"Unique-ID": given_id}).id == given_id
    assert f" {given_id} ".encode() in esl.set_variables(given_id, [("a", "b")])


@pytest.mark.parametrize(
    ("path", "read"), [("stage", "stage"), ("/stage/", "stage"), ("a/b", "a/b"), (None, "")]
)
def test_the_path_stands_after_the_port(path: str | None, read: str) -> None:
    assert channel({"variable_socket_path": path}).path == read


# The dialplan's inputs.


def test_all_inputs_are_read() -> None:
    found, inputs = given_inputs(
        did="+33612345678",
        route="vip",
        context="sales",
        pres="prohib",
        direction="outbound",
        wait="none",
        var_First_Name="Zoé;+",
        var_a="",
        header_X__1="b",
        odd="1",
        did2="2",
        var_="3",
        header_é="4",
        **{"from": "+33700000001", "name": "Jean", "header_X-Tier": "gold"},
    )
    assert set(inputs.ignored) == {"odd=1", "did2=2", "var_=3", "header_é=4"}
    call = esl.to_call(found, inputs)
    assert call.caller == CallerId("+33700000001", "Jean", withheld=True)
    assert (call.did, call.context, call.route) == ("+33612345678", "sales", "vip")
    assert (call.direction, call.wait) == (Direction.OUTBOUND, Wait.NONE)
    assert call.dynamic_variables == {"First_Name": "Zoé;+", "a": ""}
    assert call.custom_headers == {"X-Tier": "gold", "X__1": "b"}


def test_an_input_may_have_a_name_in_utf_8() -> None:
    found = channel({"variable_rounded_in_var_prénom": "x"})
    assert esl.inputs(found).variables == {"prénom": "x"}


def test_an_input_that_is_present_but_empty_is_not_missing() -> None:
    empty = dict.fromkeys(["did", "from", "name", "context", "route", "var_a", "pres"], "")
    found, inputs = given_inputs(**empty, direction="", wait="up")
    call = esl.to_call(found, inputs)
    assert (call.caller, call.context, call.route) == (CallerId("", ""), "", "")
    assert (call.direction, call.wait, call.dynamic_variables) == (None, None, {"a": ""})
    assert set(inputs.ignored) == {"direction=", "wait=up"}


def test_the_names_of_inputs_are_ours_whatever_the_case_of_what_is_before_them() -> None:
    found = channel({"VARIABLE_Rounded_In_did": "+33612345678", "variable_rounded_in_DID2": "x"})
    assert esl.to_call(found, esl.inputs(found)).did == "+33612345678"
    assert esl.inputs(found).ignored == ("DID2=x",)


@pytest.mark.parametrize("name", ["variable_x_rounded_in_did", "rounded_in_did", "Caller-DID"])
def test_nothing_else_is_an_input(name: str) -> None:
    assert called({name: "+33699999999"}).did == ""


def test_what_was_dialled_decides_nothing() -> None:
    dialled = {"Caller-Destination-Number": "+33699999999", "variable_sip_req_user": "+33699999999"}
    assert called(dialled).did == ""


FORGED = "evil.example"


@pytest.mark.parametrize(
    "name",
    [
        *["variable_sip_req_host", "variable_sip_to_host", "variable_sip_from_host"],
        *[
            "variable_sip_h_domain_name",
            "variable_sip_h_accountcode",
            "variable_sip_h_X-accountcode",
        ],
        *["variable_sip_h_rounded_in_domain", "variable_sip_h_rounded_in_accountcode"],
        *["variable_sip_h_variable_domain_name", "variable_sip_rh_accountcode"],
        *["variable_sip_to_params", "variable_sip_req_params", "variable_sip_invite_domain"],
        *["variable_dialed_domain", "variable_sip_auth_realm", "accountcode", "domain_name"],
        *["Caller-Domain", "Caller-Accountcode", "Caller-Destination-Number", "Caller-Username"],
        *["Caller-Caller-ID-Name", "Caller-Caller-ID-Number", "Caller-RDNIS", "Caller-ANI"],
    ],
)
def test_nothing_that_a_caller_writes_chooses_the_account(name: str) -> None:
    usual, forged = called({}), called({name: FORGED})
    for call in (usual, forged):
        assert (call.account_code, call.domain, call.context) == ("", "", "lab")


def test_what_chooses_the_account_comes_from_the_inputs_before_the_channel() -> None:
    own = {"variable_accountcode": "4711", "variable_domain_name": "Acme.example"}
    call = called(own)
    assert (call.account_code, call.domain, call.context) == ("4711", "Acme.example", "lab")
    inputs = {"accountcode": "1", "domain": "b.example", "context": "c"}
    call = called({**own, **{f"variable_rounded_in_{key}": inputs[key] for key in inputs}})
    assert (call.account_code, call.domain, call.context) == ("1", "b.example", "c")
    call = called({**own, **{f"variable_rounded_in_{key}": "" for key in inputs}})
    assert (call.account_code, call.domain, call.context) == ("", "", "")


DECIDING = ["did", "route", "accountcode", "domain", "context", "pres", "direction", "wait"]


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.parametrize(
    "raw", [b"a%0Ab", b"inbound%0A", b"%0032", b"32%0D", b"x%E2%80%A8y", b"%C2%85"]
)
def test_an_input_that_decides_holds_no_control_character(name: str, raw: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"rounded_in_{name} holds a control character"):
        esl.inputs(channel({f"variable_rounded_in_{name}": raw}))


def test_a_long_input_holds_no_control_character() -> None:
    assert esl.inputs(channel({"variable_rounded_in_did": "9" * 2000})).values["did"] == "9" * 2000


def test_a_callers_control_characters_in_a_text_stop_nothing() -> None:
    raw = {
        f"variable_rounded_in_{name}": b"a%0Ab" for name in ("from", "name", "var_x", "header_X")
    }
    call = called({**raw, "variable_rounded_in_did": "1"})
    assert (call.caller, call.did) == (CallerId("a\nb", "a\nb"), "1")


def test_an_input_that_stands_twice_is_refused() -> None:
    with pytest.raises(ProtocolError, match="stands twice"):
        channel({"variable_rounded_in_did": "1", "variable_ROUNDED_in_did": "2"})
    # Within one session FreeSWITCH's variables differ by more than their case; ours may not.
    for name in ("did", "accountcode", "domain"):
        with pytest.raises(ProtocolError, match=f"'{name}' stands twice"):
            esl.inputs(Channel({}, ((name, "1"), (name, "2"))))


@pytest.mark.parametrize(
    ("changes", "caller"),
    [
        ({}, CallerId("+33912345678", "Lab Caller")),
        (
            {"Caller-Privacy-Hide-Number": "true", "Caller-Privacy-Hide-Name": "true"},
            CallerId("+33912345678", "", withheld=True),
        ),
        ({"Caller-Privacy-Hide-Name": "true"}, CallerId("+33912345678", "")),
        (
            {"Caller-Privacy-Hide-Number": "true"},
            CallerId("+33912345678", "Lab Caller", withheld=True),
        ),
        (
            {"Caller-Privacy-Hide-Name": "true", "variable_rounded_in_name": "Ann"},
            CallerId("+33912345678", "Ann"),
        ),
        (
            {"Caller-Privacy-Hide-Number": "true", "variable_rounded_in_pres": "allowed"},
            CallerId("+33912345678", "Lab Caller"),
        ),
        (
            {"Caller-Privacy-Hide-Number": "true", "variable_rounded_in_pres": ""},
            CallerId("+33912345678", "Lab Caller", withheld=True),
        ),
        (
            {"variable_rounded_in_pres": "prohib_passed_screen"},
            CallerId("+33912345678", "Lab Caller", withheld=True),
        ),
        (
            {"variable_rounded_in_pres": "32"},
            CallerId("+33912345678", "Lab Caller", withheld=True),
        ),
        (
            {"Caller-Caller-ID-Number": None, "Caller-Caller-ID-Name": None},
            CallerId("", ""),
        ),
    ],
)
def test_a_caller_is_who_freeswitch_says(
    changes: dict[str, str | bytes | None], caller: CallerId
) -> None:
    assert called(changes).caller == caller


def test_the_rest_of_the_call_is_told() -> None:
    call = called({"Caller-RDNIS": "+33644444444", "variable_accountcode": "acme"})
    assert (call.rdnis, call.account_code) == ("+33644444444", "acme")


# The command.

CONTRACT = [
    ("rounded_reason", ""),
    ("rounded_stage_ms", "12"),
    ("rounded_fallback", "*600 XML a/b:c_d+e,f@g#-h."),
    ("rounded_call_id", UUID),
    ("rounded_status", "STAGED"),
]


def test_the_variables_are_set_in_their_order_in_one_line() -> None:
    assert (
        esl.set_variables(UUID, CONTRACT)
        == (
            f"api uuid_setvar_multi {UUID} rounded_reason=;rounded_stage_ms=12;"
            f"rounded_fallback=*600 XML a/b:c_d+e,f@g#-h.;rounded_call_id={UUID};"
            "rounded_status=STAGED\n\n"
        ).encode()
    )


@pytest.mark.parametrize(
    "text",
    [
        *["a\nb", "a\n", "\n", "a\rb", "a\r\nX-Evil: 1", "a\n\nexit", "a\x00", "a\tb", "a\x7f"],
        *["a;b", "a;rounded_status=STAGED", "'a'", '"a"', "a\\", "\\r\\n", "${x}", "$", "{", "}"],
        *["é", "٣", "a\u2028b", "a=b", "%0A", "a&b", "(a)", "[a]", "a|b", "^^:a", "<a>", "!", "?"],
    ],
)
def test_nothing_is_injected_through_a_value(text: str) -> None:
    with pytest.raises(ProtocolError, match="no channel variable of the contract"):
        esl.set_variables(UUID, [("rounded_reason", text), ("rounded_status", "ERROR")])


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "1a", "é", "a\n", "a-b", "a[0]", "a.b"])
def test_nothing_is_injected_through_a_name(name: str) -> None:
    with pytest.raises(ProtocolError, match="no channel variable of the contract"):
        esl.set_variables(UUID, [(name, "x")])


@pytest.mark.parametrize(("count", "fits"), [(0, False), (1, True), (63, True), (64, False)])
def test_as_many_variables_as_freeswitch_splits(count: int, fits: bool) -> None:
    pairs = [(f"v{number}", "x") for number in range(count)]
    if fits:
        assert esl.set_variables(UUID, pairs).count(b"=x") == count
    else:
        with pytest.raises(ProtocolError, match=f"for {count} variables"):
            esl.set_variables(UUID, pairs)


@pytest.mark.parametrize("more", [0, 1])
def test_a_command_has_a_longest(more: int) -> None:
    room = esl.LONGEST_COMMAND - len(esl.set_variables(UUID, [("v", "")])) + more
    if more:
        with pytest.raises(ProtocolError, match="a command of 8193 bytes for 1 variables"):
            esl.set_variables(UUID, [("v", "x" * room)])
    else:
        assert len(esl.set_variables(UUID, [("v", "x" * room)])) == esl.LONGEST_COMMAND


Texts = st.text(max_size=12) | st.text("aZ0 .:/_+,@*#-", max_size=12)


@examples(500)
@given(Texts | st.just(UUID), st.lists(st.tuples(Texts, Texts), max_size=70))
@example(UUID, [("a", "b"), ("_c", " ")])
def test_a_command_is_one_line_and_says_what_was_asked(
    channel_id: str, pairs: list[tuple[str, str]]
) -> None:
    try:
        command = esl.set_variables(channel_id, pairs)
    except ProtocolError:
        return
    line, end = command[:-2].decode("ascii"), command[-2:]
    assert end == b"\n\n"
    assert line.isprintable()
    api, name, argument, rest = line.split(" ", 3)
    assert (api, name, argument) == ("api", "uuid_setvar_multi", channel_id)
    assert [tuple(pair.split("=", 1)) for pair in rest.split(";")] == pairs
