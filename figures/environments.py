"""What an agent sees: the first, the middle and the last frame of an episode in every look.

python -m figures.environments gymnasium_Pusher-v5 metaworld_drawer-open-v1 --output looks.png

Meta-World's tasks are played by the package's scripted policies, others by a random one, with the
same actions in every look.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from envs import SUITES, WORLDS, EnvSettings, make_env, parse_task
from figures import save
from figures.records import REFUSED, refuse

EPISODE = {"gymnasium": 100, "metaworld": 200}  # control steps; 1000 elsewhere


def looks(task: str, settings: dict) -> dict[str, str]:
    """The variations that look different: name to reset with → label with all its names."""
    suite, identity = parse_task(task)
    names: dict[int, list[str]] = {}
    for name, thunk in SUITES[suite].factories(identity, EnvSettings.of(settings)).items():
        if name not in WORLDS:  # which have a figure of their own
            names.setdefault(id(thunk), []).append(name)
    return {same[0]: " = ".join(reversed(same)) for same in names.values()}


def policy_of(task: str, env: gym.Env, seed: int) -> Callable[[], np.ndarray]:
    """What acts in the pictures: the package's scripted policy, or a random one."""
    if parse_task(task).suite == "metaworld":
        from metaworld.policies import ENV_POLICY_MAP

        # They ask for more than the environments take, and are clipped there as well.
        warnings.filterwarnings("ignore", "Constant", UserWarning)
        expert = ENV_POLICY_MAP[f"{parse_task(task).identity[0]}-v3"]()
        meta = env.unwrapped.inner.unwrapped
        return lambda: np.clip(expert.get_action(meta.state), -1.0, 1.0)
    rng = np.random.default_rng(seed)
    return lambda: rng.uniform(-1.0, 1.0, env.action_space.shape)


def episode(env: gym.Env, task: str, variation: str, seed: int) -> tuple[list[np.ndarray], int]:
    """Plays one episode; its first, middle and last frame, uint8 [H, W, 3], and its length."""
    observation, _ = env.reset(seed=seed, options={"variation": variation})
    frames, act, ended = [observation["image"]], policy_of(task, env, seed), False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(act().astype(np.float32))
        frames.append(observation["image"])
        ended = terminated or truncated
    return [frames[0], frames[len(frames) // 2], frames[-1]], len(frames) - 1


def play(task: str, seed: int) -> tuple[list[str], list[list[np.ndarray]], int]:
    """Every look of a task: labels, three frames each, and agent steps of an episode."""
    settings = {"time_limit": EPISODE.get(parse_task(task).suite, 1000)}
    named = looks(task, settings)
    env = make_env(task, variation=next(iter(named)), **settings)
    try:
        played = [episode(env, task, name, seed) for name in named]
    finally:
        env.close()
    return list(named.values()), [frames for frames, _ in played], played[0][1]


def draw(tasks: Sequence[str], seed: int = 0) -> plt.Figure:
    """The figure: one row a task, one column a look, three frames above each other."""
    rows = [play(task, seed) for task in tasks]
    columns = max(len(labels) for labels, _, _ in rows)
    size = (1.25 * columns + 0.8, 3.6 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for task, (labels, looks_frames, steps), line in zip(tasks, rows, axes, strict=True):
        for axis, label, frames in zip(line, labels, looks_frames, strict=False):
            axis.axis("on")
            axis.imshow(np.concatenate(frames), interpolation="nearest")
            axis.set_title(label.replace(" = ", "\n"), fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        heights = (np.arange(3) + 0.5) * looks_frames[0][0].shape[0]
        line[0].set_yticks(heights, ["first", f"step {(steps + 1) // 2}", f"step {steps}"])
        line[0].tick_params(length=0, labelsize=8)
        line[0].set_ylabel(task, fontsize=9)
    figure.tight_layout(pad=0.5)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.environments", description=__doc__)
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--seed", type=int, default=0, help="of the episode")
    parser.add_argument("--output", type=Path, default=Path("environments.png"))
    args = parser.parse_args(argv)
    try:
        figure = draw(args.tasks, args.seed)
        print(*save(figure, args.output, dpi=110), sep="\n")
    except REFUSED as error:
        return refuse("environments", error)
    plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
