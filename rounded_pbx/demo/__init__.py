"""``rounded-pbx demo``: a call from a caller to an agent, shown line by line as it happens.

The API is the sandbox, the daemon is the real one. The switch is a real Asterisk on the files of
dialplan_examples where one is found, else one that is simulated: it speaks AGI to the daemon on the
wire and sends the INVITE itself. It says which of the two it is.
"""

from .scenes import run

__all__ = ["run"]
