"""What docs/scale.md sets up: two daemons on a LAN that share a Redis, and HAProxy before them."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .daemon import Daemon, SandboxThread, config
from .haproxy import ROOT, HAProxy, haproxy
from .lan import HOSTS, lan, power_off, power_on
from .processes import rounded_pbx, wait_until
from .redis import RedisServer, redis_server

PASSWORD = "hush-5e17c0ffee"


@dataclass
class Fleet:
    """The two daemons, and what is between them and the switch."""

    haproxy: HAProxy
    redis: RedisServer
    a: Daemon
    b: Daemon

    def lose_power(self, *daemons: Daemon) -> None:
        """From now on their packets vanish."""
        for daemon in daemons or (self.a, self.b):
            power_off(daemon.listens[0])

    def until(self, server: str, *, up: bool) -> None:
        """Wait until HAProxy has noticed."""
        there = "there" if up else "gone"
        wait_until(lambda: self.haproxy.is_up(server) == up, f"{server} to be {there}", 5)


def documented(host: str, redis: RedisServer, directory: Path) -> str:
    """The lines of docs/scale.md that a daemon needs."""
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    changes = {
        "0.0.0.0": host,  # both are on one machine here
        "redis://192.0.2.20:6379/0": redis.url,
        "credential: redis": f"secret_file: {directory / 'password'}",
    }
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in docs/scale.md"
        text = text.replace(old, new)
    return str(text)


@contextlib.contextmanager
def _daemon(host: str, directory: Path, text: str) -> Iterator[Daemon]:
    file = directory / "config.yml"
    file.write_text(text)
    command = rounded_pbx("serve", "--config", file)
    started = Daemon(directory, command, listens=(host, 8084))
    try:
        started.start()
        yield started
        assert PASSWORD not in started.log
        assert "Traceback" not in started.log
    finally:
        power_on(host)
        if started.running is not None:
            started.signal(signal.SIGCONT)
        started.stop()


@contextlib.contextmanager
def fleet(directory: Path, api: SandboxThread) -> Iterator[Fleet]:
    """All of it at work."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(lan())
        directory.mkdir(parents=True, exist_ok=True)
        redis = stack.enter_context(redis_server(directory, password=PASSWORD))
        daemons = []
        for name, host in zip("ab", HOSTS, strict=True):
            (own := directory / name).mkdir()
            (own / "password").write_text(PASSWORD)
            # Both are on one machine here, and its page has one port.
            text = config(api.url) + documented(host, redis, own) + "status: {listen: off}\n"
            daemons.append(stack.enter_context(_daemon(host, own, text)))
        balancer = stack.enter_context(haproxy(directory / "haproxy"))
        yield Fleet(balancer, redis, *daemons)
