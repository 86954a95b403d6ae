"""Folders of episode files: which there are, and what each one holds."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fileio import npz
from replay.episodes import DTYPES, Fields, check_episode, conform, describe
from tools import UserError, expand_path

DECODERS = min(8, os.cpu_count() or 1)
SUFFIX = ".npz"
Fit = Callable[
    [np.ndarray, tuple[int, ...]], np.ndarray
]  # images [T, H, W, C] to another (H, W, C)


def episode_files(folder: Path) -> list[Path]:
    """Every .npz file in a folder and the folders below it, in the order of their paths."""
    return files_below(folder, (SUFFIX,))


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Every file in a folder and the folders below it whose name ends so, ordered by their paths.

    Hidden folders are left out; links to folders are followed, each folder once.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        # A folder that is named like an episode is named as one that cannot be read.
        found += [Path(place, name) for name in (*files, *folders) if name.endswith(suffixes)]
        folders[:] = [n for n in folders if not n.startswith(".") and not n.endswith(suffixes)]
    return sorted(found)


def check_episodes(given: str | None, flag: str) -> None:
    """Checks that the folder of a flag is there and holds episodes, if one was given.

    Raises:
        UserError: it is not there, has none, or is a run's folder.
    """
    if not given:
        return
    folder = expand_path(given, flag)
    if not folder.is_dir():
        raise UserError(f"--{flag} {folder}: there is no such folder; give one that holds *.npz")
    if hint := run_hint(folder):
        raise UserError(f"--{flag} {folder} is a run's folder{hint}")
    if not episode_files(folder):
        raise UserError(f"--{flag} {folder} has no {SUFFIX} file; give another folder")


def run_hint(folder: Path) -> str:
    """What is meant by a run's folder, which holds episodes of several kinds; "" for others."""
    its_own = (folder / "train_eps").is_dir() and not any(folder.glob(f"*{SUFFIX}"))
    return f" (did you mean {folder / 'train_eps'}?)" if its_own else ""


def read_episodes(
    path: Path, fields: Fields | None = None, fit: Fit | None = None
) -> list[dict[str, np.ndarray]]:
    """The episodes of one .npz file; a row in its middle with ``is_first`` begins another one.

    Args:
        path: the file.
        fields: of the replay that they are for (`conform`); None takes them as they are.
        fit: makes images of other sizes fit these fields.

    Raises:
        ValueError: the file cannot be read, holds no episode, or one of other fields; the message
            is the reason in one line, without the path.
    """
    content = npz.read(Path(path), (*DTYPES, "is_first"))
    first = content.pop("is_first", None)
    episode = check_episode(content)
    rows = len(episode["image"])
    starts = [0, rows]
    if first is not None:
        if first.shape != (rows,) or first.dtype.kind not in "biuf":
            raise ValueError(f"is_first is {describe(first)} beside {rows} images")
        starts = [0, *(np.flatnonzero(first[1:]) + 1).tolist(), rows]
    if fields is not None and fit is not None:
        episode["image"] = fit(episode["image"], fields["image"][0])
    pairs = itertools.pairwise(starts)
    episodes = [{key: value[a:b] for key, value in episode.items()} for a, b in pairs]
    return episodes if fields is None else [conform(episode, fields) for episode in episodes]


def count_rows(directory: Path) -> int:
    """Rows of all episodes in a folder, from the headers of their images; others count nothing."""
    rows = 0
    for path in episode_files(Path(directory)):
        # What cannot be read is named when the folder is loaded.
        with contextlib.suppress(ValueError, OSError):
            rows += npz.length(path, "image")
    return rows


def decode(
    paths: Iterable[Path], fields: Fields, fit: Fit | None = None
) -> Iterator[tuple[Path, Future]]:
    """`read_episodes` in threads, a few files ahead of the consumer, in the given order."""
    with ThreadPoolExecutor(DECODERS) as pool:
        pending: deque[tuple[Path, Future]] = deque()
        for path in paths:
            pending.append((path, pool.submit(read_episodes, path, fields, fit)))
            if len(pending) > 2 * DECODERS:
                yield pending.popleft()
        yield from pending


def unreadable(path: Path, error: Exception) -> UserError:
    """That the machine cannot read a file now, and the mend."""
    memory = isinstance(error, MemoryError)
    reason = (
        "there is too little memory; --replay_storage disk takes less"
        if memory
        else npz.reason(error)
    )
    return UserError(f"{path} cannot be read ({reason}): mend that, then the same command goes on")
