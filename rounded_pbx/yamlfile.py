"""YAML without its traps, and with the line of every node.

PyYAML as it comes reads ``+4930123456`` as a number without its plus, ``0123`` as 83, ``no`` (a
country, too) as false, and lets the second of two equal keys win in silence.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from .errors import ConfigError, Problem

Loc = tuple[str | int, ...]

#: Values of a configuration, with what aliases repeat.
MOST_NODES = 100_000

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """A SafeLoader whose only implicit types are null, true and false, and canonical numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,17})$"), list("-0123456789")
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
            faults = self._faults(loader, self._root) if self._root else []
            self.data = loader.construct_document(self._root) if self._root and not faults else None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            what = f"the character {chr(error.character)!r} cannot stand in YAML"
            raise ConfigError([Problem(str(path), line, what)]) from None
        except (yaml.MarkedYAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or "nested too deeply"
            line = (mark.line if mark else loader.line) + 1
            raise ConfigError([Problem(str(path), line, f"is no YAML: {what}")]) from None
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

    def _faults(self, loader: _Loader, root: yaml.Node) -> list[Problem]:
        """Repeated keys, explicit types, and aliases that lead to themselves or to too much."""
        faults: list[Problem] = []
        sizes: dict[int, int] = {}

        def fault(node: yaml.Node, text: str) -> None:
            faults.append(Problem(str(self.path), node.start_mark.line + 1, text))

        def walk(node: yaml.Node, above: tuple[int, ...]) -> int:
            """How many nodes there are in and below this one, aliases followed."""
            if id(node) in above:
                fault(node, "refers to itself through an alias")
                return 1
            if id(node) in sizes:
                return sizes[id(node)]
            size = 1
            if isinstance(node, yaml.ScalarNode):
                if _SURROGATE.search(node.value):
                    fault(node, "holds half a character (\\ud83d…); write the character itself")
                plain = loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
                if node.tag not in ("tag:yaml.org,2002:str", plain):
                    fault(node, f"has the type {node.tag}; expected a plain value or quotes")
            elif node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
                fault(node, f"has the type {node.tag}; expected a plain map or list")
            else:
                first: dict[str, int] = {}
                for item in node.value:
                    if isinstance(item, tuple):
                        key, item = item
                        walk(key, (*above, id(node)))
                        name, line = str(key.value), key.start_mark.line + 1
                        if name in first and name != "<<":
                            stands = f"it already stands in line {first[name]}"
                            fault(key, f"{name}: stands here again; {stands}")
                        first.setdefault(name, line)
                    size += walk(item, (*above, id(node)))
            sizes[id(node)] = size
            if size > MOST_NODES and not faults:
                fault(node, f"has more than {MOST_NODES} values, aliases followed")
            return size

        walk(root, ())
        return faults
