"""Installing into the configuration of a real Asterisk, and letting it read it over its manager."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ..lab import asterisk as switches
from ..lab.asterisk import EXAMPLES, Asterisk

SECRET = "hush-5e17c0ffee"
RIGHTS = "system,reporting,originate"
FILES = {
    "manager.conf": "[general]\nenabled=yes\nbindaddr=127.0.0.1\nport=5039\n"
    f"[rounded]\nsecret={SECRET}\nread={RIGHTS}\nwrite={RIGHTS}\n",
    "extensions.conf": "[general]\nstatic=yes\n[theirs]\nexten => 1,1,Hangup()",
    "pjsip.conf": "[transport-udp]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:5199\n",
    "logger.conf": "[logfiles]\nmessages => notice,warning,error\n",
}


@pytest.fixture(scope="module", params=[22, 16])
def asterisk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    directory = tmp_path_factory.mktemp(f"install-{request.param}")
    with switches.running(request.param, directory, FILES) as started:
        yield started


def run(
    asterisk: Asterisk, *options: str, secret: str = SECRET
) -> subprocess.CompletedProcess[str]:
    config = asterisk.directory / "config.yml"
    example = (EXAMPLES / "config.yml").read_text()
    ami = "asterisk: {ami: {address: '127.0.0.1:5039', username: rounded, secret_env: SECRET}}\n"
    config.write_text(example.replace("sip.example.net", "127.0.0.3") + ami)
    command = ["dialplan", "asterisk", "--folder", str(asterisk.directory), *options]
    return subprocess.run(
        [sys.executable, "-m", "rounded_pbx", *command, "--config", str(config)],
        env={**os.environ, "SECRET": secret},
        capture_output=True,
        text=True,
    )


def test_what_is_installed_is_read_and_what_is_taken_out_is_gone(asterisk: Asterisk) -> None:
    folder = asterisk.directory
    before = {name: (folder / name).read_text() for name in FILES}
    assert "There is no existence of 'rounded-call'" in asterisk.cli("dialplan show rounded-call")
    ran = run(asterisk, "--install", "--reload")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("read by the switch\n")
    for context in ("rounded", "rounded-call", "rounded-stage", "rounded-from-agent"):
        shown = asterisk.cli(f"dialplan show {context}")
        assert f"Context '{context}' created by 'pbx_config'" in shown, shown
    assert "theirs" in asterisk.cli("dialplan show theirs")
    assert "rounded/sip:127.0.0.3" in asterisk.cli("pjsip show aor rounded")
    assert run(asterisk, "--diff").returncode == 0
    ran = run(asterisk, "--uninstall", "--reload")
    assert ran.returncode == 0, ran.stderr
    assert "There is no existence of 'rounded-call'" in asterisk.cli("dialplan show rounded-call")
    assert "Unable to find" in asterisk.cli("pjsip show aor rounded")
    assert {name: (folder / name).read_text() for name in FILES} == before


def test_a_switch_that_lets_nobody_in_is_told_and_the_files_stand(asterisk: Asterisk) -> None:
    ran = run(asterisk, "--install", "--reload", secret="wrong")
    assert ran.returncode == 1
    assert "not read yet: 127.0.0.1:5039: Asterisk refused the user rounded" in ran.stderr
    assert 'asterisk -rx "dialplan reload"' in ran.stderr
    assert run(asterisk, "--diff").returncode == 0
    assert "There is no existence of 'rounded-call'" in asterisk.cli("dialplan show rounded-call")
    ran = run(asterisk, "--install", "--reload")  # the login has been mended
    assert (ran.returncode, ran.stdout.endswith("read by the switch\n")) == (0, True)
    assert "created by 'pbx_config'" in asterisk.cli("dialplan show rounded-call")
    run(asterisk, "--uninstall", "--reload")
