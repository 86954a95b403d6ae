"""What the tests of logs share: a clock that stands still, and a log's steps."""

from __future__ import annotations

from pathlib import Path

from logger import read_metrics


class Clock:
    """Shows ``now``, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(path: Path) -> list[float]:
    """The steps of the lines that count."""
    return [row["step"] for row in read_metrics(path)]
