"""Environments that fail when they are told to, in this process or in a worker's."""

import contextlib
import gc
import os
import signal
import struct
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import envs
from envs.wrappers import AgentInfo, Named, Pixels, Resumable

TASK = "dmc2gym_cartpole_swingup"
SMALL = {"time_limit": 20, "size": (16, 16), "shadow_size": 64}  # 10 steps
SHAPE = (4, 4, 3)


def processes(vector: envs.VectorEnv) -> list[BaseProcess]:
    """The worker processes of a vector, in the order of its environments."""
    return [worker.process for worker in vector._envs._workers if worker is not None]


class Toy(gym.Env):
    """An environment that costs nothing: its image shows a hash of its seed and actions."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    observation_space = gym.spaces.Discrete(1)

    def __init__(self):
        self.t, self.sum = 0, 0.0

    def reset(self, *, seed=None, options=None):
        """Starts an episode of 10 steps."""
        self.look = {"train": 0, "test": 100}[(options or {}).get("variation") or "train"]
        self.t, self.sum = 0, float(seed or 0)
        return None, {}

    def step(self, action):
        """Earns what the actions add up to."""
        self.t, self.sum = self.t + 1, self.sum * 1.3 + float(action[0])
        return None, self.sum, False, self.t == 10, {}

    def render(self):
        """The sum as a colour."""
        shade = (self.look + self.t + np.nan_to_num(self.sum) * 1000) % 256
        return np.full(SHAPE, shade, np.uint8)


class Crashing(gym.Wrapper):
    """Fails at the given moment, in one of several ways, for so many times in all processes.

    Args:
        env: a resumable environment, the ``index``-th of its vector.
        moment: (seed of the episode, step from 1), 0 for its reset, −k for when it is taken up
            after k steps.
        how: what happens then, a name in ``WAYS``.
        ledger: a file whose size is how often it has happened.
        times: how often it is to happen.
    """

    def __init__(self, env: gym.Env, index: int, moment, how: str, ledger: Path, times: int):
        super().__init__(env)
        self.index, self.moment, self.how = index, moment, how
        self.ledger, self.times = ledger, times
        self.now = (None, 0)

    def reset(self, *, seed=None, options=None):
        """Starts or takes up an episode."""
        entry = (options or {}).get("replay", {}).get(self.index)
        self.now = (entry["seed"], -len(entry["actions"])) if entry else (seed, 0)
        self.strike()
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        """One step."""
        self.now = (self.now[0], abs(self.now[1]) + 1)
        observation, reward, *rest = self.env.step(action)
        reward = self.strike() or reward
        return observation, reward, *rest

    def strike(self) -> float | None:
        """Fails if this is the moment."""
        done = self.ledger.stat().st_size if self.ledger.exists() else 0
        if self.now != self.moment or done >= self.times:
            return None
        with self.ledger.open("ab") as file:
            file.write(b"x")
        return WAYS[self.how]()


def _raise() -> float:
    raise ValueError("the simulator gave up")


def _kill() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def _leave() -> float:
    os._exit(3)


def _hang() -> float:
    time.sleep(3600)
    return 0.0


def _hang_up_within_a_message() -> float:
    """Dies after four bytes of an answer of a thousand."""
    pipes = [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
    for pipe in pipes:
        with contextlib.suppress(OSError):  # one that cannot be written to
            os.write(pipe.fileno(), struct.pack("!i", 1000) + b"abcd")
    return _kill()


WAYS: dict[str, Callable[[], float]] = {
    "raise": _raise,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "kill": _kill,
    "leave": _leave,
    "hang": _hang,
    "partial": _hang_up_within_a_message,
}


class Lingering(gym.Wrapper):
    """Takes a minute to close."""

    def close(self):
        """Sleeps."""
        time.sleep(60)


def lingering(index: int) -> gym.Env:
    """A toy that does."""
    return Lingering(toy(index))


class Unclosable(gym.Wrapper):
    """Fails to close."""

    def close(self):
        """Raises."""
        raise OSError("closing failed")


def unclosable() -> gym.Env:
    """The second of a vector, which does."""
    return Unclosable(toy(1))


def toy(index: int) -> gym.Env:
    """The ``index``-th of a vector of toys."""
    return Resumable(AgentInfo(Named(Pixels(Toy(), SHAPE[:2]))), index)


def real(index: int) -> gym.Env:
    """The ``index``-th of a vector of small cart-poles under moving colours."""
    return envs.make_env(TASK, index=index, **SMALL)


def crashing(index: int, make: Callable[[int], gym.Env], **plan: Any) -> gym.Env:
    """One that fails."""
    return Crashing(make(index), index, **plan)


def once_built(index: int, ledger: Path, times: int) -> gym.Env:
    """A toy that can be built at first, then not for so many times, then again."""
    built = ledger.stat().st_size if ledger.exists() else 0
    with ledger.open("ab") as file:
        file.write(b"x")
    if 1 <= built <= times:
        raise OSError("no more memory")
    return toy(index)
