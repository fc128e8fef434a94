"""The part of the configuration that says how calls are staged early: ``prestage``."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from typing import Annotated, Self

import pydantic
from pydantic import AfterValidator, Field

from .config_secrets import SECRET_SOURCES, Secret
from .config_types import Name, Seconds

#: Seconds that are kept beside the trunk's ring time, for the dialplan and for the INVITE.
BESIDE_RINGING = 5.0

#: Connections to Redis, at most.
REDIS_CONNECTIONS = 64

_STORE = re.compile(
    r"memory|rediss?://(?:[A-Za-z0-9.-]+|\[(?P<ipv6>[0-9a-fA-F:]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/[0-9]{1,3})?"
    r"|unix:///[A-Za-z0-9_./-]+"
)


def _store(value: str) -> str:
    url = _STORE.fullmatch(value)
    if not url or int(url["port"] or 0) > 65535:
        raise ValueError(  # and does not repeat it: a password may stand in it
            "is not memory, redis://host:6379/0, rediss://… or unix:///run/redis.sock; "
            "a password stands beside it, in secret_file"
        )
    if url["ipv6"]:
        ipaddress.IPv6Address(url["ipv6"])
    if value != "memory" and importlib.util.find_spec("redis") is None:
        raise ValueError("Redis needs the package redis: pip install 'rounded-pbx[redis]'")
    return value


class Prestage(Secret):
    """Stagings that are begun early; all times are in seconds.

    ``limit`` is what a staging may take in the background. The platform drops a staged call
    ``dropped_after`` it was staged, so one that is older than that less ``margin`` is staged anew;
    the margin is the trunk's ring time and five more where none is given.
    """

    store: Annotated[str, AfterValidator(_store)] = "memory"
    username: Name | None = None
    limit: Seconds = Field(default=10.0, ge=1.0, le=60.0)
    dropped_after: Seconds = Field(default=60.0, ge=5.0, le=3600.0)
    margin: Seconds | None = Field(default=None, ge=0.0, le=600.0)
    terminate_abandoned: bool = False

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in SECRET_SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; expected one source of the password")
        if self.store == "memory" and (given or self.username):
            raise ValueError("a user name or a password is for Redis, and store is memory")
        if self.margin is not None and self.margin >= self.dropped_after:
            raise ValueError("margin is not less than dropped_after: nothing could be collected")
        return self

    @property
    def has_password(self) -> bool:
        """Whether Redis wants one: ``read_secret`` reads it."""
        return any(getattr(self, name) for name in SECRET_SOURCES)

    def fresh(self, ring: float) -> float:
        """Seconds in which a staged call can be collected, where the trunk rings for ``ring``."""
        margin = ring + BESIDE_RINGING if self.margin is None else self.margin
        return max(1.0, self.dropped_after - margin)
