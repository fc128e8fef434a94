"""Installing a dialplan: nothing but our block changes, whatever the file and whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rounded_pbx.config import load
from rounded_pbx.dialplan import blocks
from rounded_pbx.dialplan.flavours import ABOUT, Flavour
from rounded_pbx.dialplan.install import BACKUP, Plan, apply, sweep, to_install, to_uninstall
from rounded_pbx.dialplan.rendering import render

EXAMPLE = Path(__file__).parents[1] / "dialplan_examples" / "config.yml"
INSTALLED = [Flavour.ASTERISK, Flavour.ASTERISK_CHAN_SIP, Flavour.FREEPBX, Flavour.FREESWITCH]
CONTENTS = {
    "plain": b"[general]\nstatic=yes\n[default]\nexten => 1,1,Hangup()\n",
    "CRLF": b"[general]\r\nstatic=yes\r\n",
    "no last newline": b"[general]\nstatic=yes",
    "no newline at all": b"; nothing",
    "empty": b"",
    "a mark of Unicode's": b"\xef\xbb\xbf[general]\n",
    "Latin-1 and NUL": b"[general]\n; \xe9t\xe9 \x00\n",
    "begins with ours": b"#include other.conf\n[general]\n",
}


def rendered(flavour: Flavour) -> dict[str, str]:
    return render(flavour, load(EXAMPLE)).files


def admins(folder: Path, flavour: Flavour, content: bytes = CONTENTS["plain"]) -> None:
    """The configuration of a switch before we came."""
    about = ABOUT[flavour]
    for name in about.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name in (*dict(about.includes), *about.shared, "other.conf"):
        (folder / name).write_bytes(content)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(BACKUP)
    }


def run(plan: Plan) -> int:
    assert plan.problems == ()
    for change in plan.changes:
        apply(change)
    return len(plan.changes)


def install(flavour: Flavour, folder: Path) -> int:
    return run(to_install(flavour, folder, rendered(flavour)))


def outside(content: bytes) -> bytes:
    return blocks.take(content) or b""


@pytest.mark.parametrize("flavour", INSTALLED)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_nothing_but_our_block_changes_and_uninstalling_takes_it_back(
    tmp_path: Path, flavour: Flavour, content: bytes
) -> None:
    admins(tmp_path, flavour, content)
    before = snapshot(tmp_path)
    assert install(flavour, tmp_path) == len(ABOUT[flavour].files) + len(ABOUT[flavour].includes)
    installed = snapshot(tmp_path)
    for name, theirs in before.items():
        assert outside(installed[name]) == theirs
    for name, text in rendered(flavour).items():
        assert text.encode() in installed[name].replace(b"\r\n", b"\n")
        newlines = installed[name].count(b"\n")
        assert installed[name].count(b"\r\n") == (newlines if b"\r" in installed[name] else 0)
    assert install(flavour, tmp_path) == 0
    assert snapshot(tmp_path) == installed
    run(to_uninstall(flavour, tmp_path))
    assert snapshot(tmp_path) == before
    assert run(to_uninstall(flavour, tmp_path)) == 0
    install(flavour, tmp_path)
    assert snapshot(tmp_path) == installed


@pytest.mark.parametrize("flavour", INSTALLED)
def test_a_new_configuration_replaces_the_block_and_what_the_admin_added_stays(
    tmp_path: Path, flavour: Flavour
) -> None:
    admins(tmp_path, flavour)
    install(flavour, tmp_path)
    for name in ABOUT[flavour].files:
        with (tmp_path / name).open("ab") as file:
            file.write(b"; added by the admin")
    added = snapshot(tmp_path)
    texts = {name: text + "; changed\n" for name, text in rendered(flavour).items()}
    assert run(to_install(flavour, tmp_path, texts)) == len(texts)
    for name, content in snapshot(tmp_path).items():
        assert outside(content) == outside(added[name])
    for name, text in texts.items():
        assert text.encode() in (tmp_path / name).read_bytes()
        assert (tmp_path / (name + BACKUP)).read_bytes() == added[name]
    run(to_uninstall(flavour, tmp_path))
    assert {(tmp_path / name).read_bytes()[-20:] for name in texts} == {b"; added by the admin"}


@given(
    st.one_of(st.none(), st.binary(max_size=200)).filter(
        lambda b: b is None or b"rounded" not in b
    ),
    st.text("ab;<>#\n", max_size=50).map(lambda text: text + "\n"),
    st.booleans(),
)
def test_any_content_comes_back(content: bytes | None, text: str, xml: bool) -> None:
    once = blocks.put(content, text, xml=xml)
    assert blocks.put(once, text, xml=xml) == once
    assert blocks.take(blocks.put(once, "other\n", xml=xml)) == content
    assert blocks.take(once) == content


@pytest.mark.parametrize(
    "content",
    [
        b"; BEGIN rounded_pbx\nexten => 1,1,NoOp\n",
        b"; END rounded_pbx\n",
        b"; END rounded_pbx\n; BEGIN rounded_pbx\n",
        b"; begin rounded_pbx\n; end rounded_pbx\n",
        b" ; BEGIN rounded_pbx\n ; END rounded_pbx\n",
        b"; BEGIN rounded_pbx\n; END rounded_pbx\n; BEGIN rounded_pbx\n; END rounded_pbx\n",
    ],
)
def test_damaged_marks_are_told_and_nothing_is_written(tmp_path: Path, content: bytes) -> None:
    admins(tmp_path, Flavour.ASTERISK)
    (tmp_path / "pjsip.conf").write_bytes(content)
    before = snapshot(tmp_path)
    for plan in (
        to_install(Flavour.ASTERISK, tmp_path, rendered(Flavour.ASTERISK)),
        to_uninstall(Flavour.ASTERISK, tmp_path),
    ):
        assert plan.changes == ()
        (problem,) = plan.problems
        assert problem.startswith(f"{tmp_path}/pjsip.conf: expected one line BEGIN rounded_pbx")
    assert snapshot(tmp_path) == before


def test_a_file_of_our_name_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    admins(tmp_path, Flavour.FREESWITCH)
    (tmp_path / "dialplan/rounded.xml").write_text("<include/>")
    plan = to_install(Flavour.FREESWITCH, tmp_path, rendered(Flavour.FREESWITCH))
    assert plan.changes == ()
    assert plan.problems == (
        f"{tmp_path}/dialplan/rounded.xml: is there already, and not from here: move it away, or "
        "its lines would stand twice",
    )


@pytest.mark.parametrize(
    "content",
    [b"exten => 1,1,Hangup()\n", b"\xef\xbb\xbf;--\n[x]\n--;\n; a\n\n same => n,Hangup()\n[x]\n"],
)
@pytest.mark.parametrize("flavour", [Flavour.ASTERISK, Flavour.FREEPBX])
def test_lines_without_a_context_do_not_get_into_ours(
    tmp_path: Path, flavour: Flavour, content: bytes
) -> None:
    admins(tmp_path, flavour)
    name = [*dict(ABOUT[flavour].includes), *ABOUT[flavour].shared][0]
    (tmp_path / name).write_bytes(content)
    plan = to_install(flavour, tmp_path, rendered(flavour))
    assert plan.changes == ()
    assert plan.problems == (
        f"{tmp_path}/{name}: its first lines stand in no [context]: put one before them",
    )


def test_an_include_in_a_comment_of_several_lines_is_none(tmp_path: Path) -> None:
    admins(tmp_path, Flavour.ASTERISK)
    theirs = tmp_path / "extensions.conf"
    theirs.write_bytes(b";--\n#include extensions_rounded.conf\n--;\n[theirs]\n")
    install(Flavour.ASTERISK, tmp_path)
    assert blocks.has_block(theirs.read_bytes())


def test_a_folder_that_is_no_switchs_is_refused(tmp_path: Path) -> None:
    plan = to_install(Flavour.ASTERISK, tmp_path, rendered(Flavour.ASTERISK))
    assert [problem.partition(": ")[2] for problem in plan.problems] == [
        "is not there: is this the folder of the switch's configuration?"
    ] * 2
    plan = to_install(Flavour.FREESWITCH, tmp_path, rendered(Flavour.FREESWITCH))
    assert all("there is no folder" in problem for problem in plan.problems)
    assert len(plan.problems) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"#include extensions_rounded.conf",
        b' #tryinclude "extensions_rounded.conf" \r',
        b"#INCLUDE extensions_rounded.conf ; ours",
        b"#include /etc/asterisk/extensions_rounded.conf",
        b"",
    ],
)
def test_an_include_of_the_admins_own_is_enough(tmp_path: Path, line: bytes) -> None:
    admins(tmp_path, Flavour.ASTERISK)
    install(Flavour.ASTERISK, tmp_path)
    theirs = tmp_path / "extensions.conf"
    theirs.write_bytes(theirs.read_bytes() + line + b"\n")
    install(Flavour.ASTERISK, tmp_path)
    assert theirs.read_bytes().lower().count(b"include") == 1
    assert blocks.has_block(theirs.read_bytes()) is not bool(line)


def test_a_file_that_the_admin_includes_is_not_taken_away(tmp_path: Path) -> None:
    """Asterisk would load no dialplan at all."""
    admins(tmp_path, Flavour.ASTERISK, b"#include extensions_rounded.conf\n[general]\n")
    install(Flavour.ASTERISK, tmp_path)
    plan = to_uninstall(Flavour.ASTERISK, tmp_path)
    assert plan.changes == ()
    assert "includes extensions_rounded.conf with a line of yours" in plan.problems[0]


def test_one_flavour_leaves_the_block_of_another_alone(tmp_path: Path) -> None:
    for flavour in (Flavour.ASTERISK, Flavour.ASTERISK_CHAN_SIP):
        admins(tmp_path, flavour)
    install(Flavour.ASTERISK, tmp_path)
    installed = snapshot(tmp_path)
    other = to_install(Flavour.ASTERISK_CHAN_SIP, tmp_path, rendered(Flavour.ASTERISK_CHAN_SIP))
    assert "extensions.conf: holds the block of another flavour" in other.problems[0]
    assert run(to_uninstall(Flavour.ASTERISK_CHAN_SIP, tmp_path)) == 0
    assert snapshot(tmp_path) == installed


def test_owner_mode_and_attributes_stay(tmp_path: Path) -> None:
    admins(tmp_path, Flavour.FREEPBX)
    file = tmp_path / "extensions_custom.conf"
    file.chmod(0o440)
    if os.geteuid() == 0:
        os.chown(file, 1234, 2345)
    before = file.stat()
    install(Flavour.FREEPBX, tmp_path)
    after = file.stat()
    assert blocks.has_block(file.read_bytes())
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert stat.S_IMODE((tmp_path / f"{file.name}{BACKUP}").stat().st_mode) == 0o440
    assert after.st_mtime_ns > before.st_mtime_ns  # or a switch takes it for unchanged


def test_a_new_file_belongs_to_whom_its_folder_belongs(tmp_path: Path) -> None:
    admins(tmp_path, Flavour.ASTERISK)
    tmp_path.chmod(0o750)
    if os.geteuid() == 0:
        os.chown(tmp_path, 1234, 2345)
    install(Flavour.ASTERISK, tmp_path)
    made, folder = (tmp_path / "pjsip_rounded.conf").stat(), tmp_path.stat()
    assert stat.S_IMODE(made.st_mode) == 0o640
    assert (made.st_uid, made.st_gid) == (folder.st_uid, folder.st_gid)


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    etc, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    etc.mkdir()
    elsewhere.mkdir()
    admins(etc, Flavour.FREEPBX)
    real = elsewhere / "custom.conf"
    (etc / "extensions_custom.conf").rename(real)
    (etc / "extensions_custom.conf").symlink_to("../elsewhere/custom.conf")
    before = real.read_bytes()
    install(Flavour.FREEPBX, etc)
    assert (etc / "extensions_custom.conf").is_symlink()
    assert outside(real.read_bytes()) == before != real.read_bytes()
    assert (elsewhere / f"custom.conf{BACKUP}").read_bytes() == before
    run(to_uninstall(Flavour.FREEPBX, etc))
    assert (etc / "extensions_custom.conf").is_symlink()
    assert real.read_bytes() == before


def test_a_file_that_changes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    admins(tmp_path, Flavour.FREEPBX)
    plan = to_install(Flavour.FREEPBX, tmp_path, rendered(Flavour.FREEPBX))
    file = tmp_path / "extensions_custom.conf"
    file.write_bytes(b"[theirs]\n")
    with pytest.raises(OSError, match="somebody else changed it meanwhile"):
        apply(plan.changes[0])
    assert file.read_bytes() == b"[theirs]\n"


def test_without_the_right_to_write_nothing_changes() -> None:
    """In a process of its own that is nobody's: root may write anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        admins(folder, Flavour.ASTERISK)
        before = snapshot(folder)
        folder.chmod(0o555)
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, name], capture_output=True, text=True, check=True
        )
        assert snapshot(folder) == before
        folder.chmod(0o755)
    *problems, changes = ran.stdout.splitlines()
    assert changes == "0"
    assert f"no right to write in {folder}; expected root" in problems[0]


AS_NOBODY = """
import os, sys
from pathlib import Path
from rounded_pbx.dialplan.install import to_install
from rounded_pbx.dialplan.flavours import Flavour
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
plan = to_install(Flavour.ASTERISK, Path(sys.argv[1]), {"extensions_rounded.conf": "x"})
print(*plan.problems, len(plan.changes), sep="\\n")
"""


class Crash(BaseException):
    """A power cut: nothing that comes after it is done either."""


@contextlib.contextmanager
def crashing_at(step: int) -> Iterator[None]:
    """The ``step``-th call that touches the file system, and every later one, does nothing."""
    left = step

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return function(*args, **kwargs)

        return call

    calls: list[tuple[Any, list[str]]] = [
        (os, ["open", "fsync", "chown", "utime", "fdopen"]),
        (shutil, ["copystat"]),
        (Path, ["replace", "unlink", "chmod", "read_bytes"]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module, names in calls:
            for name in names:
                patch.setattr(module, name, dying(getattr(module, name)))
        yield


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("flavour", INSTALLED)
@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_a_crash_at_any_step_leaves_each_file_whole_and_the_next_run_finishes(
    tmp_path: Path, flavour: Flavour, what: str
) -> None:
    files = rendered(flavour)
    for step in itertools.count():
        folder = tmp_path / f"{step}"
        folder.mkdir()
        admins(folder, flavour)
        clean = snapshot(folder)
        install(flavour, folder)
        installed = snapshot(folder)
        if what == "install":
            run(to_uninstall(flavour, folder))
        ended = False
        with contextlib.suppress(Crash), crashing_at(step):
            plan = (
                to_install(flavour, folder, files)
                if what == "install"
                else to_uninstall(flavour, folder)
            )
            for change in plan.changes:
                apply(change)
            ended = True
        for name, content in snapshot(folder).items():
            if not name.rpartition("/")[2].startswith("."):  # else it is what was being written
                assert content in (clean.get(name), installed.get(name)), (step, name)
        for name, ours in ABOUT[flavour].includes:
            # Asterisk loads no dialplan at all where an included file is missing.
            if blocks.has_block((folder / name).read_bytes()):
                assert (folder / ours).exists(), step
        sweep(flavour, folder)
        install(flavour, folder)
        assert snapshot(folder) == installed, step
        run(to_uninstall(flavour, folder))
        assert snapshot(folder) == clean, step
        if ended:
            break
    assert step > 10
