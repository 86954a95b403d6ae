"""Whether something grew: one line of a table each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.faults.footprint import Trend, trend

HEADER = ("", "range", "slope", "95%", "bound", "flat")


class Line(NamedTuple):
    """What was looked at, its trend if it has one, and the verdict; None is no verdict."""

    what: str
    range: str
    trend: Trend | None
    bound: float | None
    flat: bool | None

    def cells(self) -> list[str]:
        """The line as text."""
        slope = ["", ""]
        if self.trend is not None:
            slope = [f"{self.trend.slope:+.3f}", f"±{self.trend.margin:.3f}"]
        bound = "" if self.bound is None else f"{self.bound:g}"
        flat = {True: "yes", False: "NO", None: "–"}[self.flat]
        return [self.what, self.range, *slope, bound, flat]


def constant(what: str, values: Sequence[Any]) -> Line:
    """What has to be the same at each reading."""
    distinct = list(dict.fromkeys(map(str, values)))
    return Line(what, " → ".join(distinct), None, 0.0, len(distinct) == 1)


def growth(
    what: str,
    bound: float | None,
    x: Sequence[float],
    y: Sequence[float],
    groups: Sequence[int] | None = None,
) -> Line:
    """What may grow by ``bound`` for each unit of x, at the upper end of the slope's interval.

    Args:
        what: its name and unit.
        bound: None gives no verdict.
        x: where the readings were taken.
        y: the readings.
        groups: the process of each, see `footprint.trend`.
    """
    line = trend(x, y, groups)
    flat = None if bound is None else line.highest <= bound
    return Line(what, f"{line.least:.1f} … {line.most:.1f}", line, bound, flat)
