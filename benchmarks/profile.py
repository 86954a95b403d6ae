"""Where the time of one update goes: by kind of work, and the operators that take most.

python -m benchmarks.profile [--method M] [--settings exact bf16] [--device cuda:0] [--json OUT]

Updates run in this process under ``torch.profiler``, after ``--warmup``; each operator's time
is its own, without that of those which it calls, and the mean of ``--updates``. Settings (but the
authors'), ``--method`` and words behind ``--`` are those of ``benchmarks.update``. Tracing costs
some of the time: what a change brings is told by ``benchmarks.update``.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.settings import check, chosen, look, measured, parser, split
from benchmarks.table import markdown, write
from benchmarks.worker import batch_of, ours
from tools import UserError

# The kinds, in this order; an operator is of the first that has a part of its name.
KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions": ("conv",),
    "optimisers": ("_fused_adam", "foreach", "optimizer"),
    "norms": ("layer_norm", "batch_norm", "rms_norm", "rmsnorm", "layernorm", "batchnorm"),
    "activations": ("elu", "silu", "mish", "tanh", "sigmoid", "softplus"),
    "softmaxes": ("softmax", "logsumexp"),
    "noise": ("normal_", "uniform_", "exponential_", "bernoulli", "multinomial", "rand"),
    "matrix products": ("mm", "linear", "matmul", "einsum", "attention"),
    "copies, casts, gathers": (
        *("copy", "cat", "index", "gather", "scatter", "clone", "fill", "zero", "stack", "roll"),
        *("repeat", "mem", "arange", "contiguous", "flip", "constant_pad"),
    ),
    "reductions": ("sum", "mean", "amax", "aminmax", "argmax", "norm", "prod", "sort", "pool"),
}
OTHER = "other, mostly element by element"


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name without the namespace in front."""
    name = operator.rsplit("::", 1)[-1].lower()
    return next((kind for kind, parts in KINDS.items() if any(p in name for p in parts)), OTHER)


def by_kind(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds of each kind, most first.

    Args:
        times: operators and their own milliseconds.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for name, ms in times:
        found[kind_of(name)] += ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def trace(spec: Mapping[str, Any], updates: int, warmup: int) -> dict[str, float]:
    """Own milliseconds of each operator in an update, the mean of several, most first.

    Args:
        spec: in the words of :mod:`benchmarks.worker`.
        updates: how many are traced.
        warmup: how many are not, before them.
    """
    batch = batch_of(spec)
    update, _ = ours(spec)
    cuda = spec["device"].startswith("cuda")
    for _ in range(warmup):
        update(batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as traced:
        for _ in range(updates):
            update(batch)
        if cuda:
            torch.cuda.synchronize(spec["device"])
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: getattr(event, own) / 1e3 / updates for event in traced.key_averages()}
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def _tables(traced: Mapping[str, Mapping[str, float]], operators: int) -> str:
    """Kinds of work in all settings, and each setting's largest operators."""
    kinds = {name: by_kind(times.items()) for name, times in traced.items()}
    for found in kinds.values():
        found["sum"] = sum(found.values())
    names = dict.fromkeys(kind for found in kinds.values() for kind in found)
    names["sum"] = names.pop("sum")  # last
    body = [[kind, *(f"{found.get(kind, 0):,.0f}" for found in kinds.values())] for kind in names]
    parts = [markdown(["ms of", *kinds], body)]
    for name, times in traced.items():
        rows = [[key, f"{ms:,.1f}"] for key, ms in list(times.items())[:operators]]
        parts.append(markdown([name, "ms"], rows))
    return "\n\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    made = parser("profile", __doc__ or "")
    made.add_argument("--settings", nargs="+", default=["exact", "bf16"], help="one after another")
    made.add_argument("--operators", type=int, default=10, help="how many of the largest to list")
    made.add_argument("--updates", type=int, help="CUDA 10, CPU 2")
    made.set_defaults(reference=None, also=[])
    return made


def run(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Traces the settings of a command line and prints their tables."""
    check(args)
    if theirs := [name for name in args.settings if name.startswith("reference")]:
        raise UserError(f"--settings {theirs[0]}: what is traced is ours: leave it out")
    if args.operators < 1:
        raise UserError(f"--operators takes a whole number from 1, not {args.operators}")
    here = look(args, ceiling=False)
    common = measured("update", args, here["device"], more)
    specs = {name: {**common, **what} for name, what in chosen(args, here["device"]).items()}
    cuda = here["device"].startswith("cuda")
    counts = args.updates or (10 if cuda else 2), args.warmup or (5 if cuda else 1)
    traced = {name: trace(spec, *counts) for name, spec in specs.items()}
    print(f"update of {args.method}: {common['sizes']}, {here['device']}")
    print(_tables(traced, args.operators))
    if args.json:
        report = {"benchmark": "profile", "method": args.method, **here, "sizes": common["sizes"]}
        write(args.json, {**report, "more": list(more), "ms": traced})


def main(argv: Sequence[str] | None = None) -> int:
    """Profiles; returns 2 for a user's mistake, in one line."""
    try:
        words, more = split(argv)
        run(_parser().parse_args(words), more)
    except UserError as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
