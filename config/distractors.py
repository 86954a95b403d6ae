"""What ``--distractors`` comes to: plain settings, which everything behind it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from config.help import written
from config.schema import Key
from fileio import yaml_files
from tools import UserError

TABLE = Path(__file__).parent / "distractors.yaml"

_MEANINGS = {"none": "leaves every image clean", "colors": "changes colours alone"}


def distractor_settings() -> Collection[str]:
    """The keys that ``--distractors`` can set."""
    return yaml_files.load(TABLE)["none"]


def settled(
    values: Mapping[str, Any], flags: Collection[str], schema: Mapping[str, Key]
) -> dict[str, Any]:
    """The values of all keys, those of ``distractors`` among them.

    Args:
        values: as blocks and flags have them.
        flags: the keys that were flags.
        schema: what is true of each key.

    Raises:
        UserError: a flag contradicts ``--distractors``.
    """
    chosen = values.get("distractors", "auto")
    if chosen == "auto":
        return dict(values)
    listed = yaml_files.load(TABLE)[chosen].items()
    table = {name: schema[name].parse(value) for name, value in listed}
    for name in table:
        if name in flags and values[name] != table[name]:
            raise UserError(
                f"--distractors {chosen} {_MEANINGS[chosen]}, and --{name} "
                f"{written(values[name])} does not go with that: leave one of them out"
            )
    return {**values, **table}
