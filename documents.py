"""YAML documents of plain values, whoever wrote them: bounded, and nothing in them is executed."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.events import AliasEvent

from tools import UserError

LARGEST = 128 << 10  # bytes of a document
DEEPEST = 8  # lists in mappings in blocks
SHOWN = 80  # characters of a value in a message

# Whatever parsing raises: errors of its own, and what its conversions come upon.
UNREADABLE = (YAMLError, ValueError, KeyError, OverflowError, RecursionError)

# What begins a new line or moves a terminal's cursor, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Composer(Composer):
    """Takes neither aliases nor depth: little text would stand for more than any memory holds."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.parser.peek_event().start_mark
        if self.parser.check_event(AliasEvent):
            raise ComposerError("it has an alias (*), which is not read", mark)
        if self._depth > DEEPEST:
            raise ComposerError("it is nested too deeply", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def read(path: Path) -> str:
    """The text of a document.

    Raises:
        UserError: it cannot be read, or is no text of a document's size.
    """
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path} cannot be read: it is no file")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} cannot be read: it has more than 128 KiB")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from None


def load(path: Path) -> Any:
    """What a YAML document says. It is not to be changed: who asks again is given the same.

    Raises:
        UserError: it cannot be read, or is no YAML.
    """
    text = read(path)
    try:
        return parse(text)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from None


@functools.lru_cache(maxsize=4)
def parse(text: str) -> Any:
    """What a text says, as :func:`load`; raises what is in `UNREADABLE`."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    return yaml.load(text)


def _first_line(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), "") or type(error).__name__)


def is_plain(text: str) -> bool:
    """Whether a text is printed on one line, as it is."""
    return _UNPRINTABLE.search(text) is None


def printable(value: Any) -> str:
    """A value for a message: on one line, and not too long."""
    try:
        text = str(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        text = "a number of many digits"
    cut = text[:SHOWN] + "…" if len(text) > SHOWN else text
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], cut)
