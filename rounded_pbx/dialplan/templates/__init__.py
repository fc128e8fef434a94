"""The texts of the dialplans; a name in %{braces} is filled in, everything else stands as it is."""

from __future__ import annotations

import re
from importlib import resources
from string import Template


class _Template(Template):
    # Dollars and braces are the dialplans' own.
    delimiter = "%"
    pattern = r"%(?:(?P<escaped>%)|(?P<named>\b\B)|\{(?P<braced>[a-z]+)\}|(?P<invalid>))"  # type: ignore[assignment]
    flags = re.VERBOSE


def fill(template: str, /, **values: str) -> str:
    """The template with its names filled in; KeyError for one that is missing."""
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    return _Template(text).substitute(values)


def marked(line: str, comment: str, *, column: int = 60) -> str:
    """A line of Asterisk's that an admin without a configuration changes."""
    return f"{line.ljust(max(column, len(line) + 2))}; <<< {comment}"


def marked_xml(line: str, comment: str, *, column: int = 90) -> str:
    """A line of FreeSWITCH's that an admin without a configuration changes."""
    return f"{line.ljust(max(column, len(line) + 2))}<!-- <<< {comment} -->"
