"""The control plane on a real Asterisk: its manager, with the rights that we ask for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rounded_pbx.config_types import Address
from rounded_pbx.control.asterisk import Asterisk as Manager
from rounded_pbx.errors import CommandFailed, LoginRefused, SwitchUnreachable

from ..lab import asterisk as switches
from ..lab.asterisk import Asterisk
from ..lab.processes import wait_until

PORT = 5038
SECRET = "hush-5e17c0ffee"
RIGHTS = "system,reporting,originate"
USERS = {
    "rounded": f"read={RIGHTS}\nwrite={RIGHTS}\n",
    "elsewhere": f"read={RIGHTS}\nwrite={RIGHTS}\ndeny=0.0.0.0/0.0.0.0\npermit=127.0.0.9\n",
    "weak": "read=reporting\nwrite=reporting\n",
}
MANAGER = f"[general]\nenabled=yes\nbindaddr=127.0.0.1\nport={PORT}\n" + "".join(
    f"[{name}]\nsecret={SECRET}\n{rights}" for name, rights in USERS.items()
)
MODULES = """[modules]
autoload=no
load=bridge_simple.so
load=app_verbose.so
load=codec_ulaw.so
load=func_callerid.so
load=pbx_config.so
load=res_speech.so
load=res_agi.so
load=res_timing_timerfd.so
"""
EXTENSIONS = """[general]
static=yes
writeprotect=yes
[control]
exten => answers,1,Answer()
 same => n,Log(NOTICE,CALLED ${CALLERID(num)} ${EXTEN})
 same => n,Wait(1)
 same => n,Hangup()
exten => refuses,1,Hangup(17)
exten => rings,1,Ringing()
 same => n,Wait(60)
"""


@pytest.fixture(scope="module", params=[22, 16])
def asterisk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    files = {
        "manager.conf": MANAGER,
        "modules.conf": MODULES,
        "extensions.conf": EXTENSIONS,
        "logger.conf": "[logfiles]\nmessages => notice,warning,error\n",
    }
    directory = tmp_path_factory.mktemp(f"control-{request.param}")
    with switches.running(request.param, directory, files) as started:
        yield started


def manager(name: str = "rounded", secret: str = SECRET) -> Manager:
    return Manager(Address("127.0.0.1", PORT), name, secret)


@pytest.fixture
async def control(asterisk: Asterisk) -> AsyncIterator[Manager]:
    control = manager()
    await control.log_in()
    yield control
    await control.close()


async def test_it_says_what_it_is_and_has_loaded(asterisk: Asterisk, control: Manager) -> None:
    assert (await control.version()).startswith(f"Asterisk {asterisk.version}.")
    assert await control.loaded(["res_agi", "pbx_config", "chan_pjsip", "nonsense"]) == {
        "res_agi",
        "pbx_config",
    }


async def test_a_reload_makes_a_changed_dialplan_live(asterisk: Asterisk, control: Manager) -> None:
    file = asterisk.directory / "extensions.conf"
    with pytest.raises(CommandFailed):
        await control.originate("new", "control", caller="100", seconds=2)
    try:
        file.write_text(EXTENSIONS + "exten => new,1,Answer()\n same => n,Wait(1)\n")
        await control.reload()
        await control.originate("new", "control", caller="100", seconds=2)
    finally:
        file.write_text(EXTENSIONS)
        await control.reload()
    with pytest.raises(CommandFailed):
        await control.originate("new", "control", caller="100", seconds=2)


async def test_a_call_is_placed_and_answered(asterisk: Asterisk, control: Manager) -> None:
    since = asterisk.position()
    await control.originate("answers", "control", caller="+33612345678", seconds=5)
    wait_until(lambda: "CALLED +33612345678 answers" in asterisk.notices(since), "the call")


@pytest.mark.parametrize(
    ("extension", "context"), [("refuses", "control"), ("none", "control"), ("answers", "none")]
)
async def test_a_call_that_is_not_answered_has_failed(
    control: Manager, extension: str, context: str
) -> None:
    with pytest.raises(CommandFailed, match="Originate"):
        await control.originate(extension, context, caller="100", seconds=5)
    assert await control.version()


async def test_a_call_rings_no_longer_than_it_may(asterisk: Asterisk, control: Manager) -> None:
    begun = time.monotonic()
    with pytest.raises(CommandFailed):
        await control.originate("rings", "control", caller="100", seconds=1)
    assert 0.9 < time.monotonic() - begun < 4
    wait_until(lambda: "rings" not in asterisk.cli("core show channels"), "the end of the call")


@pytest.mark.parametrize(
    ("name", "secret"), [("rounded", "wrong"), ("nobody", SECRET), ("elsewhere", SECRET)]
)
async def test_who_may_not_log_in(asterisk: Asterisk, name: str, secret: str) -> None:
    control = manager(name, secret)
    with pytest.raises(LoginRefused):
        await control.log_in()
    with pytest.raises(SwitchUnreachable):
        await control.version()
    await control.close()


async def test_rights_that_are_missing_are_named(asterisk: Asterisk) -> None:
    control = manager("weak")
    await control.log_in()
    assert await control.version()
    for call in (
        control.loaded(["res_agi"]),
        control.reload(),
        control.originate("answers", "control", caller="100", seconds=2),
    ):
        with pytest.raises(CommandFailed, match="ermission denied"):
            await call
    await control.close()


async def test_the_end_of_the_switch_is_noticed(tmp_path: Path) -> None:
    files = {"manager.conf": MANAGER.replace(str(PORT), "5039"), "modules.conf": MODULES}
    control = Manager(Address("127.0.0.1", 5039), "rounded", SECRET)
    with switches.running(22, tmp_path / "asterisk", files):
        await control.log_in()
    with pytest.raises(SwitchUnreachable):
        await control.version()
    await control.close()
