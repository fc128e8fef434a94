"""The configuration: what stands in the file, and every mistake with its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rounded_pbx.call import CallContext, CallerId, Direction, Switch, Wait
from rounded_pbx.config import Config, config_path, load
from rounded_pbx.config_types import Address
from rounded_pbx.errors import ConfigError
from rounded_pbx.routing import Next, Route
from rounded_pbx.templates import Template

AGENT = "411b82c8-462a-4e1b-89bc-10ab3ce1ed29"
ACCOUNT = "accounts: {default: {key_env: API_KEY}}\n"
ROUTE = f"{ACCOUNT}routes:\n  - name: support\n    agent_id: {AGENT}\n"  # the next line is 5
AGENT_LINE = f"    agent_id: {AGENT}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def loaded(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path)


def mistakes(path: Path, text: str) -> list[tuple[int, str]]:
    """The line and the text of each mistake; all of them name the file."""
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    problems = caught.value.problems
    assert str(caught.value) == "\n".join(f"{path}:{p.line}: {p.text}" for p in problems)
    return [(problem.line, problem.text) for problem in problems]


def only_route(config: Config) -> Route:
    (route,) = config.route_table()
    return route


def test_a_file_with_everything_is_taken_as_it_is_written(path: Path) -> None:
    config = loaded(
        path,
        f"""
accounts: {{one: {{key_file: /run/key}}, two: {{credential: api_key}}}}
api: {{base_url: "https://api.example.com/", warm: 8, trust_env: true}}
calls: {{deadline: 0.5, wait: sync, send_unstaged: false, max_in_flight: 9, ringback: false}}
numbers: {{country: FR, withheld: +33000000000}}
routes:
  - name: support
    did: [0612345678, +336*, "*"]
    agent_id: {AGENT.upper()}
    account: one
    to_number: +33199999999
    direction: inbound
    dynamic_variables: {{n: "{{caller.name}}", vip: true, age: 42, r: 1.5, zip: 01000, m: {{a: b}}}}
    custom_headers: {{X-Customer: "{{channel.CUSTOMER}}", X-Fixed: a}}
    lookup:
      url: "https://CRM.example.net/c/{{caller.number}}?x={{channel.X}}"
      headers: {{X-Tenant: 42}}
      secret_headers: {{Authorization: {{key_file: /run/crm}}}}
      timeout: 0.3
      variables: {{first_name: customer.first_name, tier: "tags[0].name", 7: 0}}
    on_failure: fallback
    fallback: {{asterisk: "from-internal,600,1", freeswitch: "600 XML default"}}
trunk: {{name: rounded, host: sip.example.net}}
asterisk: {{fastagi: {{listen: "[::1]:4573", allow: [127.0.0.0/8, "::1"]}}}}
""",
    )
    route = only_route(config)
    assert route.dids == ("+33612345678", "0612345678", "+336*", "*")
    assert (route.agent_id, route.account, route.country) == (AGENT, "one", "FR")
    assert (route.direction, route.wait, route.send_unstaged) == (
        Direction.INBOUND,
        Wait.SYNC,
        False,
    )
    assert isinstance(route.dynamic_variables["n"], Template)
    rest = {name: value for name, value in route.dynamic_variables.items() if name != "n"}
    assert rest == {"vip": True, "age": 42, "r": 1.5, "zip": "01000", "m": {"a": "b"}}
    assert route.channel_variables() == ("CUSTOMER", "X")
    assert route.lookup is not None
    assert route.lookup.url.origin == "https://crm.example.net"
    assert (route.lookup.headers, route.lookup.timeout) == ({"X-Tenant": "42"}, 0.3)
    assert route.lookup.secret_headers == ("Authorization",)
    assert route.lookup.variables == {
        "first_name": ("customer", "first_name"),
        "tier": ("tags", 0, "name"),
        "7": ("0",),
    }
    assert (route.on_failure, route.to_number) == (Next.FALLBACK, "+33199999999")
    assert route.fallback[Switch.FREESWITCH] == "600 XML default"
    assert config.api.base_url == "https://api.example.com"
    assert config.asterisk.fastagi.listen == Address("::1", 4573)
    assert str(config.asterisk.fastagi.listen) == "[::1]:4573"
    assert config.numbers.policy.malformed == "+33000000000"  # as the withheld ones


def test_how_a_switch_is_logged_in_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = path.parent / "secret"
    secret.write_text("hush\n")
    text = (
        f"asterisk: {{ami: {{username: me, secret_file: {secret}}}}}\n"
        "freeswitch: {esl: {address: '192.0.2.1:9', secret_env: ESL}}\n"
    )
    config = loaded(path, ROUTE + text)
    ami, esl = config.asterisk.ami, config.freeswitch.esl
    assert ami is not None
    assert esl is not None
    assert (str(ami.address), ami.username, str(esl.address)) == (
        "127.0.0.1:5038",
        "me",
        "192.0.2.1:9",
    )
    assert ami.read_secret().get_secret_value() == "hush"
    with pytest.raises(ValueError, match="the environment variable of secret_env is not set"):
        esl.read_secret()
    monkeypatch.setenv("ESL", "a b")
    with pytest.raises(ValueError, match=r"holds no secret: expected one line of visible ASCII$"):
        esl.read_secret()


def test_how_calls_are_staged_early(path: Path) -> None:
    plain = loaded(path, ROUTE)
    assert (plain.prestage.store, plain.prestage.limit) == ("memory", 10.0)
    assert not plain.prestage.terminate_abandoned
    assert plain.fresh == 60 - 15 - 5
    for text, fresh in [
        ("trunk: {host: a, ring: 30}\n", 25.0),
        ("trunk: {host: a, ring: 300}\n", 1.0),
        ("prestage: {dropped_after: 90, margin: 0}\n", 90.0),
    ]:
        assert loaded(path, ROUTE + text).fresh == fresh
    for store in (
        *("redis://h", "rediss://r.example:6380/15", "redis://[::1]:1", "redis://192.0.2.1/0"),
        "unix:///run/redis/redis.sock",
    ):
        text = f"prestage: {{store: '{store}', username: me, secret_env: A}}\npbx: pbx1\n"
        config = loaded(path, ROUTE + text)
        assert (config.prestage.store, config.pbx_name) == (store, "pbx1")


def test_a_file_with_little_gets_the_defaults_that_are_promised(path: Path) -> None:
    config = loaded(path, ROUTE)
    route = only_route(config)
    assert (config.calls.deadline, config.calls.max_in_flight) == (1.5, 2000)
    assert (route.wait, route.on_failure, route.send_unstaged) == (Wait.POLL, Next.DIAL, True)
    assert route.lookup is None
    assert str(config.asterisk.fastagi.listen) == "127.0.0.1:4573"
    assert config.asterisk.fastagi.listen is not None
    assert config.asterisk.fastagi.listen.is_loopback
    assert [str(network) for network in config.asterisk.fastagi.allow] == ["127.0.0.0/8", "::1/128"]
    assert config.api.base_url == "https://api.callrounded.com"
    assert not config.api.trust_env
    assert config.numbers.policy.withheld is None


LOOKUP = ROUTE + "    lookup:\n      variables: {a: b}\n      url: "  # the url stands in line 7
HTTP = LOOKUP + "http://192.0.2.1/x\n"  # the next line is 8
HTTPS = LOOKUP + "https://h/{did}\n"
SECRET_HEADER = "      secret_headers: {A: {key_env: K}}\n"
PRESTAGE = ACCOUNT + "prestage:\n  "
FASTAGI = ACCOUNT + "asterisk:\n  fastagi:\n    "
TENANT = "accounts:\n  a:\n    key_env: A\n    "  # the next line is 4
MISTAKES = [
    # accounts
    ("calls: {}\n", 1, "accounts is missing"),
    ("accounts:\n  default: {}\n", 2, "exactly one of key_file, key_env and credential"),
    ("accounts:\n  a: {key_env: A, key_file: /b}\n", 2, "exactly one of key_file, key_env and"),
    ("accounts:\n  a:\n    key: x\n", 3, "accounts.a.key is not known; did you mean key_env?"),
    ("accounts:\n  'a b': {key_env: A}\n", 2, "is not a name of at most 64 of A-Z a-z 0-9 _ . -"),
    ("accounts:\n  a:\n    credential: ../k\n", 3, "this is not the name of a credential"),
    ("accounts:\n  a:\n    key_env: A\n    domain: x\n", 4, "not known; did you mean domains?"),
    (TENANT + "account_codes: [a b]\n", 4, "this is not an account code of at most 80 visible"),
    (TENANT + "account_codes: [true]\n", 4, "accounts.a.account_codes.0 is not text"),
    (TENANT + "domains: ['a/b']\n", 4, "accounts.a.domains.0: this is not a domain"),
    (TENANT + "contexts: ['${X}']\n", 4, "accounts.a.contexts.0: this is not the name of a con"),
    (TENANT + "max_in_flight: 0\n", 4, "accounts.a.max_in_flight: input should be greater than or"),
    (TENANT + "max_in_flight: 1.5\n", 4, "accounts.a.max_in_flight is not a whole number"),
    (TENANT + "max_in_flight: true\n", 4, "accounts.a.max_in_flight: true is not a number"),
    (TENANT + "rate: 0\n", 4, "accounts.a.rate: input should be greater than or equal to 0.01"),
    (TENANT + "rate: nan\n", 4, "accounts.a.rate: input should be greater than or equal to 0.01"),
    (TENANT + "rate: inf\n", 4, "accounts.a.rate: input should be less than or equal to 10000"),
    (TENANT + "rate: fast\n", 4, "accounts.a.rate is not a number"),
    (
        TENANT + "account_codes: [1, 4711]\n  b:\n    key_env: B\n    account_codes: '4711'\n",
        7,
        "accounts.b.account_codes: this account code already leads to the account a",
    ),
    (
        TENANT
        + "domains: [A.example]\n  b:\n    key_env: B\n    domains:\n    - b\n    - a.EXAMPLE\n",
        9,
        "accounts.b.domains.1: this domain already leads to the account a",
    ),
    (
        TENANT + "contexts: x\n  2:\n    key_env: B\n    contexts: [x]\n",
        7,
        "accounts.2.contexts.0: this context already leads to the account a",
    ),
    # sections and their values
    (ACCOUNT + "apy: {}\n", 2, "apy is not known; did you mean api?"),
    (
        ACCOUNT + "frob: 1\n",
        2,
        "expected one of accounts, api, asterisk, calls, freeswitch, logs, numbers, pbx, prestage",
    ),
    (ACCOUNT + "calls:\n  dedline: 1\n", 3, "calls.dedline is not known; did you mean deadline?"),
    (ACCOUNT + "calls:\n  deadline: 99\n", 3, "99: input should be less than or equal to 30"),
    (ACCOUNT + "calls:\n  deadline: 0\n", 3, "0: input should be greater than or equal to 0.2"),
    (ACCOUNT + "calls:\n  deadline: nan\n", 3, "should be less than or equal to 30"),
    (ACCOUNT + "calls:\n  wait: fast\n", 3, "'fast' is not one of 'poll', 'sync' or 'none'"),
    (ACCOUNT + "calls:\n  ringback: maybe\n", 3, "ringback: 'maybe' is not true or false"),
    (ACCOUNT + "numbers:\n  country: fr\n", 3, "not a country code of two capitals, such as FR"),
    (ACCOUNT + "numbers:\n  withheld: 0612\n", 3, "'0612' is not a number in E.164, such as +33"),
    (ACCOUNT + "numbers:\n  withheld: 33612345678\n", 3, "'33612345678' is not a number in E.164"),
    (ACCOUNT + "api:\n  base_url: ftp://x\n", 3, "not a URL such as https://api.callrounded.com"),
    (ACCOUNT + "api:\n  base_url: https://x/v1\n", 3, "not a URL such as https://api.callrounded"),
    (ACCOUNT + "api:\n  base_url: https://u:p@x\n", 3, "this is not a URL such as https://api.ca"),
    (ACCOUNT + "api:\n  base_url: http://x.example\n", 3, "API key in clear; expected https://"),
    (ACCOUNT + "trunk:\n  name: rounded\n", 2, "trunk.host is missing"),
    (ACCOUNT + "trunk:\n  host: a b\n", 3, "'a b' is not a host name or IPv4 address"),
    (ACCOUNT + "trunk:\n  host: a\n  ring: 0\n", 4, "ring: 0"),
    (ACCOUNT + "trunk:\n  host: a\n  match: [a;b]\n", 4, "'a;b' is not an address, network or"),
    (ACCOUNT + "trunk:\n  host: a\n  transfers: {6a: {}}\n", 4, "'6a' is not an extension"),
    (ACCOUNT + "asterisk:\n  ami: {username: a}\n", 3, "exactly one of secret_file, secret_env"),
    (ACCOUNT + "asterisk:\n  ami: {secret_env: A}\n", 3, "asterisk.ami.username is missing"),
    (ACCOUNT + "freeswitch:\n  esl: {secret_env: A, address: x}\n", 3, "'x' is not an address"),
    (ACCOUNT + "freeswitch:\n  esl: {secret: hush}\n", 3, "did you mean secret_env?"),
    (FASTAGI + "listen: 127.0.0.1\n", 4, "not an address and a port, such as 127.0.0.1:4573"),
    (FASTAGI + "listen: localhost:1\n", 4, "not an address and a port, such as 127.0.0.1:4573"),
    (FASTAGI + "listen: 1.2.3.4:70000\n", 4, "not an address and a port, such as 127.0.0.1:4573"),
    (FASTAGI + "allow: []\n", 4, "is empty, so nobody could connect; expected networks"),
    (FASTAGI + "allow: [192.0.2.0/24]\n", 3, "can reach 127.0.0.1:4573; expected the networks of"),
    (FASTAGI + "listen: 192.0.2.1:4573\n", 3, "nobody in allow can reach 192.0.2.1:4573; expected"),
    (FASTAGI + "listen: '[::1]:1'\n    allow: [127.0.0.0/8]\n", 3, "nobody in allow can reach"),
    (FASTAGI + "allow:\n    - 127.0.0.1/8\n", 5, "expected a network such as 127.0.0.0/8"),
    # prestage
    (ACCOUNT + "prestage: hush\n", 2, "prestage is not a map"),
    (
        PRESTAGE + "store: hush\n",
        3,
        "store: is not memory, redis://host:6379/0, rediss://… or unix",
    ),
    (PRESTAGE + "store: redis://:hush@h\n", 3, "beside it, in secret_file"),
    (PRESTAGE + "store: redis://h:99999\n", 3, "store: is not memory, redis://host:6379/0, redi"),
    (PRESTAGE + "store: redis://h/0?password=hush\n", 3, "beside it, in secret_file"),
    (PRESTAGE + "store: 'redis://[::::]'\n", 3, "prestage.store: "),
    (PRESTAGE + "store: unix://run/redis.sock\n", 3, "rediss://… or unix:///run/redis.sock; a"),
    (PRESTAGE + "username: me\n", 2, "a user name or a password is for Redis, and store is memo"),
    (PRESTAGE + "secret_env: HUSH\n", 2, "a password is for Redis, and store is memory"),
    (PRESTAGE + "password: hush\n", 3, "prestage.password is not known; expected one of creden"),
    (
        ACCOUNT + "prestage: {store: redis://h, secret_file: /a, credential: b}\n",
        2,
        "has secret_file and credential; expected one source of the password",
    ),
    (PRESTAGE + "limit: 0.5\n", 3, "limit: input should be greater than or equal to 1"),
    (PRESTAGE + "limit: 61\n", 3, "limit: input should be less than or equal to 60"),
    (PRESTAGE + "dropped_after: 1\n", 3, "dropped_after: input should be greater than or equal"),
    (PRESTAGE + "margin: 60\n", 2, "margin is not less than dropped_after: nothing could be col"),
    (PRESTAGE + "terminate_abandoned: 2\n", 3, "terminate_abandoned is not true or false"),
    (ACCOUNT + "pbx: a b\n", 2, "'a b' is not a name of at most 64"),
    # routes
    (ACCOUNT + "routes: {a: b}\n", 2, "routes is not a list"),
    (ACCOUNT + "routes:\n  - name\n", 3, "routes.0: 'name' is not a map"),
    (ACCOUNT + "routes:\n  - name: a\n", 3, "routes.0.agent_id is missing"),
    (ACCOUNT + "routes:\n  - name: a b\n" + AGENT_LINE, 3, "is not a name of at most 64 of A-Z"),
    (
        ACCOUNT + "routes:\n  - name: a\n    agent_id: 42-x\n",
        4,
        "'42-x' is not a UUID, such as 411",
    ),
    (ROUTE + "    acount: a\n", 5, "routes.0.acount is not known; did you mean account?"),
    (ROUTE + "    account: other\n", 5, "account other is not in accounts: default"),
    (
        ROUTE.replace("default", "acme"),
        3,
        "account default is not in accounts: acme; expected it for calls that lead to no other",
    ),
    (
        ROUTE.replace("default", "acme") + "    account: null\n",
        5,
        "account default is not in accounts: acme; expected it for calls that lead to no other",
    ),
    (ROUTE + "    did: 06 12\n", 5, "'06 12' is not a DID, such as +33612345678, +336* or *"),
    (ROUTE + "    did:\n    - +331*\n    - $x\n", 7, "not a DID, such as +33612345678, +336* or *"),
    (ROUTE + "    did: true\n", 5, "routes.0.did.0: True is not text"),
    (ROUTE + "    to_number: sales\n", 5, "'sales' is not a number in E.164, such as +33000000000"),
    (ROUTE + "    direction: in\n", 5, "'in' is not one of 'inbound' or 'outbound'"),
    (ROUTE + "    on_failure: dail\n", 5, "is not one of 'dial', 'fallback' or 'hangup'"),
    (ROUTE + "    on_failure: fallback\n", 5, "expected a fallback for at least one switch"),
    (
        ROUTE + "    on_failure: fallback\n    fallback: {asterisk: }\n",
        5,
        "a fallback for at least",
    ),
    (
        ROUTE + "    did: sales\n    to_number: null\n",
        5,
        "expected a to_number beside it, or a country",
    ),
    (
        ROUTE + "    dynamic_variables: {a: 9e999}\n".replace("9e999", "9" * 400 + ".0"),
        5,
        "in quotes",
    ),
    (ROUTE + '    dynamic_variables: {a: "\\ud83d"}\n', 5, "holds half a character"),
    (ROUTE + '    dynamic_variables: {"\\ud83d": a}\n', 5, "holds half a character"),
    (ROUTE + '    "a\\nb": 1\n', 5, "routes.0.a?b is not known"),
    (ROUTE + "    fallback: {asterisk: '600'}\n", 5, "not a target like from-internal,600,1"),
    (ROUTE + "    fallback: {asterisk: 'a,${X},1'}\n", 5, "not a target like from-internal,600,1"),
    (ROUTE + "    fallback: {freeswitch: '6{a} XML a'}\n", 5, "not a target like 600 XML default"),
    (ROUTE + "    fallback: {asterisk: 'a,${X},1'}\n", 5, "not a target like from-internal,600,1"),
    (ROUTE + "    fallback: {freeswitch: '600'}\n", 5, "not a target like 600 XML default"),
    (ROUTE + "    fallback:\n      kamailio: x\n", 6, "expected one of asterisk, freeswitch"),
    (
        ROUTE + "    dynamic_variables: {a: '{calr}'}\n",
        5,
        "expected one of {account_code}, {caller.",
    ),
    (ROUTE + "    dynamic_variables: {a: '{did'}\n", 5, "write {{ and }} for braces that are text"),
    (ROUTE + "    dynamic_variables: {a: [1]}\n", 5, "expected text, a number, true or false, or"),
    (ROUTE + "    dynamic_variables: {a: }\n", 5, "a: is empty; expected text, a number, true"),
    (ROUTE + "    dynamic_variables: {'': a}\n", 5, "is not the name of a variable"),
    (ROUTE + "    dynamic_variables: a\n", 5, "dynamic_variables: 'a' is not a map"),
    (ROUTE + "    custom_headers: {X A: b}\n", 5, "'X A' is not the name of a SIP header"),
    (ROUTE + "    custom_headers: {X-A: 1}\n", 5, "X-A: a header is text; put it in quotes"),
    (ROUTE + "    lookup: https://hush/\n", 5, "routes.0.lookup is not a map"),
    (ROUTE + "    lookup:\n      variables: {a: b}\n", 5, "routes.0.lookup.url is missing"),
    (ROUTE + "    lookup:\n      url: http://h/\n", 5, "routes.0.lookup.variables is missing"),
    (LOOKUP + "https://{did}/x\n", 7, "scheme, host and port are literal"),
    (LOOKUP + "'https://h/{{calr}}'\n", 7, "holds '{'; expected %7B"),
    (LOOKUP + "https://h/{calr}\n", 7, "url: {calr} is not known; expected one of {account_code}"),
    (LOOKUP + "https://u:hush@h/x\n", 7, "has a user name; expected it in secret_headers"),
    (LOOKUP + "hush\n", 7, "is not a URL such as https://crm.example.net/customers/"),
    (LOOKUP + "[hush]\n", 7, "routes.0.lookup.url: is not text"),
    (HTTPS + "      timout: 1\n", 8, "routes.0.lookup.timout is not known; did you mean timeout?"),
    (HTTPS + "      timeout: 0\n", 8, "timeout: input should be greater than or equal to 0.05"),
    (HTTPS + "      timeout: true\n", 8, "timeout: true is not a number"),
    (HTTPS + "      timeout: 1.5\n", 8, "no time; expected less than calls.deadline, 1.5 s"),
    (HTTPS + "calls: {deadline: 0.4}\n", 5, "a timeout of 0.4 s leaves a call no time; expected"),
    (HTTPS + "      headers: {X A: b}\n", 8, "'X A' is not the name of an HTTP header"),
    (HTTPS + "      headers: {HOST: b}\n", 8, "HOST is set by the lookup itself; expected another"),
    (HTTPS + "      headers: {A: '{did}'}\n", 8, "is literal; expected fields in its url only"),
    (HTTPS + '      headers: {A: "hush\\r\\nB: c"}\n', 8, "this is not one line of visible ASCII"),
    (
        HTTPS + "      headers: {a: b}\n" + SECRET_HEADER,
        5,
        "the header a stands twice; expected",
    ),
    (HTTPS + "      secret_headers: {A: hush}\n", 8, "secret_headers.A is not a map"),
    (
        HTTPS + "      secret_headers: {A: {key: hush}}\n",
        8,
        "A.key is not known; did you mean",
    ),
    (
        HTTPS + "      secret_headers: {A: {}}\n",
        8,
        "exactly one of key_file, key_env and credential",
    ),
    (HTTPS + "      secret_headers: {TE: {key_env: K}}\n", 8, "TE is set by the lookup itself"),
    (HTTP + SECRET_HEADER, 5, "url would send secret_headers in clear; expected https://"),
    (HTTPS.replace("a: b", ""), 6, "variables: is empty; expected a variable and where it stands"),
    (HTTPS.replace("a: b", "a: $.b"), 6, "'$.b' is no path into the answer, such as customer.tags"),
    (HTTPS.replace("a: b", "a: "), 6, "a: this is no path into the answer"),
    (HTTPS.replace("a: b", "'': b"), 6, "'' is not the name of a variable"),
    (ROUTE + "  - name: support\n" + AGENT_LINE, 5, "a second route is named support"),
    (
        ROUTE + "    did: '+3361*'\n  - name: b\n    did: '+3361*'\n    agent_id: " + AGENT,
        7,
        "to the route support",
    ),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES, ids=[case[2] for case in MISTAKES])
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    path: Path, text: str, line: int, says: str
) -> None:
    ((found, told),) = mistakes(path, text)
    assert says in told
    assert "hush" not in told
    assert found == line


@pytest.mark.parametrize(
    "text",
    [
        HTTP,
        HTTPS + SECRET_HEADER,
        LOOKUP + "http://127.0.0.1:8080/x\n" + SECRET_HEADER,
        LOOKUP + "'http://[::1]/x'\n" + SECRET_HEADER,
        LOOKUP + "http://localhost/x\n" + SECRET_HEADER,
        HTTPS + "      timeout: 1.4\n",
        HTTPS + "      timeout: 5\ncalls: {deadline: 6}\n",
    ],
)
def test_a_lookup_may_go_in_clear_where_it_carries_no_secret(path: Path, text: str) -> None:
    assert only_route(loaded(path, text)).lookup is not None


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(path: Path) -> None:
    text = f"""accounts:
  default: {{key_env: A, key_file: /b}}
  spare: {{credential: ../x}}
calls:
  deadline: 99
  wait: fast
frob: 1
routes:
  - name: a
    agent_id: nope
    account: other
  - name: a
    did: ${{EXTEN}}
    agent_id: {AGENT}
"""
    assert [line for line, _ in mistakes(path, text)] == [2, 3, 5, 6, 7, 10, 11, 12, 13]


def test_routes_without_a_name_lack_one_and_do_not_share_one(path: Path) -> None:
    told = mistakes(path, f"{ACCOUNT}routes:\n  - agent_id: {AGENT}\n  - agent_id: {AGENT}\n")
    assert told == [(3, "routes.0.name is missing"), (4, "routes.1.name is missing")]


# Beyond this line: what the configuration lets pass, or tells too late or in the wrong place.
OVERLOOKED = [
    (ACCOUNT + "calls:\n  max_in_flight: true\n", [3]),
    (ACCOUNT + "calls:\n  deadline: true\n", [3]),
    (ACCOUNT + "api:\n  base_url: http://127.evil.example\n", [3]),
    (ACCOUNT + "api:\n  base_url: https://x.example:99999\n", [3]),
    (ROUTE + "    account: [default]\n", [5]),
    (ROUTE + "    dynamic_variables:\n      a: 1\n      b: '{x}'\n      c: [1]\n", [7, 8]),
    (ROUTE + "    custom_headers:\n      X-A: 1\n      X B: b\n", [6, 7]),
    (ROUTE + "    fallback:\n      asterisk: x\n      freeswitch: x\n", [6, 7]),
    (ROUTE + "    did: [1*]\n  - name: b\n" + AGENT_LINE + "    did:\n    - 2*\n    - 1*\n", [10]),
    (ROUTE + "    direction: in\n    on_failure: fallback\n", [5, 6]),
]


@pytest.mark.parametrize(("text", "lines"), OVERLOOKED, ids=[case[0][-40:] for case in OVERLOOKED])
def test_every_mistake_is_told_and_in_its_own_line(path: Path, text: str, lines: list[int]) -> None:
    assert sorted({line for line, _ in mistakes(path, text)}) == lines


def test_a_fallback_by_default_wants_one_on_every_route_too(path: Path) -> None:
    told = mistakes(path, ROUTE + "calls:\n  default_on_failure: fallback\n")
    assert "expected a fallback for at least one switch" in str(told)


@pytest.mark.parametrize("country", ["numbers: {country: FR}\n", ""])
def test_a_did_that_is_written_as_the_trunk_sends_it_finds_its_route(
    path: Path, country: str
) -> None:
    config = loaded(path, ROUTE + "    country: BE\n    did: '0470123456'\n" + country)
    assert config.route_table().match("0470123456") is not None


def test_a_did_that_two_countries_read_as_one_number_leads_to_one_route(path: Path) -> None:
    text = f"""{ACCOUNT}numbers: {{country: FR}}
routes:
  - {{name: a, agent_id: {AGENT}, did: 0612345678, country: DE}}
  - {{name: b, agent_id: {AGENT}, did: "+33612345678"}}
"""
    assert mistakes(path, text) == [(5, "+33612345678 already leads to the route a")]


def test_a_section_whose_lines_are_all_commented_out_is_as_good_as_none(path: Path) -> None:
    config = loaded(path, ROUTE + "calls:\n  # deadline: 1.5\napi:\nnumbers:\nasterisk:\ntrunk:\n")
    assert config == loaded(path, ROUTE)


def test_accounts_say_which_calls_are_theirs_and_how_much_they_stage(path: Path) -> None:
    text = f"""
accounts:
  default: {{key_env: A}}
  acme:
    key_env: B
    account_codes: [4711, "0815", a-b]
    domains: ACME.Example.net
    contexts: [from-acme, a@b.example]
    max_in_flight: 50
    rate: 0.5
routes:
  - {{name: a, agent_id: {AGENT}, did: 1*}}
  - {{name: b, agent_id: {AGENT}, did: 2*, account: acme}}
"""
    config = loaded(path, text)
    acme, default = config.accounts["acme"], config.accounts["default"]
    assert acme.account_codes == ("4711", "0815", "a-b")
    assert (acme.domains, acme.contexts) == (("acme.example.net",), ("from-acme", "a@b.example"))
    assert (acme.max_in_flight, acme.rate) == (50, 0.5)
    assert (default.max_in_flight, default.rate, default.domains) == (None, None, ())
    assert [route.account for route in config.route_table()] == [None, "acme"]
    table, (first, second) = config.account_table(), config.route_table()
    call = CallContext(switch=Switch.ASTERISK, did="1", caller=CallerId(), account_code="4711")
    assert (table.choose(first, call), table.choose(second, call)) == ("acme", "acme")
    assert table.choose(first, dataclasses.replace(call, account_code="")) == "default"


def test_what_leads_twice_to_one_account_is_no_mistake(path: Path) -> None:
    text = (
        "accounts: {default: {key_env: A, account_codes: [1, '1'], domains: [a, A], contexts: 1}}"
    )
    assert loaded(path, text).account_table().asks_the_call


def test_no_account_default_is_needed_where_every_route_names_one(path: Path) -> None:
    text = ROUTE.replace("default", "acme") + "    account: acme\n"
    assert only_route(loaded(path, text)).account == "acme"


def test_an_account_with_a_number_for_a_name_is_found_quoted_or_not(path: Path) -> None:
    text = ROUTE.replace("default", "1") + "    account: '1'\n"
    assert only_route(loaded(path, text)).account == "1"


def test_the_file_is_the_one_given_else_the_environments_else_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROUNDED_PBX_CONFIG", "/srv/pbx.yml")
    assert config_path(Path("mine.yml")) == Path("mine.yml")
    assert config_path(None) == Path("/srv/pbx.yml")
    monkeypatch.setenv("ROUNDED_PBX_CONFIG", "")
    assert config_path(None) == Path("/etc/rounded_pbx/config.yml")
