"""Whether there is still somebody to answer to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import SwitchError

Result = TypeVar("Result")


class Presence:
    """The peer of a session: work for it is cancelled the moment it leaves."""

    def __init__(self) -> None:
        self._work: asyncio.Task[object] | None = None
        self._why: SwitchError | None = None

    def leave(self, why: SwitchError) -> None:
        """The peer has left; a later reason stands for an earlier one."""
        self._why = why
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def during(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of ``work``, which is cancelled when the peer leaves.

        Raises:
            SwitchError: the reason that ``leave`` gave.
        """
        if self._why is not None:
            work.close()
            raise self._why
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._work, cancelling = task, task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            if self._why is None or task.uncancel() > cancelling:
                raise
            raise self._why from None
        finally:
            self._work = None
