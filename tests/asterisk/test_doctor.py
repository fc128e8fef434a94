"""The doctor on a real Asterisk: all is well, then one fault at a time, each named and no other."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx.demo.asterisk import MODULES
from rounded_pbx.dialplan.flavours import ABOUT, Flavour

from ..lab import asterisk as switches
from ..lab import doctor as doctors
from ..lab.asterisk import Asterisk
from ..lab.daemon import Daemon, SandboxThread
from ..lab.doctor import DID, SECRET, Clinic, Faults, verdicts
from ..lab.processes import free_port, rounded_pbx, wait_until

RIGHTS = "system,reporting,originate"
EXTENSIONS = f"""[general]
static=yes
writeprotect=no
[from-trunk]
exten => {DID},1,Gosub(rounded,${{EXTEN}},1)
 same => n,Hangup()
[from-internal]
exten => 600,1,Hangup()
"""


class Ward(doctors.Ward):
    """The switch, its daemon, and the doctor."""

    def __init__(
        self,
        clinic: Clinic,
        asterisk: Asterisk,
        daemon: Daemon,
        *,
        trunk: str,
        api: str,
        ami: int,
        flavour: str,
    ) -> None:
        super().__init__(clinic, daemon, trunk, api)
        self.asterisk, self.ami, self.flavour = asterisk, ami, flavour
        self.chan_sip = flavour == "asterisk-chan-sip"
        self.extensions, self.trunk_file = ABOUT[Flavour(flavour)].files
        self.sip = "sip.conf" if self.chan_sip else "pjsip.conf"

    def edit(self, name: str, old: str, new: str, *commands: str) -> None:
        """Change a file of the switch's configuration, and let it be read."""
        file = self.asterisk.directory / name
        text = file.read_text()
        assert old in text, f"{old!r} is not in {name}"
        file.write_text(text.replace(old, new))
        for command in commands:
            self.asterisk.cli(command)


KINDS = {"22": (22, "asterisk"), "16": (16, "asterisk"), "16-chan_sip": (16, "asterisk-chan-sip")}


@pytest.fixture(scope="module", params=KINDS)
def ward(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    the_sandbox: SandboxThread,
) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp(f"doctor-{request.param}")
    with opened(*KINDS[request.param], folder, the_sandbox) as ward:
        yield ward


@contextlib.contextmanager
def opened(version: int, flavour: str, folder: Path, the_sandbox: SandboxThread) -> Iterator[Ward]:
    """A switch on which the dialplan is installed, and its daemon."""
    chan_sip = flavour == "asterisk-chan-sip"
    sip, ami, fastagi = free_port(kind=socket.SOCK_DGRAM), free_port(), free_port()
    modules = MODULES
    if chan_sip:
        modules = "".join(f"{row}\n" for row in MODULES.splitlines() if "pjsip" not in row)
        modules += "load=chan_sip.so\n"
    files = {
        "modules.conf": modules,
        "extensions.conf": EXTENSIONS,
        "manager.conf": f"[general]\nenabled=yes\nbindaddr=127.0.0.1\nport={ami}\n"
        f"[rounded]\nsecret={SECRET}\nread={RIGHTS}\nwrite={RIGHTS}\n",
        "pjsip.conf": f"[transport-udp]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{sip}\n"
        "[phone]\ntype=endpoint\ncontext=from-internal\nallow=alaw\n",
        "sip.conf": f"[general]\nudpbindaddr=127.0.0.1:{sip}\ncontext=nowhere\n"
        "[phone]\ntype=peer\nhost=127.0.0.4\ncontext=from-internal\n",
        "cdr.conf": "[general]\nenable=yes\nunanswered=yes\n",
    }
    section = (
        "asterisk:\n  fastagi: {{listen: '127.0.0.1:{daemon}', allow: ['127.0.0.0/8']}}\n"
        f"  ami: {{{{address: '127.0.0.1:{ami}', username: rounded, secret_env: SECRET}}}}\n"
        "freeswitch: {{outbound: {{listen: off}}}}"
    )
    with doctors.answering_options() as trunk:
        if flavour == "freepbx":
            files |= freepbx(files, trunk)
        text = doctors.config(the_sandbox.url, trunk, str(fastagi), folder, section)
        clinic = Clinic(folder, text)
        clinic.write()
        with switches.running(version, folder / "asterisk", files) as asterisk:
            daemon = Daemon(folder, rounded_pbx("serve", "--config", clinic.file))
            daemon.listens = ("127.0.0.1", fastagi)
            install = ["dialplan", flavour, "--install", "--folder", str(asterisk.directory)]
            if flavour != "freepbx":  # which is read by fwconsole
                install.append("--reload")
            ran = clinic.rounded_pbx(*install)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            for reload in ("dialplan reload", "module reload res_pjsip.so"):
                asterisk.cli(reload)
            daemon.start()
            try:
                yield Ward(
                    clinic,
                    asterisk,
                    daemon,
                    trunk=trunk,
                    api=the_sandbox.url,
                    ami=ami,
                    flavour=flavour,
                )
            finally:
                daemon.stop()


def freepbx(files: dict[str, str], trunk: str) -> dict[str, str]:
    """The same as FreePBX has it: a Custom Destination, a trunk from its page, files of its own."""
    theirs = (
        EXTENSIONS.replace("Gosub(rounded,", "Goto(rounded,")
        + "[app-blackhole]\nexten => hangup,1,Hangup()\n"
    )
    endpoint = (
        "[rounded]\ntype=endpoint\ncontext=from-pstn\nallow=alaw\naors=rounded\n"
        "#include pjsip.endpoint_custom_post.conf\n"
        f"[rounded]\ntype=aor\ncontact=sip:{trunk}\n"
        "[rounded]\ntype=identify\nendpoint=rounded\nmatch=127.0.0.3\n"
    )
    return {
        "extensions.conf": f"#include extensions_custom.conf\n{theirs}",
        "extensions_custom.conf": "",
        "pjsip.conf": files["pjsip.conf"] + endpoint,
        "pjsip.endpoint_custom_post.conf": "",
    }


def test_freepbx_with_a_custom_destination_has_nothing_wrong(
    tmp_path: Path, the_sandbox: SandboxThread
) -> None:
    with opened(22, "freepbx", tmp_path, the_sandbox) as ward:
        status, checks = ward.clinic.doctor("--prove")
        assert verdicts(checks, "wrong", "look", "skipped") == {}
        assert status == 0
        ward.clinic.write(("routes:", "calls: {deadline: 3.0}\nroutes:"))
        found = ward.found()
    assert list(found) == ["asterisk.dialplan"]
    assert "rounded-pbx dialplan freepbx --install" in found["asterisk.dialplan"]


def test_a_healthy_switch_has_nothing_wrong(ward: Ward) -> None:
    status, checks = ward.clinic.doctor()
    assert verdicts(checks, "wrong", "look", "skipped") == {}
    assert status == 0


@contextlib.contextmanager
def kept(ward: Ward, *names: str) -> Iterator[None]:
    """Files of the switch that are put back, and read again."""
    before = {name: (ward.asterisk.directory / name).read_bytes() for name in names}
    try:
        yield
    finally:
        for name, content in before.items():
            (ward.asterisk.directory / name).write_bytes(content)
        ward.asterisk.cli("dialplan reload")
        ward.asterisk.cli("sip reload" if ward.chan_sip else "module reload res_pjsip.so")
        ward.asterisk.cli("manager reload")


FAULTS: Faults[Ward] = Faults("asterisk")
fault = FAULTS.fault


@fault("asterisk.modules", "func_uri")
def module_unloaded(ward: Ward) -> Iterator[None]:
    ward.asterisk.cli("module unload func_uri.so")
    yield
    ward.asterisk.cli("module load func_uri.so")


@fault("asterisk.modules", "func_timeout")
def another_module_unloaded(ward: Ward) -> Iterator[None]:
    ward.asterisk.cli("module unload func_timeout.so")
    yield
    ward.asterisk.cli("module load func_timeout.so")


@fault("asterisk.modules", "pbx_config")
def no_dialplan_at_all(ward: Ward) -> Iterator[None]:
    ward.asterisk.cli("module unload pbx_config.so")
    yield
    ward.asterisk.cli("module load pbx_config.so")


@fault("asterisk.contexts", "rounded-stage")
def context_missing(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.extensions):
        text = (ward.asterisk.directory / ward.extensions).read_text()
        section = re.search(r"(?s)\[rounded-stage\].*?(?=\[rounded-header\])", text)
        assert section is not None
        ward.edit(ward.extensions, section[0], "", "dialplan reload")
        yield


@fault("asterisk.login", "refused the user rounded")
def wrong_password(ward: Ward) -> Iterator[None]:
    with kept(ward, "manager.conf"):
        ward.edit("manager.conf", SECRET, "another", "manager reload")
        yield


@fault("asterisk.login", "Connect|refused")
def manager_elsewhere(ward: Ward) -> Iterator[None]:
    ward.clinic.write((f"127.0.0.1:{ward.ami}", f"127.0.0.1:{free_port()}"))
    yield
    ward.clinic.write()


@fault("asterisk.rights", "system")
def rights_missing(ward: Ward) -> Iterator[None]:
    with kept(ward, "manager.conf"):
        ward.edit("manager.conf", f"write={RIGHTS}", "write=originate", "manager reload")
        yield


@fault("asterisk.dialplan", "ROUNDED_FALLBACK")
def a_line_that_an_admin_changed(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.extensions):
        old, new = "ROUNDED_FALLBACK=from-internal,600,1", "ROUNDED_FALLBACK=elsewhere,600,1"
        ward.edit(ward.extensions, old, new, "dialplan reload")
        yield


@fault("asterisk.header", "on the caller's channel")
def handler_on_the_wrong_channel(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.extensions):
        ward.edit(ward.extensions, "ib(rounded-header", "iB(rounded-header", "dialplan reload")
        yield


@fault("asterisk.header", "no Dial")
def no_handler(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.extensions):
        handler = ",ib(rounded-header^s^1(${ROUNDED_CALL_ID})))"
        ward.edit(ward.extensions, handler, ",i)", "dialplan reload")
        yield


@fault("asterisk.entrances", "from-trunk")
def a_line_into_an_inner_context(ward: Ward) -> Iterator[None]:
    with kept(ward, "extensions.conf"):
        more = "[from-trunk]\nexten => 9,1,Goto(rounded-call,${EXTEN},1)"
        ward.edit("extensions.conf", "[from-trunk]", more, "dialplan reload")
        yield


@fault("asterisk.entrances", "phone")
def an_endpoint_in_an_inner_context(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.sip):
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        ward.edit(ward.sip, "context=from-internal", "context=rounded-call", reload)
        yield


@fault("asterisk.trunk", "no call can reach the agent")
def trunk_unreachable(ward: Ward) -> Iterator[None]:
    gone = f"127.0.0.3:{free_port('127.0.0.3', socket.SOCK_DGRAM)}"
    with kept(ward, ward.trunk_file):
        port, other = ward.trunk.partition(":")[2], gone.partition(":")[2]
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        ward.edit(ward.trunk_file, port, other, reload)
        ward.clinic.write((ward.trunk, gone))
        yield
        ward.clinic.write()


@fault("asterisk.trunk", "expected (sip:)?127.0.0.3:")
def trunk_that_leads_elsewhere(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.trunk_file):
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        other = str(free_port("127.0.0.3", socket.SOCK_DGRAM))
        ward.edit(ward.trunk_file, ward.trunk.partition(":")[2], other, reload)
        yield


@fault("asterisk.trunk", "TRANSFER_CONTEXT")
def trunk_whose_transfers_go_elsewhere(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.trunk_file):
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        ward.edit(ward.trunk_file, "=TRANSFER_CONTEXT=", "=OTHER_CONTEXT=", reload)
        yield


@fault("asterisk.trunk", "no (endpoint|peer) rounded")
def no_trunk(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.trunk_file):
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        text = (ward.asterisk.directory / ward.trunk_file).read_text()
        ward.edit(ward.trunk_file, text, "", reload)
        yield


@fault("asterisk.trunk", "expected rounded-from-agent")
def trunk_in_another_context(ward: Ward) -> Iterator[None]:
    with kept(ward, ward.trunk_file):
        reload = "sip reload" if ward.chan_sip else "module reload res_pjsip.so"
        ward.edit(ward.trunk_file, "\ncontext=rounded-from-agent", "\ncontext=from-trunk", reload)
        yield


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_no_other(ward: Ward, name: str) -> None:
    FAULTS.are_named(ward, name)


def test_all_is_well_again(ward: Ward) -> None:
    assert ward.clinic.doctor()[0] == 0


def test_a_dialplan_that_leads_nowhere_wants_a_look(ward: Ward) -> None:
    with kept(ward, "extensions.conf"):
        ward.edit("extensions.conf", "Gosub(rounded,", "NoOp(rounded-", "dialplan reload")
        status, checks = ward.clinic.doctor()
    assert status == 1
    assert list(verdicts(checks)) == ["asterisk.way-in"]


def test_the_id_is_shown_on_the_wire_and_the_call_without_a_daemon(
    ward: Ward, the_sandbox: SandboxThread
) -> None:
    before = len(the_sandbox.staged())
    status, checks = ward.clinic.doctor("--prove")
    assert (status, verdicts(checks, "wrong", "look", "skipped")) == (0, {})
    invite, *headers = checks["prove.asterisk.staged"]["evidence"]
    where = ward.trunk if ward.chan_sip else r"127\.0\.0\.1:\d+"  # there, its own name for it
    assert re.fullmatch(rf"INVITE sip:\{DID}@{where} SIP/2\.0", invite), invite
    assert re.fullmatch(r"X-Rounded-Call-Id: [0-9a-f-]{36}", headers[-1])
    cold = checks["prove.asterisk.unreachable"]
    assert "to its fallback, from-internal,600,1" in cold["seen"]
    assert not any("X-Rounded-Call-Id" in line for line in cold["evidence"])
    assert "row in the switch's call records" in checks["prove.asterisk.remains"]["seen"]
    assert len(the_sandbox.staged()) == before
    assert "-= 0 extensions" in ward.asterisk.cli("dialplan show rounded-prove-call")


def test_the_real_daemon_stages_and_the_platform_has_the_call(
    ward: Ward, the_sandbox: SandboxThread
) -> None:
    status, checks = ward.clinic.doctor("--prove", "--live")
    assert (status, verdicts(checks, "wrong", "look", "skipped")) == (0, {})
    seen = checks["prove.asterisk.live"]["seen"]
    assert f"the platform has the call {the_sandbox.ids()[-1]}, status staged" in seen
    assert the_sandbox.staged()[-1]["to_number"] == DID
    key = ward.clinic.folder / "api_key"
    ward.daemon.stop()
    try:
        key.write_text("another\n")
        ward.daemon.start()
        found = ward.found("--prove", "--live")
    finally:
        key.write_text("sandbox\n")
        ward.daemon.stop()
        ward.daemon.start()
    assert list(found) == ["api.key.default", "prove.asterisk.live"]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("dial", "to the agent, without an id"),
        ("hangup", "the call ended, as on_failure: hangup says"),
        ("fallback", "to its fallback, from-internal,600,1"),
        ("nowhere", "back to the line that follows yours"),
    ],
)
def test_without_a_daemon_the_call_goes_where_the_policy_says(
    ward: Ward, policy: str, says: str
) -> None:
    changes = [("on_failure: fallback", f"on_failure: {policy}")]
    if policy == "nowhere":  # a fallback that is not given
        changes = [('asterisk: "from-internal,600,1", ', "")]
    install = ["dialplan", ward.flavour, "--install", "--reload"]
    install += ["--folder", str(ward.asterisk.directory)]
    with kept(ward, ward.extensions):
        ward.clinic.write(*changes)
        try:
            assert ward.clinic.rounded_pbx(*install).returncode == 0
            status, checks = ward.clinic.doctor("--prove")
        finally:
            ward.clinic.write()
    assert (status, verdicts(checks)) == (0, {}), verdicts(checks)
    assert says in checks["prove.asterisk.unreachable"]["seen"]


@pytest.mark.parametrize("name", ["handler_on_the_wrong_channel", "no_handler"])
def test_a_header_that_is_not_on_the_wire_is_seen(ward: Ward, name: str) -> None:
    with FAULTS[name][2](ward):
        found = ward.found("--prove")
    if ward.chan_sip and name == "handler_on_the_wrong_channel":
        # SIPAddHeader there is inherited by every leg, the fallback's too.
        assert list(found) == ["asterisk.header"]
        return
    assert list(found) == ["asterisk.header", "prove.asterisk.staged"]
    assert "the INVITE has no X-Rounded-Call-Id" in found["prove.asterisk.staged"]


def test_a_fallback_that_is_not_there_is_seen(ward: Ward) -> None:
    with kept(ward, "extensions.conf"):
        ward.edit("extensions.conf", "exten => 600,1", "exten => 601,1", "dialplan reload")
        found = ward.found("--prove")
    assert list(found) == ["prove.asterisk.unreachable"]
    assert "there is no from-internal,600,1 in the dialplan" in found["prove.asterisk.unreachable"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n(cold),Dial(", "n(cold),Dial(Local/1@from-internal&"),
        ("${rounded_ring},i)", "${rounded_ring},iF(from-internal^600^1))"),
        ("n(hangup),Hangup(34)", "n(hangup),System(touch /tmp/never)"),
        ("n,StackPop()", "n,Transfer(elsewhere)"),
        ("n,Goto(${ROUNDED_FALLBACK})", "n,Goto(from-internal,600,1)"),
        ("exten => s,1,MSet(LOCAL(rounded_cap)=", "exten => s,1,MSet(GLOBAL(x)="),
        ("[rounded-goto]", "[rounded-goto]\nexten => h,1,Dial(Local/1@from-internal)"),
        ("[rounded-goto]", "[rounded-goto]\ninclude => from-internal"),
    ],
)
def test_a_dialplan_that_is_not_ours_is_not_rehearsed(ward: Ward, old: str, new: str) -> None:
    since = ward.asterisk.position()
    with kept(ward, ward.extensions):
        ward.edit(ward.extensions, old, new, "dialplan reload")
        _, checks = ward.clinic.doctor("--prove")
    found = checks["prove.asterisk"]
    assert (found["verdict"], found["wrong"]) == ("look", "it was not proven")
    assert "only what we have written is rehearsed" in found["seen"]
    with ward.asterisk.log.open("rb") as log:
        log.seek(since)
        assert b"Executing" not in log.read()


def test_a_trunk_behind_a_proxy_leads_nowhere(ward: Ward) -> None:
    with kept(ward, ward.trunk_file):
        if ward.chan_sip:  # there, the third part of the dial string stands for the proxy
            proxy, before = "outboundproxy=127.0.0.9", "\ncontext=rounded-from-agent"
            reload = "sip reload"
        else:
            proxy, before = "outbound_proxy=sip:127.0.0.9\\;lr", "\nallow_transfer=yes"
            reload = "module reload res_pjsip.so"
        ward.edit(ward.trunk_file, before, f"\n{proxy}{before}", reload)
        _, checks = ward.clinic.doctor("--prove")
    if ward.chan_sip:
        assert checks["prove.asterisk.staged"]["verdict"] == "right"
    else:
        assert "has outbound_proxy=sip:127.0.0.9" in checks["prove.asterisk"]["seen"]
        assert checks["prove.asterisk"]["verdict"] == "look"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.02, 0.2, 0.6])
def test_an_interrupted_proof_leaves_nothing(
    ward: Ward, number: signal.Signals, seconds: float
) -> None:
    ward.clinic.interrupted(number, seconds)
    for name in ("in", "call", "stage"):
        shown = ward.asterisk.cli(f"dialplan show rounded-prove-{name}")
        assert "-= 0 extensions" in shown or "There is no existence" in shown
    wait_until(lambda: ward.asterisk.channels() == 0, "the call to end")


def test_what_a_killed_proof_leaves_is_taken_out_by_the_next(ward: Ward) -> None:
    ward.clinic.interrupted(signal.SIGKILL, 0.3)
    wait_until(lambda: ward.asterisk.channels() == 0, "the call to end")
    assert ward.clinic.doctor("--prove")[0] == 0
    assert "-= 0 extensions" in ward.asterisk.cli("dialplan show rounded-prove-call")


def test_what_a_killed_proof_of_another_did_left_is_taken_out(ward: Ward) -> None:
    ward.asterisk.cli("dialplan add extension +33600000000,1,NoOp into rounded-prove")
    assert "+33600000000" in ward.asterisk.cli("dialplan show rounded-prove")
    assert ward.clinic.doctor("--prove")[0] == 0
    assert "+33600000000" not in ward.asterisk.cli("dialplan show rounded-prove")


def test_a_missing_right_to_place_a_call_is_named(ward: Ward) -> None:
    with kept(ward, "manager.conf"):
        rights = "write=system,reporting"
        ward.edit("manager.conf", f"write={RIGHTS}", rights, "manager reload")
        found = ward.found("--prove")
    assert list(found) == ["prove.asterisk"]
    assert "Permission denied" in found["prove.asterisk"]


def test_a_large_dialplan_is_read_to_its_end(ward: Ward) -> None:
    lines = "".join(f"exten => {at},1,NoOp(déjà vu {at})\n" for at in range(10_000, 16_000))
    with kept(ward, "extensions.conf"):
        more = f"[many]\n{lines}[from-internal]"
        ward.edit("extensions.conf", "[from-internal]", more, "dialplan reload")
        status, checks = ward.clinic.doctor()
    assert (status, verdicts(checks)) == (0, {})


def test_two_proofs_do_not_meet(ward: Ward) -> None:
    with socket.socket(socket.AF_UNIX) as lock:
        lock.bind(f"\0rounded_pbx prove 127.0.0.1:{ward.ami}")
        _, checks = ward.clinic.doctor("--prove")
    assert checks["prove.asterisk"]["verdict"] == "skipped"
    assert "another doctor" in checks["prove.asterisk"]["seen"]
