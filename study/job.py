"""A job: one command line of dreamer.py, and its state, which is read off its run's folder.

Nothing here needs PyTorch: the status of hundreds of runs is told in a moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fileio.yaml_files import printable

WAITING, STOPPED, RUNNING, DONE, FAILED = "waiting", "stopped", "running", "done", "failed"
TAIL = 1 << 14  # bytes of a job's output that are looked at
_ENDED = ("finished", "pretrained")  # events at the end of a log
STOPS = (0, *(s for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) for s in (128 + n, -n)))
_NOTE = "study: "  # how the runner's own lines in a job's output begin
_NUMBERED = re.compile(r"checkpoint_(\d{9,})\.pt")


@dataclasses.dataclass(frozen=True)
class Job:
    """One command line.

    Attributes:
        name: its run's folder below ``--logdir``.
        words: behind ``dreamer.py``.
        needs: the jobs that come before it.
        arms: the arms of the study that it belongs to.
        stage: which it is.
        method: as ``--method_name`` has it.
        task: what it plays, or what its videos show.
        source: the task of the videos that it, or what it begins with, has learned from.
        seed: its.
        is_goal: whether the study is about it; the others prepare.
        end: where it ends, in frames or pretrain steps.
        device: as ``--device`` has it.
        memory: bytes that it needs, foreseen from its settings.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    arms: tuple[str, ...]
    stage: str
    method: str
    task: str
    source: str
    seed: int
    is_goal: bool
    end: int
    device: str
    memory: int

    @property
    def kind(self) -> tuple[str, str, str]:
        """What jobs have in common that last equally long, and take as much memory."""
        return self.stage, self.method, self.task.partition("_")[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """What `to_dict` made."""
        lists = {"words", "needs", "arms"}
        plain: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in values.items()}
        return cls(**plain)


class State(NamedTuple):
    """What a run's folder tells.

    Attributes:
        status: done, running (a process holds its lock), failed, stopped (it goes on when it is
            started again) or waiting.
        frames: how far it has come.
        ret: the return of its last evaluation.
        seconds: of training so far.
        rate: frames a second between the last lines of its log; 0 where that is not known.
        line: the last one of its output, where it has failed.
        peak: bytes of memory that its last start came to; 0 where that is not known.
        starts: how often it has been started.
    """

    status: str
    frames: int = 0
    ret: float | None = None
    seconds: float = 0.0
    rate: float = 0.0
    line: str = ""
    peak: int = 0
    starts: int = 0


class Ending(NamedTuple):
    """How a start of a job ended, in its output: exit status, seconds, bytes of memory."""

    code: int
    seconds: float
    peak: int

    def __str__(self) -> str:
        return f"{_NOTE}exit {self.code} after {self.seconds:.1f} s, peak {self.peak >> 20} MiB"


_ENDING = re.compile(rf"^{_NOTE}exit (-?\d+) after ([\d.]+) s, peak (\d+) MiB$", re.MULTILINE)


def output_of(folder: Path) -> Path:
    """The file beside a run that has what its job prints."""
    return folder.with_name(f"{folder.name}.log")


def beginning(command: str, who: str, pid: int) -> str:
    """The line with which a start begins in a job's output."""
    return f"{_NOTE}{who} on {socket.gethostname()}, process {pid}: {command}"


_BEGINNING = re.compile(rb"^study: (.*), runner \d+ on (.*), process (\d+): ", re.MULTILINE)


def started_by(folder: Path) -> str:
    """The study whose runner has started a job last; empty where none has."""
    found = _BEGINNING.findall(_read(output_of(folder)))
    return found[-1][0].decode() if found else ""


def read_state(job: Job, folder: Path) -> State:
    """The state of a job whose run lies in a folder; a folder that is not there waits."""
    output = _tail(output_of(folder))
    endings = _ENDING.findall(output)
    peak = int(endings[-1][2]) << 20 if endings else 0
    log = _read(folder / "metrics.jsonl")
    rows = _last_rows(log)
    last = rows[-1] if rows else {}
    frames, seconds = int(last.get("step", 0)), float(last.get("time", 0.0))
    told: dict[str, Any] = {"frames": frames, "seconds": seconds, "peak": peak}
    told |= {"rate": _rate(rows), "ret": _last_return(log)}
    told["starts"] = log.count(b'"event": "start"') + log.count(b'"event": "resume"')
    if owner_of(folder) is not None or is_locked(folder):
        return State(RUNNING, **told)
    if _has_ended(job, folder, rows):
        return State(DONE, **told)
    if endings and output.rstrip().endswith("MiB") and int(endings[-1][0]) not in STOPS:
        return State(FAILED, line=last_line(output), **told)
    return State(STOPPED if (folder / "config.yaml").exists() else WAITING, **told)


def last_line(output: str) -> str:
    """The last line that a job itself has printed."""
    own = [line for line in output.splitlines() if line.strip() and not line.startswith(_NOTE)]
    return printable(own[-1].strip()) if own else "it printed nothing"


def is_locked(folder: Path) -> bool:
    """Whether another machine's process is at work in a run's folder.

    Of this machine's own, `owner_of` tells, and touches nothing: to try a lock is to hold it for a
    moment, in which the run itself could not.
    """
    path = folder / "lock"
    if not path.exists() or (_named(path) is not None and Path("/proc/self/fd").exists()):
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def owner_of(folder: Path) -> int | None:
    """The process of this machine that is at work in a run's folder, or is about to begin there.

    Before a run holds its lock it imports for seconds. Its runner has noted the process by then,
    and what that prints goes to the run's output.
    """
    if (pid := _named(folder / "lock")) is not None and _has_open(pid, folder / "lock"):
        return pid
    output = output_of(folder)
    for _, host, pid in _BEGINNING.findall(_read(output))[-1:]:
        if host.decode() == socket.gethostname() and _has_open(int(pid), output):
            return int(pid)
    return None


def _named(lock: Path) -> int | None:
    """The process that a lock names, if it is one of this machine's."""
    words = _read(lock).decode(errors="replace").split()
    here = len(words) == 4 and words[1].isdecimal() and words[3] == socket.gethostname()
    return int(words[1]) if here else None


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open; one that is gone, or another user's, has none."""
    gone = (FileNotFoundError, ProcessLookupError, PermissionError)
    with contextlib.suppress(*gone):
        status = path.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(*gone):  # closed meanwhile
                if os.path.samestat(descriptor.stat(), status):
                    return True
    return False


def _has_ended(job: Job, folder: Path, rows: list[dict]) -> bool:
    """Whether a run came to its end: its log says so, and a checkpoint of that frame is there."""
    if not any(row.get("event") in _ENDED for row in rows[-1:]):
        return False
    found = (_NUMBERED.fullmatch(path.name) for path in folder.glob("checkpoint_*.pt"))
    return max((int(match[1]) for match in found if match), default=-1) >= job.end


def _read(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return b""


def _tail(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return file.read().decode(errors="replace")
    return ""


def _rows(lines: list[bytes]) -> list[dict]:
    """The lines of a log that are whole."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a kill cut it short
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                found.append(row)
    return found


def _last_rows(log: bytes, count: int = 12) -> list[dict]:
    return _rows(log.rsplit(b"\n", count + 1)[1:] if log.count(b"\n") > count else log.split(b"\n"))


def _last_return(log: bytes) -> float | None:
    at = log.rfind(b'"eval_return":')
    if at < 0:
        return None
    line = log[log.rfind(b"\n", 0, at) + 1 :].partition(b"\n")[0]
    rows = _rows([line])
    return rows[0].get("eval_return") if rows else None


def _rate(rows: list[dict]) -> float:
    """Frames a second since the earliest of some rows; a restart begins anew."""
    since = [row for row in rows if "time" in row]
    if len(since) < 2:
        return 0.0
    frames = since[-1]["step"] - since[0]["step"]
    seconds = since[-1]["time"] - since[0]["time"]
    return frames / seconds if seconds > 0 else 0.0
