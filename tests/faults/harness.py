"""Real runs that are hurt and started again: processes, what they leave, and how it is compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.runs import (
    EPISODES,
    PREDICTOR,
    Tiny,
    assert_same,
    assert_same_run,
    make_runs,
    make_videos,
    metrics,
)

ROOT = Path(__file__).parents[2]
INJECT = Path(__file__).parent / "inject"
FRAMES = {"finetune": 2, "pretrain": 50}  # of one agent step, of one update
USUAL = ["env", "--default-signal=HUP"]  # also where the harness was started with nohup
PATIENCE = 300  # seconds for one process, on a machine that others use

# Runs by their name; all are compared with an undisturbed one of the same flags.
LONG = {"steps": 280, "checkpoint_every": 40, "eval_every": 140}
WORKERS = {**LONG, "envs": 2, "async_env": "process", "eval_envs": 2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "short": ("finetune", {}),
    "bare": ("finetune", {"eval_every": 0}),
    "long": ("finetune", {**LONG, "async_env": "none"}),
    "workers": ("finetune", WORKERS),
    "overlap": ("finetune", {**LONG, "overlap": True}),
    "pretrain": ("pretrain", {"pretrain_steps": 1000}),
}


class Unmet(AssertionError):
    """Something did not come out as it has to."""


def expect(holds: object, what: str) -> None:
    """Raises :class:`Unmet` unless it holds."""
    if not holds:
        raise Unmet(what)


def wait_for(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Waits until a condition holds, and returns what it came to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := holds():
            return value
        time.sleep(0.005)
    raise Unmet(f"waited {seconds:.0f} s for {what}")


@dataclass
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    def check_line(self, code: int, *words: str) -> str:
        """Checks its exit status and its one line for the user; returns the line."""
        lines = [line for line in self.err.splitlines() if line.startswith("dreamer.py:")]
        told = f"exit {self.code}\n{self.err[-3000:]}"
        expect(self.code == code, f"exit {code} was expected, not {told}")
        expect(len(lines) == 1, f"one line was expected, not {told}")
        self.check_quiet()
        for word in words:
            expect(re.search(word, lines[0]), f"{word!r} was expected in: {lines[0]}")
        return lines[0]

    def check_quiet(self) -> None:
        """Checks that nothing but lines for the user was said."""
        for sign in ("Traceback", "Exception ignored", "resource_tracker:"):
            expect(sign not in self.err, f"{sign} in\n{self.err[-3000:]}")


class Started:
    """A command line in a process of its own, with workers of its own.

    Args:
        argv: the words after ``dreamer.py``.
        scratch: a new folder, for its output and the marks of its faults.
        faults: what ``inject/sitecustomize.py`` is to do in it.
        env: more variables.
    """

    def __init__(
        self,
        argv: list[str],
        scratch: Path,
        faults: list[dict[str, Any]],
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ):
        self.scratch, self.faults, self.mark = scratch, faults, uuid.uuid4().hex
        scratch.mkdir(parents=True)
        given = {"progress": str(scratch / "progress"), "state": str(scratch), "faults": faults}
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(INJECT)}
        variables |= {"DISWM_FAULTS": json.dumps(given), "DISWM_MARK": self.mark, **(env or {})}
        self.began = time.monotonic()
        with (scratch / "out").open("wb") as out, (scratch / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [*USUAL, sys.executable, str(ROOT / "dreamer.py"), *argv],
                env=variables,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                **{"stdout": out, "stderr": err, **popen},
            )

    def family(self) -> list[int]:
        """Every living process of this start, the resource tracker included."""
        sign, found = f"DISWM_MARK={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            # Processes come and go while one looks.
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and sign in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return sorted(found)

    def workers(self) -> list[int]:
        """The environments' processes, the oldest first."""
        found = []
        for pid in self.family():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found += [pid] * (b"--multiprocessing-fork" in command)
        return found

    def paused(self, name: str = "pause") -> None:
        """Waits until it stands still at a fault of that name."""
        mark, process = self.scratch / f"{name}.paused", self.process
        wait_for(lambda: mark.exists() or process.poll() is not None, f"the pause {name!r}")
        expect(mark.exists(), f"it ended before the pause {name!r}:\n{self.err[-3000:]}")

    def go_on(self, name: str = "pause") -> None:
        """Lets it go on from there."""
        (self.scratch / f"{name}.go").touch()

    @property
    def err(self) -> str:
        return (self.scratch / "err").read_text(errors="replace")

    @property
    def progress(self) -> int | None:
        """Agent steps, or updates of pretraining, that it came to; None before the first."""
        path = self.scratch / "progress"
        content = path.read_bytes() if path.exists() else b""
        return struct.unpack("<q", content)[0] if content else None

    def fired(self, mark: str) -> bool:
        """Whether a fault has happened."""
        return (self.scratch / f"{mark}.fired").exists()

    def kill(self) -> None:
        """kill −9, of the main process alone."""
        self.process.kill()

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Waits for its end, and that of all of its workers."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise Unmet(f"not ended after {seconds:.0f} s:\n{self.err[-3000:]}") from None
        self.seconds = time.monotonic() - self.began
        left = self.family()
        if left:
            try:
                wait_for(lambda: not self.family(), "the workers' end", 20)
            except Unmet:
                self.destroy()
                raise Unmet(f"{len(left)} processes outlived it") from None
        return Ended(code, (self.scratch / "out").read_text(errors="replace"), self.err)

    def destroy(self) -> None:
        """Ends whatever is left of it."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Tally:
    """What came of a scenario."""

    injected: int = 0
    survived: int = 0
    lost: int = 0  # frames, the most in one injection
    every: set[int] = field(default_factory=set)  # frames between checkpoints, which may be lost
    notes: list[str] = field(default_factory=list)
    unmet: str = ""
    starts: list[Started] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all was survived."""
        return not self.unmet and 0 < self.injected == self.survived

    def destroy(self) -> None:
        """Ends whatever is left of the processes."""
        for started in self.starts:
            started.destroy()


class Lab:
    """What scenarios share: a scratch folder, a teacher, videos, undisturbed runs.

    Args:
        scratch: the folder.
        here: make the undisturbed runs in this process, which is faster and cannot be in parallel.
    """

    def __init__(self, scratch: Path, here: bool = False):
        self.scratch, self.here = scratch, here
        for name in ("teacher", "videos"):
            (scratch / name).mkdir(parents=True)
        self.runs: Tiny = make_runs(scratch / "teacher")
        self.videos = make_videos(scratch / "videos")
        self.seconds: dict[str, float] = {}  # of the undisturbed runs
        self._references: dict[str, Path] = {}
        self._locks = {name: threading.Lock() for name in VARIANTS}

    def argv(self, variant: str, logdir: Path, **flags: Any) -> list[str]:
        """The words of a run's command line."""
        kind, own = VARIANTS[variant]
        if kind == "pretrain":
            return self.runs.pretrain(logdir, self.videos, **own | flags)
        return self.runs.finetune(logdir, **own | flags)

    def reference(self, variant: str) -> Path:
        """The folder of the undisturbed run, which is made when it is first asked for."""
        with self._locks[variant]:
            if variant not in self._references and self.here:
                argv = self.argv(variant, self.scratch / f"reference_{variant}")
                self._references[variant] = self.runs.finish(argv)
            elif variant not in self._references:
                case = Case(self, variant, Tally(), f"reference_{variant}")
                ended = case.start().end()
                expect(ended.code == 0, f"the undisturbed run failed:\n{ended.err[-3000:]}")
                ended.check_quiet()
                self.seconds[variant] = case.last.seconds
                self._references[variant] = case.folder
        return self._references[variant]


class Case:
    """One run that is hurt, in its own folder; every start of it is the same command.

    Args:
        lab: what is shared.
        variant: which run.
        tally: counts what happens here.
        name: of its scratch folder; must be new.
        logdir: where the runs lie; in the scratch folder by default.
        flags: more of them.
    """

    def __init__(
        self,
        lab: Lab,
        variant: str,
        tally: Tally,
        name: str,
        logdir: Path | None = None,
        **flags: Any,
    ):
        self.lab, self.variant, self.tally = lab, variant, tally
        self.scratch = lab.scratch / name
        self.argv = lab.argv(variant, logdir or self.scratch / "runs", **flags)
        self.folder = lab.runs.folder(self.argv)
        kind, own = VARIANTS[variant]
        usual = {"finetune": EPISODES, "pretrain": PREDICTOR}[kind]
        self.unit, self.every = FRAMES[kind], (usual | own)["checkpoint_every"]
        tally.every.add(self.every)
        self.starts: list[Started] = []
        self._since: list[Started] = []  # since a start was last seen to go on from somewhere
        self._begun = 0

    @property
    def last(self) -> Started:
        return self.starts[-1]

    def start(self, *faults: dict[str, Any], **options: Any) -> Started:
        """Starts the command."""
        self.measure()
        place = self.scratch / f"start_{len(self.starts)}"
        started = Started(self.argv, place, list(faults), **options)
        self.starts.append(started)
        self.tally.starts.append(started)
        self._since.append(started)
        return started

    def hurt(self, *faults: dict[str, Any], code: int = -signal.SIGKILL) -> Ended:
        """A start that its faults end; each counts as injected."""
        started = self.start(*faults)
        ended = started.end()
        missed = [fault["id"] for fault in faults if not started.fired(fault["id"])]
        expect(not missed, f"{missed} never happened: exit {ended.code}\n{ended.err[-3000:]}")
        expect(ended.code == code, f"exit {code} was expected: {ended.code}\n{ended.err[-3000:]}")
        self.tally.injected += 1
        return ended

    def measure(self) -> None:
        """Compares how far the starts came with where the one after them went on."""
        logs = (self.folder / f"metrics{kind}jsonl" for kind in (".discarded.", "."))
        begun = [frames for log in logs if log.exists() for frames in _begun(log)]
        if len(begun) > self._begun:
            *earlier, newest = self._since or [None]
            reached = [s.progress * self.unit for s in earlier if s.progress is not None]
            lost = max(reached, default=0) - begun[-1]
            expect(lost <= self.every, f"{lost} frames are lost, of {self.every}")
            self.tally.lost = max(self.tally.lost, lost)
            self._since = [newest] if newest else []
        self._begun = len(begun)

    def finish(self, same: bool = True, **options: Any) -> Ended:
        """The same command until it has finished; then it is compared with an undisturbed run."""
        ended = self.start(**options).end()
        return self.check_finished(ended, same)

    def check_finished(self, ended: Ended, same: bool = True) -> Ended:
        """Checks that the run came to its end, and that nothing of the disturbance is in it."""
        self.measure()
        expect(ended.code == 0, f"it did not go on: exit {ended.code}\n{ended.err[-3000:]}")
        ended.check_quiet()
        left = list(self.folder.rglob("*.tmp"))
        expect(not left, f"temporary files are left: {left}")
        if same:
            reference = self.lab.reference(self.variant)
            assert_same_run(reference, self.folder)
            assert_same(metrics(reference), metrics(self.folder), "log")
        self.tally.survived = self.tally.injected
        return ended

    def copy(self, name: str, tally: Tally) -> Case:
        """The same run in a folder of its own, as it lies there now."""
        other = Case(self.lab, self.variant, tally, name)
        shutil.copytree(self.folder, other.folder, symlinks=True)
        other._begun, other._since = self._begun, list(self._since)
        return other


def _begun(log: Path) -> list[int]:
    """From which frame each start went on that came as far as to log it."""
    frames = []
    for line in log.read_bytes().splitlines():
        with contextlib.suppress(ValueError):  # cut short by a kill
            row = json.loads(line)
            if row.get("event") in ("start", "resume"):
                frames.append(row.get("frames", 0))
    return frames


def fault(do: str, at: str, mark: str = "fault", **more: Any) -> dict[str, Any]:
    """What `inject/sitecustomize.py` is to do, at what; it is known by its mark."""
    return {"id": mark, "do": do, "at": at, **more}
