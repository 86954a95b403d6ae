"""The machine that a number was measured on, and the most arithmetic that it does.

python -m benchmarks.machine [--device cuda] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training import provenance

_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def describe(device: str = "cpu") -> dict[str, Any]:
    """The machine, its software and the commit of the code, in words and numbers."""
    info = _cpu_info()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in info.get("flags", "").split()],
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "mkldnn_bf16": torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "commit": commit(),
    }
    if torch.device(device).type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        machine |= {
            "gpu": gpu.name,
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gb": round(gpu.total_memory / 1e9, 1),
            "gpu_capability": f"{gpu.major}.{gpu.minor}",
            "gpu_multiprocessors": gpu.multi_processor_count,
            "gpu_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return machine


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    return {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in first.splitlines())}


def commit(root: Path = provenance.ROOT) -> str | None:
    """The commit of a checkout, ``+`` behind it where its code differs; None without git."""
    code = provenance.code(root)
    return code["commit"] and code["commit"][:7] + "+" * bool(code["modified"])


def ceiling(device: str = "cpu", size: int | None = None, seconds: float = 0.5) -> dict[str, float]:
    """TFLOP/s of a large square matrix product, the best of several, by number format.

    ``fp32`` is full float32; ``tf32`` (CUDA alone) has float32 ends and 10 bits of mantissa
    between; ``bf16`` is bfloat16 with float32 sums.

    Args:
        device: where to multiply.
        size: rows and columns; 2048 on a CPU and 8192 on CUDA by default.
        seconds: how long to go on with each format, after one product to warm up.
    """
    cuda = torch.device(device).type == "cuda"
    size = size or (8192 if cuda else 2048)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if cuda:
        formats["tf32"] = torch.float32
    before, rates = torch.get_float32_matmul_precision(), {}
    for name, dtype in formats.items():
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        rates[name] = 2 * size**3 / _fastest(a, b, seconds) / 1e12
    torch.set_float32_matmul_precision(before)
    return rates


def _fastest(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """Seconds of the quickest product."""

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        return time.perf_counter() - start

    once()
    end, best = time.perf_counter() + seconds, once()
    while time.perf_counter() < end:
        best = min(best, once())
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the description and the ceiling as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves PyTorch's choice")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    report = {**describe(args.device), "ceiling_tflops": ceiling(args.device)}
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
