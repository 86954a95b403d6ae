"""What makes updates fast without changing what they compute.

- :func:`prepare_process`: threads, memory and the precision of matrix products, once per process;
- :class:`Compiled`: a step that ``torch.compile`` has fused, within updates only;
- :class:`Graph`: a whole update or a policy's step recorded as one CUDA graph, replayed as one
  launch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import Config
from tools import UserError, is_on

Tensors = dict[str, Tensor]

WARM_UPS = 3  # runs before a graph is recorded: libraries set themselves up in the first ones

# glibc's mallopt: its parameters (malloc.h) and what they are set to.
_MALLOPT = {
    "M_MMAP_MAX": (-4, 0),  # no allocation is a mapping of its own
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),  # freed memory is kept
    "M_TOP_PAD": (-2, 64 << 20),  # and got in larger steps
}


def prepare_process(config: Config) -> None:
    """Threads, memory and matrix products of this process; call it before the first tensor."""
    torch.set_num_threads(config.num_threads or default_threads(config))
    tensor_cores = config.precision != "32"
    torch.backends.cuda.matmul.allow_tf32 = tensor_cores
    torch.backends.cudnn.allow_tf32 = tensor_cores
    if torch.device(config.device).type == "cpu":
        if config.keep_memory:
            keep_memory()
        if not config.num_threads and (note := crowded()):
            print(note, file=sys.stderr)
    else:
        torch.cuda.set_device(torch.device(config.device).index or 0)
        # Shapes never change, so trying each algorithm once pays; the choice may differ by run.
        torch.backends.cudnn.benchmark = tensor_cores


def available_cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):  # no quota, no such file
        quota, period = map(int, (group / "cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores or 1


def crowded() -> str | None:
    """A line for the user whose machine is busy already, if it is.

    Threads that share an operation wait for each other, and for whoever has the core of one: an
    update on two threads beside two busy programs took ten times as long as alone, on one thread
    less than three times.
    """
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    if cores == 1 or load < cores:
        return None
    return (
        f"note: other programs keep this machine busy (load {load:.1f} on {cores} cores); while "
        "they do, --num_threads 1 may be several times faster"
    )


def overlaps(config: Config) -> bool:
    """What ``--overlap`` comes to: whether environments step while the device trains."""
    return is_on(config.overlap, torch.device(config.device).type == "cuda")


def default_threads(config: Config) -> int:
    """Threads for the maths: a core each, less those of environments that step meanwhile."""
    threads = min(torch.get_num_threads(), available_cores())
    if torch.device(config.device).type == "cpu" and overlaps(config):
        threads = max(1, threads - config.envs)
    return threads


def keep_memory() -> bool:
    """Keeps freed memory in the process; returns whether the C library can (glibc).

    By default a large tensor is a mapping of its own that goes back when it dies, and the next one
    takes a page fault for every 4 KiB again. That was a third of an update.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(number, value) for number, value in _MALLOPT.values())


def missing_compiler(device: torch.device) -> str | None:
    """What ``torch.compile`` lacks on this machine, in words; None if it has what it needs."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    given, usual = ("CC", ("cc", "gcc", "clang"))
    if device.type == "cpu":
        given, usual = ("CXX", ("c++", "g++", "clang++"))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        return "a GPU of compute capability 7.0 or more"
    if not any(shutil.which(name) for name in (os.environ.get(given), *usual) if name):
        return f"a compiler ({usual[1]})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (python3-dev)"
    return None


def compiles(config: Config) -> bool:
    """What ``--compile`` comes to: auto compiles on a GPU, if the machine has what it takes.

    On a CPU it saves an eighth of a large update, which is not worth a minute's wait to most runs.
    """
    device = torch.device(config.device)
    automatic = device.type == "cuda" and missing_compiler(device) is None
    return not config.debug and is_on(config.compile, automatic)


def graphs(config: Config) -> bool:
    """What ``--cuda_graphs`` comes to on this device."""
    on_gpu = torch.device(config.device).type == "cuda"
    return on_gpu and config.cuda_graphs and not config.debug


class Compiled:
    """A function that is compiled inside :func:`updating` and runs as it is elsewhere.

    Updates have one shape; acting and pictures have others, for which compiling would not pay.
    """

    inside = False

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._compiled = torch.compile(function, dynamic=False)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._compiled if Compiled.inside else self.function)(*args, **kwargs)


@contextlib.contextmanager
def updating() -> Iterator[None]:
    """Inside, compiled functions are used."""
    before, Compiled.inside = Compiled.inside, True
    try:
        yield
    finally:
        Compiled.inside = before


def compile_methods(owner: object, *names: str) -> None:
    """Replaces methods of an object by their :class:`Compiled` selves."""
    # The noise of a compiled step is the one that it would draw if it were not compiled.
    torch._inductor.config.fallback_random = True
    for name in names:
        object.__setattr__(owner, name, Compiled(getattr(owner, name)))


class Graph:
    """A function of tensors that is recorded as a CUDA graph and then replayed.

    It is recorded by its first call, and anew when a shape changes. Recording runs the function
    a few times before; whatever that moved is put back: ``state`` and the device's generator. So
    the first call, too, computes exactly once what it is asked for.

    Args:
        function: ``{name: tensor}`` → ``{name: tensor}``; static shapes, nothing that the host has
            to wait for. It may change tensors of ``state`` in place.
        state: lists the tensors that it changes. Ones that come to be in the first run are
            expected to begin as zeros (an optimiser's moments).
        device: where all of it lies.

    What it returns belongs to the caller: later calls leave it alone.

    Raises:
        UserError: the first call, with the mend, where recording fails.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        state: Callable[[], Iterable[Tensor]],
        device: torch.device,
    ):
        self.function, self.state, self.device = function, state, device
        self._recorder = _CudaRecorder(device) if device.type == "cuda" else _HostRecorder()
        self._inputs: Tensors = {}
        self._replay: Callable[[], _Outputs] | None = None

    def reset(self) -> None:
        """Forgets the recording: the tensors that it writes to are no longer the right ones."""
        self._inputs, self._replay = {}, None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensors:
        if _signature(inputs) != _signature(self._inputs):
            self._record(inputs)
        own = list(self._inputs.values())
        torch._foreach_copy_(own, [inputs[name] for name in self._inputs], non_blocking=True)
        return self._replay().taken()

    def _record(self, inputs: Mapping[str, Tensor]) -> None:
        self.reset()  # frees the memory of the recording before
        try:
            self._try_to_record(inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.device.type != "cuda":
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"an update could not be recorded as a CUDA graph ({reason}): give --cuda_graphs "
                "False, or --compile False if that is what failed"
            ) from error

    def _try_to_record(self, inputs: Mapping[str, Tensor]) -> None:
        own = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        before = {id(tensor): tensor.clone() for tensor in self.state()}
        with self._recorder.generator_kept(), torch.no_grad():
            with torch.enable_grad(), self._recorder.aside():
                for _ in range(WARM_UPS):
                    self.function(own)
            for tensor in self.state():
                saved = before.get(id(tensor))
                tensor.zero_() if saved is None else tensor.copy_(saved)
            with torch.enable_grad():
                self._replay = self._recorder.record(lambda: _Outputs(self.function(own)))
        self._inputs = own


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


def _signature(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


class _CudaRecorder:
    """Records work of the current CUDA device.

    On a stream of its own: the libraries' workspaces belong to streams, and two graphs that run
    at once must not share them.
    """

    def __init__(self, device: torch.device):
        self.device, self._stream = device, torch.cuda.Stream(device)

    @contextlib.contextmanager
    def generator_kept(self) -> Iterator[None]:
        before = torch.cuda.get_rng_state(self.device)
        yield
        torch.cuda.set_rng_state(before, self.device)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Off the stream that others use, as work before a recording has to be."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, function: Callable[[], _Outputs]) -> Callable[[], _Outputs]:
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # a graph that is freed meanwhile would spoil this one
        with torch.cuda.graph(graph, stream=self._stream):
            outputs = function()

        def replay() -> _Outputs:
            graph.replay()
            return outputs

        return replay


class _HostRecorder:
    """The same without a GPU, where nothing is recorded: a replay runs the function again."""

    @contextlib.contextmanager
    def generator_kept(self) -> Iterator[None]:
        before = torch.get_rng_state()
        yield
        torch.set_rng_state(before)

    def aside(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def record(self, function: Callable[[], _Outputs]) -> Callable[[], _Outputs]:
        return function
