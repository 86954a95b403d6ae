"""Environments made, played for a moment and closed, again and again in one process."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np

from envs import choose_backend, make_env
from tests.faults.footprint import Contexts, Held, heap, held
from tests.faults.verdicts import Line, constant, growth

SMALL = {"size": (32, 32), "shadow_size": 16, "time_limit": 10}
CAMERA = {"camera": True, "difficulty": "easy", "dynamic": True}
WARM_UP = 0.3  # share of the rounds that is not looked at
PER = 1000  # constructions that slopes are of
# MiB for so many. A picture's buffer is 16 KiB here and a model larger: neither may stay. What
# does stay is a function that dm_control registers for the interpreter's exit with each context.
# Resident memory has holes besides, which differ from round to round.
BOUNDS = {"heap": 1.0, "rss": 10.0, "anonymous": 10.0}

Plan = Sequence[tuple[str, Mapping[str, Any]]]  # the tasks of one round, and their settings


class Round(NamedTuple):
    """What the process holds after so many rounds and constructions.

    ``heap`` is in MiB, ``blocks`` counts objects of Python, ``contexts`` those of OpenGL.
    """

    number: int
    count: int
    main: Held
    heap: float
    blocks: int
    contexts: int


def plan(folder: Path) -> Plan:
    """One round: every suite and every distraction, the cheap ones more often.

    Args:
        folder: where background videos are written.
    """
    for number in range(2):
        for t in range(3):
            path = folder / f"video{number}" / f"{t}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, t]).integers(0, 256, (32, 32, 3), np.uint8)
            iio.imwrite(path, noise)
    videos = {"background_dataset_path": str(folder), "background_dataset_videos": None}
    videos |= {"test_background_dataset_path": str(folder), "test_background_dataset_videos": None}
    inverted = ("gymnasium_InvertedPendulum-v5", {})
    return [
        ("dmc2gym_reacher_easy", {}),
        inverted,
        ("gymnasium_Pusher-v5", {}),
        ("dmc2gym_walker_walk", CAMERA),
        inverted,
        ("metaworld_drawer-open-v1", {}),
        ("dmc2gym_cartpole_balance", {**videos, "dynamic": True}),
        inverted,
        ("gymnasium_Pusher-v5", {}),
        ("dmc_pendulum_swingup", {}),
    ]


def construct(
    count: int, rounds: Plan, tell: Callable[[Round], None], make: Callable[..., Any] = make_env
) -> dict[str, Any]:
    """Makes, resets, steps and closes ``count`` environments, in rounds.

    In every other round each changes to its other look before it is closed.

    Args:
        count: how many; whole rounds are made.
        rounds: the tasks of a round.
        tell: takes the reading after each round.
        make: makes one, as `envs.make_env`.
    """
    contexts, readings, begun = Contexts(), [], time.monotonic()
    with contexts.counting(choose_backend().name):
        for number in range(count // len(rounds)):
            for task, settings in rounds:
                env = make(task, **{**SMALL, **settings})
                for variation in ("train", "test")[: 1 + number % 2]:
                    env.reset(seed=number, options={"variation": variation})
                    env.step(env.action_space.sample())
                env.close()
                del env
            gc.collect()  # what is still held now will be held
            counted = number + 1, (number + 1) * len(rounds)
            own = held(os.getpid()), heap(), sys.getallocatedblocks()
            readings.append(Round(*counted, *own, contexts.live))
            tell(readings[-1])
    return {
        "seconds": time.monotonic() - begun,
        "constructions": readings[-1].count,
        "contexts_made": contexts.made,
        "contexts_destroyed": contexts.destroyed,
        "contexts_at_once": contexts.most,
        "rounds": readings,
    }


def judge(found: Mapping[str, Any], bounds: Mapping[str, float] = BOUNDS) -> list[Line]:
    """What grew, and whether it may."""
    rounds = found["rounds"]
    late = rounds[int(len(rounds) * WARM_UP) :]
    made, destroyed = found["contexts_made"], found["contexts_destroyed"]
    lines = [
        constant("OpenGL contexts made, destroyed", [made, destroyed]),
        constant("OpenGL contexts left", [0, *(r.contexts for r in rounds)]),
        constant("descriptors", [r.main.descriptors for r in late]),
        constant("threads", [r.main.threads for r in late]),
    ]
    done = [r.count / PER for r in late]
    memory = {"heap": [r.heap for r in late]}
    memory |= {name: [getattr(r.main, name) for r in late] for name in ("rss", "anonymous")}
    for name, values in memory.items():
        lines.append(growth(f"{name}, MiB", bounds[name], done, values))
    blocks = [r.blocks / 1e3 for r in late]
    lines.append(growth("Python's blocks, thousands", None, done, blocks))
    return lines
