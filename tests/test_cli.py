"""The commands that send nothing: check and route."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rounded_pbx import __version__
from rounded_pbx.cli import app, main

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
KEY = "rk_live_5e17c0ffee"
GOOD = f"""\
accounts: {{default: {{key_env: API_KEY}}}}
calls: {{wait: sync}}
numbers: {{country: FR, withheld: +33000000000}}
routes:
  - name: support
    did: +33612345678
    agent_id: {AGENT}
    direction: inbound
    dynamic_variables: {{name: "{{caller.name}}", account: "{{channel.ACCOUNT}}", vip: true}}
    custom_headers: {{X-Customer: "{{channel.CUSTOMER}}"}}
    on_failure: fallback
    fallback: {{asterisk: "from-internal,600,1", freeswitch: "600 XML default"}}
  - name: by-name
    agent_id: {AGENT}
"""
BAD = f"""\
accounts: {{}}
calls: {{deadline: 99}}
frob: 1
routes:
  - name: a
    agent_id: nope
  - name: a
    agent_id: {AGENT}
    did: "[bold]"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(GOOD)
    monkeypatch.setenv("ROUNDED_PBX_CONFIG", str(path))
    monkeypatch.setenv("API_KEY", KEY)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def main_exits(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["rounded-pbx", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_the_version_is_told() -> None:
    assert run("--version").output == f"rounded-pbx {__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(flag: str) -> None:
    output = run(flag).output
    assert all(name in output for name in ("serve", "check", "route", "stage", "sandbox"))


def test_check_of_a_good_file_lists_the_routes_and_no_key(config: Path) -> None:
    result = run("check")
    assert result.exit_code == 0
    assert f"{config}: no mistakes\n" in result.output
    assert "by name only" in result.output
    assert KEY not in result.output


def test_check_shows_where_each_route_leads_in_full(config: Path) -> None:
    output = run("check").output
    for shown in (AGENT, "+33612345678", "from-internal,600,1", "600 XML default"):
        assert shown in output


def test_check_tells_every_mistake_with_its_line_and_exits_with_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(BAD)
    assert main_exits(monkeypatch, "check") == 2
    told = capsys.readouterr()
    assert told.out == ""
    expected = [
        ":2: calls.deadline: 99: input should be less than or equal to 30",
        ":3: frob is not known; expected one of accounts, api, asterisk, calls, freeswitch, ",
        ":5: account default is not in accounts: none",
        f":6: routes.0.agent_id: 'nope' is not a UUID, such as {AGENT}",
        ":7: a second route is named a",
        ":7: account default is not in accounts: none",
        ":9: routes.1.did.0: '[bold]' is not a DID, such as +33612345678, +336* or *",
    ]
    lines = told.err.splitlines()
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{config}{start}")


def test_check_as_a_process_exits_with_2_and_no_traceback(config: Path) -> None:
    command = [sys.executable, "-m", "rounded_pbx", "check", "-c", f"{config}.missing"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{config}.missing:1: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("directory", ["[bold]", "[red]x", "[/]", ":warning:"])
def test_a_file_is_named_as_it_is_called_and_not_read_as_markup(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    directory: str,
) -> None:
    path = tmp_path / directory / "config.yml"
    path.parent.mkdir(parents=True)
    path.write_text("accounts: {}\nfrob: 1\n")
    assert main_exits(monkeypatch, "check", "--config", str(path)) == 2
    assert capsys.readouterr().err.startswith(f"{path}:2: frob is not known")


def test_check_tells_a_key_that_is_not_there(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("API_KEY")
    assert main_exits(monkeypatch, "check") == 2
    told = "accounts.default: the environment variable of key_env is not set"
    assert capsys.readouterr().err == f"{config}:1: {told}\n"


def test_a_file_on_the_command_line_wins_over_the_environment(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yml"
    other.write_text(GOOD.replace("support", "elsewhere"))
    assert "elsewhere" in run("route", "--did", "+33612345678", "--config", str(other)).output
    assert "support" in run("route", "--did", "+33612345678").output


ASKED = ["route", "--did", "0612345678", "--from", "0700000001", "--name", "Jean\r\nX"]
REQUEST = {
    "from_number": "+33700000001",
    "to_number": "+33612345678",
    "agent_id": AGENT,
    "direction": "inbound",
    "dynamic_variables_values": {"name": "Jean  X", "account": "a=1", "vip": True},
    "custom_headers": {"X-Customer": "42"},
}


def test_route_as_json_shows_the_exact_request_and_needs_no_key(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_KEY")
    channel = ["--channel", "ACCOUNT=a=1", "--channel", "CUSTOMER=42"]
    result = run(*ASKED, *channel, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "route": "support",
        "account": "default",
        "lookup": None,
        "request": REQUEST,
        "problem": "",
    }


TENANTS = GOOD.replace(
    "accounts: {default: {key_env: API_KEY}}\n",
    """\
accounts:
  default: {key_env: API_KEY, rate: 2.5}
  acme:
    key_env: API_KEY
    account_codes: [4711, "[bold]"]
    domains: [acme.example.net]
    contexts: [from-acme]
    max_in_flight: 50
  spare: {key_env: API_KEY}
""",
).replace("  - name: by-name\n", "  - name: by-name\n    account: spare\n")


@pytest.mark.parametrize(
    ("options", "account"),
    [
        ([], "default"),
        (["--account-code", "4711"], "acme"),
        (["--domain", "ACME.example.net"], "acme"),
        (["--context", "from-acme"], "acme"),
        (["--context", "elsewhere", "--domain", "x", "--account-code", "1"], "default"),
        (["--account-code", "4711", "--route", "by-name"], "spare"),
        (["--account-code", "4711", "--from", "nobody"], "acme"),
    ],
)
def test_route_shows_the_account_that_a_call_leads_to(
    config: Path, options: list[str], account: str
) -> None:
    config.write_text(TENANTS.replace(", withheld: +33000000000", ""))
    found = run("route", "--did", "+33612345678", "--from", "+33700000001", *options, "--json")
    told = json.loads(found.output)
    assert told["account"] == account
    assert (told["request"] is None) == ("nobody" in options)
    assert f"account     {account}\n" in run("route", "--did", "+33612345678", *options).output


def test_a_call_without_a_route_has_no_account(config: Path) -> None:
    config.write_text(TENANTS)
    told = json.loads(run("route", "--did", "1", "--account-code", "4711", "--json").output)
    assert (told["route"], told["account"]) == (None, None)


def test_check_shows_what_leads_to_each_account_and_how_much_it_may_stage(config: Path) -> None:
    config.write_text(TENANTS)
    first, _, second = run("check").output.partition("\n\n")
    assert re.search(r"support .* by the call ", first)
    assert re.search(r"by-name .* spare ", first)
    lines = [line.rstrip() for line in second.splitlines()]
    table = [re.split("  +", line.strip()) for line in lines[:-1]]
    assert table == [
        ["account", "calls", "in flight", "a second"],
        ["default", "all others", "-", "2.5"],
        ["acme", "account code 4711", "50", "-"],
        ["account code [bold]"],
        ["domain acme.example.net"],
        ["context from-acme"],
        ["spare", "route by-name", "-", "-"],
    ]


def test_check_says_nothing_more_of_accounts_that_only_routes_name(config: Path) -> None:
    config.write_text(GOOD.replace("API_KEY}", "API_KEY}, spare: {key_env: API_KEY}"))
    output = run("check").output
    assert "all others" not in output
    assert re.search(r"support .* default ", output)
    assert "by the call" not in output


def test_route_shows_a_person_what_would_be_sent_and_where(config: Path) -> None:
    result = run(*ASKED, "--channel", "ACCOUNT=a=1", "--channel", "CUSTOMER=42")
    assert result.exit_code == 0
    head, brace, body = result.output.partition("{\n")
    assert json.loads(brace + body) == REQUEST
    assert "support" in head
    assert "POST https://api.callrounded.com/v1/calls/stage?sync=true" in head
    assert "from-internal,600,1" in head


LOOKUP = """\
    lookup:
      url: "https://crm.example.net/c/{caller.number}/{channel.ACCOUNT}"
      headers: {X-Tenant: acme}
      secret_headers: {Authorization: {key_env: CRM}}
      variables: {first_name: name, tier: "tags[0]"}
"""


@pytest.fixture
def with_lookup(config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    head, name, rest = GOOD.partition("  - name: by-name\n")
    config.write_text(head + LOOKUP + name + rest)
    monkeypatch.setenv("CRM", f"Bearer {KEY}")
    return config


@pytest.mark.usefixtures("with_lookup")
def test_route_shows_the_lookup_and_none_of_its_secrets() -> None:
    url = "https://crm.example.net/c/%2B33700000001/a%3D1"
    result = run(*ASKED, "--channel", "ACCOUNT=a=1", "--json")
    assert json.loads(result.output)["lookup"] == {
        "url": url,
        "headers": {"X-Tenant": "acme", "Authorization": "***"},
        "variables": ["first_name", "tier"],
    }
    shown = run(*ASKED, "--channel", "ACCOUNT=a=1").output
    for text in (f"GET {url}\n", "X-Tenant: acme\n", "Authorization: ***\n", "first_name, tier\n"):
        assert text in shown
    assert KEY not in result.output + shown
    left_out = run(*ASKED, "--channel", "ACCOUNT=..")
    assert left_out.exit_code == 0
    assert "lookup      none: a value of this call cannot stand in the path" in left_out.output


def test_check_tells_a_secret_header_that_is_not_there(
    with_lookup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check").exit_code == 0
    assert KEY not in run("check").output
    monkeypatch.delenv("CRM")
    assert main_exits(monkeypatch, "check") == 2
    where = f"{with_lookup}:16: routes.0.lookup.secret_headers.Authorization"
    told = f"{where}: the environment variable of key_env is not set\n"
    assert capsys.readouterr().err == told


def test_route_shows_a_person_the_fallback_in_the_switchs_own_notation(config: Path) -> None:
    output = run(*ASKED).output
    assert "from-internal,600,1" in output
    assert "Switch." not in output


@pytest.mark.parametrize(
    ("arguments", "name", "problem"),
    [
        (["--did", "+33699999999"], None, "no route"),
        (["--did", "+33612345678", "--route", "none"], None, "no route"),
        (["--did", "600", "--route", "by-name"], "by-name", "DID: not a possible number in FR"),
        (["--did", "", "--route", "by-name"], "by-name", "DID: not a phone number"),
    ],
)
def test_route_tells_why_a_call_would_not_be_staged_and_exits_with_1(
    config: Path, arguments: list[str], name: str | None, problem: str
) -> None:
    result = run("route", *arguments, "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert (told["route"], told["request"], told["problem"]) == (name, None, problem)
    result = run("route", *arguments)
    assert result.exit_code == 1
    assert problem in result.output


def test_a_route_can_be_asked_for_by_its_name(config: Path) -> None:
    result = run("route", "--did", "+33612345678", "--route", "by-name", "--json")
    assert json.loads(result.output)["route"] == "by-name"


def test_a_withheld_caller_is_shown_with_the_number_of_the_policy(config: Path) -> None:
    result = run("route", "--did", "+33612345678", "--from", "anonymous", "--json")
    assert json.loads(result.output)["request"]["from_number"] == "+33000000000"


@pytest.mark.parametrize("did", ["[/]", "[bold]1", ":warning:"])
def test_a_did_is_shown_as_it_was_given_and_not_read_as_markup(config: Path, did: str) -> None:
    result = run("route", "--did", did)
    assert result.exit_code == 1
    assert f"no route for {did}:" in result.output


@pytest.mark.parametrize("pair", ["ACCOUNT", "=1", ""])
def test_a_channel_variable_without_a_name_or_a_value_is_a_usage_error(
    config: Path, pair: str
) -> None:
    result = run("route", "--did", "+33612345678", "--channel", pair)
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.output


def test_route_needs_a_did(config: Path) -> None:
    result = run("route")
    assert result.exit_code == 2
    assert "--did" in result.output


def test_route_of_a_bad_file_tells_its_mistakes(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(BAD)
    assert main_exits(monkeypatch, "route", "--did", "1") == 2
    assert f"{config}:2: calls.deadline" in capsys.readouterr().err


TRUNK = "trunk: {host: sip.example.net}\n"


@pytest.fixture
def etc(config: Path, tmp_path: Path) -> Path:
    config.write_text(GOOD + TRUNK)
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("extensions.conf", "pjsip.conf"):
        (etc / name).write_text("[theirs]\n")
    return etc


def test_the_dialplan_is_shown_with_what_is_left_to_do(etc: Path) -> None:
    shown = run("dialplan", "asterisk", "--folder", str(etc))
    assert shown.exit_code == 0
    for text in (
        f"{etc}/extensions_rounded.conf",
        "exten => +33612345678,1,Set(ROUNDED_NEXT=fallback)",
        f"{etc}/pjsip_rounded.conf",
        "At the top of extensions.conf: #include extensions_rounded.conf",
        "\n    exten => +33612345678,1,Gosub(rounded,${EXTEN},1)\n",
        'asterisk -rx "dialplan reload"',
    ):
        assert text in shown.output
    machine = json.loads(run("dialplan", "fusionpbx", "--json").output)
    assert set(machine) == {"files", "left", "reload"}
    machine_asterisk = json.loads(run("dialplan", "asterisk", "--json").output)
    assert "    exten => +33612345678,1,Gosub(rounded,${EXTEN},1)" in machine_asterisk["left"]
    assert machine["files"]["public.xml"].startswith("<!-- rounded_pbx for FusionPBX")


def test_a_dialplan_is_installed_compared_and_taken_out(etc: Path) -> None:
    there = ["dialplan", "asterisk", "--folder", str(etc)]
    compared = run(*there, "--diff")
    assert compared.exit_code == 1
    assert "+#include extensions_rounded.conf\n" in compared.output
    assert sorted(path.name for path in etc.iterdir()) == ["extensions.conf", "pjsip.conf"]
    installed = run(*there, "--install")
    assert installed.exit_code == 0
    assert f"changed {etc}/extensions.conf\n" in installed.output
    assert "Gosub(rounded," in installed.output
    assert "#include extensions_rounded.conf" in (etc / "extensions.conf").read_text()
    assert "nothing to do" in run(*there, "--install").output
    same = run(*there, "--diff")
    assert (same.exit_code, same.output) == (0, "nothing differs\n")
    (etc.parent / "config.yml").unlink()  # it needs no configuration
    removed = run(*there, "--uninstall")
    assert removed.exit_code == 0
    assert f"removed {etc}/pjsip_rounded.conf\n" in removed.output
    assert (etc / "extensions.conf").read_text() == "[theirs]\n"


def test_what_a_dialplan_cannot_be_written_for_is_told(config: Path, etc: Path) -> None:
    (etc / "pjsip.conf").unlink()
    lacking = run("dialplan", "asterisk", "--folder", str(etc), "--install")
    assert lacking.exit_code == 2
    assert f"{etc}/pjsip.conf: is not there" in lacking.output
    assert "database" in run("dialplan", "fusionpbx", "--install").output
    assert "expected one of asterisk, asterisk-chan-sip, freepbx" in run("dialplan", "x").output
    assert "at most one of" in run("dialplan", "asterisk", "--diff", "--install").output
    config.write_text(GOOD)
    without = run("dialplan", "freeswitch")
    assert (without.exit_code, "trunk is missing" in without.output) == (2, True)


def test_a_change_that_fails_halfway_says_where(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rounded_pbx import cli_dialplan

    def full(change: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(cli_dialplan, "apply", full)
    failed = run("dialplan", "asterisk", "--folder", str(etc), "--install")
    assert failed.exit_code == 1
    assert f"{etc}/extensions_rounded.conf: No space left on device" in failed.output
    assert "the same command goes on from there" in failed.output


def test_a_reload_needs_to_know_how_before_anything_is_written(etc: Path) -> None:
    there = ["dialplan", "asterisk", "--folder", str(etc), "--reload"]
    for flavour, option in (("asterisk", "asterisk.ami"), ("freeswitch", "freeswitch.esl")):
        (etc / "dialplan/public").mkdir(parents=True, exist_ok=True)
        (etc / "sip_profiles/external").mkdir(parents=True, exist_ok=True)
        refused = run("dialplan", flavour, "--folder", str(etc), "--install", "--reload")
        assert refused.exit_code == 2
        assert f"{option} is missing: expected how to log" in " ".join(refused.output.split())
    assert "--reload goes with --install" in " ".join(run(*there).output.split())
    assert not (etc / "extensions_rounded.conf").exists()


@pytest.mark.parametrize("status", [0, 1])
def test_freepbx_is_reloaded_with_its_own_command(
    etc: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    fwconsole = etc / "fwconsole"
    fwconsole.write_text(f'#!/bin/sh\necho "$@" >> {etc}/asked\necho broken >&2\nexit {status}\n')
    fwconsole.chmod(0o755)
    monkeypatch.setenv("PATH", f"{etc}:{os.environ['PATH']}")
    done = run("dialplan", "freepbx", "--folder", str(etc), "--install", "--reload")
    assert done.exit_code == status
    assert "Custom Destinations" in done.output
    assert (etc / "asked").read_text() == "reload\n"
    assert ("fwconsole reload: broken" in done.output) is bool(status)
    assert ("read by the switch" in done.output) is not bool(status)
    # Once more: the files stand, and whether the switch has read them nobody knows.
    again = run("dialplan", "freepbx", "--folder", str(etc), "--install", "--reload")
    assert (again.exit_code, "nothing to do" in again.output) == (status, True)
    assert (etc / "asked").read_text() == "reload\nreload\n"
    assert ("fwconsole reload: broken" in again.output) is bool(status)
    assert "Custom Destinations" not in again.output
