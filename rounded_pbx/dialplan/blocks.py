"""Our lines in a file of the admin's: one block between two marks, at its top.

At the top, because what an admin adds at the end of a file would stand in our last context.
Everything here is bytes: an admin's file keeps its encoding, its line ends and its last line.
"""

from __future__ import annotations

import re

_BOM = b"\xef\xbb\xbf"
_BEGIN = (
    "BEGIN rounded_pbx: written by rounded-pbx dialplan, which overwrites every line to the END"
)
_NEW = " (it made this file)"
_START = rb"(?:^|(?<=" + _BOM + rb"))(?:; |<!-- )"
_BLOCK = re.compile(
    _START + rb"BEGIN rounded_pbx(?P<begin>[^\r\n]*)\r?\n"
    rb".*?" + _START + rb"END rounded_pbx[^\r\n]*(?:\r?\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
# Any line that looks like a mark: one that an editor has changed is told, not passed by.
_MARK = re.compile(
    rb"^(?:" + _BOM + rb")?[ \t]*(?:;|<!--)[ \t]*(BEGIN|END)[ \t]+rounded_pbx\b",
    re.MULTILINE | re.IGNORECASE,
)


class Damaged(ValueError):
    """The marks of a file do not belong together; the message says what was expected."""


def put(content: bytes | None, text: str, *, xml: bool) -> bytes:
    """The content with ``text`` as our block; ``None`` is a file that is not there.

    Raises:
        Damaged: its marks are not one BEGIN and one END.
    """
    block = _find(content or b"")
    made = content is None or (block is not None and block["begin"].endswith(_made(xml=xml)))
    newline = b"\r\n" if re.match(rb"[^\n]*\r\n", content or b"") else b"\n"
    ours = _wrapped(text, xml=xml, made=made).encode().replace(b"\n", newline)
    content = content or b""
    if block is not None:
        return content[: block.start()] + ours + content[block.end() :]
    start = len(_BOM) if content.startswith(_BOM) else 0
    return content[:start] + ours + content[start:]


def take(content: bytes) -> bytes | None:
    """The content without our block; ``None`` where nothing is left of a file that we made.

    Raises:
        Damaged: its marks are not one BEGIN and one END.
    """
    block = _find(content)
    if block is None:
        return content
    rest = content[: block.start()] + content[block.end() :]
    made = any(block["begin"].endswith(_made(xml=xml)) for xml in (True, False))
    return None if made and not rest else rest


def has_block(content: bytes) -> bool:
    """Whether our block stands in it.

    Raises:
        Damaged: its marks are not one BEGIN and one END.
    """
    return _find(content) is not None


def text(content: bytes) -> bytes:
    """Our block in it, with its marks; empty without one.

    Raises:
        Damaged: its marks are not one BEGIN and one END.
    """
    block = _find(content)
    return block[0] if block is not None else b""


def _find(content: bytes) -> re.Match[bytes] | None:
    marks = [found[1] for found in _MARK.finditer(content)]
    if not marks:
        return None
    block = _BLOCK.search(content)
    if marks != [b"BEGIN", b"END"] or block is None:
        raise Damaged(
            "expected one line BEGIN rounded_pbx and after it one line END rounded_pbx, but found "
            + ", ".join(mark.decode() for mark in marks)
        )
    return block


def _made(*, xml: bool) -> bytes:
    return (_NEW + (" -->" if xml else "")).encode()


def _wrapped(text: str, *, xml: bool, made: bool) -> str:
    begin = _BEGIN + (_NEW if made else "")
    first, last = f"; {begin}", "; END rounded_pbx"
    if xml:
        first, last = f"<!-- {begin} -->", "<!-- END rounded_pbx -->"
    return f"{first}\n{text}{last}\n"
