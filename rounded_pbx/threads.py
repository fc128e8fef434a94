"""Threads for look-ups in a DNS that may be silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Unwaited(ThreadPoolExecutor):
    """A thread for each piece of work: none waits for another, and the end waits for none.

    asyncio's own executor has a few threads, which a silent name server holds for ten seconds or
    more each, and both ``asyncio.run`` and the interpreter wait for them.
    """

    def submit(
        self, fn: Callable[..., Result], /, *arguments: Any, **options: Any
    ) -> Future[Result]:
        """Run ``fn`` in a thread of its own."""
        future: Future[Result] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*arguments, **options))
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for nothing."""
