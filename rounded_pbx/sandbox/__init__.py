"""An emulator of the Rounded API, with faults on demand."""

from .app import Sandbox
from .calls import Call
from .faults import Behaviour, Fault
from .server import serving

__all__ = ["Behaviour", "Call", "Fault", "Sandbox", "serving"]
