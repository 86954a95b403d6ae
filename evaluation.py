"""Evaluating the agent of a run, beside the run: whole episodes, their table, video and numbers.

python dreamer.py --evaluate runs/dmc2gym_walker_walk/diswm/seed_0 --eval_colors test

The run may have ended or may go on. Its folder is only read, but for ``evaluations/``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import checkpoint
from accel.runtime import Runtime, find_device
from agent import Agent
from arenas import make_envs, variation_at
from checks import check_actor
from collect import Policy, play
from config import Config, load_saved
from envs import SUITES, EnvError, EnvSettings, VectorEnv, episode_seed, parse_task
from outcomes import outcome
from pictures import to_rgb
from run import CHECKPOINT, CONFIG, PARTS, check_writable
from scoresheet import ROWS, Played, table, write
from tools import UserError, derive_seed, expand, nearest, say

FOLDER = "evaluations"

# What may be given with --evaluate, over the run's own configuration: what is played, and where.
_PLACE = ("eval_colors", "eval_episodes", "eval_envs", "seed", "device", "precision")
_PLACE += ("num_threads", "async_env", "env_restarts", "env_timeout", "color_distractor")
_ACTING = ("eval_noise", "eval_state_mean", "collect_dyn_sample")
_SETTINGS = tuple(field.name for field in dataclasses.fields(EnvSettings))
FLAGS = frozenset({"evaluate", *_PLACE, *_ACTING, *_SETTINGS})
# Of these, what can change the size of a network.
_SIZING = ("grayscale", "size")


def configure(given: Config) -> Config:
    """The configuration of the run that ``--evaluate`` names, under the flags that were given.

    Raises:
        UserError: there is no such run, it has no agent, or a flag does not go with ``--evaluate``.
    """
    folder = expand(given.evaluate, "evaluate")
    _check_folder(given.evaluate, folder)
    try:
        saved = load_saved(folder / CONFIG)
    except UserError as error:
        raise UserError(f"--evaluate: {error}") from None
    if saved.beta_vae_pretrain:
        raise UserError(
            f"--evaluate {folder} is a pretraining, which has no agent: give the folder of a "
            "finetuning that learned from it"
        )
    if foreign := sorted(given.given - FLAGS):
        raise UserError(
            f"--{foreign[0]} does not go with --evaluate, which takes the run as it is: give "
            "--eval_colors, --eval_episodes, --eval_envs, --seed, --device or a setting of the "
            "environment"
        )
    if not checkpoint.find(folder):
        raise UserError(
            f"--evaluate {folder} has no {CHECKPOINT} yet: its run writes one every "
            f"{saved.checkpoint_every} frames (--checkpoint_every) and when it stops"
        )
    if set(given.blocks) != {"defaults"}:
        print("note: --configs is not read: the run's own configuration holds", file=sys.stderr)
    flags = {name: given[name] for name in given.given}
    config = Config({**saved, **flags}, given=flags)
    if "device" not in given.given:
        config = config.replace(device=_device_here(config.device))
    return config


def _check_folder(given: str, folder: Path) -> None:
    """Checks that this is a run's folder; otherwise names one near it."""
    if not given or not folder.exists():
        near = (path.name for path in folder.parent.glob("*") if path.is_dir())
        hint = nearest(folder.name, near) if given else ""
        raise UserError(
            f"--evaluate '{given}': there is no such folder{hint}; give a run's, "
            "<logdir>/<task>/<method>/seed_<n>"
        )
    if folder.is_file():
        raise UserError(f"--evaluate {folder} is a file: give its run's folder, {folder.parent}")
    if not (folder / CONFIG).is_file():
        below = [path for depth in range(1, 4) for path in folder.glob("*/" * depth + CONFIG)]
        below = sorted(p.parent for p in below if p.absolute().parts[-3] != "pretrain")
        hint = f": did you mean {below[0]}?" if below else ""
        raise UserError(
            f"--evaluate {folder} is no run's folder, it has no {CONFIG}"
            + (hint or "; give one like <logdir>/<task>/<method>/seed_<n>")
        )


def _device_here(device: str) -> str:
    """The run's device, or the CPU where this machine lacks it."""
    try:
        find_device(device)
    except UserError:
        say(f"note: the run's device {device} is not here: evaluating on the cpu")
        return "cpu"
    return device


def evaluate(config: Config, runtime: Runtime) -> None:
    """Plays the episodes, prints what they came to, and writes it beside the run.

    Args:
        config: what :func:`configure` gave.
        runtime: where and how the agent computes.

    Raises:
        UserError: the checkpoint cannot be used, or the folder not be written to.
    """
    folder = expand(config.evaluate, "evaluate")
    mend = f"copy its {CONFIG} and {CHECKPOINT} to a folder of yours and give that"
    check_writable(folder / FOLDER, "--evaluate", mend)
    played = play_episodes(config, runtime)
    paths = write(played, folder / FOLDER)
    say("\n".join([table(played), *map(str, paths)]), sys.stdout)


def play_episodes(config: Config, runtime: Runtime) -> Played:
    """Plays ``--eval_episodes`` episodes with the run's agent.

    As many of them as the run's own evaluation plays are the same ones, and so are the colours
    unless ``--eval_colors`` says otherwise: an evaluation of the run's last checkpoint with its
    own settings gives what the run logged, if it was written at an evaluation, as the last one of
    a finished run is.

    Raises:
        UserError: the checkpoint is damaged or of another shape, or there are no such colours.
    """
    path = expand(config.evaluate, "evaluate") / CHECKPOINT
    saved = load_saved(path.parent / CONFIG)
    state = _load(path.parent)
    steps, learner = state["collector"]["steps"], state["learner"]
    repeat = saved.action_repeat  # the midpoint is the run's, however it is evaluated
    colors = variation_at(config.replace(action_repeat=repeat), "eval", steps)
    colors = config.eval_colors or colors
    first = steps * saved.eval_episodes
    seeds = [episode_seed(config.seed, "eval", first + i) for i in range(config.eval_episodes)]
    lost: set[int] = set()
    start = time.monotonic()
    with make_envs(config, min(config.eval_envs, config.eval_episodes), "eval") as envs:
        _check_colors(config, colors)
        agent = _load_agent(config, runtime, envs, learner["weights"], path)
        if not learner["updates"]:
            print("note: this agent has made no update yet", file=sys.stderr)
        policy = functools.partial(agent.act, mode="eval")
        longest = -(-config.time_limit // config.action_repeat)
        rounds = -(-config.eval_episodes // envs.n) * longest
        seed = derive_seed(config.seed, "evaluation", steps)
        with checkpoint.scratch_rng(seed, agent.device), tqdm(total=rounds, disable=None) as bar:
            episodes = _play(envs, policy, seeds, colors, bar, lost)
    return Played(
        config,
        state["frames"],
        learner["updates"],
        state["finished"],
        colors,
        [seed for i, seed in enumerate(seeds) if i not in lost],
        [outcome(episode) for episode in episodes],
        [to_rgb(episode["image"]) for episode in episodes if "image" in episode],
        time.monotonic() - start,
    )


def _play(
    envs: VectorEnv, policy: Policy, seeds: Sequence[int], colors: str, bar: tqdm, lost: set[int]
) -> list[dict[str, np.ndarray]]:
    """The episodes of the seeds, less those whose environment broke: their places go to ``lost``.

    Raises:
        UserError: none could be played.
    """
    try:
        return play(envs, policy, seeds, colors, bar.update, images=ROWS, lost=lost.add)
    except EnvError as error:
        raise UserError(f"--evaluate: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for note in envs.take_notes():
            what = "its episode is left out" if note["dropped"] else "it was started anew"
            print(f"warning: {note['reason']}; {what}", file=sys.stderr)


def _load(folder: Path) -> dict[str, Any]:
    """The checkpoint of a finetuning, read once: its run may replace it at any time."""
    try:
        state, damaged = checkpoint.load_newest(folder, PARTS | {"collector"})
    except UserError as error:
        raise UserError(f"--evaluate: {error}") from None
    for _, reason in damaged:
        print(f"warning: {reason}; the one of frame {state['frames']} is taken", file=sys.stderr)
    return dict(state)


def _check_colors(config: Config, colors: str) -> None:
    task = parse_task(config.task)
    settings = EnvSettings(**{name: config[name] for name in _SETTINGS})
    names = SUITES[task.suite].factories(task.identity, settings)
    if colors not in names:
        raise UserError(
            f"--eval_colors takes {', '.join(names)} for {config.task}, not '{colors}'"
            + nearest(colors, names)
        )


def _load_agent(
    config: Config, runtime: Runtime, envs: VectorEnv, weights: Mapping, path: Path
) -> Agent:
    """The agent with the run's weights; it acts and learns no more, so it needs no teacher."""
    check_actor(config, envs.discrete)
    agent = Agent(config, runtime, envs.action_size)
    agent.optimizers.clear()
    taught = {k: v for k, v in weights.items() if not k.startswith("world_model.teacher.")}
    if wrong := checkpoint.misfit(taught, agent.state_dict()["weights"]):
        given = " or ".join(f"--{flag}" for flag in _SIZING if flag in config.given)
        mend = f"leave out {given}" if given else "evaluate with the code that made the run"
        raise UserError(f"{path}: {wrong}: {mend}")
    agent.load_state_dict({"weights": taught, "optimizers": {}, "step": 0, "updates": 0})
    return agent
