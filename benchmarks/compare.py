"""Settings against each other and against the authors' code: a table, and JSON."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.settings import check, chosen, look, measured, split
from benchmarks.table import markdown, write
from benchmarks.turns import Failed, Settings, count_flops
from tools import UserError


def summarise(results: Mapping[str, Any], flops: int, ceiling: float) -> dict[str, dict[str, Any]]:
    """Of each setting: milliseconds, ratios to the reference, memory, arithmetic.

    Args:
        results: what :class:`Settings` kept.
        flops: of one update.
        ceiling: TFLOP/s that the machine reaches at best.
    """
    theirs = results.get("reference")
    rows = {}
    for name, result in results.items():
        ms = [1e3 * s for s in result["seconds"]]
        row = {"ms": statistics.median(ms), "ms_min": min(ms), "ms_max": max(ms)}
        row["tflops"] = flops / (row["ms"] / 1e3) / 1e12
        row["share"] = row["tflops"] / ceiling
        row["gb"] = result["memory"]["resident_peak"] / 1e9
        row["gb_before"] = result["before"]["resident"] / 1e9
        for kind in ("allocated", "reserved"):
            if f"cuda_{kind}_peak" in result["memory"]:
                row[f"gb_{kind}"] = result["memory"][f"cuda_{kind}_peak"] / 1e9
        on_cpu = "cuda_reserved_peak" not in result["memory"]
        if on_cpu:
            row["cpu_ms"] = 1e3 * statistics.median(result["cpu_seconds"])
        if theirs is not None:
            row["faster"] = ratio(theirs, result, "seconds")
            if on_cpu:
                row["faster_cpu"] = ratio(theirs, result, "cpu_seconds")
            peak = "cuda_reserved_peak" if "gb_reserved" in row else "resident_peak"
            row["memory_share"] = result["memory"][peak] / theirs["memory"][peak]
        rows[name] = row
    return rows


def ratio(theirs: Mapping[str, Any], ours: Mapping[str, Any], kind: str) -> float:
    """The median over rounds of the reference's time over a setting's in the same round."""
    return statistics.median(a / b for a, b in zip(theirs[kind], ours[kind], strict=True))


# Columns of the table: heading, key of a summary, format.
_COLUMNS = (
    ("ms/update", "ms", "{:.4g}"),
    ("min", "ms_min", "{:.4g}"),
    ("max", "ms_max", "{:.4g}"),
    ("× reference", "faster", "{:.2f}"),
    ("CPU ms", "cpu_ms", "{:.4g}"),
    ("× reference", "faster_cpu", "{:.2f}"),
    ("GPU peak allocated, GB", "gb_allocated", "{:.2f}"),
    ("GPU peak reserved, GB", "gb_reserved", "{:.2f}"),
    ("peak RSS, GB", "gb", "{:.2f}"),
    ("before, GB", "gb_before", "{:.2f}"),
    ("memory / reference's", "memory_share", "{:.2f}"),
    ("TFLOP/s", "tflops", "{:.3g}"),
    ("of the ceiling", "share", "{:.1%}"),
)


def show(rows: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """The table of the summaries; columns that no setting has are left out."""
    columns = [c for c in _COLUMNS if c[1] == "ms" or any(c[1] in row for row in rows.values())]
    body = [
        [name, *(form.format(row[key]) if key in row else "" for _, key, form in columns)]
        for name, row in rows.items()
    ]
    body += [[name, "failed", *[""] * (len(columns) - 1)] for name in failed]
    return markdown(["setting", *(heading for heading, _, _ in columns)], body)


def compare(kind: str, args: argparse.Namespace, more: Sequence[str] = ()) -> int:
    """Measures the settings of a command line, prints their table; returns the exit status.

    Args:
        kind: ``update`` or ``pretrain``.
        args: of :func:`parser` and :func:`add_turns`.
        more: words of dreamer.py's command line.
    """
    check(args)
    here = look(args)
    device = here["device"]
    common = measured(kind, args, device, more)
    sizes, cuda = common["sizes"], device.startswith("cuda")
    specs = {name: {**common, **what} for name, what in chosen(args, device).items()}
    flops = count_flops(common, [sizes])[0]
    # Every second update of theirs and ours has more to do, if they differ at all.
    updates = args.updates or (10 if cuda else 1 + common["stacked"])
    # On a CPU, warming up at once would fight for the cores and for the memory.
    settings = Settings(specs, args.warmup or (5 if cuda else 1), len(specs) if cuda else 1)
    try:
        for index in range(args.rounds):
            settings.round(index, updates)
    finally:
        settings.close()
    best = max(here["ceiling_tflops"].values())
    rows = summarise(settings.results, flops, best)
    shown = {k: v for k, v in sizes.items() if kind == "update" or k != "imag_horizon"}
    work = f"{flops / 1e12:.3f} TFLOP a batch; ceiling {best:.3g} TFLOP/s"
    print(f"{kind} of {args.method}: {shown}, {' '.join(more)}, {work}".replace(", ,", ","))
    print(f"{here['machine'].get('gpu', here['machine']['cpu'])}, {device}")
    print(show(rows, settings.failed))
    for name, why in settings.failed.items():
        print(f"{name} failed: {why}")
    if args.json:
        report = {"benchmark": kind, "method": args.method, **here, "sizes": sizes, "rows": rows}
        report |= {"flops": flops, "more": list(more)}
        write(args.json, {**report, "settings": settings.results, "failed": settings.failed})
    return 1 if settings.failed else 0


def run(kind: str, made: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parses a command line and measures; returns 2 for a user's mistake, in one line."""
    try:
        words, more = split(argv)
        return compare(kind, made.parse_args(words), more)
    except (UserError, Failed) as error:
        print(f"{made.prog.split('.')[-1]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
