"""Who may import whom: the design's rule, read off the syntax trees of the package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rounded_pbx

PACKAGE = Path(rounded_pbx.__file__).parent
SOURCES = {
    ".".join(["rounded_pbx", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PURE = {
    *["call", "errors", "lookups", "numbers", "records", "routing", "staging", "templates"],
    *["tenants", "variables", "watch"],
}
PURE_LIBRARIES = {
    *["__future__", "collections", "contextlib", "dataclasses", "enum", "functools", "math", "re"],
    *["bisect", "hashlib", "ipaddress", "itertools", "json", "string", "typing", "phonenumbers"],
}
PURE_NAMES = ("urllib.parse", "rounded_pbx.")
# A library, and the only modules (or packages) of ours that may know it.
ONLY_IN = {
    "httpx": ["api"],
    "httpcore": ["api"],
    "panoramisk": ["servers.fastagi", "control.asterisk"],
    "greenswitch": ["control.freeswitch"],
    "gevent": ["control.freeswitch"],
    "redis": ["prestage_redis"],
}
# A module (or package) of ours, and all that it may know of the others.
SEES_ONLY = {
    **dict.fromkeys(PURE, PURE),
    "call": set(),
    "errors": set(),
    "protocol": {"protocol", "call", "errors"},
    "dialplan": {"dialplan", "config", "config_types", "variables"},
    "handler": PURE,
}


@dataclass(frozen=True)
class Import:
    """``name`` in full; ``lazy`` inside a function, ``typing`` for the type checker only."""

    name: str
    lazy: bool = False
    typing: bool = False

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]

    @property
    def ours(self) -> str | None:
        """The room of ours that is imported: ``call``, ``protocol``; None for a library."""
        if self.library != "rounded_pbx":
            return None
        if self.name not in SOURCES:  # a name: what the package itself offers comes from anywhere
            return "__init__" if self.name.count(".") == 1 else None
        return self.name.partition(".")[2].partition(".")[0]


def imports(source: str, module: str) -> list[Import]:
    return list(_imports(ast.parse(source), module, lazy=False, typing=False))


def _imports(tree: ast.AST, module: str, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                path = SOURCES.get(module)
                above = node.level - (1 if path is not None and path.stem == "__init__" else 0)
                package = ".".join(module.split(".")[: -above or None])
                base = f"{package}.{base}".rstrip(".")
            yield Import(base, lazy, typing)
            yield from (Import(f"{base}.{alias.name}", lazy, typing) for alias in node.names)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checker = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            yield from _imports(node, module, lazy=lazy or function, typing=typing or checker)


def within(module: str, rooms: list[str]) -> bool:
    name = module.partition(".")[2]
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def faults(source: str, module: str) -> list[str]:
    """What a module imports and must not."""
    room = module.partition(".")[2].partition(".")[0]
    found = []
    for item in imports(source, module):
        if item.library in ONLY_IN and not within(module, ONLY_IN[item.library]):
            found.append(f"{module} imports {item.name}")
        if room in PURE and not (
            item.library in PURE_LIBRARIES
            or item.ours is not None
            or item.name.startswith(PURE_NAMES)
        ):
            found.append(f"{module} is pure and imports {item.name}")
        allowed = SEES_ONLY.get(room)
        if allowed is not None and item.ours is not None and item.ours not in {*allowed, ""}:
            found.append(f"{module} imports {item.name}")
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_what_the_design_lets_it(module: str) -> None:
    assert faults(SOURCES[module].read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("call", "import asyncio"),
        ("call", "from .errors import BadNumber"),
        ("numbers", "from socket import socket"),
        ("routing", "from . import stager"),
        ("routing", "def f():\n    from .config import load"),
        ("staging", "import httpx._client"),
        ("variables", "if TYPE_CHECKING:\n    from .handler import Desk"),
        ("templates", "class A:\n    import ssl"),
        ("protocol.agi", "from ..staging import Outcome"),
        ("protocol.agi", "from rounded_pbx.servers import fastagi"),
        ("dialplan.asterisk", "from ..handler import Desk"),
        ("handler", "from .api import RoundedClient"),
        ("handler", "def f():\n    try:\n        import httpx\n    except ImportError: ..."),
        ("servers.outbound", "from panoramisk import Manager"),
        ("servers.status", "import gevent.monkey"),
        ("stager", "import httpcore"),
        ("daemon", "import httpx"),
        ("call", "from . import RouteTable"),
        ("protocol.agi", "from .. import StagingRequest"),
        ("handler", "from . import *"),
        ("numbers", "import urllib.request"),
        ("staging", "import pydantic"),
    ],
)
def test_the_rule_finds_an_import_that_breaks_it(module: str, source: str) -> None:
    assert faults(source, f"rounded_pbx.{module}") != []


def test_the_command_line_imports_the_rest_of_the_package_lazily() -> None:
    module = "rounded_pbx.cli"
    eager = [i for i in imports(SOURCES[module].read_text(), module) if not (i.lazy or i.typing)]
    assert {item.ours for item in eager} <= {None, "", "__init__", "errors"}
    libraries = {item.library for item in eager} - {"rounded_pbx"}
    assert libraries - set(sys.stdlib_module_names) == {"typer", "rich"}


NETWORK = {"httpx", "httpcore", "panoramisk", "greenswitch", "gevent", "uvicorn", "starlette"}


@pytest.mark.parametrize(
    ("arguments", "status", "unneeded"),
    [
        (["--help"], 0, NETWORK | {"phonenumbers", "pydantic", "yaml"}),
        (["--version"], 0, NETWORK | {"phonenumbers", "pydantic", "yaml"}),
        (["check", "--config", "{config}"], 0, NETWORK),
        (["check", "--config", "{config}.missing"], 2, NETWORK),
        (["route", "--config", "{config}", "--did", "+33612345678"], 0, NETWORK),
    ],
)
def test_a_command_loads_no_library_that_it_has_no_use_for(
    tmp_path: Path, arguments: list[str], status: int, unneeded: set[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        "accounts: {default: {key_env: API_KEY}}\n"
        "numbers: {withheld: +33000000000}\n"
        "routes: [{name: a, agent_id: 411b82c8-462a-4e1b-89bc-10ab3ce1ed29, did: '*'}]\n"
    )
    program = (
        "import json, runpy, sys\n"
        "try:\n"
        "    runpy.run_module('rounded_pbx', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, *(a.format(config=config) for a in arguments)]
    ended = subprocess.run(
        command, env={"API_KEY": "k"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == status
    loaded = set(json.loads(ended.stdout.splitlines()[-1]))
    assert "rounded_pbx.cli" in loaded
    assert loaded & unneeded == set()


def test_the_public_names_are_sorted_and_there() -> None:
    names = rounded_pbx.__all__
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(rounded_pbx, name)] == []
