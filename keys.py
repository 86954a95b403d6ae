"""The keys of the configuration, as configs.yaml says them.

That file is the only place where a key is written down: its default, its type, the values that it
takes and its help are read off the ``defaults`` block.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fileio import yaml_files
from fileio.yaml_files import is_plain, printable
from tools import UserError, nearest

CONFIGS = Path(__file__).parent / "configs.yaml"
_NULLS = ("null", "Null", "NULL", "none", "None", "NONE")
LONGEST = 64  # items of a list
LONGEST_TEXT = 4096  # characters, as of a path

_LINE = re.compile(r"^  (\w+): (.*?) # (?:\[(\w+)\] )?(?:\{(.*?)\} )?(.*)$")
_GROUP = re.compile(r"^  # ## (.*)$")
_BOOLS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Key:
    """What configs.yaml says of one key."""

    name: str
    group: str
    default: Any
    kind: type
    nullable: bool
    choices: tuple[str, ...]
    help: str

    def parse(self, value: Any) -> Any:
        """The value in this key's type.

        Raises:
            UserError: it is not of that type, or not among the choices.
        """
        if self.nullable and (value is None or value in _NULLS):
            return None
        if isinstance(self.default, tuple):
            items = value if isinstance(value, list | tuple) else [value]
            if isinstance(value, str):
                items = value.split(",")
            if not 0 < len(items) <= LONGEST:
                raise self._wrong(value, "a list such as " + " ".join(map(str, self.default)))
            return tuple(self._one(item, type(self.default[0])) for item in items)
        value = self._one(value, self.kind)
        if self.choices and str(value) not in self.choices:
            raise self._wrong(value, ", ".join(self.choices), nearest(str(value), self.choices))
        return value

    def _one(self, value: Any, kind: type) -> Any:
        if not isinstance(value, str | int | float):
            raise self._wrong(value, _WANTED[kind])
        try:
            return _CONVERSIONS[kind](value)
        except (ValueError, KeyError):
            raise self._wrong(value, _WANTED[kind]) from None
        except OverflowError:
            raise self._wrong(value, _WITHIN[kind]) from None

    def _wrong(self, value: Any, wanted: str, hint: str = "") -> UserError:
        return UserError(f"--{self.name} takes {wanted}, not '{printable(value)}'{hint}")


def _to_int(value: str | int | float) -> int:
    try:
        whole = int(str(value))  # every digit counts, which a float would not keep
    except ValueError:
        whole = int(float(str(value)))
        if whole != float(str(value)):
            raise
    if not -(1 << 63) <= whole < 1 << 63:
        raise OverflowError
    return whole


def _to_float(value: str | int | float) -> float:
    number = float(str(value))
    if not math.isfinite(number):
        raise OverflowError
    return number


def _to_text(value: str | int | float) -> str:
    text = str(value)
    if not is_plain(text) or len(text) > LONGEST_TEXT:
        raise ValueError
    return text


_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: _BOOLS[str(value).lower()],
    int: _to_int,
    float: _to_float,
    str: _to_text,
}
_WANTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: f"up to {LONGEST_TEXT} characters in UTF-8, none a control character",
}
_WITHIN = {int: "a whole number of up to 18 digits", float: "a finite number"}


def load_keys(path: Path = CONFIGS) -> dict[str, Key]:
    """The keys of the ``defaults`` block, in its order."""
    document = yaml_files.load(path)
    defaults = document.get("defaults") if isinstance(document, dict) else None
    if not isinstance(defaults, dict) or not defaults:
        raise UserError(f"{path} has no block 'defaults' with keys: restore the project's file")
    try:
        return dict(_keys_in(yaml_files.read(path)))
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


@functools.lru_cache(maxsize=2)
def _keys_in(text: str) -> dict[str, Key]:
    defaults, keys, group = yaml_files.parse(text)["defaults"], {}, ""
    for line in text.splitlines():
        if match := _GROUP.match(line):
            group = match[1]
        elif (match := _LINE.match(line)) and match[1] in defaults and match[1] not in keys:
            name, _, kind, choices, remark = match.groups()
            keys[name] = _make_key(name, group, defaults[name], kind, choices, remark)
    missing = sorted(map(printable, set(defaults) - set(keys)))
    if missing:
        raise UserError(f"keys without a remark behind them: {printable(missing)}")
    return keys


def _make_key(
    name: str, group: str, default: Any, kind: str | None, choices: str | None, text: str
) -> Key:
    values = tuple((choices or "").split("|")) if choices else ()
    nullable = kind is not None
    if isinstance(default, list) and default:
        default = tuple(default)
    of_name = {"int": int, "float": float, "str": str, "bool": bool}
    of_default = type(default[0] if isinstance(default, tuple) else default)
    typed = kind is not None and not isinstance(default, tuple)
    if (kind or "str") not in of_name or (not typed and of_default not in _CONVERSIONS):
        raise UserError(f"key '{name}': its type is none of {', '.join(of_name)}")
    # 1e6 reads as a float, but steps are counted: a whole default in that spelling means int.
    if of_default is float and not isinstance(default, tuple) and abs(default) >= 1000:
        of_default = int if default.is_integer() else float
    of_default = tuple if isinstance(default, tuple) else of_default
    key = Key(name, group, default, of_name[kind] if kind else of_default, nullable, values, text)
    return dataclasses.replace(key, default=key.parse(default))
