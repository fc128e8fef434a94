"""Staging with greenswitch's outbound server as it comes, and httpx.

``python -m benchmarks.parts.greenswitch_server PORT API_URL CA_FILE``
"""

# ruff: noqa: E402 - gevent patches before anything else is imported
from gevent import monkey

monkey.patch_all()

import logging
import ssl
import sys

import greenswitch
import httpx
from greenswitch.esl import OutboundSession

BODY = {
    "from_number": "+33145678901",
    "to_number": "+33612345678",
    "agent_id": "411b82c8-462a-4e1b-89bc-10ab3ce1ed29",
}


def main(port: int, url: str, ca_file: str) -> None:
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    client = httpx.Client(verify=ssl.create_default_context(cafile=ca_file))

    class Application:
        def __init__(self, session: OutboundSession) -> None:
            self.session = session

        def run(self) -> None:
            self.session.myevents()
            answer = client.post(f"{url}/v1/calls/stage", json=BODY, headers={"X-Api-Key": "k"})
            call_id = answer.json()["data"]["call_id"]
            self.session.call_command("set", f"rounded_call_id={call_id}", block=True)

    greenswitch.OutboundESLServer("127.0.0.1", port, Application).listen()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
