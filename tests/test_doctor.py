"""The doctor without a switch, and against a manager that says what it is told to say.

The real switches are in asterisk/test_doctor.py and freeswitch/test_doctor.py.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rounded_pbx.cli import app
from rounded_pbx.config import Config
from rounded_pbx.config_types import Address
from rounded_pbx.dialplan.flavours import Flavour
from rounded_pbx.dialplan.rendering import render
from rounded_pbx.doctor import asterisk_dialplan as plans
from rounded_pbx.doctor.api import check_api
from rounded_pbx.doctor.asterisk import check_asterisk
from rounded_pbx.doctor.asterisk_proof import copy
from rounded_pbx.doctor.files import check_files
from rounded_pbx.doctor.proof import CannotProve
from rounded_pbx.doctor.results import CheckResult, Verdict, exit_status, look, right, wrong
from rounded_pbx.errors import CommandFailed
from rounded_pbx.sandbox import Behaviour, Sandbox, serving
from rounded_pbx.sip import ping

from .lab.doctor import answering_options
from .lab.processes import free_port

DID = "+33612345678"
AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"


def config(**changes: Any) -> Config:
    fallback = {"asterisk": "from-internal,600,1", "freeswitch": "600 XML default"}
    route = {"name": "a", "did": DID, "agent_id": AGENT, "fallback": fallback}
    data: dict[str, Any] = {
        "accounts": {"default": {"key_env": "KEY"}},
        "routes": [{**route, "on_failure": "fallback"}],
        "trunk": {"host": "127.0.0.3:5080"},
    }
    return Config.model_validate({**data, **changes})


def named(results: list[CheckResult]) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


# What is said, and how.


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(text)
    return path


def test_a_configuration_with_mistakes_is_all_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "accounts: {a: {key_env: KEY}}\ncalls: {deadline: no}\nroutes: 1\n")
    ran = CliRunner().invoke(app, ["doctor", "--json", "--config", str(path)])
    said = json.loads(ran.stdout)
    assert (ran.exit_code, said["status"]) == (2, 2)
    assert [check["seen"] for check in said["checks"]] == [f"{path}:2", f"{path}:3"]
    assert "deadline" in said["checks"][0]["wrong"]


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["doctor", "--config", str(tmp_path / "none.yml")])
    assert ran.exit_code == 2
    assert "none.yml" in ran.stdout
    assert "1 wrong" in ran.stdout


def test_live_goes_with_prove() -> None:
    ran = CliRunner().invoke(app, ["doctor", "--live"])
    assert ran.exit_code == 2
    assert "--prove" in ran.stderr


def test_without_a_daemon_an_api_and_a_login_each_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    agi, esl, api = free_port(), free_port(), free_port()
    path = write(
        tmp_path,
        "accounts: {default: {key_env: KEY}, other: {key_env: KEY}}\n"
        f"api: {{base_url: 'http://127.0.0.1:{api}'}}\n"
        f"asterisk: {{fastagi: {{listen: '127.0.0.1:{agi}'}}}}\n"
        f"freeswitch: {{outbound: {{listen: '127.0.0.1:{esl}'}}}}\n",
    )
    ran = CliRunner().invoke(app, ["doctor", "--json", "--prove", "--config", str(path)])
    said = {check["name"]: check["verdict"] for check in json.loads(ran.stdout)["checks"]}
    assert said == {
        "configuration": "right",
        "secrets": "right",
        "api.reach": "wrong",
        "api.key.default": "skipped",
        "api.key.other": "skipped",
        "daemon.asterisk": "wrong",
        "daemon.asterisk.allow": "skipped",
        "daemon.freeswitch": "wrong",
        "daemon.freeswitch.allow": "skipped",
        "switch": "look",
    }
    assert ran.exit_code == 2
    for_a_person = CliRunner().invoke(app, ["doctor", "--config", str(path)]).stdout
    assert "WRONG   daemon.asterisk " in for_a_person
    assert f"127.0.0.1:{agi}: Connection refused" in for_a_person
    assert "why the daemon is not there" in for_a_person
    assert "do  start it: systemctl start rounded-pbx" in for_a_person
    assert for_a_person.endswith("3 wrong, 1 to look at, 4 skipped, 2 right\n")


def test_keys_and_secrets_that_are_not_there_are_said(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"accounts: {{default: {{key_file: {tmp_path}/none}}}}\n"
        "asterisk: {fastagi: {listen: off}, ami: {username: a, secret_env: NOT_THERE}}\n"
        "freeswitch:\n  outbound: {listen: '127.0.0.1:1'}\n  esl: {secret_env: NOT_THERE}\n",
    )
    ran = CliRunner().invoke(app, ["doctor", "--json", "--prove", "--config", str(path)])
    said = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert said["api.key"]["verdict"] == "wrong"
    assert said["secrets"]["verdict"] == "skipped"
    for switch in ("asterisk", "freeswitch"):
        assert said[f"{switch}.login"]["verdict"] == "wrong"
        assert "NOT_THERE" not in ran.stdout
        assert said[f"prove.{switch}"]["verdict"] == "skipped"


def test_the_exit_status_is_the_worst_that_was_said() -> None:
    good, doubtful, bad = right("a", "b"), look("a", "b", "c", "d"), wrong("a", "b", "c", "d")
    assert [exit_status(each) for each in ([], [good], [good, doubtful], [bad, doubtful])] == [
        *[0, 0, 1, 2]
    ]


def test_nothing_that_is_shown_moves_a_terminal() -> None:
    found = wrong("a", "\x1b[2J\x9b\u202e\n" + "x" * 10_000, "\x07", "\r")
    assert found.seen.startswith("?[2J???xxx")
    assert len(found.seen) == 501
    assert (found.wrong, found.todo) == ("?", "?")


def test_a_defect_is_one_line_and_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(config: Config) -> CheckResult:
        raise RecursionError("too deep")

    monkeypatch.setattr("rounded_pbx.doctor.examine.check_files", breaks)
    path = write(tmp_path, "accounts: {default: {key_env: KEY}}\n")
    ran = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert ran.exit_code == 2
    assert "RecursionError: too deep" in ran.stdout


# The files.


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        (0o600, Verdict.RIGHT),
        (0o400, Verdict.RIGHT),
        (0o640, Verdict.RIGHT),
        (0o644, Verdict.WRONG),
        (0o660, Verdict.WRONG),
        (0o602, Verdict.WRONG),
    ],
)
def test_who_may_read_the_secrets(tmp_path: Path, mode: int, verdict: Verdict) -> None:
    key, secret = tmp_path / "key", tmp_path / "secret"
    for path in (key, secret):
        path.write_text("x")
        path.chmod(0o600)
    secret.chmod(mode)
    found = check_files(
        config(
            accounts={"default": {"key_file": str(key)}},
            asterisk={"ami": {"username": "a", "secret_file": str(secret)}},
        )
    )
    assert found.verdict is verdict
    assert f"{secret} {mode:04o}" in found.seen
    if verdict is Verdict.WRONG:
        assert found.todo == f"chmod 0600 {secret}"


# The API.


async def of_api(url: str, key: str = "sandbox", **api: Any) -> dict[str, CheckResult]:
    settings = config(api={"base_url": url, **api})
    return named([result async for result in check_api(settings, "default", key)])


@pytest.mark.parametrize(
    ("behaviour", "key", "reach", "key_verdict"),
    [
        ({}, "sandbox", Verdict.RIGHT, Verdict.RIGHT),
        ({}, "another", Verdict.RIGHT, Verdict.WRONG),
        ({"fault": "500"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"fault": "429"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"fault": "html"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"fault": "half-json"}, "sandbox", Verdict.RIGHT, Verdict.RIGHT),  # it is not read
        ({"fault": "reset"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"fault": "hang"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"fault": "drip"}, "sandbox", Verdict.WRONG, Verdict.SKIPPED),
        ({"latency": 0.8}, "sandbox", Verdict.WRONG, Verdict.RIGHT),
    ],
)
async def test_what_the_api_does_is_told(
    behaviour: dict[str, object],
    key: str,
    reach: Verdict,
    key_verdict: Verdict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rounded_pbx.doctor.api.LIMIT", 1.2)
    sandbox = Sandbox("sandbox", Behaviour.model_validate(behaviour))
    async with serving(sandbox, Address("127.0.0.1", 0)) as url:
        found = await of_api(url, key)
    assert (found["api.reach"].verdict, found["api.key.default"].verdict) == (reach, key_verdict)
    assert len(sandbox.calls.newest(10)) == 0
    assert not any(key in str(result) for result in found.values())


@pytest.mark.parametrize(
    ("ahead", "verdict", "says"),
    [(5.0, Verdict.RIGHT, "ahead"), (600, Verdict.LOOK, "ahead"), (-600, Verdict.LOOK, "behind")],
)
async def test_a_clock_that_goes_wrong_is_told(
    ahead: float, verdict: Verdict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Sandbox("sandbox", Behaviour()), Address("127.0.0.1", 0)) as url:
        here = time.time
        monkeypatch.setattr("rounded_pbx.doctor.api.time.time", lambda: here() + ahead)
        found = (await of_api(url))["clock"]
    assert found.verdict is verdict
    assert says in found.seen


# The trunk.


async def test_an_options_is_answered() -> None:
    with answering_options() as trunk:
        host, _, port = trunk.partition(":")
        assert (await ping(host, int(port))).first_line == "SIP/2.0 200 OK"


async def test_an_options_to_nobody() -> None:
    with pytest.raises(OSError, match="refused"):
        await ping("127.0.0.3", free_port("127.0.0.3", socket.SOCK_DGRAM))
    with pytest.raises(OSError, match=r"nown|resolution|failure"):
        await ping("does-not-exist.invalid", 5060)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.3", 0))
        with pytest.raises(TimeoutError):
            await ping("127.0.0.3", silent.getsockname()[1], limit=0.3)


# A manager that says what it is told to say.


class Manager:
    """As much of Asterisk's manager as the doctor asks, from a table."""

    address = Address("127.0.0.1", 5038)

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = told

    async def loaded(self, modules: Any) -> frozenset[str]:
        gone = self._told.get("gone", {"chan_sip"})
        return frozenset(module for module in modules if module not in gone)

    async def listed(self, action: str, **fields: str) -> list[dict[str, str]]:
        found = self._told.get(" ".join([action, *fields.values()]))
        if found is None:
            raise CommandFailed(f"{action}: Unable to find it")
        return list(found)

    async def act(self, action: str, **fields: str) -> Mapping[str, str]:
        return (await self.listed(action, **fields))[0]


def loaded_dialplan(flavour: Flavour = Flavour.ASTERISK) -> list[dict[str, str]]:
    """What ShowDialPlan says of our own file."""
    files = render(flavour, config()).files
    text = next(text for name, text in files.items() if name.startswith("extensions"))
    return [
        {
            "context": line.context,
            "extension": line.extension,
            "priority": str(line.priority),
            "application": line.application,
            "appdata": line.data,
            **({"extensionlabel": line.label} if line.label else {}),
        }
        for line in plans.written(text).lines
    ] + [
        {"context": "from-trunk", "extension": DID, "priority": "1", "application": "Gosub"}
        | {"appdata": "rounded,${EXTEN},1"},
    ]


ENDPOINT = {
    "objecttype": "endpoint",
    "objectname": "rounded",
    "context": "rounded-from-agent",
    "identifyby": "ip",
    "setvar": "A=b\nTRANSFER_CONTEXT=rounded-from-agent",
}
CONTACT = {"event": "ContactStatusDetail", "uri": "sip:127.0.0.3:5080", "status": "Reachable"}


TOLD: dict[str, Any] = {
    "ShowDialPlan": loaded_dialplan(),
    f"ShowDialPlan {plans.FROM_AGENT}": [],
    "PJSIPShowEndpoints": [{"objectname": "rounded"}],
    "PJSIPShowEndpoint rounded": [ENDPOINT, CONTACT],
}


async def of_asterisk(trunk: Any = None, **told: Any) -> dict[str, CheckResult]:
    """The checks that are not right, with what the manager says changed."""
    say = {**TOLD, **told}
    settings = config(**({"trunk": trunk} if trunk else {}))
    results = [result async for result in check_asterisk(Manager(say), settings)]
    return {result.name: result for result in results if result.verdict is not Verdict.RIGHT}


async def test_a_manager_that_tells_of_nothing_wrong() -> None:
    assert await of_asterisk() == {}


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([ENDPOINT], "no contact"),
        ([ENDPOINT, {**CONTACT, "status": "Unreachable"}], "is Unreachable"),
        ([ENDPOINT, {**CONTACT, "uri": "sip:10.0.0.1"}], "contact sip:10.0.0.1"),
        ([{**ENDPOINT, "identifyby": "username,ip"}, CONTACT], "identify_by=username,ip"),
        ([{**ENDPOINT, "context": "default"}, CONTACT], "context=default"),
        ([{**ENDPOINT, "setvar": "A=b"}, CONTACT], "no set_var=TRANSFER_CONTEXT=rounded-from"),
        ([ENDPOINT, {**CONTACT, "uri": "sip:127.0.0.3:5081"}], "expected sip:127.0.0.3:5080"),
        ([ENDPOINT, {**CONTACT, "uri": "sip:127.0.0.33:5080"}], "expected sip:127.0.0.3:5080"),
    ],
)
async def test_a_trunk_that_is_not_as_it_should_be(events: Any, says: str) -> None:
    found = await of_asterisk(**{"PJSIPShowEndpoint rounded": events})
    assert list(found) == ["asterisk.trunk"]
    assert found["asterisk.trunk"].verdict is Verdict.WRONG
    assert says in found["asterisk.trunk"].seen


async def test_a_trunk_whose_login_is_not_taken() -> None:
    registration = {"objecttype": "registration", "endpoint": "rounded", "status": "Rejected"}
    found = await of_asterisk(PJSIPShowRegistrationsOutbound=[registration])
    assert "registration of rounded: Rejected" in found["asterisk.trunk"].seen
    assert (
        await of_asterisk(PJSIPShowRegistrationsOutbound=[{**registration, "status": "Registered"}])
        == {}
    )
    found = await of_asterisk({"host": "127.0.0.3:5080", "auth": True})
    assert "no outbound_auth" in found["asterisk.trunk"].seen


async def test_a_trunk_over_tcp_is_asked_for_a_connection() -> None:
    protocol = {"objecttype": "transport", "protocol": "tcp"}
    with socket.socket() as there:
        there.bind(("127.0.0.3", 0))
        there.listen()
        host = f"127.0.0.3:{there.getsockname()[1]}"
        contact = {**CONTACT, "status": "NonQualified", "uri": f"sip:{host};transport=tcp"}
        told = {"PJSIPShowEndpoint rounded": [ENDPOINT, protocol, contact]}
        assert await of_asterisk({"host": host}, **told) == {}
    found = await of_asterisk({"host": host}, **told)
    assert found["asterisk.trunk"].verdict is Verdict.WRONG


async def test_a_trunk_that_says_nothing_wants_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rounded_pbx.doctor.trunk._LIMIT", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.3", 0))
        host = f"127.0.0.3:{silent.getsockname()[1]}"
        contact = {**CONTACT, "status": "NonQualified", "uri": f"sip:{host}"}
        found = await of_asterisk(
            {"host": host}, **{"PJSIPShowEndpoint rounded": [ENDPOINT, contact]}
        )
    assert found["asterisk.trunk"].verdict is Verdict.LOOK


@pytest.mark.parametrize(
    ("gone", "skipped"),
    [
        ({"chan_sip", "pbx_config"}, ["asterisk.contexts"]),
        ({"chan_sip", "res_pjsip"}, ["asterisk.entrances", "asterisk.trunk"]),
        ({"chan_sip", "app_stack"}, []),
    ],
)
async def test_what_a_missing_module_hides_is_skipped(gone: set[str], skipped: list[str]) -> None:
    found = await of_asterisk(gone=gone)
    assert found.pop("asterisk.modules").verdict is Verdict.WRONG
    assert list(found) == skipped
    assert {result.verdict for result in found.values()} <= {Verdict.SKIPPED}


PEER = {
    "context": "rounded-from-agent",
    "tohost": "127.0.0.3",
    "address-port": "5080",
    "chanvariable": "TRANSFER_CONTEXT=rounded-from-agent",
    "status": "OK (3 ms)",
}


@pytest.mark.parametrize(
    ("peer", "says"),
    [
        (PEER, None),
        ({**PEER, "status": "UNREACHABLE"}, "UNREACHABLE"),
        ({**PEER, "tohost": "10.0.0.1"}, "host and port 10.0.0.1:5080"),
        ({**PEER, "address-port": "5081"}, "host and port 127.0.0.3:5081"),
        ({**PEER, "chanvariable": ""}, "no setvar=TRANSFER_CONTEXT"),
        ({**PEER, "context": "default"}, "context=default"),
    ],
)
async def test_a_peer_of_chan_sip(peer: dict[str, str], says: str | None) -> None:
    found = await of_asterisk(
        gone={"chan_pjsip", "res_pjsip"},
        ShowDialPlan=loaded_dialplan(Flavour.ASTERISK_CHAN_SIP),
        SIPpeers=[{"objectname": "rounded"}],
        **{"SIPshowpeer rounded": [peer]},
    )
    assert list(found) == ([] if says is None else ["asterisk.trunk"])
    assert says is None or says in found["asterisk.trunk"].seen


async def test_a_context_without_a_line_is_asked_for() -> None:
    found = await of_asterisk(**{f"ShowDialPlan {plans.FROM_AGENT}": None})
    assert found["asterisk.contexts"].seen == "not loaded: rounded-from-agent"


async def test_a_configuration_without_a_trunk_has_nothing_to_compare_with() -> None:
    settings = config()
    without = settings.model_copy(update={"trunk": None})
    found = named([result async for result in check_asterisk(Manager(TOLD), without)])
    assert found["asterisk.contexts"].verdict is Verdict.LOOK
    assert "trunk is missing" in found["asterisk.contexts"].seen
    assert found["asterisk.trunk"].verdict is Verdict.SKIPPED


async def test_freepbx_is_told_to_look_at_its_own_screens() -> None:
    live = [*loaded_dialplan(), {"context": "app-blackhole"}]
    found = await of_asterisk(ShowDialPlan=live, **{"PJSIPShowEndpoint rounded": []})
    assert "Connectivity > Trunks" in found["asterisk.trunk"].todo


async def test_an_include_of_theirs_into_an_inner_context() -> None:
    live = [*loaded_dialplan(), {"context": "theirs", "includecontext": "rounded-call"}]
    found = await of_asterisk(ShowDialPlan=live)
    assert "[theirs] includes rounded-call" in found["asterisk.entrances"].seen
    for told in ({"switch": "Realtime/x"}, {"priority": "hint", "extension": "1"}):
        found = await of_asterisk(
            ShowDialPlan=[*loaded_dialplan(), {"context": "rounded-call", **told}]
        )
        assert list(found) == ["asterisk.dialplan"]
    live = [*loaded_dialplan(), {"context": "rounded-call", "includecontext": "theirs"}]
    found = await of_asterisk(ShowDialPlan=live)
    assert "rounded-call includes theirs" in found["asterisk.dialplan"].seen
    expected = plans.loaded(loaded_dialplan())
    with pytest.raises(CannotProve, match="includes"):
        copy(plans.loaded(live), expected, trunk_of(config()), Address("127.0.0.1", 1), None)


def trunk_of(settings: Config) -> Any:
    assert settings.trunk is not None
    return settings.trunk


async def test_many_endpoints_are_not_looked_at_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rounded_pbx.doctor.asterisk._MOST_ENDPOINTS", 2)
    found = await of_asterisk(
        PJSIPShowEndpoints=[{"objectname": name} for name in ("rounded", "gone", "more")]
    )
    assert "1 endpoints were not looked at" in found["asterisk.entrances"].seen


def test_a_copy_leads_nowhere_but_to_the_listener() -> None:
    listener = Address("127.0.0.1", 5099)
    for flavour in (Flavour.ASTERISK, Flavour.ASTERISK_CHAN_SIP):
        live = plans.loaded(loaded_dialplan(flavour))
        lines = copy(live, live, trunk_of(config()), listener, Address("127.0.0.1", 4999))
        assert {line.context.startswith("rounded-prove") for line in lines} == {True}
        dials = [line.data for line in lines if line.application == "Dial"]
        assert len(dials) == 4
        assert all("127.0.0.1:5099" in data and "@rounded," not in data for data in dials)
        text = "\n".join(line.data for line in lines)
        assert "from-internal" not in text.replace("ROUNDED_FALLBACK=from-internal,600,1", "")
        assert "rounded-stage" not in text
        assert [line.data[:28] for line in lines if line.application == "AGI"] == [
            "agi://127.0.0.1:4999/stage?d"
        ]
        jumps = [line.data for line in lines if line.application == "GotoIf"]
        assert not any(
            label in data.rpartition("]?")[2].split(":")[0]
            for data in jumps
            for label in ("unstaged", "cold", "failed", "back", "ask")
        )
