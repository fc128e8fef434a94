"""API keys: where they come from, and that they are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from rounded_pbx.config import Config, load, read_secrets
from rounded_pbx.errors import ConfigError

KEY = "rk_live_5e17c0ffee"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def loaded(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path)


def test_a_key_comes_from_a_file_the_environment_or_a_credential(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "api_key").write_text(f"{KEY}1\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("API_KEY", f"{KEY}2")
    sources = f"a: {{key_file: {tmp_path}/api_key}}, b: {{key_env: API_KEY}}"
    config = loaded(path, f"accounts: {{{sources}, c: {{credential: api_key}}}}\n")
    secrets = read_secrets(path, config)
    assert secrets.unknown == []
    found = {name: key.get_secret_value() for name, key in secrets.keys.items()}
    assert found == {"a": f"{KEY}1", "b": f"{KEY}2", "c": f"{KEY}1"}
    assert KEY not in repr(secrets) + str(secrets) + repr(config) + str(config)


@pytest.mark.parametrize(
    ("source", "content", "says"),
    [
        ("key_file: {0}/none", "", "{0}/none: No such file or directory"),
        ("key_file: {0}", "", "{0}: Is a directory"),
        ("key_file: {0}/key", "", "{0}/key holds no API key: expected one line of visible ASCII"),
        ("key_file: {0}/key", f"{KEY}\n{KEY}\n", "{0}/key holds no API key: expected one line"),
        ("key_file: {0}/key", f"{KEY} {KEY}", "{0}/key holds no API key: expected one line"),
        ("key_file: {0}/key", f"{KEY}é", "{0}/key holds no API key: expected one line of visible"),
        ("key_file: {0}/key", f"{KEY}\udcff", "{0}/key: is not text"),
        ("key_env: NOT_SET", "", "the environment variable of key_env is not set"),
        (
            "key_env: EMPTY",
            "",
            "the environment variable of key_env holds no API key: expected one line",
        ),
    ],
)
def test_a_key_that_cannot_be_read_is_told_with_its_line_and_never_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch, source: str, content: str, says: str
) -> None:
    (path.parent / "key").write_bytes(content.encode("utf-8", "surrogateescape"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    text = f"# a comment\naccounts:\n  default: {{{source.format(path.parent)}}}\n"
    config = loaded(path, text)
    with pytest.raises(ConfigError) as caught:
        read_secrets(path, config)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(path), 3)
    assert says.format(path.parent) in problem.text
    assert KEY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "credential: key",
            "key is known to the systemd service only: in a shell, $CREDENTIALS_DIR",
        ),
        ("key_file: /run/credentials/x.service/k", "k exists for the systemd service only"),
    ],
)
def test_a_key_that_only_the_service_can_read_is_no_mistake(
    path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = loaded(path, f"accounts:\n  default: {{{source}}}\n")
    secrets = read_secrets(path, config)
    (unknown,) = secrets.unknown
    assert secrets.keys == {}
    assert (unknown.line, says in unknown.text) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        f"accounts: {KEY}\n",
        f"accounts: {{default: {KEY}}}\n",
        f"accounts: {{default: [{KEY}]}}\n",
        f"accounts: {{default: {{key: {KEY}}}}}\n",
        f"accounts: {{default: {{key_env: {KEY}-x}}}}\n",
        f"accounts: {{default: {{key_file: [{KEY}]}}}}\n",
        f"accounts: {{default: {{credential: '{KEY}/x'}}}}\n",
        f"accounts: {{default: {{key_env: A, domains: '{KEY}/x'}}}}\n",
        f"accounts: {{default: {{key_env: A, account_codes: '{KEY} x'}}}}\n",
        f"accounts: {{default: {{key_env: A, rate: {KEY}}}}}\n",
        f"accounts: {{a: {{key_env: A, contexts: {KEY}}}, b: {{key_env: A, contexts: {KEY}}}}}\n",
        f"api_key: {KEY}\n",
        f"accounts: {{default: {{key_env: A}}}}\nprestage: {KEY}\n",
        f"accounts: {{default: {{key_env: A}}}}\nprestage: {{store: 'redis://{KEY}:x@h'}}\n",
        f"accounts: {{default: {{key_env: A}}}}\nprestage: {{store: 'redis://h?password={KEY}'}}\n",
        f"accounts: {{default: {{key_env: A}}}}\nprestage: {{store: 'redis://:{KEY}@h'}}\n",
        f"accounts: {{default: {{key_env: A}}}}\napi: {{key: {KEY}}}\n",
        f"{KEY}\n",
        f"- accounts: {{default: {{key: {KEY}}}}}\n",
    ],
)
def test_a_key_in_the_wrong_place_is_never_repeated(path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    assert KEY not in str(caught.value) + repr(caught.value)


def test_a_key_that_is_taken_for_the_name_of_its_variable_is_never_repeated(path: Path) -> None:
    config = loaded(path, f"accounts: {{default: {{key_env: {KEY}}}}}\n")
    with pytest.raises(ConfigError) as caught:
        read_secrets(path, config)
    assert KEY not in str(caught.value)


HEADERS = """\
accounts: {{default: {{key_env: API_KEY}}}}
routes:
  - name: a
    agent_id: 411b82c8-462a-4e1b-89bc-10ab3ce1ed29
    lookup:
      url: https://crm.example.net/
      variables: {{name: name}}
      secret_headers:
        Authorization: {{{0}}}
        X-Token: {{key_env: TOKEN}}
"""


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setenv("TOKEN", "t" * 4000)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.mark.usefixtures("token")
def test_a_secret_header_is_the_whole_value_spaces_and_all(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crm").write_text(f"Bearer {KEY}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for source in (f"key_file: {tmp_path}/crm", "credential: crm"):
        config = loaded(path, HEADERS.format(source))
        secrets = read_secrets(path, config)
        values = {name: value.get_secret_value() for name, value in secrets.headers["a"].items()}
        assert values == {"Authorization": f"Bearer {KEY}", "X-Token": "t" * 4000}
        assert KEY not in repr(secrets) + str(secrets) + repr(config) + repr(config.route_table())


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "{0} holds no header value: expected one line of visible ASCII"),
        (f"Bearer\n{KEY}", "{0} holds no header value: expected one line of visible ASCII"),
        (f"Bearer {KEY}\tx", "{0} holds no header value: expected one line of visible ASCII"),
        (f"Bearer {KEY}é", "{0} holds no header value: expected one line of visible ASCII"),
        (None, "{0}: No such file or directory"),
    ],
)
def test_every_secret_that_cannot_be_read_is_told_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, says: str
) -> None:
    file = path.parent / "crm"
    if content is not None:
        file.write_text(content)
    monkeypatch.delenv("API_KEY")
    config = loaded(path, HEADERS.format(f"key_file: {file}"))
    with pytest.raises(ConfigError) as caught:
        read_secrets(path, config)
    key, header = caught.value.problems
    assert (key.line, "accounts.default: " in key.text) == (1, True)
    where = "routes.0.lookup.secret_headers.Authorization: "
    assert (header.line, header.text) == (9, where + says.format(file))
    assert KEY not in str(caught.value)


@pytest.mark.usefixtures("token")
def test_a_header_that_only_the_service_can_read_is_no_mistake(path: Path) -> None:
    secrets = read_secrets(path, loaded(path, HEADERS.format("credential: crm")))
    (unknown,) = secrets.unknown
    assert (unknown.line, "crm is known to the systemd service only" in unknown.text) == (9, True)
    assert [*secrets.headers["a"]] == ["X-Token"]


REDIS = """\
accounts: {{default: {{key_env: API_KEY}}}}

prestage:
  store: redis://127.0.0.1/0
  {0}
"""


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("secret_file: {0}/none", "{0}/none: No such file or directory"),
        ("secret_file: {0}/two", "{0}/two holds no secret: expected one line of visible ASCII"),
        ("secret_env: NOT_SET", "the environment variable of secret_env is not set"),
    ],
)
def test_a_stores_password_that_cannot_be_read_is_told_with_its_line(
    path: Path, source: str, says: str
) -> None:
    (path.parent / "two").write_text(f"{KEY}\n{KEY}\n")
    config = loaded(path, REDIS.format(source.format(path.parent)))
    with pytest.raises(ConfigError) as caught:
        read_secrets(path, config)
    (problem,) = caught.value.problems
    assert (problem.line, problem.text) == (3, "prestage: " + says.format(path.parent))
    assert KEY not in str(caught.value)


@pytest.mark.usefixtures("token")
def test_a_stores_password_is_never_shown(path: Path) -> None:
    (path.parent / "password").write_text(KEY)
    config = loaded(path, REDIS.format(f"secret_file: {path.parent}/password"))
    secrets = read_secrets(path, config)
    assert config.prestage.read_secret().get_secret_value() == KEY
    assert KEY not in repr(secrets) + repr(config) + str(config)


@pytest.mark.usefixtures("token")
def test_a_stores_password_that_only_the_service_can_read_is_no_mistake(path: Path) -> None:
    (unknown,) = read_secrets(path, loaded(path, REDIS.format("credential: redis"))).unknown
    assert (unknown.line, "redis is known to the systemd service only" in unknown.text) == (3, True)
