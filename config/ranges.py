"""Ranges of numbers: read from a remark, written as there, told in words."""

from __future__ import annotations

import dataclasses
import re

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BETWEEN = re.compile(rf"^(>?){_NUMBER}\.\.(<?){_NUMBER}$")
_BOUND = re.compile(rf"^([<>])(=?){_NUMBER}$")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, without them where it is open; None is no bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    @classmethod
    def read(cls, text: str) -> Range | None:
        """What ``>0``, ``>=2``, ``<1``, ``<=5``, ``0..1``, ``>0..1`` or ``0..<1`` says, or None."""
        if match := _BETWEEN.match(text):
            above, low, below, high = match.groups()
            return cls(float(low), float(high), bool(above), bool(below))
        if not (match := _BOUND.match(text)):
            return None
        sign, closed, bound = match.groups()
        if sign == ">":
            return cls(low=float(bound), open_low=not closed)
        return cls(high=float(bound), open_high=not closed)

    def __contains__(self, number: float) -> bool:
        above = self.low is None or number > self.low or (number == self.low and not self.open_low)
        below = (
            self.high is None or number < self.high or (number == self.high and not self.open_high)
        )
        return above and below

    def __str__(self) -> str:
        """The range as :meth:`read` reads it."""
        if self.low is None:
            return f"{'<' if self.open_high else '<='}{self.high:g}"
        if self.high is None:
            return f"{'>' if self.open_low else '>='}{self.low:g}"
        return f"{'>' * self.open_low}{self.low:g}..{'<' * self.open_high}{self.high:g}"

    def describe(self) -> str:
        """The range in words: 'above 0', 'between 0 and 1'."""
        if None not in (self.low, self.high) and not (self.open_low or self.open_high):
            return f"between {self.low:g} and {self.high:g}"
        words = []
        if self.low is not None:
            least = "0 or more" if self.low == 0 else f"at least {self.low:g}"
            words.append(f"above {self.low:g}" if self.open_low else least)
        if self.high is not None:
            words.append(f"{'below' if self.open_high else 'up to'} {self.high:g}")
        return " and ".join(words)
