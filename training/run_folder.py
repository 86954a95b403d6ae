"""A run's folder and its life: configuration, log, checkpoint, pictures, and the signal to stop."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accel.generators import rng_state, set_rng_state
from accel.runtime import Runtime
from agents.registry import METHODS
from config import HEAD, Config, check_same, load_saved
from fileio import checkpoints, yaml_files
from fileio.atomic import atomic_write, leftovers, quarantine
from logger import Logger, MeanMeter, make_sinks
from logger.pictures import encode_gif, encode_png, to_rgb
from tools import UserError, expand_path
from training.length import check_length, length_of, settle_switch
from training.lock import FolderLock
from training.provenance import FILE as PROVENANCE
from training.provenance import write_start, writer_of
from training.run_names import path_of
from training.stop import StopSignal

CONFIG, CHECKPOINT = "config.yaml", checkpoints.NEWEST
FPS = 20  # of videos, in pictures


def folder_of(config: Config) -> Path:
    """``<logdir>/<task>/<method>/seed_<n>``, or what `path_of` says in the place of the names.

    Raises:
        UserError: a flag's text cannot be part of it.
    """
    return expand_path(config.logdir or "runs", "logdir").joinpath(*path_of(config))


class RunFolder:
    """One run in its folder. Building it only looks; entering it begins to write.

    As a context manager it opens the log and listens to SIGTERM, SIGHUP and Ctrl-C. From its
    building on, where the folder is there already, no other process can begin in it; the lock ends
    with :meth:`close`, or with the process.

    Args:
        config: its configuration, as the command line gives it.
        runtime: where and how it computes.
        command: the words behind ``dreamer.py``, for the record.

    Attributes:
        config: that, with what follows from the run's beginning; config.yaml has the last start's.
        folder: where everything lies.
        resumed: the checkpoint's content until the run begins, or None for a new run.
        known: whether an earlier start has been here.
        logger: where to log, once the run has begun.
        meter: means of metrics until the next log line.
        renderer: what draws the images, if anything does; the loop says.

    Raises:
        UserError: the folder cannot be used, is in use, or holds a run of another configuration.
    """

    logger: Logger

    def __init__(self, config: Config, runtime: Runtime, command: Sequence[str] = ()):
        self.runtime, self._command = runtime, command
        self.renderer: str | None = None
        self.folder = folder_of(config).absolute()
        check_writable(self.folder, "--logdir", "choose another")
        self.lock, self.stop = FolderLock(self.folder), StopSignal()
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self.known, before = (self.folder / CONFIG).exists(), None
        if self.known:
            check_format(self.folder)
            check_same(config, self.folder / CONFIG)
            before = load_saved(self.folder / CONFIG, METHODS)
        elif checkpoints.find(self.folder):
            raise UserError(
                f"{self.folder} has a {CHECKPOINT} but no {CONFIG}: put that back, or choose "
                "another --logdir"
            )
        begun = checkpoints.find(self.folder)  # without a checkpoint the run begins anew
        self.config = settle_switch(config, before if begun else None)
        self._before = before
        if self.folder.exists():
            self._acquire()
        try:
            self.resumed, self._damaged = self._load(before)
        except UserError:
            self.close()
            raise
        self.saved = self.resumed["frames"] if self.resumed else None
        self.meter = MeanMeter()
        if self.resumed:
            self.meter.load_state_dict(self.resumed["meter"])

    def _load(self, before: Config | None) -> tuple[Any, list[tuple[Path, str]]]:
        """The newest checkpoint, None without any, and those that are damaged."""
        try:
            state, damaged = checkpoints.load_newest(self.folder)
        except UserError as error:
            raise UserError(f"{error}, or choose another --logdir") from None
        if state is not None and before is not None:
            check_length(self.config, before, state["frames"])
        return state, damaged

    @property
    def finished(self) -> bool:
        """Whether the run came to its end in an earlier start, and has not been made longer."""
        if self.resumed is None:
            return False
        return self.resumed["finished"] and self.resumed["frames"] >= length_of(self.config)

    @property
    def changed_flags(self) -> list[str]:
        """The flags that say otherwise than the last start's; where the folder lies is none."""
        if self._before is None:
            return []
        names = sorted(self.config.overrides - {"logdir"})
        return [f"--{name}" for name in names if self._before[name] != self.config[name]]

    def note(self, event: str, **fields: Any) -> None:
        """An event to log as soon as the run begins."""
        self._notes.append((event, fields))

    def _acquire(self) -> None:
        self.lock.acquire()
        if self.lock.warning:
            self.note("warning", message=self.lock.warning)

    @property
    def last(self) -> str:
        """The last checkpoint, in words."""
        if self.saved is None:
            return "there is no checkpoint yet"
        return f"its last checkpoint is of frame {self.saved}"

    def close(self) -> None:
        """Lets other processes in again, and signals take their usual course.

        What closes before it, environments say, may take seconds; a second signal does not end
        that.
        """
        self.stop.close()
        self.lock.release()

    def __enter__(self) -> RunFolder:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.lock.held:
            self._acquire()
            if (self.folder / CONFIG).exists():
                raise UserError(f"another process has begun {self.folder} meanwhile: start again")
        for path in leftovers(self.folder):
            # There another process may be at work.
            if "evaluations" not in path.relative_to(self.folder).parts:
                path.unlink(missing_ok=True)
        if self._before is None or dict(self._before) != dict(self.config):
            self.config.save(self.folder / CONFIG)
        for path, reason in self._damaged:
            moved = quarantine(path, self.folder / "bad", reason)
            text = f"{reason}; it is {moved} now, and that of frame {self.saved} takes its place"
            self.note("warning", message=text)
        checkpoints.link_newest(self.folder)  # also where a kill came before it
        self.stop.listen()
        try:
            self.logger = Logger(self._sinks(), step=self.saved or 0)
        except ValueError as error:
            raise UserError(f"{error}: move that file away to go on without it") from None
        self.logger.text("config", "```\n" + self.config.to_yaml() + "```")
        where = str(self.folder)
        if self.resumed:
            self.logger.event("resume", folder=where, frames=self.resumed["frames"])
        else:
            self.logger.event("start", folder=where)
        start = write_start(self.folder, self._command, self.runtime.device, self.renderer)
        told = {name: start[name] for name in ("commit", "modified", "version", "device_name")}
        self.logger.event("provenance", **told, file=PROVENANCE)
        for event, fields in self._notes:
            self.logger.event(event, **fields)
        self.resumed = None  # it has been taken up, and is large
        return self

    def _sinks(self) -> list[Any]:
        c = self.config
        wandb = None
        if c.wandb != "off":
            *group, seed = path_of(c)
            name = c.wandb_name or "-".join([*group, seed])
            wandb = {"mode": c.wandb, "project": c.wandb_project, "name": name, "config": dict(c)}
            wandb |= {"id": self._wandb_id(), "group": "-".join(group)}
        size = self.resumed["log"] if self.resumed else 0
        return make_sinks(
            self.folder,
            resume_step=self.saved,
            log_size=size,
            wandb=wandb,
            fps=FPS,
            log_every=c.log_every,
            hparams=c,
            chosen=c.choices(),
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

    def save(self, frames: int, finished: bool, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint: the loop's ``state``, the log's means, PyTorch's generators."""
        self.logger.write(flush=True)
        whole = {
            "frames": frames,
            "finished": finished,
            "log": self.logger.size,
            "meter": self.meter.state_dict(),
            "rng": rng_state(self.runtime.device),
            **state,
        }
        checkpoints.save_newest(self.folder, frames, whole, self.config.keep_checkpoints)
        self.saved = frames

    def restore_rng(self) -> None:
        """PyTorch's generators as the checkpoint has them; call it last of all restoring."""
        set_rng_state(self.resumed["rng"], self.runtime.device)

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


def check_format(folder: Path) -> None:
    """Checks that a run's folder is of today's format.

    Raises:
        UserError: it is not, or its configuration cannot be read.
    """
    if not yaml_files.read(folder / CONFIG).startswith(HEAD):
        commit = writer_of(folder)
        raise UserError(
            f"{folder / CONFIG} does not begin with '{HEAD.strip()}', another version of this code "
            f"made it{f', commit {commit[:12]}' if commit else ''}: go on with the run, or "
            "evaluate it, with that, or choose another --logdir"
        )


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
