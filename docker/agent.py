"""The agent's end of the trunk, on the HOST:PORT given: answers each call, and shows its INVITE."""

from __future__ import annotations

import asyncio
import signal
import sys

from rounded_pbx.sip import Callee, SipMessage

HEADER = "X-Rounded-Call-Id"


def show(invite: SipMessage) -> None:
    """Print an INVITE, as far as it is of interest here."""
    lines = [
        invite.first_line,
        f"   User-Agent: {invite.header('User-Agent')}",
        f"   {HEADER}: {invite.header(HEADER)}" if invite.all(HEADER) else f"   (no {HEADER})",
    ]
    print("\n".join(lines), flush=True)


async def main(address: str) -> None:
    """Answer calls until SIGTERM."""
    host, _, port = address.rpartition(":")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    callee = await Callee(show).listen(host, int(port))
    await stopped.wait()
    callee.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
