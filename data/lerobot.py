"""LeRobot's layout, versions 2 and 3: rows in parquet files, images in videos.

Row t there has the image at t, the action that was taken *then*, and what came of it. Here an
action stands in the row of the image that it led to, so that all three move on by a row; the last
action led to no image that was recorded. Where its row is marked as done, ours is the last one
before the end.

Images are those of the first camera; a row's image is the one to be seen at its time stamp.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data.converting import LONGEST, Episode, Piece, Skipped, needed, stamp
from data.errors import reading
from data.frames import Settings, read_frames
from media.images import Unusable
from replay.files import files_below
from tools import UserError, reason_of

INFO = Path("meta", "info.json")
LARGEST_INFO = 1 << 24  # bytes
ROWS = 256  # that are read at a time
COLUMNS = ("episode_index", "timestamp", "action", "next.reward", "next.done")
_NOT_LEROBOTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
# A part of a path that says where a video lies.
_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


class Place(NamedTuple):
    """Where an episode's images are: a video, and the second of its first one."""

    video: Path
    start: float


class Layout:
    """What a dataset's own description says.

    Args:
        folder: the dataset.
        given: how it was named, for messages.

    Attributes:
        folder: as given.
        camera: the first one's name.
        fps: rows per second.

    Raises:
        UserError: it cannot be read, or describes no videos.
    """

    def __init__(self, folder: Path, given: str):
        self.folder, self._given = folder, given
        with reading(folder / INFO), (folder / INFO).open("rb") as file:
            text = file.read(LARGEST_INFO)
        try:
            info = json.loads(text)
            self.fps = float(info["fps"])
            self._path = info.get("video_path") or ""
            self._chunk = max(1, int(info.get("chunks_size", 1000)))
            cameras = [k for k, f in info["features"].items() if f.get("dtype") == "video"]
            version = int(re.match(r"v(\d+)", str(info.get("codebase_version", "v2")))[1])
            if not 0 < self.fps <= 1000 or not isinstance(self._path, str):
                raise ValueError("fps or video_path")
        except _NOT_LEROBOTS as error:
            raise self._refused(
                f"{folder / INFO} is not LeRobot's ({type(error).__name__})"
            ) from error
        if not cameras or not self._path:
            raise self._refused("it has no videos: datasets of single images are not read")
        if version not in (2, 3):
            raise self._refused(f"it is of version {version}: versions 2 and 3 are read")
        self.camera = cameras[0]
        self._places = self._read_places() if version == 3 else None

    def _refused(self, reason: str) -> UserError:
        return UserError(f"--pretrain_datasets_path {self._given}: {reason}"[:600])

    def _read_places(self) -> dict[int, tuple[int, int, float]]:
        """Of each episode the numbers of its video and of that one's folder, and its start."""
        columns = [
            f"videos/{self.camera}/{k}" for k in ("chunk_index", "file_index", "from_timestamp")
        ]
        places = {}
        try:
            for path in files_below(self.folder / "meta" / "episodes", (".parquet",)):
                for batch in _batches(path, ("episode_index", *columns)):
                    if len(batch) < 4 or any(
                        value.ndim > 1 or (key != columns[2] and value.dtype.kind not in "iu")
                        for key, value in batch.items()
                    ):
                        raise Unusable(f"{path.name} says nothing of {self.camera}")
                    rows = zip(
                        *(batch[key].tolist() for key in ("episode_index", *columns)), strict=True
                    )
                    places |= {
                        episode: (chunk, file, start) for episode, chunk, file, start in rows
                    }
        except (Unusable, TypeError) as error:
            raise self._refused(f"its meta/episodes cannot be read ({error})") from error
        return places

    def files(self) -> list[Path]:
        """What says where images are, and the videos, whichever are there."""
        places = files_below(self.folder / "meta" / "episodes", (".parquet",))
        suffix = PurePosixPath(self._path).suffix
        videos = files_below(self.folder, (suffix,)) if suffix else []
        return [self.folder / INFO, *places, *videos]

    def place(self, episode: int) -> Place:
        """Where the images of an episode are.

        Raises:
            Unusable: it does not say, or names a place outside.
        """
        chunk, file, start = episode // self._chunk, episode, 0.0  # as in version 2
        if self._places is not None:
            if episode not in self._places:
                raise Unusable("meta/episodes says nothing of it")
            chunk, file, start = self._places[episode]
        numbers = {"episode_chunk": chunk, "chunk_index": chunk}
        numbers |= {"episode_index": episode, "file_index": file}

        def value(found: re.Match) -> str:
            if found[1] == "video_key":
                return self.camera
            if found[1] not in numbers:
                raise Unusable(f"video_path has an unknown {found[0]}")
            return f"{int(numbers[found[1]]):0{found[2] or 0}d}"

        name = PurePosixPath(_FIELD.sub(value, self._path))
        if name.is_absolute() or ".." in name.parts or "\0" in str(name):
            raise Unusable("video_path leads out of the dataset")
        return Place(self.folder / name, float(start))


class _Film:
    """The images of a video by their numbers, which must not fall; read once, from the start on."""

    def __init__(self, path: Path, settings: Settings):
        self.path, self._images = path, read_frames(path, settings)
        self._number, self._image = -1, None

    @property
    def number(self) -> int:
        """That of the last image that was taken."""
        return self._number

    def take(self, number: int) -> np.ndarray:
        while self._number < number:
            self._image = next(self._images, None)
            if self._image is None:
                raise Unusable(f"its video ends before image {number}")
            self._number += 1
        return self._image


def is_lerobot(folder: Path) -> bool:
    """Whether a folder has LeRobot's layout."""
    return (folder / INFO).is_file() and (folder / "data").is_dir()


def pieces(folder: Path, given: str, settings: Settings) -> list[Piece]:
    """The files of rows as pieces to convert.

    Raises:
        UserError: pyarrow is not installed, or the dataset has no videos, or none that is known.
    """
    needed("pyarrow.parquet", given)
    layout = Layout(folder, given)
    settings = replace(settings, fps=layout.fps)
    found = files_below(folder / "data", (".parquet",))
    if not found:
        raise UserError(f"--pretrain_datasets_path {given} has no rows in data/: give another")
    beside = stamp(folder, layout.files())
    return [
        Piece(path, functools.partial(_episodes, path, layout, settings), beside) for path in found
    ]


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
    """Rows of a parquet file, those of the columns that are there.

    Raises:
        Unusable: it is damaged, or its columns hold no numbers.
        Unreadable: the machine failed to read it.
    """
    import pyarrow
    from pyarrow import parquet

    with reading(path):
        path.open("rb").close()
    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            there = [key for key in columns if key in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS, columns=there, use_threads=False):
                if not batch.num_rows:
                    continue
                numbers = {key: np.array(batch.column(key).to_pylist()) for key in there}
                if odd := [
                    key
                    for key, value in numbers.items()
                    if not value.size or value.dtype.kind not in "biuf"
                ]:
                    raise Unusable(f"{odd[0]} holds no numbers")
                yield numbers
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, RuntimeError) as error:
        raise Unusable(f"no parquet file, or damaged: {reason_of(error)}") from error


def _rows(path: Path) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(index, rows) of each episode in a file.

    Raises:
        Unusable: as :func:`_batches`; or an episode is too long.
    """
    parts: list[dict[str, np.ndarray]] = []
    current = None
    for batch in _batches(path, COLUMNS):
        index = batch.get("episode_index", np.zeros(0))
        if index.dtype.kind not in "iu" or index.ndim > 1:
            raise Unusable("it has no episode_index")
        for rows in np.split(np.arange(len(index)), np.flatnonzero(np.diff(index)) + 1):
            number = int(index[rows[0]])
            if parts and number != current:
                yield current, _joined(parts)
                parts = []
            current = number
            parts.append({key: value[rows] for key, value in batch.items()})
            if sum(len(part["episode_index"]) for part in parts) > LONGEST:
                raise Unusable(f"an episode of more than {LONGEST} rows")
    if parts:
        yield current, _joined(parts)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    except ValueError as error:
        raise Unusable("its actions differ in width") from error


def _episodes(path: Path, layout: Layout, settings: Settings) -> Iterator[Episode | Skipped]:
    """The episodes of a file of rows, and of its videos."""
    film: _Film | None = None
    for index, rows in _rows(path):
        try:
            place = layout.place(index)
            if not os.path.isfile(place.video):
                raise Unusable(f"there is no {place.video.relative_to(layout.folder)}")
            numbers = _numbers(rows, place.start, layout.fps)
            if film is None or film.path != place.video or numbers[0] < film.number:
                film = _Film(place.video, settings)
            images = np.stack([film.take(number) for number in numbers])
        except Unusable as error:
            film = None
            yield Skipped(f"episode {index}", str(error))
        else:
            yield {"image": images, **_moved(rows)}


def _numbers(rows: Mapping[str, np.ndarray], start: float, fps: float) -> list[int]:
    """Which images of the video belong to rows: those to be seen at their time stamps."""
    count = len(rows["episode_index"])
    times = np.asarray(rows.get("timestamp", np.arange(count) / fps), float).reshape(count, -1)[
        :, 0
    ]
    times = (times + start) * fps
    if not np.isfinite(times).all() or times.min() < -0.5 or times.max() > 1e9:
        raise Unusable("its time stamps are none")
    numbers = np.rint(np.maximum(times, 0)).astype(int)
    if (np.diff(numbers) < 0).any():
        raise Unusable("its time stamps go back")
    return numbers.tolist()


def _moved(rows: Mapping[str, np.ndarray]) -> Episode:
    """Actions, rewards and discounts in the rows of the images that they led to."""
    count = len(rows["episode_index"])
    episode: Episode = {}
    for ours, theirs in (("action", "action"), ("reward", "next.reward")):
        if theirs in rows:
            with np.errstate(over="ignore"):  # what is infinite then is refused
                value = rows[theirs].astype(np.float32).reshape(count, -1)
            moved = np.concatenate([np.zeros_like(value[:1]), value[:-1]])
            episode[ours] = moved if ours == "action" else moved[:, 0]
    if "next.done" in rows:
        done = rows["next.done"].astype(bool).reshape(count, -1)[:, 0]
        terminal = np.concatenate([[False], done[:-1]])
        terminal[-1] |= done[-1]  # the image behind the last action was not recorded
        episode["is_terminal"] = terminal
        episode["discount"] = 1 - terminal.astype(np.float32)
    return episode
