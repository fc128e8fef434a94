"""DIDs in the dialplan of a real Asterisk mean what they mean in the daemon's route table."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rounded_pbx.config import Config, load
from rounded_pbx.dialplan.flavours import Flavour
from rounded_pbx.dialplan.rendering import render

from ..lab import asterisk as switches
from ..lab.asterisk import Asterisk
from ..lab.processes import wait_until
from ..lab.raw import invite
from ..test_dialplan import AGENT

# Beside the switch that the other tests share.
PORT = 5197
PJSIP = switches.PJSIP.replace(":5060", f":{PORT}")
OURS = "extensions_rounded.conf"
EXTENSIONS = """[from-trunk]
exten => _[+0-9]!,1,Gosub(rounded,${EXTEN},1)
 same => n,Hangup()
[fallback]
exten => _[0-9]!,1,Log(NOTICE,FALLBACK ${EXTEN})
 same => n,Hangup()
#include extensions_rounded.conf
"""


def configured(folder: Path, dids: Iterable[str]) -> Config:
    path = folder / "config.yml"
    routes = "".join(
        f"\n  - {{name: r{number}, did: '{did}', to_number: '+33612345678', agent_id: {AGENT},"
        f" on_failure: fallback, fallback: {{asterisk: 'fallback,{number},1'}}}}"
        for number, did in enumerate(dids)
    )
    path.write_text(
        f"accounts: {{default: {{key_env: K}}}}\nroutes: {routes}\ntrunk: {{host: 127.0.0.3}}\n"
    )
    return load(path)


@pytest.fixture(scope="module", params=[22, 16])
def asterisk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    folder = tmp_path_factory.mktemp(f"dids-{request.param}")
    files = render(Flavour.ASTERISK, configured(folder, ["5", "12", "+336*"])).files
    own = {"extensions.conf": EXTENSIONS, "pjsip.conf": PJSIP}
    with switches.running(request.param, folder, {**files, **own}) as started:
        yield started


@pytest.mark.parametrize(
    ("dialled", "staged", "fallback"),
    [
        ("5", "5", "0"),
        ("12", "12", "1"),
        ("%2B336%3A12", "+33612", "2"),
        ("%2B336%3Ah", "+336", "2"),
    ],
)
def test_a_call_keeps_to_the_did_that_it_came_by(
    asterisk: Asterisk, dialled: str, staged: str, fallback: str
) -> None:
    """One digit is a DID, too; and behind a colon stands no other one."""
    since = asterisk.position()
    invite(did=dialled, limit=5, port=PORT)
    wait_until(lambda: asterisk.notices(since), "the call to reach its fallback")
    assert asterisk.notices(since) == [f"FALLBACK {fallback}"]
    assert f"/collect?did={staged}&" in asterisk.log.read_text()[since:]


def test_the_dialplan_matches_what_the_daemon_matches(asterisk: Asterisk, tmp_path: Path) -> None:
    rng = random.Random(5)

    def digits(least: int, most: int) -> str:
        return "".join(rng.choice("0139") for _ in range(rng.randint(least, most)))

    for _ in range(20):
        dids = {
            f"{rng.choice(['', '+'])}{digits(1, 5)}{rng.choice(['', '*', '*'])}" for _ in "1234"
        }
        dids |= {"*"} if rng.random() < 0.5 else set()
        config = configured(tmp_path, sorted(dids))
        table = config.route_table()
        (asterisk.directory / OURS).write_text(render(Flavour.ASTERISK, config).files[OURS])
        asterisk.cli("dialplan reload")
        for _ in range(10):
            number = rng.choice([*sorted(dids), "+"]).rstrip("*") + digits(0, 3)
            if not re.fullmatch(r"\+?[0-9]+", number):
                continue
            first = asterisk.cli(f"dialplan show {number}@rounded").partition("=>")[2]
            found = re.search(r"FALLBACK=(?:fallback,(\d+),1)?\)", first)
            wanted = table.match(number)
            assert found is not None, (dids, number)
            assert found[1] == (wanted and wanted.name[1:]), (dids, number)
