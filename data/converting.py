"""Datasets in formats of others: made into episodes once, piece by piece, in the cache."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.caching import building, read_marker, write_marker
from data.errors import readable, reading, shortened
from fileio import npz
from fileio.atomic import atomic_write
from media.images import Unusable
from replay.episodes import save_episode
from tools import UserError

LAYOUT = 2  # of the cache: another number converts everything anew
LONGEST = 1 << 15  # rows of an episode, which is held in memory before it is written
Episode = dict[str, np.ndarray]


class Skipped(NamedTuple):
    """An episode that cannot be used, and why."""

    name: str
    reason: str


class Piece(NamedTuple):
    """A file of a dataset, and a function that reads its episodes one after the other.

    Attributes:
        path: the file.
        episodes: reads them.
        beside: `stamp` of what else they are read from.
    """

    path: Path
    episodes: Callable[[], Iterable[Episode | Skipped]]
    beside: str = ""


def needed(package: str, given: str) -> Any:
    """A package that few datasets need.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"--pretrain_datasets_path {given} needs {package.partition('.')[0]} ({error}): "
            "pip install -e '.[formats]' -c constraints.txt"
        ) from None


def convert(
    pieces: Sequence[Piece],
    name: str,
    cache: Path,
    chosen: Sequence[Any],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Path, list[tuple[str, str]]]:
    """Writes the episodes of a dataset into one folder; reuses a folder made before.

    The folder's name has a hash of the files (path, size, time), of those beside them and of what
    was chosen. What was interrupted goes on after the last whole piece.

    Args:
        pieces: of the dataset, at least one.
        name: begins the folder's name.
        cache: where the folder is made.
        chosen: settings that the episodes depend on.
        progress: called with what is being done, bytes of files done, and bytes in all.

    Returns:
        The folder, and (name, reason) of each file or episode that cannot be used.

    Raises:
        UserError: not one episode can be used.
        Unreadable: the machine failed to read a file; what was converted stays.
        OSError: the folder cannot be written.
    """
    sizes = [_stat(piece.path) for piece in pieces]
    files = [
        [str(piece.path.resolve()), *found, piece.beside]
        for piece, found in zip(pieces, sizes, strict=True)
    ]
    key = hashlib.sha256(json.dumps([LAYOUT, list(chosen), files]).encode()).hexdigest()[:16]
    target = cache / f"{shortened(readable(name), 80)}-{key}"
    marker = read_marker(target)
    if marker is None:
        with building(target, keep=True) as partial:
            if partial is not None:
                marker = {"pieces": []}
                done, total = 0, sum(size for size, _ in sizes)
                for number, piece in enumerate(pieces):
                    progress("converting", done, total)
                    marker["pieces"].append(_convert_one(piece, partial, f"{number:06d}"))
                    done += sizes[number][0]
                progress("converting", done, total)
                _check_usable(marker["pieces"])
                write_marker(partial, marker)
    marker = marker or read_marker(target)
    if marker is None or not isinstance(marker.get("pieces"), list):
        raise UserError(f"{target} is not of this program's making: move it away")
    return target, [(name, why) for piece in marker["pieces"] for name, why in piece["skipped"]]


def stamp(folder: Path, paths: Iterable[Path]) -> str:
    """A hash of files below a folder (path, size, time); links that lead nowhere are left out.

    Raises:
        Unreadable: the machine failed to look at one.
    """
    files = [[str(p.relative_to(folder)), *_stat(p)] for p in paths if os.path.isfile(p)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    with reading(path):
        found = path.stat()
    return found.st_size, found.st_mtime_ns


def _check_usable(pieces: Sequence[dict[str, Any]]) -> None:
    if not any(piece["episodes"] for piece in pieces):
        name, reason = next((s for p in pieces for s in p["skipped"]), ("", "no rows in it"))
        raise UserError(
            f"--pretrain_datasets_path has no usable episode ({name}: {reason}): give another"
        )


def _convert_one(piece: Piece, folder: Path, label: str) -> dict[str, Any]:
    """The episodes of a piece, and a record that they are whole, which the next start takes."""
    record = folder / f".{label}.json"
    if (known := _read_record(record)) is not None:
        return known
    written: list[Path] = []
    skipped: list[tuple[str, str]] = []
    try:
        for episode in piece.episodes():
            if isinstance(episode, Skipped):
                skipped.append(episode)
            elif (rows := len(episode["image"])) > 1:
                target = folder / f"{label}-{len(written):06d}-{rows}.npz"
                try:
                    save_episode(target, episode)
                except ValueError as error:
                    raise Unusable(npz.reason(error)) from error
                written.append(target)
    except Unusable as error:
        for target in written:
            target.unlink()
        return {"episodes": 0, "skipped": [*skipped, (readable(piece.path.name), str(error))]}
    result = {"episodes": len(written), "skipped": skipped}
    with atomic_write(record) as file:
        file.write(json.dumps(result).encode())
    return result


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    known = isinstance(content, dict) and {"episodes", "skipped"} <= content.keys()
    return content if known else None


def batches(total: int, size: int) -> Iterator[slice]:
    """Slices that cover so many rows."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
