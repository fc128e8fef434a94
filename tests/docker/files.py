"""compose.yml, the Dockerfiles and .dockerignore, as an engine reads them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@dataclass(frozen=True)
class Instruction:
    """One of a Dockerfile: ``RUN`` and what stands after it."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The arguments: a JSON list, or words."""
        found = self.rest.split()
        if self.rest.startswith("["):
            found = json.loads(self.rest)
        return found

    @property
    def options(self) -> list[str]:
        return [word for word in self.words if word.startswith("--")]

    @property
    def arguments(self) -> list[str]:
        return [word for word in self.words if not word.startswith("--")]


def instructions(dockerfile: Path) -> list[Instruction]:
    """The instructions, each on one line."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [Instruction(name.upper(), rest.strip()) for name, rest in pairs]


def last_stage(dockerfile: Path) -> list[Instruction]:
    """The instructions that make the image."""
    found = instructions(dockerfile)
    first = max(i for i, instruction in enumerate(found) if instruction.name == "FROM")
    return found[first:]


def build_of(service: dict[str, Any]) -> tuple[Path, Path] | None:
    """A service's build: the context and the Dockerfile."""
    build = service.get("build")
    if build is None:
        return None
    build = {"context": build} if isinstance(build, str) else build
    context = (DOCKER / build["context"]).resolve()
    return context, context / build.get("dockerfile", "Dockerfile")


def dockerfile_of(name: str) -> Path:
    """The Dockerfile of a service's image, which another service may build."""
    service = SERVICES[name]
    for other in (service, *SERVICES.values()):
        build = build_of(other)
        if build and (other is service or other.get("image", "") == service.get("image")):
            return build[1]
    raise AssertionError(f"nothing builds the image of {name}")


def _exec(dockerfile: Path, name: str) -> list[str]:
    found = [each.words for each in last_stage(dockerfile) if each.name == name]
    return found[-1] if found else []


def command_of(name: str) -> list[str]:
    """The command line of a service's process."""
    service, dockerfile = SERVICES[name], dockerfile_of(name)
    if "entrypoint" in service:  # then the image's CMD does not count
        return [*service["entrypoint"], *service.get("command", [])]
    command = service.get("command", _exec(dockerfile, "CMD"))
    return [*_exec(dockerfile, "ENTRYPOINT"), *command]


def health_of(name: str) -> list[str] | None:
    """The command line of a service's health check."""
    test = SERVICES[name].get("healthcheck", {}).get("test")
    if test is None:
        found = [each for each in last_stage(dockerfile_of(name)) if each.name == "HEALTHCHECK"]
        rest = found[-1].rest if found else "NONE"
        test = ["NONE"] if rest == "NONE" else json.loads(rest[rest.index("[") :])
        return None if test == ["NONE"] else test
    assert test[0] == "CMD"
    return list(test[1:])


def mounts_of(name: str) -> dict[str, Path | None]:
    """Paths in a service's container, and what is there; None for a tmpfs."""
    service = SERVICES[name]
    found: dict[str, Path | None] = {}
    for volume in service.get("volumes", []):
        source, target, mode = volume.split(":")
        assert mode == "ro", volume
        found[target] = (DOCKER / source).resolve()
    for secret in service.get("secrets", []):
        found[f"/run/secrets/{secret}"] = (DOCKER / COMPOSE["secrets"][secret]["file"]).resolve()
    for tmpfs in service.get("tmpfs", []):
        found[tmpfs.partition(":")[0]] = None
    return found


def context_of_the_checkout(to: Path) -> Path:
    """A copy of what .dockerignore lets into the context: the shapes of pattern that it has."""
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert patterns[0] == "*"
    assert patterns[-1] == "**/__pycache__"
    for pattern in patterns[1:-1]:
        assert re.fullmatch(r"![A-Za-z0-9_./-]+", pattern), pattern
        source, target = ROOT / pattern[1:], to / PurePosixPath(pattern[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return to
