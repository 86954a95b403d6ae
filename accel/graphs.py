"""A function of tensors recorded as one CUDA graph, and replayed as one launch."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from accel.generators import rng_state, set_rng_state

Tensors = dict[str, Tensor]
State = Callable[[], Iterable[Tensor]]

WARM_UPS = 3  # runs before a graph is recorded: libraries set themselves up in the first ones


class Snapshot:
    """Tensors and PyTorch's generators as they are now; after an error inside, they are again.

    Args:
        state: lists the tensors. Ones that come to be later are expected to begin as zeros (an
            optimiser's moments).
        device: where they lie.
    """

    def __init__(self, state: State, device: torch.device):
        self._state, self._device = state, device
        # Each tensor is kept beside its copy, so that no other one can take its id.
        self._saved = {id(tensor): (tensor, tensor.detach().clone()) for tensor in state()}
        self._rng = rng_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back."""
        for tensor in self._state():
            _, saved = self._saved.get(id(tensor), (None, None))
            tensor.zero_() if saved is None else tensor.copy_(saved)
        set_rng_state(self._rng, self._device)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.restore()


class CUDAGraph:
    """A function of tensors that is recorded as a CUDA graph and then replayed.

    It is recorded by its first call, and anew when a shape changes. Recording runs the function
    a few times before; whatever that moved is put back: ``state`` and the generators. So the first
    call, too, computes exactly once what it is asked for; or, where recording fails, nothing.

    Args:
        function: ``{name: tensor}`` → ``{name: tensor}``; static shapes, nothing that the host has
            to wait for. It may change tensors of ``state`` in place.
        state: lists the tensors that it changes; see :class:`Snapshot`.
        device: where all of it lies.

    What it returns belongs to the caller: later calls leave it alone.
    """

    def __init__(self, function: Callable[[Tensors], Tensors], state: State, device: torch.device):
        self.function, self.state, self.device = function, state, device
        self._recorder = CudaRecorder(device) if device.type == "cuda" else HostRecorder()
        self._inputs: Tensors = {}
        self._replay: Callable[[], _Outputs] | None = None

    def reset(self) -> None:
        """Forgets the recording: the tensors that it writes to are no longer the right ones."""
        self._inputs, self._replay = {}, None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensors:
        if signature(inputs) != signature(self._inputs):
            return self._record(inputs)
        own = list(self._inputs.values())
        torch._foreach_copy_(own, [inputs[name] for name in self._inputs], non_blocking=True)
        return self._replay().taken()

    def _record(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """The first call, up to the end of the first replay."""
        self.reset()  # frees the memory of the recording before
        own = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        with Snapshot(self.state, self.device) as before:
            with self._recorder.aside():
                for _ in range(WARM_UPS):
                    self.function(own)
            before.restore()
            replay = self._recorder.record(lambda: _Outputs(self.function(own)))
            taken = replay().taken()
            self._recorder.wait()
        self._inputs, self._replay = own, replay
        return taken


class _Outputs:
    """What a function returned; numbers lie in one tensor, to be taken by one copy."""

    def __init__(self, tensors: Tensors):
        self._numbers = [name for name, value in tensors.items() if value.ndim == 0]
        self._rest = {name: value for name, value in tensors.items() if value.ndim}
        packed = [tensors[name].detach().float() for name in self._numbers]
        self._packed = torch.stack(packed) if packed else None

    def taken(self) -> Tensors:
        values = () if self._packed is None else self._packed.clone().unbind()
        taken = dict(zip(self._numbers, values, strict=True))
        return taken | {name: value.clone() for name, value in self._rest.items()}


def signature(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shapes and dtypes of named tensors."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


class CudaRecorder:
    """Records work of the current CUDA device.

    On a stream of its own: the libraries' workspaces belong to streams, and two graphs that run
    at once must not share them.
    """

    # PyTorch's allocators point to a graph whose recording failed for as long as they live.
    _failed: list[torch.cuda.CUDAGraph] = []  # noqa: RUF012

    def __init__(self, device: torch.device):
        self.device, self._stream = device, torch.cuda.Stream(device)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Off the stream that others use, as work before a recording has to be."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, function: Callable[[], _Outputs]) -> Callable[[], _Outputs]:
        """Records a call; what is returned replays it."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        gc.collect()  # a graph that is freed meanwhile would spoil this one
        try:
            # The outer one: a recording that fails leaves its own stream the current one.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool, self._stream):
                outputs = function()
        except Exception:
            self._abandon(graph, pool)
            raise

        def replay() -> _Outputs:
            graph.replay()
            return outputs

        return replay

    def wait(self) -> None:
        """Until the device has done all that it was given: errors of a replay come up here."""
        torch.cuda.synchronize(self.device)

    def _abandon(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """Does what ``capture_end`` left undone where it failed.

        Otherwise the allocator takes the recording for one that goes on: it would never free the
        recording's memory, and would fail when it next runs out of other memory.
        """
        try:
            graph.pool()
        except RuntimeError:  # it has none yet: the recording did not end
            self._failed.append(graph)
            with contextlib.suppress(RuntimeError):  # it did not begin
                torch._C._cuda_endAllocateToPool(self.device.index, pool)
                torch._C._cuda_releasePool(self.device.index, pool)


class HostRecorder:
    """The same without a GPU, where nothing is recorded: a replay runs the function again."""

    def aside(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def record(self, function: Callable[[], _Outputs]) -> Callable[[], _Outputs]:
        return function

    def wait(self) -> None:
        """There is nothing to wait for."""
