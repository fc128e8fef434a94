"""The section ``status``: where the page may be seen, and what it wants of whoever sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rounded_pbx.config import Config, load, read_secrets
from rounded_pbx.config_types import Address
from rounded_pbx.errors import ConfigError

ACCOUNT = "accounts: {default: {key_env: API_KEY}}\n"
TOKEN = "t0ken-5e17c0ffee-2c9a"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yml"
    path.write_text(ACCOUNT + text)
    return load(path)


def problems(tmp_path: Path, text: str) -> list[tuple[int, str]]:
    def read() -> None:
        read_secrets(tmp_path / "config.yml", loaded(tmp_path, text))

    with pytest.raises(ConfigError) as caught:
        read()
    assert TOKEN not in str(caught.value) + repr(caught.value)
    return [(problem.line, problem.text) for problem in caught.value.problems]


def test_it_listens_on_loopback_only_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    status = loaded(tmp_path, "").status
    assert status.listen == Address("127.0.0.1", 9810)
    assert not status.has_token
    assert [str(network) for network in status.allow] == ["127.0.0.0/8", "::1/128"]


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    assert loaded(tmp_path, "status: {listen: off}\n").status.listen is None


@pytest.mark.parametrize("source", ["token_file: {0}/token", "token_env: TOKEN", "credential: tok"])
def test_beyond_loopback_it_has_a_token_from_one_of_three_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("TOKEN", TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("token", "tok"):
        (tmp_path / name).write_text(TOKEN + "\n")
    text = (
        "status: {listen: '0.0.0.0:9810', allow: [192.0.2.0/24], hosts: [PBX.example.net, '::2'], "
    )
    config = loaded(tmp_path, text + source.format(tmp_path) + "}\n")
    assert config.status.read_token().get_secret_value() == TOKEN
    assert config.status.hosts == ("pbx.example.net", "::2")
    assert read_secrets(tmp_path / "config.yml", config).unknown == []
    assert TOKEN not in repr(config)


def test_a_credential_of_the_service_is_not_known_to_a_shell(tmp_path: Path) -> None:
    config = loaded(tmp_path, "status: {credential: tok}\n")
    (unknown,) = read_secrets(tmp_path / "config.yml", config).unknown
    assert (unknown.line, "systemd service only" in unknown.text) == (2, True)


BEYOND = "status:\n  listen: 192.0.2.7:9810\n  allow: [192.0.2.0/24]\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (BEYOND, 2, "192.0.2.7:9810 is beyond loopback, so it needs a token: expected token_file"),
        (BEYOND.replace("192.0.2.7", "0.0.0.0"), 2, "0.0.0.0:9810 is beyond loopback"),
        (BEYOND.replace("192.0.2.7", "'[::]").replace("9810", "9810'"), 2, "[::]:9810 is beyond"),
        (BEYOND + "  token: hush\n", 5, "status.token is not known; did you mean token_"),
        (BEYOND + "  token_file: a\n  token_env: b\n", 2, "has token_file and token_env; expected"),
        (BEYOND + f"  token_env: {TOKEN}\n", 5, "this is not the name of a variable"),
        (BEYOND + "  token_env: NOT_THERE\n", 2, "the environment variable of token_env is not se"),
        (BEYOND + "  token_env: API_KEY\n", 2, "holds no token of 16 characters or more"),
        ("status:\n  listen: 9810\n", 3, "'9810' is not an address and a port"),
        ("status:\n  listen: 192.0.2.7:1\n  token_env: A\n", 2, "nobody in allow can reach 192."),
        ("status:\n  hosts: [a b]\n", 3, "'a b' is no host name or address without a port"),
        ("status:\n  hosts: ['a:80']\n", 3, "'a:80' is no host name or address without a"),
        ("status: hush\n", 2, "status is not a map"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    ((found, text),) = problems(tmp_path, text)
    assert found == line
    assert says in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            "status:\n  listen: 127.0.0.1:4573\n",
            3,
            "status.listen: 127.0.0.1:4573 is taken by asterisk.fastagi",
        ),
        (
            "freeswitch:\n  outbound:\n    listen: 127.0.0.1:4573\n",
            4,
            "freeswitch.outbound.listen: 127.0.0.1:4573 is taken by asterisk.fastagi",
        ),
        (
            "asterisk:\n  fastagi:\n    listen: 127.0.0.1:9810\n",
            4,
            "asterisk.fastagi.listen: 127.0.0.1:9810 is taken by status",
        ),
        (
            "asterisk:\n  fastagi: {listen: '0.0.0.0:8084', allow: [192.0.2.0/24]}\n",
            3,
            "asterisk.fastagi.listen: 0.0.0.0:8084 is taken by freeswitch.outbound",
        ),
    ],
)
def test_two_listeners_on_one_port_are_a_mistake(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    assert problems(tmp_path, text) == [(line, says)]


@pytest.mark.parametrize(
    "text",
    [
        "status: {listen: '127.0.0.2:4573'}\n",
        "status: {listen: '[::1]:4573'}\n",
        "status: {listen: '[::]:4573', allow: ['::/0'], token_env: A}\n",
        "status: {listen: '127.0.0.1:4573'}\nasterisk: {fastagi: {listen: off}}\n",
        "status: {listen: '127.0.0.1:0'}\nasterisk: {fastagi: {listen: '127.0.0.1:0'}}\n",
    ],
)
def test_other_addresses_and_free_ports_are_none(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
