"""The control plane: logging in to a switch, to ask it, reload it, and have it place a call.

Both switches have the same face, ``Control``. It never serves a live call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from ..config_types import Address
from ..errors import CommandFailed

#: What may stand in a command: nothing of it ends a line, splits an argument or is expanded. No @:
#: in "600@theirs", Asterisk's Local channel would read an extension and a context of its own.
_WORD = re.compile(r"[A-Za-z0-9_.+*#-]{1,80}")


class Control(Protocol):
    """A switch to log in to. Each method ends within the time-out that it was made with.

    A connection that failed once, or was too slow, is closed: what is asked after that is refused
    until somebody logs in again.

    Raises:
        SwitchUnreachable: it does not answer, or not in time.
        LoginRefused: the password is wrong, or the switch's own ACL keeps us out.
        CommandFailed: it refused the command; or an argument could not be sent safely.
    """

    address: Address

    async def log_in(self) -> None:
        """Connect and prove who we are."""
        ...

    async def version(self) -> str:
        """What the switch says it is: ``Asterisk 22.10.1``, ``FreeSWITCH Version 1.11.2…``."""
        ...

    async def loaded(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the modules are loaded."""
        ...

    async def reload(self) -> None:
        """Read the dialplan and the trunk again."""
        ...

    async def originate(self, extension: str, context: str, *, caller: str, seconds: int) -> None:
        """Place a call into the dialplan and wait, at most ``seconds``, until it is answered.

        The switch itself is the other end of it: Asterisk for a second, FreeSWITCH until it ends.
        """
        ...

    async def close(self) -> None:
        """End the connection; nothing of it stays."""
        ...


def word(text: str, what: str) -> str:
    """``text`` if it can stand in a command.

    Raises:
        CommandFailed: it cannot.
    """
    if not _WORD.fullmatch(text):
        raise CommandFailed(f"{what} {text[:80]!r}: expected at most 80 of A-Z a-z 0-9 _ . + * # -")
    return text


def said(reply: object) -> str:
    """What a switch said, as one short line that a terminal shows as it is."""
    text = str(reply).strip()[:200]
    return "".join(character if character.isprintable() else "?" for character in text)
