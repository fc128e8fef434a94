"""The switch that a configuration says how to log in to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config

if TYPE_CHECKING:  # each of them loads a library, and both are seldom needed
    from .asterisk import Asterisk
    from .freeswitch import FreeSwitch


def to_asterisk(config: Config) -> Asterisk:
    """Asterisk's manager.

    Raises:
        ValueError: the configuration does not say how, or the secret cannot be read.
    """
    from .asterisk import Asterisk

    ami = config.asterisk.ami
    if ami is None:
        raise ValueError("asterisk.ami is missing: expected how to log in to Asterisk's manager")
    return Asterisk(ami.address, ami.username, ami.read_secret().get_secret_value())


def to_freeswitch(config: Config) -> FreeSwitch:
    """FreeSWITCH's event socket; the same errors."""
    from .freeswitch import FreeSwitch

    esl = config.freeswitch.esl
    if esl is None:
        raise ValueError("freeswitch.esl is missing: expected how to log in to the event socket")
    return FreeSwitch(esl.address, esl.read_secret().get_secret_value())
