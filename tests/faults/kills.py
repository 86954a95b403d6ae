"""kill −9: in the middle of files, between renamings, at any moment."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.faults.harness import Case, Lab, Started, Tally, expect, fault, wait_for

NEWEST, LINK = "checkpoint_*.pt", "checkpoint.pt"


def in_files(case: Case, faults: list[dict[str, Any]]) -> None:
    """One start for each fault, each of which it kills; then the run has to finish."""
    for each in faults:
        case.hurt(each)
    case.finish()


def checkpoint_write(lab: Lab, name: str, tally: Tally) -> None:
    """The first checkpoint of all, then later ones, with so many of their bytes written."""
    case = Case(lab, "long", tally, name)
    size = (lab.reference("long") / LINK).stat().st_size
    places = [(0, 1), (0.3, 1), (0.95, 2), (0.7, 1), (0.02, 2), (0.9, 2)]
    kill = [
        fault("kill", "write", name=NEWEST, bytes=int(share * size), nth=nth)
        for share, nth in places
    ]
    in_files(case, kill)


def checkpoint_renames(lab: Lab, name: str, tally: Tally) -> None:
    """Between the bytes on the disk and the name, and before and after the link to it."""
    case = Case(lab, "long", tally, name)
    places = [("rename", NEWEST, 1), ("renamed", NEWEST, 1), ("rename", LINK, 2)]
    places += [("renamed", LINK, 2), ("rename", NEWEST, 2), ("renamed", LINK, 2)]
    in_files(case, [fault("kill", at, name=file, nth=n) for at, file, n in places])


def episode_write(lab: Lab, name: str, tally: Tally) -> None:
    """Episodes of training, in the loop and in the background, and of evaluation."""
    places = [("write", 0, 1), ("write", 3000, 3), ("rename", 0, 2), ("renamed", 0, 3)]
    for variant in ("long", "overlap"):
        case = Case(lab, variant, tally, f"{name}_{variant}")
        kills = [
            fault("kill", at, name="??????-s0-11.npz", bytes=count, nth=nth)
            for at, count, nth in places
        ]
        in_files(case, kills)
    case = Case(lab, "long", tally, f"{name}_eval")
    kills = [fault("kill", "write", name="*-diswm-s0-11.npz", bytes=2000)]
    kills += [fault("kill", "renamed", name="*-diswm-s0-11.npz")]
    in_files(case, kills)


def at_random(lab: Lab, name: str, tally: Tally, variant: str, times: int) -> None:
    """From outside, spread over the time that a whole run takes, its startup included.

    A run that has finished before its kill counts for nothing; another one begins.
    """
    rng, runs = random.Random(f"{name} {variant}"), 0
    lab.reference(variant)
    moments = [(i + rng.random()) / times for i in range(times)]
    rng.shuffle(moments)
    case = None
    while moments:
        if case is None:
            case, runs = Case(lab, variant, tally, f"{name}_{runs}"), runs + 1
        started = case.start()
        time.sleep(moments[-1] * lab.seconds[variant])
        started.kill()
        ended = started.end()
        if ended.code == 0:
            case.check_finished(ended)
            case = None
            continue
        expect(ended.code == -9, f"exit {ended.code}:\n{ended.err[-3000:]}")
        moments.pop()
        tally.injected += 1
    if case is not None:
        case.finish()


def random_single(lab: Lab, name: str, tally: Tally) -> None:
    """A run whose environments are in its own process."""
    at_random(lab, name, tally, "long", 8)


def random_workers(lab: Lab, name: str, tally: Tally) -> None:
    """One with four worker processes, which must not outlive it."""
    at_random(lab, name, tally, "workers", 8)


def random_pretraining(lab: Lab, name: str, tally: Tally) -> None:
    """Pretraining."""
    at_random(lab, name, tally, "pretrain", 6)


def snapshot_write(lab: Lab, name: str, tally: Tally) -> None:
    """Pretraining's checkpoint, and the snapshots and the predictor that it is for."""
    case = Case(lab, "pretrain", tally, name)
    kills = [fault("kill", "write", name="encoder.pt", bytes=1000)]
    kills += [fault("kill", "write", name=NEWEST, bytes=1000, nth=2)]
    kills += [fault("kill", "renamed", name="rssm.pt")]
    kills += [fault("kill", "rename", name="encoder.pt", nth=2)]
    in_files(case, kills)


def two_at_once(lab: Lab, name: str, tally: Tally) -> None:
    """The same command while its run goes on, and right after it was killed."""
    case = Case(lab, "short", tally, name)
    first = case.start(fault("pause", "step", "pause", n=40))
    first.paused()
    before = {path: path.stat().st_mtime_ns for path in case.folder.rglob("*")}
    for _ in range(2):
        case.starts.append(second := _second(case))
        second.end().check_line(2, str(case.folder), "process|running|another")
        case.tally.injected += 1
    after = {path: path.stat().st_mtime_ns for path in case.folder.rglob("*")}
    expect(before == after, "the refused start changed the folder of the running one")
    first.kill()
    first.end()
    case.tally.injected += 1
    case.finish()


def _second(case: Case) -> Started:
    return Started(case.argv, case.scratch / f"second_{len(case.starts)}", [])


def worker_orphans(lab: Lab, name: str, tally: Tally) -> None:
    """The main process killed while its workers are in the middle of a step."""
    case = Case(lab, "workers", tally, name)
    started = case.start(fault("pause", "step", "pause", n=60))
    started.paused()
    wait_for(lambda: len(started.workers()) >= 4, "four workers", 5)
    started.kill()
    started.end()
    case.tally.injected += 1
    case.finish()
