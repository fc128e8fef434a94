"""AGI replies as real Asterisks gave them, and commands as a model of their parser reads them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rounded_pbx.errors import ProtocolError
from rounded_pbx.protocol import agi
from rounded_pbx.protocol.agi import HangupNotice, Reply, ReplyParser

CAPTURES = Path(__file__).parent / "captures"
LIMITS = st.sampled_from([2047, 8191])
LINE = re.compile(r" *[0-9.]+ ([AS])> (.*)")

QUOTING = ["asterisk-16/agi-quote.txt", "asterisk-22/agi-quote.txt"]


def session(name: str) -> list[tuple[str, bytes]]:
    """The lines of a transcript after the environment: who wrote it (A is Asterisk), and what."""
    text = (CAPTURES / name).read_text()
    found = [(who, ast.literal_eval(raw)) for who, raw in LINE.findall(text)]
    return found[found.index(("A", b"\n")) + 1 :]


def events(lines: Sequence[bytes]) -> Iterator[Reply | HangupNotice]:
    parser = ReplyParser()
    for line in lines:
        event = parser.receive(line)
        if event is not None:
            yield event


def replies(name: str) -> list[Reply | HangupNotice]:
    return list(events([line for who, line in session(name) if who == "A"]))


def split(line: bytes) -> list[bytes]:
    """res_agi.c's parse_args: how Asterisk splits a command line into words."""
    words: list[bytearray] = []
    quoted = escaped = False
    space = True
    for byte in line.removesuffix(b"\n"):
        if byte == ord('"') and not escaped:
            quoted = not quoted
            if quoted and space:
                words.append(bytearray())
                space = False
        elif byte in b" \t" and not quoted and not escaped:
            space = True
        elif byte == ord("\\") and not escaped:
            escaped = True
            continue
        else:
            if space:
                words.append(bytearray())
                space = False
            words[-1].append(byte)
        escaped = False
    return [bytes(word) for word in words]


def arguments(text: bytes) -> list[bytes]:
    """app.c's __ast_app_separate_args, with quotes and backslashes removed, as ARRAY does."""
    found = [bytearray()]
    quoted, depth, scan = False, 0, iter(text)
    for byte in scan:
        if byte == ord('"'):
            quoted = not quoted
        elif byte == ord("\\"):
            found[-1].append(next(scan, 0))
        elif byte == ord(",") and not quoted and not depth:
            found.append(bytearray())
        else:
            depth = max(0, depth + (byte in b"([") - (byte in b")]"))
            found[-1].append(byte)
    return [bytes(argument) for argument in found]


@pytest.mark.parametrize("name", QUOTING)
def test_every_command_gets_one_reply_and_the_model_reads_quotes_as_asterisk_did(name: str) -> None:
    lines = session(name)
    # The last commands were written three at a time, which is how a session comes to a halt.
    whole = next(i for i, (who, line) in enumerate(lines) if who == "S" and line.count(b"\n") > 1)
    asked = [line for who, line in lines[:whole] if who == "S"]
    heard = list(events([line for who, line in lines[:whole] if who == "A"]))
    agreed, value = 0, b""
    for line, reply in zip(asked, heard, strict=True):
        words = split(line)
        assert isinstance(reply, Reply)
        if words[:3] == [b"SET", b"VARIABLE", b"T"]:
            assert reply.code == (200 if len(words) == 4 else 520)
            value = words[3] if len(words) == 4 else value
        elif line == b"GET VARIABLE T\n":
            latin1 = b"lat\xe9in"
            assert reply == Reply(200, "1", value.decode("latin-1" if value == latin1 else "utf-8"))
            agreed += 1
    assert agreed == 27


@pytest.mark.parametrize("version", ["16", "22"])
def test_a_hangup_comes_before_the_reply_and_is_none(version: str) -> None:
    heard = replies(f"asterisk-{version}/agi-wait-agi-wait.txt")
    assert isinstance(heard[0], HangupNotice)
    codes = [reply.code for reply in heard if isinstance(reply, Reply)]
    assert codes == [200] * 5 + [511] * 4
    heard = replies(f"asterisk-{version}/agi-wait-exitonhup.txt")
    assert [type(event) for event in heard] == [HangupNotice, HangupNotice]
    assert replies(f"asterisk-{version}/agi-wait-both.txt") == []  # plain EOF


@pytest.mark.parametrize("line", [b"HANGUP\n", b"100 Trying...\n"])
def test_a_flood_of_lines_that_are_no_reply_is_refused(line: bytes) -> None:
    parser = ReplyParser()
    for _ in range(3):
        parser.receive(line)
        parser.receive(b"200 result=1\n")
    for _ in range(16):
        parser.receive(line)
    with pytest.raises(ProtocolError, match="too many lines"):
        parser.receive(line)


def test_a_usage_error_is_one_reply_of_three_lines() -> None:
    heard = replies("asterisk-22/agi-showusage.txt")
    assert heard[:2] == [Reply(520), Reply(200, "-1")]
    assert isinstance(heard[2], HangupNotice)
    assert not any(reply.ok for reply in heard if isinstance(reply, Reply))


@pytest.mark.parametrize(("version", "longest"), [("16", 2047), ("22", 8191)])
def test_a_line_beyond_the_limit_was_read_as_further_commands(version: str, longest: int) -> None:
    text = (CAPTURES / f"asterisk-{version}" / "agi-longl.txt").read_text()
    _, *tries = text.partition('SET VARIABLE L "ok"')[0].split("total line length incl newline ")
    assert len(tries) == 11
    for attempt in tries:
        length = int(attempt.partition("'")[0])
        assert ("510 Invalid or unknown command" in attempt) is (length > longest)


def test_a_raw_variable_with_line_feeds_forges_a_reply_which_is_why_none_is_asked_for() -> None:
    lines = [line for who, line in session("asterisk-22/agi-mlget.txt") if who == "A"]
    assert list(events(lines[:2])) == [Reply(200, "1"), Reply(200, "1", "fake")]
    with pytest.raises(ProtocolError, match="a line is no reply"):
        list(events(lines[:3]))
    assert b"URIENCODE" in agi.get_variable(2047, "NLV")


@pytest.mark.parametrize(
    ("line", "reply", "ok"),
    [
        (b"200 result=1\n", Reply(200, "1"), True),
        (b"200 result=0\n", Reply(200, "0"), True),
        (b"200 result=1 ()\n", Reply(200, "1", ""), True),
        (b"200 result=1 (a (b) c)\n", Reply(200, "1", "a (b) c"), True),
        (b"200 result=1 (hangup)\n", Reply(200, "1", "hangup"), True),
        (b"200 result=1 (caf\xe9)\n", Reply(200, "1", "café"), True),
        (b"200 result=1 (caf\xc3\xa9)\n", Reply(200, "1", "café"), True),
        (b"200 result= (timeout)\n", Reply(200, "", "timeout"), True),
        (b"200 result=-1\n", Reply(200, "-1"), False),
        (b"200 result=-2\n", Reply(200, "-2"), False),
        (b"510 Invalid or unknown command\n", Reply(510), False),
        (b"511 Command Not Permitted on a dead channel\n", Reply(511), False),
        (b"100 result=0 Trying...\n", None, False),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n"])
def test_a_reply_is_read_with_any_line_end(
    line: bytes, reply: Reply | None, ok: bool, end: bytes
) -> None:
    assert ReplyParser().receive(line.removesuffix(b"\n") + end) == reply
    assert (reply is not None and reply.ok) is ok


JUNK = [b"", b"hangup", b"HANGUP ", b"200result=1", b"20 result=1", b"agi_x: y", b"HTTP/1.1 200"]


@pytest.mark.parametrize("line", [*JUNK, b"2000 result=1", b"\xff\xfe", b"\x00", b"l3)"])
def test_a_line_that_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="a line is no reply"):
        ReplyParser().receive(line + b"\n")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80) | st.sampled_from([b"520-", b"520 ", b"HANGUP", b"200 a"])))
def test_no_line_raises_anything_but_a_protocol_error(lines: list[bytes]) -> None:
    parser = ReplyParser()
    for line in lines:
        try:
            assert isinstance(parser.receive(line), Reply | HangupNotice | None)
        except ProtocolError:
            parser = ReplyParser()


# What a value may hold: anything but a control, and often what means something to Asterisk.
Plain = st.characters(codec="utf-8", exclude_categories=["Cc"])
Value = st.text(st.sampled_from(" \"\\,;=()[]{}$^%|&'") | Plain, max_size=60)


@settings(deadline=None)
@given(Value)
@example("trailing\\")
@example('"; EXEC System "reboot')
def test_a_quoted_value_reaches_asterisk_as_one_word(value: str) -> None:
    line = agi.command(8191, "SET VARIABLE", "T", agi.quote(value))
    assert split(line) == [b"SET", b"VARIABLE", b"T", value.encode()]
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_a_control_character_never_gets_into_a_command(code: int) -> None:
    for build in (agi.quote, lambda value: agi.set_variables(8191, [("A", "x"), ("B", value)])):
        with pytest.raises(ProtocolError, match="control character"):
            build(f"a{chr(code)}b")


def test_a_header_that_a_caller_forged_in_their_number_gets_into_no_command() -> None:
    invite = (CAPTURES / "asterisk-22/sip-callerid-header-injection.txt").read_text()
    user = re.search(r'From: "n" <sip:([^@]*)@', invite)
    assert user is not None
    raw = agi.decode_variable(Reply(200, "1", user[1]))
    assert raw == "+339\r\nX-Rounded-Call-Id: evil"
    with pytest.raises(ProtocolError):
        agi.quote(raw)


def test_a_command_is_as_long_as_asterisk_reads_and_not_a_byte_longer() -> None:
    for limit in (2047, 8191):
        value = "é" * ((limit - 18) // 2) + "x" * ((limit - 18) % 2)
        (line,) = agi.set_variables(limit, [("L", value)])
        assert len(line) == limit
        with pytest.raises(ProtocolError, match=f"Asterisk reads {limit}"):
            agi.set_variables(limit, [("L", value + "x")])
        several = [("A", ""), ("B", "x" * (limit - 45)), ("C", "")]
        (line,) = agi.set_variables(limit, several)
        assert len(line) == limit
        several[1] = ("B", several[1][1] + "x")
        assert len(agi.set_variables(limit, several)) == len(several)


Name = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,20}\Z")
Contract = st.from_regex(r"\A[A-Za-z0-9 .:/_+,@*#-]{0,200}\Z")
Variables = st.lists(st.tuples(Name, Contract | Value), min_size=1, max_size=20)


@settings(deadline=None)
@example(2047, [("A", ""), ("B", ",a, b,"), ("__C", " #*@:/_+-. "), ("D", "")])
@given(LIMITS, st.lists(st.tuples(Name, Contract), min_size=1, max_size=20) | Variables)
def test_variables_reach_asterisk_in_order_in_whole_lines_within_the_limit(
    limit: int, variables: list[tuple[str, str]]
) -> None:
    lines = agi.set_variables(limit, variables)
    read: list[tuple[bytes, bytes]] = []
    for line in lines:
        assert len(line) <= limit
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        words = split(line)
        assert words[:2] == [b"SET", b"VARIABLE"]
        assert len(words) == 4
        if array := re.fullmatch(rb"ARRAY\((.*)\)", words[2]):
            read += zip(arguments(array[1]), arguments(words[3]), strict=True)
        else:
            read.append((words[2], words[3]))
    assert read == [(name.encode(), value.encode()) for name, value in variables]


def test_the_variables_of_a_call_go_in_one_command_on_either_version() -> None:
    variables = [("ROUNDED_FALLBACK", "from-internal,600,1"), ("ROUNDED_CALL_ID", "")]
    names, values = b"ARRAY(ROUNDED_FALLBACK,ROUNDED_CALL_ID)", rb"\"from-internal,600,1\",\"\""
    assert agi.set_variables(2047, variables) == [b'SET VARIABLE "%s" "%s"\n' % (names, values)]
    longer = [*variables, *[(f"V{i}", "x" * 128) for i in range(20)]]
    assert len(agi.set_variables(8191, longer)) == 1
    assert len(agi.set_variables(2047, longer)) == 22


@pytest.mark.parametrize(
    "name", ["", "A B", "A,B", "A=B", "CALLERID(num)", "1A", "É", "A\n", "__A}"]
)
def test_what_is_no_name_of_a_variable_is_neither_read_nor_written(name: str) -> None:
    with pytest.raises(ProtocolError, match="no name of a channel variable"):
        agi.get_variable(8191, name)
    with pytest.raises(ProtocolError, match="no name of a channel variable"):
        agi.set_variables(8191, [("A", "1"), (name, "2")])


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (Reply(200, "1", "l1%0A200%20result%3D1%20%28fake%29"), "l1\n200 result=1 (fake)"),
        (Reply(200, "1", "Ren%E9"), "René"),
        (Reply(200, "1", "a+b"), "a+b"),
        (Reply(200, "1", ""), ""),
        (Reply(200, "1"), ""),
    ],
)
def test_a_channel_variable_is_read_without_breaking_the_framing(reply: Reply, value: str) -> None:
    assert agi.get_variable(2047, "A_1") == b'GET FULL VARIABLE "${URIENCODE(${A_1})}"\n'
    assert agi.decode_variable(reply) == value
