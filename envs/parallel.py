"""Environments in processes of their own, with the edges a long training run needs.

Workers are spawned, because forking a process that runs PyTorch's threads can deadlock. They
inherit ``MUJOCO_GL``, use one thread each and leave signals to the parent. A worker that fails,
dies or hangs is an :class:`EnvError` of its environment alone; closing reaps them all within
seconds.

Nothing that a worker may be killed with is shared: frames lie in memory without a lock, everything
else goes through its own pipe.
"""

import atexit
import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np

from envs.errors import Reported, close, perform
from envs.recovery import steps_of
from envs.wrappers import EnvError

# Seconds that closing waits for workers to end by themselves, and for the end of a killed one.
_PATIENCE = 5.0

BUILDING = 60  # seconds that building may take beyond the timeout

_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

_STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

# Libraries size their thread pools by these when they are loaded; LP is Mesa's rasteriser.
_SURROUNDINGS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1"
)
# Large blocks go back to the system when they are freed (glibc): an environment made anew after a
# switch of colours otherwise leaves holes of tens of MiB.
_SURROUNDINGS["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)


class Processes:
    """One process per environment, frames through shared memory.

    What is sent to a worker is answered once, in its order; the frame then lies in ``images``. One
    that failed answers no more until it is made anew.

    Attributes:
        timeout: Seconds that an answer may take, and one more for each step of an episode that is
            taken up and a minute for building; 0 for any.
        images: [n, …], the newest frame of each environment, black before its first.
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
        space = self.observation_space["image"]
        self.timeout = timeout
        self._factories, self._shape = factories, (len(factories), *space.shape)
        size = int(np.prod(self._shape)) * space.dtype.itemsize
        self._memory = multiprocessing.get_context("spawn").RawArray("B", size)
        self.images = np.frombuffer(self._memory, space.dtype).reshape(self._shape)
        self._workers: list[_Worker | None] = [None] * len(factories)
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

    @property
    def processes(self) -> list[BaseProcess]:
        """The processes that have been started and not been closed."""
        return [worker.process for worker in self._workers if worker is not None]

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
        deadline = time.monotonic() + _PATIENCE
        for worker in workers:
            worker.send(("close", None))
        for worker in workers:
            worker.drain(deadline)
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        _kill(self._workers)
        atexit.unregister(self._at_exit)

    def _answers(self, index: int, worker: "_Worker") -> bool:
        """Waits for an answer; time that the whole run spends suspended does not count."""
        until = self._since[index] + self.timeout + self._extra[index]
        while not worker.pipe.poll(1.0):
            self._waited += 1
            if self._waited >= until:
                return False
        return True

    def _start(self, index: int) -> None:
        self._since[index], self._extra[index] = self._waited, BUILDING
        memory = (self._memory, self.images.dtype, self._shape)
        try:
            self._workers[index] = _Worker(index, self._factories[index], memory)
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


def _kill(workers: list["_Worker | None"]) -> None:
    """Ends those that are left, and takes them out of the list."""
    for worker in workers:
        if worker is not None:
            worker.process.kill()
    for index, worker in enumerate(workers):
        if worker is not None:
            worker.kill()
        workers[index] = None


class _Worker:
    """A process, and this end of the pipe to it."""

    def __init__(self, index: int, factory: Callable[[], gym.Env], memory: tuple):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work,
            name=f"env-{index}",
            args=(index, factory, theirs, memory, _guardian()),
            daemon=True,
        )
        try:
            with _spawning():
                self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()  # so that the worker's end is its own, and its death hangs up

    def send(self, message: tuple[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is dead: whoever waits for an answer is told
            self.pipe.send(message)

    def drain(self, deadline: float) -> None:
        """Receives what it still sends, so that it is not stuck sending, until it hangs up."""
        # Hanging up is what we wait for; Ctrl-C within an answer has left the rest of it.
        with contextlib.suppress(Exception):
            while self.pipe.poll(max(0.0, deadline - time.monotonic())):
                self.pipe.recv()

    def ending(self) -> str:
        """How the process ended, in words."""
        self.process.join(_PATIENCE)
        exitcode = self.process.exitcode
        if exitcode is None:
            return "does not answer"
        if exitcode < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"ended with signal {known.get(-exitcode, -exitcode)}"
        return f"ended with exit code {exitcode}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join(_PATIENCE)
        self.release()

    def release(self) -> None:
        """Gives the descriptors back."""
        self.pipe.close()
        if self.process.exitcode is not None:
            self.process.close()
        else:  # stuck in the system: at its own end Python would wait for it without a limit
            multiprocessing.process._children.discard(self.process)


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """The conditions under which workers are started.

    - One thread each, and no hoarding: the variables must be set before the interpreter starts.
    - Signals to stop wait: a worker inherits them blocked until it ignores them for good.
    - The main script is hidden: a spawned process would otherwise import it, and PyTorch with
      it, for nothing; the thunks need ``envs`` alone.
    """
    before = {name: os.environ.get(name) for name in _SURROUNDINGS}
    main = sys.modules["__main__"]
    blocked = None
    # Its start would unblock Ctrl-C again, so it comes first.
    resource_tracker.ensure_running()
    try:
        os.environ.update(_SURROUNDINGS)
        sys.modules["__main__"] = types.ModuleType("__main__")
        if threading.current_thread() is threading.main_thread():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _guardian() -> int | None:
    """The process that workers shall not outlive; the system's tie is to the thread that starts."""
    return os.getpid() if threading.current_thread() is threading.main_thread() else None


def _tie(parent: int) -> None:
    """Ends this process with its parent, even one that hangs; then nobody else could end it."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl is not None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def _work(
    index: int,
    factory: Callable[[], gym.Env],
    pipe: Connection,
    memory: tuple,
    parent: int | None,
) -> None:
    """A worker's life: it builds its environment, then answers until told to close."""
    if parent is not None:
        _tie(parent)
    # Terminals and schedulers signal all processes of a run; the parent alone decides, and its end
    # hangs up.
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent was killed: nobody to tell
        try:
            env = Reported(factory(), index)
        except Exception:
            pipe.send((False, f"env {index} could not be built:\n{traceback.format_exc()}"))
            return
        told = False
        try:
            pipe.send((True, (env.observation_space, env.action_space)))
            told = _serve(env, index, pipe, memory)
        finally:
            close(env, index, told)


def _serve(env: gym.Env, index: int, pipe: Connection, memory: tuple) -> bool:
    """Answers until told to close; returns whether the environment failed, which has been told."""
    buffer, dtype, shape = memory
    image = np.frombuffer(buffer, dtype).reshape(shape)[index]
    while True:
        command, data = pipe.recv()
        if command == "close":
            return False
        try:
            answer = perform(env, image, command, data)
        except EnvError as error:
            pipe.send((False, str(error)))
            return True
        pipe.send((True, answer))
