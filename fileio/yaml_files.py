"""YAML files of plain values, read as data, and values as they are shown in messages."""

from __future__ import annotations

import functools
import io
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from tools import UserError

SHOWN = 80  # characters of a value in a message

# Whatever parsing raises: errors of its own, and what its conversions come upon.
UNREADABLE = (YAMLError, ValueError, KeyError, OverflowError, RecursionError)

# What begins a new line or moves a terminal's cursor, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        if not path.is_file() and path.exists():  # to open a pipe is to wait for its other end
            raise UserError(f"{path} cannot be read: it is no file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from None


def load(path: Path) -> Any:
    """What a YAML file says. It is not to be changed: who asks again is given the same.

    Raises:
        UserError: it cannot be read, or is no YAML.
    """
    text = read(path)
    try:
        return parse(text)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None


@functools.lru_cache(maxsize=4)
def parse(text: str) -> Any:
    """What a text says, as :func:`load`; raises what is in `UNREADABLE`."""
    return YAML(typ="safe", pure=True).load(text)


def dump(values: Mapping[str, Any]) -> str:
    """The YAML of a flat mapping, one key a line; lists in brackets."""
    yaml, stream = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style = None
    yaml.dump(values, stream)
    return stream.getvalue()


def _reason(error: Exception) -> str:
    """What is wrong with a YAML file, and in which line, if that is known."""
    if isinstance(error, MarkedYAMLError) and error.problem and error.problem_mark:
        return printable(f"line {error.problem_mark.line + 1}, {error.problem}")
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), "") or type(error).__name__)


def is_plain(text: str) -> bool:
    """Whether a text is printed on one line, as it is."""
    return _UNPRINTABLE.search(text) is None


def printable(value: Any) -> str:
    """A value for a message: on one line, and not too long."""
    try:
        # What nests is shown in part: a few lines of YAML can stand for gigabytes.
        text = reprlib.repr(value) if isinstance(value, list | tuple | dict) else str(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        text = "a number of many digits"
    cut = text[:SHOWN] + "…" if len(text) > SHOWN else text
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], cut)
