"""The documents' own examples of a configuration: what an admin copies is taken."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from rounded_pbx.config import Config, load

from .lab.asterisk import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ACCOUNT = "accounts: {default: {key_env: KEY}}\n"
ROUTE = "routes:\n  - name: a\n    agent_id: 411b82c8-462a-4e1b-89bc-10ab3ce1ed29\n"


def examples() -> list[tuple[str, str]]:
    """Each YAML block that is of our configuration: the document, and the block."""
    found = [
        (document.name, textwrap.dedent(block))
        for document in DOCUMENTS
        for block in re.findall(r"(?ms)^ *```yaml\n(.*?)^ *```", document.read_text())
    ]
    return [(name, block) for name, block in found if "scrape_configs:" not in block]


def test_the_examples_are_found() -> None:
    named = [name for name, _ in examples()]
    assert {"configuration.md", "prestage.md", "operations.md", "status.md"} <= set(named)
    assert len(named) >= 11


@pytest.mark.parametrize(("document", "example"), examples())
def test_an_example_is_a_configuration(document: str, example: str, tmp_path: Path) -> None:
    names = set(yaml.safe_load(example))
    if not names <= set(Config.model_fields):  # options of a route
        example = ROUTE + textwrap.indent(example, "    ")
    path = tmp_path / "config.yml"
    path.write_text(example if "accounts" in names else ACCOUNT + example)
    load(path)
