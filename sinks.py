"""Where log records go. Each sink takes a `Record` at a step, events, and perhaps progress."""

from __future__ import annotations

import html
import importlib
import io
import json
import math
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np

from journal import apply_markers
from journal import read_metrics as read_metrics
from pictures import encode_gif, encode_png
from tools import naming

PATIENCE = 30.0  # seconds to wait for W&B when a run begins, and again when it ends
RESERVED = frozenset({"step", "time", "event", "nonfinite", "resumed_from"})


@dataclass
class Record:
    """What was logged for one step: images uint8 [H, W, 3], videos uint8 [T, H, W, 3]."""

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    videos: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.scalars, self.images, self.videos, self.texts))


class Sink:
    """The base: takes everything and does nothing.

    Attributes:
        required: a failure stops the run.
        warning: what to tell the user once it is open.
    """

    name: ClassVar[str] = "sink"
    required: ClassVar[bool] = False
    warning: str = ""

    def open(self) -> None:
        """Begin; whatever can fail belongs here and not in the constructor."""

    def write(self, step: int, record: Record) -> None:
        """Take what was logged for a step (env frames)."""

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Take an event."""

    def bar(self, total: int, initial: int = 0, desc: str = "") -> None:
        """Begin a progress bar."""

    def progress(self, step: int, total: int | None = None, **postfix: Any) -> None:
        """Move the progress bar."""

    def flush(self) -> None:
        """Bring everything taken so far to its place."""

    def close(self) -> None:
        """End."""


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


class TensorBoardSink(Sink):
    """TensorBoard event files, in TensorBoard's own format.

    Its usual writer has a thread, which on a full disk prints a traceback of its own.

    Scalars go under `scalars/<name>` unless the name has a '/', videos are animated GIFs under
    IMAGES, texts are under TEXT.

    Args:
        dir: folder of the event files.
        purge_step: on resume; TensorBoard hides what was logged at this step and later.
        fps: frames per second of videos.
    """

    name = "TensorBoard"

    def __init__(self, dir: Path, purge_step: int | None = None, fps: int = 20):
        self._dir, self._purge_step, self._fps = Path(dir), purge_step, fps
        self._writer: Any = None

    def open(self) -> None:
        """Start an event file; with `purge_step` a session that begins there."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._dir.mkdir(parents=True, exist_ok=True)
        # Later files have greater names, even if the clock was set back: TensorBoard reads them
        # in that order.
        begun = max([time.time(), *(earlier + 1 for earlier in _begun(self._dir))])
        name = f"events.out.tfevents.{begun:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((self._dir / name).open("xb"))
        self._add(file_version="brain.Event:2")
        if self._purge_step is not None:
            log = SessionLog(status=SessionLog.START)
            self._add(step=self._purge_step, session_log=log)

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def write(self, step: int, record: Record) -> None:
        """Add one event with all values."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name if "/" in name else f"scalars/{name}", simple_value=value)
            for name, value in record.scalars.items()
        ]
        for name, image in record.images.items():
            values.append(_picture_value(name, image, encode_png(image)))
        for name, video in record.videos.items():
            values.append(_picture_value(name, video[0], encode_gif(video, self._fps)))
        values += [_text_value(name, text) for name, text in record.texts.items()]
        self._add(step=int(step), summary=Summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _begun(dir: Path) -> list[float]:
    """The times in the names of a folder's event files."""
    times = (re.match(r"events\.out\.tfevents\.(\d+(\.\d+)?)", name) for name in os.listdir(dir))
    return [float(found[1]) for found in times if found]


def _picture_value(name: str, image: np.ndarray, encoded: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    size = dict(zip(("height", "width", "colorspace"), image.shape, strict=True))
    return Summary.Value(tag=name, image=Summary.Image(encoded_image_string=encoded, **size))


def _text_value(name: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text.metadata import create_summary_metadata

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    metadata = create_summary_metadata(display_name="", description="")
    return Summary.Value(tag=name, metadata=metadata, tensor=tensor)


class WandbSink(Sink):
    """Weights & Biases, imported only when this sink opens.

    Args:
        mode: 'online' or 'offline'.
        project: W&B project.
        name: of the run.
        config: the resolved config of the run.
        dir: folder for W&B's files.
        id: of the W&B run; the same id goes on with the same run after a restart.
        fps: frames per second of videos.

    Raises:
        ValueError: another mode.
    """

    name = "W&B"

    def __init__(
        self,
        mode: str,
        project: str,
        name: str,
        config: Mapping[str, Any],
        dir: Path,
        id: str | None = None,
        fps: int = 20,
    ):
        if mode not in ("online", "offline"):
            raise ValueError(f"W&B mode {mode!r}: 'online' or 'offline'")
        self._settings = {"mode": mode, "project": project, "name": name, "id": id}
        self._settings |= {"config": dict(config), "dir": str(dir)}
        self._settings |= {"resume": "allow"} if id else {}
        self._fps = fps
        self._wandb = self._run = None

    def open(self) -> None:
        """Start or go on with the W&B run."""
        self._wandb = wandb = importlib.import_module("wandb")
        limits = wandb.Settings(init_timeout=PATIENCE, finish_timeout=PATIENCE)
        try:
            self._run = wandb.init(**self._settings, settings=limits)
        except wandb.errors.Error as error:
            if self._settings["mode"] == "offline":
                raise
            wandb.teardown()  # its service still holds the run's id
            self._run = wandb.init(**{**self._settings, "mode": "offline"}, settings=limits)
            reason = " ".join(str(error).split())
            self.warning = (
                f"W&B cannot be reached ({reason}); the run goes there later by: "
                f"wandb sync {shlex.quote(str(self._settings['dir']))}/wandb/offline-run-*"
            )

    def write(self, step: int, record: Record) -> None:
        """Log everything under its name; texts as HTML."""
        items: dict[str, Any] = dict(record.scalars)
        items |= {name: self._wandb.Image(image) for name, image in record.images.items()}
        for name, video in record.videos.items():
            gif = io.BytesIO(encode_gif(video, self._fps))
            items[name] = self._wandb.Video(gif, format="gif")
        for name, text in record.texts.items():
            items[name] = self._wandb.Html(f"<pre>{html.escape(text)}</pre>")
        self._run.log(items, step=int(step))

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


class TerminalSink(Sink):
    """A line per event, and one live progress bar if the stream is a terminal.

    Args:
        stream: where to; default stderr.
        bar: show the progress bar.
    """

    name = "terminal"

    def __init__(self, stream: TextIO | None = None, bar: bool = True):
        self._stream = sys.stderr if stream is None else stream
        self._live = bar and self._stream.isatty()
        self._bar = None

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Print a line, above the bar if there is one."""
        words = [f"[{step:>9,}] {event}", *(f"{k} {_short(v)}" for k, v in fields.items())]
        line = "  ".join(words)
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def bar(self, total: int, initial: int = 0, desc: str = "") -> None:
        """Begin a bar in place of the last one."""
        if not self._live:
            return
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(
            total=total, initial=initial, desc=desc, file=self._stream, dynamic_ncols=True
        )

    def progress(self, step: int, total: int | None = None, **postfix: Any) -> None:
        """Move the bar to `step`; begins one if there is none."""
        if not self._live:
            return
        if self._bar is None:
            self.bar(total, initial=step)
        if total is not None:
            self._bar.total = total
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
