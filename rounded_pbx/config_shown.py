"""The configuration as text that anybody may read who may see the status page.

No secret stands in a configuration that is as it should be; but an admin may have written one where
a literal value is expected. So a text is shown only where it is named here, and anything else is
``***``: what is added to the configuration later, too, until somebody has thought about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import pydantic
import yaml

from .config import Config
from .config_types import Address, Network, Section
from .lookups import JsonPath, UrlTemplate
from .templates import Parts, Template

log = logging.getLogger(__name__)

HIDDEN = "***"

#: The texts that are shown, by their section and their option; of a map, its values.
SHOWN = frozenset(
    [
        *["Account.key_env", "Account.credential", "Account.account_codes", "Account.domains"],
        *["Account.contexts", "Ami.username", "Api.base_url", "Config.pbx"],
        *["Fallback.asterisk", "Fallback.freeswitch", "LookupSection.variables"],
        *["Logs.format", "Logs.caller_numbers"],
        *["Numbers.country", "Numbers.withheld", "Numbers.malformed"],
        *["Prestage.store", "Prestage.username", "Prestage.secret_env", "Prestage.credential"],
        *["RouteSection.name", "RouteSection.did", "RouteSection.agent_id", "RouteSection.account"],
        *["RouteSection.country", "RouteSection.to_number"],
        *["SecretHeader.key_env", "SecretHeader.credential"],
        *["Status.hosts", "Status.token_env", "Status.credential"],
        *["Trunk.name", "Trunk.host", "Trunk.match", "Trunk.transport"],
    ]
)
#: What is not: a key may stand in what is sent with a call, or to a CRM. Templates' fields are.
#: And where the switches' secrets come from: the daemon never reads them, so one that was written
#: there itself is a mistake that nobody is told of.
HIDES = frozenset(
    [
        *["Ami.secret_env", "Ami.secret_file", "Ami.credential"],
        *["Esl.secret_env", "Esl.secret_file", "Esl.credential"],
        *["LookupSection.headers", "LookupSection.url"],
        *["RouteSection.dynamic_variables", "RouteSection.custom_headers"],
    ]
)


#: Ten times as fast, where PyYAML was built with it.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def shown(config: Config) -> str:
    """The whole configuration as YAML, defaults included, without a secret.

    Where that fails, as where maps are nested too deep, it says so: calls must go on.
    """
    try:
        text: str = yaml.dump(
            _section(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True,
            default_flow_style=None, width=100,
        )  # fmt: skip
    except Exception as error:  # its text may hold a value
        log.error("the status page cannot show the configuration: %s", type(error).__name__)
        return f"# cannot be shown: {type(error).__name__}\n"
    return text


def _section(section: Section) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if value is None and name == "listen":
            values[name] = "off"
        elif value is not None:
            values[name] = _value(value, f"{type(section).__name__}.{name}")
    return {name: value for name, value in values.items() if value not in ([], {})}


def _value(value: object, where: str) -> Any:
    if isinstance(value, pydantic.SecretStr | pydantic.SecretBytes):
        return HIDDEN
    if isinstance(value, Section):
        return _section(value)
    if isinstance(value, Template):
        return _fields(value.parts)
    if isinstance(value, UrlTemplate):
        return value.origin + _target(value)
    if isinstance(value, Mapping):
        return {str(name): _value(inner, where) for name, inner in value.items()}
    if where == "LookupSection.variables" and isinstance(value, tuple):
        return _path(value)
    if isinstance(value, tuple | list):
        return [_value(inner, where) for inner in value]
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Address | Network) or (isinstance(value, PurePath) and where not in HIDES):
        return str(value)
    if isinstance(value, bool) or (isinstance(value, int | float) and where not in HIDES):
        return value
    return str(value) if where in SHOWN else HIDDEN


def _fields(parts: Parts) -> str:
    """The fields of a template, and that there is something between them."""
    return "".join(
        (HIDDEN if literal else "") + (f"{{{field}}}" if field is not None else "")
        for literal, field in parts
    )


def _target(url: UrlTemplate) -> str:
    target = "/".join(_fields(segment) for segment in url.path)
    return target + (f"?{_fields(url.query)}" if url.query else "")


def _path(path: JsonPath) -> str:
    return "".join(_steps(path)).removeprefix(".")


def _steps(path: JsonPath) -> Iterator[str]:
    for step in path:
        yield f"[{step}]" if isinstance(step, int) else f".{step}"
