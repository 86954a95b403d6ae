"""Records in groups: which lines a panel has, and what each comes to over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from figures.records import RANDOM, Record
from figures.statistics import Estimate, mean_over_seeds
from figures.style import Look, label_of, looks, own_name, task_name
from tools import UserError
from training.returns import interval

VALUES = {"return": "evaluation return", "success": "success rate in evaluation"}
BANDS = {"ci": "95% interval", "std": "standard deviation"}
BY = ("arm", "source")


class Group(NamedTuple):
    """What the runs of one line share."""

    method: str
    arm: str
    source: str


class Curve(NamedTuple):
    """A group's evaluations on one task.

    Attributes:
        frames: [T], where it was evaluated, as far as all of its seeds have come.
        mean, low, high: [T], over the seeds; of a single seed over the episodes.
        seeds: {seed: (frames, values)} of each run by itself.
    """

    frames: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: dict[int, tuple[np.ndarray, np.ndarray]]

    def until(self, frame: float) -> Curve:
        """As far as a frame."""
        lines = (self.frames, self.mean, self.low, self.high)
        shown = (line[self.frames <= frame] for line in lines)
        each = {s: (f[f <= frame], v[f <= frame]) for s, (f, v) in self.seeds.items()}
        return Curve(*shown, each)


Runs = dict[Group, dict[int, list[Record]]]  # the evaluations of each seed, by their frames


def by_task(records: Iterable[Record], tasks: Sequence[str] = ()) -> dict[str, list[Record]]:
    """The records of each task, ``tasks`` first, those too that have none.

    Raises:
        UserError: those of one task are of several scales.
    """
    found: dict[str, list[Record]] = {task: [] for task in tasks}
    for record in records:
        found.setdefault(record.task, []).append(record)
    for task, of_task in found.items():
        scales = list(dict.fromkeys(r.scale or "not named" for r in of_task))
        if len(scales) > 1:
            raise UserError(
                f"{task} has runs of the scales {', '.join(scales)}, which are not compared in one "
                "panel: give those of one"
            )
    return found


def runs_of(records: Iterable[Record], value: str = "return") -> Runs:
    """The runs of one task, without the random policy's, seeds and frames in order.

    Raises:
        UserError: a seed of a group was run twice, or an environment does not tell the value.
    """
    found: dict[Group, dict[int, dict[int, Record]]] = {}
    for record in records:
        if record.method == RANDOM:
            continue
        if value_of(record, value) is None:
            raise UserError(
                f"{record.task}, {record.arm}, seed {record.seed} logs no {value}: its environment "
                "does not tell it"
            )
        arm = own_name(record.method, record.arm)
        group = Group(record.method, arm, record.source)
        seed = found.setdefault(group, {}).setdefault(record.seed, {})
        if seed.setdefault(record.frames, record) != record:
            raise UserError(
                f"two runs are {record.task}, {record.arm}, seed {record.seed}: give one of them, "
                "or tell them apart as NAME=FOLDER"
            )
    return {
        group: {s: [seeds[s][f] for f in sorted(seeds[s])] for s in sorted(seeds)}
        for group, seeds in found.items()
    }


def value_of(record: Record, value: str) -> float | None:
    """A record's return or success."""
    return record.ret if value == "return" else record.success


def std_of(record: Record, value: str) -> float:
    """The standard deviation of one episode's value."""
    if value == "return":
        return record.return_std
    # Of zeros and ones the mean tells it, with n − 1 in the denominator as for returns.
    p, n = record.success or 0.0, record.episodes
    return (p * (1 - p) * n / max(n - 1, 1)) ** 0.5


def over_episodes(records: Sequence[Record], value: str, band: str = "ci") -> Estimate:
    """Of one run: the means of its evaluations [T], with the spread over their episodes."""
    mean = np.array([value_of(r, value) for r in records], np.float64)
    half = np.array([std_of(r, value) for r in records])
    if band == "ci":
        half = interval(half, np.array([r.episodes for r in records]))
    return Estimate(mean, mean - half, mean + half)


def curve_of(seeds: Mapping[int, Sequence[Record]], value: str, band: str = "ci") -> Curve:
    """A group's curve.

    Seeds that were evaluated at other frames than the rest are interpolated between their own.

    Raises:
        UserError: there is no frame that all seeds have come to.
    """
    each = {
        seed: (
            np.array([r.frames for r in records], np.float64),
            np.array([value_of(r, value) for r in records], np.float64),
        )
        for seed, records in seeds.items()
    }
    first = max(frames[0] for frames, _ in each.values())
    last = min(frames[-1] for frames, _ in each.values())
    grid = np.unique(np.concatenate([frames for frames, _ in each.values()]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        one = next(iter(seeds.values()))[0]
        raise UserError(
            f"the seeds of {one.task}, {one.arm} have no frames in common: leave out the one that "
            "has just begun"
        )
    if len(each) == 1:
        found = over_episodes(next(iter(seeds.values())), value, band)
    else:
        rows = [np.interp(grid, frames, values) for frames, values in each.values()]
        found = mean_over_seeds(np.stack(rows), band)
    return Curve(grid, *found, each)


def random_of(records: Iterable[Record], value: str, band: str = "ci") -> Estimate | None:
    """The random policy's value over all its evaluations on one task; None without one.

    Each run has one of its own: the same seed's counts once.
    """
    found = {r.seed: r for r in records if r.method == RANDOM and value_of(r, value) is not None}
    if not found:
        return None
    if len(found) == 1:
        return Estimate(*(part[0] for part in over_episodes(list(found.values()), value, band)))
    means = np.array([value_of(r, value) for r in found.values()], np.float64)
    return Estimate(*(part[0] for part in mean_over_seeds(means[:, None], band)))


def common_frame(runs: Runs, at: float | None = None) -> int:
    """The last frame up to which all runs have come, not beyond ``at``."""
    last = min(records[-1].frames for seeds in runs.values() for records in seeds.values())
    return int(last if at is None else min(last, at))


def too_early(who: str, first: int, runs: Runs, at: float | None) -> UserError:
    """What to say of runs that have no evaluation up to the frame at which they are compared.

    Args:
        who: whose they are.
        first: the frame of their first evaluation.
        runs, at: as of :func:`common_frame`.
    """
    mend = "leave out the run that has just begun"
    if first <= common_frame(runs):
        mend = f"give --at {first} or more, or leave it out"
    return UserError(f"{who} has no evaluation up to {common_frame(runs, at):,} frames: {mend}")


def scores_at(seeds: Mapping[int, Sequence[Record]], frame: float, value: str) -> np.ndarray:
    """The last evaluation of each seed that is not beyond a frame: [seeds]."""
    found = [[r for r in records if r.frames <= frame] for records in seeds.values()]
    return np.array([value_of(records[-1], value) for records in found if records], np.float64)


def looks_of(panels: Iterable[Iterable[Group]], by: str = "arm") -> dict[Group, Look]:
    """How each group looks, and its label: that of its arm or, by source, of its videos' task.

    Where an arm has several sources in one panel, they are in the label, too.
    """
    names: dict[Group, tuple[str, str]] = {}  # what tells its look, and its label
    for groups in map(list, panels):
        for group in groups:
            videos = f"videos of {task_name(group.source)}" if group.source else ""
            same = {g.source for g in groups if g[:2] == group[:2]}
            if by == "source" and videos:
                names[group] = (group.source, videos)
            elif len(same) > 1 and videos:
                names[group] = (f"{group.arm} {group.source}", f"{label_of(group.arm)}, {videos}")
            else:
                names.setdefault(group, (group.arm, ""))
    found = looks([(group.method, name) for group, (name, _) in names.items()])
    result, order = {}, list(found)
    for group, (name, label) in sorted(
        names.items(), key=lambda item: order.index((item[0].method, item[1][0]))
    ):
        look = found[group.method, name]
        result[group] = look._replace(label=label or look.label)
    return result


def describe(records: Iterable[Record], value: str, band: str) -> str:
    """What a figure says of itself: scale, number of seeds, what the bands are."""
    records = [r for r in records if r.method != RANDOM]
    if not records:
        return "nothing has been run"
    scales = " and ".join(dict.fromkeys(r.scale or "not named" for r in records))
    counts = sorted(
        {len(seeds) for of in by_task(records).values() for seeds in runs_of(of, value).values()}
    )
    single, several = counts[0] == 1, counts[-1] > 1
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    told = f"scale: {scales} · n = {n} {'seeds' if several else 'seed'}"
    if not several:
        return f"{told} · bands: {BANDS[band]} over an evaluation's episodes"
    kind = "bootstrap " if band == "ci" else ""
    if not single:
        return f"{told} · bands: {kind}{BANDS[band]} over seeds"
    return f"{told}\nbands: {kind}{BANDS[band]} over seeds, of a single one over its episodes"
