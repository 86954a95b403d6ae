"""What an update's time goes to, by kind of operation.

python -m benchmarks.breakdown [--kind pretrain] [--device cuda:0] [-- FLAGS OF dreamer.py]

One update is traced by PyTorch's profiler after a few that are not. Of each operation counts the
time that it spends itself: on a CPU in it, on a GPU in its kernels. Tracing itself costs time on
each operation, so that shares, not the sum, are what to read.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch.profiler import ProfilerActivity, profile

from benchmarks import settings
from benchmarks.table import markdown
from benchmarks.worker import known, make_batch, ours
from tools import UserError

# The first kind with a word that an operation's name contains is its own.
KINDS = {
    "convolutions, backward": ("convolution_backward", "dgrad", "wgrad"),
    "convolutions": ("conv", "implicit_gemm"),
    "matrix products": ("mm", "gemm", "matmul", "cutlass", "nvjet"),
    "ELU, backward": ("elu_backward",),
    "ELU": ("elu",),
    "copies and casts": ("copy", "cat", "stack", "clone", "memcpy", "contiguous"),
    "optimisers": ("adam", "foreach", "multi_tensor"),
    "fused by the compiler": ("triton", "cpp_fused", "compiledfunction", "inductor"),
    "reductions": ("sum", "mean", "norm", "reduce"),
    "noise": ("randn", "rand", "normal_", "uniform_"),
}


def kind_of(name: str) -> str:
    """The kind of an operation or a kernel."""
    lower = name.lower()
    found = (kind for kind, words in KINDS.items() if any(word in lower for word in words))
    return next(found, "other, mostly element by element")


def group(times: Iterable[tuple[str, float, int]]) -> list[tuple[str, float, int]]:
    """(name, seconds, calls) of operations → the same of kinds, the most expensive first."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, value, count in times:
        seconds[kind_of(name)] += value
        calls[kind_of(name)] += count
    rows = ((kind, seconds[kind], calls[kind]) for kind in seconds)
    return sorted(rows, key=lambda row: -row[1])


def trace(spec: dict) -> list[tuple[str, float, int]]:
    """(name, seconds, calls) of every operation of one update."""
    update, _ = ours(spec)
    batch = known(make_batch(spec["sizes"], spec["actions"]), spec)
    for _ in range(2):
        update(batch)
    cuda = spec["device"].startswith("cuda")
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities, acc_events=True) as traced:
        update(batch)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = traced.key_averages()
    return [(e.key, getattr(e, name) * 1e-6, e.count) for e in events if getattr(e, name) > 0]


def main(argv: Sequence[str] | None = None) -> int:
    """Traces an update and prints the table; returns the exit status."""
    words, flags = settings.split(argv)
    parser = settings.parser("breakdown", __doc__)
    parser.add_argument("--kind", choices=("update", "pretrain"), default="update")
    args = parser.parse_args(words)
    try:
        settings.check(args)
        device = settings.look(args, ceiling=False)["device"]
    except UserError as error:
        print(f"breakdown: {error}", file=sys.stderr)
        return 2
    spec = {
        "source": "ours",
        "kind": args.kind,
        "flags": flags,
        "device": device,
        "threads": args.threads,
        "actions": settings.ACTIONS,
        "sizes": {name: getattr(args, name) for name in settings.PAPER},
    }
    rows = group(trace(spec))
    total = sum(seconds for _, seconds, _ in rows)
    cells = [[k, f"{s * 1e3:.1f}", f"{s / total:.1%}", str(n)] for k, s, n in rows]
    cells.append(["sum", f"{total * 1e3:.1f}", "", ""])
    print(markdown(["kind", "ms", "share", "calls"], cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
