"""Signals, a terminal that goes away, disks that are full or cannot be written to."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.harness import Case, Lab, Tally, expect, fault, wait_for


def stop_by(lab: Lab, name: str, tally: Tally, number: int, group: bool, times: int = 1) -> None:
    """Stopped at chosen steps and at any moment; each time it leaves a checkpoint of that step."""
    case = Case(lab, "workers", tally, name)
    for step in (8, 46, 90):
        started = case.start(fault("pause", "step", "pause", n=step))
        started.paused()
        for _ in range(times):
            (os.killpg if group else os.kill)(started.process.pid, number)
            time.sleep(2e-4)
        started.go_on()
        ended = started.end()
        expect(ended.code == 128 + number, f"exit {ended.code}:\n{ended.err[-3000:]}")
        expect("stopping with a checkpoint" in ended.err, ended.err[-3000:])
        ended.check_quiet()
        tally.injected += 1
    case.finish()
    expect(tally.lost == 0, f"{tally.lost} frames are lost")


def terminate(lab: Lab, name: str, tally: Tally) -> None:
    """SIGTERM to all processes: a scheduler."""
    stop_by(lab, name, tally, signal.SIGTERM, group=True)


def interrupt(lab: Lab, name: str, tally: Tally) -> None:
    """SIGINT to the whole group: Ctrl-C."""
    stop_by(lab, name, tally, signal.SIGINT, group=True)


def hang_up(lab: Lab, name: str, tally: Tally) -> None:
    """SIGHUP to the whole group: a terminal that is closed, by its shell and by the system."""
    stop_by(lab, name, tally, signal.SIGHUP, group=True, times=2)


def reader_gone(lab: Lab, name: str, tally: Tally) -> None:
    """Nobody reads stdout and stderr any more; the run is not stopped by that."""
    for number, step in enumerate((8, 50)):
        case = Case(lab, "workers", tally, f"{name}_{number}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = case.start(fault("pause", "step", "pause", n=step), **pipes)
        started.paused()
        started.process.stdout.close()
        started.process.stderr.close()
        started.go_on()
        tally.injected += 1
        case.check_finished(started.end())


# Disks


class Disk:
    """A file system of its own: a tmpfs, or an ext4 that can be made to stop writing."""

    def __init__(self, place: Path, megabytes: int, image: bool = False):
        self.place, self.ballast = place, place / "ballast"
        place.mkdir(parents=True)
        if image:
            self.file = place.with_suffix(".img")
            with self.file.open("wb") as file:
                file.truncate(megabytes << 20)
            _call("mkfs.ext4", "-q", "-F", str(self.file))
            _call("mount", "-o", "loop,errors=remount-ro", str(self.file), str(place))
        else:
            _call("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place))

    def fill(self, left: int) -> None:
        """Takes all of its space but so many bytes."""
        space = os.statvfs(self.place)
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - left)

    def free(self) -> None:
        """Gives that space back."""
        self.ballast.unlink()

    def break_down(self) -> None:
        """An error of the disk: from here on the kernel lets nobody write."""
        source = _call("findmnt", "-no", "SOURCE", str(self.place)).strip()
        Path(f"/sys/fs/ext4/{Path(source).name}/trigger_fs_error").write_text("injected\n")

    def remount(self, options: str) -> None:
        """Mounts it with other options."""
        _call("mount", "-o", f"remount,{options}", str(self.place))

    def repair(self) -> None:
        """What an administrator does after an error of the disk."""
        _call("umount", str(self.place))
        subprocess.run(["fsck.ext4", "-p", "-f", str(self.file)], capture_output=True, check=False)
        _call("mount", "-o", "loop,errors=remount-ro", str(self.file), str(self.place))

    def close(self) -> None:
        """Takes it away."""
        _call("umount", str(self.place))


def _call(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def disk(
    lab: Lab, name: str, tally: Tally, megabytes: int = 90, image: bool = False
) -> Iterator[Disk]:
    """A disk for the time of a scenario."""
    made = Disk(lab.scratch / f"{name}_disk", megabytes, image)
    try:
        yield made
    finally:
        tally.destroy()
        wait_for(lambda: _closed(made), "the disk to be let go", 30)


def _closed(made: Disk) -> bool:
    try:
        made.close()
    except subprocess.CalledProcessError:
        time.sleep(0.2)
        return False
    return True


def one_line(
    case: Case, step: int, hurt: Callable[[], None], mend: Callable[[], None], *words: str
) -> None:
    """Hurts a run at a step: it ends with one line and exit 1, and goes on after the mend."""
    started = case.start(fault("pause", "step", "pause", n=step))
    started.paused()
    hurt()
    started.go_on()
    case.tally.injected += 1
    started.end().check_line(1, *words)
    mend()
    case.finish()


def full_checkpoint(lab: Lab, name: str, tally: Tally) -> None:
    """No space for a whole checkpoint: for none of it, for some, for nearly all."""
    size = (lab.reference("long") / "checkpoint.pt").stat().st_size
    for number, (step, share) in enumerate([(15, 0.02), (30, 0.5), (75, 0.98)]):
        with disk(lab, f"{name}_{number}", tally) as place:
            case = Case(lab, "long", tally, f"{name}_{number}", place.place / "runs")
            hurt = _filling(place, int(share * size))
            one_line(case, step, hurt, place.free, r"checkpoint_\d+\.pt", "space|full")


def full_episode(lab: Lab, name: str, tally: Tally) -> None:
    """No space for an episode, where the loop writes it and where a thread does."""
    for variant, step in (("long", 25), ("overlap", 47)):
        with disk(lab, f"{name}_{variant}", tally) as place:
            case = Case(lab, variant, tally, f"{name}_{variant}", place.place / "runs")
            one_line(case, step, _filling(place, 0), place.free, r"\.npz", "space|full")


def _filling(place: Disk, left: int) -> Callable[[], None]:
    return lambda: place.fill(left)


def full_metrics(lab: Lab, name: str, tally: Tally) -> None:
    """No space for the next line of the log, which is written to /dev/full from a step on."""
    for step in (24, 65):
        case = Case(lab, "long", tally, f"{name}_{step}")
        started = case.start(fault("full", "step", n=step, file="metrics.jsonl"))
        tally.injected += 1
        started.end().check_line(1, r"metrics\.jsonl", "space|full")
        case.finish()


def full_events(lab: Lab, name: str, tally: Tally) -> None:
    """No space for TensorBoard's file: a warning, and the run goes on."""
    events = "events.out.tfevents*"
    places = [fault("enospc", "open", name=events), fault("full", "step", n=33, file=events)]
    for number, place in enumerate(places):
        case = Case(lab, "long", tally, f"{name}_{number}")
        started = case.start(place)
        tally.injected += 1
        ended = case.check_finished(started.end())
        expect(started.fired("fault"), "nothing was injected")
        expect("TensorBoard failed" in ended.err, f"no warning:\n{ended.err[-3000:]}")


def file_limit(lab: Lab, name: str, tally: Tally) -> None:
    """Files may not become larger than a megabyte: `ulimit -f`."""
    case = Case(lab, "long", tally, name)
    started = case.start(fault("pause", "step", "pause", n=50))
    started.paused()
    resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    started.go_on()
    tally.injected += 1
    started.end().check_line(1, r"checkpoint_\d+\.pt", "large|limit")
    case.finish()


def read_only_start(lab: Lab, name: str, tally: Tally) -> None:
    """The folder cannot be written to when a run is to begin, or to go on."""
    with disk(lab, name, tally) as place:
        case = Case(lab, "long", tally, name, place.place / "runs")
        for step in (None, 50):
            if step:
                started = case.start(fault("pause", "step", "pause", n=step))
                started.paused()
                started.kill()
                started.end()
            before = sorted(place.place.rglob("*"))
            place.remount("ro")
            tally.injected += 1
            case.start().end().check_line(2, "--logdir", "[Rr]ead-only")
            place.remount("rw")
            expect(before == sorted(place.place.rglob("*")), "something was written")
        case.finish()


def read_only_later(lab: Lab, name: str, tally: Tally) -> None:
    """The disk fails in mid-run: the kernel makes an ext4 read-only."""
    for step in (12, 57):
        with disk(lab, f"{name}_{step}", tally, megabytes=160, image=True) as place:
            case = Case(lab, "long", tally, f"{name}_{step}", place.place / "runs")
            one_line(case, step, place.break_down, place.repair, "[Rr]ead-only|I/O|Input/output")
