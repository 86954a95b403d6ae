"""What processes hold of the machine, and whether it grows: readings of ``/proc`` and their trend.

Linux only. Memory is in MiB: ``rss`` is what is resident, ``anonymous`` what of it belongs to no
file, the heap; ``pss`` is ``rss`` with what several processes share divided among them, which moves
when one of the others begins or ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import numpy as np

PROC = Path("/proc")

# A process that is started under this gives each large block back to the system when it is freed.
# By default glibc keeps some, more or fewer with each environment that is made, and a leak of a
# few MiB would be lost among them.
FRUGAL = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}

# Where MuJoCo and dm_control make and destroy contexts, by what MUJOCO_GL says: the modules, the
# makers, the destroyer, and which of its arguments is the context.
_OSMESA = ("OSMesaCreateContextExt", "OSMesaCreateContextAttribs", "OSMesaCreateContext")
_EGL = ("mujoco.egl.egl_ext", "dm_control._render.pyopengl.egl_ext")
_MAKERS = {
    "osmesa": (("OpenGL.osmesa",), _OSMESA, "OSMesaDestroyContext", 0),
    "egl": (_EGL, ("eglCreateContext",), "eglDestroyContext", 1),
}


class Held(NamedTuple):
    """What one process holds."""

    pid: int
    rss: float
    anonymous: float
    pss: float
    descriptors: int
    threads: int


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2`` (malloc.h)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _names.split()]


def heap() -> float:
    """What this process has allocated and not freed, in MiB, Python's small objects left out.

    Unlike resident memory it has no holes.

    Raises:
        AttributeError: the C library is not glibc 2.33 or later.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    info = mallinfo()
    return (info.uordblks + info.hblkhd) / 2**20


class Child(NamedTuple):
    """A child of this process: ``kind`` is ``worker``, ``zombie`` or ``other``."""

    pid: int
    kind: str


def held(pid: int) -> Held:
    """What a process of ours holds now.

    Raises:
        OSError: there is no such process.
    """
    folder, sizes = PROC / str(pid), {}
    for line in (folder / "smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name.rstrip(":")] = int(value) / 1024
    memory = [sizes[name] for name in ("Rss", "Anonymous", "Pss")]
    count = {name: len(os.listdir(folder / name)) for name in ("fd", "task")}
    return Held(pid, *memory, count["fd"], count["task"])


def children() -> list[Child]:
    """The children of this process, by age. Nothing here reaps one that has ended."""
    own, found = os.getpid(), []
    for path in PROC.iterdir():
        if not path.name.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has gone meanwhile
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == own:
                words = (path / "cmdline").read_bytes()
                kind = "worker" if b"spawn_main" in words else "other"
                found.append(Child(int(path.name), "zombie" if state == "Z" else kind))
    return sorted(found)


@dataclass
class Contexts:
    """OpenGL contexts made and destroyed so far, and the most that there were at a time."""

    made: int = 0
    destroyed: int = 0
    most: int = 0

    @property
    def live(self) -> int:
        """How many there are now."""
        return self.made - self.destroyed

    @contextlib.contextmanager
    def counting(self, backend: str) -> Iterator[None]:
        """Inside, contexts are counted as the libraries make and destroy them.

        Args:
            backend: ``osmesa`` or ``egl``, which has been chosen already.
        """
        modules, makers, destroyer, place = _MAKERS[backend]
        with contextlib.ExitStack() as stack:
            for module in map(importlib.import_module, modules):
                wrapped = {n: self._making(getattr(module, n)) for n in makers}
                wrapped[destroyer] = self._destroying(getattr(module, destroyer), place)
                for name, function in wrapped.items():
                    stack.enter_context(mock.patch.object(module, name, function))
            yield

    def _making(self, function: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            context = function(*args, **kwargs)
            self.made += bool(context)
            self.most = max(self.most, self.live)
            return context

        return make

    def _destroying(self, function: Any, place: int) -> Any:
        def destroy(*args: Any) -> Any:
            self.destroyed += bool(args[place])  # contexts are freed again when collected: None
            return function(*args)

        return destroy


class Trend(NamedTuple):
    """A straight line through readings.

    Attributes:
        slope: per unit of x.
        margin: half of the slope's 95% interval.
        least: of the readings.
        most: likewise.
        count: of the readings.
    """

    slope: float
    margin: float
    least: float
    most: float
    count: int

    @property
    def highest(self) -> float:
        """The upper end of the slope's interval."""
        return self.slope + self.margin


def trend(x: Sequence[float], y: Sequence[float], groups: Sequence[int] | None = None) -> Trend:
    """The slope by least squares.

    Readings that follow each other resemble each other, so they tell less than as many independent
    ones: the interval is widened by the correlation of neighbouring residuals.

    Args:
        x: where the readings were taken, in order.
        y: the readings.
        groups: of each reading, the process that it is of. Each process has a level of its own,
            and the slope is common to all.

    Raises:
        ValueError: fewer than three readings beyond one for each group, or all at the same x.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    labels = np.zeros(len(xs), int) if groups is None else np.asarray(groups)
    members = [labels == label for label in np.unique(labels)]
    free = len(xs) - len(members) - 1
    dx, dy = xs.copy(), ys.copy()
    for member in members:
        dx[member] -= dx[member].mean()
        dy[member] -= dy[member].mean()
    spread = float(dx @ dx)
    if free < 2 or spread == 0:
        raise ValueError(f"{len(xs)} readings in {len(members)} groups have no trend")
    slope = float(dx @ dy) / spread
    residuals = dy - slope * dx
    margin = 1.96 * math.sqrt(float(residuals @ residuals) / free / spread)
    return Trend(
        slope, margin * _widening(residuals, members), float(ys.min()), float(ys.max()), len(ys)
    )


def _widening(residuals: np.ndarray, members: Sequence[np.ndarray]) -> float:
    """How much wider an interval is where residuals follow their neighbours (AR(1))."""
    power = float(residuals @ residuals)
    if power == 0:
        return 1.0
    along = sum(float(residuals[m][1:] @ residuals[m][:-1]) for m in members)
    correlation = min(max(along / power, 0.0), 0.99)
    return math.sqrt((1 + correlation) / (1 - correlation))
