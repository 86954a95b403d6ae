"""Environments in processes of their own, with the edges a long training run needs.

A worker that fails, dies or hangs is an :class:`EnvError` of its environment alone; closing reaps
them all within seconds. Nothing that a worker may be killed with is shared: frames lie in memory
without a lock, everything else goes through its own pipe.
"""

import atexit
import functools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from envs.errors import EnvError, seen
from envs.recovery import steps_of
from envs.worker import PATIENCE, Worker, views

BUILDING = 60  # seconds that building may take beyond the timeout


class ParallelEnvs:
    """One process per environment, frames through shared memory.

    What is sent to a worker is answered once, in its order; the frame then lies in ``shown``. One
    that failed answers no more until it is made anew.

    Attributes:
        timeout: Seconds that an answer may take, and one more for each step of an episode that is
            taken up and a minute for building; 0 for any.
        shown: By their names the newest parts of each environment's observations, [n, …]: ``image``
            and, where there is one, ``vector``; zero before its first.
        observation_space: Of each environment.
        action_space: Likewise.
    """

    def __init__(self, factories: Sequence[Callable[[], gym.Env]], timeout: int = 0):
        """Starts the workers and waits until each has built its environment.

        Args:
            factories: One picklable thunk per environment. The first is also called here, for
                the spaces, so that a wrong setting is reported before any process starts.
            timeout: See the attributes.

        Raises:
            EnvError: If a worker could not build its environment.
        """
        env = factories[0]()
        self.observation_space, self.action_space = env.observation_space, env.action_space
        env.close()
        self.timeout, self._factories = timeout, factories
        context = multiprocessing.get_context("spawn")
        self._memory = {
            name: (context.RawArray("B", part.nbytes), part.dtype, part.shape)
            for name, part in seen(self.observation_space, len(factories)).items()
        }
        self.shown = views(self._memory)
        self._workers: list[Worker | None] = [None] * len(factories)
        # Seconds that were waited for answers in vain, in all and before each was last sent to:
        # those that hang at once are waited for at once. And how many more than usual it may take.
        self._waited, self._since = 0, [0] * len(factories)
        self._extra = [0] * len(factories)
        # They ignore the signal by which Python ends what is left at its exit, and waits for.
        self._at_exit = functools.partial(_kill, self._workers)
        atexit.register(self._at_exit)
        try:
            for index in range(len(factories)):
                self._start(index)
            for index in range(len(factories)):
                self._meet(index)
        except BaseException:
            self.close()
            raise

    def send(self, index: int, command: str, data: Any) -> None:
        """Asks for a 'step' or a 'reset'; that a worker is dead shows when it should answer."""
        worker = self._workers[index]
        self._since[index], self._extra[index] = self._waited, steps_of(index, command, data)
        if worker is not None:
            worker.send((command, data))

    def receive(self, index: int) -> tuple:
        """The answer to what was sent last, as of :func:`envs.errors.perform`.

        Raises:
            EnvError: If the environment failed, or its worker is dead or hangs.
        """
        worker = self._workers[index]
        if worker is None:
            raise EnvError(f"env {index} is gone: it was closed, or could not be made anew")
        try:
            if self.timeout and not self._answers(index, worker):
                worker.process.kill()
                patience = self.timeout + self._extra[index]
                raise EnvError(
                    f"env {index} is gone: it gave no answer for {patience} s (--env_timeout)"
                )
            succeeded, answer = worker.pipe.recv()
        except (EOFError, OSError) as error:  # it hung up, perhaps in the middle of its answer
            raise EnvError(f"env {index} is gone: its worker {worker.ending()}") from error
        if not succeeded:
            raise EnvError(answer)
        return answer

    def remake(self, index: int) -> None:
        """Replaces a worker, whatever state it is in; the others are not touched.

        Raises:
            EnvError: If the new one could not build its environment.
        """
        self._discard(index)
        self._start(index)
        self._meet(index)

    def close(self) -> None:
        """Ends and reaps every worker, whatever state the last call left them in."""
        workers = [worker for worker in self._workers if worker is not None]
        deadline = time.monotonic() + PATIENCE
        for worker in workers:
            worker.send(("close", None))
        for worker in workers:
            worker.drain(deadline)
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        _kill(self._workers)
        atexit.unregister(self._at_exit)

    def _answers(self, index: int, worker: Worker) -> bool:
        """Waits for an answer; time that the whole run spends suspended does not count."""
        until = self._since[index] + self.timeout + self._extra[index]
        while not worker.pipe.poll(1.0):
            self._waited += 1
            if self._waited >= until:
                return False
        return True

    def _start(self, index: int) -> None:
        self._since[index], self._extra[index] = self._waited, BUILDING
        try:
            self._workers[index] = Worker(index, self._factories[index], self._memory)
        except OSError as error:  # no process or descriptor left
            raise EnvError(f"env {index} could not be built: {error}") from error

    def _discard(self, index: int) -> None:
        worker, self._workers[index] = self._workers[index], None
        if worker is not None:
            worker.kill()

    def _meet(self, index: int) -> None:
        """Waits until a worker has built its environment, which has to be like the first."""
        if self.receive(index) != (self.observation_space, self.action_space):
            self._discard(index)
            raise EnvError(f"env {index} has other spaces than the first")


def _kill(workers: list[Worker | None]) -> None:
    """Ends those that are left, and takes them out of the list."""
    for worker in workers:
        if worker is not None:
            worker.process.kill()
    for index, worker in enumerate(workers):
        if worker is not None:
            worker.kill()
        workers[index] = None
