"""Blocks of configs.yaml: which are stacked, and in what order their keys apply."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.schema import Key
from fileio import yaml_files
from fileio.yaml_files import printable
from tools import UserError, nearest

RETIRED = Path(__file__).parent / "retired.yaml"

Document = Mapping[str, Any]  # configs.yaml: each block by its name


@functools.lru_cache(maxsize=1)
def retired_flags() -> dict[str, str]:
    """Flags of the authors' code that have no use here, and what to do instead."""
    mends = yaml_files.load(RETIRED)["flags"].items()
    return {flag: mend for mend, flags in mends for flag in flags}


def known_block(given: str, document: Document) -> str:
    """The block that a name means; a known misspelling is accepted under a warning.

    Raises:
        UserError: there is no such block.
    """
    if given in document:
        return given
    meant = yaml_files.load(RETIRED)["blocks"].get(given)
    if meant in document:
        print(f"warning: the block '{given}' is called '{meant}' here", file=sys.stderr)
        return meant
    raise UserError(
        f"configs.yaml has no block '{printable(given)}'{nearest(given, document)}; "
        f"it has {', '.join(map(printable, document))}"
    )


def method_of(
    blocks: Sequence[str], document: Document, methods: Collection[str], flag: str | None
) -> str | None:
    """The method that a command line asks for; None if that is left to the defaults.

    A flag goes before all; else it is that of the last block which is called like a method or sets
    ``method_name``.

    Raises:
        UserError: a block is another method's.
    """
    named = [b if b in methods else _keys(document, b).get("method_name") for b in blocks]
    method = flag or next((name for name in reversed(named) if isinstance(name, str)), None)
    for block in blocks:
        if block in methods and block != method:
            raise UserError(
                f"the block {block} is for --method_name {block}, and the method is "
                f"{printable(method)} here: leave one of them out"
            )
    return method


def layers(
    blocks: Sequence[str], document: Document, method: str | None, methods: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What applies over the defaults, in order: where it stands, and its keys.

    Args:
        blocks: those given, from left to right.
        document: configs.yaml.
        method: the chosen one. Its block, if it has one that is not given, comes after the blocks
            that set a task.
        methods: all of them. A method's block sets ``method_name``.
    """
    order = [block for block in blocks if block != "defaults"]
    if method in document and method not in order:
        tasks = [i for i, block in enumerate(order) if "task" in _keys(document, block)]
        order.insert(tasks[-1] + 1 if tasks else 0, method)
    stacked: dict[str, dict[str, Any]] = {}  # the blocks within each
    for block in order:
        own, within = _keys(document, block), _within(document, block)
        yield block, {"method_name": block, **own} if block in methods else own
        for other, theirs in stacked.items():
            if block in theirs:
                yield f"{other}, {block}", theirs[block]
            if other in within:
                yield f"{block}, {other}", within[other]
        stacked[block] = within


def parse_layer(values: Mapping[str, Any], schema: Mapping[str, Key], where: str) -> dict[str, Any]:
    """The values of a block in their keys' types.

    Raises:
        UserError: a key does not exist, or does not take its value.
    """
    for name in values:
        if name not in schema:
            raise UserError(
                f"configs.yaml, block {where}: unknown key '{printable(name)}'"
                f"{nearest(name, schema)}"
            )
    return {name: schema[name].parse(value) for name, value in values.items()}


def _keys(document: Document, block: str) -> dict[str, Any]:
    """A block's own keys, without the blocks within it."""
    if not isinstance(document[block], dict):
        raise UserError(f"configs.yaml, block {block}: it has no keys")
    return {name: value for name, value in document[block].items() if not isinstance(value, dict)}


def _within(document: Document, block: str) -> dict[str, dict[str, Any]]:
    """The blocks within a block."""
    found = {name: value for name, value in document[block].items() if isinstance(value, dict)}
    for name in found:
        if name not in document:
            raise UserError(
                f"configs.yaml, block {block}: the block '{printable(name)}' within it is called "
                f"like none of the others{nearest(name, document)}"
            )
    return found
