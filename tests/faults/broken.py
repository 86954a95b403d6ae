"""What breaks inside a run: workers, renderers, the network's numbers, the network."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import numpy as np
import torch

from envs import episode_seed
from logger import read_metrics
from tests.faults.harness import Case, Ended, Lab, Tally, expect, fault, wait_for
from tests.helpers.runs import metrics


def worker_killed(lab: Lab, name: str, tally: Tally) -> None:
    """kill −9 of a training environment's process between two steps, two of them at once too."""
    for number, (step, victims) in enumerate([(4, [0]), (46, [1]), (64, [0, 1]), (100, [0])]):
        case = Case(lab, "workers", tally, f"{name}_{number}")
        started = case.start(fault("pause", "step", "pause", n=step))
        started.paused()
        workers = started.workers()
        for victim in victims:
            os.kill(workers[victim], signal.SIGKILL)
        tally.injected += 1
        started.go_on()
        case.check_finished(started.end())
        check_restarts(case, [False] * len(victims))


def worker_killed_drawing(lab: Lab, name: str, tally: Tally) -> None:
    """kill −9 of such a process in the middle of a step, and of a reset."""
    places = [(0, 4), (3, 0), (7, 10)]
    in_drawing(lab, name, tally, "workers", "kill", "train", places)


def evaluation_killed(lab: Lab, name: str, tally: Tally) -> None:
    """The same of an evaluation's process."""
    # Two episodes each; the first evaluation, at step 20, begins with number 40, the next with 140.
    in_drawing(lab, name, tally, "workers", "kill", "eval", [(40, 3), (141, 0)])


def worker_hangs(lab: Lab, name: str, tally: Tally) -> None:
    """Drawing never ends in such a process, in a step and in a reset: it is ended and replaced."""
    places = [(3, 5), (6, 0)]
    in_drawing(lab, name, tally, "workers", "pause", "train", places, env_timeout=20)


def renderer_fails_once(lab: Lab, name: str, tally: Tally) -> None:
    """The renderer raises in the middle of a step, or of a reset; in this process, in a worker."""
    for variant in ("long", "workers"):
        in_drawing(lab, name, tally, variant, "raise", "train", [(2, 6), (5, 0)])


def in_drawing(
    lab: Lab,
    name: str,
    tally: Tally,
    variant: str,
    do: str,
    split: str,
    places: list[tuple[int, int]],
    **flags: Any,
) -> None:
    """One run for each (episode, step) in which drawing fails once; nothing of it must be seen."""
    for number, (episode, step) in enumerate(places):
        case = Case(lab, variant, tally, f"{name}_{variant}_{number}", **flags)
        started = case.start(_drawing(variant, do, split, [episode], step, once=True))
        tally.injected += 1
        case.check_finished(started.end())
        expect(started.fired("fault"), f"nobody drew step {step} of {split} episode {episode}")
        check_restarts(case, [False])


def check_restarts(case: Case, dropped: list[bool]) -> None:
    """Checks how often environments were started anew, and which time an episode was dropped."""
    rows = [row for row in read_metrics(case.folder / "metrics.jsonl") if "event" in row]
    told = [row["dropped"] for row in rows if row["event"] == "env_restart"]
    expect(told == dropped, f"restarts that dropped an episode: {told}, not {dropped}")


def _drawing(
    variant: str, do: str, split: str, episodes: list[int], step: int, **more: Any
) -> dict[str, Any]:
    seeds = [episode_seed(0, split, episode) for episode in episodes]
    where = "worker" if variant == "workers" else "main"
    return fault(do, "draw", seeds=seeds, n=step, **more, **{"in": where})


def renderer_fails_in_an_episode(lab: Lab, name: str, tally: Tally) -> None:
    """It raises in the same step of an episode again and again: that one is dropped."""
    for variant in ("long", "workers"):
        case = Case(lab, variant, tally, f"{name}_{variant}")
        started = case.start(_drawing(variant, "raise", "train", [5], 6))
        tally.injected += 1
        case.check_finished(started.end(), same=False)
        expect(started.fired("fault"), "nobody drew that step")
        check_restarts(case, [False, True])
        steps = torch.load(case.folder / "checkpoint.pt", weights_only=True)["collector"]["steps"]
        expect(steps == 140, f"it came to {steps} steps")


def renderer_fails_always(lab: Lab, name: str, tally: Tally) -> None:
    """From an episode's step on it raises in every process: one line after all restarts."""
    for variant in ("long", "workers"):
        case = Case(lab, variant, tally, f"{name}_{variant}")
        started = case.start(_drawing(variant, "raise", "train", [4], 3, ever=True))
        tally.injected += 1
        started.end().check_line(1, "restarts", "--env_restarts")
        case.finish()


def not_finite(lab: Lab, name: str, tally: Tally) -> None:
    """One update sees NaN: it is skipped, counted and written down, and the run goes on."""
    for variant, field in (("long", "reward"), ("pretrain", "image")):
        case = Case(lab, variant, tally, f"{name}_{variant}")
        started = case.start(fault("nan", "batch", name=field, n=7, times=1))
        tally.injected += 1
        ended = case.check_finished(started.end(), same=False)
        expect(started.fired("fault"), "there was no such update")
        _check_diagnostic(case, ended)
        _check_weights(case)


def _check_diagnostic(case: Case, ended: Ended) -> None:
    files = sorted((case.folder / "bad_updates").glob("*.npz"))
    expect(len(files) == 1, f"{len(files)} diagnostics:\n{ended.err[-3000:]}")
    with np.load(files[0], allow_pickle=False) as content:
        for key in content.files:
            expect(content[key] is not None, key)
        expect(content.files, "the diagnostic is empty")
    counted = max(row.get("bad_updates", 0) for row in metrics(case.folder))
    expect(counted == 1, f"bad_updates is {counted} in the log")


def _check_weights(case: Case) -> None:
    state = torch.load(case.folder / "checkpoint.pt", weights_only=True)["learner"]["weights"]
    for key, tensor in state.items():
        expect(torch.isfinite(tensor).all(), f"{key} is not finite")


def never_finite(lab: Lab, name: str, tally: Tally) -> None:
    """Every update sees NaN from one on: one line, and the last checkpoint is a good one."""
    for variant, field, first in (("long", "reward", 8), ("pretrain", "image", 9)):
        case = Case(lab, variant, tally, f"{name}_{variant}", max_bad_updates=2)
        started = case.start(fault("nan", "batch", name=field, n=first, times=1000))
        tally.injected += 1
        started.end().check_line(1, "finite")
        _check_weights(case)
        case.finish()


def unreachable(lab: Lab, name: str, tally: Tally) -> None:
    """Weights & Biases does not answer: a warning, and the run is as one without it."""
    case = Case(lab, "short", tally, name, wandb="online")
    home = lab.scratch / f"{name}_home"
    home.mkdir()
    env = {"HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    env |= {"WANDB_API_KEY": "0123456789" * 4, "WANDB_SILENT": "false"}
    started = case.start(env=env)
    tally.injected += 1
    ended = case.check_finished(started.end())
    expect(
        re.search("W&B (failed|cannot be reached)", ended.err), f"no warning:\n{ended.err[-3000:]}"
    )
    tally.notes.append(f"{case.last.seconds:.0f} s in all")


def stuck_worker(lab: Lab, name: str, tally: Tally) -> None:
    """The main process is killed while a worker draws, for ever: the worker ends, too."""
    case = Case(lab, "workers", tally, name)
    started = case.start(_drawing("workers", "pause", "train", [3], 5, once=True))
    wait_for(lambda: started.fired("fault"), "the worker's pause")
    started.kill()
    started.end()
    tally.injected += 1
    case.finish()
