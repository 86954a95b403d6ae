"""A JSONL log, read: the lines that count, whatever restarts and kills have left in it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from fileio.atomic import naming
from logger.sink import Record, Sink

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


class JSONLSink(Sink):
    """One JSON object per line: {"step", "time", scalars…} or {"step", "time", "event", fields…}.

    "time" is seconds of training, over all restarts. A float that is not finite becomes null and is
    named in "nonfinite". Lines are only ever appended: a restart adds {"resumed_from": step,
    "bytes": size}, which `read_metrics` applies.

    Args:
        path: the file; folders are made.
        resume_step: step of the checkpoint being resumed; None begins anew, which masks whatever
            the file holds.
        clock: seconds, monotonic.
        resume_bytes: the `size` when that checkpoint was written, where it is known.
    """

    name = "JSONL"
    required = True

    def __init__(
        self,
        path: Path,
        resume_step: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        resume_bytes: int | None = None,
    ):
        self._path, self._clock = Path(path), clock
        self._resume_step, self._resume_bytes = resume_step, resume_bytes
        self._file: TextIO | None = None
        self._start = 0.0

    def open(self) -> None:
        """Open the file and mark the restart.

        Raises:
            ValueError: the file is there and is no log of ours.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old = self._path.read_bytes() if self._path.exists() else b""
        marker = {"resumed_from": -1 if self._resume_step is None else self._resume_step}
        if self._resume_bytes is not None:
            marker["bytes"] = self._resume_bytes
        kept = apply_markers(old, self._path, marker)
        self._start = self._clock() - (kept[-1].get("time", 0.0) if kept else 0.0)
        self._file = self._path.open("a", buffering=1, encoding="utf-8")
        if old or self._resume_step is not None:
            # A last line that a kill cut short stays as it is. One write ends it and marks the
            # restart: a kill between two would leave a whole line that says nothing.
            end = "\n" if old and not old.endswith(b"\n") else ""
            self._file.write(f"{end}{json.dumps(marker)}\n")

    @property
    def size(self) -> int:
        """Bytes of the file, 0 while it is not open; all that was logged, after a flush."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def write(self, step: int, record: Record) -> None:
        """Append a line, if there are scalars."""
        if record.scalars:
            self._append(step, record.scalars)

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Append a line."""
        self._append(step, {"event": event, **fields})

    def flush(self) -> None:
        """Bring all lines to the disk."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring all lines to the disk and close the file."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def _append(self, step: int, values: Mapping[str, Any]) -> None:
        line = {"step": int(step), "time": round(self._clock() - self._start, 3)}
        bad: list[str] = []
        line |= {
            key: _plain(value, lambda key=key: bad.append(key)) for key, value in values.items()
        }
        if bad:
            line["nonfinite"] = list(dict.fromkeys(bad))
        with naming(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")


def _plain(value: Any, lose: Callable[[], None]) -> Any:
    """A value as JSON has it: arrays as lists, the unknown as text; `lose` is called for NaN."""
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, and whatever resembles them
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, lose) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, lose) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        lose()
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
