"""The dialplans that are written from a configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rounded_pbx.config import Config, load
from rounded_pbx.dialplan.flavours import ABOUT, Flavour
from rounded_pbx.dialplan.rendering import render
from rounded_pbx.dialplan.templates import fill

EXAMPLES = Path(__file__).parents[1] / "dialplan_examples"
FOLDERS = {Flavour.ASTERISK_CHAN_SIP: "asterisk"}
AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
ASTERISKS = [Flavour.ASTERISK, Flavour.ASTERISK_CHAN_SIP, Flavour.FREEPBX]
FREESWITCHES = [Flavour.FREESWITCH, Flavour.FUSIONPBX]


def configured(routes: str = "", trunk: str = "{host: sip.example.net}", more: str = "") -> str:
    routes = routes or f"[{{name: a, did: '+33612345678', agent_id: {AGENT}}}]"
    return f"accounts: {{default: {{key_env: KEY}}}}\nroutes: {routes}\ntrunk: {trunk}\n{more}"


Reader = Callable[[str], Config]


@pytest.fixture
def of(tmp_path: Path) -> Reader:
    def read(text: str) -> Config:
        path = tmp_path / "config.yml"
        path.write_text(text)
        return load(path)

    return read


@pytest.mark.parametrize("flavour", Flavour)
def test_the_examples_are_what_is_written_for_the_example_configuration(flavour: Flavour) -> None:
    folder = EXAMPLES / FOLDERS.get(flavour, flavour.value)
    rendered = render(flavour, load(EXAMPLES / "config.yml"))
    assert rendered.problems == ()
    for name, text in rendered.files.items():
        assert (folder / name).read_bytes() == text.encode("ascii"), name


def test_every_example_is_written_by_some_flavour() -> None:
    config = load(EXAMPLES / "config.yml")
    written = {
        f"{FOLDERS.get(flavour, flavour.value)}/{name}"
        for flavour in Flavour
        for name in render(flavour, config).files
    }
    there = {str(p.relative_to(EXAMPLES)) for p in EXAMPLES.rglob("*") if p.is_file()}
    assert there == written | {"config.yml"}


@pytest.mark.parametrize("flavour", Flavour)
def test_what_is_written_is_what_is_said_to_be(flavour: Flavour) -> None:
    assert tuple(render(flavour, load(EXAMPLES / "config.yml")).files) == ABOUT[flavour].files


PROBLEMS = {
    "no trunk": (
        f"accounts: {{default: {{key_env: K}}}}\nroutes: [{{name: a, did: '+33612345678', "
        f"agent_id: {AGENT}}}]",
        "trunk is missing: expected trunk: {host: ",
    ),
    "no DID": (configured(f"[{{name: a, agent_id: {AGENT}}}]"), "no route has a did"),
    "a remote daemon": (
        configured(
            more="asterisk: {fastagi: {listen: '192.0.2.7:4573', allow: [192.0.2.0/24]}}\n"
            "freeswitch: {outbound: {listen: '192.0.2.7:8084', allow: [192.0.2.0/24]}}\n"
        ),
        "listen is 192.0.2.7:",
    ),
    "every address of IPv6": (
        configured(
            more="asterisk: {fastagi: {listen: '[::]:4573', allow: ['::/0']}}\n"
            "freeswitch: {outbound: {listen: '[::]:8084', allow: ['::/0']}}\n"
        ),
        "listen is [::]:",
    ),
    "a daemon behind IPv6": (
        configured(
            more="asterisk: {fastagi: {listen: '[::1]:4573'}}\n"
            "freeswitch: {outbound: {listen: '[::1]:8084'}}\n"
        ),
        "expected 127.0.0.1, where a daemon that is down refuses at once",
    ),
}


@pytest.mark.parametrize("flavour", [Flavour.FREEPBX, Flavour.FREESWITCH])
@pytest.mark.parametrize(("text", "says"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_work_is_refused_with_the_reason(
    of: Reader, flavour: Flavour, text: str, says: str
) -> None:
    rendered = render(flavour, of(text))
    assert rendered.files == {}
    (problem,) = rendered.problems
    assert says in problem


@pytest.mark.parametrize(
    ("flavour", "listening"),
    [(Flavour.ASTERISK, "asterisk: {fastagi"), (Flavour.FREESWITCH, "freeswitch: {outbound")],
)
def test_a_listener_that_is_off_is_refused_and_one_on_every_address_is_asked_on_loopback(
    of: Reader, flavour: Flavour, listening: str
) -> None:
    off = render(flavour, of(configured(more=listening + ": {listen: off}}")))
    assert "is off" in off.problems[0]
    every = configured(more=listening + ": {listen: '0.0.0.0:7777'}}")
    text = "".join(render(flavour, of(every)).files.values())
    asked = re.findall(r"127\.0\.0\.1:7777/([${}a-z_]+)", text)
    assert len(asked) == (3 if flavour is Flavour.FREESWITCH else 2)


MANY = configured(
    f"""
  - {{name: rest, did: '*', agent_id: {AGENT}, on_failure: hangup}}
  - {{name: exact, did: ['+33612345678', '0187654321'], country: FR, agent_id: {AGENT},
     on_failure: fallback, fallback: {{asterisk: 'a,1,1', freeswitch: '1 XML a'}}}}
  - {{name: many, did: '+3318000*', agent_id: {AGENT}, on_failure: dial}}
  - {{name: few, did: '+33180001*', agent_id: {AGENT}, on_failure: fallback,
     fallback: {{asterisk: 'b,2,1', freeswitch: '2 XML b'}}}}
""",
    trunk="{name: agents, host: 'sip.example.net:5070', match: [192.0.2.0/24, 192.0.2.130],"
    " ring: 20, transport: udp6, auth: true, transfers: {'600': {asterisk: 'c,600,1'},"
    " '*97': {asterisk: 'v,s,1', freeswitch: '*97 XML v'}}}",
    more="calls: {deadline: 2.2, ringback: false}\n",
)


@pytest.mark.parametrize("flavour", ASTERISKS)
def test_asterisks_lines_for_every_kind_of_did(of: Reader, flavour: Flavour) -> None:
    text = render(flavour, of(MANY)).files[ABOUT[flavour].files[0]]
    lines = [re.sub(" *; <<<.*", "", line) for line in text.splitlines()]
    where = "exten => "
    presets = {
        line.removeprefix(where): (
            lines[number + 1].partition("=> n,")[2],
            lines[number + 2].partition("=> n,")[2],
        )
        for number, line in enumerate(lines)
        if "ROUNDED_NEXT=" in line and line.startswith(where)
    }
    go = "Goto(rounded-call,${FILTER(0-9+,${EXTEN})},1)"
    assert presets == {
        "_[+0-9]!,1,Set(ROUNDED_NEXT=hangup)": ("Set(ROUNDED_FALLBACK=)", go),
        "+33612345678,1,Set(ROUNDED_NEXT=fallback)": ("Set(ROUNDED_FALLBACK=a,1,1)", go),
        "+33187654321,1,Set(ROUNDED_NEXT=fallback)": ("Set(ROUNDED_FALLBACK=a,1,1)", go),
        "0187654321,1,Set(ROUNDED_NEXT=fallback)": ("Set(ROUNDED_FALLBACK=a,1,1)", go),
        "_+3318000!,1,Set(ROUNDED_NEXT=dial)": ("Set(ROUNDED_FALLBACK=)", go),
        "_+33180001!,1,Set(ROUNDED_NEXT=fallback)": ("Set(ROUNDED_FALLBACK=b,2,1)", go),
    }
    assert "exten => 600,1,Goto(c,600,1)" in lines
    assert "exten => *97,1,Goto(v,s,1)" in lines
    assert (
        "exten => s,1,MSet(LOCAL(rounded_cap)=2.7,LOCAL(rounded_left)=${TIMEOUT(absolute)})"
        in lines
    )
    assert " same => n,Set(LOCAL(rounded_ring)=20)" in lines
    assert "Ringing()" not in text


def test_asterisks_trunks(of: Reader) -> None:
    config = of(MANY)
    pjsip = render(Flavour.ASTERISK, config).files["pjsip_rounded.conf"]
    for line in (
        "[agents]",
        "transport=udp6 ",
        "outbound_auth=agents-auth ",
        "contact=sip:sip.example.net:5070 ",
        "match=192.0.2.0/24 ",
        "match=192.0.2.130",
    ):
        assert re.search("^" + re.escape(line), pjsip, re.MULTILINE), line
    sip = render(Flavour.ASTERISK_CHAN_SIP, config).files["sip_rounded.conf"]
    assert re.search(r"^host=sip\.example\.net ", sip, re.MULTILINE)
    assert re.search("^port=5070 ", sip, re.MULTILINE)
    freepbx = render(Flavour.FREEPBX, config).files["pjsip.endpoint_custom_post.conf"]
    assert "[agents](+)\n" in freepbx
    dials = re.findall(r"Dial\(([^,]*)", "".join(render(Flavour.FREEPBX, config).files.values()))
    assert set(dials) == {"PJSIP/${rounded_did}@agents"}


def test_asterisk_takes_no_did_with_letters(of: Reader) -> None:
    text = configured(f"[{{name: a, did: sales, to_number: '+33612345678', agent_id: {AGENT}}}]")
    config = of(text)
    assert "did sales: expected digits and a plus" in render(Flavour.ASTERISK, config).problems[0]
    assert render(Flavour.FREESWITCH, config).problems == ()


@pytest.mark.parametrize("flavour", Flavour)
def test_a_number_that_is_written_in_two_ways_stands_once(of: Reader, flavour: Flavour) -> None:
    route = f"{{name: a, did: ['+33612345678', '0612345678'], country: FR, agent_id: {AGENT}}}"
    text = "".join(render(flavour, of(configured(f"[{route}]"))).files.values())
    assert len(re.findall(r"<<< the DID; its|_in_did=\+33612345678", text)) <= 2
    assert len(re.findall(r"exten => \+33612345678,1,Set|_in_did=\+33612345678", text)) == 1


@pytest.mark.parametrize("flavour", ASTERISKS)
def test_a_trunk_is_no_section_of_the_admins(of: Reader, flavour: Flavour) -> None:
    rendered = render(flavour, of(configured(trunk="{name: general, host: sip.example.net}")))
    assert "trunk.name is general" in rendered.problems[0]


def fragments(flavour: Flavour, config: Config) -> dict[str, ElementTree.Element]:
    files = render(flavour, config).files
    return {name: ElementTree.fromstring(f"<x>{text}</x>") for name, text in files.items()}


@pytest.mark.parametrize("flavour", FREESWITCHES)
def test_freeswitchs_extensions_for_every_kind_of_did(of: Reader, flavour: Flavour) -> None:
    trees = fragments(flavour, of(MANY))
    public = trees[ABOUT[flavour].files[-1]]
    presets = [
        (
            extension.find("condition").get("expression"),  # type: ignore[union-attr]
            *(action.get("data") for action in extension.iter("action")),
        )
        for extension in public.iter("extension")
        if extension.get("name") == "rounded-did"
    ]
    one = ("rounded_next=fallback", "rounded_fallback=1 XML a")
    # Of two that match, the later one holds.
    assert presets == [
        (r"^(\+?\d+)$", "rounded_in_did=$1", "rounded_next=hangup", "rounded_fallback="),
        (r"^(\+3318000\d*)$", "rounded_in_did=$1", "rounded_next=dial", "rounded_fallback="),
        (
            r"^(\+33180001\d*)$",
            "rounded_in_did=$1",
            "rounded_next=fallback",
            "rounded_fallback=2 XML b",
        ),
        (r"^0187654321$", "rounded_in_did=0187654321", *one),
        (r"^\+33612345678$", "rounded_in_did=+33612345678", *one),
        (r"^\+33187654321$", "rounded_in_did=+33187654321", *one),
    ]
    bridge = trees[ABOUT[flavour].files[1]]
    begin = next(e for e in bridge.iter("extension") if e.get("name") == "rounded-begin")
    expression = str(begin.find("condition").get("expression"))  # type: ignore[union-attr]
    for did in ("+33612345678", "0187654321", "+33180001", "+331800019", "42"):
        assert re.search(expression, did), did
    for other in ("+33612345678x", "rounded", "+3318000a", ""):
        assert not re.search(expression, other), other
    text = "".join(render(flavour, of(MANY)).files.values())
    assert 'data="+4 $1 XML rounded_bridge"' in text  # 2.2 + 0.5 rounded up, and 1
    assert "originate_timeout=20" in text
    assert "ring_ready" not in text
    assert set(re.findall("sofia/gateway/([^/]*)/", text)) == {"agents"}
    assert 'data="*97 XML v"' in text
    assert "^600$" not in text  # no target on FreeSWITCH


def test_freeswitchs_gateway(of: Reader) -> None:
    config = of(MANY)
    text = render(Flavour.FREESWITCH, config).files["sip_profiles/external/rounded.xml"]
    gateway = ElementTree.fromstring(text).find("gateway")
    assert gateway is not None
    assert gateway.get("name") == "agents"
    assert {p.get("name"): p.get("value") for p in gateway.iter("param")} == {
        "proxy": "sip.example.net:5070",
        "realm": "sip.example.net",
        "username": "$${rounded_username}",
        "password": "$${rounded_password}",
        "register": "false",
        "caller-id-in-from": "true",
    }


@pytest.mark.parametrize("flavour", Flavour)
def test_no_passwords_and_nothing_that_cannot_be_pasted_is_written(
    of: Reader, flavour: Flavour
) -> None:
    for text in render(flavour, of(MANY)).files.values():
        assert text.endswith("\n")
        assert not re.search(r"%\{|\t|\r|[^\x20-\x7e\n]", text)


def test_a_template_says_what_it_lacks() -> None:
    with pytest.raises(KeyError, match="trunk"):
        fill("gateway.xml", proxy="", realm="", auth="")
