"""YAML without its traps, and with the line of every node.

PyYAML as it comes reads ``+4930123456`` as a number without its plus, ``0123`` as 83, ``no`` (a
country, too) as false, and lets the second of two equal keys win in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import yaml

from .errors import ConfigError, Problem

Loc = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """A SafeLoader whose only implicit types are null, true and false, and canonical numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]*)$"), list("-0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+$"), list("-0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


class YamlFile:
    """A YAML document: ``data`` as plain Python values, and where each of them stands.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or repeats a key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError([self.problem((), f"cannot be read: {error.strerror}")]) from None
        except UnicodeDecodeError:
            raise ConfigError([self.problem((), "is not UTF-8 text")]) from None
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            faults = self._faults(self._root, (), set()) if self._root else []
            self.data = loader.construct_document(self._root) if self._root else None
        except (yaml.MarkedYAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or str(error)
            line = mark.line + 1 if mark else 1
            raise ConfigError([Problem(str(path), line, f"is no YAML: {what}")]) from None
        except yaml.YAMLError as error:
            text = " ".join(str(error).split())
            raise ConfigError([self.problem((), f"is no YAML: {text}")]) from None
        if faults:
            raise ConfigError(faults)

    def problem(self, loc: Loc, text: str) -> Problem:
        """A problem with what stands at ``loc`` (keys and list indices from the root)."""
        return Problem(str(self.path), self._line(loc), text)

    def _line(self, loc: Loc) -> int:
        node = getattr(self, "_root", None)
        line = node.start_mark.line + 1 if node else 1
        for step in loc:
            found = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(step):
                        line, found = key.start_mark.line + 1, value
            elif (
                isinstance(node, yaml.SequenceNode)
                and isinstance(step, int)
                and step < len(node.value)
            ):
                found = node.value[step]
                line = found.start_mark.line + 1
            if found is None:  # a pydantic marker such as a union's branch, or a missing key
                continue
            node = found
        return int(line)

    def _faults(self, node: yaml.Node, above: tuple[int, ...], seen: set[int]) -> list[Problem]:
        """Repeated keys, and aliases that lead back to themselves."""
        line = node.start_mark.line + 1
        if id(node) in above:
            return [Problem(str(self.path), line, "refers to itself through an alias")]
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            return []
        seen.add(id(node))
        above = (*above, id(node))
        problems: list[Problem] = []
        first: dict[str, int] = {}
        for item in node.value:
            if isinstance(item, tuple):
                key, item = item
                name, line = str(key.value), key.start_mark.line + 1
                if name in first and name != "<<":
                    text = f"{name}: stands here again; it already stands in line {first[name]}"
                    problems.append(Problem(str(self.path), line, text))
                first.setdefault(name, line)
            problems += self._faults(item, above, seen)
        return problems


def explain(model: type[pydantic.BaseModel], error: Any) -> tuple[Loc, str]:
    """A pydantic error as a place and a sentence in our words."""
    loc: Loc = tuple(step for step in error["loc"] if step != "[key]")
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    name = ".".join(str(step) for step in loc)
    if kind == "missing":
        return loc, f"{name} is missing"
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(known)
        return loc, f"{name} is not known; {hint}"
    if kind == "enum":
        return loc, f"{name}: {value!r} is not one of {context['expected']}"
    if kind in ("value_error", "assertion_error"):
        return loc, f"{name}: {context['error']}" if name else str(context["error"])
    shown = "" if loc[:1] == ("accounts",) else f"{value!r}: "  # where a key could stand
    return loc, f"{name}: {shown}{error['msg'][0].lower()}{error['msg'][1:]}"


def _known_keys(model: Any, loc: Loc) -> list[str]:
    for step in loc:
        if isinstance(step, int):
            continue
        field = getattr(model, "model_fields", {}).get(step)
        annotation = field.annotation if field is not None else model
        model = next((m for m in _models(annotation)), model)
    return sorted(getattr(model, "model_fields", {}))


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The sections inside a type: of ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
