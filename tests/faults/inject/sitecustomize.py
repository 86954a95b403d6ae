"""What the harness puts into a process that it hurts; Python imports this at its start.

The environment variable DISWM_FAULTS holds JSON: where to write progress, a folder of marks, and a
list of faults. A fault says where it waits (`at`), for what (`name`, `nth`, `bytes`, `n`, `seeds`),
in which process (`in`: main, worker), and what it does (`do`). Nothing in the product knows of it.
"""

from __future__ import annotations

import builtins
import errno
import fnmatch
import functools
import importlib.machinery
import io
import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPEC = json.loads(os.environ.get("DISWM_FAULTS", "{}"))
COMMAND = [os.path.basename(word) for word in sys.orig_argv]
KIND = "worker" if "--multiprocessing-fork" in COMMAND else "helper"
if "dreamer.py" in COMMAND:
    KIND = "main"
FAULTS = [fault for fault in SPEC.get("faults", []) if fault.get("in", "main") == KIND]


class Fault:
    """One fault of the list, armed."""

    def __init__(self, given: dict):
        self.given, self.seen = given, 0
        self.fired = Path(SPEC["state"], given["id"] + ".fired")

    def matches(self, name: str) -> bool:
        """Whether this is the file, and the time, that it waits for."""
        if not fnmatch.fnmatchcase(os.path.basename(name), self.given.get("name", "*")):
            return False
        self.seen += 1
        return self.seen == self.given.get("nth", 1)

    def fire(self) -> None:
        """Does what it is there for."""
        self.fired.touch()
        getattr(self, "_" + self.given["do"])()

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # never: the signal is there first

    def _raise(self) -> None:
        raise RuntimeError("injected: the renderer failed")

    def _enospc(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _full(self) -> None:
        """What is written to that open file meets a full disk from here on."""
        for link in Path("/proc/self/fd").iterdir():
            if fnmatch.fnmatchcase(os.path.basename(os.path.realpath(link)), self.given["file"]):
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, int(link.name))
                os.close(full)
                return
        raise AssertionError(f"{self.given['file']} is not open")

    def _pause(self) -> None:
        self.fired.with_suffix(".paused").touch()
        while not self.fired.with_suffix(".go").exists():
            time.sleep(0.005)


def waiting(at: str) -> list[Fault]:
    """The faults that wait at a place."""
    return [Fault(fault) for fault in FAULTS if fault["at"] == at]


# Files: the middle of a write, right before a renaming, right after one


class Cut(io.BufferedWriter):
    """A file in which a fault waits after so many bytes."""

    def __init__(self, descriptor: int, fault: Fault):
        super().__init__(io.FileIO(descriptor, "wb"))
        self.fault, self.left = fault, fault.given["bytes"]

    def write(self, data: bytes) -> int:
        data = memoryview(data).cast("B")
        if len(data) >= self.left >= 0:
            super().write(data[: self.left])
            self.flush()
            self.left = -1
            self.fault.fire()
        self.left -= len(data) if self.left >= 0 else 0
        return super().write(data)


def cut_writes(faults: list[Fault]) -> None:
    """Temporary files are made by mkstemp and opened by os.fdopen; their names are known there."""
    plain = os.fdopen

    @functools.wraps(plain)
    def fdopen(descriptor: int, mode: str = "r", *more: Any, **kwargs: Any) -> Any:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if mode == "wb" and name.startswith(".") and name.endswith(".tmp"):
            final = name[1:].removesuffix(".tmp").rpartition(".")[0]
            for fault in faults:
                if fault.matches(final):
                    return Cut(descriptor, fault)
        return plain(descriptor, mode, *more, **kwargs)

    os.fdopen = fdopen


def watch_renames(before: list[Fault], after: list[Fault]) -> None:
    """Python tells of a renaming before it happens; the next thing it tells of comes after it."""
    due: dict[int, Fault] = {}

    def hook(event: str, arguments: tuple) -> None:
        thread = threading.get_ident()
        if thread in due and event in ("open", "os.rename", "os.link", "os.remove"):
            due.pop(thread).fire()
        if event == "os.rename":
            target = os.fspath(arguments[1])
            for fault in before:
                if fault.matches(target):
                    fault.fire()
            for fault in after:
                if fault.matches(target):
                    due[thread] = fault

    sys.addaudithook(hook)


def watch_opens(faults: list[Fault]) -> None:
    """A file that cannot be opened for writing."""
    plain = io.open

    @functools.wraps(plain)
    def opening(file: Any, mode: str = "r", *more: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, bytes, os.PathLike)) and mode[0] in "awx":
            for fault in faults:
                if fault.matches(os.fsdecode(file)):
                    fault.fire()
        return plain(file, mode, *more, **kwargs)

    io.open = builtins.open = opening


# Modules: what is changed in them once they are there


class Wrapping:
    """Finds modules as ever, and changes some right after they were run."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]):
        self.changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        change = self.changes.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        plain = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            plain(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def note_progress(count: int) -> None:
    """Where the run is; a write that is made outlives the process."""
    os.pwrite(PROGRESS, struct.pack("<q", count), 0)


def change_collect(module: Any) -> None:
    """Agent steps: progress, and faults after step n."""
    faults, receive = waiting("step"), module.Collector.receive

    def receiving(self: Any) -> Any:
        closed = receive(self)
        note_progress(self.steps)
        for fault in faults:
            if self.steps >= fault.given["n"] and not fault.fired.exists():
                fault.fire()
        return closed

    module.Collector.receive = receiving


def change_learner(module: Any) -> None:
    """Updates: progress of pretraining, faults after update n, and numbers that are not finite."""
    faults, spoilt = waiting("update"), waiting("batch")
    kind = module.GradientLearner
    learn, prepare = kind.learn, kind.prepare

    def learning(self: Any, batch: Any, step: int) -> Any:
        self.in_update = True  # a report prepares batches as well
        update = learn(self, batch, step)
        if self.name == "pretrain":
            note_progress(self.updates)
        for fault in faults:
            if self.updates >= fault.given["n"] and not fault.fired.exists():
                fault.fire()
        return update

    def preparing(self: Any, batch: Any) -> Any:
        data = prepare(self, batch)
        if vars(self).pop("in_update", False):
            for fault in spoilt:
                given = fault.given
                if given["n"] <= self.updates < given["n"] + given["times"]:
                    fault.fired.touch()
                    data[given["name"]] = data[given["name"]] * float("nan")
        return data

    kind.learn, kind.prepare = learning, preparing


def change_dmc(module: Any) -> None:
    """Drawing: faults at step n of an episode, which its seed tells."""
    faults, kind = waiting("draw"), module.DMCEnv
    reset, step, render = kind.reset, kind.step, kind.render

    def resetting(self: Any, *, seed: int | None = None, options: Any = None) -> Any:
        self.injected = (seed, 0)
        return reset(self, seed=seed, options=options)

    def stepping(self: Any, action: Any) -> Any:
        self.injected = (self.injected[0], self.injected[1] + 1)
        return step(self, action)

    def rendering(self: Any) -> Any:
        seed, taken = self.injected
        for fault in faults:
            given = fault.given
            here = seed in given["seeds"] and taken == given["n"]
            spent = given.get("once") and fault.fired.exists()
            if (here and not spent) or (given.get("ever") and fault.fired.exists()):
                fault.fire()
        return render(self)

    kind.reset, kind.step, kind.render = resetting, stepping, rendering


if SPEC and KIND in ("main", "worker"):
    if KIND == "main":
        PROGRESS = os.open(SPEC["progress"], os.O_WRONLY | os.O_CREAT, 0o644)
    if cut := waiting("write"):
        cut_writes(cut)
    if opened := waiting("open"):
        watch_opens(opened)
    early, late = waiting("rename"), waiting("renamed")
    if early or late:
        watch_renames(early, late)
    changes = {
        "training.collector": change_collect,
        "agents.learner": change_learner,
        "dmc2gym.env": change_dmc,
    }
    sys.meta_path.insert(0, Wrapping(changes))
