"""A JSONL log, read: the lines that count, whatever restarts and kills have left in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL log that count, in order, without the restart markers.

    A marker {"resumed_from": s} drops the earlier lines of steps after s: the run did those steps
    again. Lines that kills cut short (the last one, or ones before a marker) are left out.

    Raises:
        ValueError: another line is no JSON object with a step; names file and line.
        OSError: the file cannot be read.
    """
    return apply_markers(Path(path).read_bytes(), Path(path))


def apply_markers(content: bytes, path: Path) -> list[dict[str, Any]]:
    """`read_metrics` of what a file holds, ``path`` being its name in messages."""
    rows: list[dict[str, Any]] = []
    broken = None
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line:
            continue
        row = _read_line(line)
        marks = row is not None and "resumed_from" in row
        if broken is not None and row is not None and not marks:
            raise ValueError(f"{path}, line {broken}: no line of a log")
        if row is None:
            broken = broken or number
            continue
        broken = None
        if marks:
            rows = [old for old in rows if old["step"] <= row["resumed_from"]]
        else:
            rows.append(row)
    if broken is not None and content.endswith(b"\n"):
        raise ValueError(f"{path}, line {broken}: no line of a log")
    return rows


def _read_line(line: bytes) -> dict[str, Any] | None:
    """A row or a marker, None for a line that is neither."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    numbers = [row[name] for name in ("step", "time", "resumed_from") if name in row]
    if not all(type(n) in (int, float) and abs(n) < 1 << 63 for n in numbers):
        return None  # a step is compared, a time goes on
    return row if "step" in row or "resumed_from" in row else None
