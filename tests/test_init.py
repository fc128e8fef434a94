"""`rounded-pbx init`: what an admin begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rounded_pbx.cli import app

from .lab.asterisk import EXAMPLES


def init(config: Path) -> Result:
    return CliRunner().invoke(app, ["init", "--config", str(config)])


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_the_service_can_read_the_configuration_and_nobody_the_key(tmp_path: Path) -> None:
    config = tmp_path / "rounded_pbx" / "config.yml"
    made = init(config)
    assert made.exit_code == 0, made.output
    assert config.read_bytes() == (EXAMPLES / "config.yml").read_bytes()
    assert (config.parent / "api_key").read_bytes() == b""
    modes = [mode(path) for path in (config.parent, config, config.parent / "api_key")]
    assert modes == [0o755, 0o644, 0o600]


def test_what_is_there_already_stays_as_it_is(tmp_path: Path) -> None:
    config, key = tmp_path / "config.yml", tmp_path / "api_key"
    config.write_text("accounts: {}\n")
    key.write_text("rk_live_5e17c0ffee")
    key.chmod(0o640)
    again = init(config)
    assert again.exit_code == 0
    assert (config.read_text(), key.read_text()) == ("accounts: {}\n", "rk_live_5e17c0ffee")
    assert mode(key) == 0o640
    assert again.output.count("is there already") == 2
    assert "rk_live" not in again.output


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "config.yml").symlink_to(tmp_path / "elsewhere")
    assert init(tmp_path / "config.yml").exit_code == 0
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = init(tmp_path / "file" / "config.yml")
    assert failed.exit_code == 1
    assert "Not a directory" in failed.stderr
