"""Command lines: which blocks, which method, and a flag for each key."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.blocks import check_label, known_block, layers, method_of, parse_layer, with_files
from config.distractors import settled
from config.help import show_help
from config.hints import near_key, other_names, why_not
from config.schema import CONFIGS, Key, Methods, load_keys, schema_for
from config.values import Config
from fileio import yaml_files
from fileio.yaml_files import printable
from tools import UserError


class _Words(argparse.ArgumentParser):
    def __init__(self) -> None:
        super().__init__(prog="dreamer.py", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(message)


class _Parser(_Words):
    def __init__(self) -> None:
        super().__init__()
        self.add_argument("--configs", nargs="+", default=["defaults"])


def parse(argv: Sequence[str], path: Path = CONFIGS, methods: Methods | None = None) -> Config:
    """The configuration that a command line asks for.

    Args:
        argv: its words.
        path: of configs.yaml.
        methods: what ``--method_name`` takes, and each one's keys; only the chosen one's are asked
            for, and all of them by ``--help all``. None takes any name and knows no method's keys.

    Raises:
        UserError: an unknown block or flag, or a value that its key does not take; one line.
        SystemExit: after ``--help``.
    """
    if show_help(argv, methods or {}, path):
        sys.exit(0)
    argv = _with_method_name(argv, methods or {})
    keys, document = load_keys(path), yaml_files.load(path)
    first = _Parser()
    first.add_argument("--method_name")
    words, _ = first.parse_known_args(list(argv))
    document = with_files(words.configs, document)
    blocks = [known_block(block, document) for block in words.configs]
    method, schema = None, keys
    if methods is not None:
        default = keys["method_name"].default
        method = method_of(blocks, document, methods, words.method_name) or default
        schema = schema_for(keys, method, methods)
    flags = _flags(argv, schema, method, methods or {})
    presets = {name: key.default for name, key in schema.items()}
    stacked = {
        where: parse_layer(values, schema, where, method, methods or {})
        for where, values in layers(blocks, document, method, methods or {})
    }
    for layer in stacked.values():
        presets |= layer
    values = settled({**presets, **flags}, flags, schema)
    for where, layer in stacked.items():
        check_label(values, layer, where)
    return Config(values, presets, blocks, flags, schema)


def _with_method_name(argv: Sequence[str], methods: Methods) -> list[str]:
    """A command line whose method is named by ``--method_name`` alone.

    In published ones, some methods have a flag of their own: ``--fine_tune True``.

    Raises:
        UserError: such a flag is neither True nor False, or several flags name different methods.
    """
    flags = {flag: name for flag, name in other_names("methods").items() if name in methods}
    if not any(word.split("=")[0].removeprefix("--") in flags for word in argv):
        return list(argv)
    parser = _Words()
    for flag in ("method_name", *flags):
        parser.add_argument(f"--{flag}")
    words, rest = parser.parse_known_args(list(argv))
    given = {flag: value for flag, value in vars(words).items() if value is not None}
    named = {}
    for flag, value in given.items():
        if flag == "method_name":
            named[f"--method_name {value}"] = value
        elif value.lower() not in ("true", "false"):
            raise UserError(f"--{flag} takes True or False, not '{printable(value)}'")
        elif value.lower() == "true":
            named[f"--{flag} True"] = flags[flag]
    if len(set(named.values())) > 1:
        raise UserError(
            f"{printable(' and '.join(named))} name different methods, as "
            f"{' and '.join(f'--{flag} True is {flags[flag]}' for flag in given if flag in flags)}"
            ": give one of them"
        )
    return [*rest, *(word for name in {*named.values()} for word in ("--method_name", name))]


def _flags(
    argv: Sequence[str], schema: Mapping[str, Key], method: str | None, methods: Methods
) -> dict:
    """The values of the flags, by their keys."""
    parser = _Parser()
    for key in schema.values():
        many = {"nargs": "+"} if key.many else {}
        parser.add_argument(f"--{key.name}", default=argparse.SUPPRESS, **many)
    known, unknown = parser.parse_known_args(list(argv))
    if unknown:
        raise _unknown_argument(unknown[0], schema, method, methods)
    given = {k: v for k, v in vars(known).items() if k != "configs"}
    return {name: schema[name].parse(value) for name, value in given.items()}


def _unknown_argument(
    argument: str, schema: Mapping[str, Key], method: str | None, methods: Methods
) -> UserError:
    name = argument.lstrip("-").split("=")[0]
    shown = printable(argument.split("=")[0])
    if not re.match(r"--?[A-Za-z]", argument):
        return UserError(f"'{shown}' belongs to no flag; flags look like --task dmc_walker_walk")
    if why := why_not(name, method, methods):
        return UserError(f"{shown} {why}")
    return UserError(f"unknown flag {shown}{near_key(name, schema)}; --help all lists them")
