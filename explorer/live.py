"""An environment to play in: frames of a task as it looks now, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import State
from envs import (
    EnvError,
    EnvSettings,
    RenderingError,
    UnknownTask,
    VectorEnv,
    choose_renderer,
    factories_of,
    module_of,
)
from explorer.clips import Clip
from explorer.subject import RUNTIME, Subject
from models import VECTOR
from tools import UserError
from training.collector import check_finite, observed
from training.factory import make_envs, spaces_of

POLICY, RANDOM = "policy", "random"
TIMEOUT = 60  # seconds after which an environment that does not answer has failed


class Live:
    """One environment in a process of its own, made when it is first asked for.

    Who begins an episode ends the one before; its frames stay with whoever looks at them.

    Args:
        subject: whose task it is, and whose agent plays.

    Attributes:
        missing: why there is none, one line; None where there is.
        looks: the variations that episodes can have.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._envs: VectorEnv | None = None
        self._clip: Clip | None = None
        self._state: State | None = None
        self._rng = np.random.default_rng(0)
        self.looks: list[str] = []
        self.missing = self._look()

    def _look(self) -> str | None:
        config = self._subject.config
        if config is None:
            return "a predictor without config.yaml does not say which task it is of"
        if module := module_of(config.task):
            return f"{config.task} imports {module}, and no run's folder makes code run"
        try:
            self.looks = list(factories_of(config.task, EnvSettings.within(config)))
        except (UserError, UnknownTask, ValueError, ImportError) as error:
            return f"{config.task} cannot be made here: {error}"
        return None

    def begin(self, look: str) -> Clip:
        """A new episode in that variation, of which the first frame is there.

        Raises:
            UserError: there is no such variation, or the environment cannot be made.
        """
        config = self._subject.config
        if self.missing or config is None:
            raise UserError(f"there is no live environment: {self.missing}")
        if look not in self.looks:
            raise UserError(f"there is no look of that name: {', '.join(self.looks)}")
        try:
            if self._envs is None:
                choose_renderer(config.task, "cpu")
                config = config.replace(async_env="process", env_timeout=TIMEOUT)
                self._envs = make_envs(config, RUNTIME, 1, "eval", look)
                try:
                    self._check(self._envs)
                except UserError:
                    self.close()  # or the next one to ask would be given it unchecked
                    raise
            seed = int(self._rng.integers(1 << 31))
            image = self._envs.reset(seeds=[seed], variation=look)
        except (EnvError, RenderingError) as error:
            raise self._broken(error) from None
        columns = {"image": image, "reward": np.zeros(1, np.float32)}
        columns["action"] = np.zeros((1, self._envs.action_size), np.float32)
        if self._envs.vector_size:
            columns[VECTOR] = self._envs.vectors
        self._clip, self._state = Clip(f"{config.task}, {look}", columns), None
        return self._clip

    def _check(self, envs: VectorEnv) -> None:
        agent, shape = self._subject.agent, self._subject.image_shape
        if envs.image_shape != shape:
            raise UserError(f"the task's images are {envs.image_shape}, and the models see {shape}")
        spaces = spaces_of(envs)
        if agent and (agent.policy.actions, agent.vector_size) != (
            spaces.action_size,
            spaces.vector_size,
        ):
            raise UserError("the task has other actions than the run's: it is not the same here")

    def is_open(self, clip: Clip) -> bool:
        """Whether a clip is the episode that is under way."""
        return clip is self._clip

    def play(self, clip: Clip, action: str | np.ndarray, steps: int) -> None:
        """Plays on, as long as the episode lasts, and appends what is seen.

        Args:
            clip: what `begin` gave last.
            action: `POLICY`, `RANDOM`, or one to repeat, [A].
            steps: at most so many.

        Raises:
            UserError: the episode is over, or the environment broke.
        """
        if not self.is_open(clip) or self._envs is None:
            raise UserError("this episode is over: begin another one")
        for _ in range(steps):
            taken = self._choose(clip, action)
            try:
                result = self._envs.step(taken[None])
            except EnvError as error:
                raise self._broken(error) from None
            row = {"image": result.image[0], "action": taken, "reward": result.reward[0]}
            clip.append({**row, VECTOR: result.vector[0]})
            if result.terminated[0] or result.truncated[0]:
                self._clip = None
                return

    def _choose(self, clip: Clip, action: str | np.ndarray) -> np.ndarray:
        """The next action [A]; the agent sees every frame, whoever chooses."""
        assert self._envs is not None
        agent, chosen = self._subject.agent, None
        if agent is not None:
            last = {key: value[-1:] for key, value in clip.columns.items()}
            seen = last.get(VECTOR, np.zeros((1, 0), np.float32))
            obs: Mapping[str, Any] = observed(last["image"], seen, np.array([len(clip) == 1]))
            chosen, self._state = agent.act(obs, self._state, "eval")
            check_finite(chosen)
            chosen = chosen[0]
        if isinstance(action, str):
            if action == RANDOM or chosen is None:
                action = self._draw()
            else:
                return chosen
        if self._state is not None:  # what led to the next frame is what was done
            given = self._state["action"]
            given[0] = given.new_tensor(action)
        return action

    def _draw(self) -> np.ndarray:
        assert self._envs is not None
        size = self._envs.action_size
        if self._envs.discrete:
            return np.eye(size, dtype=np.float32)[self._rng.integers(size)]
        return self._rng.uniform(-1, 1, size).astype(np.float32)

    def _broken(self, error: Exception) -> UserError:
        self.close()
        return UserError(f"the environment failed: {str(error).strip().splitlines()[-1]}")

    def close(self) -> None:
        """Ends the environment's process."""
        envs, self._envs, self._clip = self._envs, None, None
        if envs is not None:
            envs.close()
