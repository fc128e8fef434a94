"""The doctor on a real FreeSWITCH: all is well, then one fault at a time, and no other is named."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from rounded_pbx.demo import freeswitch as freeswitches
from rounded_pbx.demo.freeswitch import PASSWORD, PROFILE, PrivateFreeSwitch

from ..lab import doctor as doctors
from ..lab.daemon import Daemon, SandboxThread
from ..lab.doctor import DID, Clinic, Faults, verdicts
from ..lab.processes import free_port, rounded_pbx, wait_until

DIALPLAN = """\
<include>
<context name="public">
<X-PRE-PROCESS cmd="include" data="public/*.xml"/>
</context>
<context name="default">
  <extension name="phone">
    <condition field="destination_number" expression="^600$">
      <action application="hangup" data="USER_BUSY"/>
    </condition>
  </extension>
</context>
</include>
"""
BRIDGE, PUBLIC = "dialplan/rounded.xml", "dialplan/public/00_rounded.xml"
GATEWAY, SIP = "sip_profiles/external/rounded.xml", "sip_profiles/external.xml"


class Ward(doctors.Ward):
    """The switch, its daemon, and the doctor."""

    def __init__(
        self, clinic: Clinic, freeswitch: PrivateFreeSwitch, daemon: Daemon, trunk: str, api: str
    ) -> None:
        super().__init__(clinic, daemon, trunk, api)
        self.freeswitch = freeswitch

    @contextlib.contextmanager
    def edited(self, name: str, old: str, new: str, *commands: str) -> Iterator[None]:
        """A changed file of the switch's configuration; read, and at the end put back."""
        file = self.freeswitch.directory / "conf" / name
        before = file.read_text()
        assert old in before, f"{old!r} is not in {name}"
        file.write_text(before.replace(old, new))
        try:
            self.read(*commands)
            yield
        finally:
            file.write_text(before)
            self.read(*commands)

    def read(self, *commands: str) -> None:
        assert "+OK" in self.freeswitch.cli("reloadxml")
        for command in commands:
            self.freeswitch.cli(command)
            if "killgw" in command:
                wait_until(lambda: not self.has_gateway(), "the gateway to go")
        if commands:
            self.freeswitch.cli("sofia profile external rescan")
            wait_until(lambda: self.has_gateway() == self.wants_gateway(), "the profile")

    def has_gateway(self) -> bool:
        return "<name>rounded</name>" in self.freeswitch.cli("sofia xmlstatus gateway rounded")

    def wants_gateway(self) -> bool:
        return "<gateway" in (self.freeswitch.directory / "conf" / GATEWAY).read_text()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, the_sandbox: SandboxThread) -> Iterator[Ward]:
    program = freeswitches.find()
    if program is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    folder = tmp_path_factory.mktemp("doctor")
    sip, esl, outbound = free_port(kind=socket.SOCK_DGRAM), free_port(), free_port()
    profile = PROFILE.format(host="127.0.0.1", port=sip).replace(
        "</settings>", '<param name="disable-transfer" value="true"/></settings>'
    )
    section = (
        "freeswitch:\n"
        "  outbound: {{listen: '127.0.0.1:{daemon}', allow: ['127.0.0.0/8']}}\n"
        f"  esl: {{{{address: '127.0.0.1:{esl}', secret_env: SECRET}}}}\n"
        "asterisk: {{fastagi: {{listen: off}}}}"
    )
    with doctors.answering_options() as trunk:
        text = doctors.config(the_sandbox.url, trunk, str(outbound), folder, section)
        clinic = Clinic(folder, text, PASSWORD)
        clinic.write()
        files = {SIP: profile, "dialplan/theirs.xml": DIALPLAN}
        freeswitch = PrivateFreeSwitch(program, folder / "freeswitch", files, event_socket=esl)
        conf = folder / "freeswitch" / "conf"
        for name in ("sip_profiles/external", "dialplan/public"):
            (conf / name).mkdir(parents=True)
        with freeswitch:
            daemon = Daemon(folder, rounded_pbx("serve", "--config", clinic.file))
            daemon.listens = ("127.0.0.1", outbound)
            install = ["dialplan", "freeswitch", "--install", "--reload", "--folder", str(conf)]
            ran = clinic.rounded_pbx(*install)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            daemon.start()
            try:
                yield Ward(clinic, freeswitch, daemon, trunk, the_sandbox.url)
            finally:
                daemon.stop()


def test_a_healthy_switch_has_nothing_wrong(ward: Ward) -> None:
    status, checks = ward.clinic.doctor()
    assert verdicts(checks, "wrong", "look", "skipped") == {}
    assert status == 0


FAULTS: Faults[Ward] = Faults("freeswitch")
fault = FAULTS.fault


@fault("freeswitch.modules", "mod_sofia")
def no_sofia(ward: Ward) -> Iterator[None]:
    ward.freeswitch.cli("unload mod_sofia")
    yield
    ward.freeswitch.cli("load mod_sofia")


@fault("freeswitch.modules", "mod_dialplan_xml")
def no_xml_dialplan(ward: Ward) -> Iterator[None]:
    ward.freeswitch.cli("unload mod_dialplan_xml")
    yield
    ward.freeswitch.cli("load mod_dialplan_xml")


@fault("freeswitch.contexts", "rounded_after")
def context_missing(ward: Ward) -> Iterator[None]:
    with ward.edited(BRIDGE, '<context name="rounded_after">', '<context name="gone">'):
        yield


@fault("freeswitch.contexts", "public")
def nothing_in_public(ward: Ward) -> Iterator[None]:
    text = (ward.freeswitch.directory / "conf" / PUBLIC).read_text()
    with ward.edited(PUBLIC, text, "<include></include>"):
        yield


@fault("freeswitch.dialplan", "rounded-begin")
def a_line_that_an_admin_changed(ward: Ward) -> Iterator[None]:
    with ward.edited(BRIDGE, "hangup_after_bridge=true", "hangup_after_bridge=false"):
        yield


@fault("freeswitch.dialplan", "is not from us")
def an_extension_of_theirs_in_our_context(ward: Ward) -> Iterator[None]:
    begins = '<context name="rounded_bridge">'
    theirs = '<extension name="theirs"><condition><action application="answer"/></condition>'
    with ward.edited(BRIDGE, begins, f"{begins}{theirs}</extension>"):
        yield


@fault("freeswitch.header", "on the caller's channel")
def handler_on_the_wrong_channel(ward: Ward) -> Iterator[None]:
    old = '<action application="bridge" data="{${rounded_options},rounded_call_id=$1,'
    new = '<action application="export" data="sip_h_X-Rounded-Call-Id=$1"/>' + old
    with ward.edited(BRIDGE, old + "sip_h_X-Rounded-Call-Id=$1}", new.removesuffix(",") + "}"):
        yield


@fault("freeswitch.header", "no INVITE has the id")
def no_handler(ward: Ward) -> Iterator[None]:
    with ward.edited(BRIDGE, ",sip_h_X-Rounded-Call-Id=$1}", "}"):
        yield


@fault("freeswitch.entrances", "theirs")
def an_extension_into_an_inner_context(ward: Ward) -> Iterator[None]:
    action = '<action application="transfer" data="9 XML rounded_bridge"/>'
    theirs = f'<extension name="theirs"><condition>{action}</condition></extension>'
    begins = '<context name="default">'
    with ward.edited("dialplan/theirs.xml", begins, begins + theirs):
        yield


@fault("freeswitch.entrances", "profile external")
def a_profile_in_an_inner_context(ward: Ward) -> Iterator[None]:
    restart = "sofia profile external restart"
    old, new = 'name="context" value="public"', 'name="context" value="rounded_bridge"'
    with ward.edited(SIP, old, new, restart):
        yield


@fault("freeswitch.trunk", "no call can reach the agent")
def trunk_unreachable(ward: Ward) -> Iterator[None]:
    gone = f"127.0.0.3:{free_port('127.0.0.3', socket.SOCK_DGRAM)}"
    again = "sofia profile external killgw rounded"
    with ward.edited(GATEWAY, ward.trunk, gone, again):
        ward.clinic.write((ward.trunk, gone))
        yield
        ward.clinic.write()


@fault("freeswitch.trunk", "expected 127.0.0.3:")
def trunk_that_leads_elsewhere(ward: Ward) -> Iterator[None]:
    port = ward.trunk.partition(":")[2]
    other = str(free_port("127.0.0.3", socket.SOCK_DGRAM))
    with ward.edited(GATEWAY, port, other, "sofia profile external killgw rounded"):
        yield


@fault("freeswitch.trunk", "no gateway rounded")
def no_trunk(ward: Ward) -> Iterator[None]:
    again = "sofia profile external killgw rounded"
    text = (ward.freeswitch.directory / "conf" / GATEWAY).read_text()
    with ward.edited(GATEWAY, text, "<include></include>", again):
        yield


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_no_other(ward: Ward, name: str) -> None:
    FAULTS.are_named(ward, name)


def test_a_wrong_password_is_named(ward: Ward) -> None:
    found = ward.found(secret="another")
    assert list(found) == ["freeswitch.login"]
    assert "refused the password" in found["freeswitch.login"]


def test_all_is_well_again(ward: Ward) -> None:
    status, checks = ward.clinic.doctor()
    assert (status, verdicts(checks)) == (0, {})


def test_a_dialplan_that_a_handler_writes_is_not_called_missing(ward: Ward) -> None:
    lua = ward.freeswitch.directory / "conf" / "autoload_configs" / "lua.xml"
    lua.parent.mkdir()
    settings = '<param name="xml-handler-bindings" value="configuration,dialplan"/>'
    lua.write_text(
        f'<configuration name="lua.conf"><settings>{settings}</settings></configuration>\n'
    )
    try:
        with ward.edited(BRIDGE, '<context name="rounded_after">', '<context name="gone">'):
            status, checks = ward.clinic.doctor("--prove")
    finally:
        lua.unlink()
        ward.read()
    assert status == 1
    assert list(verdicts(checks)) == ["freeswitch.contexts", "prove.freeswitch"]
    assert "a handler writes the dialplan" in checks["freeswitch.contexts"]["seen"]


def test_a_profile_that_takes_transfers_wants_a_look(ward: Ward) -> None:
    with ward.edited(SIP, 'name="disable-transfer" value="true"', 'name="x" value="true"'):
        status, checks = ward.clinic.doctor()
    assert status == 1
    assert list(verdicts(checks)) == ["freeswitch.transfers"]


def test_the_id_is_shown_on_the_wire_and_the_call_without_a_daemon(
    ward: Ward, the_sandbox: SandboxThread
) -> None:
    before = len(the_sandbox.staged())
    status, checks = ward.clinic.doctor("--prove")
    assert (status, verdicts(checks, "wrong", "look", "skipped")) == (0, {})
    invite, *headers = checks["prove.freeswitch.staged"]["evidence"]
    assert re.fullmatch(rf"INVITE sip:\{DID}@127\.0\.0\.1:\d+ SIP/2\.0", invite), invite
    assert re.fullmatch(r"X-Rounded-Call-Id: [0-9a-f-]{36}", headers[-1])
    cold = checks["prove.freeswitch.unreachable"]
    assert "to its fallback, 600 XML default" in cold["seen"]
    assert not any("X-Rounded-Call-Id" in line for line in cold["evidence"])
    assert len(the_sandbox.staged()) == before
    assert list((ward.freeswitch.directory / "temp").glob("rounded_prove_*")) == []
    assert "0 total" in ward.freeswitch.cli("show channels")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.02, 0.3])
def test_an_interrupted_proof_leaves_nothing(
    ward: Ward, number: signal.Signals, seconds: float
) -> None:
    ward.clinic.interrupted(number, seconds)
    assert list((ward.freeswitch.directory / "temp").glob("rounded_prove_*")) == []
    wait_until(lambda: "0 total" in ward.freeswitch.cli("show channels"), "the call to end")


def test_a_global_variable_that_could_lead_elsewhere_is_named(ward: Ward) -> None:
    ward.freeswitch.cli("global_setvar sip_route_uri=sip:127.0.0.9:5060")
    try:
        _, checks = ward.clinic.doctor("--prove")
    finally:
        ward.freeswitch.cli("global_setvar sip_route_uri=")
    found = checks["prove.freeswitch"]
    assert (found["verdict"], found["wrong"]) == ("look", "it was not proven")
    assert "sip_route_uri" in found["seen"]


def test_what_a_killed_proof_left_is_removed_by_the_next(ward: Ward) -> None:
    left = ward.freeswitch.directory / "temp" / "rounded_prove_left.xml"
    left.write_text("<document/>")
    assert ward.clinic.doctor("--prove")[0] == 0
    assert not left.exists()


@pytest.mark.parametrize(
    ("name", "field", "expression", "status"),
    [
        ("rounded-office", "destination_number", "^9$", 0),
        ("theirs", "destination_number", "^9$", 0),
        ("theirs", "destination_number", r"^\+?\d+$", 1),
        ("theirs", "caller_id_number", "^1$", 1),
    ],
)
def test_an_extension_of_theirs_before_ours(
    ward: Ward, name: str, field: str, expression: str, status: int
) -> None:
    theirs = (
        f'<extension name="{name}"><condition field="{field}" expression="{expression}">'
        '<action application="hangup"/></condition></extension>'
    )
    begins = '<context name="public">'
    with ward.edited("dialplan/theirs.xml", begins, begins + theirs):
        found = ward.clinic.doctor()
    assert found[0] == status
    assert list(verdicts(found[1])) == (["freeswitch.way-in"] if status else [])


def test_the_real_daemon_stages_and_the_platform_has_the_call(
    ward: Ward, the_sandbox: SandboxThread
) -> None:
    status, checks = ward.clinic.doctor("--prove", "--live")
    assert (status, verdicts(checks, "wrong", "look", "skipped")) == (0, {})
    seen = checks["prove.freeswitch.live"]["seen"]
    assert f"the platform has the call {the_sandbox.ids()[-1]}, status staged" in seen


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("dial", "to the agent, without an id"),
        ("hangup", "the call ended, as on_failure: hangup says"),
        ("nowhere", "the call ended: on_failure: fallback, and it has none"),
    ],
)
def test_without_a_daemon_the_call_goes_where_the_policy_says(
    ward: Ward, policy: str, says: str
) -> None:
    changes = [("on_failure: fallback", f"on_failure: {policy}")]
    if policy == "nowhere":  # a fallback that is not given
        changes = [(', freeswitch: "600 XML default"}\ntrunk', "}\ntrunk")]
    conf = str(ward.freeswitch.directory / "conf")
    install = ["dialplan", "freeswitch", "--install", "--reload", "--folder", conf]
    ward.clinic.write(*changes)
    try:
        assert ward.clinic.rounded_pbx(*install).returncode == 0
        status, checks = ward.clinic.doctor("--prove")
    finally:
        ward.clinic.write()
        assert ward.clinic.rounded_pbx(*install).returncode == 0
    assert (status, verdicts(checks)) == (0, {})
    assert says in checks["prove.freeswitch.unreachable"]["seen"]


@pytest.mark.parametrize("name", ["no_handler"])
def test_a_header_that_is_not_on_the_wire_is_seen(ward: Ward, name: str) -> None:
    with FAULTS[name][2](ward):
        found = ward.found("--prove")
    assert list(found) == ["freeswitch.header", "prove.freeswitch.staged"]
    assert "the INVITE has no X-Rounded-Call-Id" in found["prove.freeswitch.staged"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sofia/gateway/rounded/${rounded_did}", "sofia/external/1@127.0.0.9"),
        ('application="hangup" data="NORMAL_CIRCUIT', 'application="system" data="NORMAL_CIRCUIT'),
        ("socket_resume=false|", "api_hangup_hook=system x|"),
        (
            '<anti-action application="set" data="socket_resume=false"/>',
            '<anti-action application="set" data="socket_resume=false">api_x=y</anti-action>',
        ),
        ('"transfer" data="rounded-fallback XML rounded_after"', '"transfer" data="1 XML default"'),
    ],
)
def test_a_dialplan_that_is_not_ours_is_not_rehearsed(ward: Ward, old: str, new: str) -> None:
    with ward.edited(BRIDGE, old, new):
        _, checks = ward.clinic.doctor("--prove")
    found = checks["prove.freeswitch"]
    assert (found["verdict"], found["wrong"]) == ("look", "it was not proven")
    assert "only what we have written is rehearsed" in found["seen"]
