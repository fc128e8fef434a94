"""The wheel and the sdist: what is in them, and what must not be."""

from __future__ import annotations

import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from rounded_pbx import __version__
from rounded_pbx.config import load

from .lab.asterisk import EXAMPLES, ROOT
from .lab.packages import Packages

INFO = f"rounded_pbx-{__version__}.dist-info"


def sources(folder: Path) -> set[str]:
    """The files of a folder that an admin's machine has a use for, relative to it."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_the_examples_and_nothing_else(packages: Packages) -> None:
    inside = packages.in_wheel()
    assert len(inside) == len(set(inside))
    ours = {f"rounded_pbx/{name}" for name in sources(ROOT / "rounded_pbx")}
    examples = {f"rounded_pbx/dialplan_examples/{name}" for name in sources(EXAMPLES)}
    about = {f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    about |= {f"{INFO}/licenses/LICENSE"}
    script = {f"rounded_pbx-{__version__}.data/scripts/rounded-agi"}
    assert set(inside) == ours | examples | about | script
    for wanted in ("py.typed", "units/rounded-pbx.service", "units/rounded-pbx.socket"):
        assert f"rounded_pbx/{wanted}" in inside


def test_the_sdist_holds_what_the_wheel_is_made_of_and_the_documents(packages: Packages) -> None:
    inside = set(packages.in_sdist())
    for folder in ("rounded_pbx", "dialplan_examples", "docs"):
        assert {f"{folder}/{name}" for name in sources(ROOT / folder)} <= inside
    top = {name.partition("/")[0] for name in inside}
    files = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert top == files | {"rounded_pbx", "dialplan_examples", "docs"}


def test_nothing_of_a_test_run_or_of_an_admin_is_packed(packages: Packages) -> None:
    for name in [*packages.in_wheel(), *packages.in_sdist()]:
        assert not re.search(r"__pycache__|\.pyc$|\.cache|\.venv|(^|/)tests/|api_key", name), name


def test_the_metadata_is_that_of_the_version_in_the_code(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())
        entries = archive.read(f"{INFO}/entry_points.txt").decode()
        script = archive.read(f"rounded_pbx-{__version__}.data/scripts/rounded-agi").decode()
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "rounded-pbx = rounded_pbx.__main__:main" in entries
    assert script.startswith("#!python")  # which pip replaces by the one that it installs for


def test_the_example_holds_for_who_has_changed_nothing_in_it() -> None:
    config = load(EXAMPLES / "config.yml")
    assert config.accounts["default"].credential == "api_key"


def test_each_option_that_the_example_has_in_a_comment_is_one(tmp_path: Path) -> None:
    text = (EXAMPLES / "config.yml").read_text()
    uncommented = re.sub(r"(?m)^# ([a-z]+:(?: |$)|  )", r"\1", text)
    assert uncommented.count("\n# ") == 0, "a comment that is no option"
    path = tmp_path / "config.yml"
    path.write_text(uncommented)
    loaded = load(path)
    more = set(yaml.safe_load(uncommented)) - set(yaml.safe_load(text))
    assert {"prestage", "asterisk", "freeswitch"} <= more
    assert all(getattr(loaded, name) is not None for name in more)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"])
def test_the_project_has_its_papers(name: str) -> None:
    assert (ROOT / name).is_file()


DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "docker/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def links(document: Path) -> list[tuple[str, str]]:
    """What a document links to within the repository: the file, and the heading, or empty."""
    prose = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", document.read_text())
    return [
        (target, anchor)
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", prose)
        if "://" not in target
    ]


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document: Path) -> None:
    for target, anchor in links(document):
        other = document.parent / target if target else document
        assert other.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", other.read_text())
            assert anchor in map(slug, headings), f"{document.name}: {target}#{anchor}"


def test_the_links_are_found() -> None:
    assert ("docs/install.md", "what-your-callers-notice") in links(ROOT / "README.md")


def test_every_document_is_reached_from_the_readme() -> None:
    seen, left = set[Path](), [ROOT / "README.md"]
    while left:
        document = left.pop()
        seen.add(document)
        linked = {(document.parent / target).resolve() for target, _ in links(document) if target}
        left += [path for path in linked if path.suffix == ".md" and path not in seen]
    assert set(DOCUMENTS) <= seen
