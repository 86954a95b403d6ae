"""Gymnasium's process vector with the edges a long training run needs.

Workers are spawned, because forking a process that runs PyTorch's threads can deadlock. They
inherit ``MUJOCO_GL``, use one thread each and leave Ctrl-C to the parent. A worker that fails
or dies surfaces as one :class:`EnvError`, and closing reaps them all within seconds.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from envs.wrappers import EnvError

# Seconds that closing waits for workers to end by themselves, then for each stronger measure.
_PATIENCE = 5.0

# Libraries size their thread pools by these when they are loaded; LP is Mesa's rasteriser.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1"
)


class ProcessVector(AsyncVectorEnv):
    """One process per environment, images through shared memory, no automatic resets.

    ``reset`` and ``step_wait`` return copies, so a later step does not change them.
    """

    def __init__(self, factories: Sequence[Callable[[], gym.Env]]):
        """Starts the workers and waits until each has built its environment.

        Args:
            factories: One picklable thunk per environment. The first is also called here, for
                the spaces, so that a wrong setting is reported before any process starts.

        Raises:
            EnvError: If a worker could not build its environment.
        """
        self._starting = contextlib.ExitStack()
        self._starting.enter_context(_spawning())
        try:
            super().__init__(
                factories,
                shared_memory=True,
                copy=True,
                context="spawn",
                worker=_work,
                autoreset_mode=AutoresetMode.DISABLED,
            )
        finally:
            self._starting.close()

    def _check_spaces(self) -> None:
        """Asks the workers for their spaces, last in Gymnasium's constructor.

        All are started by now, but the buffers they map still belong to that constructor alone,
        so the wait for them has to be inside it.
        """
        self._starting.close()
        try:
            with self._watching():
                super()._check_spaces()
        except BaseException:
            self.close()
            raise

    def reset_async(self, *args, **kwargs) -> None:
        """Sends the resets."""
        with self._watching():
            super().reset_async(*args, **kwargs)

    def reset_wait(self, *args, **kwargs):
        """Waits for the resets."""
        with self._watching():
            return super().reset_wait(*args, **kwargs)

    def step_async(self, actions) -> None:
        """Sends the actions."""
        with self._watching():
            super().step_async(actions)

    def step_wait(self, *args, **kwargs):
        """Waits for the steps."""
        with self._watching():
            return super().step_wait(*args, **kwargs)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Says which worker died when a pipe breaks."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            for index, process in enumerate(self.processes):
                process.join(timeout=0.5)
                if process.exitcode is not None:
                    raise EnvError(
                        f"env {index} is gone: its worker ended with {_ending(process.exitcode)}"
                    ) from error
            raise

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raises the error of the first failed worker, with its traceback.

        Overrides Gymnasium's, which logs each and builds the exception anew from its value.
        """
        failed = list(successes).count(False)
        if not failed:
            return
        try:
            reports = [self.error_queue.get(timeout=_PATIENCE) for _ in range(failed)]
        except queue.Empty as error:
            raise EnvError("a worker failed and could not say why") from error
        self._state = AsyncState.DEFAULT
        index, _, error, trace = min(reports, key=lambda report: report[0])
        raise error if isinstance(error, EnvError) else EnvError(f"env {index} failed:\n{trace}")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends and reaps every worker, whatever state the last call left them in.

        Args:
            timeout: Seconds to wait for workers to end by themselves; None for five.
            terminate: Whether not to wait at all.
        """
        patience = _PATIENCE if timeout is None else timeout
        deadline = time.monotonic() + (0 if terminate else patience)
        for pipe in self.parent_pipes:
            with contextlib.suppress(OSError):  # the worker has ended already
                pipe.send(("close", None))
        for pipe in self.parent_pipes:
            _drain(pipe, deadline)
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for stop in ("terminate", "kill"):
            for process in self.processes:
                if process.is_alive():
                    getattr(process, stop)()
            for process in self.processes:
                process.join(_PATIENCE)
        for pipe in self.parent_pipes:
            pipe.close()
        self.error_queue.close()


def _drain(pipe, deadline: float) -> None:
    """Receives what a worker still sends, so that it is not stuck sending, until it hangs up."""
    with contextlib.suppress(EOFError, OSError):  # hung up: what we wait for
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            pipe.recv()


def _ending(exitcode: int) -> str:
    """An exit code in words."""
    if exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """The conditions under which workers are started.

    - One thread each: the variables must be set before the interpreter starts.
    - Ctrl-C waits: a worker inherits the blocked signal until it ignores it for good.
    - The main script is hidden: a spawned process would otherwise import it, and PyTorch with
      it, for nothing; the thunks need ``envs`` alone.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    blocked = None
    # Its start would unblock Ctrl-C again, so it comes first.
    resource_tracker.ensure_running()
    try:
        os.environ.update(_ONE_THREAD)
        sys.modules["__main__"] = types.ModuleType("__main__")
        if threading.current_thread() is threading.main_thread():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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


def _work(index, factory, pipe, parent_pipe, memory, errors, autoreset_mode, semaphore) -> None:
    """A worker's life; the arguments are Gymnasium's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        env = factory()
    except Exception:
        report = f"env {index} could not be built:\n{traceback.format_exc()}"
        errors.put((index, EnvError, EnvError(report), report))
        pipe.recv()  # the question about spaces, which this answers
        pipe.send((None, False))
        return
    with contextlib.suppress(BrokenPipeError):  # the parent was killed: nobody to tell
        _async_worker(
            index, lambda: env, pipe, parent_pipe, memory, errors, autoreset_mode, semaphore
        )
