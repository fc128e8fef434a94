"""What systemd gives a service and wants to hear of it; without systemd, nothing happens here.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

from .errors import RoundedPbxError

#: The first descriptor that is handed over.
FIRST = 3


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """The listening sockets that systemd holds for us, by their ``FileDescriptorName``.

    They outlive the process: a call that comes while it restarts waits for the next one. What says
    so is taken out of the environment, so that no child takes it for its own.

    Raises:
        RoundedPbxError: one is no listening TCP socket, or two have one name.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, socket.socket] = {}
    for place in range(int(count)):
        name = names[place] if place < len(names) else ""
        os.set_inheritable(FIRST + place, False)
        taken = socket.socket(fileno=FIRST + place)
        tcp = taken.family in (socket.AF_INET, socket.AF_INET6)
        if not tcp or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise RoundedPbxError(f"systemd's socket {name!r} does not listen for TCP")
        if name in found:
            raise RoundedPbxError(f"systemd has two sockets named {name!r}; expected one")
        found[name] = taken
    return found


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd how the service is: ``READY=1``, ``STATUS=…``; nobody may be there to hear."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)  # a call must not wait for systemd
            out.sendto("\n".join(lines).encode(), address)
    except OSError:  # the next one may get through; the watchdog sees to it if none does
        return


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which systemd wants a sign of life, or None where it wants none."""
    limit, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not limit.isdigit() or int(limit) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(limit) / 1e6
