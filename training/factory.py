"""What a run is made of, as its configuration describes it: environments, replay, spaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accel.runtime import Runtime
from agents.base import Spaces
from agents.registry import agent_class
from config import Config
from data.caching import cache_root
from data.scaling import fit
from envs import (
    SPLITS,
    EnvError,
    EnvSettings,
    UnknownTask,
    VectorEnv,
    as_flags,
    has_switch,
    look_of,
    make_vector,
    try_variations,
    used_up,
    variation_for,
    worlds_of,
)
from replay import Columns, Replay, row_fields
from replay.device import place
from replay.files import count_rows
from replay.room import check_room
from tools import UserError, derive_seed, expand_path, print_safe
from training.length import switch_frame


def variation_at(config: Config, split: str, steps: int) -> str:
    """The distractions of an episode that begins after so many agent steps of training."""
    switch = switch_frame(config)
    switched = switch is not None and steps * config.action_repeat >= switch
    variation = variation_for(config.task, split, config.color_distractor, switched)
    return look_of(config.task, variation, config)


def check_variations(config: Config) -> None:
    """Checks that each variation that the episodes of a run will have can be drawn.

    Raises:
        UserError: one cannot; a line names it, or the flags that are wrong.
    """
    halves = (False, True) if config.steps else (False,)
    splits = SPLITS if config.steps and config.eval_every else SPLITS[:1]
    names = [
        variation_for(config.task, split, config.color_distractor, second_half)
        for split in splits
        for second_half in halves
    ]
    if len(splits) > 1:
        names += worlds_of(config.eval_worlds)
    settings = EnvSettings.within({**config, "size": image_size(config)})
    try_variations(config.task, list(dict.fromkeys(names)), settings)


def note_flags(config: Config) -> None:
    """Says which of the given flags do not do what they seem to."""
    note_unread(config)
    note_short(config)


def note_unread(config: Config) -> None:
    """Says which of the given flags change nothing with the method."""
    method = agent_class(config.method_name)
    if unread := sorted(set(config.overrides) & method.unread):
        flags = ", ".join(f"--{name}" for name in unread)
        print_safe(f"note: {flags} changes nothing with --method_name {method.name}")


def note_short(config: Config) -> None:
    """Says so if a run may end where its learning begins, as a whole episode is played before."""
    c = config
    episode = 0 if c.offline_traindir else -(-c.time_limit // c.action_repeat) * c.envs
    if 0 < c.steps // c.action_repeat <= max(c.prefill, episode) and (c.pretrain or c.train_steps):
        print_safe(
            f"note: --steps {c.steps} may end where learning begins: before it come --prefill "
            f"{c.prefill} agent steps and a whole episode (--time_limit {c.time_limit} frames), "
            f"then --pretrain {c.pretrain} updates, and the run has finished"
        )


def note_switch(config: Config) -> None:
    """Says so if ``--color_distractor`` will change nothing.

    Args:
        config: a run's, its ``switch_at`` settled.
    """
    c = config
    if not c.color_distractor:
        return
    if not has_switch(c.task, c):
        print_safe(f"note: {c.task} looks the same in both halves of training")
    elif c.switch_at is not None and c.switch_at >= c.steps > 0:
        print_safe(f"note: --switch_at {c.switch_at} does not come within --steps {c.steps}")


def make_more_envs(config: Config, runtime: Runtime, n: int, split: str) -> VectorEnv:
    """`make_envs` for settings that have made environments already.

    If it fails, the machine is at fault: it is tried again, as often as environments may be made
    anew.

    Raises:
        EnvError: it failed each time.
    """
    notes: list[dict[str, Any]] = []
    while True:
        try:
            envs = make_envs(config, runtime, n, split)
            envs.restarted, envs.notes = len(notes), notes
            return envs
        except UserError as error:
            if len(notes) >= config.env_restarts:
                raise used_up(EnvError(str(error)), config.env_restarts) from error
            notes.append({"env": -1, "reason": str(error), "steps": 0, "dropped": False})


def make_envs(
    config: Config, runtime: Runtime, n: int, split: str, variation: str | None = None
) -> VectorEnv:
    """``n`` environments as the configuration describes them, first in that variation.

    Those to train in, where their steps overlap with updates, have worker processes even if there
    is one alone.

    Raises:
        UserError: a setting does not fit the task, or what it names is not there.
    """
    settings = EnvSettings.pick({**config, "size": image_size(config)})
    envs, workers = None, config.async_env
    overlaps = split == "train" and runtime.overlap
    if workers == "auto" and overlaps and (os.cpu_count() or 1) > 1:
        workers = "process"
    try:
        envs = make_vector(
            config.task,
            n,
            workers=workers,
            split=split,
            variation=variation,
            timeout=config.env_timeout,
            **settings,
        )
        # The first frame shows what building does not, a camera that is not there for one. No
        # number of the run depends on it: episodes follow from their own seeds.
        envs.reset(seeds=[0] * n)
        envs.restarts = config.env_restarts  # what fails from here on is no wrong setting
        return envs
    except (ValueError, OSError, ImportError, EnvError) as error:
        if envs is not None:
            envs.close()
        if isinstance(error, UnknownTask):
            raise
        # A worker's error ends with its own line; above it stands its traceback.
        reason = str(error).strip().splitlines()[-1]
        if "No module named" in reason:
            reason += ": pip install -r requirements.txt"
        raise UserError(f"{config.task} cannot be made: {as_flags(reason)}") from error


def image_size(config: Config) -> tuple[int, ...]:
    """Height and width of the images that the run's environments draw."""
    return agent_class(config.method_name).image_size(config)


def spaces_of(envs: VectorEnv) -> Spaces:
    """What an agent sees and how it acts in these environments."""
    return Spaces(envs.image_shape, envs.action_size, envs.discrete, envs.vector_size)


def check_spaces(config: Config, spaces: Spaces) -> None:
    """Checks that the method learns from what these environments show.

    Raises:
        UserError: it does not.
    """
    if spaces.vector_size and not agent_class(config.method_name).sees_vectors:
        raise UserError(
            f"{config.task} shows {spaces.vector_size} numbers beside its image, and --method_name "
            f"{config.method_name} sees images alone: use dreamerv2 or diswm, or wrap the "
            "environment so that it observes the image alone"
        )


def make_replay(
    config: Config,
    runtime: Runtime,
    name: str,
    action_size: int,
    *,
    vector_size: int = 0,
    folder: Path | None = None,
    capacity: int | None = None,
    rows: int | None = None,
    background: bool = False,
    columns: Columns | None = None,
) -> Replay:
    """An empty replay.

    Args:
        config: the run's.
        runtime: its device.
        name: what it is for; its generator follows from it.
        action_size: A; 0 for action-free data.
        vector_size: V, the numbers beside an image.
        folder: where closed episodes are written; None writes nothing.
        capacity: rows to keep, 0 for all; None is ``--dataset_size``.
        rows: how many will come; then ``--replay_device`` holds, and too little memory is told of.
            None keeps them off it.
        background: write episodes beside what comes next.
        columns: the learner's.

    Raises:
        UserError: its rows are to lie on disk, and ``--cache_dir`` cannot be used; or on a device
            or disk that cannot hold them.
    """
    image_shape = (*image_size(config), 1 if config.grayscale else 3)
    fields = row_fields(image_shape, action_size, vector_size)
    fields = {**fields, **(columns.fields if columns else {})}
    choice = "cpu" if rows is None else config.replay_device
    cache = cache_root(config.cache_dir) if config.replay_storage == "disk" else None
    storage = place(fields, choice, runtime.device, rows or 0, cache)
    if rows and (line := check_room(storage, rows)):
        print_safe(f"warning: {line}")  # at once: to load a dataset may take all there is
    return Replay(
        storage,
        folder,
        capacity=config.dataset_size if capacity is None else capacity,
        seed=derive_seed(config.seed, "replay", name),
        oversample_ends=config.oversample_ends,
        tag=f"s{config.seed}",
        background=background,
        fit=fit,
        columns=columns,
    )


def expected_rows(config: Config) -> int:
    """About how many rows the replay of a run comes to hold.

    Episodes that end before their time have more of them: each has a row before its first step.
    """
    steps = max(config.steps // config.action_repeat, config.prefill)
    length = -(-config.time_limit // config.action_repeat)
    rows = steps + steps // length + config.envs * (length + 1)
    if config.offline_traindir:
        rows += count_rows(expand_path(config.offline_traindir, "offline_traindir"))
    return rows_kept(config, rows)


def rows_kept(config: Config, rows: int) -> int:
    """How many of the rows that come a replay holds at a time."""
    return min(rows, config.dataset_size or rows)
