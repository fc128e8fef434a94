"""YAML without its traps, and files that are no YAML at all."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rounded_pbx.errors import ConfigError, Problem
from rounded_pbx.yamlfile import YamlFile

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def read(path: Path, text: str | bytes) -> YamlFile:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return YamlFile(path)


def refused(path: Path, text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        read(path, text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("+33612345678", "+33612345678"),
        ("0612345678", "0612345678"),
        ("00", "00"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        ("12_000", "12_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("1e3", "1e3"),
        (".5", ".5"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("NO", "NO"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", "True"),
        ("Null", "Null"),
        ("2001-12-14", "2001-12-14"),
        ("=", "="),
        ("33612345678", 33612345678),
        ("0", 0),
        ("-7", -7),
        ("1.5", 1.5),
        ("-0.25", -0.25),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'0'", "0"),
        ('"true"', "true"),
    ],
)
def test_only_canonical_numbers_and_true_and_false_are_more_than_text(
    path: Path, written: str, value: object
) -> None:
    data: Any = read(path, f"a: {written}\n").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(path: Path) -> None:
    file = read(path, b"\xef\xbb\xbfa: 1\r\nb: {c: 2}\r\n")
    assert file.data == {"a": 1, "b": {"c": 2}}
    assert file.problem(("b", "c"), "x").line == 2


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_says_nothing(path: Path, text: str) -> None:
    assert read(path, text).data is None


DOCUMENT = """\
# a comment
a:
  b:
    - 1
    - c: 2
      d: 3

  "0612": e
shared: &s
  f: 1
merged:
  <<: *s
  g: 2
"""


@pytest.mark.parametrize(
    ("loc", "line"),
    [
        ((), 2),
        (("a",), 2),
        (("a", "b"), 3),
        (("a", "b", 0), 4),
        (("a", "b", 1), 5),
        (("a", "b", 1, "d"), 6),
        (("a", "b", 1, "missing"), 5),
        (("a", "b", 9), 3),
        (("a", "b", "x", 1, "d"), 6),
        (("a", "0612"), 8),
        (("merged", "g"), 13),
        (("merged", "f"), 10),
        (("missing",), 2),
    ],
)
def test_a_place_in_the_file_is_a_line(path: Path, loc: tuple[str | int, ...], line: int) -> None:
    assert read(path, DOCUMENT).problem(loc, "x") == Problem(str(path), line, "x")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: {\n", 2, "is no YAML: expected the node content"),
        ("a: 1\nb:\n\tc: 1\n", 3, "is no YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n b: 2\n", 2, "is no YAML: mapping values are not allowed here"),
        ("a: 1\nb: *c\n", 2, "is no YAML: found undefined alias 'c'"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "expected a plain value or quotes"),
        ("a: 1\nb: !secret x\n", 2, "has the type !secret; expected a plain"),
        ("a: 1\n---\nb: 1\n", 2, "is no YAML: but found another document"),
        ("? [a]\n: b\n", 1, "is no YAML: found unhashable key"),
        ("a: &b\n  c: *b\n", 1, "refers to itself through an alias"),
        ("a: 1\nb: &c\n  - *c\n", 2, "refers to itself through an alias"),
        ("a: 1\nb: 2\na: 3\n", 3, "a: stands here again; it already stands in line 1"),
        ("x:\n  - {a: 1,\n     a: 1}\n", 3, "a: stands here again; it already stands in line 2"),
        (
            "a: &s {b: 1}\nc: {<<: *s, b: 2,\n b: 3}",
            3,
            "b: stands here again; it already stands in",
        ),
        (b"a: 1\nb: \xff\n", 1, "is not UTF-8 text"),
        ("a: 1\nb: 2\nc: \x01\n", 3, "the character '\\x01' cannot stand in YAML"),
        ("a: 1\nb: !!bool maybe\n", 2, "has the type tag:yaml.org,2002:bool; expected"),
        ("a: 1\nb: !!timestamp x\n", 2, "expected a plain value"),
        ("a: 1\nb: !!int x\n", 2, "expected a plain value"),
        ("a: 1\nb: !!omap []\n", 2, "expected a plain map or list"),
        ("a: 1\nb: " + "[" * 5000 + "\n", 2, "is no YAML: nested too deeply"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_yaml_is_told_with_its_line(
    path: Path, text: str | bytes, line: int, says: str
) -> None:
    (problem,) = refused(path, text)
    assert says in problem.text
    assert (problem.file, problem.line) == (str(path), line)


def test_every_repeated_key_is_told(path: Path) -> None:
    problems = refused(path, "a: {b: 1, b: 2}\nc:\n- d: 1\n  d: 2\na: 1\n")
    assert [problem.line for problem in problems] == [1, 4, 5]


def test_a_merged_key_is_no_repeated_one(path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {z: 1}\nc: {<<: *a, <<: *b, x: 2}\n"
    data: Any = read(path, text).data
    assert data["c"] == {"x": 2, "y": 1, "z": 1}


def test_a_file_that_is_not_there_or_is_no_file_is_told(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            YamlFile(path)
        assert caught.value.problems == (Problem(str(path), 1, f"cannot be read: {says}"),)


def bomb(leaf: str, step: str) -> str:
    """2 to the power of 40 leaves in 40 lines."""
    return f"x0: &x0 {leaf}\n" + "".join(
        f"x{i}: &x{i} {step}\n".replace("@", f"*x{i - 1}") for i in range(1, 41)
    )


MAPS, LISTS = bomb("{a: b}", "{a: @, b: @}"), bomb("[a]", "[@, @]")
BOMBS = {
    "unused": MAPS,
    "in dynamic variables": MAPS
    + f"routes: [{{name: a, agent_id: {AGENT}, dynamic_variables: *x40}}]\n",
    "in a wrong value": MAPS + "calls: {deadline: *x40}\n",
    "in a list": LISTS + "routes: *x40\n",
    "merged": bomb("{a: b}", "{<<: [@, @]}"),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_aliases_that_multiply_end_in_a_mistake_and_not_in_a_full_machine(
    path: Path, text: str
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    path.write_text("accounts: {default: {key_env: A}}\n" + text)
    command = [sys.executable, "-m", "rounded_pbx", "check", "--config", str(path)]
    ended = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{path}:")
    assert len(ended.stderr) < 100_000
