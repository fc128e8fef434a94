"""Where results of stagings wait that were begun early: whether Redis can be used."""

from __future__ import annotations

import time

from ..config_prestage import Prestage
from .results import CheckResult, look, right, skipped

NAME = "prestage.store"


async def check_store(prestage: Prestage) -> CheckResult:
    """Whether the daemons can share their tickets in Redis; without, calls are staged anew."""
    from ..prestage_redis import store_of  # an extra

    try:
        store = store_of(prestage)
    except ValueError:
        return skipped(NAME, "its password cannot be read here")
    begun = time.perf_counter()
    try:
        problem = await store.problem()
    finally:
        await store.aclose()
    if problem:
        todo = "prestage (store, username, secret); Redis 6.2 or later; its own log and ACL"
        why = "what was begun early is staged anew: its callers wait for their staging"
        return look(NAME, f"{prestage.store}: {problem}", why, todo)
    return right(NAME, f"{prestage.store}: {(time.perf_counter() - begun) * 1000:.0f} ms")
