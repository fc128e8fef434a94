"""Proving that the id is on the wire, and that a call goes out where the daemon is not there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..accounts import client_of
from ..call import Switch
from ..config import Config
from ..config_types import Address
from ..control.login import to_asterisk, to_freeswitch
from ..errors import ApiError, NoPermission, SwitchError
from ..routing import Next
from . import asterisk_proof, freeswitch_proof
from .asterisk import RIGHTS
from .listener import HEADER, Trunk, nobody, rehearsal, trunk
from .proof import BACK, FALLBACK, CannotProve, ProofCall
from .results import CheckResult, look, right, skipped, wrong

#: Seconds that a request for the platform's own view may take.
_LIMIT = 10.0

_EMPTY = "; empty contexts rounded-prove-… stay until Asterisk reads its dialplan anew"

#: One call through a copy of the dialplan: our listener, and the daemon instead of the real one.
Rehearse = Callable[[Trunk, Address | None], Awaitable[None]]


async def prove(
    config: Config, keys: Mapping[str, str], *, live: bool
) -> AsyncIterator[CheckResult]:
    """Calls that end at a listener of ours; with ``live``, one of them is staged for real."""
    for switch, login, connect, rehearse in (
        (Switch.ASTERISK, config.asterisk.ami, to_asterisk, asterisk_proof.rehearse),
        (Switch.FREESWITCH, config.freeswitch.esl, to_freeswitch, freeswitch_proof.rehearse),
    ):
        name = f"prove.{switch}"
        if login is None:
            continue
        if not login.address.is_loopback:
            yield skipped(name, f"{login.address} is another machine: prove on the switch's own")
            continue
        try:
            control: Any = connect(config)  # which goes with the function beside it
            await control.log_in()
        except (ValueError, SwitchError):
            yield skipped(name, f"nobody could log in: see {switch}.login")
            continue
        try:
            with _alone(login.address) as alone:
                if not alone:
                    yield skipped(name, "another doctor is proving already")
                    continue
                call = ProofCall(switch, config)
                place = partial(rehearse, control, call)
                async for result in _prove(call, place, keys, live=live):
                    yield result
        finally:
            await control.close()


@contextlib.contextmanager
def _alone(switch: Address) -> Iterator[bool]:
    """Whether nobody else proves on this switch: two would take each other's copy."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0rounded_pbx prove {switch}")  # it has no file, and ends with us
        except OSError:
            yield False
        else:
            yield True


async def _prove(
    call: ProofCall, rehearse: Rehearse, keys: Mapping[str, str], *, live: bool
) -> AsyncIterator[CheckResult]:
    name = f"prove.{call.switch}"
    if call.rendered.problems:
        yield skipped(name, "no dialplan can be written: " + call.rendered.problems[0])
        return
    placed = 0
    try:
        async with rehearsal(call.config) as stand_in, trunk() as listener:
            await rehearse(listener, stand_in.address[call.switch])
            placed += 1
            yield _staged(f"{name}.staged", call, listener, stand_in.staged, stand_in.said)
        async with trunk() as listener:
            await rehearse(listener, nobody())
            placed += 1
            yield _unreachable(f"{name}.unreachable", call, listener)
        if live:
            async with trunk() as listener:
                await rehearse(listener, None)
                placed += 1
                yield await _live(f"{name}.live", call, listener, keys)
    except CannotProve as error:
        yield look(name, str(error), "it was not proven", "docs/doctor.md says what can be")
    except NoPermission as error:
        what, todo = "the manager's user lacks a right", f"in manager.conf: {RIGHTS}"
        yield wrong(name, str(error), what, todo)
    except SwitchError as error:
        yield wrong(name, str(error), "the switch did not place the call", "see its own log")
    if placed:
        stays = _EMPTY if call.switch is Switch.ASTERISK else ""
        yield right(
            f"{name}.remains",
            f"the {placed} calls from {call.caller} to {call.did} went to our listener, and not "
            f"out; each leaves a row in the switch's call records (CDR){stays}",
        )


def _staged(
    name: str, call: ProofCall, listener: Trunk, call_id: str, said: list[str]
) -> CheckResult:
    if not call_id:
        why = next((text for text in said if "did=" in text), "it was not asked")
        return wrong(
            name,
            f"our own daemon staged nothing: {why}",
            "the dialplan did not get to ask, or the call is not one that can be staged",
            f"rounded-pbx route --did {call.did} --from {call.caller}",
        )
    if not listener.invites:
        return wrong(name, "no INVITE arrived", "the agent is not dialled", _dialplan(call))
    ids = listener.invites[0].all(HEADER)
    if ids != [call_id]:
        what = f"{HEADER}: {', '.join(ids)}" if ids else f"the INVITE has no {HEADER}"
        found = wrong(
            name,
            f"{what}; expected {call_id}",
            "the agent that waits is not found",
            _dialplan(call),
        )
        return replace(found, evidence=listener.evidence)
    found = right(name, f"the INVITE carries the id that was staged for {call.did}")
    return replace(found, evidence=listener.evidence)


def _unreachable(name: str, call: ProofCall, listener: Trunk) -> CheckResult:
    """What becomes of a call that no daemon answers: as the DID's own line says."""
    route = call.route
    target = route.fallback.get(call.switch, "") if route else ""
    policy = route.on_failure if route else call.config.calls.default_on_failure
    if policy is Next.HANGUP:
        if listener.invites:
            what = f"it went to {listener.user}"
            return wrong(name, what, "on_failure: hangup says that it ends", _dialplan(call))
        return right(name, "the call ended, as on_failure: hangup says")
    expected, where = call.did, "to the agent, without an id"
    if policy is Next.FALLBACK:
        expected, where = FALLBACK, f"to its fallback, {target}"
        if not target:
            expected, where = BACK, "back to the line that follows yours"
            if call.switch is Switch.FREESWITCH:
                if listener.invites:
                    what = f"it went to {listener.user}"
                    return wrong(name, what, "it has no fallback", _dialplan(call))
                return right(name, "the call ended: on_failure: fallback, and it has none")
    if listener.user != expected:
        went = f"it went to {listener.user}" if listener.invites else "it went nowhere"
        if listener.user == BACK:
            went = f"there is no {target} in the dialplan: the call came back"
        return wrong(name, went, f"expected: {where}", _dialplan(call))
    if listener.id:
        return wrong(name, f"{HEADER}: {listener.id}", "nobody staged it", _dialplan(call))
    found = right(name, f"with no daemon, the call went {where}")
    return replace(found, evidence=listener.evidence)


async def _live(
    name: str, call: ProofCall, listener: Trunk, keys: Mapping[str, str]
) -> CheckResult:
    """What the platform says of the call that the real daemon staged."""
    if not listener.id:
        return wrong(
            name,
            f"the daemon gave no id for {call.did}",
            "the call was not staged",
            "the daemon's log says why; its API key, its network",
        )
    # What the switch told the daemon of this call is not known here, so each account may have it.
    accounts = call.config.account_table().candidates(call.route) if call.route else ()
    said = ""
    for account in accounts:
        if account not in keys:
            continue
        async with client_of(call.config.api, keys[account]) as client:
            try:
                async with asyncio.timeout(_LIMIT):
                    status = await client.call_status(listener.id)
            except (ApiError, TimeoutError) as error:
                said = said or str(error) or "no answer"
                continue
        seen = f"the platform has the call {listener.id}, status {status}; nobody will take it up"
        return replace(right(name, seen), evidence=listener.evidence)
    if not keys.keys() >= set(accounts) or not accounts:
        return skipped(name, f"staged as {listener.id}; its account's key cannot be read here")
    return wrong(
        name,
        f"the platform does not show the call {listener.id}: {said}",
        "the daemon and the doctor may use different accounts",
        "restart the daemon, and look at " + ", ".join(f"accounts.{each}" for each in accounts),
    )


def _dialplan(call: ProofCall) -> str:
    return (
        f"what {call.switch}.dialplan and {call.switch}.header say; rounded-pbx dialplan, --install"
    )
