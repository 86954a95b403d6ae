"""Blocks of configs.yaml and of files like it: which are stacked, in what order their keys apply.

A file of the user's own is one block, called by its path: its keys stand at the top.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from config.hints import near_key, other_names, why_not
from config.schema import CONFIGS, Key, Methods
from fileio import yaml_files
from fileio.yaml_files import printable
from tools import UserError, expand_path, nearest

ENDINGS = (".yaml", ".yml")
LARGEST = 1 << 18  # bytes of a file

Document = Mapping[str, Any]  # configs.yaml: each block by its name


def with_files(given: Sequence[str], document: Document) -> Document:
    """The blocks of a document, and one for each file among the names that were given.

    Raises:
        UserError: a file is not there, or holds no keys.
    """
    return {**document, **{name: _read(name) for name in given if _is_file(name)}}


def _is_file(name: str) -> bool:
    return name.endswith(ENDINGS) or os.sep in name


def _read(name: str) -> dict[str, Any]:
    path = expand_path(name, "configs")
    if not os.path.exists(path):  # also where the name is too long for one
        near = (other.name for ending in ENDINGS for other in path.parent.glob(f"*{ending}"))
        raise UserError(
            f"--configs {printable(name)}: there is no such file{nearest(path.name, near)}"
        )
    if path.stat().st_size > LARGEST:
        raise UserError(f"--configs {printable(name)} is no file of keys: it is too large for that")
    values = yaml_files.load(path)
    if not isinstance(values, dict):
        raise UserError(
            f"{printable(name)} has no keys: write one a line, such as batch_size: 16, at its top"
        )
    return values


def known_block(given: str, document: Document) -> str:
    """The block that a name means; a known misspelling is accepted under a warning.

    Raises:
        UserError: there is no such block.
    """
    if given in document:
        return given
    meant = other_names("blocks").get(given)
    if meant in document:
        print(f"warning: the block '{given}' is called '{meant}' here", file=sys.stderr)
        return meant
    files = [given + ending for ending in ENDINGS if os.path.isfile(given + ending)]
    hint = f" (did you mean '{printable(files[0])}'?)" if files else nearest(given, document)
    raise UserError(
        f"configs.yaml has no block '{printable(given)}'{hint}; "
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
        document: all blocks.
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
        yield _place(block), {"method_name": block, **own} if block in methods else own
        for other, theirs in stacked.items():
            if block in theirs:
                yield f"{_place(other)}, {block}", theirs[block]
            if other in within:
                yield f"{_place(block)}, {other}", within[other]
        stacked[block] = within


def parse_layer(
    values: Mapping[str, Any],
    schema: Mapping[str, Key],
    where: str,
    method: str | None,
    methods: Methods,
) -> dict[str, Any]:
    """The values of a block in their keys' types.

    Args:
        values: its keys.
        schema: those that there are.
        where: the block's place, for messages.
        method: the chosen one.
        methods: all of them, with their keys.

    Raises:
        UserError: a key does not exist, or does not take its value.
    """
    for name in values:
        if name not in schema:
            shown = f"{where}: {printable(name)}"
            if why := why_not(str(name), method, methods):
                raise UserError(f"{shown} {why}")
            raise UserError(
                f"{where}: unknown key '{printable(name)}'{near_key(str(name), schema)}"
            )
    try:
        return {name: schema[name].parse(value) for name, value in values.items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_label(values: Mapping[str, Any], layer: Mapping[str, Any], where: str) -> None:
    """Checks that a run labelled by a block of configs.yaml is what that block says.

    Args:
        values: all keys, as they have come out.
        layer: the block's own, in their types.
        where: the block's place. A file of one's own may mean what it likes by its label.

    Raises:
        UserError: a flag or a later block has changed what the label stands for.
    """
    if _is_file(where) or not layer.get("label"):
        return
    if values["label"] != layer["label"]:
        given, own = printable(values["label"]), layer["label"]
        print(f"note: the label {given} takes the place of {own}, of {where}", file=sys.stderr)
        return
    for name, value in layer.items():
        if values[name] != value:
            raise UserError(
                f"the label {layer['label']} stands for --{name} {value}, and that is "
                f"{printable(values[name])} here: leave one of them out, or give another --label"
            )


def labelled_keys(blocks: Sequence[str]) -> frozenset[str]:
    """The keys that labels of stacked blocks stand for; see :func:`check_label`."""
    document = yaml_files.load(CONFIGS)
    layers = [_keys(document, block) for block in blocks if block in document]
    return frozenset(name for layer in layers if layer.get("label") for name in layer)


def _place(block: str) -> str:
    """Where a block stands, for messages."""
    return printable(block) if _is_file(block) else f"configs.yaml, block {printable(block)}"


def _keys(document: Document, block: str) -> dict[str, Any]:
    """A block's own keys, without the blocks within it."""
    if not isinstance(document[block], dict):
        raise UserError(f"{_place(block)}: it has no keys")
    return {name: value for name, value in document[block].items() if not isinstance(value, dict)}


def _within(document: Document, block: str) -> dict[str, dict[str, Any]]:
    """The blocks within a block."""
    found = {name: value for name, value in document[block].items() if isinstance(value, dict)}
    for name in found:
        if name == "defaults":
            raise UserError(f"{_place(block)}: its keys stand at its top, not below 'defaults'")
        if name not in document:
            raise UserError(
                f"{_place(block)}: the block '{printable(name)}' within it is called like none of "
                f"the others{nearest(name, document)}; keys for every run stand at the top"
            )
    return found
