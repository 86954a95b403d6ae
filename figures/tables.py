"""Tables A to C of the paper: published numbers and ours beside each other, as text, CSV and LaTeX.

python -m figures.tables A RUNS [RUNS …] --scale cpu --output table_a
python -m figures.tables C RUN [RUN …] --output table_c

A has returns, B shares of success on DrawerWorld, C what runs cost: updates, minutes, seconds of an
evaluation's episode, parameters, all measured from the runs' own files.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from figures import paths_of, reference
from figures.cost import Cost, measure
from figures.groups import Group, by_task, common_frame, runs_of, scores_at
from figures.records import REFUSED, Record, load, refuse
from figures.runs import read_config, runs_in
from figures.style import METHODS, choose, label_of, task_name
from fileio.atomic import atomic_write
from tools import UserError

TABLES = {"A": "return", "B": "success", "C": "cost"}  # of the paper: what is in them
EMPTY = "–"
Rows = list[list[str]]


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    value: str = "return",
    scale: str = "",
    at: float | None = None,
    runs: Sequence[Path] | Mapping[str, Path] = (),
) -> list[Path]:
    """Writes a table to files.

    Args:
        records: evaluations; of A and B.
        output: a name that ends in ``.txt``, ``.csv`` or ``.tex``; any other gets all three.
        value: ``return``, ``success`` or ``cost``: tables A, B and C.
        scale: whose records count, those of another leave their cells empty; default that of the
            records, which has to be one, or ``paper`` without any.
        at: frames to compare at; default the last that all runs of a task have come to.
        runs: run folders, or folders above them; of C.

    Raises:
        UserError: there is no such table, or runs cannot be read.
    """
    return write(rows_of(records, value, scale, at, runs), output)


def write(rows: Rows, output: Path, numbers: Rows | None = None) -> list[Path]:
    """Writes a table, each file whole or not at all; returns their paths.

    Args:
        rows: its cells, the first row its head.
        output: as of :func:`draw`.
        numbers: what the CSV has in their place.
    """
    paths = paths_of(output, tuple(FORMATS))
    for path in paths:
        kind = path.suffix[1:]
        with atomic_write(path) as file:
            file.write(FORMATS[kind](numbers if numbers and kind == "csv" else rows).encode())
    return paths


def over_seeds(
    found: Mapping[str, Mapping[str, Sequence[float]]], labels: Mapping[str, str]
) -> tuple[Rows, Rows]:
    """A row for each arm: mean ± standard deviation, to be read; and both apart, for the CSV.

    Args:
        found: {number: {arm: its value of each seed}}.
        labels: what to call numbers where they are read.
    """
    rows = [["arm", "n", *(labels[name] for name in found)]]
    numbers = [["arm", "seeds", *(c for name in found for c in (name, f"{name}_std"))]]
    for arm in dict.fromkeys(arm for arms in found.values() for arm in arms):
        values = [np.array(arms.get(arm, ()), np.float64) for arms in found.values()]
        count = str(max(map(len, values)))
        rows.append([arm, count, *map(_significant, values)])
        numbers.append([arm, count, *(cell for own in values for cell in _apart(own))])
    return rows, numbers


def _significant(values: np.ndarray) -> str:
    """Mean ± deviation, as far as the third digit of the mean that is not 0."""
    if not len(values):
        return EMPTY
    mean = float(values.mean())
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    return _plus_minus(mean, float(values.std(ddof=1)) if len(values) > 1 else None, digits)


def _apart(values: np.ndarray) -> tuple[str, str]:
    mean = f"{values.mean():.6g}" if len(values) else ""
    return mean, f"{values.std(ddof=1):.3g}" if len(values) > 1 else ""


def rows_of(
    records: Sequence[Record],
    value: str,
    scale: str = "",
    at: float | None = None,
    runs: Sequence[Path] | Mapping[str, Path] = (),
) -> Rows:
    """The table's cells, the first row its head; see :func:`draw`."""
    choose("value", value, TABLES.values())
    if value == "cost":
        learned = [run for run in runs_in(runs) if read_config(run)["steps"]]  # not: collected
        return _cost_rows("table_c.csv", [measure(run) for run in learned])
    scales = list(dict.fromkeys(record.scale or "not named" for record in records))
    if not scale and len(scales) > 1:
        raise UserError(f"there are runs of the scales {', '.join(scales)}: name one, --scale")
    scale = scale or (scales[0] if scales else "paper")
    own = [record for record in records if (record.scale or "not named") == scale]
    file = "table_b.csv" if value == "success" else "table_a.csv"
    return _score_rows(file, value, own, scale, at)


# A and B


def _score_rows(
    file: str, value: str, records: Sequence[Record], scale: str, at: float | None
) -> Rows:
    """A row for each published number, and for what was run of its task beside."""
    digits = 2 if value == "success" else 0
    tasks = by_task(records)
    published = reference.rows(file)
    head = [
        "videos",
        "task",
        "system",
        f"{value}, published",
        f"ours, {scale} scale",
        "n",
        "frames",
    ]
    rows, places = [head], list(dict.fromkeys((row["source"], row["task"]) for row in published))
    for source, task in places:
        runs = runs_of(tasks.get(task, ()), value)
        runs = {group: s for group, s in runs.items() if group.source in ("", source)}
        frame = common_frame(runs, at) if runs else 0
        given = {row["method"]: row for row in published if row["task"] == task}
        more = {group.arm: None for group in runs if group.arm not in given}
        for arm, row in (given | more).items():
            theirs = _plus_minus(float(row["mean"]), float(row["std"]), digits) if row else EMPTY
            ours = _ours(runs, arm, frame, value, digits)
            rows.append([task_name(source), task_name(task), label_of(arm), theirs, *ours])
    return rows


def _ours(
    runs: dict[Group, dict[int, list[Record]]], arm: str, frame: int, value: str, digits: int
) -> list[str]:
    """Mean and standard deviation over seeds, their number, and the frames; or nothing."""
    seeds = next((seeds for group, seeds in runs.items() if group.arm == arm), None)
    scores = scores_at(seeds, frame, value) if seeds else np.array([])
    if not len(scores):
        return [EMPTY, EMPTY, EMPTY]
    std = float(scores.std(ddof=1)) if len(scores) > 1 else None
    return [_plus_minus(float(scores.mean()), std, digits), str(len(scores)), f"{frame:,}"]


def _plus_minus(mean: float, std: float | None, digits: int) -> str:
    text = f"{mean:.{digits}f}"
    return text if std is None else f"{text} ± {std:.{digits}f}"


# C


def _cost_rows(file: str, costs: Sequence[Cost]) -> Rows:
    """The published costs, then those of every arm that was run, means over its runs."""
    head = ["system", "", "updates", "minutes", "s / episode", "parameters", "n", "device"]
    rows = [head]
    for row in reference.rows(file):
        steps = int(row["training_steps"])
        rows.append(
            [
                METHODS[row["method"]].label, "published", f"{steps:,}", row["minutes"],
                row["seconds_per_episode"], f"{int(row['parameters']) / 1e6:.1f}M", EMPTY,
                "RTX 3090",
            ]
        )  # fmt: skip
    for task, arm in dict.fromkeys((cost.task, cost.arm) for cost in costs):
        own = [cost for cost in costs if (cost.task, cost.arm) == (task, arm)]
        rows.append(
            [
                f"{label_of(arm)}, {task_name(task)}",
                "ours",
                _sum([c.pretrain_updates for c in own], [c.updates for c in own], "{:,.0f}"),
                _sum([c.pretrain_minutes for c in own], [c.minutes for c in own], "{:.1f}"),
                _mean([c.seconds_per_episode for c in own], "{:.2f}"),
                _mean(
                    [None if c.parameters is None else c.parameters / 1e6 for c in own], "{:.2f}M"
                ),
                str(len(own)),
                ", ".join(dict.fromkeys(c.device for c in own if c.device)) or EMPTY,
            ]
        )
    return rows


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(np.mean(known)) if known else EMPTY


def _sum(first: Sequence[float | None], second: Sequence[float | None], form: str) -> str:
    """What pretraining and training took: ``6 + 43``; training alone where there was no other."""
    before = _mean(first, form)
    return _mean(second, form) if before == EMPTY else f"{before} + {_mean(second, form)}"


# Formats


def _as_text(rows: Rows) -> str:
    """Aligned columns, a line below the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def _as_csv(rows: Rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "±": r"$\pm$", "–": "--"}
_TEX |= {"−": "$-$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\^{}"}
_TEX |= {"\\": r"\textbackslash{}"}


def _as_tex(rows: Rows) -> str:
    """A tabular with the rules of the package booktabs."""
    lines = [" & ".join("".join(_TEX.get(c, c) for c in cell) for cell in row) for row in rows]
    lines = [f"{line} \\\\" for line in lines]
    columns = "l" * len(rows[0])
    head = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", lines[0], "\\midrule"]
    return "\n".join([*head, *lines[1:], "\\bottomrule", "\\end{tabular}"]) + "\n"


FORMATS: dict[str, Callable[[Rows], str]] = {"txt": _as_text, "csv": _as_csv, "tex": _as_tex}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table that the command line names, and prints it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("runs", nargs="*", help="run folders, folders above them, CSV files")
    parser.add_argument("--scale", default="", help="whose runs count in A and B")
    parser.add_argument("--at", type=float, help="frames; default the last that all have come to")
    parser.add_argument("--output", type=Path, help="default: printed alone")
    args = parser.parse_args(argv)
    try:
        if args.table == "C":
            records, runs = [], [Path(run) for run in args.runs]
        else:
            records, runs = load(args.runs)[0], []
        chosen = {"value": TABLES[args.table], "scale": args.scale, "at": args.at, "runs": runs}
        print(_as_text(rows_of(records, **chosen)), end="")
        if args.output:
            print(*draw(records, args.output, **chosen), sep="\n")
    except REFUSED as error:
        return refuse("tables", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
