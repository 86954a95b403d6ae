"""A JSONL log, read: the lines that count, whatever restarts and kills have left in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Events that no start repeats.
_TOLD_ONCE = frozenset({"start", "resume", "stopped", "warning", "set_aside", "skipped"})
_BEGINNINGS = (b'{"step": ', b'{"resumed_from": ')  # of the lines that are written


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL log that count, in order, without the restart markers.

    A marker {"resumed_from": s, "bytes": n} drops the earlier lines of steps after s, and those
    that begin at byte n or later: they were logged after the checkpoint, and the run did all that
    again. What happened once, a stop or a warning say, stays. A marker without "bytes" goes by the
    steps alone. Lines that kills cut short (the last one, or ones before a marker) are left out.

    Raises:
        ValueError: another line is no JSON object with a step; names file and line.
        OSError: the file cannot be read.
    """
    return apply_markers(Path(path).read_bytes(), Path(path))


def apply_markers(
    content: bytes, path: Path, marker: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """`read_metrics` of what a file holds.

    Args:
        content: the file's.
        path: its name in messages.
        marker: one that is about to be written behind it.
    """
    rows: list[tuple[int, dict[str, Any]]] = []  # where each begins, and what it says
    broken, cut, end = None, False, 0
    for number, line in enumerate(content.split(b"\n"), 1):
        start, end = end, end + len(line) + 1
        if not line:
            continue
        row = _read_line(line)
        marks = row is not None and "resumed_from" in row
        if broken is not None and row is not None and not marks:
            raise ValueError(f"{path}, line {broken}: no line of a log")
        if row is None:
            broken, cut = broken or number, _is_cut(line)
            continue
        broken = None
        if marks:
            rows = _kept(rows, row)
        else:
            rows.append((start, row))
    if broken is not None and content.endswith(b"\n") and not cut:
        raise ValueError(f"{path}, line {broken}: no line of a log")
    return [row for _, row in (rows if marker is None else _kept(rows, marker))]


def _kept(
    rows: list[tuple[int, dict[str, Any]]], marker: Mapping[str, Any]
) -> list[tuple[int, dict[str, Any]]]:
    """The rows that a marker leaves."""
    # Both: in a log that was moved away and begun anew, bytes tell nothing.
    step, size = marker["resumed_from"], marker.get("bytes", math.inf)
    kept = [(start, row) for start, row in rows if row["step"] <= step]
    return [(at, row) for at, row in kept if at < size or row.get("event") in _TOLD_ONCE]


def _is_cut(line: bytes) -> bool:
    """Whether a line begins as those that are written do, and stops before its end."""
    begins = any(line.startswith(b) or b.startswith(line) for b in _BEGINNINGS)
    return begins and not line.endswith(b"}")


def _read_line(line: bytes) -> dict[str, Any] | None:
    """A row or a marker, None for a line that is neither."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    names = ["step", "time", "resumed_from"]
    names += ["bytes"] if "resumed_from" in row else []  # in a row it may be anything
    numbers = [row[name] for name in names if name in row]
    if not all(type(n) in (int, float) and abs(n) < 1 << 63 for n in numbers):
        return None  # a step is compared, a time goes on
    return row if "step" in row or "resumed_from" in row else None
