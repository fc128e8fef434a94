"""The commands as processes: the demonstration, the sandbox, a call staged from the shell."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx.demo.freeswitch import find

from .lab.asterisk import unpacked
from .lab.processes import process, rounded_pbx, wait_until

CONFIG = """\
accounts: {{default: {{key_env: ROUNDED_API_KEY}}}}
api: {{base_url: "{url}", warm: 0{more}}}
numbers: {{country: FR}}
routes:
  - {{name: support, did: "+33612345678", agent_id: 411b82c8-462a-4e1b-89bc-10ab3ce1ed29}}
"""
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def run(*arguments: str | Path, limit: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        rounded_pbx(*arguments), capture_output=True, text=True, timeout=limit, check=False
    )


def config(folder: Path, url: str, more: str = "") -> Path:
    file = folder / "config.yml"
    file.write_text(CONFIG.format(url=url, more=more))
    return file


@pytest.mark.parametrize("shown", ["simulated", "asterisk-22", "asterisk-16"])
def test_the_demo_shows_a_call_from_the_caller_to_the_agent(shown: str) -> None:
    version = shown.partition("-")[2]
    how = ["--asterisk", unpacked(int(version))] if version else ["--simulated"]
    ended = run("demo", *how)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    asterisk = f"a real Asterisk {version}." if version else "a SIMULATED Asterisk"
    freeswitch = "a real FreeSWITCH 1." if version and find() else "a SIMULATED FreeSWITCH"
    assert [
        line.split("switch   ")[1].startswith(said)
        for line, said in zip(
            re.findall(r"switch   a .*", ended.stdout), (asterisk, freeswitch), strict=True
        )
    ] == [True, True]
    assert ended.stdout.count("POST /v1/calls/stage -> 201") == 2
    ids = re.findall(rf"agent +X-Rounded-Call-Id: ({UUID})\n", ended.stdout)
    assert len(set(ids)) == 2
    assert re.search(rf'switch +ROUNDED_CALL_ID="?{ids[0]}', ended.stdout)
    assert re.search(rf"switch +.*(rounded_call_id|Rounded-Call-Id)={ids[1]}", ended.stdout)
    assert ended.stdout.count("\nok ") == 4
    assert "FAILED" not in ended.stdout


def test_without_an_asterisk_that_boots_the_demo_says_so_and_simulates(tmp_path: Path) -> None:
    broken = tmp_path / "asterisk"
    broken.write_text("#!/bin/sh\necho no such module; exit 1\n")
    broken.chmod(0o755)
    ended = run("demo", "--asterisk", broken)
    assert ended.returncode == 0
    assert "Asterisk does not start: no such module" in ended.stdout
    assert "a SIMULATED Asterisk" in ended.stdout


def test_without_a_freeswitch_that_starts_the_demo_says_so_and_simulates(tmp_path: Path) -> None:
    broken = tmp_path / "freeswitch"
    broken.write_text("#!/bin/sh\necho no such profile; exit 1\n")
    broken.chmod(0o755)
    ended = run("demo", "--freeswitch", broken)
    assert ended.returncode == 0
    assert "FreeSWITCH does not start: no such profile" in ended.stdout
    assert "a SIMULATED FreeSWITCH" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_demo_that_is_ended_leaves_nothing_behind(number: signal.Signals) -> None:
    command = rounded_pbx("demo", "--asterisk", unpacked(22))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        while "INVITE" not in demo.stdout.readline():
            assert demo.poll() is None
        folders = _demo_folders()
        demo.send_signal(number)
        demo.stdout.read()
    assert demo.returncode == 130
    assert folders
    assert not folders & _demo_folders()
    assert not [line for line in _command_lines() if any(folder in line for folder in folders)]


def _demo_folders() -> set[str]:
    return {
        found
        for line in _command_lines()
        for found in re.findall(r"/\S*rounded-pbx-demo-[^/\0]+", line)
    } | {str(path) for path in Path("/tmp").glob("rounded-pbx-demo-*")}


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return lines


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[str]:
    said = tmp_path / "sandbox.log"
    command = rounded_pbx("sandbox", "--listen", "127.0.0.1:0", "--staging-time", "0.1")
    with process(*command, log=said) as running:
        wait_until(lambda: "http://" in said.read_text(), "the sandbox to listen")
        yield re.findall(r"http://127\.0\.0\.1:\d+", said.read_text())[0]
    assert running.returncode == 0


def test_a_call_is_staged_from_the_shell(
    sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDED_API_KEY", "sandbox")
    monkeypatch.setenv("ROUNDED_PBX_CONFIG", str(config(tmp_path, sandbox)))
    ended = run("stage", "--did", "0612345678", "--from", "0145678901")
    assert ended.returncode == 0, ended.stderr
    assert re.search(rf"\nROUNDED_CALL_ID={UUID}\nROUNDED_STATUS=STAGED\n$", ended.stdout)
    machine = run("stage", "--did", "0612345678", "--from", "0145678901", "--json")
    assert json.loads(machine.stdout)["ROUNDED_STATUS"] == "STAGED"
    unknown = run("stage", "--did", "0699999999", "--from", "0145678901", "--json")
    assert unknown.returncode == 1
    assert json.loads(unknown.stdout)["ROUNDED_STATUS"] == "NO_ROUTE"
    seen = (tmp_path / "sandbox.log").read_text()
    assert len(re.findall("POST +/v1/calls/stage +201", seen)) == 2


def test_a_call_from_the_shell_is_staged_by_the_account_that_it_leads_to(
    sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(tmp_path, sandbox)
    accounts = "acme: {key_env: ACME_KEY, account_codes: 4711, domains: a.example, contexts: c}, "
    file.write_text(file.read_text().replace("default:", f"{accounts}default:", 1))
    monkeypatch.setenv("ROUNDED_API_KEY", "wrong")
    monkeypatch.setenv("ACME_KEY", "sandbox")
    asked = ["stage", "--config", str(file), "--did", "0612345678", "--from", "0145678901"]
    told = {}
    for options in ("", "--account-code=4711", "--domain=A.example", "--context=c"):
        ended = run(*asked, "--json", *options.split())
        told[options] = json.loads(ended.stdout)["ROUNDED_STATUS"]
    assert [*told.values()] == ["UNAUTHORIZED", "STAGED", "STAGED", "STAGED"]


def test_a_call_from_the_shell_ends_by_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDED_API_KEY", "sandbox")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        file = config(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        ended = run("stage", "--config", file, "--did", "0612345678", "--from", "0145678901")
    assert "ROUNDED_STATUS=TIMEOUT" in ended.stdout
    assert time.monotonic() - begun < 10


def test_a_port_that_is_taken_is_said(
    sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = sandbox.removeprefix("http://")
    ended = run("sandbox", "--listen", taken)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"cannot listen on {taken}: Address already in use" in ended.stderr
    monkeypatch.setenv("ROUNDED_API_KEY", "sandbox")
    file = config(tmp_path, sandbox)
    with file.open("a") as more:
        more.write(f'asterisk: {{fastagi: {{listen: "{taken}"}}}}\n')
    ended = run("serve", "--config", file)
    assert ended.returncode == 1
    assert "cannot start" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("what", ["missing", "no certificates", "a folder"])
def test_check_finds_certificates_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("ROUNDED_API_KEY", "k")
    pem = tmp_path / "ca.pem"
    if what == "no certificates":
        pem.write_text("garbage")
    elif what == "a folder":
        pem.mkdir()
    file = config(tmp_path, "https://api.example.com", f', ca_file: "{pem}"')
    ended = run("check", "--config", file)
    assert ended.returncode == 2
    assert f"{file}:2: api.ca_file: {pem}" in ended.stderr.replace("\n", "")


@pytest.mark.parametrize("url", ["https://[::1::2]", "https://[1]", "https://[::1]:99999"])
def test_check_finds_an_address_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ROUNDED_API_KEY", "k")
    ended = run("check", "--config", config(tmp_path, url))
    assert ended.returncode == 2
    assert ":2: api.base_url" in ended.stderr
