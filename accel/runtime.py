"""Where and how a run computes, resolved once from its settings."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import torch

from accel import threads
from accel.compiling import missing_compiler
from tools import UserError, is_on, print_safe

CPU_CHUNK = 250  # images whose layers stay in the cache of a CPU's cores
# Rows of all batches from which compiling pays on a CPU: it takes minutes, and saves a tenth.
COMPILE_PAYS = 5_000_000


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a run computes. Only `resolve` knows what ``auto`` means.

    Attributes:
        device: where the model lives.
        dtype: of matrix products and convolutions in updates.
        tf32: whether float32 products may use a GPU's tensor cores (TensorFloat-32).
        compile: whether the steps of an update are compiled.
        graphs: whether updates and the policy's steps are recorded as CUDA graphs.
        insist_compile: whether a run without that is refused; otherwise it goes on without it.
        insist_graphs: the same of graphs.
        overlap: whether environments step while the device trains.
        threads: for the maths on a CPU.
        image_chunk: how many images pass through the convolutions at once; 0 is all of them.
        keep_memory: whether a process on a CPU keeps the memory that it frees.
        debug: whether to stop at the first gradient that is NaN.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    compile: bool = False
    graphs: bool = False
    insist_compile: bool = False
    insist_graphs: bool = False
    overlap: bool = False
    threads: int = 1
    image_chunk: int = 0
    keep_memory: bool = False
    debug: bool = False

    @classmethod
    def resolve(cls, settings: Mapping[str, Any], updates: int = 0) -> Runtime:
        """What settings come to on this machine.

        Args:
            settings: ``device``, ``precision``, ``compile``, ``cuda_graphs``, ``overlap``,
                ``num_threads``, ``image_chunk``, ``keep_memory``, ``envs``, ``debug``,
                ``batch_size`` and ``batch_length``.
            updates: how many the run is going to make.

        Raises:
            UserError: the device is not here, or ``--compile True`` cannot be had.
        """
        device, debug = find_device(settings["device"]), settings["debug"]
        on_gpu, choice = device.type == "cuda", settings["compile"]
        missing = missing_compiler(device) if choice != "False" else None
        if choice == "True" and missing:
            raise UserError(f"--compile True needs {missing}: install it, or give --compile False")
        overlap = is_on(settings["overlap"], on_gpu)
        stepping = settings["envs"] if overlap and not on_gpu else 0
        pays = on_gpu or updates * settings["batch_size"] * settings["batch_length"] > COMPILE_PAYS
        return cls(
            device=device,
            dtype=compute_dtype(settings["precision"], device),
            tf32=settings["precision"] != "32",
            compile=not debug and is_on(choice, pays and missing is None),
            graphs=not debug and on_gpu and is_on(settings["cuda_graphs"], True),
            insist_compile=choice == "True",
            insist_graphs=settings["cuda_graphs"] == "True",
            overlap=overlap,
            threads=settings["num_threads"] or threads.default_threads(stepping),
            image_chunk=settings["image_chunk"] or (0 if on_gpu else CPU_CHUNK),
            keep_memory=settings["keep_memory"],
            debug=debug,
        )

    def prepare(self) -> None:
        """Sets this process up; call it before the first tensor."""
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.autograd.set_detect_anomaly(self.debug)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Shapes never change, so trying each algorithm once pays; the choice may differ by run.
            torch.backends.cudnn.benchmark = self.tf32
            return
        if self.keep_memory:
            threads.keep_memory()
        if self.threads > 1 and (note := threads.crowded()):
            print_safe(note)


def find_device(given: str) -> torch.device:
    """The device of that name; ``auto`` is the first GPU that PyTorch sees, or the CPU.

    Raises:
        UserError: it is not here, or of a kind that is not supported.
    """
    if given == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
    except RuntimeError:
        raise UserError(f"--device '{given}' is no device of PyTorch: give cpu or cuda:0") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"--device {given}: PyTorch sees no CUDA GPU here; give --device cpu, "
                "or --configs … cpu for a laptop's settings"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"--device {given}: there are {torch.cuda.device_count()} GPUs, counted from cuda:0"
            )
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise UserError(f"--device {given} is not supported: give cpu or cuda:0")
    return device


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products and convolutions under ``--precision``."""
    if precision == "32":
        return torch.float32
    if precision in ("16", "bf16"):
        return torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN says yes to any AVX-512 and then emulates bfloat16, at a fraction of the speed.
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = (
            torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return torch.bfloat16 if native else torch.float32
