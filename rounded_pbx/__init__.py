"""Hand a call from Asterisk or FreeSWITCH to a Rounded voice agent with no cold start."""

from .call import CallContext, CallerId, Switch
from .errors import ConfigError, RoundedPbxError
from .routing import Route, RouteTable
from .staging import Outcome, StagingRequest, StagingResult

__version__ = "0.1.0"

__all__ = [
    "CallContext",
    "CallerId",
    "ConfigError",
    "Outcome",
    "RoundedPbxError",
    "Route",
    "RouteTable",
    "StagingRequest",
    "StagingResult",
    "Switch",
]
