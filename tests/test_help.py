"""`--help`, which has to serve as the manual, and the shell's completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rounded_pbx.cli import app
from rounded_pbx.dialplan.flavours import Flavour

from .lab.asterisk import ROOT
from .test_imports import NETWORK

COMMAND = typer.main.get_command(app)
NAMES = sorted(COMMAND.commands)  # type: ignore[attr-defined]


# The shell is the one that is named, and not the one that runs the tests.
DETECTION_OFF = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


def shown(*words: str, columns: int = 80) -> str:
    environment = {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    return CliRunner().invoke(app, [*words, "--help"], env=environment).output


@pytest.mark.parametrize("name", ["", *NAMES])
def test_nothing_of_a_help_is_cut_at_the_width_of_a_terminal(name: str) -> None:
    text = shown(*([name] if name else []))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_does(name: str) -> None:
    command = COMMAND.commands[name]  # type: ignore[attr-defined]
    silent = [option.name for option in command.params if not option.help]
    assert silent == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "init"])
def test_a_help_says_what_the_exit_status_means(name: str) -> None:
    assert "exit status" in shown(name).lower()


def test_the_manual_names_every_command_the_files_and_the_variables() -> None:
    text = shown()
    about = text[: text.index("Options")]
    wanted = {*NAMES, "/etc/rounded_pbx/config.yml", "$ROUNDED_PBX_CONFIG", "CREDENTIALS_DIRECTORY"}
    wanted -= {"sandbox", "demo"}  # which no call needs
    assert [word for word in wanted if word not in about] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_a_help_is_a_command(name: str) -> None:
    examples = re.findall(r"(?m)^ +(rounded-pbx .*?) *$", shown(name, columns=120))
    assert examples or name not in ("route", "stage", "dialplan", "sandbox")
    for example in examples:
        _, command, *options = shlex.split(example)
        assert command == name
        COMMAND.commands[name].make_context(name, options)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, which says in a file what it has loaded."""
    folder = tmp_path_factory.mktemp("bin")
    file = folder / "rounded-pbx"
    file.write_text(
        f"#!{sys.executable}\n"
        "import atexit, sys\n"
        "atexit.register(lambda: open(__file__ + '.loaded', 'w').write(' '.join(sys.modules)))\n"
        "sys.argv[0] = 'rounded-pbx'\n"
        "from rounded_pbx.__main__ import main\n"
        "main()\n"
    )
    file.chmod(0o755)
    return file


def run(program: Path, *command: str, **environment: str) -> str:
    path = f"{program.parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={"PATH": path, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_for_each_shell(program: Path, shell: str) -> None:
    script = run(program, "rounded-pbx", "--show-completion", shell, **DETECTION_OFF)
    assert "_ROUNDED_PBX_COMPLETE=complete_" + shell in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rounded-pbx", "sys"], ["systemd"]),
        (["rounded-pbx", "dialplan", ""], [*Flavour]),
        (["rounded-pbx", "dialplan", "free"], ["freepbx", "freeswitch"]),
        (["rounded-pbx", "dialplan", "asterisk", "--unin"], ["--uninstall"]),
        (["rounded-pbx", "check", "--config", "x"], []),  # so bash looks for files
    ],
)
def test_bash_completes_commands_flavours_and_options(
    program: Path, words: list[str], expected: list[str]
) -> None:
    script = run(program, "rounded-pbx", "--show-completion", "bash", **DETECTION_OFF)
    script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
    script += '_rounded_pbx_completion rounded-pbx; printf "%s\\n" "${COMPREPLY[@]}"\n'
    assert run(program, "bash", "--norc", "-c", script).split() == expected
    loaded = set(Path(f"{program}.loaded").read_text().split())
    assert loaded & (NETWORK | {"phonenumbers", "yaml"}) == set()


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_the_other_shells_are_told_the_same(program: Path, shell: str) -> None:
    said = run(
        program,
        "rounded-pbx",
        _ROUNDED_PBX_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="rounded-pbx dialplan free",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert re.findall("free[a-z]+", said) == ["freepbx", "freeswitch"]
