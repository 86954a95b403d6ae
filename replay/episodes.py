"""Episode files: one .npz per episode, in the format of the published datasets.

An episode of N agent steps has N + 1 rows. Row t holds the image at t, the action that *led to* it,
and the reward and discount that came with it; row 0 is the reset and has a zero action:

    row      0        1        2      …      N
    image    o0       o1       o2            oN
    action   0        a0       a1            aN-1
    reward   0        r1       r2            rN

Symbols in shapes: T time (rows), H and W image height and width, C channels, A action.
"""

from __future__ import annotations

import contextlib
import glob
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fileio import atomic, npz

DTYPES = {
    "image": np.uint8,
    "action": np.float32,
    "reward": np.float32,
    "discount": np.float32,
    "is_terminal": np.bool_,
    "vector": np.float32,  # the numbers that are seen beside the image, where there are any
}
STORED = ("image", "action", "reward", "discount")
Fields = Mapping[str, tuple[tuple[int, ...], type]]  # name → shape of a row, dtype


class Columns(NamedTuple):
    """Further columns of episodes, which follow from their images and are in no file.

    Attributes:
        fields: of a row.
        compute: images uint8 [T, H, W, C] of one episode → each column, [T, …]. What it gives must
            depend on nothing but these images: it is computed anew when a run is resumed.
    """

    fields: Fields
    compute: Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Held(NamedTuple):
    """A closed episode in the storage: its file, that file's name in its folder, and its rows."""

    path: Path | None
    name: str
    rows: int
    number: int  # of its first row
    source: int = 0  # its number among those that were loaded with a share; 0 for all others


@dataclass(frozen=True)
class Episode:
    """One closed episode: `length` agent steps (rows − 1), `ret` the float64 sum of its rewards.

    `path` is None where nothing was written to disk, `success` where the environment does not
    tell whether the task was achieved. `variation` names the distractions that it had.
    """

    index: int
    name: str
    length: int
    ret: float
    path: Path | None
    success: float | None = None
    variation: str = ""


@dataclass
class LoadSummary:
    """What `Replay.load` took in: episodes, frames (rows), and (file name, reason) per skip."""

    episodes: int = 0
    frames: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Restored:
    """What `Replay.load_state_dict` found amiss.

    `stale`: where episodes that closed later are now; `lost`: (path, reason) of each episode that
    the replay goes on without; `bad`: where the damaged ones among them are now.
    """

    stale: list[Path] = field(default_factory=list)
    lost: list[tuple[Path, str]] = field(default_factory=list)
    bad: list[Path] = field(default_factory=list)


def check_episode(episode: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the known fields of an episode in the published dtypes.

    Args:
        episode: image uint8 [T, H, W, C]; where present action [T, A], reward, discount and
            is_terminal [T]. Other keys are left out.

    Raises:
        ValueError: no image, or a field of a wrong shape, dtype or length, or not finite.
    """
    if "image" not in episode:
        raise ValueError(f"no image among its keys: {', '.join(sorted(episode)) or 'none'}")
    fields = {key: np.asarray(episode[key]) for key in DTYPES if key in episode}
    image = fields["image"]
    if image.dtype != np.uint8 or image.ndim != 4 or not image.size:
        raise ValueError(f"image is {describe(image)}, not uint8 [T, H, W, C]")
    for key, value in fields.items():
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{key} is {describe(value)}, not numbers")
        if value.ndim < 1 or len(value) != len(image):
            raise ValueError(f"{key} is {describe(value)} beside {len(image)} images")
        if key in ("reward", "discount", "is_terminal") and value.ndim != 1:
            raise ValueError(f"{key} is {describe(value)}, not [T]")
    with np.errstate(over="ignore"):  # what is too large for its dtype is infinite, and refused
        fields = {key: value.astype(DTYPES[key], copy=False) for key, value in fields.items()}
    for key in (*STORED, "vector"):
        if key in fields and not np.isfinite(fields[key]).all():
            raise ValueError(f"{key} holds a number that is not finite")
    return fields


def row_fields(image_shape: tuple[int, ...], action_size: int, vector_size: int = 0) -> Fields:
    """The fields that batches have, of such images and actions.

    Args:
        image_shape: (H, W, C).
        action_size: A; 0 for action-free data.
        vector_size: V, the numbers that are seen beside the image; 0 for none, and no field.
    """
    shapes = {"image": tuple(image_shape), "action": (action_size,), "vector": (vector_size,)}
    keys = (*STORED, "vector") if vector_size else STORED
    return {key: (shapes.get(key, ()), DTYPES[key]) for key in keys}


def conform(episode: dict[str, np.ndarray], fields: Fields) -> dict[str, np.ndarray]:
    """Fill absent fields of a checked episode, in place, and refuse shapes of another replay's.

    An absent discount is 1 − is_terminal, or 1 where that is absent, too; the rest is 0.

    Args:
        episode: as `check_episode` returned it.
        fields: of the replay (`row_fields`); where actions have no numbers, those of the episode
            are dropped.

    Raises:
        ValueError: images or actions of another shape.
    """
    rows = len(episode["image"])
    if "discount" not in episode and "is_terminal" in episode:
        episode["discount"] = 1 - episode["is_terminal"].astype(DTYPES["discount"])
    for key, (shape, dtype) in fields.items():
        if key not in episode or shape == (0,):
            episode[key] = np.full((rows, *shape), key == "discount", dtype)
        if episode[key].shape[1:] != shape:
            expected = f"{np.dtype(dtype)} {[rows, *shape]}"
            raise ValueError(f"{key} is {describe(episode[key])}, expected {expected}")
    return episode


def check_row(worker: int, row: Mapping, fields: Fields) -> dict[str, np.ndarray]:
    """One row's fields in their dtypes, copied: environments reuse their buffers."""
    needed = {"image", "reward", "discount", "is_first", "is_last", "is_terminal"}
    if missing := sorted(needed - set(row)):
        raise ValueError(f"worker {worker}: row without {', '.join(missing)}")
    if "action" not in row and not row["is_first"]:
        raise ValueError(f"worker {worker}: row without action")
    if np.asarray(row["image"]).dtype != np.uint8:  # a cast would wrap floats round
        raise ValueError(f"worker {worker}: image is {describe(np.asarray(row['image']))}")
    given = {"action": np.zeros(fields["action"][0]), **row}
    if "vector" in fields and "vector" not in row:
        raise ValueError(f"worker {worker}: row without vector")
    checked: dict[str, np.ndarray] = {
        key: np.array(given[key], dtype)
        for key, dtype in DTYPES.items()
        if key != "vector" or key in fields
    }
    for key, (shape, _) in fields.items():
        if checked[key].shape != shape:
            found = describe(checked[key])
            raise ValueError(f"worker {worker}: {key} is {found}, expected {list(shape)}")
        if not np.isfinite(checked[key]).all():
            raise ValueError(f"worker {worker}: {key} is not finite")
    if row["is_first"] and checked["action"].any():
        raise ValueError(f"worker {worker}: no action leads to a first row, it must be zero")
    return checked


def save_episode(path: Path, episode: Mapping[str, np.ndarray]) -> None:
    """Write an episode to `path` (.npz, compressed), whole or not at all.

    Raises:
        ValueError: `check_episode` refuses it.
    """
    arrays: dict[str, Any] = dict(check_episode(episode))
    with atomic.atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


class Writer:
    """Writes episodes in their order: at once or, in the background, beside what comes next.

    To compress an episode takes as long as many of its steps. One at most is being written.
    """

    def __init__(self, background: bool):
        self._thread = ThreadPoolExecutor(1, "writer") if background else None
        self._writing: Future | None = None

    def save(self, path: Path, episode: Mapping[str, np.ndarray]) -> None:
        """`save_episode`, or its beginning; raises what the one before came to."""
        self.wait()
        if self._thread is None:
            save_episode(path, episode)
        else:
            self._writing = self._thread.submit(save_episode, path, episode)

    def wait(self) -> None:
        """Until all is on the disk; raises what kept it from there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def read_episode(path: Path) -> dict[str, np.ndarray]:
    """Read one .npz file into the fields that `check_episode` knows.

    Raises:
        ValueError: the file cannot be read or is no episode; the message is the reason in one line,
            without the path.
    """
    return check_episode(npz.read(Path(path), DTYPES))


def name_of(index: int, tag: str, rows: int) -> str:
    """The file name of an episode: the same for the same run, with no clock in it."""
    return f"{index:06d}-{tag}-{rows}.npz"


def index_of(path: Path) -> int:
    """The number that begins a name made by `name_of`, −1 for any other name."""
    found = re.fullmatch(r"(\d{6,})-.*-\d+\.npz", path.name)
    return int(found[1]) if found else -1


def check_length(path: Path, rows: int, own: Path) -> None:
    """Checks that a file of the folder `own` has as many rows as its name says.

    Raises:
        ValueError: it has not.
    """
    named = path.stem.rpartition("-")[2]
    if path.parent == own and named != str(rows):
        raise ValueError(f"it has {rows} rows, and {named} by its name")


def set_aside(directory: Path, since: int, tag: str) -> list[Path]:
    """Move the episodes numbered `since` or later into the sibling folder `stale`.

    A run that was killed wrote them after the checkpoint that is being restored. Files are never
    deleted nor overwritten, and those of another run's tag stay where they are.

    Returns:
        Where each file is now, in the order of the old names.
    """
    stale = Path(directory).parent / "stale"
    paths = sorted(Path(directory).glob(f"*-{glob.escape(tag)}-*.npz"))
    return [atomic.move_aside(path, stale) for path in paths if index_of(path) >= since]


def clear_halves(directory: Path, tag: str) -> None:
    """Delete what a killed process left half-written of episodes of a tag.

    Other processes may be writing there, so that what is younger than an hour stays.
    """
    ours = re.compile(rf"\.\d+-{re.escape(tag)}-\d+\.npz\.\w{{8}}{re.escape(atomic.TEMPORARY)}")
    for path in Path(directory).glob(f".*{atomic.TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError):
            if ours.fullmatch(path.name) and time.time() - path.stat().st_mtime > 3600:
                path.unlink()


def describe(value: np.ndarray) -> str:
    """The dtype and shape of an array, for messages."""
    return f"{value.dtype} {list(value.shape)}"


def stack_rows(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows to arrays [T, …]."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
