"""Where log records go: the base of all sinks, and what each is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

RESERVED = frozenset({"step", "time", "event", "nonfinite"})


@dataclass
class Record:
    """What was logged for one step: images uint8 [H, W, 3], videos uint8 [T, H, W, 3]."""

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    videos: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.scalars, self.images, self.videos, self.texts))


class Status(NamedTuple):
    """Where a run stands.

    Attributes:
        total: the step at which it ends.
        unit: what its steps are called.
        rate: of them in a second.
        left: seconds that the rest will take; None where nothing tells yet.
        numbers: what else is to be seen at a glance.
    """

    total: int
    unit: str
    rate: float
    left: float | None
    numbers: Mapping[str, float]


class Sink:
    """The base: takes everything and does nothing.

    Attributes:
        required: a failure stops the run.
        warning: what to tell the user once it is open.
    """

    name: ClassVar[str] = "sink"
    required: ClassVar[bool] = False
    warning: str = ""

    def open(self) -> None:
        """Begin; whatever can fail belongs here and not in the constructor."""

    def write(self, step: int, record: Record) -> None:
        """Take what was logged for a step (env frames)."""

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Take an event."""

    def bar(self, total: int, initial: int = 0, desc: str = "") -> None:
        """Begin a progress bar."""

    def progress(self, step: int, total: int | None = None, **postfix: Any) -> None:
        """Move the progress bar."""

    def status(self, step: int, status: Status) -> None:
        """Take where the run stands."""

    def flush(self) -> None:
        """Bring everything taken so far to its place."""

    def close(self) -> None:
        """End."""
