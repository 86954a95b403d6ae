"""Several environments at once, behind one small interface.

Nothing resets by itself: the caller resets the environments it chooses, with the seeds it
chooses, so that every episode is known by its seed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.processes import ProcessVector
from envs.suites import SPLITS
from envs.wrappers import OneHot

WORKERS = ("none", "process", "auto")


class StepResult(NamedTuple):
    """One step of n environments. All arrays are the caller's: later steps leave them alone.

    Attributes:
        image: uint8 [n, height, width, channels], after the step.
        reward: float32 [n], summed over the control steps.
        terminated: bool [n], the task has ended.
        truncated: bool [n], the time is up.
        discount: float32 [n], 0 where terminated.
        control_steps: int64 [n], how many the step took.
        success: float32 [n], above 0 where the task was achieved in this step; NaN where the
            environment does not tell.
        distance: float32 [n], from the goal, in the environment's unit; NaN likewise.
    """

    image: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    discount: np.ndarray
    control_steps: np.ndarray
    success: np.ndarray
    distance: np.ndarray


def episode_seed(seed: int, split: str, index: int) -> int:
    """The seed of one episode, the same on every platform.

    Args:
        seed: Seed of the run, at least 0.
        split: 'train' or 'eval'; their streams are independent.
        index: Number of the episode within its split, from 0.

    Returns:
        An integer in [0, 2³¹).

    Raises:
        ValueError: If ``split`` is not known or a number is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


class _InTurn(SyncVectorEnv):
    """Gymnasium's vector without processes, of which a part can be reset first."""

    def __init__(self, factories: Sequence[Callable[[], gym.Env]]):
        """Builds the environments."""
        super().__init__(factories, autoreset_mode=AutoresetMode.DISABLED)
        # Gymnasium has None here until each has been reset, and cannot stack that.
        space = self.single_observation_space["image"]
        self._env_obs = [{"image": np.zeros(space.shape, space.dtype)}] * self.num_envs


class VectorEnv:
    """n environments, in this process or in one each; the numbers are the same.

    Attributes:
        n: How many environments.
        split: The stream of seeds that is theirs, 'train' or 'eval'.
        workers: 'none' or 'process'.
        image_shape: (height, width, channels).
        action_size: A.
        discrete: Whether an action is a one-hot choice.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], gym.Env]],
        *,
        workers: str = "auto",
        split: str = "train",
    ):
        """Builds the environments.

        Args:
            factories: One thunk per environment, picklable where it is to run in a process.
            workers: 'none', 'process', or 'auto': processes for several environments on
                several cores.
            split: 'train' or 'eval'.

        Raises:
            ValueError: If there are no factories, or ``workers`` or ``split`` is not known.
            EnvError: If a worker could not build its environment.
        """
        if not factories:
            raise ValueError("a vector needs at least one environment")
        if workers not in WORKERS:
            raise ValueError(f"workers must be one of {', '.join(WORKERS)}, not {workers!r}")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        if workers == "auto":
            workers = "process" if len(factories) > 1 and (os.cpu_count() or 1) > 1 else "none"
        if workers == "process":
            self._envs = ProcessVector(factories)
        else:
            self._envs = _InTurn(factories)
        self.n = len(factories)
        self.split = split
        self.workers = workers
        self.image_shape = self._envs.single_observation_space["image"].shape
        self.action_size = int(self._envs.single_action_space.shape[0])
        self.discrete = isinstance(self._envs.single_action_space, OneHot)
        self._running = np.zeros(self.n, bool)  # inside an episode, so able to step
        self._actions: np.ndarray | None = None  # sent or about to be, not yet answered

    def reset(
        self,
        mask: Sequence[bool] | np.ndarray | None = None,
        seeds: Sequence[int | None] | None = None,
        variation: str | None = None,
    ) -> np.ndarray:
        """Starts episodes in the chosen environments; the others are not touched.

        Args:
            mask: bool [n], which to reset; None for all.
            seeds: n seeds, read where ``mask`` holds.
            variation: The variation of the new episodes; None keeps each environment's.

        Returns:
            uint8 [n, height, width, channels]: new first frames where ``mask`` holds, the last
            frame elsewhere, black where there was none yet.

        Raises:
            ValueError: If the mask is empty or a length is not n.
            EnvError: If an environment fails.
        """
        mask = np.ones(self.n, bool) if mask is None else np.array(mask, bool)
        chosen = [None] * self.n if seeds is None else list(seeds)
        if len(chosen) != self.n:
            raise ValueError(f"{len(chosen)} seeds for {self.n} environments")
        for index, seed in enumerate(chosen):
            chosen[index] = int(seed) if mask[index] and seed is not None else None
        return self._reset(mask, chosen, {} if variation is None else {"variation": variation})

    def restore(self, episodes: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
        """Takes up interrupted episodes where they were left.

        Args:
            episodes: n entries ``{"seed", "variation", "actions"}``, the actions float32
                [k, A], none for an episode that is to begin; None for an environment to
                leave alone.

        Returns:
            uint8 [n, height, width, channels]: where an episode was taken up, the frame after
            its last action, equal to the uninterrupted one's.

        Raises:
            ValueError: If the number of entries is not n, or all are None.
            EnvError: If an episode ends within its recorded actions, or an environment fails.
        """
        if len(episodes) != self.n:
            raise ValueError(f"{len(episodes)} episodes for {self.n} environments")
        replay = {index: dict(entry) for index, entry in enumerate(episodes) if entry is not None}
        mask = np.array([entry is not None for entry in episodes])
        return self._reset(mask, [None] * self.n, {"replay": replay})

    def step(self, actions: np.ndarray) -> StepResult:
        """One step of every environment.

        Args:
            actions: [n, A], in [−1, 1] or one-hot.

        Raises:
            ValueError: If the shape is not [n, A].
            RuntimeError: If an episode has ended or not begun.
            EnvError: If an environment fails.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: np.ndarray) -> None:
        """Sends the actions [n, A]; workers step while the caller does something else.

        Without worker processes the steps are made in :meth:`step_wait`.
        """
        actions = np.array(actions, np.float32)
        if actions.shape != (self.n, self.action_size):
            raise ValueError(
                f"actions have shape {actions.shape}, expected {(self.n, self.action_size)}"
            )
        if self._actions is not None:
            raise RuntimeError("a step is under way: call step_wait first")
        if not self._running.all():
            ended = ", ".join(str(index) for index in np.flatnonzero(~self._running))
            raise RuntimeError(f"env {ended}: the episode has ended or not begun, so reset first")
        if self.workers == "process":
            self._envs.step_async(actions)
        self._actions = actions

    def step_wait(self) -> StepResult:
        """The result of the actions last sent."""
        if self._actions is None:
            raise RuntimeError("no step is under way: call step_async first")
        actions, self._actions = self._actions, None
        if self.workers == "process":
            outcome = self._envs.step_wait()
        else:
            outcome = self._envs.step(actions)
        observation, reward, terminated, truncated, info = outcome
        self._running = ~(terminated | truncated)
        return StepResult(
            observation["image"],
            reward.astype(np.float32),
            terminated,
            truncated,
            info["discount"].astype(np.float32),
            info["control_steps"].astype(np.int64),
            info["success"].astype(np.float32),
            info["distance"].astype(np.float32),
        )

    def close(self) -> None:
        """Closes the environments and reaps the workers; safe after errors, and twice."""
        self._running[:] = False
        self._envs.close()

    def __enter__(self) -> "VectorEnv":
        """The vector itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes it."""
        self.close()

    def _reset(self, mask: np.ndarray, seeds: list[int | None], options: dict) -> np.ndarray:
        if mask.shape != (self.n,) or not mask.any():
            raise ValueError(f"the mask must choose among {self.n} environments, not {mask}")
        if self._actions is not None:
            raise RuntimeError("a step is under way: call step_wait first")
        # An error below leaves the chosen ones in no episode.
        self._running[mask] = False
        # Gymnasium takes the mask out of the dictionary, and offers every masked env the rest.
        observation, _ = self._envs.reset(seed=seeds, options={**options, "reset_mask": mask})
        self._running[mask] = True
        return observation["image"]
