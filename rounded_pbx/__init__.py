"""Hand a call from Asterisk or FreeSWITCH to a Rounded voice agent with no cold start."""

__version__ = "0.1.0"
