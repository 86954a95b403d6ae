"""What was meant by a name that is no key: what takes its place, whose it is, which is near."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config.schema import Methods, keys_of
from fileio import yaml_files
from tools import nearest

NAMES = Path(__file__).parent / "names.yaml"


@functools.lru_cache(maxsize=4)
def other_names(section: str) -> dict[str, str]:
    """{name that is used elsewhere: what it stands under} in one section of names.yaml."""
    listed: dict[str, Any] = yaml_files.load(NAMES)[section]
    return {name: meant for meant, names in listed.items() for name in names}


def why_not(name: str, method: str | None, methods: Methods) -> str | None:
    """Why a name that is known is none of the keys here, and the mend; None for an unknown one.

    Args:
        name: as it was given, in any case, with hyphens or underscores.
        method: the chosen one.
        methods: all of them, with their keys.
    """
    name = _plain(name)
    if owners := [other for other in methods if name in keys_of(methods[other], other)]:
        return (
            f"belongs to --method_name {' and '.join(owners)}, and the method is {method} here: "
            "leave it out, or choose that method"
            + (f"; of {method} it is --{meant}" if (meant := other_names("keys").get(name)) else "")
        )
    if mend := other_names("retired").get(name):
        return f"is not used here: {mend}"
    return None


def near_key(name: str, keys: Iterable[str]) -> str:
    """``" (did you mean 'model_lr'?)"`` for ``LR``; by its other names, then by likeness."""
    return nearest(other_names("keys").get(_plain(name), _plain(name)), keys)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
