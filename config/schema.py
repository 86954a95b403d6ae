"""Keys of the configuration: their types, the values that they take, and what else is true of them.

The common keys are read off the ``defaults`` block of configs.yaml, whose head explains the remarks
behind them. The keys of one method are a frozen dataclass beside it::

    @dataclass(frozen=True)
    class Keys:
        queue_size: int = key(4096, "frames that the intrinsic reward looks back on", above=0)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.ranges import Range
from fileio import yaml_files
from fileio.yaml_files import is_plain, printable
from tools import UserError, nearest, schedule

CONFIGS = Path(__file__).parent.parent / "configs.yaml"
MARKS = ("resume", "evaluate", "predictor", "basic", "share")
LONGEST = 64  # items of a list
LONGEST_TEXT = 4096  # characters, as of a path

Methods = Mapping[str, type | None]  # what each method's own keys are, if it has any

_NULLS = ("null", "Null", "NULL", "none", "None", "NONE")
_BOOLS = {"true": True, "false": False}
_GROUP = re.compile(r"^  # ## (.*)$")
_LINE = re.compile(r"^  (\w+): (.*?) # (.*)$")
_REMARK = re.compile(r"^(?:\[(\w+)\] )?(?:\{(.*?)\} )?(.*?)(?: \(([^()]*)\))?$")


@dataclasses.dataclass(frozen=True)
class Key:
    """What is true of one key.

    Attributes:
        name: the key's, and its flag's without the dashes.
        group: the heading of ``--help all`` that it stands under.
        default: in the key's type.
        kind: bool, int, float or str; of each item, if it takes ``many``.
        help: one line.
        many: whether it takes a list, which is a tuple here.
        nullable: whether it may be None.
        choices: the texts that it takes; empty if all of its type.
        range: of its numbers, if not all are taken.
        is_schedule: whether it takes a schedule (see :func:`tools.schedule`) beside its choices.
        marks: some of ``MARKS``: it may change between two starts of one run, may be given with
            ``--evaluate``, shapes a pretrained predictor, is shown without ``--help all``, is a
            schedule by a share.
        weighs: the loss term that it is the weight of, where its name does not tell.
    """

    name: str
    group: str
    default: Any
    kind: type
    help: str
    many: bool = False
    nullable: bool = False
    choices: tuple[str, ...] = ()
    range: Range | None = None
    is_schedule: bool = False
    marks: frozenset[str] = frozenset()
    weighs: str | None = None

    @property
    def term(self) -> str:
        """The name of a schedule's value inside a loss: of the term that it weighs, or its own."""
        return self.weighs or self.name.removesuffix("_scale")

    @property
    def values(self) -> str:
        """What it takes beyond its type, as configs.yaml says it between braces."""
        words = [*self.choices, *["schedule"] * self.is_schedule]
        return str(self.range) if self.range else "|".join(words)

    def parse(self, value: Any) -> Any:
        """The value in this key's type.

        Raises:
            UserError: it is not of that type, not in the range, or not among the choices.
        """
        if self.nullable and (value is None or value in _NULLS):
            return None
        if not self.many:
            return self._check(self._convert(value), value)
        items = _items(value)
        if not 0 < len(items) <= LONGEST or "" in items:
            raise self._wrong(value, "a list such as " + " ".join(map(str, self.default)))
        return tuple(self._check(self._convert(item), item) for item in items)

    def _convert(self, value: Any) -> Any:
        if not isinstance(value, str | int | float):
            raise self._wrong(value, _WANTED[self.kind])
        try:
            return _CONVERSIONS[self.kind](value)
        except (ValueError, KeyError):
            raise self._wrong(value, _WANTED[self.kind]) from None
        except OverflowError:
            raise self._wrong(value, _WITHIN[self.kind]) from None

    def _check(self, value: Any, given: Any) -> Any:
        if self.range is not None and value not in self.range:
            raise UserError(
                f"--{self.name} must be {self.range.describe()}, not {printable(given)}"
            )
        if str(value) in self.choices:
            return value
        if self.is_schedule:
            try:
                schedule(value)
            except UserError as error:
                raise UserError(f"--{self.name}: {error}") from None
        elif self.choices:
            raise self._wrong(value, ", ".join(self.choices), nearest(str(value), self.choices))
        return value

    def _wrong(self, value: Any, wanted: str, hint: str = "") -> UserError:
        if isinstance(value, list | tuple):  # the words behind a flag
            value = " ".join(map(printable, value))
        return UserError(f"--{self.name} takes {wanted}, not '{printable(value)}'{hint}")


def _items(value: Any) -> Sequence[Any]:
    """The items of a list: ``64 64``, ``64,64`` or ``[64, 64]``, in one text or in several."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return [value]
    if not all(isinstance(text, str) for text in texts):
        return texts
    text = " ".join(texts).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    return re.split(r"\s*,\s*|\s+", text)


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
_TYPES = {kind.__name__: kind for kind in _CONVERSIONS}


# Common keys: remarks in configs.yaml


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
            name, _, remark = match.groups()
            keys[name] = read_key(name, group, defaults[name], remark)
    missing = sorted(map(printable, set(defaults) - set(keys)))
    if missing:
        raise UserError(f"keys without a remark behind them: {printable(missing)}")
    return keys


def read_key(name: str, group: str, default: Any, remark: str) -> Key:
    """The key that a line ``name: default # [type] {values} help (marks)`` describes.

    Raises:
        UserError: the line contradicts itself, or has a mark that does not exist.
    """
    kind, values, text, marked = _REMARK.match(remark).groups()
    many = isinstance(default, list) and len(default) > 0
    numbers = Range.read(values) if values else None
    choices = values.split("|") if values and numbers is None else []
    marks = marked.split(", ") if marked else []
    weighs = [mark.removeprefix("weighs ") for mark in marks if mark.startswith("weighs ")]
    marks = [mark for mark in marks if not mark.startswith("weighs ")]
    for mark in marks:
        if mark not in MARKS:
            raise UserError(f"key '{name}': there is no mark '{mark}'{nearest(mark, MARKS)}")
    of_default = str if "schedule" in choices else type(default[0] if many else default)
    if of_default not in _CONVERSIONS and kind not in _TYPES:
        raise UserError(f"key '{name}': its type is none of {', '.join(_TYPES)}")
    # 1e6 reads as a float, but steps are counted: a whole default in that spelling means int.
    if of_default is float and not many and abs(default) >= 1000 and default.is_integer():
        of_default = int
    return _make(
        Key(
            name,
            group,
            default,
            _TYPES[kind] if kind else of_default,
            text,
            many=many,
            nullable=kind is not None,
            choices=tuple(choice for choice in choices if choice != "schedule"),
            range=numbers,
            is_schedule="schedule" in choices,
            marks=frozenset(marks),
            weighs=weighs[0] if weighs else None,
        )
    )


def _make(key: Key) -> Key:
    """The key, whose default is one of its values."""
    return dataclasses.replace(key, default=key.parse(key.default))


# Keys of one method: a dataclass beside it


def key(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
    schedule: bool = False,
    marks: Iterable[str] = (),
    weighs: str | None = None,
) -> Any:
    """A key of one method: a field of its ``Keys``, whose annotation is the key's type.

    Args:
        default: the value without a flag.
        help: one line for ``--help``.
        above: numbers must be larger.
        at_least: numbers must not be smaller.
        below: numbers must be smaller.
        at_most: numbers must not be larger.
        choices: the values of a text.
        schedule: the text is a schedule; the loss finds its value under the key's name, without
            ``_scale`` at the end.
        marks: some of ``MARKS``.
        weighs: the loss term that a schedule weighs, where its name does not tell.
    """
    low, high = (above if at_least is None else at_least), (below if at_most is None else at_most)
    bounds = Range(low, high, above is not None, below is not None)
    described = {
        "help": help,
        "range": None if low is None and high is None else bounds,
        "choices": tuple(choices),
        "is_schedule": schedule,
        "marks": frozenset(marks),
        "weighs": weighs,
    }
    return dataclasses.field(default=default, metadata={"key": described})


def keys_of(owner: type | None, method: str) -> dict[str, Key]:
    """The keys that a method's dataclass describes; none if it has no such class.

    Raises:
        TypeError: a field is no :func:`key`, or of a type that no key has.
        UserError: a default is not one of its key's values.
    """
    if owner is None:
        return {}
    hints, keys = typing.get_type_hints(owner), {}
    for field in dataclasses.fields(owner):
        kinds = [hints[field.name]]
        if typing.get_origin(kinds[0]) in (typing.Union, types.UnionType):
            kinds = list(typing.get_args(kinds[0]))
        nullable = type(None) in kinds
        kinds = [kind for kind in kinds if kind is not type(None)]
        many = typing.get_origin(kinds[0]) is tuple
        kind = typing.get_args(kinds[0])[0] if many else kinds[0]
        if "key" not in field.metadata or len(kinds) != 1 or kind not in _CONVERSIONS:
            raise TypeError(
                f"{owner.__qualname__}.{field.name} of the method {method}: write it as "
                f"config.key(…), of type {', '.join(_TYPES)}, a tuple of one, or one or None"
            )
        described = {**field.metadata["key"], "many": many, "nullable": nullable}
        group = f"Method {method}"
        keys[field.name] = _make(Key(field.name, group, field.default, kind, **described))
    return keys


def schema_for(
    keys: Mapping[str, Key], method: str | None, methods: Methods | None
) -> dict[str, Key]:
    """The common keys and those of one method, which is one of ``methods``.

    Args:
        keys: the common ones.
        method: whose own keys are wanted; None, or one that does not exist, has none.
        methods: all there are; None leaves ``--method_name`` any text.

    Raises:
        ValueError: the method has a key that is a common one's namesake.
    """
    if methods is None:
        return dict(keys)
    named = dataclasses.replace(keys["method_name"], choices=tuple(methods))
    own = keys_of(methods[method], method) if method in methods else {}
    if both := sorted(set(own) & set(keys)):
        raise ValueError(f"the method {method} has a key '{both[0]}', which is a common key")
    return {**keys, "method_name": named, **own}
