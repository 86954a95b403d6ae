"""A run's folder and its life: configuration, log, checkpoint, pictures, and the signal to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checkpoint
from config import Config, check_same
from logger import Logger, MeanMeter, make_sinks
from sinks import encode_gif, encode_png
from tools import UserError, atomic_write

CONFIG, CHECKPOINT = "config.yaml", "checkpoint.pt"
FPS = 20  # of videos, in pictures


class Stopped(Exception):
    """The user or the system asked the run to stop."""


def folder_of(config: Config) -> Path:
    """``<logdir>/<task>/<method>/seed_<n>``, the method being ``pretrain`` while pretraining."""
    method = "pretrain" if config.beta_vae_pretrain else config.method_name
    root = Path(config.logdir or "runs").expanduser()
    return root / config.task / method / f"seed_{config.seed}"


class Run:
    """One run in its folder; a context manager that listens to SIGTERM and Ctrl-C.

    Attributes:
        folder: where everything lies.
        resumed: the checkpoint's content, or None for a new run.
        logger: where to log.
        meter: means of metrics until the next log line.

    Raises:
        UserError: the folder cannot be used, or holds a run of another configuration.
    """

    def __init__(self, config: Config):
        self.config = config
        self.folder = folder_of(config).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise UserError(f"--logdir {self.folder} cannot be made: {reason}") from None
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"--logdir {self.folder} cannot be written to: choose another")
        self.resumed: Any = None
        if (self.folder / CONFIG).exists():
            check_same(config, self.folder / CONFIG)
        else:
            config.save(self.folder / CONFIG)
        if (self.folder / CHECKPOINT).exists():
            self.resumed = checkpoint.load(self.folder / CHECKPOINT)
        step = self.resumed["frames"] if self.resumed else None
        if step is None and (self.folder / "metrics.jsonl").exists():
            step = -1  # a run that stopped before its first checkpoint: it begins again
        self.logger = Logger(self._sinks(step), step=max(step or 0, 0))
        self.meter = MeanMeter()
        if self.resumed:
            self.meter.load_state_dict(self.resumed["meter"])
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def _sinks(self, resume_step: int | None) -> list[Any]:
        c = self.config
        wandb = None
        if c.wandb != "off":
            method = "pretrain" if c.beta_vae_pretrain else c.method_name
            name = c.wandb_name or f"{c.task}-{method}-seed_{c.seed}"
            wandb = {"mode": c.wandb, "project": c.wandb_project, "name": name, "config": dict(c)}
        return make_sinks(self.folder, resume_step=resume_step, wandb=wandb)

    def __enter__(self) -> Run:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._on_signal)
        self.logger.text("config", "```\n" + self.config.to_yaml() + "```")
        where = str(self.folder)
        if self.resumed:
            self.logger.event("resume", folder=where, frames=self.resumed["frames"])
        else:
            self.logger.event("start", folder=where)
        return self

    def __exit__(self, *_: object) -> None:
        self.logger.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal is not None:
            # Asked twice: the last checkpoint has to do.
            raise KeyboardInterrupt
        self._signal = number
        name = signal.Signals(number).name
        print(f"\n{name}: stopping with a checkpoint (again to stop without)", file=sys.stderr)

    def check_stop(self) -> None:
        """Raises :class:`Stopped` once a signal came."""
        if self._signal is not None:
            raise Stopped

    @property
    def stop_code(self) -> int:
        """The exit status of a process that ended by the signal that came."""
        return 128 + (self._signal or 0)

    def save(self, frames: int, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint: the loop's ``state``, the log's means, PyTorch's generators."""
        whole = {
            "frames": frames,
            "meter": self.meter.state_dict(),
            "rng": checkpoint.rng_state(torch.device(self.config.device)),
            **state,
        }
        checkpoint.save(self.folder / CHECKPOINT, whole)

    def restore_rng(self) -> None:
        """PyTorch's generators as the checkpoint has them; call it last of all restoring."""
        checkpoint.set_rng_state(self.resumed["rng"], torch.device(self.config.device))

    def video(self, tag: str, frames: np.ndarray) -> None:
        """Logs a video [T, H, W, C] or [N, T, H, W, C]; the newest is pictures/<tag>.gif, too."""
        if self.config.log_videos:
            self.logger.video(tag, frames)
            clips = frames if frames.ndim == 5 else frames[None]
            wide = np.concatenate(list(_rgb(clips)), axis=2)
            self._write(f"{tag}.gif", encode_gif(wide, FPS))

    def image(self, tag: str, image: np.ndarray) -> None:
        """Logs an image [H, W, C]; the newest is pictures/<tag>.png, too."""
        if self.config.log_videos:
            self.logger.image(tag, image)
            self._write(f"{tag}.png", png(image))

    def pictures(self, prefix: str, report: Mapping[str, np.ndarray]) -> None:
        """An agent's report: videos by their five dimensions, the rest images."""
        for name, value in report.items():
            # The traversal keeps the authors' tag.
            tag = name if name.startswith("beta_vae") else f"{prefix}_{name}"
            (self.video if value.ndim == 5 else self.image)(tag, value)

    def _write(self, name: str, content: bytes) -> None:
        with atomic_write(self.folder / "pictures" / name) as file:
            file.write(content)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Float pictures in 0..1 → uint8; uint8 as it is. What is not a number is black."""
    if image.dtype == np.uint8:
        return image
    return (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)


def _rgb(image: np.ndarray) -> np.ndarray:
    image = as_uint8(image)
    return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image


def png(image: np.ndarray) -> bytes:
    """A picture [H, W, C] as the bytes of a PNG."""
    return encode_png(_rgb(image))
