"""What a CUDA device would not do, or only by making the host wait, shown without one.

with NoHostSyncs():
    learner.learn(batch, 0)  # on a CPU
meta_update(learner, batch)  # on the device "meta", which has shapes and no numbers
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents.base import Batch, Learner, Metrics, Update
from agents.learner import GradientLearner
from tests.helpers.models import make_inputs

aten = torch.ops.aten
# Operations whose result, or its shape, the host has to know.
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2}
WAITS |= {aten.unique_dim, aten.unique_consecutive, aten.is_nonzero, aten.item}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# On a CPU these read memory and call no operation.
READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


class HostSync(Exception):
    """The host would wait for the device."""


class DeviceMix(Exception):
    """An operation would see tensors of two devices."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        packet, given = function.overloadpacket, tree_leaves((args, kwargs or {}))
        masks = (isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in given[1:])
        counted = packet is aten.repeat_interleave and "output_size" not in (kwargs or {})
        if packet in WAITS or counted or (packet in INDEXING and any(masks)):
            raise HostSync(str(function))
        return function(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        if function in READS:
            raise HostSync(function.__name__)
        if function is torch.nn.functional.one_hot:  # that checks its values on a CPU alone
            index, classes = args
            zeros = torch.zeros(*index.shape, classes, dtype=torch.long, device=index.device)
            return zeros.scatter_(-1, index[..., None], 1)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def NoHostSyncs() -> Iterator[None]:
    """Inside, what would make the host wait for a CUDA device raises `HostSync`."""
    with _Operations(), _Reads():
        yield


class OneDevice(TorchDispatchMode):
    """Inside, an operation on a tensor of another device raises `DeviceMix`.

    Copies to the device do, too: a recorded update would repeat the first one's numbers.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, Tensor) and value.device != self.device:
                raise DeviceMix(f"{function} of a tensor on {value.device}")
        return function(*args, **(kwargs or {}))


def meta_update(learner: Learner, batch: Batch) -> Metrics:
    """An update on the device "meta", of one that is recorded that part; no metric has a number.

    Args:
        learner: one that lies there.
        batch: on the CPU.

    Raises:
        DeviceMix: it has a tensor of another device.
        NotImplementedError, RuntimeError: it needs a number.
    """
    device = torch.device("meta")
    batch = {name: value.to(device) for name, value in batch.items()}
    compute = functools.partial(learner.learn, batch, 0)
    if isinstance(learner, GradientLearner):
        compute = functools.partial(learner._compute_flat, make_inputs(learner, batch))
    # Neither autocast nor the list of devices with fused optimisers knows that device.
    off = {"autocast": lambda *_, **__: contextlib.nullcontext()}
    off |= {"is_autocast_enabled": lambda *_: False}
    adam = importlib.import_module("torch.optim.adam")
    fused = mock.patch.object(adam, "_device_dtype_check_for_fused")
    with mock.patch.multiple(torch, **off), fused, OneDevice(device):
        result = compute()
    return result.metrics if isinstance(result, Update) else result
