"""Experience: closed episodes in one array per field, sampled as [B, T] batches.

Episodes reach the disk as they close (`episodes.py` has the files and what a row holds). Nothing
that a seed should determine depends on where rows lie in memory, so that a replay restored from a
checkpoint goes on exactly as one that was never interrupted.

Symbols in shapes: B batch, T time (rows), A action, H and W image height and width, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

import npz
import tools
from replay.episodes import (
    DTYPES,
    STORED,
    Episode,
    LoadSummary,
    Restored,
    Writer,
    check_episode,
    check_length,
    conform,
    decode,
    index_of,
    name_of,
    set_aside,
)
from replay.open_episodes import Ongoing
from replay.sampler import Windows
from replay.storage import Ring, make_store


class Replay:
    """Closed episodes to sample windows from, and the ongoing episode of each worker.

    Args:
        directory: where closed episodes are written; None writes nothing.
        capacity: rows to keep in memory, 0 for all. Beyond it whole episodes leave memory, oldest
            first (the newest always stays); files stay.
        seed: of the one generator behind all sampling.
        oversample_ends: draw a start over all rows of an episode and clip it to the last full
            window, so that ends are seen as often as middles.
        save: write closed episodes to `directory`.
        image_shape: (H, W, C).
        action_shape: of one action, (A,); None for action-free data: actions in files are ignored
            and batches have A = 0.
        tag: the middle of file names, `<index>-<tag>-<rows>.npz`.
        storage: folder for a file that rows are mapped from; None keeps them in memory.
        store: makes the store of the fields and a capacity, instead of one of NumPy.
        background: write episodes in a thread; `written` waits for it, and so does `state_dict`.

    One thread adds and loads. `draw` may be called from another, with a generator of its own.

    Attributes:
        tag: as given.
        fields: name → (shape of a row, dtype).
        on_device: whether batches are tensors on a device instead of arrays.
        version: another number after every change of what is sampled.

    Raises:
        ValueError: a negative capacity, or a tag unfit for a file name.
        UserError: here and where episodes come in: `storage` cannot be used, or its disk is full.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        capacity: int = 0,
        seed: int = 0,
        oversample_ends: bool = False,
        save: bool = True,
        image_shape: tuple[int, ...] = (64, 64, 3),
        action_shape: tuple[int, ...] | None,
        tag: str = "s0",
        storage: Path | None = None,
        store: Callable[[dict, int], Ring] | None = None,
        background: bool = False,
    ):
        if capacity < 0:
            raise ValueError(f"capacity is {capacity}: give rows, or 0 for no limit")
        if not re.fullmatch(r"\w[\w.-]*", tag):
            raise ValueError(f"tag {tag!r}: letters, digits, '.', '_' and '-' only")
        self.directory = None if directory is None else Path(directory)
        self._save = save and directory is not None
        self._capacity, self.tag, self._oversample_ends = capacity, tag, oversample_ends
        self._image_shape = tuple(image_shape)
        self._action_shape = (0,) if action_shape is None else tuple(action_shape)
        self._conform = functools.partial(
            conform, image_shape=self._image_shape, action_shape=action_shape
        )
        shapes = {"image": self._image_shape, "action": self._action_shape}
        self.fields = {key: (shapes.get(key, ()), DTYPES[key]) for key in STORED}
        make = store or functools.partial(make_store, folder=storage)
        self._store = make(self.fields, capacity)
        self.on_device = self._store.on_device
        self._paths: list[Path | None] = []  # closed episodes in memory, oldest first
        self._rows: list[int] = []
        self._ongoing = Ongoing(self._image_shape, self._action_shape)
        self._steps = self._index = self._frames = 0
        self._windows: Windows | None = None  # of the episodes in memory, for one batch length
        self._rng = np.random.Generator(np.random.PCG64(seed))
        # What is sampled changes only under this lock, and each time it does, the version moves.
        self._lock, self.version = threading.RLock(), 0
        self._writer = Writer(background)

    @property
    def steps(self) -> int:
        """Agent steps ever taken in: added (ongoing episodes too), loaded, evicted since or not."""
        return self._steps

    @property
    def episodes(self) -> int:
        """Closed episodes in memory."""
        return len(self._rows)

    @property
    def frames(self) -> int:
        """Rows of closed episodes in memory."""
        return self._frames

    @property
    def action_size(self) -> int:
        """Numbers in one action, 0 for action-free data."""
        return int(np.prod(self._action_shape))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, worker: int, row: Mapping) -> Episode | None:
        """Append a row to a worker's ongoing episode; `is_last` saves it and makes it sampleable.

        Args:
            worker: which environment it comes from.
            row: image uint8 [H, W, C], action [A] (the one that led to the image; zero or left out
                on `is_first`), reward, discount, is_first, is_last, is_terminal; logprob if wanted.

        Returns:
            The episode if this row closed it.

        Raises:
            ValueError: a row of wrong keys, shape, dtype or order, or a number that is not finite.
            FileExistsError: the episode's file exists; nothing is overwritten.
        """
        episode = self._ongoing.add(worker, row)
        self._steps += not row["is_first"]
        return None if episode is None else self._close(worker, episode)

    def drop(self, worker: int) -> int:
        """Forget a worker's ongoing episode; returns how many agent steps it had."""
        return self._ongoing.drop(worker)

    def load(
        self,
        directory: Path,
        *,
        fraction: float = 1.0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> LoadSummary:
        """Take in the episode files of a folder, in the order of their names.

        A file needs only images: absent actions and rewards are 0, absent discounts 1. A file that
        cannot be used is left out and named in the summary.

        Args:
            directory: folder of .npz files; it is only read.
            fraction: of the files, in (0, 1]; a smaller fraction is part of a larger one.
            seed: of the choice of files.
            progress: called with (files done, files in all).

        Raises:
            FileNotFoundError: no such folder.
            ValueError: fraction outside (0, 1].
            UserError: the machine cannot read a file now.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: no such folder of episodes")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}: give a part of the files in (0, 1]")
        paths = sorted(directory.glob("*.npz"))
        if self.directory is not None and directory.resolve() == self.directory.resolve():
            self._index = max([self._index, *(index_of(path) + 1 for path in paths)])
        if fraction < 1:
            order = np.random.Generator(np.random.PCG64(seed)).permutation(len(paths))
            paths = [paths[i] for i in sorted(order[: max(1, round(fraction * len(paths)))])]
        summary = LoadSummary()
        for done, (path, episode) in enumerate(decode(paths), 1):
            try:
                rows = self._push(path, self._conform(episode.result()))
            except ValueError as error:
                summary.skipped.append((path.name, npz.reason(error)))
            except (OSError, MemoryError) as error:  # another start would find another dataset
                raise _unreadable(path, error) from error
            else:
                summary.episodes += 1
                summary.frames += rows
                self._steps += rows - 1
            if progress is not None:
                progress(done, len(paths))
        return summary

    def replace(self, episodes: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Forget all closed episodes and hold these instead, in memory alone.

        Raises:
            ValueError: an episode does not fit (see `episodes.check_episode`).
        """
        checked = [self._conform(check_episode(episode)) for episode in episodes]
        self._clear()
        for episode in checked:
            self._push(None, episode)

    def ongoing_actions(self) -> dict[int, np.ndarray]:
        """The actions float32 [k, A] that each worker's ongoing episode has taken so far."""
        return self._ongoing.actions()

    def sample(
        self,
        batch_size: int,
        batch_length: int,
        out: Mapping[str, np.ndarray] | None = None,
        rng: np.random.Generator | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw a batch of windows, each start in each closed episode equally likely.

        An episode shorter than the window counts as one start; it is given whole, and the rest of
        the window is the beginning of further episodes drawn alike.

        Args:
            batch_size: B.
            batch_length: T, in rows.
            out: arrays to fill instead of new ones (pinned buffers, say), as returned here.
            rng: draws instead of the replay's own generator, which then does not move.

        Returns:
            image uint8 [B, T, H, W, C], action float32 [B, T, A], reward and discount float32
            [B, T], is_first bool [B, T]: row 0 and every seam inside a window, where the model
            has to reset its state. NumPy arrays, or what the store holds them in.

        Raises:
            ValueError: no closed episode yet, a size below 1, or arrays in `out` that do not fit.
        """
        return self.draw(batch_size, batch_length, rng or self._rng, out)[0]

    def draw(
        self,
        batch_size: int,
        batch_length: int,
        rng: np.random.Generator,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """`sample`, and the version of the contents that the batch was drawn from."""
        if batch_size < 1 or batch_length < 1:
            raise ValueError(f"batch of {batch_size} × {batch_length}: both must be at least 1")
        with self._lock:
            if not self._rows:
                raise ValueError("no closed episode to sample from: raise prefill to one episode")
            if self._windows is None or self._windows.length != batch_length:
                self._windows = Windows(self._rows, batch_length, self._oversample_ends)
            pieces = self._windows.plan(batch_size, rng)
            return self._store.batch(pieces, batch_size, batch_length, out), self.version

    def written(self) -> None:
        """Waits until every closed episode is on the disk; raises what kept one from there."""
        self._writer.wait()

    def contents(self) -> list[list]:
        """``[file name, rows]`` of each closed episode in memory, oldest first."""
        pairs = zip(self._paths, self._rows, strict=True)
        return [["" if path is None else path.name, rows] for path, rows in pairs]

    def rng_state(self) -> str:
        """The generator's state, as JSON: its integers have 128 bits."""
        return json.dumps(self._rng.bit_generator.state)

    def load_rng(self, state: str) -> None:
        """Puts the generator where `rng_state` found it."""
        self._rng.bit_generator.state = json.loads(state)

    def state_dict(self) -> dict:
        """Everything that the files do not hold, as plain Python and NumPy objects.

        Raises:
            ValueError: an episode in memory has no file to be read from again.
        """
        self.written()
        if None in self._paths:
            raise ValueError("a replay that does not save its episodes has no state to restore")
        # Names alone for the own folder, so that a run's folder can move.
        files = [p.name if p.parent == self.directory else str(p.absolute()) for p in self._paths]
        return {
            "rng": self.rng_state(),
            "files": files,
            "index": self._index,
            "steps": self._steps,
            "ongoing": self._ongoing.state_dict(),
        }

    def load_state_dict(self, state: Mapping) -> Restored:
        """Replace all content by what `state_dict` returned, reading its episodes from disk again.

        Files of episodes closed after that state are moved into `<directory>/../stale`, own ones
        that are damaged into `<directory>/../bad`, each with a text that says why; the replay goes
        on without them, and without those that are missing.

        Raises:
            ValueError: none of the state's episodes can be used; the replay is then unusable.
            UserError: the machine cannot read one now.
        """
        self.written()
        self._clear()
        own, restored = self.directory or Path(), Restored()
        for path, episode in decode([own / name for name in state["files"]]):
            try:
                self._push(path, self._conform(check_length(path, episode.result(), own)))
            except ValueError as error:
                restored.lost.append((path, str(error)))
            except (OSError, MemoryError) as error:  # not the file's fault: it stays
                raise _unreadable(path, error) from error
        if restored.lost and not self._rows:
            path, reason = restored.lost[0]
            raise ValueError(f"{path}: the checkpoint needs this episode: {reason}")
        self._index, self._steps = int(state["index"]), int(state["steps"])
        self._ongoing.load_state_dict(state["ongoing"])
        self.load_rng(state["rng"])
        if self._save:
            for path, reason in restored.lost:
                if path.parent == own and path.exists():
                    restored.bad.append(tools.set_bad_aside(path, own.parent / "bad", reason))
            restored.stale += set_aside(own, self._index, self.tag)
        return restored

    def _close(self, worker: int, episode: dict[str, np.ndarray]) -> Episode:
        rows = len(episode["image"])
        name, path = name_of(self._index, self.tag, rows), None
        if self._save:
            path = self.directory / name
            if path.exists():
                raise FileExistsError(
                    f"{path} is of an earlier run: restore its checkpoint, or set its files aside"
                )
            self._writer.save(path, episode)
        self._push(path, episode)
        self._ongoing.drop(worker)
        ret = float(episode["reward"].sum(dtype=np.float64))
        summary = Episode(self._index, name, rows - 1, ret, path)
        self._index += 1
        return summary

    def _push(self, path: Path | None, episode: dict[str, np.ndarray]) -> int:
        """Make an episode sampleable, evict what exceeds the capacity, and return its rows."""
        rows = len(episode["image"])
        with self._changing():
            # Decided by row counts alone, never by free space: a restored layout may differ.
            while self._capacity and self._rows and self._frames + rows > self._capacity:
                self._store.pop()
                self._paths.pop(0)
                self._frames -= self._rows.pop(0)
            self._store.push(episode)
            self._paths.append(path)
            self._rows.append(rows)
            self._frames += rows
        return rows

    def _clear(self) -> None:
        with self._changing():
            self._store.clear()
            self._paths, self._rows, self._frames = [], [], 0

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            self.version += 1
            self._windows = None
            yield


def _unreadable(path: Path, error: Exception) -> tools.UserError:
    memory = isinstance(error, MemoryError)
    reason = "there is too little memory" if memory else npz.reason(error)
    return tools.UserError(
        f"{path} cannot be read ({reason}): mend that, then the same command goes on"
    )
