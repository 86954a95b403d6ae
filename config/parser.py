"""Command lines: which blocks, which method, and a flag for each key."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.blocks import known_block, layers, method_of, parse_layer, with_files
from config.hints import near_key, why_not
from config.schema import CONFIGS, Key, Methods, keys_of, load_keys, schema_for
from config.values import Config
from fileio import yaml_files
from fileio.yaml_files import printable
from tools import UserError


class _Parser(argparse.ArgumentParser):
    def __init__(self) -> None:
        super().__init__(prog="dreamer.py", add_help=False, allow_abbrev=False)
        self.add_argument("--configs", nargs="+", default=["defaults"])
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(message)


def parse(argv: Sequence[str], path: Path = CONFIGS, methods: Methods | None = None) -> Config:
    """The configuration that a command line asks for.

    Args:
        argv: its words.
        path: of configs.yaml.
        methods: what ``--method_name`` takes, and each one's keys; only the chosen one's are asked
            for, and all of them by ``--help``. None takes any name and knows of no method's keys.

    Raises:
        UserError: an unknown block or flag, or a value that its key does not take; one line.
        SystemExit: after ``--help``.
    """
    keys, document = load_keys(path), yaml_files.load(path)
    first = _Parser()
    first.add_argument("--method_name")
    words, _ = first.parse_known_args(list(argv))
    if words.help:
        print(_help(keys, list(map(str, document)), methods or {}))
        sys.exit(0)
    document = with_files(words.configs, document)
    blocks = [known_block(block, document) for block in words.configs]
    method, schema = None, keys
    if methods is not None:
        default = keys["method_name"].default
        method = method_of(blocks, document, methods, words.method_name) or default
        schema = schema_for(keys, method, methods)
    flags = _flags(argv, schema, method, methods or {})
    presets = {name: key.default for name, key in schema.items()}
    for where, values in layers(blocks, document, method, methods or {}):
        presets |= parse_layer(values, schema, where, method, methods or {})
    return Config({**presets, **flags}, presets, blocks, flags, schema)


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
    given = {k: v for k, v in vars(known).items() if k not in ("configs", "help")}
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
    return UserError(f"unknown flag {shown}{near_key(name, schema)}; --help lists them all")


def _help(keys: Mapping[str, Key], blocks: Sequence[str], methods: Methods) -> str:
    lines = [
        "usage: python dreamer.py --configs defaults BLOCK … --task TASK [--KEY VALUE …]",
        "",
        f"blocks of configs.yaml: {' '.join(blocks)}",
        "A block that is named like a method chooses it, and holds wherever it is chosen.",
        "The same command in the same --logdir resumes its run.",
    ]
    common = schema_for(keys, None, methods or None).values()
    own = [key for name in methods for key in keys_of(methods[name], name).values()]
    group = None
    for key in [*common, *own]:
        if key.group != group:
            group = key.group
            lines += ["", f"{group}:"]
        default = " ".join(map(str, key.default)) if key.many else key.default
        text = (f"{{{key.values}}} " if key.values else "") + key.help
        lines.append(f"  --{key.name:<32} {text} [{default}]")
    return "\n".join(lines)
