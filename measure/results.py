"""Metrics as files and tables.

``metrics.json`` is one encoder's, UTF-8 without NaN; K factors, Z latents:

    {"version": 1, "task": …, "variation": …, "frames": N, "seed": …, "encoder": name of its row,
     "latents": [{"index": i, "kl": nats or null, "std": …, "active": bool,
                  "best_factor": name or null, "r2": 0..1}, … Z],
     "factors": [{"name": …, "group": …, "kind": "number", "angle" or "choice"}, … K],
     "r2": [[…K] …Z], "r2_ridge": [[…K] …Z], "r2_all": {"ridge": [K], "forest": [K]},
     "importance": [[…K] …Z], "mutual_information": [[…K] …Z],
     "scores": {name: number}, "controls": {name: {name: number}},
     "onpolicy": null or {"frames": M, "factors": [names], "scores": {…}, "r2": [[…] …Z],
                          "correlations": [[…] …]}}

`best_factor` is null of a latent that is not active, or alone predicts nothing better than
`measure.metrics.TELLS`; `r2` is its best all the same.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fileio.atomic import atomic_write
from measure.factors import Factors
from measure.metrics import SCORES, Metrics
from tools import UserError

VERSION = 1
JSON, CSV, FOLDER = "metrics.json", "metrics.csv", "disentanglement"
# Of columns in a terminal.
SHORT = {
    "dci_disentanglement": "D",
    "dci_completeness": "C",
    "dci_informativeness": "I",
    "dci_disentanglement_groups": "D groups",
    "mig": "MIG",
    "sap": "SAP",
    "infom": "InfoM",
    "infoc": "InfoC",
    "modularity": "modular",
    "ridge_r2": "ridge R²",
    "active": "active",
}
Rows = Mapping[str, Mapping[str, float]]  # scores by what they are of


def to_dict(
    metrics: Metrics,
    *,
    encoder: str,
    task: str,
    variation: str,
    seed: int,
    controls: Rows,
    onpolicy: tuple[Metrics, Factors] | None,
) -> dict[str, Any]:
    """What ``metrics.json`` holds."""
    return {
        "version": VERSION,
        "task": task,
        "variation": variation,
        "frames": metrics.frames,
        "seed": seed,
        "encoder": encoder,
        "latents": [dataclasses.asdict(latent) for latent in metrics.latents],
        "factors": [factor._asdict() for factor in metrics.factors],
        "r2": metrics.r2,
        "r2_ridge": metrics.r2_ridge,
        "r2_all": metrics.r2_all,
        "importance": metrics.importance,
        "mutual_information": metrics.mutual_information,
        "scores": metrics.scores,
        "controls": controls,
        "onpolicy": None if onpolicy is None else _onpolicy(*onpolicy),
    }


def _onpolicy(metrics: Metrics, factors: Factors) -> dict[str, Any]:
    return {
        "frames": metrics.frames,
        "factors": factors.names,
        "scores": metrics.scores,
        "r2": metrics.r2 if metrics.r2 is not None else metrics.r2_ridge,
        "correlations": factors.correlations(),
    }


def write(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Writes one encoder's ``metrics.json`` and, with its controls, ``metrics.csv``; each whole.

    Raises:
        OSError: they cannot be written.
    """
    path = folder / JSON
    text = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False, indent=1)
    with atomic_write(path) as file:
        file.write(text.encode())
    rows = {content["encoder"]: content["scores"], **content["controls"]}
    return [path, write_csv(folder / CSV, rows)]


def write_csv(path: Path, rows: Rows) -> Path:
    """Writes a table: a row for each encoder and control, a column for each score."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["encoder", *names])
    for label, row in rows.items():
        writer.writerow([label, *(f"{row[n]:.4f}" if n in row else "" for n in names)])
    with atomic_write(path) as file:
        file.write(buffer.getvalue().encode())
    return path


def read(folder: Path, stage: str = "") -> dict[str, Any] | None:
    """What was measured of the run or checkpoint in a folder; None if nothing was.

    Args:
        folder: the run's or checkpoint's own.
        stage: ``teacher`` for a finetuning's.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    path = folder / FOLDER / stage / JSON
    if not path.is_file():
        return None
    mend = "measure again: python -m study metrics"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {mend}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{path} is of another version: {mend}")
    if not all(isinstance(content.get(name), list) for name in ("latents", "factors", "r2")):
        raise UserError(f"{path} is damaged, it lacks latents, factors or r2: {mend}")
    return content


def table(rows: Rows) -> str:
    """The scores as text, a line for each encoder and control."""
    names = [name for name in SCORES if any(name in row for row in rows.values())]
    lines = [["encoder", *(SHORT[name] for name in names)]]
    for label, row in rows.items():
        lines.append([label, *(_cell(name, row.get(name)) for name in names)])
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *rest in lines:
        right = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        texts.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(texts)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}".removesuffix(".0") if name == "active" else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """For JSON: lists and numbers, rounded to what means anything; None for what is not finite."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if math.isfinite(value) else None
    return value
