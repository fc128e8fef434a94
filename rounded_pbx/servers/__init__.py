"""The servers that a switch's dialplan calls."""
