"""The control plane on a real FreeSWITCH: its event socket."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rounded_pbx.config_types import Address
from rounded_pbx.control.freeswitch import FreeSwitch as EventSocket
from rounded_pbx.demo.freeswitch import PASSWORD, PrivateFreeSwitch, find
from rounded_pbx.errors import CommandFailed, LoginRefused, SwitchUnreachable

from ..lab.freeswitch import EVENT_SOCKET, FreeSwitch
from ..lab.processes import wait_until

FILE = "conf/dialplan/control.xml"


def extension(name: str, *actions: str) -> str:
    lines = "".join(
        f'<action application="{application}" data="{data}"/>'
        for application, _, data in (action.partition(" ") for action in actions)
    )
    condition = f'<condition field="destination_number" expression="^{name}$">'
    return f'<extension name="{name}">{condition}{lines}</condition></extension>\n'


def dialplan(*more: str) -> str:
    extensions = [
        extension(
            "answers",
            "answer",
            "log NOTICE ADMIN-CALLED ${caller_id_number} ${destination_number}",
            "sleep 500",
            "hangup",
        ),
        extension("refuses", "hangup USER_BUSY"),
        extension("rings", "ring_ready", "sleep 60000"),
        *more,
    ]
    return f'<include>\n<context name="control">\n{"".join(extensions)}</context>\n</include>\n'


@pytest.fixture
async def control(switch: FreeSwitch) -> AsyncIterator[EventSocket]:
    control = EventSocket(Address("127.0.0.1", EVENT_SOCKET), PASSWORD)
    (switch.directory / FILE).write_text(dialplan())
    await control.log_in()
    await control.reload()
    yield control
    (switch.directory / FILE).unlink()
    await control.reload()
    await control.close()


async def test_it_says_what_it_is_and_has_loaded(control: EventSocket) -> None:
    assert (await control.version()).startswith("FreeSWITCH Version 1.")
    assert await control.loaded(["mod_event_socket", "mod_loopback", "mod_nonsense"]) == {
        "mod_event_socket",
        "mod_loopback",
    }


async def test_a_reload_makes_a_changed_dialplan_live(
    switch: FreeSwitch, control: EventSocket
) -> None:
    with pytest.raises(CommandFailed):
        await control.originate("new", "control", caller="100", seconds=2)
    (switch.directory / FILE).write_text(dialplan(extension("new", "answer", "sleep 300")))
    with pytest.raises(CommandFailed):
        await control.originate("new", "control", caller="100", seconds=2)
    await control.reload()
    await control.originate("new", "control", caller="100", seconds=2)


async def test_a_dialplan_that_is_no_xml_is_refused(
    switch: FreeSwitch, control: EventSocket
) -> None:
    (switch.directory / FILE).write_text(dialplan().replace("</context>", "</contxt>"))
    try:
        with pytest.raises(CommandFailed, match="reloadxml"):
            await control.reload()
    finally:
        (switch.directory / FILE).write_text(dialplan())
        await control.reload()


async def test_a_call_is_placed_and_answered(switch: FreeSwitch, control: EventSocket) -> None:
    since = switch.position()
    await control.originate("answers", "control", caller="+33612345678", seconds=5)
    wait_until(lambda: "ADMIN-CALLED +33612345678 answers" in switch.notices(since), "the call")
    wait_until(lambda: switch.channels() == 0, "the end of the call")


@pytest.mark.parametrize(
    ("extension", "context"), [("refuses", "control"), ("none", "control"), ("answers", "none")]
)
async def test_a_call_that_is_not_answered_has_failed(
    switch: FreeSwitch, control: EventSocket, extension: str, context: str
) -> None:
    with pytest.raises(CommandFailed, match="originate: -ERR"):
        await control.originate(extension, context, caller="100", seconds=5)
    assert await control.version()
    wait_until(lambda: switch.channels() == 0, "the end of the call")


async def test_a_call_rings_no_longer_than_it_may(switch: FreeSwitch, control: EventSocket) -> None:
    begun = time.monotonic()
    with pytest.raises(CommandFailed, match=r"originate: -ERR (NO_ANSWER|ALLOTTED_TIMEOUT)"):
        await control.originate("rings", "control", caller="100", seconds=2)
    assert 0.9 < time.monotonic() - begun < 5  # FreeSWITCH counts whole seconds of the clock
    wait_until(lambda: switch.channels() == 0, "the end of the call")


async def test_a_wrong_password_is_refused(switch: FreeSwitch) -> None:
    control = EventSocket(Address("127.0.0.1", EVENT_SOCKET), "wrong")
    with pytest.raises(LoginRefused, match="password"):
        await control.log_in()
    with pytest.raises(SwitchUnreachable):
        await control.version()
    await control.close()


class Guarded(PrivateFreeSwitch):
    """One whose event socket lets nobody in but an address that is not ours."""

    def _write(self) -> None:
        super()._write()
        file = self.directory / "conf" / "freeswitch.xml"
        acl = '<param name="apply-inbound-acl" value="127.0.0.9/32"/>'
        text = file.read_text()
        assert '<settings><param name="listen-ip"' in text
        file.write_text(text.replace('<param name="listen-ip"', f'{acl}<param name="listen-ip"'))

    def cli(self, command: str) -> str:
        del command  # it answers none: that it sends us away is what there is to wait for
        try:
            with socket.create_connection(("127.0.0.1", self.event_socket), 5) as connection:
                rejected = b"rude-rejection" in connection.recv(4096)
            started = "FreeSWITCH Started" in self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "is ready" if rejected and started else ""

    def stop(self) -> None:
        # After it has sent somebody away, FreeSWITCH 1.11 does not end when it is asked to.
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[PrivateFreeSwitch]:
    program = find()
    if program is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    with Guarded(program, tmp_path / "guarded", {}, event_socket=EVENT_SOCKET + 1) as started:
        yield started


async def test_an_acl_of_the_switch_is_named(guarded: PrivateFreeSwitch) -> None:
    control = EventSocket(Address("127.0.0.1", guarded.event_socket), PASSWORD)
    with pytest.raises(LoginRefused, match="apply-inbound-acl"):
        await control.log_in()
    await control.close()


async def test_the_end_of_the_switch_is_noticed(tmp_path: Path) -> None:
    program = find()
    if program is None:
        pytest.skip("no FreeSWITCH: put it on PATH, or name it in the variable FREESWITCH")
    control = EventSocket(Address("127.0.0.1", EVENT_SOCKET + 2), PASSWORD)
    with PrivateFreeSwitch(program, tmp_path / "other", {}, event_socket=EVENT_SOCKET + 2):
        await control.log_in()
    with pytest.raises(SwitchUnreachable):
        await control.version()
    await control.close()
