"""One Logger, several sinks: JSONL (the truth), TensorBoard, W&B, the terminal.

What the loop logs is gathered until `write` and then handed to every sink. Only JSONL may stop a
run; any other sink that fails is switched off with one warning, recorded as an event.

Symbols in shapes: N videos, T frames, H and W height and width.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from logger.jsonl import JSONLSink
from logger.pictures import to_uint8
from logger.sink import RESERVED, Record, Sink, Status
from logger.tensorboard import TensorBoardSink
from logger.terminal import TerminalSink
from logger.wandb import WandbSink
from tools import print_safe


class Logger:
    """Gathers what happened at a step and writes it to all sinks.

    Args:
        sinks: opened here, closed by `close` or at the end of a `with` block.
        step: env frames so far; the loop sets the attribute as it goes.
    """

    def __init__(self, sinks: Sequence[Sink], step: int = 0):
        self.step = step
        self._sinks = list(sinks)
        self._record = Record()
        # The required one first: it records what the others warn of.
        for sink in sorted(sinks, key=lambda sink: not sink.required):
            self._call(sink, "open")
            if sink.warning:
                self._each("event", self.step, "warning", {"message": sink.warning})

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of metrics.jsonl so far, without a JSONL sink 0; ask after a flush."""
        return next((sink.size for sink in self._sinks if isinstance(sink, JSONLSink)), 0)

    def scalar(self, name: str, value: Any) -> None:
        """Log one number: anything that `float` takes (a tensor is fetched from its device here).

        Raises:
            ValueError: a name that JSONL lines use themselves.
        """
        if name in RESERVED:
            raise ValueError(f"scalar {name!r}: the name is taken by the log itself")
        self._record.scalars[name] = float(value)

    def scalars(self, mapping: Mapping[str, Any], prefix: str = "") -> None:
        """Log several numbers; `prefix` is put before each name as it is ('eval_', 'train/')."""
        for name, value in mapping.items():
            self.scalar(prefix + name, value)

    def image(self, name: str, image: np.ndarray) -> None:
        """Log an image, [H, W, 3], uint8 or float in 0..1.

        Raises:
            ValueError: another shape or dtype.
        """
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"image {name!r} is {list(image.shape)}, not [H, W, 3]")
        self._record.images[name] = to_uint8(image, name)

    def video(self, name: str, video: np.ndarray) -> None:
        """Log a video, [T, H, W, 3], or N side by side, [N, T, H, W, 3]; uint8 or float in 0..1.

        Raises:
            ValueError: another shape or dtype.
        """
        video = np.asarray(video)
        if video.ndim not in (4, 5) or video.shape[-1] != 3 or 0 in video.shape:
            raise ValueError(f"video {name!r} is {list(video.shape)}, not [(N,) T, H, W, 3]")
        if video.ndim == 5:
            n, t, h, w, c = video.shape
            video = video.transpose(1, 2, 0, 3, 4).reshape(t, h, n * w, c)
        self._record.videos[name] = to_uint8(video, name)

    def text(self, name: str, text: str) -> None:
        """Log a text (Markdown in TensorBoard)."""
        self._record.texts[name] = str(text)

    def write(self, step: int | None = None, flush: bool = False) -> None:
        """Hand what was gathered to the sinks, under `step` (default: the attribute).

        Args:
            step: env frames.
            flush: also bring everything to the disk; do so before saving a checkpoint.
        """
        record, self._record = self._record, Record()
        step = self.step if step is None else step
        if record:
            self._each("write", step, record)
        if flush:
            self._each("flush")

    def event(self, event: str, /, **fields: Any) -> None:
        """Log that something happened, now: a line in JSONL and on the terminal.

        Raises:
            ValueError: a field of a name that JSONL lines use themselves.
        """
        if taken := RESERVED & fields.keys():
            raise ValueError(
                f"event {event!r}: the field {min(taken)!r} is taken by the log itself"
            )
        self._each("event", self.step, event, fields)

    def bar(self, total: int, initial: int = 0, desc: str = "") -> None:
        """Begin a progress bar, where a sink has one; it takes the place of the last."""
        self._each("bar", total, initial, desc)

    def progress(self, step: int, total: int | None = None, **postfix: Any) -> None:
        """Move the progress bar to `step`."""
        self._each("progress", step, total, **postfix)

    def status(self, status: Status) -> None:
        """Tell where the run stands: a line, where there is no progress bar to see it by."""
        self._each("status", self.step, status)

    def close(self) -> None:
        """Write what is left and close the sinks. A second call does nothing."""
        if self._sinks:
            self.write()
        # JSONL last: it takes the warnings of the others.
        for sink in sorted(self._sinks, key=lambda sink: sink.required):
            self._call(sink, "close")
        self._sinks = []

    def _each(self, method: str, *args: Any, **kwargs: Any) -> None:
        for sink in list(self._sinks):
            if sink in self._sinks:  # an earlier sink's warning may have switched this one off
                self._call(sink, method, *args, **kwargs)

    def _call(self, sink: Sink, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a sink; one that fails and is not required is switched off, with a warning."""
        try:
            getattr(sink, method)(*args, **kwargs)
        except Exception as error:
            if sink.required:
                raise
            self._sinks.remove(sink)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            text = f"{sink.name} failed in {method} and is off from here on ({reason})"
            self._each("event", self.step, "warning", {"message": text})
            if not any(isinstance(other, TerminalSink) for other in self._sinks):
                print_safe(f"warning: {text}")


def make_sinks(
    logdir: Path,
    *,
    resume_step: int | None = None,
    log_size: int = 0,
    tensorboard: bool = True,
    terminal: bool = True,
    wandb: Mapping[str, Any] | None = None,
    fps: int = 20,
    log_every: int = 0,
    hparams: Mapping[str, Any] = MappingProxyType({}),
    chosen: Collection[str] = (),
) -> list[Sink]:
    """The sinks of a run folder: `metrics.jsonl`, event files, W&B, stderr.

    Args:
        logdir: the run's folder.
        resume_step: env frames of the checkpoint being resumed; None begins anew. Either way, what
            earlier starts logged beyond it does not count any more.
        log_size: `Logger.size` when that checkpoint was written.
        tensorboard: write event files into `logdir`.
        terminal: events and a progress bar on stderr.
        wandb: arguments of `WandbSink` except `dir`; None leaves W&B alone.
        fps: frames per second of videos.
        log_every: env frames between log lines; the terminal prints no more about episodes than
            fits between them.
        hparams: all settings that runs may differ in.
        chosen: those that TensorBoard shows beside the run's results.
    """
    sinks: list[Sink] = [JSONLSink(Path(logdir) / "metrics.jsonl", log_size)]
    if terminal:
        sinks.append(TerminalSink(sys.stderr, log_every=log_every))
    if tensorboard:
        # TensorBoard hides steps from purge_step on; the checkpoint's own step is to stay.
        purge_step = 0 if resume_step is None else resume_step + 1
        sinks.append(TensorBoardSink(logdir, purge_step, fps, hparams, chosen))
    if wandb is not None:
        sinks.append(WandbSink(**{"fps": fps, **wandb}, dir=logdir))
    return sinks
