"""``rounded-pbx demo``: a call from a caller to an agent, shown line by line as it happens.

The API is the sandbox, the daemon is the real one. The switches are a real Asterisk and a real
FreeSWITCH on the files of dialplan_examples where they are found, else simulated ones, which speak
AGI and ESL to the daemon on the wire and send the INVITE themselves. Each says what it is.
"""

from .scenes import run

__all__ = ["run"]
