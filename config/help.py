"""What ``--help`` shows: the flags of a first run or, by ``--help all``, every flag."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from config.schema import CONFIGS, Key, Methods, keys_of, load_keys, schema_for
from fileio import yaml_files
from tools import print_safe

WIDTH = 100  # columns
_BREAK = "\0"  # where a line may end, for textwrap
BASIC = "basic"  # the mark of the flags that are shown without 'all'


def show_help(argv: Sequence[str], methods: Methods, path: Path = CONFIGS) -> bool:
    """Prints the help that a command line asks for; returns whether it asks for any.

    Args:
        argv: its words.
        methods: what ``--method_name`` takes; their keys are asked for by ``--help all`` alone.
        path: of configs.yaml.
    """
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in ("-h", "--help"):
            everything = "all" in (value, *argv[index + 1 : index + 2])
            print_safe(_text(path, methods, everything), sys.stdout)
            return True
    return False


def written(value: Any) -> str:
    """A value as one writes it behind a flag: ``1e6``, ``64 64``, ``null``, ``''``."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return " ".join(map(written, value))
    if isinstance(value, bool | str):
        return str(value) or "''"
    plain = str(value).removesuffix(".0")
    if 1e-3 <= abs(value) < 1e4 or value == 0:
        return plain
    mantissa, _, exponent = f"{value:.15e}".partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if len(short) < len(plain) else plain


def _text(path: Path, methods: Methods, everything: bool) -> str:
    blocks = " ".join(map(str, yaml_files.load(path)))
    lines = [
        "usage: python dreamer.py --configs defaults BLOCK … --task TASK [--KEY VALUE …]",
        "",
        textwrap.fill(f"blocks of configs.yaml: {blocks}", WIDTH, subsequent_indent="  "),
        "They stack from left to right, a YAML file of your own among them; flags override all.",
        "A block that is named like a method chooses it, and holds wherever it is chosen.",
        "The same command in the same --logdir resumes its run. Defaults stand in brackets.",
    ]
    keys = list(schema_for(load_keys(path), None, methods or None).values())
    if everything:
        keys += _of_methods(methods)
    lines += _flags([key for key in keys if everything or BASIC in key.marks])
    if not everything:
        lines += ["", "--help all lists every flag."]
    return "\n".join(lines)


def _of_methods(methods: Methods) -> list[Key]:
    """The methods' own keys, each once, those that the same methods have side by side."""
    owners: dict[Key, list[str]] = {}
    for name in methods:
        for key in keys_of(methods[name], name).values():
            owners.setdefault(dataclasses.replace(key, group=""), []).append(name)
    groups: dict[str, list[Key]] = {}
    for key, names in owners.items():
        group = f"Method{'s' * (len(names) > 1)} {', '.join(names)}"
        groups.setdefault(group, []).append(dataclasses.replace(key, group=group))
    return [key for keys in groups.values() for key in keys]


def _flags(keys: Sequence[Key]) -> Iterable[str]:
    """A heading for each group, and under it each flag, what it takes, means and starts as."""
    column, group = max((len(key.name) for key in keys), default=0), None
    for key in keys:
        if key.group != group:
            group = key.group
            yield from ("", f"{group}:")
        values = f"{{{key.values}}} " if key.values else ""
        if len(values) > WIDTH // 2:  # breaks behind a bar
            values = values.replace("|", f"|{_BREAK} ")
        filled = textwrap.fill(
            f"{values}{key.help} [{written(key.default)}]",
            WIDTH,
            initial_indent=f"  --{key.name:<{column}}  ",
            subsequent_indent=" " * (column + 6),
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield filled.replace(f"{_BREAK} ", "").replace(_BREAK, "")
