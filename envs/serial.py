"""Environments in this process, one after the other."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from envs.errors import EnvError, Reported, close, perform, seen


class SerialEnvs:
    """The same as :class:`envs.parallel.ParallelEnvs`, without processes.

    What is sent to an environment is done when its answer is received.
    """

    def __init__(self, factories: Sequence[Callable[[], gym.Env]]):
        """Builds the environments.

        Raises:
            EnvError: If one has other spaces than the first.
        """
        self._factories = factories
        self._envs: list[gym.Env | None] = [None] * len(factories)
        self._sent: list[tuple[str, Any]] = [("", None)] * len(factories)
        self._failed: set[int] = set()
        try:
            first = self._envs[0] = Reported(factories[0](), 0)
            self.observation_space, self.action_space = first.observation_space, first.action_space
            for index in range(1, len(factories)):
                self._build(index)
        except BaseException:
            self.close()
            raise
        self.shown = seen(self.observation_space, len(factories))

    def send(self, index: int, command: str, data: Any) -> None:
        """Remembers a 'step' or a 'reset'."""
        self._sent[index] = command, data

    def receive(self, index: int) -> tuple:
        """The answer to what was sent last, as of :func:`envs.errors.perform`.

        Raises:
            EnvError: If the environment failed.
        """
        env = self._envs[index]
        if env is None:
            raise EnvError(f"env {index} is gone: it was closed, or could not be made anew")
        try:
            shown = {name: part[index] for name, part in self.shown.items()}
            return perform(env, shown, *self._sent[index])
        except EnvError:
            self._failed.add(index)
            raise

    def remake(self, index: int) -> None:
        """Replaces an environment; the others are not touched.

        Raises:
            EnvError: If the new one could not be built.
        """
        self._failed.add(index)
        self._close(index)
        try:
            self._build(index)
        except EnvError:
            raise
        except Exception as error:
            trace = traceback.format_exc()
            raise EnvError(f"env {index} could not be built:\n{trace}") from error
        self._failed.discard(index)

    def close(self) -> None:
        """Closes every environment."""
        for index in range(len(self._envs)):
            self._close(index)

    def _build(self, index: int) -> None:
        env = Reported(self._factories[index](), index)
        if (env.observation_space, env.action_space) != (self.observation_space, self.action_space):
            env.close()
            raise EnvError(f"env {index} has other spaces than the first")
        self._envs[index] = env

    def _close(self, index: int) -> None:
        env, self._envs[index] = self._envs[index], None
        if env is not None:
            close(env, index, told=index in self._failed)
