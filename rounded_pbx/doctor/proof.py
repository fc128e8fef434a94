"""What the proofs on both switches share: the call that is placed, and what cannot be proven."""

from __future__ import annotations

import math

from ..call import CallContext, CallerId, Switch
from ..config import Config
from ..dialplan.flavours import Flavour
from ..dialplan.rendering import render
from ..errors import SwitchError
from ..routing import Route

#: Whom our listener is asked for where a call would go to its fallback, or come back.
FALLBACK, BACK = "rounded-fallback", "rounded-back"


class CannotProve(SwitchError):
    """The dialplan does what a proof cannot copy safely; the message says what."""


class ProofCall:
    """The call that is placed: what is dialled, by whom, and what ought to become of it."""

    def __init__(self, switch: Switch, config: Config) -> None:
        self.switch = switch
        self.config = config
        flavour = Flavour.ASTERISK if switch is Switch.ASTERISK else Flavour.FREESWITCH
        self.rendered = render(flavour, config)
        self.did = self.rendered.did
        self.caller = config.numbers.withheld or self.did
        wanted = CallContext(switch=switch, did=self.did, caller=CallerId(self.caller, ""))
        self.route: Route | None = config.route_table().find(wanted)
        #: Seconds after which it has rung wherever it rings.
        self.patience = math.ceil(config.calls.deadline + 0.5) + 6
