"""Everything that is read, by name."""

from __future__ import annotations

from tests.fuzz import films, packed, tars, tensors, words
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (words, packed, tars, tensors, films)
    for target in module.TARGETS
}


def divided(inputs: int, names: tuple[str, ...] = ()) -> dict[str, int]:
    """How many of so many inputs each target gets, the named ones or all: at least as many."""
    chosen = [target for name, target in TARGETS.items() if not names or name in names]
    whole = sum(target.share for target in chosen)
    return {target.name: int(-(-inputs * target.share // whole)) for target in chosen}
