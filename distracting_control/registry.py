"""The distractions of this package: every file that defines one is found here by itself."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from distracting_control.base import Distraction, Settings, Strength


@functools.cache
def distractions() -> dict[str, type[Distraction]]:
    """{name: class} of all distractions, in the order in which `load` stacks them.

    Raises:
        TypeError: If two share a name, a tag or a key.
    """
    package = __name__.rpartition(".")[0]
    files = [info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(f"{package}.{name}") for name in sorted(files)]
    found = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Distraction)
        and kind.__module__ == module.__name__
        and kind is not Distraction
    ]
    found.sort(key=lambda kind: kind.tag)
    settings = (Strength, *(kind.settings for kind in found))
    for what, values in {
        "names": [kind.name for kind in found],
        "tags": [kind.tag for kind in found],
        "keys": [key for kind in settings for key in kind.defaults()],
    }.items():
        if len(set(values)) < len(values):
            raise TypeError(f"two distractions share one of their {what}: {values}")
    return {kind.name: kind for kind in found}


def all_settings() -> tuple[type[Settings], ...]:
    """The settings of every distraction, and those that they share."""
    return (Strength, *(kind.settings for kind in distractions().values()))


def defaults() -> dict[str, Any]:
    """Every configuration key of the distractions, and its default."""
    return {key: default for kind in all_settings() for key, default in kind.defaults().items()}
