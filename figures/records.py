"""What figures are drawn from: a record for each evaluation, in a CSV or a run's folder."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from agents.registry import AGENTS
from envs import RenderingError, UnknownTask
from figures.runs import arm_of, find_runs, read_config, read_log, scale_of, source_of
from figures.style import METHODS
from fileio.atomic import atomic_write
from tools import UserError, nearest, print_safe

RANDOM = "random"
REFUSED = (UserError, UnknownTask, RenderingError, OSError)  # what commands say in a line
COLUMNS = (
    "study", "scale", "task", "source", "method", "arm", "seed", "frames", "return", "return_std",
    "episodes", "success",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Record:
    """One evaluation of one run.

    Attributes:
        study: what the run is part of; may be empty.
        scale: its size, such as ``paper`` or ``cpu``; empty where nobody named it.
        task: what it learns, with its suite's prefix.
        source: the task of the videos that taught its first stage; empty without one.
        method: as ``--method_name`` has it; ``random`` of a random policy's evaluation.
        arm: the variant within its study, by default the method with the run's label.
        seed: the run's.
        frames: environment frames before the evaluation; 0 of the random policy's.
        ret: mean of its episodes' returns; the column is called ``return``.
        return_std: their standard deviation (n − 1 in the denominator).
        episodes: how many.
        success: share of those that succeeded; None where the environment does not tell.
    """

    study: str
    scale: str
    task: str
    source: str
    method: str
    arm: str
    seed: int
    frames: int
    ret: float
    return_std: float
    episodes: int
    success: float | None = None


def from_run(
    folder: Path, study: str = "", scale: str = "", source: str = "", arm: str = ""
) -> list[Record]:
    """The records of a run, or of all runs below a folder but pretrainings.

    Args:
        folder: a run's folder, or one above runs. Runs below it that have not been evaluated yet
            are left out, which a line says.
        study, scale, source, arm: of the records; where empty, what the run tells itself: the
            smallest of the blocks debug, demo and cpu, the task of its predictor's videos, the
            method with the label.

    Raises:
        UserError: there is no evaluated run, or one whose files cannot be read.
    """
    runs, found = find_runs(Path(folder)), []
    for run in runs:
        records = _of_run(run, study, scale, source, arm)
        if not records and run != Path(folder):
            print_safe(f"note: {run} has not been evaluated yet: it is left out")
        found += records
    if not found:
        what = "" if runs == [Path(folder)] else ": none of the runs below it has"
        raise UserError(f"{folder} has not been evaluated yet{what}")
    return found


def _of_run(run: Path, study: str, scale: str, source: str, arm: str) -> list[Record]:
    config, rows = read_config(run), read_log(run)
    common = {
        "study": study,
        "scale": scale or scale_of(run),
        "task": config["task"],
        "source": source or source_of(config),
        "seed": int(config["seed"]),
    }
    method, records = str(config["method_name"]), {}
    for row in rows:
        try:
            if "random_return" in row:
                numbers = _numbers(row, "random")
                records[RANDOM] = Record(**common, **numbers, method=RANDOM, arm=RANDOM, frames=0)
            if "eval_return" in row:
                frames, name = int(row["step"]), arm or arm_of(config)
                numbers = _numbers(row, "eval")
                records[frames] = Record(
                    **common, **numbers, method=method, arm=name, frames=frames
                )
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{run / 'metrics.jsonl'}: the evaluation at step {row['step']} lacks a number; "
                "take the line out, or name another run"
            ) from None
    return list(records.values()) if records.keys() - {RANDOM} else []


def _numbers(row: dict, policy: str) -> dict:
    """What an evaluation of a log came to."""
    success = row.get(f"{policy}_success")
    return {
        "ret": float(row[f"{policy}_return"]),
        "return_std": float(row[f"{policy}_return_std"]),
        "episodes": int(row[f"{policy}_episodes"]),
        "success": None if success is None else float(success),
    }


def write_csv(records: Iterable[Record], path: Path) -> None:
    """Writes records, one row each, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        values = dataclasses.astuple(record)
        writer.writerow(["" if value is None else value for value in values])
    with atomic_write(Path(path)) as file:
        file.write(text.getvalue().encode())


def read_csv(path: Path) -> list[Record]:
    """What :func:`write_csv` wrote.

    Raises:
        UserError: there is no such file, or a row of it is damaged; the line names the row.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no CSV file: it is not text") from None
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(
            f"{path} is no table of records: its first line is to be {','.join(COLUMNS)}"
        )
    records = [
        _of_row(row, f"{path}, line {number}") for number, row in enumerate(rows[1:], 2) if row
    ]
    if not records:
        raise UserError(f"{path} holds no records")
    return records


def _of_row(row: Sequence[str], where: str) -> Record:
    if len(row) != len(COLUMNS):
        raise UserError(
            f"{where} has {len(row)} of {len(COLUMNS)} columns: mend it, or take it out"
        )
    given = dict(zip(COLUMNS, row, strict=True))
    _check_method(given["method"], where)
    if not given["task"]:
        raise UserError(f"{where} names no task: mend it, or take it out")
    numbers = {name: _number(given, name, where) for name in ("return", "return_std")}
    if numbers["return_std"] < 0:
        raise UserError(f"{where}: return_std is below 0: mend it, or take it out")
    counts = {name: _count(given, name, where) for name in ("seed", "frames", "episodes")}
    success = None if given["success"] == "" else _number(given, "success", where)
    if success is not None and not 0 <= success <= 1:
        raise UserError(f"{where}: success is to be a share of 1: mend it, or take it out")
    texts = {name: given[name] for name in ("study", "scale", "task", "source", "method")}
    arm = given["arm"] or given["method"]
    ret, std = numbers["return"], numbers["return_std"]
    return Record(**texts, **counts, arm=arm, ret=ret, return_std=std, success=success)


def _number(given: dict[str, str], name: str, where: str) -> float:
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is '{given[name][:30]}': give a finite number")
    return value


def _count(given: dict[str, str], name: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,18}", given[name], re.ASCII):
        raise UserError(f"{where}: {name} is '{given[name][:30]}': give a whole number")
    return int(given[name])


def _check_method(name: str, where: str) -> None:
    known = [*AGENTS, *(method for method in METHODS if method not in AGENTS)]
    if name not in known:
        raise UserError(
            f"{where}: there is no method '{name[:50]}'{nearest(name, known)}; it takes "
            f"{', '.join(known)}"
        )


def load(inputs: Sequence[str], scale: str = "") -> tuple[list[Record], list[Path]]:
    """What a command line names: run folders, folders above runs, and CSV files.

    Args:
        inputs: paths; ``NAME=PATH`` names the arm of all that is there.
        scale: of the records that name none.

    Returns:
        The records, and the run folders among the inputs.

    Raises:
        UserError: one of them cannot be read.
    """
    records, runs = [], []
    for given in inputs:
        arm, path = _split(given)
        if path.is_file():
            read = read_csv(path)
            if arm:
                read = [r if r.method == RANDOM else dataclasses.replace(r, arm=arm) for r in read]
            records += read
        else:
            records += from_run(path, arm=arm)
            runs += find_runs(path)
    return [r if r.scale else dataclasses.replace(r, scale=scale) for r in records], runs


def _split(given: str) -> tuple[str, Path]:
    """A name, if one was given, and the path."""
    name, found, path = given.partition("=")
    if found and not Path(given).exists() and re.fullmatch(r"[\w.+-]+", name):
        return name, Path(path)
    return "", Path(given)


def parser_of(program: str, doc: str | None, values: Iterable[str]) -> argparse.ArgumentParser:
    """A parser of the runs to draw, as :func:`load` reads them, and of which number of theirs.

    Args:
        program: the module's name in figures/.
        doc: the module's docstring.
        values: what ``--value`` may be, ``return`` by default.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m figures.{program}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="run folders, folders above them, CSV files")
    parser.add_argument("--value", choices=values, default="return")
    parser.add_argument("--scale", default="", help="of runs that do not say it themselves")
    return parser


def refuse(program: str, error: Exception) -> int:
    """Says on a line why nothing was drawn: one of ``REFUSED``; the exit status of that."""
    if isinstance(error, OSError):
        from training.failures import describe  # imports PyTorch, which most figures do without

        print_safe(f"{program}: {describe(error)}", sys.stderr)
        return 1
    print_safe(f"{program}: {error}", sys.stderr)
    return 2
