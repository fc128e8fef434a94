"""The configuration as the status page shows it: every option, and no secret."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePath

import pydantic
import pytest
import yaml

from rounded_pbx.config import Config
from rounded_pbx.config_shown import HIDDEN, HIDES, SHOWN, shown
from rounded_pbx.config_types import Address, Network, Section

from .helpers import AGENT

#: A secret in each place where an admin could write one that a value is expected in.
SECRET = "s3cr3t-5e17c0ffee"
EVERYTHING: dict[str, typing.Any] = {
    "accounts": {
        "default": {"key_env": "ROUNDED_API_KEY"},
        "acme": {
            "key_file": "/etc/rounded_pbx/acme",
            "account_codes": ["4711"],
            "domains": ["acme.example.net"],
            "contexts": ["from-acme"],
            "max_in_flight": 50,
            "rate": 5,
        },
        "third": {"credential": "api_key"},
    },
    "api": {"base_url": "https://api.example.net", "warm": 2, "probe_interval": 30.0},
    "calls": {"deadline": 2.0, "wait": "none", "default_on_failure": "fallback"},
    "numbers": {"country": "FR", "withheld": "+33000000000", "malformed": "+33000000001"},
    "routes": [
        {
            "name": "support",
            "did": ["+33612345678", "+3318000*"],
            "agent_id": AGENT,
            "account": "acme",
            "country": "BE",
            "to_number": "+33100000000",
            "direction": "inbound",
            "dynamic_variables": {
                "name": "{caller.name}",
                "token": SECRET,
                "mixed": SECRET + "{did}" + SECRET,
                "nested": {"inner": SECRET, "pin": 48151623},
                "vip": True,
            },
            "custom_headers": {"X-Key": SECRET, "X-Customer": "{channel.CUSTOMER}"},
            "lookup": {
                "url": f"https://crm.example.net/{SECRET}/{{caller.number}}?d={{did}}&k={SECRET}",
                "headers": {"X-Api-Key": SECRET},
                "secret_headers": {"Authorization": {"key_file": "/etc/rounded_pbx/crm"}},
                "variables": {"tier": "customer.tags[0].name"},
            },
            "on_failure": "fallback",
            "fallback": {"asterisk": "from-internal,600,1", "freeswitch": "600 XML default"},
        }
    ],
    "prestage": {
        "store": "redis://redis.example.net:6379/1",
        "username": "rounded",
        "secret_env": "REDIS_PASSWORD",
        "margin": 20.0,
    },
    "pbx": "pbx1",
    "logs": {"format": "json", "caller_numbers": "full"},
    "trunk": {"host": "sip.example.net:5060", "match": ["192.0.2.0/24"], "transfers": {"600": {}}},
    "asterisk": {
        "fastagi": {"listen": "127.0.0.1:4574"},
        "ami": {"username": "rounded", "secret_file": "/etc/rounded_pbx/ami"},
    },
    "freeswitch": {"outbound": {"listen": "off"}, "esl": {"credential": "esl"}},
    "status": {
        "listen": "192.0.2.7:9810",
        "allow": ["192.0.2.0/24"],
        "hosts": ["pbx.example.net"],
        "token_env": "STATUS_TOKEN",
    },
}


def test_what_an_admin_needs_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(Config.model_validate(EVERYTHING))
    for expected in (
        "key_env: ROUNDED_API_KEY", "key_file: /etc/rounded_pbx/acme", "credential: api_key",
        "4711", "acme.example.net", "from-acme", "base_url: https://api.example.net",
        "deadline: 2.0", "wait: none", "+33000000000", "+33612345678", AGENT, "{caller.name}",
        "vip: true", "{channel.CUSTOMER}", "https://crm.example.net/***/{caller.number}?***{did}***",
        "/etc/rounded_pbx/crm", "customer.tags[0].name", "from-internal,600,1",
        "redis://redis.example.net:6379/1", "REDIS_PASSWORD", "pbx1", "sip.example.net:5060",
        "127.0.0.1:4574", "'off'", "192.0.2.7:9810", "pbx.example.net", "STATUS_TOKEN",
        "max_in_flight: 2000", "limit: 10.0", "ring: 15",
    ):  # fmt: skip
        assert expected in text.replace("'127", "127").replace("'h", "h").replace("'r", "r"), text
    assert set(yaml.safe_load(text)) == set(EVERYTHING)


def test_no_secret_is_shown_wherever_it_was_written() -> None:
    text = shown(Config.model_validate(EVERYTHING))
    assert SECRET not in text
    assert "48151623" not in text


@pytest.mark.parametrize("source", ["secret_env", "secret_file", "credential"])
def test_a_secret_that_stands_where_its_source_should_is_not_shown(source: str) -> None:
    """The daemon does not read these two, so it starts all the same."""
    hush = SECRET.replace("-", "_")
    switches = {
        "asterisk": {"ami": {"username": "rounded", source: hush}},
        "freeswitch": {"esl": {source: hush}},
    }
    text = shown(Config.model_validate(EVERYTHING | switches))
    assert hush not in text
    assert text.count(f"{source}: '{HIDDEN}'") == 2


def test_what_the_keys_are_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROUNDED_API_KEY", "REDIS_PASSWORD", "STATUS_TOKEN"):
        monkeypatch.setenv(name, f"{name}-in-clear")
    config = Config.model_validate(EVERYTHING)
    assert config.status.read_token().get_secret_value() == "STATUS_TOKEN-in-clear"
    assert "in-clear" not in shown(config) + repr(config)


# Every field, so that one that is added later cannot be forgotten.


def sections(model: type[Section]) -> Iterator[type[Section]]:
    yield model
    for field in model.model_fields.values():
        for leaf in leaves(field.annotation):
            if isinstance(leaf, type) and issubclass(leaf, Section):
                yield from sections(leaf)


def leaves(annotation: object) -> Iterator[object]:
    """The types inside a type; of a map, its values, as its keys are names of ours."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        yield from leaves(arguments[0])
    elif typing.get_origin(annotation) is dict:
        yield from leaves(arguments[1])
    elif arguments:
        for argument in arguments:
            yield from leaves(argument)
    else:
        yield annotation


HARMLESS = (bool, int, float, Enum, PurePath, Address, Section, type(None), *Network.__args__)


def texts(model: type[Section]) -> Iterator[str]:
    """The options whose value may be any text, by their section."""
    for name, field in model.model_fields.items():
        kinds = [leaf for leaf in leaves(field.annotation) if leaf is not Ellipsis]
        if not all(isinstance(kind, type) and issubclass(kind, HARMLESS) for kind in kinds):
            yield f"{model.__name__}.{name}"


def test_of_every_text_somebody_has_decided_whether_it_is_shown() -> None:
    known = {text for section in sections(Config) for text in texts(section)}
    paths = {"Ami.secret_file", "Esl.secret_file"}
    assert known == (SHOWN | HIDES) - paths
    assert set() == SHOWN & HIDES


def test_the_walk_finds_a_text_wherever_it_is() -> None:
    class Inner(Section):
        word: str
        number: int | None = None

    class Outer(Section):
        map: dict[str, dict[str, Inner]] = pydantic.Field(default_factory=dict)
        list: tuple[typing.Annotated[str, "x"], ...] = ()
        anything: typing.Any = None
        path: PurePath = PurePath()

    found = {text for section in sections(Outer) for text in texts(section)}
    assert found == {"Inner.word", "Outer.list", "Outer.anything"}


def test_a_text_that_nobody_has_thought_about_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rounded_pbx.config_shown.SHOWN", frozenset())
    text = shown(Config.model_validate(EVERYTHING))
    for hidden in ("ROUNDED_API_KEY", "redis.example.net", "+33612345678", "pbx1", "rounded\n"):
        assert hidden not in text
    assert HIDDEN in text


def test_what_cannot_be_shown_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    nested: dict[str, typing.Any] = {"pin": SECRET}
    for _ in range(400):
        nested = {"a": nested}
    (route,) = EVERYTHING["routes"]
    deep = EVERYTHING | {"routes": [route | {"dynamic_variables": {"a": nested}}]}
    assert shown(Config.model_validate(deep)) == "# cannot be shown: RecursionError\n"
    assert caplog.messages == ["the status page cannot show the configuration: RecursionError"]
