"""The status page: what an admin wants to see when a caller complains."""

from .facts import AccountHealth, Facts
from .server import StatusServer

__all__ = ["AccountHealth", "Facts", "StatusServer"]
