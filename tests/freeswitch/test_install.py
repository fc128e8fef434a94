"""Installing into the configuration of a real FreeSWITCH, and letting it read it over ESL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rounded_pbx.demo.freeswitch import PASSWORD, PROFILE, PrivateFreeSwitch, find

from ..lab.asterisk import EXAMPLES

ESL = 8029
PUBLIC = (
    '<include>\n<context name="public">\n<X-PRE-PROCESS cmd="include" data="public/*.xml"/>\n'
    "</context>\n</include>\n"
)


@pytest.fixture(scope="module")
def freeswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateFreeSwitch]:
    program = find()
    if program is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    files = {
        "sip_profiles/external.xml": PROFILE.format(host="127.0.0.1", port=5198),
        "sip_profiles/external/theirs.xml": "<include>\n</include>\n",
        "dialplan/public.xml": PUBLIC,
        "dialplan/public/theirs.xml": "<include>\n</include>\n",
    }
    directory = tmp_path_factory.mktemp("install-freeswitch")
    with PrivateFreeSwitch(program, directory, files, event_socket=ESL) as started:
        yield started


def run(freeswitch: PrivateFreeSwitch, *options: str) -> subprocess.CompletedProcess[str]:
    config = freeswitch.directory / "config.yml"
    example = (EXAMPLES / "config.yml").read_text()
    esl = f"freeswitch: {{esl: {{address: '127.0.0.1:{ESL}', secret_env: SECRET}}}}\n"
    config.write_text(example.replace("sip.example.net", "127.0.0.3") + esl)
    command = ["dialplan", "freeswitch", "--folder", str(freeswitch.directory / "conf"), *options]
    return subprocess.run(
        [sys.executable, "-m", "rounded_pbx", *command, "--config", str(config)],
        env={**os.environ, "SECRET": PASSWORD},
        capture_output=True,
        text=True,
    )


def test_what_is_installed_is_read_and_what_is_taken_out_is_gone(
    freeswitch: PrivateFreeSwitch,
) -> None:
    folder = freeswitch.directory / "conf"
    before = {path for path in folder.rglob("*") if path.is_file()}
    ran = run(freeswitch, "--install", "--reload")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("read by the switch\n")
    assert 'name="disable-transfer"' in ran.stdout
    shown = freeswitch.cli("xml_locate dialplan context name rounded_bridge")
    assert 'expression="^(\\+33612345678)$"' in shown, shown
    assert "rounded-stage" in freeswitch.cli("xml_locate dialplan context name public")
    assert "sip:127.0.0.3" in freeswitch.cli("sofia status gateway rounded")
    assert run(freeswitch, "--install").stdout.startswith("nothing to do")
    ran = run(freeswitch, "--uninstall", "--reload")
    assert ran.returncode == 0, ran.stderr
    assert "can't find" in freeswitch.cli("xml_locate dialplan context name rounded_bridge")
    assert {path for path in folder.rglob("*") if path.is_file()} == before
