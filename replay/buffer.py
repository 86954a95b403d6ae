"""Experience: closed episodes, sampled as [B, T] batches.

Episodes reach the disk as they close (`episodes.py` has the files and what a row holds). Nothing
that a seed should determine depends on where rows lie in memory, so that a replay restored from a
checkpoint goes on exactly as one that was never interrupted.

Symbols in shapes: B batch, T time (rows), A action, H and W image height and width, C channels.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fileio import atomic, npz
from replay.episodes import (
    Columns,
    Episode,
    Held,
    LoadSummary,
    Restored,
    Writer,
    check_episode,
    check_length,
    conform,
    index_of,
    name_of,
    set_aside,
)
from replay.files import Fit, decode, episode_files, unreadable
from replay.open_episodes import OpenEpisodes
from replay.sampler import Sampler, Windows, make_sampler, row_numbers
from replay.storage import Storage


class Replay:
    """Closed episodes to sample windows from, and the open episode of each worker.

    Args:
        storage: an empty one, where rows of closed episodes are to lie. Where its actions have no
            numbers, those in files are ignored and batches have A = 0.
        directory: where closed episodes are written; None writes nothing.
        capacity: rows to keep in the storage, 0 for all. Beyond it whole episodes leave it, oldest
            first (the newest always stays); files stay.
        seed: of the one generator behind all sampling.
        oversample_ends: draw a start over all rows of an episode and clip it to the last full
            window, so that ends are seen as often as middles.
        tag: the middle of file names, `<index>-<tag>-<rows>.npz`.
        background: write episodes in a thread; `written` waits for it, and so does `state_dict`.
        fit: makes images of other sizes fit those of the storage; None leaves such files out.
        columns: computed once of each episode, as it becomes sampleable; their fields are among
            the storage's, and batches have them. Files do not.

    Attributes:
        storage, directory, tag: as given.

    Raises:
        ValueError: a negative capacity, or a tag unfit for a file name.
    """

    def __init__(
        self,
        storage: Storage,
        directory: Path | None = None,
        *,
        capacity: int = 0,
        seed: int = 0,
        oversample_ends: bool = False,
        tag: str = "s0",
        background: bool = False,
        fit: Fit | None = None,
        columns: Columns | None = None,
    ):
        if capacity < 0:
            raise ValueError(f"capacity is {capacity}: give rows, or 0 for no limit")
        if not re.fullmatch(r"\w[\w.-]*", tag):
            raise ValueError(f"tag {tag!r}: letters, digits, '.', '_' and '-' only")
        self.directory = None if directory is None else Path(directory)
        self.storage, self.tag, self._capacity = storage, tag, capacity
        self._oversample_ends, self._fit, self._columns = oversample_ends, fit, columns
        computed = columns.fields if columns else {}
        # What comes in has these; the storage holds the columns, too.
        self._fields = {key: f for key, f in storage.fields.items() if key not in computed}
        self._held: deque[Held] = deque()  # oldest first
        self._shares: list[float] = []  # of the sources 1, 2, …; source 0 has the rest
        self._sources: set[int] = set()  # sources that had episodes
        self._open = OpenEpisodes(self._fields)
        self._steps = self._index = self._frames = 0
        self._number = 1  # of the next episode's first row
        self._sampler: tuple[Windows, Sampler] | None = None  # of those episodes
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._writer = Writer(background)

    @property
    def steps(self) -> int:
        """Agent steps ever taken in: added (open episodes too), loaded, evicted since or not."""
        return self._steps

    @property
    def episodes(self) -> int:
        """Closed episodes in the storage."""
        return len(self._held)

    @property
    def frames(self) -> int:
        """Rows of closed episodes in the storage."""
        return self._frames

    def add(self, worker: int, row: Mapping) -> Episode | None:
        """Append a row to a worker's open episode; `is_last` saves it and makes it sampleable.

        Args:
            worker: which environment it comes from.
            row: image uint8 [H, W, C], action [A] (the one that led to the image; zero or left out
                on `is_first`), reward, discount, is_first, is_last, is_terminal.

        Returns:
            The episode if this row closed it.

        Raises:
            ValueError: a row of wrong keys, shape, dtype or order, or a number that is not finite.
            FileExistsError: the episode's file exists; nothing is overwritten.
        """
        episode = self._open.add(worker, row)
        self._steps += not row["is_first"]
        return None if episode is None else self._close(worker, episode)

    def drop(self, worker: int) -> None:
        """Forget a worker's open episode, if it has one."""
        self._open.drop(worker)

    def load(
        self,
        directory: Path,
        *,
        fraction: float = 1.0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        share: float | None = None,
    ) -> LoadSummary:
        """Take in the episode files of a folder and those below it, in the order of their paths.

        A file needs only images: absent actions and rewards are 0, absent discounts 1, or
        1 − is_terminal. Where ``is_first`` says so a file is several episodes. One that cannot be
        used is left out and named in the summary.

        Args:
            directory: folder of .npz files; it is only read.
            fraction: of the files, in (0, 1]; a smaller fraction is part of a larger one.
            seed: of the choice of files.
            progress: called with (files done, files in all).
            share: of the windows that are to come from these episodes alone; None for a part of
                the rest, in which each start in each episode is equally likely.

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
        paths = episode_files(directory)
        if self.directory is not None and directory.resolve() == self.directory.resolve():
            self._index = max([self._index, *(index_of(path) + 1 for path in paths)])
        if fraction < 1:
            order = np.random.Generator(np.random.PCG64(seed)).permutation(len(paths))
            paths = [paths[i] for i in sorted(order[: max(1, round(fraction * len(paths)))])]
        self._shares += [] if share is None else [share]
        source = 0 if share is None else len(self._shares)
        summary = LoadSummary()
        read = decode(paths, self._fields, self._fit)
        for done, (path, content) in enumerate(read, 1):
            name = path.relative_to(directory).as_posix()
            try:
                episodes = content.result()
            except ValueError as error:
                summary.skipped.append((name, npz.reason(error)))
                episodes = []
            except (OSError, MemoryError) as error:  # another start would find another dataset
                raise unreadable(path, error) from error
            for episode in episodes:
                rows = self._push(path, episode, name, source)
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
        checked = [conform(check_episode(episode), self._fields) for episode in episodes]
        self._clear()
        for episode in checked:
            self._push(None, episode)

    def ongoing_actions(self) -> dict[int, np.ndarray]:
        """The actions float32 [k, A] that each worker's open episode has taken so far."""
        return self._open.actions()

    def sample(
        self,
        batch_size: int,
        windows: int | Windows,
        rng: np.random.Generator | None = None,
    ) -> dict[str, Any]:
        """Draw a batch of windows, each start in each closed episode equally likely.

        An episode shorter than the window counts as one start; it is given whole, and the rest of
        the window is the beginning of further episodes drawn alike.

        Args:
            batch_size: B.
            windows: T, in rows; or what else is asked of the windows (`replay.sampler.Windows`).
            rng: draws instead of the replay's own generator, which then does not move.

        Returns:
            image uint8 [B, T, H, W, C], action float32 [B, T, A], reward and discount float32
            [B, T], the columns, is_first bool [B, T]: row 0 and every seam inside a window, where
            the model has to reset its state; `row` where windows are numbered. NumPy arrays, or
            tensors on the storage's device.

        Raises:
            ValueError: no closed episode yet, or a size below 1.
        """
        windows = Windows(windows) if isinstance(windows, int) else windows
        length = windows.length
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch of {batch_size} × {length}: both must be at least 1")
        if not self._held:
            raise ValueError("no closed episode to sample from: raise prefill to one episode")
        if self._sampler is None or self._sampler[0] != windows:
            sampler = make_sampler(
                [held.rows for held in self._held],
                windows,
                self._oversample_ends,
                [held.source for held in self._held],
                self._shares,
            )
            self._sampler = windows, sampler
        slices = self._sampler[1].plan(batch_size, rng or self._rng)
        batch = self.storage.batch(slices, batch_size, length)
        if windows.numbered:
            firsts = [held.number for held in self._held]
            batch["row"] = row_numbers(slices, firsts, batch_size, length)
        return batch

    def written(self) -> None:
        """Waits until every closed episode is on the disk; raises what kept one from there."""
        self._writer.wait()

    def contents(self) -> list[list]:
        """``[file name, rows]`` of each closed episode in the storage, oldest first."""
        return [[held.name, held.rows] for held in self._held]

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
        paths = [held.path for held in self._held if held.path is not None]
        if len(paths) < len(self._held):
            raise ValueError("a replay that does not save its episodes has no state to restore")
        # Names alone for the own folder, so that a run's folder can move. A file of several
        # episodes is there once for each of them, and what has left the storage were its first.
        files = [p.name if p.parent == self.directory else str(p.absolute()) for p in paths]
        return {
            "rng": self.rng_state(),
            "files": files,
            "numbers": [held.number for held in self._held],
            "number": self._number,
            "index": self._index,
            "steps": self._steps,
            "ongoing": self._open.state_dict(),
        }

    def load_state_dict(
        self, state: Mapping, progress: Callable[[int, int], None] | None = None
    ) -> Restored:
        """Replace all content by what `state_dict` returned, reading its episodes from disk again.

        Files of episodes closed after that state are moved into `<directory>/../stale`, own ones
        that are damaged into `<directory>/../bad`, each with a text that says why; the replay goes
        on without them, and without those that are missing.

        Args:
            state: what `state_dict` returned.
            progress: called with (files done, files in all).

        Raises:
            ValueError: none of the state's episodes can be used; the replay is then unusable.
            UserError: the machine cannot read one now.
        """
        self.written()
        self._clear()
        own, restored = self.directory or Path(), Restored()
        numbers = iter(state.get("numbers", ()))  # earlier checkpoints have none
        counts = [(own / name, len([*same])) for name, same in itertools.groupby(state["files"])]
        read = decode([path for path, _ in counts], self._fields, self._fit)
        for done, ((path, content), (_, count)) in enumerate(zip(read, counts, strict=True), 1):
            firsts = [*itertools.islice(numbers, count)]
            try:
                episodes = content.result()
                check_length(path, sum(len(episode["image"]) for episode in episodes), own)
                if len(episodes) < count:
                    raise ValueError(f"it has {len(episodes)} episodes, and had {count}")
            except ValueError as error:
                restored.lost.append((path, str(error)))
            except (OSError, MemoryError) as error:  # not the file's fault: it stays
                raise unreadable(path, error) from error
            else:
                for i, episode in enumerate(episodes[-count:]):
                    self._number = firsts[i] if firsts else self._number
                    self._push(path, episode)
            if progress is not None:
                progress(done, len(counts))
        if restored.lost and not self._held:
            path, reason = restored.lost[0]
            raise ValueError(f"{path}: the checkpoint needs this episode: {reason}")
        self._index, self._steps = int(state["index"]), int(state["steps"])
        self._number = int(state.get("number", self._number))
        self._open.load_state_dict(state["ongoing"])
        self.load_rng(state["rng"])
        if self.directory is not None:
            ours = [(p, why) for p, why in restored.lost if p.parent == own and p.exists()]
            restored.bad += [atomic.quarantine(p, own.parent / "bad", why) for p, why in ours]
            restored.stale += set_aside(own, self._index, self.tag)
        return restored

    def _close(self, worker: int, episode: dict[str, np.ndarray]) -> Episode:
        rows = len(episode["image"])
        name, path = name_of(self._index, self.tag, rows), None
        if self.directory is not None:
            path = self.directory / name
            if path.exists():
                raise FileExistsError(
                    f"{path} is of an earlier run: restore its checkpoint, or set its files aside"
                )
            self._writer.save(path, episode)
        self._push(path, episode)
        self._open.drop(worker)
        ret = float(episode["reward"].sum(dtype=np.float64))
        summary = Episode(self._index, name, rows - 1, ret, path)
        self._index += 1
        return summary

    @property
    def has_all_shares(self) -> bool:
        """Whether every source still has an episode here, where some have shares of their own."""
        there = {held.source for held in self._held}
        return not self._shares or there >= self._sources | set(range(1, len(self._shares) + 1))

    def _push(
        self, path: Path | None, episode: dict[str, np.ndarray], name: str = "", source: int = 0
    ) -> int:
        """Make an episode sampleable, evict what exceeds the capacity, and return its rows."""
        rows = len(episode["image"])
        if self._columns is not None:
            episode = {**episode, **self._columns.compute(episode["image"])}
        self._sampler = None
        while self._capacity and self._held and self._frames + rows > self._capacity:
            self.storage.pop()
            self._frames -= self._held.popleft().rows
        self.storage.push(episode)
        self._sources.add(source)
        name = name or (path.name if path else "")
        self._held.append(Held(path, name, rows, self._number, source))
        self._frames += rows
        self._number += rows + 1
        return rows

    def _clear(self) -> None:
        self._sampler = None
        self.storage.clear()
        self._held.clear()
        self._frames = 0
