"""One worker: the process that an environment runs in, and this end of the pipe to it.

Workers are spawned, because forking a process that runs PyTorch's threads can deadlock. They
inherit ``MUJOCO_GL``, use one thread each and leave signals to the parent.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np

from envs.errors import EnvError, Reported, close, perform

# Seconds that closing waits for workers to end by themselves, and for the end of a killed one.
PATIENCE = 5.0

_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

_STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

# Libraries size their thread pools by these when they are loaded; LP is Mesa's rasteriser.
_SURROUNDINGS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1"
)
# Large blocks go back to the system when they are freed (glibc): an environment made anew after a
# switch of colours otherwise leaves holes of tens of MiB.
_SURROUNDINGS["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)


# (buffer, dtype, shape [n, …]) of each part of the observations, by its name.
Memory = Mapping[str, tuple[Any, np.dtype, tuple[int, ...]]]


def views(memory: Memory) -> dict[str, np.ndarray]:
    """The arrays [n, …] that lie in shared memory."""
    return {
        name: np.frombuffer(buffer, dtype).reshape(shape)
        for name, (buffer, dtype, shape) in memory.items()
    }


class Worker:
    """A process, and this end of the pipe to it."""

    def __init__(self, index: int, factory: Callable[[], gym.Env], memory: Memory):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work,
            name=f"env-{index}",
            args=(index, factory, theirs, memory, guardian()),
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
        self.process.join(PATIENCE)
        exitcode = self.process.exitcode
        if exitcode is None:
            return "does not answer"
        if exitcode < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"ended with signal {known.get(-exitcode, -exitcode)}"
        return f"ended with exit code {exitcode}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)
        self.release()

    def release(self) -> None:
        """Gives the descriptors back."""
        self.pipe.close()
        if self.process.exitcode is not None:
            self.process.close()
        else:
            # Stuck in the system: at its own end Python would wait for it without a limit, and
            # Python 3.13 for the resource tracker, too, which ends after whoever holds its pipe.
            multiprocessing.process._children.discard(self.process)
            resource_tracker._resource_tracker._pid = None


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


def guardian() -> int | None:
    """The process that workers shall not outlive; the system's tie is to the thread that starts."""
    return os.getpid() if threading.current_thread() is threading.main_thread() else None


def tie(parent: int) -> None:
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
    memory: Memory,
    parent: int | None,
) -> None:
    """A worker's life: it builds its environment, then answers until told to close."""
    if parent is not None:
        tie(parent)
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


def _serve(env: gym.Env, index: int, pipe: Connection, memory: Memory) -> bool:
    """Answers until told to close; returns whether the environment failed, which has been told."""
    shown = {name: part[index] for name, part in views(memory).items()}
    while True:
        command, data = pipe.recv()
        if command == "close":
            return False
        try:
            answer = perform(env, shown, command, data)
        except EnvError as error:
            pipe.send((False, str(error)))
            return True
        pipe.send((True, answer))
