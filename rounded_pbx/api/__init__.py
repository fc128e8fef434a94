"""The Rounded API, and the lookups: the one place that knows httpx."""

from .client import Observe, RoundedClient, nobody
from .lookup import HttpLookups
from .transport import KeepAliveTransport

__all__ = ["HttpLookups", "KeepAliveTransport", "Observe", "RoundedClient", "nobody"]
