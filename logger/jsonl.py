"""The JSONL log of a run, written and read: every line counts.

When a run goes on from a checkpoint, what was logged after it is cut off and kept beside the log.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from fileio.atomic import naming, sync_folder
from logger.sink import Record, Sink

DISCARDED = ".discarded.jsonl"  # how the name of the file ends that takes what is cut off


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out.

    Raises:
        ValueError: another line is no JSON object with a step; names file and line.
        OSError: the file cannot be read.
    """
    path = Path(path)
    return _parse(path.read_bytes(), path)


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    rows = []
    *lines, last = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line and (row := _parse_line(line)) is None:
            raise ValueError(f"{path}, line {number}: no line of a log")
        if line:
            rows.append(row)
    row = _parse_line(last)
    return rows if row is None else [*rows, row]


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """A row, None for a line that is none."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or "step" not in row:
        return None
    # A step is compared, a time goes on.
    numbers = [row[name] for name in ("step", "time") if name in row]
    finite = all(type(n) in (int, float) and abs(n) < 1 << 63 for n in numbers)
    return row if finite else None


class JSONLSink(Sink):
    """One JSON object per line: {"step", "time", scalars…} or {"step", "time", "event", fields…}.

    "time" is seconds of training, over all restarts. A float that is not finite becomes null and is
    named in "nonfinite".

    Args:
        path: the file; folders are made.
        kept: how many bytes of an earlier file count, the `size` when the checkpoint was written.
            The rest is moved to the end of `<name>.discarded.jsonl`.
        clock: seconds, monotonic.
    """

    name = "JSONL"
    required = True

    def __init__(self, path: Path, kept: int = 0, clock: Callable[[], float] = time.monotonic):
        self._path, self._kept, self._clock = Path(path), kept, clock
        self._file: TextIO | None = None
        self._start = 0.0

    def open(self) -> None:
        """Open the file behind what counts of it.

        Raises:
            ValueError: what counts is no log of ours; nothing is changed then.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = self._path.read_bytes() if self._path.exists() else b""
        kept = content[: self._kept]
        kept = kept[: kept.rfind(b"\n") + 1]  # whole lines, also of a file that was edited
        rows = _parse(kept, self._path)
        self._start = self._clock() - (rows[-1].get("time", 0.0) if rows else 0.0)
        if tail := content[len(kept) :]:
            _append(self._path.with_suffix(DISCARDED), tail)
            with naming(self._path):
                os.truncate(self._path, len(kept))
        self._file = self._path.open("a", buffering=1, encoding="utf-8")

    @property
    def size(self) -> int:
        """Bytes of the file, 0 while it is not open; all that was logged, after a flush."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def write(self, step: int, record: Record) -> None:
        """Append a line, if there are scalars."""
        if record.scalars:
            self._write_line(step, record.scalars)

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Append a line."""
        self._write_line(step, {"event": event, **fields})

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

    def _write_line(self, step: int, values: Mapping[str, Any]) -> None:
        line = {"step": int(step), "time": round(self._clock() - self._start, 3)}
        bad: list[str] = []
        line |= {
            key: _plain(value, lambda key=key: bad.append(key)) for key, value in values.items()
        }
        if bad:
            line["nonfinite"] = list(dict.fromkeys(bad))
        with naming(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")


def _append(path: Path, lines: bytes) -> None:
    """Brings lines to the end of a file, and to the disk."""
    with naming(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # killed right here
                lines = b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


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
