"""The doctor without a switch, and against a manager that says what it is told to say.

The real switches are in asterisk/test_doctor.py and freeswitch/test_doctor.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rounded_pbx.accounts import client_of
from rounded_pbx.call import Switch
from rounded_pbx.cli import app
from rounded_pbx.config import Config
from rounded_pbx.config_types import Address
from rounded_pbx.dialplan.flavours import Flavour
from rounded_pbx.dialplan.rendering import render
from rounded_pbx.doctor import asterisk_dialplan as plans
from rounded_pbx.doctor import freeswitch_dialplan, freeswitch_proof
from rounded_pbx.doctor.api import check_api
from rounded_pbx.doctor.asterisk import check_asterisk
from rounded_pbx.doctor.asterisk_proof import copy
from rounded_pbx.doctor.files import check_files
from rounded_pbx.doctor.freeswitch import check_freeswitch
from rounded_pbx.doctor.listener import rehearsal, trunk
from rounded_pbx.doctor.proof import CannotProve, ProofCall
from rounded_pbx.doctor.prove import _live
from rounded_pbx.doctor.results import CheckResult, Verdict, exit_status, look, right, wrong
from rounded_pbx.errors import CommandFailed
from rounded_pbx.sandbox import Behaviour, Sandbox, serving
from rounded_pbx.sip import ping

from .lab.doctor import answering_options
from .lab.processes import free_port
from .test_fastagi import Asterisk, environment

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


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("status: {token_file: /none}", "status.token"),
        ("prestage: {store: 'redis://127.0.0.1:1/0', secret_file: /none}", "prestage.password"),
        (
            "routes: [{name: a, agent_id: 411b82c8-462a-4e1b-89bc-10ab3ce1ed29, lookup: {url: "
            "'http://127.0.0.1:1/', variables: {a: b}, secret_headers: {X: {key_file: /none}}}}]",
            "lookup.header",
        ),
    ],
)
def test_a_secret_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, name: str
) -> None:
    monkeypatch.setenv("KEY", "sandbox")
    listen = "asterisk: {fastagi: {listen: off}}\nfreeswitch: {outbound: {listen: '127.0.0.1:1'}}"
    path = write(tmp_path, f"accounts: {{default: {{key_env: KEY}}}}\n{listen}\n{lines}\n")
    ran = CliRunner().invoke(app, ["doctor", "--json", "--config", str(path)])
    said = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert (said[name]["verdict"], "/none: No such file" in str(said[name])) == ("wrong", True)


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


@pytest.mark.parametrize(
    "data",
    [
        {"accounts": {"default": {"credential": "secret"}}},
        {"asterisk": {"ami": {"username": "a", "credential": "secret"}}},
        {"status": {"credential": "secret"}},
        {"status": {"token_file": "{0}/secret"}},
    ],
    ids=str,
)
def test_who_may_read_a_credential_and_the_token_of_the_status_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    settings = config(**json.loads(json.dumps(data).replace("{0}", str(tmp_path))))
    found = check_files(settings)
    assert (found.verdict, found.todo) == (Verdict.WRONG, f"chmod 0600 {secret}")
    secret.chmod(0o600)
    assert check_files(settings).verdict is Verdict.RIGHT


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
        ({"chan_sip", "func_channel"}, []),
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
            "agi://127.0.0.1:4999/${round"
        ]
        jumps = [line.data for line in lines if line.application == "GotoIf"]
        assert not any(
            label in data.rpartition("]?")[2].split(":")[0]
            for data in jumps
            for label in ("unstaged", "cold", "failed", "back", "ask")
        )


# An event socket that says what it is told to say.


def loaded_contexts() -> dict[str, str]:
    """What xml_locate says of our own files."""
    files = render(Flavour.FREESWITCH, config()).files
    root = ET.fromstring(files["dialplan/rounded.xml"])
    found = {
        element.get("name", ""): ET.tostring(element, encoding="unicode")
        for element in root.iter("context")
    }
    public = ET.fromstring(files["dialplan/public/00_rounded.xml"])
    extensions = "".join(ET.tostring(each, encoding="unicode") for each in public)
    return {**found, "public": f'<context name="public">{extensions}</context>'}


PROFILE = (
    '<configuration><profiles><profile name="external"><settings>'
    '<param name="context" value="public"/><param name="disable-transfer" value="true"/>'
    "</settings></profile></profiles></configuration>"
)
GATEWAY = (
    "<gateway><name>rounded</name><profile>external</profile><proxy>sip:127.0.0.3:5080</proxy>"
    "<context>public</context><state>REGED</state><status>UP</status></gateway>"
)
EXTERNAL = (
    "<profile><profile-info><context>public</context><outbound-proxy>N/A</outbound-proxy>"
    "</profile-info></profile>"
)
NOTHING = "can't find anything"


class EventSocket:
    """As much of FreeSWITCH's event socket as the doctor asks, from a table."""

    def __init__(self, told: Mapping[str, str], gone: frozenset[str] = frozenset()) -> None:
        self._told = {
            **{
                f"xml_locate dialplan context name {name}": text
                for name, text in loaded_contexts().items()
            },
            "sofia xmlstatus": "<profiles><profile><name>external</name></profile>"
            "<gateway><name>rounded</name></gateway></profiles>",
            "sofia xmlstatus profile external": EXTERNAL,
            "sofia xmlstatus gateway rounded": GATEWAY,
            "xml_locate configuration configuration name sofia.conf": PROFILE,
            **told,
        }
        self._gone = {"mod_xml_curl", *gone}
        self.asked: list[str] = []

    async def loaded(self, modules: Any) -> frozenset[str]:
        return frozenset(module for module in modules if module not in self._gone)

    async def api(self, command: str) -> str:
        self.asked.append(command)
        return self._told.get(command, "+OK" if command.startswith("originate") else NOTHING)


async def of_freeswitch(told: Mapping[str, str], *gone: str) -> dict[str, CheckResult]:
    socket = EventSocket(told, frozenset(gone))
    results = [result async for result in check_freeswitch(socket, config())]
    return {result.name: result for result in results if result.verdict is not Verdict.RIGHT}


BRIDGE, PUBLIC = (
    f"xml_locate dialplan context name {name}" for name in ("rounded_bridge", "public")
)
LUA = "xml_locate configuration configuration name lua.conf"
HANDLED = '<c><param name="xml-handler-bindings" value="dialplan,directory"/></c>'
SET = '<action application="set" data="sip_h_X-Rounded-Call-Id=$1"/>'
STAGED = '<action application="bridge" data="{${rounded_options},rounded_call_id=$1,'


def edited(context: str, old: str, new: str) -> dict[str, str]:
    text = loaded_contexts()[context].replace(" />", "/>")
    assert old in text, old
    return {f"xml_locate dialplan context name {context}": text.replace(old, new, 1)}


INTO = '<context name="a"><extension name="b"><condition><action application="transfer" data="{}"/>'
INTO = f"<section>{INTO}</condition></extension></context></section>"
USER = '<section><user id="9"><variables><variable name="user_context" value="rounded_after"/>'


@pytest.mark.parametrize(
    ("told", "check", "verdict", "says"),
    [
        ({}, None, None, ""),
        ({BRIDGE: NOTHING}, "contexts", Verdict.WRONG, "rounded_bridge"),
        ({BRIDGE: loaded_contexts()["public"]}, "contexts", Verdict.WRONG, "rounded_bridge"),
        ({PUBLIC: NOTHING}, "contexts", Verdict.WRONG, "its extensions rounded-"),
        ({BRIDGE: NOTHING, LUA: HANDLED}, "contexts", Verdict.LOOK, "a handler writes"),
        ({BRIDGE: "<a>" * 200 + "</a>" * 200}, "contexts", Verdict.WRONG, "rounded_bridge"),
        (
            edited("rounded_bridge", STAGED, SET + STAGED),
            "header",
            Verdict.WRONG,
            "on the caller's channel",
        ),
        (
            edited("rounded_bridge", "sip_h_X-Rounded-Call-Id=$1}", "}"),
            "header",
            Verdict.WRONG,
            "no bridge of rounded_bridge",
        ),
        (
            edited("rounded_bridge", "{${rounded_options},rounded_call_id=$1,sip_h_X", "sip_h_X"),
            "header",
            Verdict.WRONG,
            "does not have sip_h_X-Rounded-Call-Id in its braces",
        ),
        (
            edited("rounded_bridge", 'name="rounded-failed"', 'name="theirs"'),
            "dialplan",
            Verdict.WRONG,
            "rounded-failed is missing",
        ),
        (
            edited("rounded_after", "</context>", '<extension name="x"/></context>'),
            "dialplan",
            Verdict.WRONG,
            "x is not from us",
        ),
        (
            edited("rounded_bridge", 'data="NORMAL_CIRCUIT_CONGESTION"/>', 'data="OTHER"/>'),
            "dialplan",
            Verdict.WRONG,
            "OTHER",
        ),
        (
            edited(
                "public", "<extension", '<extension name="t"><condition/></extension><extension'
            ),
            "way-in",
            Verdict.LOOK,
            "t stands before ours",
        ),
        (
            {"xml_locate dialplan": INTO.format("9 XML rounded_bridge")},
            "entrances",
            Verdict.WRONG,
            "a, b: transfer 9 XML rounded_bridge",
        ),
        (
            {"xml_locate directory": f"{USER}</variables></user></section>"},
            "entrances",
            Verdict.WRONG,
            "user 9",
        ),
        (
            {"sofia xmlstatus profile external": EXTERNAL.replace("public", "rounded_after")},
            "entrances",
            Verdict.WRONG,
            "profile external",
        ),
        (
            {
                "xml_locate configuration configuration name sofia.conf": PROFILE.replace(
                    "disable-transfer", "x"
                )
            },
            "transfers",
            Verdict.LOOK,
            "external",
        ),
        (
            {"xml_locate configuration configuration name sofia.conf": NOTHING},
            "transfers",
            Verdict.SKIPPED,
            "sofia.conf",
        ),
        (
            {"sofia xmlstatus gateway rounded": "Invalid Gateway!"},
            "trunk",
            Verdict.WRONG,
            "no gateway rounded",
        ),
        (
            {"sofia xmlstatus gateway rounded": GATEWAY.replace("5080", "5081")},
            "trunk",
            Verdict.WRONG,
            "expected 127.0.0.3:5080",
        ),
        (
            {"sofia xmlstatus gateway rounded": GATEWAY.replace("REGED", "FAIL_WAIT")},
            "trunk",
            Verdict.WRONG,
            "FAIL_WAIT",
        ),
        (
            {"sofia xmlstatus gateway rounded": GATEWAY.replace("REGED", "NOREG")},
            "trunk",
            Verdict.WRONG,
            "Connection refused",
        ),
    ],
)
async def test_what_freeswitch_tells(
    told: dict[str, str], check: str | None, verdict: Verdict | None, says: str
) -> None:
    found = await of_freeswitch(told)
    assert list(found) == ([f"freeswitch.{check}"] if check else [])
    if check:
        result = found[f"freeswitch.{check}"]
        assert result.verdict is verdict
        assert says in result.seen


async def test_what_a_missing_module_of_freeswitch_hides_is_skipped() -> None:
    found = await of_freeswitch({}, "mod_sofia", "mod_dialplan_xml")
    assert found.pop("freeswitch.modules").verdict is Verdict.WRONG
    assert {result.verdict for result in found.values()} == {Verdict.SKIPPED}
    assert len(found) == 4


async def rehearsed(
    tmp_path: Path, told: Mapping[str, str] | None = None
) -> tuple[EventSocket, list[Path]]:
    folder = tmp_path / "temp"
    folder.mkdir()
    (folder / "rounded_prove_left.xml").touch()
    told = {"global_getvar temp_dir": f"{folder}\n", "global_getvar": "a=b\n", **(told or {})}
    socket = EventSocket(told)
    call = ProofCall(Switch.FREESWITCH, config())
    call.patience = 0
    control: Any = socket
    async with trunk() as listener:
        await freeswitch_proof.rehearse(control, call, listener, Address("127.0.0.1", 4999))
    return socket, list(folder.iterdir())


async def test_a_rehearsal_on_freeswitch_leaves_no_file_and_no_call(tmp_path: Path) -> None:
    socket, left = await rehearsed(tmp_path)
    assert left == []
    *_, sched, originate, kill = socket.asked
    call_id = kill.split()[1]
    assert sched == f"sched_api +60 none uuid_kill {call_id}"
    assert re.fullmatch(
        rf"originate \{{origination_uuid={call_id},origination_caller_id_number=\{DID}\}}null/1 "
        rf"\{DID} XML:{tmp_path}/temp/rounded_prove_\w+\.xml rounded_prove_public",
        originate,
    )


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({BRIDGE: NOTHING}, "not loaded: rounded_bridge"),
        (edited("rounded_bridge", "=false", "=true"), "only what we have written"),
        ({"sofia xmlstatus profile external": EXTERNAL.replace("N/A", "sip:x")}, "outbound-proxy"),
        ({"global_getvar": "a=b\nsip_route_uri=sip:x\n"}, "sip_route_uri"),
        ({"global_getvar temp_dir": "/a b"}, "temp_dir is /a b"),
        ({"global_getvar temp_dir": "/not/there"}, "on this machine"),
    ],
)
async def test_what_is_not_rehearsed_on_freeswitch(
    tmp_path: Path, told: dict[str, str], says: str
) -> None:
    with pytest.raises(CannotProve, match=says):
        await rehearsed(tmp_path, told)


def test_a_copy_for_freeswitch_leads_nowhere_but_to_the_listener() -> None:
    expected = freeswitch_dialplan.written(render(Flavour.FREESWITCH, config()).files)
    text = freeswitch_proof.copy(
        expected,
        expected,
        gateway="rounded",
        profile="external",
        listener=Address("127.0.0.1", 5099),
        daemon=Address("127.0.0.1", 4999),
        file="/tmp/x.xml",
    )
    root = ET.fromstring(text)
    actions = [(e.get("application"), e.get("data") or "") for e in root.iter() if e.get("data")]
    bridges = [data for application, data in actions if application == "bridge"]
    assert len(bridges) == 4
    assert all("@127.0.0.1:5099" in data for data in bridges)
    assert "sofia/gateway" not in text
    assert [data for application, data in actions if application == "socket"] == [
        "127.0.0.1:4999/collect async full"
    ]
    leads = [data for application, data in actions if application in ("transfer", "sched_transfer")]
    assert all("XML:/tmp/x.xml rounded_prove_" in data for data in leads)


# A call that the real daemon staged: which account has it is for the platform to say.

TENANTS = {
    "default": {"key_env": "KEY"},
    "acme": {"key_env": "KEY", "account_codes": ["4711"]},
    "other": {"key_env": "KEY"},
}


@pytest.mark.parametrize(
    ("account", "keys", "verdict", "says"),
    [
        (None, {"default": "right", "acme": "wrong"}, Verdict.RIGHT, "the platform has the call"),
        (None, {"default": "wrong", "acme": "right"}, Verdict.RIGHT, "the platform has the call"),
        ("other", {"other": "right"}, Verdict.RIGHT, "the platform has the call"),
        (None, {"acme": "right"}, Verdict.RIGHT, "the platform has the call"),
        (None, {"acme": "wrong"}, Verdict.SKIPPED, "its account's key cannot be read here"),
        (None, {}, Verdict.SKIPPED, "its account's key cannot be read here"),
        ("other", {"default": "right"}, Verdict.SKIPPED, "its account's key cannot be read here"),
        (None, {"default": "wrong", "acme": "wrong"}, Verdict.WRONG, "Invalid API key"),
    ],
)
async def test_a_call_is_looked_for_on_every_account_that_may_have_staged_it(
    account: str | None, keys: dict[str, str], verdict: Verdict, says: str
) -> None:
    async with serving(Sandbox("right", Behaviour()), Address("127.0.0.1", 0)) as url:
        route = {"name": "a", "did": DID, "agent_id": AGENT, "account": account}
        settings = config(
            accounts=TENANTS, api={"base_url": url}, routes=[route], numbers={"country": "FR"}
        )
        async with client_of(settings.api, "right") as client:
            body = {"from_number": DID, "to_number": DID, "agent_id": AGENT}
            call_id = await client.stage(body)
        seen = SimpleNamespace(id=call_id, evidence=())
        call: Any = ProofCall(Switch.ASTERISK, settings)
        listener: Any = seen
        found = await _live("x", call, listener, keys)
    assert (found.verdict, says in found.seen) == (verdict, True), found
    if verdict is Verdict.WRONG:
        assert "accounts.acme, accounts.default" in found.todo


async def test_a_rehearsal_has_the_accounts_but_none_of_their_limits() -> None:
    limited = {"default": {"key_env": "KEY", "rate": 0.01, "max_in_flight": 1}}
    settings = config(accounts=limited, numbers={"country": "FR"})
    async with rehearsal(settings) as stand_in:
        for _ in range(3):
            address = stand_in.address[Switch.ASTERISK]
            reader, writer = await asyncio.open_connection(address.host, address.port)
            asterisk = Asterisk(reader, writer)
            asterisk.write(environment())
            assert (await asterisk.variables())["ROUNDED_STATUS"] == "STAGED"
