"""Records to Weights & Biases."""

from __future__ import annotations

import html
import importlib
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.groups import picture_tag, scalar_tag
from logger.pictures import encode_gif
from logger.sink import Record, Sink

PATIENCE = 30.0  # seconds to wait for W&B when a run begins, and again when it ends


class WandbSink(Sink):
    """Weights & Biases, imported only when this sink opens.

    Args:
        mode: 'online' or 'offline'.
        project: W&B project.
        name: of the run.
        config: the resolved config of the run.
        dir: folder for W&B's files.
        group: of runs that differ in their seed alone.
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
        group: str | None = None,
        id: str | None = None,
        fps: int = 20,
    ):
        if mode not in ("online", "offline"):
            raise ValueError(f"W&B mode {mode!r}: 'online' or 'offline'")
        self._settings = {"mode": mode, "project": project, "name": name, "id": id}
        self._settings |= {"config": dict(config), "dir": str(dir), "group": group}
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
        """Log everything under its group and name; texts as HTML."""
        items: dict[str, Any] = {scalar_tag(name): v for name, v in record.scalars.items()}
        for name, image in record.images.items():
            items[picture_tag(name, "image")] = self._wandb.Image(image)
        for name, video in record.videos.items():
            gif = io.BytesIO(encode_gif(video, self._fps))
            items[picture_tag(name, "video")] = self._wandb.Video(gif, format="gif")
        for name, text in record.texts.items():
            items[name] = self._wandb.Html(f"<pre>{html.escape(text)}</pre>")
        self._run.log(items, step=int(step))

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()
