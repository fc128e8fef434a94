"""The Rounded API: the one place that knows httpx."""

from .client import RoundedClient
from .transport import KeepAliveTransport

__all__ = ["KeepAliveTransport", "RoundedClient"]
