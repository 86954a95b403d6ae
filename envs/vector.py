"""Several environments at once, behind one small interface.

Nothing resets by itself: the caller resets the environments it chooses, with the seeds it
chooses, so that every episode is known by its seed. With its seed and its actions an episode goes
on in a new environment when the old one has failed.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from envs.errors import EnvError
from envs.parallel import ParallelEnvs
from envs.recovery import OpenEpisode, in_a_line, used_up
from envs.serial import SerialEnvs
from envs.suites import SPLITS
from envs.wrappers import VECTOR, OneHot

WORKERS = ("none", "process", "auto")
# What a step of a broken environment answers.
_NOTHING = {"discount": 1.0, "success": math.nan, "distance": math.nan}
_LARGEST = float(np.finfo(np.float32).max)
_BROKEN = (0.0, False, False, _NOTHING)


class StepResult(NamedTuple):
    """One step of n environments. All arrays are the caller's: later steps leave them alone.

    Attributes:
        image: uint8 [n, height, width, channels], after the step.
        reward: float32 [n], summed over the control steps.
        terminated: bool [n], the task has ended.
        truncated: bool [n], the time is up.
        discount: float32 [n], 0 where terminated.
        success: float32 [n], above 0 where the task was achieved in this step; NaN where the
            environment does not tell.
        distance: float32 [n], from the goal, in the environment's unit; NaN likewise.
        vector: float32 [n, V], the numbers beside the image; V is 0 where there are none.
        broken: bool [n], the environment failed and its episode is lost: what the other fields
            say of it means nothing, and it has to be reset.
    """

    image: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    discount: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    vector: np.ndarray
    broken: np.ndarray


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


class VectorEnv:
    """n environments, in this process or in one each; the numbers are the same.

    One that fails (it raises, its process dies or hangs, its reward is not finite) is made anew,
    and does what it failed in once more: its episode is taken up where it stood, and nothing shows.
    If it fails again, the episode is lost, the step that is under way or comes next says so, and
    another new environment waits for its reset.

    Attributes:
        restarts: How often environments may be made anew, in all; at 0, the default, the first
            failure raises.
        restarted: How often they were.
        lost: bool [n], whose episode could not begin or be taken up: the next step is broken.
        notes: What has failed, see :meth:`take_notes`.
        n: How many environments.
        split: The stream of seeds that is theirs, 'train' or 'eval'.
        workers: 'none' or 'process'.
        image_shape: (height, width, channels).
        vector_size: V, the numbers that are seen beside the image.
        action_size: A.
        discrete: Whether an action is a one-hot choice.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], gym.Env]],
        *,
        workers: str = "auto",
        split: str = "train",
        timeout: int = 0,
    ):
        """Builds the environments.

        Args:
            factories: One thunk per environment, picklable where it is to run in a process. To
                take up episodes it has to be :class:`envs.wrappers.Resumable` by its place.
            workers: 'none', 'process', or 'auto': processes for several environments on
                several cores.
            split: 'train' or 'eval'.
            timeout: Seconds after which a worker that does not answer has failed; 0 for never. One
                in this process is waited for as long as it takes.

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
            self._envs = ParallelEnvs(factories, timeout)
        else:
            self._envs = SerialEnvs(factories)
        self.n = len(factories)
        self.split = split
        self.workers = workers
        self.image_shape = self._envs.shown["image"].shape[1:]
        self.vector_size = self.vectors.shape[1]
        self.action_size = int(self._envs.action_space.shape[0])
        self.discrete = isinstance(self._envs.action_space, OneHot)
        self.restarts = self.restarted = 0
        self.lost = np.zeros(self.n, bool)
        self.notes: list[dict[str, Any]] = []
        self._episodes = [OpenEpisode() for _ in factories]
        self._running = np.zeros(self.n, bool)  # inside an episode, so able to step
        self._actions: np.ndarray | None = None  # sent or about to be, not yet answered

    @property
    def vectors(self) -> np.ndarray:
        """float32 [n, V], the numbers beside the newest images."""
        vectors = self._envs.shown.get(VECTOR)
        return np.zeros((self.n, 0), np.float32) if vectors is None else vectors.copy()

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
            EnvError: If an environment fails, and restarts are used up.
        """
        mask = np.ones(self.n, bool) if mask is None else np.array(mask, bool)
        chosen = [None] * self.n if seeds is None else list(seeds)
        if len(chosen) != self.n:
            raise ValueError(f"{len(chosen)} seeds for {self.n} environments")
        if mask.shape != (self.n,) or not mask.any():
            raise ValueError(f"the mask must choose among {self.n} environments, not {mask}")
        begun = {}
        for i in np.flatnonzero(mask).tolist():
            seed = None if chosen[i] is None else int(chosen[i])
            begun[i] = OpenEpisode(seed, variation or self._episodes[i].variation)
        return self._begin(begun)

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
            EnvError: If an episode ends within its recorded actions, or an environment fails, and
                restarts are used up.
        """
        if len(episodes) != self.n:
            raise ValueError(f"{len(episodes)} episodes for {self.n} environments")
        begun = {}
        for i, entry in enumerate(episodes):
            if entry is not None:
                actions = np.array(entry["actions"], np.float32).reshape(-1, self.action_size)
                variation = entry["variation"] or self._episodes[i].variation
                begun[i] = OpenEpisode(int(entry["seed"]), variation, list(actions))
        if not begun:
            raise ValueError("no episode to take up: all entries are None")
        return self._begin(begun)

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
        for i in np.flatnonzero(~self.lost).tolist():
            self._envs.send(i, "step", actions[i])
        self._actions = actions

    def step_wait(self) -> StepResult:
        """The result of the actions last sent.

        Raises:
            EnvError: If an environment failed, and restarts are used up.
        """
        if self._actions is None:
            raise RuntimeError("no step is under way: call step_async first")
        actions, self._actions = self._actions, None
        answers, errors = self._receive(np.flatnonzero(~self.lost).tolist())
        for i, error in errors.items():
            answer = self._again(i, error, self._episodes[i], actions[i])
            if answer is not None:
                answers[i] = answer
        for i in answers:
            self._episodes[i].actions.append(actions[i])
        result = self._result(answers)
        self._running = ~(result.terminated | result.truncated | result.broken)
        return result

    def take_notes(self) -> list[dict[str, Any]]:
        """What has failed since the last call, oldest first.

        Returns:
            For each restart ``env``, its place, or −1 for all of them; ``reason``, a line;
            ``steps`` of its episode so far; ``dropped``, whether that was lost.
        """
        notes, self.notes = self.notes, []
        return notes

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

    def _begin(self, begun: dict[int, OpenEpisode]) -> np.ndarray:
        """Takes environments to where their episodes stand; returns the frames of all."""
        if self._actions is not None:
            raise RuntimeError("a step is under way: call step_wait first")
        # An error below leaves the chosen ones in no episode.
        chosen = list(begun)
        self._running[chosen] = False
        for i, episode in begun.items():
            self._envs.send(i, "reset", episode.reset(i))
        _, errors = self._receive(chosen)
        lost = [i for i, error in errors.items() if self._again(i, error, begun[i]) is None]
        for i, episode in begun.items():
            self._episodes[i] = episode
        self.lost[chosen] = False
        self.lost[lost] = True
        self._running[chosen] = True
        return self._envs.shown["image"].copy()

    def _receive(self, chosen: list[int]) -> tuple[dict[int, tuple], dict[int, EnvError]]:
        """What the chosen environments answer, and the errors of those that failed."""
        answers, errors = {}, {}
        for i in chosen:  # every one, so that no answer is left for later
            try:
                answers[i] = self._answer(i)
            except EnvError as error:
                errors[i] = error
        return answers, errors

    def _answer(self, i: int) -> tuple:
        answer = self._envs.receive(i)
        if answer:
            reward, _, _, info = answer
            for name, value in (("reward", reward), ("discount", info["discount"])):
                if not abs(value) <= _LARGEST:
                    raise EnvError(f"env {i} failed in step: its {name} is {value}")
        return answer

    def _again(
        self, i: int, error: EnvError, episode: OpenEpisode, action: np.ndarray | None = None
    ) -> tuple | None:
        """Makes an environment anew, takes its episode up and does what it failed in.

        Returns:
            Its answer; None if it fails in that, too, so that the episode is lost.
        """
        self._renew(i, error, steps=len(episode.actions), dropped=False)
        try:
            self._envs.send(i, "reset", episode.reset(i))
            answer = self._answer(i)
            if action is not None:
                self._envs.send(i, "step", action)
                answer = self._answer(i)
            return answer
        except EnvError as again:
            self._renew(i, again, steps=len(episode.actions), dropped=True)
            return None

    def _renew(self, i: int, error: EnvError, **note: Any) -> None:
        """Makes an environment anew, again and again if need be."""
        while True:
            if self.restarted >= self.restarts:
                raise used_up(error, self.restarts)
            self.restarted += 1
            self.notes.append({"env": i, "reason": in_a_line(error), **note})
            try:
                return self._envs.remake(i)
            except EnvError as again:
                error, note["dropped"] = again, False

    def _result(self, answers: dict[int, tuple]) -> StepResult:
        """The answers as arrays; where there is none, the environment is broken."""
        rows = [answers.get(i, _BROKEN) for i in range(self.n)]
        reward, terminated, truncated, info = zip(*rows, strict=True)
        told = {name: [row[name] for row in info] for name in _NOTHING}
        return StepResult(
            self._envs.shown["image"].copy(),
            np.array(reward, np.float32),
            np.array(terminated, bool),
            np.array(truncated, bool),
            np.array(told["discount"], np.float32),
            np.array(told["success"], np.float32),
            np.array(told["distance"], np.float32),
            self.vectors,
            np.array([i not in answers for i in range(self.n)]),
        )
