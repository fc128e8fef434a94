"""systemd's units: what they say, what systemd says of them, and the command that writes them.

No systemd runs here: `systemd-analyze`, the system's or one unpacked, looks at the files.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner, Result

from rounded_pbx import daemon
from rounded_pbx.call import Switch
from rounded_pbx.cli import app
from rounded_pbx.config import DEFAULT_PATH, Config
from rounded_pbx.generation import DRAIN_MARGIN
from rounded_pbx.units import reach
from rounded_pbx.units.rendering import MARK, SERVICE, render

from .lab.asterisk import CACHE, ROOT

PROGRAM = Path("/opt/pipx/venvs/rounded-pbx/bin/rounded-pbx")
CREDENTIAL = {"accounts": {"default": {"credential": "api_key"}}}
ASTERISK, FREESWITCH = "rounded-pbx-asterisk.socket", "rounded-pbx-freeswitch.socket"


def units(data: Mapping[str, object] | None = None, file: Path = DEFAULT_PATH) -> dict[str, str]:
    config = Config.model_validate({**CREDENTIAL, **(data or {})})
    return render(config, program=PROGRAM, file=file)


def parsed(text: str) -> dict[str, list[str]]:
    """Each setting as Section.Name, with its values in their order."""
    section, settings = "", dict[str, list[str]]()
    for line in text.splitlines():
        if named := re.fullmatch(r"\[([A-Z][a-z]+)\]", line):
            section = named[1]
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            assert re.fullmatch("[A-Z][A-Za-z0-9]+", name), line
            assert section, line
            settings.setdefault(f"{section}.{name}", []).append(value)
    return settings


def one(text: str, name: str) -> str:
    [value] = parsed(text)[name]
    return value


def test_the_service_runs_the_daemon_and_is_started_again_whatever_happens() -> None:
    service = units()[SERVICE]
    assert one(service, "Service.ExecStart") == f"{PROGRAM} serve"
    assert one(service, "Service.ExecReload") == "/bin/kill -HUP $MAINPID"
    assert one(service, "Service.Type") == "notify"
    assert one(service, "Service.NotifyAccess") == "main"
    assert one(service, "Service.Restart") == "always"
    assert one(service, "Service.RestartSec") == "1"
    assert one(service, "Service.WatchdogSec") == "10"
    assert one(service, "Unit.StartLimitIntervalSec") == "0"
    assert one(service, "Install.WantedBy") == "multi-user.target"


def test_nothing_of_the_pbx_waits_for_the_daemon() -> None:
    for text in units().values():
        settings = parsed(text)
        assert not {"Unit.Before", "Unit.RequiredBy", "Install.RequiredBy"} & settings.keys()
        assert "network-online" not in text


@pytest.mark.parametrize(
    ("unit", "kind", "address"),
    [
        (ASTERISK, Switch.ASTERISK, Config.model_validate(CREDENTIAL).asterisk.fastagi.listen),
        (
            FREESWITCH,
            Switch.FREESWITCH,
            Config.model_validate(CREDENTIAL).freeswitch.outbound.listen,
        ),
    ],
)
def test_a_socket_is_where_the_configuration_listens(
    unit: str, kind: Switch, address: object
) -> None:
    socket = units()[unit]
    assert one(socket, "Socket.ListenStream") == str(address)
    assert one(socket, "Socket.FileDescriptorName") == kind.value
    assert one(socket, "Socket.Service") == SERVICE
    assert unit in parsed(units()[SERVICE])["Service.Sockets"]


def test_a_socket_is_open_only_while_its_service_is() -> None:
    for unit in (ASTERISK, FREESWITCH):
        settings = parsed(units()[unit])
        assert settings["Unit.StopPropagatedFrom"] == [SERVICE]
        assert "Install.WantedBy" not in settings  # or a caller would start what the admin stopped


def test_there_is_a_socket_for_each_listener_that_is_on_and_none_for_the_status_page() -> None:
    assert [*units()] == [ASTERISK, FREESWITCH, SERVICE]
    only = units({"freeswitch": {"outbound": {"listen": "off"}}})
    assert [*only] == [ASTERISK, SERVICE]
    assert parsed(only[SERVICE])["Service.Sockets"] == [ASTERISK]
    other = units({"asterisk": {"fastagi": {"listen": "[::1]:4999"}}})
    assert one(other[ASTERISK], "Socket.ListenStream") == "[::1]:4999"


def test_another_configuration_is_named_to_the_service() -> None:
    service = units(file=Path("/srv/pbx/config.yml"))[SERVICE]
    assert one(service, "Service.ExecStart") == f"{PROGRAM} serve --config /srv/pbx/config.yml"
    assert one(service, "Service.LoadCredential") == "api_key:/srv/pbx/api_key"


def test_systemd_hands_over_each_credential_of_the_configuration_and_nothing_else() -> None:
    route = {
        "name": "support",
        "agent_id": "411b82c8-462a-4e1b-89bc-10ab3ce1ed29",
        "account": "one",
        "lookup": {
            "url": "https://crm.example.net/",
            "secret_headers": {"Authorization": {"credential": "crm"}},
            "variables": {"name": "name"},
        },
    }
    data = {
        "accounts": {"one": {"credential": "b"}, "two": {"credential": "a"}, "x": {"key_env": "X"}},
        "routes": [route],
        "prestage": {"store": "redis://127.0.0.1:6379/0", "credential": "redis"},
        "status": {"credential": "token"},
    }
    assert parsed(units(data)[SERVICE])["Service.LoadCredential"] == [
        f"{name}:/etc/rounded_pbx/{name}" for name in ("a", "b", "crm", "redis", "token")
    ]
    none = units({"accounts": {"default": {"key_env": "X"}}})[SERVICE]
    assert "LoadCredential" not in none
    off = units({"status": {"listen": "off", "credential": "token"}})[SERVICE]
    assert one(off, "Service.LoadCredential") == "api_key:/etc/rounded_pbx/api_key"


@pytest.mark.parametrize("document", ["docs/configuration.md", "dialplan_examples/config.yml"])
def test_the_documents_name_the_credential_and_its_file_as_the_unit_does(document: str) -> None:
    text = (ROOT / document).read_text()
    assert "credential: api_key" in text
    assert "/etc/rounded_pbx/api_key" in text
    assert "/etc/rounded_pbx/api_key" in (ROOT / "README.md").read_text()
    assert one(units()[SERVICE], "Service.LoadCredential") == "api_key:/etc/rounded_pbx/api_key"


@pytest.mark.parametrize("deadline", [0.2, 1.5, 7.01, 30.0])
def test_calls_in_flight_can_end_before_a_daemon_that_is_stopped_is_killed(deadline: float) -> None:
    service = units({"calls": {"deadline": deadline}})[SERVICE]
    # The sessions, then the tickets, then the errands: each has its own margin.
    assert int(one(service, "Service.TimeoutStopSec")) > deadline + 3 * DRAIN_MARGIN


def test_the_open_files_are_enough_for_the_sessions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = int(one(units()[SERVICE], "Service.LimitNOFILE"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    config = Config.model_validate(CREDENTIAL)
    assert daemon._most_sessions(config, 2) == 2 * config.calls.max_in_flight
    assert caplog.text == ""


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    unpacked = CACHE / "systemd"
    program = shutil.which("systemd-analyze") or unpacked / "systemd-analyze"
    assert Path(program).exists(), "no systemd-analyze: scripts/unpack systemd"
    units = "/usr/lib/systemd/system"
    if not Path(units, "sysinit.target").exists():
        units = str(unpacked / "root/usr/lib/systemd/system")
    return subprocess.run(
        [program, *words],
        env={**os.environ, "SYSTEMD_UNIT_PATH": units},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The units in a folder, with a program that is there."""
    program = tmp_path / "rounded-pbx"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = Config.model_validate(CREDENTIAL)
    for name, text in render(config, program=program, file=DEFAULT_PATH).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_understands_every_line(written: Path) -> None:
    names = [written / name for name in units()]
    ran = analyze("verify", *names)
    ours = [line for line in (ran.stdout + ran.stderr).splitlines() if "rounded-pbx" in line]
    assert (ran.returncode, ours) == (0, [])  # of the host's own units there may be more to say
    service = written / SERVICE
    service.write_text(service.read_text().replace("ProtectClock=", "ProtectClok="))
    assert "Unknown key" in analyze("verify", *names).stderr  # so it does look


def test_systemd_finds_little_that_could_be_shut_off_still(written: Path) -> None:
    """Exposure in tenths, of at most 100: an API, switches and a journal have to be reached."""
    service = written / SERVICE
    ran = analyze("security", "--offline=yes", "--threshold=12", "--no-pager", service)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Overall exposure level" in ran.stdout
    service.write_text(service.read_text().replace("DynamicUser=yes", "DynamicUser=no"))
    opened = analyze("security", "--offline=yes", "--threshold=12", "--no-pager", service)
    assert opened.returncode != 0


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["systemd", *map(str, arguments)])


def next_of(result: Result) -> list[str]:
    """What an admin is to do now."""
    return re.findall(r"(?m)^ +systemctl (.*)$", result.output)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "api_key").write_text("k")
    path = tmp_path / "config.yml"
    path.write_text("accounts: {default: {credential: api_key}}\n")
    return path


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what runs the tests were where a service can get at it."""
    monkeypatch.setattr(reach, "out_of_reach", lambda path: None)


@pytest.mark.usefixtures("reachable")
def test_the_units_are_shown_with_the_program_that_is_really_there(config: Path) -> None:
    shown = run("--config", config)
    assert shown.exit_code == 0, shown.output
    program = Path(re.findall(r"ExecStart=(\S+) serve --config", shown.stdout)[0])
    assert os.access(program, os.X_OK)
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("rounded-pbx ")
    assert program.parent == Path(sys.executable).parent
    assert "/etc/systemd/system/rounded-pbx.service" in shown.stdout
    assert "systemctl enable --now rounded-pbx" in shown.stdout


@pytest.mark.usefixtures("reachable")
def test_they_are_installed_again_without_a_change_and_taken_out(
    config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "system"
    folder.mkdir()
    options = ("--folder", folder, "--config", config)
    first = run("--install", *options)
    assert first.exit_code == 0, first.output
    assert {path.name for path in folder.iterdir()} == {ASTERISK, FREESWITCH, SERVICE}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert next_of(first) == ["daemon-reload", "enable --now rounded-pbx"]
    assert next_of(first) == next_of(run(*options))[1:]  # what runs is stopped first
    assert "nothing to do" in run("--install", *options).output
    config.write_text(config.read_text() + "calls: {deadline: 3}\n")
    again = ["daemon-reload", "enable rounded-pbx", "restart rounded-pbx"]  # sockets stay open
    assert next_of(run("--install", *options)) == again
    config.write_text(config.read_text() + "freeswitch: {outbound: {listen: off}}\n")
    changed = run("--install", *options)
    assert "removed" in changed.output
    assert next_of(changed) == ["stop rounded-pbx", "daemon-reload", "enable --now rounded-pbx"]
    assert not (folder / FREESWITCH).exists()
    assert FREESWITCH not in (folder / SERVICE).read_text()
    taken = run("--uninstall", "--folder", folder)
    assert (taken.exit_code, next_of(taken)) == (0, ["daemon-reload"])
    left = {path.name for path in folder.iterdir()}
    assert left == {f"{SERVICE}.before-rounded_pbx"}


@pytest.mark.usefixtures("reachable")
def test_a_service_of_the_admins_own_is_kept_beside_and_never_taken_out(
    config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "system"
    folder.mkdir()
    theirs = "[Service]\nExecStart=/opt/mine serve\n"
    (folder / SERVICE).write_text(theirs)
    assert "nothing to do" in run("--uninstall", "--folder", folder).output
    assert (folder / SERVICE).read_text() == theirs
    assert run("--install", "--folder", folder, "--config", config).exit_code == 0
    assert (folder / SERVICE).read_text().startswith(MARK)
    assert (folder / f"{SERVICE}.before-rounded_pbx").read_text() == theirs


@pytest.mark.usefixtures("reachable")
def test_what_cannot_be_written_is_said(config: Path, tmp_path: Path) -> None:
    missing = run("--install", "--folder", tmp_path / "none", "--config", config)
    assert missing.exit_code == 1
    assert f"{tmp_path}/none/" in missing.stderr


def test_one_does_not_install_and_take_out_at_a_time(config: Path) -> None:
    assert run("--install", "--uninstall", "--config", config).exit_code == 2


def test_a_program_that_the_service_could_not_reach_is_said_and_not_installed(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "program", lambda: Path("/root/.local/bin/rounded-pbx"))
    folder = tmp_path / "system"
    folder.mkdir()
    refused = run("--install", "--folder", folder, "--config", config)
    assert refused.exit_code == 2
    assert "/root/.local/bin/rounded-pbx: a service sees nothing below /root" in refused.stderr
    assert "PIPX_HOME=/opt/pipx" in refused.stderr
    assert [*folder.iterdir()] == []


def test_a_secret_that_the_service_does_not_get_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, token, authority = tmp_path / "acme", tmp_path / "token", tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    closed = {key, token, authority}
    monkeypatch.setattr(reach, "out_of_reach", lambda path: "closed" if path in closed else None)
    config = tmp_path / "config.yml"
    config.write_text(
        "accounts:\n"
        f"  a: {{key_file: {key}}}\n"
        "  b: {key_env: B}\n"
        "  c: {credential: c}\n"
        f"  d: {{key_file: {tmp_path}/everybodys}}\n"
        f"api: {{ca_file: {authority}}}\n"
        f"status: {{token_file: {token}}}\n"
    )
    shown = run("--config", config)
    assert shown.exit_code == 0
    assert f"accounts.a: the service cannot read {key}; expected credential: acme" in shown.stderr
    assert "accounts.b: the service has that variable only if you give it one" in shown.stderr
    said = f"the credential c is not there yet: expected it in {tmp_path}/c"
    assert said in shown.stderr
    assert f"status: the service cannot read {token}; expected credential: token" in shown.stderr
    said = f"api.ca_file: the service cannot read {authority}, and could not start: closed"
    assert said in shown.stderr
    assert shown.stderr.count("note") == 5


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that others can enter, as none below pytest's own is."""
    monkeypatch.setattr(reach, "_HIDDEN", ())
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


def test_what_is_closed_to_others_is_out_of_reach(open_folder: Path) -> None:
    file = open_folder / "file"
    file.write_text("")
    file.chmod(0o644)
    assert reach.out_of_reach(file) is None
    file.chmod(0o640)
    assert reach.out_of_reach(file) == f"{file} is closed to others: its mode is 640"
    file.unlink()
    assert reach.out_of_reach(file) == "No such file or directory"


@pytest.mark.parametrize("way", ["closed/file", "link", "closed/back"])
def test_what_lies_behind_a_closed_folder_is_out_of_reach(open_folder: Path, way: str) -> None:
    for name in ("file", "closed/file"):
        (open_folder / name).parent.mkdir(exist_ok=True)
        (open_folder / name).write_text("")
        (open_folder / name).chmod(0o644)
    (open_folder / "link").symlink_to("closed/file")
    (open_folder / "closed/back").symlink_to("../file")
    (open_folder / "closed").chmod(0o755)
    assert reach.out_of_reach(open_folder / way) is None
    (open_folder / "closed").chmod(0o750)
    said = f"{open_folder}/closed is closed to others: its mode is 750"
    assert reach.out_of_reach(open_folder / way) == said


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/root/.local/share/pipx/venvs/rounded-pbx/bin/rounded-pbx", "below /root"),
        ("/home/ann/venv/bin/rounded-pbx", "below /home"),
        ("/tmp/venv/bin/rounded-pbx", "below /tmp"),
        ("/var/tmp/rounded-pbx", "below /var/tmp"),
        ("/opt/my venv/bin/rounded-pbx", "its path holds more than"),
        ("/opt/100%/rounded-pbx", "its path holds more than"),
        ("/opt/$HOME/rounded-pbx", "its path holds more than"),
    ],
)
def test_what_is_hidden_or_cannot_be_written_in_a_unit_is_out_of_reach(path: str, why: str) -> None:
    assert why in str(reach.out_of_reach(Path(path)))


def test_a_link_to_what_is_hidden_is_out_of_reach(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/home/ann/python3")
    assert "below" in str(reach.out_of_reach(link))


def test_a_python_without_the_command_says_so(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    missing = run("--config", config)
    assert missing.exit_code == 2
    assert f"{tmp_path}/rounded-pbx is not there: expected rounded_pbx to be" in missing.stderr
