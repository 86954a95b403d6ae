"""A run's folder and its life: configuration, log, checkpoint, pictures, and the signal to stop."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import checkpoint
from accel.runtime import Runtime
from config import Config, check_same
from logger import Logger, MeanMeter, make_sinks
from pictures import encode_gif, encode_png, to_rgb
from tools import UserError, atomic_write, expand, leftovers, set_bad_aside

CONFIG, CHECKPOINT, LOCK = "config.yaml", checkpoint.NEWEST, "lock"
PARTS = frozenset({"frames", "finished", "meter", "rng", "learner", "clocks"})  # of a checkpoint
FPS = 20  # of videos, in pictures
TWICE = 1.0  # seconds after the first signal from which on Ctrl-C is another wish


class Stopped(Exception):
    """The user or the system asked the run to stop."""


def folder_of(config: Config) -> Path:
    """``<logdir>/<task>/<method>/seed_<n>``, the method being ``pretrain`` while pretraining."""
    method = "pretrain" if config.beta_vae_pretrain else config.method_name
    root = expand(config.logdir or "runs", "logdir")
    return root / config.task / method / f"seed_{config.seed}"


class Run:
    """One run in its folder. Building it only looks; entering it begins to write.

    As a context manager it opens the log and listens to SIGTERM, SIGHUP and Ctrl-C. From its
    building on, where the folder is there already, no other process can begin in it; the lock ends
    with :meth:`close`, or with the process.

    Args:
        config: its configuration.
        runtime: where and how it computes.

    Attributes:
        folder: where everything lies.
        resumed: the checkpoint's content until the run begins, or None for a new run.
        known: whether an earlier start has been here.
        logger: where to log, once the run has begun.
        meter: means of metrics until the next log line.

    Raises:
        UserError: the folder cannot be used, is in use, or holds a run of another configuration.
    """

    logger: Logger

    def __init__(self, config: Config, runtime: Runtime):
        self.config, self.runtime = config, runtime
        self.folder = folder_of(config).absolute()
        check_writable(self.folder, "--logdir", "choose another")
        self._lock: TextIO | None = None
        self._handlers: dict[int, Any] = {}
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self.known = (self.folder / CONFIG).exists()
        if self.known:
            check_same(config, self.folder / CONFIG)
        elif checkpoint.find(self.folder):
            raise UserError(
                f"{self.folder} has a {CHECKPOINT} but no {CONFIG}: put that back, or choose "
                "another --logdir"
            )
        if self.folder.exists():
            self._take_lock()
        try:
            self.resumed, self._damaged = checkpoint.load_newest(self.folder, PARTS)
        except UserError as error:
            self.close()
            raise UserError(f"{error}, or choose another --logdir") from None
        self.saved = self.resumed["frames"] if self.resumed else None
        self.meter = MeanMeter()
        if self.resumed:
            self.meter.load_state_dict(self.resumed["meter"])
        self._signal: int | None = None
        self._signalled = 0.0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end in an earlier start."""
        return self.resumed is not None and self.resumed["finished"]

    def note(self, event: str, **fields: Any) -> None:
        """An event to log as soon as the run begins."""
        self._notes.append((event, fields))

    @property
    def locked(self) -> bool:
        """Whether this folder is this process's, as far as the file system can tell."""
        return self._lock is not None

    @property
    def last(self) -> str:
        """The last checkpoint, in words."""
        if self.saved is None:
            return "there is no checkpoint yet"
        return f"its last checkpoint is of frame {self.saved}"

    def _take_lock(self) -> None:
        """Keeps other processes out; the system gives the lock back when this process ends.

        Raises:
            UserError: another process is in.
        """
        path = self.folder / LOCK
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                who = " ".join(path.read_text(errors="replace").split()[:4])
                raise UserError(
                    f"{self.folder} is in use by another process{who and f' ({who})'}: wait until "
                    "it ends or stop it, or choose another --logdir or --seed"
                ) from None
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                file.close()
                raise
            what = "this file system has no locks: nothing keeps a second process out of here"
            self.note("warning", message=what)
        self._lock = file
        with contextlib.suppress(OSError):  # on a full disk nobody is told who it is
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            file.flush()

    def close(self) -> None:
        """Lets other processes in again, and signals take their usual course.

        What closes before it, environments say, may take seconds; a second signal does not end
        that.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._lock is not None:
            with contextlib.suppress(OSError):  # what it could not write before
                self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._take_lock()
            if (self.folder / CONFIG).exists():
                raise UserError(f"another process has begun {self.folder} meanwhile: start again")
        for path in leftovers(self.folder):
            # There another process may be at work.
            if "evaluations" not in path.relative_to(self.folder).parts:
                path.unlink(missing_ok=True)
        if not self.known:
            self.config.save(self.folder / CONFIG)
        for path, reason in self._damaged:
            moved = set_bad_aside(path, self.folder / "bad", reason)
            text = f"{reason}; it is {moved} now, and that of frame {self.saved} takes its place"
            self.note("warning", message=text)
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name)
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
                self._handlers[number] = signal.signal(number, self._on_signal)
        step = self.resumed["frames"] if self.resumed else None
        if step is None and (self.folder / "metrics.jsonl").exists():
            step = -1  # a run that stopped before its first checkpoint: it begins again
        try:
            self.logger = Logger(self._sinks(step), step=max(step or 0, 0))
        except ValueError as error:
            raise UserError(f"{error}: move that file away to go on without it") from None
        self.logger.text("config", "```\n" + self.config.to_yaml() + "```")
        where = str(self.folder)
        if self.resumed:
            self.logger.event("resume", folder=where, frames=self.resumed["frames"])
        else:
            self.logger.event("start", folder=where)
        for event, fields in self._notes:
            self.logger.event(event, **fields)
        self.resumed = None  # it has been taken up, and is large
        return self

    def _sinks(self, resume_step: int | None) -> list[Any]:
        c = self.config
        wandb = None
        if c.wandb != "off":
            method = "pretrain" if c.beta_vae_pretrain else c.method_name
            name = c.wandb_name or f"{c.task}-{method}-seed_{c.seed}"
            wandb = {"mode": c.wandb, "project": c.wandb_project, "name": name, "config": dict(c)}
            wandb["id"] = self._wandb_id()
        size = self.resumed.get("log") if self.resumed else None  # earlier versions have none
        return make_sinks(
            self.folder, resume_step=resume_step, resume_bytes=size, wandb=wandb, fps=FPS
        )

    def _wandb_id(self) -> str:
        """The run's identity at W&B, made once, so that a resumed run goes on there as well."""
        path = self.folder / "wandb_id"
        if not path.exists():
            with atomic_write(path) as file:
                file.write(secrets.token_hex(4).encode())
        return path.read_text().strip()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.logger.close()
        except OSError:
            if error is None:  # the first error tells more
                raise

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal is not None:
            # Asked twice, by somebody: the last checkpoint has to do. Shells and schedulers send
            # one signal after the other within moments, and mean one stop.
            if number == signal.SIGINT and time.monotonic() - self._signalled > TWICE:
                raise KeyboardInterrupt
            return
        self._signal, self._signalled = number, time.monotonic()
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # the terminal may be gone
            # A handler may interrupt a print, and another print would then fail.
            how = "stopping with a checkpoint (another Ctrl-C, later: without)"
            os.write(2, f"\n{name}: {how}\n".encode())

    def check_stop(self) -> None:
        """Raises :class:`Stopped` once a signal came."""
        if self._signal is not None:
            raise Stopped

    @property
    def stop_code(self) -> int:
        """The exit status of a process that ended by the signal that came."""
        return 128 + (self._signal or 0)

    def save(self, frames: int, finished: bool, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint: the loop's ``state``, the log's means, PyTorch's generators."""
        self.logger.write(flush=True)
        whole = {
            "frames": frames,
            "finished": finished,
            "log": self.logger.size,
            "meter": self.meter.state_dict(),
            "rng": checkpoint.rng_state(self.runtime.device),
            **state,
        }
        checkpoint.save(self.folder / CHECKPOINT, whole, keep=self.config.keep_checkpoints)
        self.saved = frames

    def restore_rng(self) -> None:
        """PyTorch's generators as the checkpoint has them; call it last of all restoring."""
        checkpoint.set_rng_state(self.resumed["rng"], self.runtime.device)

    def video(self, tag: str, frames: np.ndarray) -> None:
        """Logs a video [T, H, W, C] or [N, T, H, W, C]; the newest is pictures/<tag>.gif, too."""
        if self.config.log_videos:
            clips = to_rgb(frames if frames.ndim == 5 else frames[None])
            self.logger.video(tag, clips)
            wide = np.concatenate(list(clips), axis=2)
            self._write(f"{tag}.gif", encode_gif(wide, FPS))

    def image(self, tag: str, image: np.ndarray) -> None:
        """Logs an image [H, W, C]; the newest is pictures/<tag>.png, too."""
        if self.config.log_videos:
            self.logger.image(tag, to_rgb(image))
            self._write(f"{tag}.png", encode_png(to_rgb(image)))

    def pictures(self, prefix: str, report: Mapping[str, np.ndarray]) -> None:
        """An agent's report: videos by their five dimensions, the rest images."""
        for name, value in report.items():
            # The traversal keeps the authors' tag.
            tag = name if name.startswith("beta_vae") else f"{prefix}_{name}"
            (self.video if value.ndim == 5 else self.image)(tag, value)

    def _write(self, name: str, content: bytes) -> None:
        with atomic_write(self.folder / "pictures" / name) as file:
            file.write(content)


def check_writable(folder: Path, flag: str, mend: str) -> None:
    """Checks that a folder is there or can be made, without making it.

    Raises:
        UserError: it cannot; the line begins with the flag and ends with the mend.
    """
    nearest = folder
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            raise UserError(f"{flag}: {nearest} is a file; {mend}")
        if not os.access(nearest, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # Root passes every check of permissions; only a file that is made proves that it can be.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{flag}: {nearest} cannot be written to ({reason}); {mend}") from None
