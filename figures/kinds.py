"""Kinds of figures by name; each is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from figures.records import Record
from figures.style import choose

KINDS = {
    "curves": "figures.curves:draw",
    "bars": "figures.bars:draw",
    "aggregates": "figures.aggregates:draw",
    "differences": "figures.differences:draw",
    "traversals": "figures.traversals:draw",
    "tsne": "figures.tsne:draw",
    "logged": "figures.logged:draw",
    "table": "figures.tables:draw",
}


def draw(kind: str, records: Sequence[Record], output: Path, **settings: Any) -> list[Path]:
    """Draws a figure or a table of records.

    Args:
        kind: a key of ``KINDS``.
        records: what is drawn; ``traversals``, ``tsne`` and ``logged`` take run folders (``runs``)
            instead.
        output: a file, whose ending says what to write, or a name that gets each kind's endings.
        settings: the kind's own; what they are says the function that it names.

    Returns:
        The files that were written.

    Raises:
        UserError: there is no such kind or setting, or the records do not go together.
    """
    choose("a figure's kind", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    function = getattr(importlib.import_module(module), name)
    if names := _settings_of(function):
        for setting in settings:
            choose(f"a setting of {kind}", setting, names)
    return function(records, Path(output), **settings)


def _settings_of(function: Callable) -> list[str]:
    """The names of the arguments that it takes by their names alone; none where it checks them."""
    named = inspect.Parameter.KEYWORD_ONLY
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is named]
