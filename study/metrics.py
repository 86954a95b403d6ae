"""The command `python -m study metrics`: what it is given, and the tables that it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from figures.statistics import bootstrap
from measure.information import BINS
from measure.results import CSV, table, write_csv
from study.disentanglement import Encoder, Frames, Measured, Scores, load, measure_all
from tools import UserError, expand_path, print_safe
from training.run_folder import check_writable

LEAST = 3 * BINS  # frames, of which a third is tested on


def run(args: argparse.Namespace) -> int:
    """Measures, prints the tables and writes the files; returns the exit status.

    Raises:
        UserError: one line, before anything is drawn.
        OSError: a file cannot be written.
    """
    encoders = [e for given in args.given for e in load(given, args.output)]
    check(args, encoders)
    seen = [encoder.sees for encoder in encoders]
    encoders.sort(key=lambda encoder: seen.index(encoder.sees))  # those alike are drawn for once
    drawn = args.task, args.frames, args.onpolicy_frames, args.variation, args.seed, args.workers
    tables = tables_of(measure_all(Frames(*drawn), encoders))
    for rows in tables:
        print_safe(table(rows), sys.stdout)
    if args.output:
        path = expand_path(args.output, "output") / CSV
        write_csv(path, {label: row for rows in tables for label, row in rows.items()})
    return 0


def tables_of(measured: Sequence[Measured]) -> list[dict[str, Scores]]:
    """A table for each of several settings of environments: encoders, their mean, the controls.

    The mean is without teachers, which several students share.

    Of several, the labels of what is beside the encoders have the settings that differ.
    """
    first = measured[0].sees
    differing = [name for name in first if any(m.sees[name] != first[name] for m in measured)]
    tables = []
    for sees, encoders, controls, teachers in measured:
        learned = {label: row for label, row in encoders.items() if label not in teachers}
        own = "".join(f", {name} {sees[name]}" for name in differing)
        beside = {**_summary(learned), **controls}
        tables.append({**encoders, **{f"{label}{own}": row for label, row in beside.items()}})
    return tables


def check(args: argparse.Namespace, encoders: Sequence[Encoder]) -> None:
    """Checks what was given, before anything is drawn.

    Raises:
        UserError: one line.
    """
    if args.frames < LEAST:
        raise UserError(
            f"--frames {args.frames} is too few for {BINS} bins: give {LEAST} or more, 15000 for "
            "numbers that can be compared"
        )
    if args.onpolicy_frames and args.onpolicy_frames < LEAST:
        raise UserError(f"--onpolicy_frames takes 0, or {LEAST} or more")
    if args.seed < 0 or args.workers < 0:
        raise UserError("--seed and --workers take 0 or more")
    labels = [encoder.label for encoder in encoders]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(
            f"RUN: two are called {twice}, by their last three folders: measure them one by one, "
            "each with its own --output"
        )
    for folder in {encoder.folder for encoder in encoders}:
        check_writable(folder.absolute(), "--output" if args.output else "RUN", "give --output")


def _summary(rows: dict[str, Scores]) -> dict[str, Scores]:
    """Means over encoders, and the ends of their 95% bootstrap intervals."""
    if len(rows) < 2:
        return {}
    found: dict[str, Scores] = {"mean": {}, "mean, low": {}, "mean, high": {}}
    for name in next(iter(rows.values())):
        values = [row[name] for row in rows.values()]
        estimate = bootstrap([np.array(values)], lambda drawn: drawn.mean(-1))
        for label, number in zip(found, estimate, strict=True):
            found[label][name] = float(number)
    return found
