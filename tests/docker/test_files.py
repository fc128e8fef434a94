"""compose.yml against its schema, the Dockerfiles linted, and what both of them promise."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rounded_pbx.config import load

from ..lab.processes import rounded_pbx
from .files import (
    COMPOSE,
    DOCKER,
    ROOT,
    SERVICES,
    build_of,
    context_of_the_checkout,
    dockerfile_of,
    health_of,
    instructions,
    last_stage,
    mounts_of,
)

DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))
SCHEMA = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
NAMES = [path.parent.name for path in DOCKERFILES]


def mistakes(compose: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema_rs.Draft7Validator(SCHEMA).iter_errors(compose)]


def test_compose_yml_is_what_the_compose_specification_calls_one() -> None:
    assert mistakes(COMPOSE) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("services", "agent", "read_onli"), True),
        (("services", "agent", "cap_drop"), "ALL"),
        (("services", "caller", "depends_on", "agent"), {"condition": "healthy"}),
        (("networks", "sip", "internal"), ["yes"]),
        (("secrets", "api_key", "path"), "./key"),
    ],
)
def test_the_schema_finds_a_mistake(path: tuple[str, ...], value: object) -> None:
    broken = copy.deepcopy(COMPOSE)
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert mistakes(broken) != []


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    command = ["hadolint", "--no-color", "--failure-threshold", "style", str(dockerfile)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_hadolint_has_nothing_to_say_of_a_dockerfile(dockerfile: Path) -> None:
    done = lint(dockerfile)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_hadolint_has_something_to_say_of_a_bad_one(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN apt-get install asterisk\n")
    done = lint(bad)
    assert done.returncode == 1
    assert {"DL3006", "DL3008", "DL3015"} <= set(re.findall(r"DL[0-9]+", done.stdout))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_an_image_is_pinned_and_its_user_is_not_root(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    bases = [each.arguments[0] for each in found if each.name == "FROM"]
    assert bases != []
    for base in bases:
        assert re.fullmatch(r"[a-z]+:([0-9]+\.[0-9]+\.[0-9]+|[a-z]+-[0-9]{8})(-[a-z-]+)?", base)
    assert [each.rest for each in last_stage(dockerfile) if each.name == "USER"] == ["10001:10001"]
    after = found[[each.name for each in found].index("USER") + 1 :]
    assert {each.name for each in after} <= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert "ADD" not in {each.name for each in found}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_what_is_installed_is_pinned_and_leaves_no_lists(dockerfile: Path) -> None:
    runs = [each.rest for each in instructions(dockerfile) if each.name == "RUN"]
    for run in runs:
        for step in run.split("&&"):
            if "apt-get install" in step:
                assert "--no-install-recommends" in step
                assert all("=" in word for word in step.split()[5:])
                assert "rm -rf /var/lib/apt/lists/*" in run
            if "apk add" in step:
                assert "--no-cache" in step
                assert all("=" in word for word in step.split()[3:])
            if "pip" in step and "install" in step.split():
                assert {"--require-hashes", "--no-index"} & set(step.split())
    assert runs != []


def test_no_image_holds_a_key_and_no_environment_does() -> None:
    for dockerfile in DOCKERFILES:
        for each in instructions(dockerfile):
            assert not re.search(r"(?i)key|secret|token|password", each.rest), each
    for name, service in SERVICES.items():
        assert "environment" not in service, name
        assert "env_file" not in service, name
    config = load(DOCKER / "config.yml")
    assert {account.key_file for account in config.accounts.values()} == {
        Path("/run/secrets/api_key")
    }


def test_what_an_image_copies_is_in_its_context(tmp_path: Path) -> None:
    checkout = context_of_the_checkout(tmp_path)
    copied = 0
    for service in SERVICES.values():
        build = build_of(service)
        if build is None:
            continue
        context = checkout if build[0] == ROOT else build[0]
        for each in instructions(build[1]):
            if each.name == "COPY" and not each.options:
                for source in each.arguments[:-1]:
                    assert (context / source).exists(), source
                    copied += 1
    assert copied > 5
    # What stands in the context may come into a layer.
    assert not list(checkout.rglob("*key*")), "a key is in the context"


def locked(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_readmes_example_is_a_compose_file_for_the_image_that_is_built_here() -> None:
    text = (DOCKER / "README.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    example = yaml.safe_load(block)
    assert mistakes(example) == []
    service = example["services"]["rounded-pbx"]
    locked(service)
    assert f"docker build -t {service['image']} -f docker/rounded-pbx/Dockerfile ." in text
    secret = example["secrets"]["api_key"]["file"]
    assert f"install -m 600 -o 10001 /dev/null {secret} " in text
    assert "{key_file: /run/secrets/api_key}" in text


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_locked_in(name: str) -> None:
    service = SERVICES[name]
    locked(service)
    assert {"privileged", "cap_add", "ports", "user", "devices", "pid", "ipc"}.isdisjoint(service)
    for target, source in mounts_of(name).items():
        assert source is None or source.exists(), f"{target}: {source} is missing"
    for tmpfs in service.get("tmpfs", []):
        assert tmpfs.endswith(":uid=10001,mode=0700"), tmpfs


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_stays_has_a_health_check(name: str) -> None:
    assert (health_of(name) is None) == (name == "caller")
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] in ("service_started", "service_healthy")
        assert how["condition"] == "service_started" or health_of(other) is not None


def test_each_daemon_and_its_sandbox_share_the_network_of_a_switch() -> None:
    shared = {name: each.get("network_mode") for name, each in SERVICES.items()}
    for switch in ("asterisk", "freeswitch"):
        for part in ("daemon", "sandbox"):
            assert shared.pop(f"{switch}-{part}") == f"service:{switch}"
    assert set(shared.values()) == {None}
    assert COMPOSE["networks"]["sip"]["internal"] is True
    config = load(DOCKER / "config.yml")
    for address in (config.asterisk.fastagi.listen, config.freeswitch.outbound.listen):
        assert address is not None
        assert address.is_loopback


def test_the_image_that_several_services_run_is_built_once() -> None:
    runs = [name for name in SERVICES if dockerfile_of(name).parent.name == "rounded-pbx"]
    builds = [name for name in runs if "build" in SERVICES[name]]
    assert builds == ["agent"]
    for name in set(runs) - {"agent"}:
        assert SERVICES[name]["image"] == SERVICES["agent"]["image"]
        assert SERVICES[name]["pull_policy"] == "never"
        assert "agent" in SERVICES[name]["depends_on"]


def test_the_addresses_in_the_files_are_those_of_compose_yml() -> None:
    given = {
        network["ipv4_address"]
        for service in SERVICES.values()
        for network in service.get("networks", {}).values()
    }
    seen = set()
    for path in DOCKER.rglob("*"):
        if path.is_file() and path.name not in ("compose.yml", "README.md"):
            seen |= set(re.findall(r"198\.51\.100\.[0-9]+", path.read_text()))
    assert seen == given


@pytest.mark.parametrize(("flavour", "folder"), [
    ("asterisk", "asterisk/etc"),
    ("freeswitch", "freeswitch/conf"),
])  # fmt: skip
def test_the_dialplan_is_what_the_command_writes(flavour: str, folder: str) -> None:
    command = rounded_pbx(
        *("dialplan", flavour, "--diff", "--config", DOCKER / "config.yml"),
        *("--folder", DOCKER / folder),
    )
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("nothing differs\n", "", 0)


def pinned(name: str) -> dict[str, str]:
    """A requirements file of the image: each package's version."""
    text = (DOCKER / "rounded-pbx" / name).read_text()
    found = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))
    assert len(found) == text.count("==")
    assert text.count("--hash=sha256:") >= len(found)
    return found


def test_the_image_has_every_package_that_the_daemon_needs_at_a_version_it_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    have = pinned("requirements.txt")
    extra = project["optional-dependencies"]["redis"]
    waiting = [Requirement(text) for text in (*project["dependencies"], *extra)]
    python = {"extra": "", "python_version": "3.14", "python_full_version": "3.14.8"}
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker and not wanted.marker.evaluate(python):
            continue
        assert name in have, f"{wanted} is not in requirements.txt: write it again"
        assert wanted.specifier.contains(have[name]), f"{wanted}, and not {have[name]}"
        # Of another version it is not known here what it needs.
        if name not in seen and importlib.metadata.version(name) == have[name]:
            seen.add(name)
            waiting += [Requirement(text) for text in importlib.metadata.requires(name) or ()]


def test_the_image_builds_its_wheel_with_a_version_that_pyproject_takes() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    have = pinned("build-requirements.txt")
    for text in build["requires"]:
        assert Requirement(text).specifier.contains(have[Requirement(text).name])


def test_the_caller_and_the_health_check_can_be_executed() -> None:
    for name in ("caller/call", "rounded-pbx/listens"):
        assert os.access(DOCKER / name, os.X_OK), name


def test_the_sandboxs_key_is_the_one_that_it_takes() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "rounded_pbx", "sandbox", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"[default: {(DOCKER / 'sandbox_key').read_text().strip()}]" in shown
