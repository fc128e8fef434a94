"""What is done on the platform while no caller waits for it: each account has a queue of its own.

A staged call is told how the switch calls it, and an abandoned one is ended where that is wanted.
What cannot be done is tried again, then dropped and counted: it never holds up a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from .call import mask_numbers
from .errors import ApiBadAnswer, ApiError, ApiRejected, ApiUnauthorized

log = logging.getLogger(__name__)

#: Errands of an account that wait; further ones are dropped.
MOST_WAITING = 1000
#: Seconds that an attempt may take, and the pauses between attempts.
ATTEMPT_LIMIT = 5.0
PAUSES = (1.0, 4.0)
#: Seconds from the beginning of an errand in which it is done or dropped.
LONGEST = (len(PAUSES) + 1) * ATTEMPT_LIMIT + sum(PAUSES)
#: Seconds between two log lines that tell of dropped errands.
TOLD_EVERY = 60.0
STOPS = "its time is over: the daemon stops, or was given another configuration"

Errand = Callable[[], Awaitable[None]]


class ErrandApi(Protocol):
    """What errands need of the API."""

    async def update_call(self, call_id: str, metadata: Mapping[str, object]) -> None:
        """Merge metadata into a call's."""
        ...

    async def terminate_call(self, call_id: str) -> None:
        """End a call."""
        ...


class Errands:
    """The errands of every account.

    Args:
        clients: the API of each account.
        pbx: the name of this PBX, for the calls' metadata.
        at_once: errands of an account that are done at the same time, a connection each.
        terminate: whether calls that nobody will dial are ended.
        on_drop: told of each that is dropped, with its account.
    """

    def __init__(
        self,
        clients: Mapping[str, ErrandApi],
        *,
        pbx: str,
        at_once: int,
        terminate: bool,
        on_drop: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.dropped = 0
        self._on_drop = on_drop
        self._clients = clients
        self._pbx = pbx
        self._at_once = at_once
        self._terminate = terminate
        self._queues: dict[str, asyncio.Queue[Errand]] = {
            name: asyncio.Queue(MOST_WAITING) for name in clients
        }
        self._told_at = float("-inf")

    def correlate(self, account: str, call_id: str, metadata: Mapping[str, str]) -> None:
        """Let the platform know how the switch calls this call."""
        values = {"pbx": self._pbx, **metadata}
        self._add(account, partial(self._clients[account].update_call, call_id, values))

    def dispose(self, account: str, call_id: str) -> None:
        """Nobody will dial this call: end it where that is wanted, else the platform drops it."""
        if self._terminate and account in self._clients:
            self._add(account, partial(self._clients[account].terminate_call, call_id))

    async def run(self) -> None:
        """Do them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, queue in self._queues.items():
                for _ in range(self._at_once):
                    group.create_task(self._work(name, queue))

    async def finish(self, patience: float) -> None:
        """Wait for those that are left, ``patience`` seconds at most."""
        waiting = [asyncio.ensure_future(queue.join()) for queue in self._queues.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=patience)
            for task in late:
                task.cancel()
        for name, queue in self._queues.items():
            while not queue.empty():
                queue.get_nowait()
                self._drop(name, STOPS)

    def _add(self, account: str, errand: Errand) -> None:
        try:
            self._queues[account].put_nowait(errand)
        except asyncio.QueueFull:
            self._drop(account, f"{MOST_WAITING} are waiting already")

    async def _work(self, account: str, queue: asyncio.Queue[Errand]) -> None:
        while True:
            errand = await queue.get()
            try:
                await self._do(account, errand)
            except asyncio.CancelledError:
                self._drop(account, STOPS)
                raise
            finally:
                queue.task_done()

    async def _do(self, account: str, errand: Errand) -> None:
        for pause in (*PAUSES, None):
            try:
                async with asyncio.timeout(ATTEMPT_LIMIT):
                    await errand()
                return
            except (ApiError, TimeoutError) as error:
                refused = isinstance(error, ApiRejected | ApiUnauthorized | ApiBadAnswer)
                if pause is None or refused:
                    self._drop(account, str(error) or "no answer in time")
                    return
            except Exception:
                log.exception("account %s: a defect of rounded_pbx in an errand", account)
                return
            await asyncio.sleep(pause)

    def _drop(self, account: str, why: str) -> None:
        self.dropped += 1
        self._on_drop(account)
        now = asyncio.get_running_loop().time()
        if now >= self._told_at + TOLD_EVERY:
            self._told_at = now
            log.warning(
                "account %s: the platform was not told of a call: %s; dropped so far: %d",
                account,
                mask_numbers(why),
                self.dropped,
            )
