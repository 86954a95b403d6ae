"""A function in the fastest way that works on this machine: recorded, compiled, or as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from accel.compiling import is_compilers, updating
from accel.graphs import CUDAGraph, Snapshot, State, Tensors, signature
from accel.runtime import Runtime
from tools import UserError, print_safe


class Accelerated:
    """A function of tensors that is recorded as a CUDA graph, compiled, or neither.

    A way is tried at the first call, and at the first one of other shapes. Where it fails, what it
    moved is put back, a line says why, and the same call goes on in the next lower way, as do all
    later ones. So a call computes exactly once what it is asked for, whatever fails.

    Args:
        function: as for `CUDAGraph`.
        runtime: which ways there are, and on which of them the user insists.
        name: what the function is, in words.
        state: as for `CUDAGraph`.

    Raises:
        UserError: the first call, with the mend, where a way fails that the user insists on.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        runtime: Runtime,
        name: str,
        state: State = list,
    ):
        self.compile, self.graphs = runtime.compile, runtime.graphs
        self._function, self._state, self._runtime, self._name = function, state, runtime, name
        self._graph = CUDAGraph(self._run, state, runtime.device) if runtime.graphs else None
        self._proven: dict | None = None  # the shapes that the present way has worked for

    def reset(self) -> None:
        """Forgets the recording: the tensors that it writes to are no longer the right ones."""
        self._proven = None
        if self._graph is not None:
            self._graph.reset()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensors:
        while (self.graphs or self.compile) and self._proven != (now := signature(inputs)):
            try:
                outputs = self._try(inputs)
            except Exception as error:
                self._step_down(error)
            else:
                self._proven = now
                return outputs
        return self._graph(inputs) if self.graphs else self._run(inputs)

    def _run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        if not self.compile:
            return self._function(inputs)
        with updating():
            return self._function(inputs)

    def _try(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """A call that may fail, and then has moved nothing."""
        if self.graphs:
            return self._graph(inputs)
        with Snapshot(self._state, self._runtime.device):
            return self._run(inputs)

    def _step_down(self, error: Exception) -> None:
        """From here on without the way that failed, unless the user insists on it."""
        compiling = self.compile and (not self.graphs or is_compilers(error))
        flag, insists, how = "cuda_graphs", self._runtime.insist_graphs, "recorded as a CUDA graph"
        if compiling:
            flag, insists, how = "compile", self._runtime.insist_compile, "compiled"
        failed = f"{self._name} could not be {how} ({reason(error)})"
        if insists:
            if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
                raise error
            raise UserError(f"{failed}: give --{flag} auto, or False") from error
        self.reset()
        if compiling:
            self.compile = False
        else:
            self.graphs, self._graph = False, None
        ways = {"recorded": self.graphs, "compiled": self.compile}
        how = " and ".join(way for way, on in ways.items() if on) or "as it is"
        _say_once(f"note: {failed}: it goes on {how}")


def reason(error: BaseException) -> str:
    """The first of the errors that led to this one, in a line."""
    while earlier := (
        getattr(error, "inner_exception", None)  # the compiler's way
        or error.__cause__
        or (not error.__suppress_context__ and error.__context__)
    ):
        error = earlier
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


@functools.cache
def _say_once(line: str) -> None:
    print_safe(line)
