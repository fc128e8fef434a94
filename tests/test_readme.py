"""README's own lines, on a clean root: from nothing to a call that is staged.

The lines of its blocks run as they stand, in bash, in the order in which they stand. Substituted
are: the clone, by the sdist or by the wheel built from it; PyPI, by a folder of wheels, as there is
no network; `apt`, by nothing, as pipx is there; `editor`, by what an admin would write;
`systemctl`, by nothing that runs: the service's command is taken from the unit that was installed,
and run as nobody with the credential that the unit names (where the tests have no root of their
own: as root). Asterisk is a private one, on the /etc/asterisk of that root; the API is the sandbox;
caller and agent are ours.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rounded_pbx import __version__
from rounded_pbx.config_types import Address
from rounded_pbx.demo.asterisk import PrivateAsterisk
from rounded_pbx.demo.switches import free_address
from rounded_pbx.sip import Callee, Caller, SipMessage

from .helpers import eventually
from .lab.asterisk import ROOT, unpacked
from .lab.daemon import FASTAGI, SandboxThread
from .lab.packages import Packages
from .lab.processes import answers, wait_until
from .lab.root import Root, mapped

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
README = (ROOT / "README.md").read_text()


def blocks(language: str, after: str, before: str) -> list[str]:
    """The blocks of README in a language, between two of its lines."""
    text = README[README.index(f"\n{after}") : README.index(f"\n{before}")]
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def installing(lines: str, package: Path, root: Root) -> str:
    """The lines with a package made of the clone in the place of the clone."""
    [(command, clone)] = re.findall(r"(pipx install (\.|/usr/src/rounded_pbx))(?=\s)", lines)
    root.path(f"/tmp/{package.name}").write_bytes(package.read_bytes())
    return lines.replace(command, command.replace(clone, f"/tmp/{package.name}"))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    tmp_path.chmod(0o755)
    return Root(tmp_path / "root")


def test_five_minutes_lead_to_the_first_staged_call(root: Root, packages: Packages) -> None:
    [block] = blocks("sh", "## Five minutes", "## Going live")
    away = re.findall(r"`(kill %1;[^`]*)`", README)
    lines = [installing(block, packages.sdist, root), *away, "wait; ls -A"]
    ran = root.run(
        *("bash", "-c", f"cd; {chr(10).join(lines)}"),
        environment={
            "HOME": "/home/admin",
            "PATH": f"/home/admin/.local/bin:{root.environment['PATH']}",
        },
    )
    said = ran.stdout + ran.stderr
    assert re.search(r"(?m)^route +support$", ran.stdout), said
    assert re.search(rf"(?m)^ROUNDED_CALL_ID={UUID}$", ran.stdout), said
    assert "ROUNDED_STATUS=STAGED" in ran.stdout.split("ROUNDED_CALL_ID=")[1]
    assert "first.yml" not in ran.stdout.split("ROUNDED_STATUS=STAGED")[1]  # put away


EDITOR = """\
case $1 in
  */api_key) echo sandbox > "$1" ;;
  */config.yml)
    sed -i 's#base_url: .*#base_url: "{api}"#; s#host: sip.example.net#host: "{agent}"#' "$1"
    sed -i 's#^trunk:.*#&\\n  match: 192.0.2.1#' "$1" ;;
  *) exit 1 ;;
esac"""

PJSIP = """\
[transport-udp]
type=transport
protocol=udp
bind={switch}
[carrier]
type=endpoint
context=from-trunk
disallow=all
allow=alaw
[carrier]
type=identify
endpoint=carrier
match=127.0.0.1
"""


@pytest.fixture
def sip() -> Address:
    return free_address(socket.SOCK_DGRAM)


@pytest.fixture
def asterisk(root: Root, sip: Address) -> Iterator[PrivateAsterisk]:
    """An admin's Asterisk, which knows nothing of us but the one line that README asks for."""
    [inbound] = blocks("", "`--install` ends with what only you can do", "Where callers hear")
    files = {"extensions.conf": f"[from-trunk]\n{inbound}", "pjsip.conf": PJSIP.format(switch=sip)}
    folder = root.path("/etc/asterisk")
    folder.mkdir()
    with PrivateAsterisk(unpacked(22), folder, files) as started:
        yield started


async def test_going_live_leads_to_a_call_whose_invite_carries_the_id(
    root: Root,
    asterisk: PrivateAsterisk,
    sip: Address,
    api: SandboxThread,
    packages: Packages,
    tmp_path: Path,
) -> None:
    invites: list[SipMessage] = []
    agent = await Callee(invites.append).listen("127.0.0.1")
    caller = await Caller(lambda response: None).listen("127.0.0.1")
    try:
        root.program("apt", ":")
        root.program("systemctl", "echo systemctl $*")
        root.program("editor", EDITOR.format(api=api.url, agent=agent.here))
        lines = "".join(blocks("sh", "**1. Install.**", "**5. See that it works.**"))
        environment = {"HOME": "/root"}
        script = installing(lines, packages.wheel, root)
        ran = root.run("bash", "-c", f"cd; umask 022; {script}", environment=environment)
        said = ran.stdout + ran.stderr
        assert "/etc/rounded_pbx/config.yml: no mistakes" in ran.stdout, said
        assert "ROUNDED_STATUS=STAGED" in ran.stdout, said
        assert "systemctl enable --now rounded-pbx" in ran.stdout, said
        assert "written /etc/systemd/system/rounded-pbx.service" in ran.stdout, said
        assert "made /etc/asterisk/extensions_rounded.conf" in ran.stdout, said
        assert "error" not in said.lower(), said

        unit = root.path("/etc/systemd/system/rounded-pbx.service").read_text()
        [program] = re.findall(r"(?m)^ExecStart=(.*)$", unit)
        assert program == "/opt/pipx/venvs/rounded-pbx/bin/rounded-pbx serve"
        with root.running(*as_the_service(root, unit, program), tmp_path / "daemon.log"):
            log = tmp_path / "daemon.log"
            wait_until(lambda: answers(FASTAGI.host, FASTAGI.port), "the daemon to listen")
            for command in re.findall(r'(?m)^ +asterisk -rx "(.*)"$', ran.stdout):
                asterisk.cli(command)
            wait_until(lambda: "rounded-call" in asterisk.cli("dialplan show"), "the dialplan")
            answer = await caller.call(sip, "+33612345678", name="Ann", number="+33145678901")
            assert answer.status == 200, log.read_text()
            caller.hang_up()
            await eventually(lambda: " STAGED did=" in log.read_text())
        [invite] = invites
        assert invite.header("X-Rounded-Call-Id") == api.ids()[-1]
        assert len(api.ids()) == 2  # one from the shell
        assert f"call_id={api.ids()[-1]}" in log.read_text()

        ran = root.run("bash", "-c", "rounded-pbx --version; rounded-agi", environment=environment)
        said = f'rounded-pbx {__version__}\nSET VARIABLE ROUNDED_CALL_ID ""\n'
        assert ran.stdout == f'{said}SET VARIABLE ROUNDED_STATUS "UNAVAILABLE"\n'
    finally:
        caller.close()
        agent.close()


def as_the_service(root: Root, unit: str, program: str) -> tuple[list[str], dict[str, str]]:
    """The service's command, and its environment, with what systemd would hand to it."""
    [credential] = re.findall(r"(?m)^LoadCredential=(.*)$", unit)
    name, _, source = credential.partition(":")
    folder = root.path("/run/credentials/rounded-pbx.service")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(root.path(source).read_bytes())
    (folder / name).chmod(0o444)
    assert root.path(source).stat().st_mode & 0o777 == 0o600
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    words = [*([] if mapped() else nobody), *shlex.split(program)]
    return words, {"CREDENTIALS_DIRECTORY": "/run/credentials/rounded-pbx.service"}
