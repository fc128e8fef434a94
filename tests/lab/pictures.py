"""The pictures of the status page in docs/: ``python -m tests.lab.pictures docs``.

A real page with an hour of made-up calls, in a real Chromium (``scripts/unpack chromium``).
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from rounded_pbx.call import Switch
from rounded_pbx.config import Config
from rounded_pbx.config_shown import shown
from rounded_pbx.config_status import Status
from rounded_pbx.records import CallRecord
from rounded_pbx.servers.status import AccountHealth, Facts, StatusServer
from rounded_pbx.watch import Watch

from .chromium import chromium, find
from .daemon import AGENT

_REASONS = {
    "INITIATED": "not staged in time",
    "TIMEOUT": "no answer from the API in time",
    "UNAVAILABLE": "503: service unavailable",
}


def an_hour(now: float) -> Watch:
    """Calls of an hour, on two DIDs, most of them well."""
    chance, clock = random.Random(7), [0.0]
    watch = Watch(lambda: clock[0])
    for second in range(3600):
        clock[0] = float(second)
        if chance.random() > 0.12:
            continue
        outcome = chance.choices(["STAGED", "INITIATED", "TIMEOUT", "HANGUP"], [93, 3, 2, 2])[0]
        with_id = outcome in ("STAGED", "INITIATED")
        name, did = chance.choice([("support", "+33612345678"), ("sales", "+33180001234")])
        watch.add(
            CallRecord(
                time=now - 3600 + second,
                switch=Switch.ASTERISK,
                outcome=outcome,
                did=did,
                caller=f"+331{chance.randrange(10**4, 10**5)}****",
                route=name,
                ms=1500 if outcome == "TIMEOUT" else round(chance.lognormvariate(5.2, 0.35)),
                call_id=str(uuid.UUID(int=chance.getrandbits(128), version=4)) if with_id else "",
                unique_id=f"{now - 3600 + second:.0f}.{second % 97}",
                reason=_REASONS.get(outcome, ""),
            )
        )
    return watch


def main(folder: Path) -> None:
    now = time.time()
    config = Config.model_validate(
        {
            "accounts": {"default": {"key_env": "ROUNDED_API_KEY"}},
            "routes": [{"name": "support", "agent_id": AGENT, "did": "+33612345678"}],
        }
    )
    facts = Facts(
        version="0.1.0",
        pbx="pbx1",
        started=now - 86400,
        listening=(("asterisk", "127.0.0.1:4573"), ("freeswitch", "127.0.0.1:8084")),
        accounts=(AccountHealth("default", False, ""), AccountHealth("acme", False, "")),
        in_flight=2,
        prestaged=1,
        configuration=shown(config),
    )
    page = StatusServer(
        Status.model_validate({"listen": "127.0.0.1:0"}),
        watch=an_hour(now),
        ready=lambda: True,
        metrics=bytes,
        facts=lambda: facts,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    program = find()
    assert program is not None, "no Chromium: scripts/unpack chromium"
    try:
        port = asyncio.run_coroutine_threadsafe(page.start(), loop).result().port
        with tempfile.TemporaryDirectory() as name, chromium(program, Path(name)) as browser:
            for picture, width, height, scheme in (
                ("status-page.png", 1080, 760, "light"),
                ("status-phone.png", 360, 640, "dark"),
            ):
                with browser.page() as opened:
                    opened.looks(width, height, scheme)
                    opened.open(f"http://127.0.0.1:{port}/")
                    opened.until(lambda: opened.has("#live", "Live"), "the page")
                    if width < 500:
                        opened.run("document.getElementById('hour_h').scrollIntoView()")
                    opened.picture(folder / picture)
        asyncio.run_coroutine_threadsafe(page.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
