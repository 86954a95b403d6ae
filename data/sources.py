"""Several sources in one flag, ``a,b:0.3``: their names, and what share of the windows each has.

A name that exists as it was typed is taken whole, commas and colons included. A number behind the
last colon is a weight:

- without weights all windows are equally likely, as if the sources were one folder;
- with a weight for each, a source's share is its weight among them;
- with weights for some, these are their shares, and the others have the rest as one folder would.
"""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

from data.hub import PREFIX
from tools import UserError

MOST = 64  # sources in one flag
_WEIGHT = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class Named(NamedTuple):
    """A source by its name, and its share of the windows; None for its part of the rest."""

    given: str
    share: float | None


def split(given: str, flag: str) -> list[Named]:
    """The sources that a flag names; at least one.

    Raises:
        UserError: a name is empty, a weight is no number of at least 0, all of them are 0, or they
            leave nothing to the sources without one.
    """
    found = [_weighed(name, f"--{flag} {given}") for name in _names(given, flag)]
    weights = [weight for _, weight in found if weight is not None]
    total = sum(weights)
    some = len(weights) < len(found)
    if not math.isfinite(total) or not (some or total):
        raise UserError(f"--{flag} {given}: all weights are 0, or too large: give others")
    if some and total >= 1:
        raise UserError(
            f"--{flag} {given}: the weights come to {total:g}, which leaves nothing to the sources "
            "without one: give each of them a weight"
        )
    named = [Named(n, w if some or w is None else w / total) for n, w in found]
    sampled = [each for each in named if each.share != 0]
    # One that has all windows is sampled as it is alone.
    return [Named(sampled[0].given, None)] if len(sampled) == 1 else sampled


def names(given: str, flag: str) -> list[str]:
    """The names alone, of sources with weight 0, too.

    Raises:
        UserError: as :func:`split`.
    """
    split(given, flag)
    return [_weighed(name, flag)[0] for name in _names(given, flag)]


def _exists(name: str) -> bool:
    return os.path.exists(os.path.expanduser(name))


def _names(given: str, flag: str) -> list[str]:
    """What stands between commas; the longest that exist are kept whole."""
    if _exists(given):
        return [given]
    pieces = given.split(",")
    if len(pieces) > MOST:
        raise UserError(f"--{flag} names more than {MOST} sources: give folders of them")
    if not all(pieces):
        raise UserError(f"--{flag} {given}: nothing stands beside one of its commas")
    found, start = [], 0
    while start < len(pieces):
        texts = {end: ",".join(pieces[start:end]) for end in range(len(pieces), start, -1)}
        whole = (e for e, text in texts.items() if _exists(text) or _exists(_halves(text)[0]))
        end = next(whole, start + 1)
        found.append(texts[end])
        start = end
    return found


def _halves(text: str) -> tuple[str, str]:
    """What stands before and behind the last colon; that of ``hf:name`` divides nothing."""
    name, _, weight = text.rpartition(":")
    whole = not name or name == PREFIX[:-1] or "," in weight
    return (text, "") if whole else (name, weight)


def _weighed(text: str, where: str) -> tuple[str, float | None]:
    """A name, and the weight behind it.

    Raises:
        UserError: what stands there is no weight.
    """
    name, weight = _halves(text)
    if _exists(text) or name == text:
        return text, None
    if _WEIGHT.fullmatch(weight):
        return name, float(weight)
    if _exists(name) or name.startswith(PREFIX):
        raise UserError(
            f"{where}: '{weight}' is no weight of {name}: give a number of at least 0, as in "
            f"{name}:0.3"
        )
    return text, None
