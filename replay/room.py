"""Whether the rows that a run will come to have room where they are to lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from replay.episodes import Fields
from replay.storage import DiskStorage, HostStorage, Storage
from tools import UserError

GIB = 2**30
# Limit, use, and what of that can be given up (in memory.stat), by the version of cgroups.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def row_size(fields: Fields) -> int:
    """Bytes of a row."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in fields.values())


def check_room(storage: Storage, rows: int, system: Path = Path("/")) -> str | None:
    """Foresees that rows will not fit; on a GPU, `place` has.

    Args:
        storage: where they are to lie, empty.
        rows: how many are expected.
        system: where ``proc`` and ``sys`` are.

    Returns:
        A line for what may not fit into memory: other programs may end meanwhile, or a run may be
        stopped before; None where all is well.

    Raises:
        UserError: the disk is too small for them.
    """
    needed = rows * row_size(storage.fields)
    if isinstance(storage, DiskStorage):
        free = shutil.disk_usage(storage.folder).free
        if needed > free:
            raise UserError(
                f"--cache_dir {storage.folder} cannot hold the replay (it comes to "
                f"{needed / GIB:.1f} GiB, {free / GIB:.1f} are free): give another folder, on a "
                "disk with room, or --dataset_size to keep fewer steps"
            )
    elif isinstance(storage, HostStorage):
        available = available_memory(system)
        if available is not None and needed > available:
            return (
                f"the replay comes to {needed / GIB:.1f} GiB, and {available / GIB:.1f} of memory "
                "are available: give --replay_storage disk, or --dataset_size to keep fewer steps"
            )
    return None


def available_memory(system: Path = Path("/")) -> int | None:
    """Bytes that this process may still take without swapping; None where the system is silent.

    What the machine has available, or what is left under the limit of a control group (a
    container's, a batch job's) where that is less.

    Args:
        system: where ``proc`` and ``sys`` are.
    """
    here = _field(system / "proc/meminfo", "MemAvailable:")
    found = [] if here is None else [here * 1024]
    return min([*found, *_group_memory(system)], default=None)


def _group_memory(system: Path) -> Iterator[int]:
    """Bytes left under each limit that holds for this process."""
    groups = system / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        root = system / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            root, names = root / "memory", _V1
        elif not controllers:
            names = _V2
        else:
            continue
        own = root / path.lstrip("/")
        # Inside a container the path may be the host's; the container's own limit is at the root.
        for folder in (own, *own.parents):
            if folder == root.parent:
                break
            limit, used = (_number(folder / name) for name in names[:2])
            if limit is not None and used is not None:
                yield max(limit - used + (_field(folder / "memory.stat", names[2]) or 0), 0)


def _number(path: Path) -> int | None:
    """The number that a file holds; None for ``max``, or no such file."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number behind a name, in a file of such lines; None where it is not."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        words = line.split()
        if words[:1] == [name] and len(words) > 1:
            return int(words[1])
    return None
