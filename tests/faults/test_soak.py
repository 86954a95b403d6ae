"""The long haul in small: it sees what grows, and a short run through all of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest

from envs import make_env
from tests.faults import constructions, soak
from tests.faults.footprint import FRUGAL, Held, children, trend
from tests.faults.verdicts import Line, constant, growth

INVERTED = ("gymnasium_InvertedPendulum-v5", {})  # the environment that is made in no time


def verdicts(lines: list[Line]) -> dict[str, bool | None]:
    return {line.what: line.flat for line in lines}


def test_trend_finds_the_slope_and_how_sure_it_is():
    rng, x = np.random.default_rng(0), np.arange(200.0)
    found = trend(x, 3.0 + 0.5 * x + rng.normal(size=200))
    assert abs(found.slope - 0.5) < found.margin < 0.005
    assert (found.count, found.highest) == (200, found.slope + found.margin)


def test_trend_trusts_readings_less_that_follow_each_other():
    x, noise = np.arange(400.0), np.random.default_rng(1).normal(size=400)
    wandering = np.convolve(noise, np.ones(40) / 40, "same")
    shuffled = np.random.default_rng(2).permutation(wandering)
    assert trend(x, wandering).margin > 3 * trend(x, shuffled).margin


def test_trend_takes_no_step_between_processes_for_growth():
    x = [0, 1, 2, 3, 4, 5, 6, 7]
    y = [9.0, 9.1, 9.0, 9.1, 1.0, 1.1, 1.0, 1.1]
    assert trend(x, y).slope < -1
    assert abs(trend(x, y, [1, 1, 1, 1, 2, 2, 2, 2]).slope) < 0.1


@pytest.mark.parametrize("x", [[0, 1, 2], [5, 5, 5, 5, 5]])
def test_trend_needs_readings_to_go_by(x: list[int]):
    with pytest.raises(ValueError, match="have no trend"):
        trend(x, x)


def test_what_is_constant_and_what_grows():
    assert constant("threads", [5, 5, 5]).cells()[:2] == ["threads", "5"]
    assert constant("threads", [5, 6, 5]).cells()[-1] == "NO"
    x = np.arange(10.0)
    assert growth("rss", 1.0, x, 0.9 * x).flat
    assert not growth("rss", 1.0, x, 1.1 * x).flat
    assert growth("rss", None, x, 1.1 * x).flat is None


# What a process of the tests freed before, or another thread of it does, would be in the readings.
HOLDING = """
import json, mmap, os, sys, threading, time
from tests.faults.footprint import heap, held

readings = [(*held(os.getpid()), heap())]
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
file, block = open(sys.argv[1], "w"), bytearray(32 << 20)
mapped = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE)
mapped.write(b"x" * len(mapped))
readings.append((*held(os.getpid()), heap()))
mapped.close(), file.close(), block.clear(), done.set(), thread.join()
until = time.monotonic() + 60
while len(os.listdir("/proc/self/task")) > readings[0][5] and time.monotonic() < until:
    time.sleep(0.01)  # a thread that was joined may not have left yet
readings.append((*held(os.getpid()), heap()))
print(json.dumps(readings))
"""


def test_held_sees_memory_descriptors_and_threads(tmp_path: Path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "file")]
    out = subprocess.run(command, env=os.environ | FRUGAL, check=True, stdout=subprocess.PIPE)
    before, during, after = (
        (Held(*reading[:-1]), reading[-1]) for reading in json.loads(out.stdout)
    )
    for (now, heap_now), count, block, mapped in ((during, 1, 32, 64), (after, 0, 0, 0)):
        was, heap_was = before
        assert now.descriptors - was.descriptors == count
        assert now.threads - was.threads == count
        assert heap_now - heap_was == pytest.approx(block, abs=2)
        # What is shared moves pss when another process comes or goes.
        for name, margin in {"rss": 4, "anonymous": 4, "pss": 20}.items():
            more = getattr(now, name) - getattr(was, name)
            assert more == pytest.approx(block + mapped, abs=margin), name


def test_children_are_told_apart():
    before = {child.pid for child in children()}
    process = subprocess.Popen(["sleep", "60"])
    assert [c.kind for c in children() if c.pid not in before] == ["other"]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert [c.kind for c in children() if c.pid not in before] == ["zombie"]
    process.wait()
    assert {child.pid for child in children()} <= before


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a new process, where no other test leaves or ends anything."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def constructed(folder: Path | None = None) -> dict[str, Any]:
    """Eight constructions; with a folder each leaves an open file there, and one itself."""
    left: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> gym.Env:
        env = make_env(*args, **kwargs)
        if folder is not None:
            left.append((folder / str(len(left))).open("w"))
            if len(left) == 7:
                left.append(env.close)
                env.close = lambda: None
        return env

    return constructions.construct(8, [INVERTED], lambda _: None, make)


def looked_at(found: dict[str, Any]) -> dict[str, bool | None]:
    return verdicts(constructions.judge(found, dict.fromkeys(constructions.BOUNDS, 1e9)))


def test_constructions_leave_nothing_behind():
    found = alone(constructed)
    assert False not in looked_at(found).values()
    rounds = [(r.number, r.count, r.contexts) for r in found["rounds"]]
    assert rounds == [(n, n, 0) for n in range(1, 9)]


def test_constructions_see_what_is_left_behind(tmp_path: Path):
    found = looked_at(alone(constructed, tmp_path))
    assert [what for what, flat in found.items() if flat is False] == [
        "OpenGL contexts made, destroyed",
        "OpenGL contexts left",
        "descriptors",
    ]


SMALL = {"PHASES": 5, "WARM_UP": 1, "ENVS": 2, "EVAL_ENVS": 1, "SECONDS": 0.02}
SMALL |= {"TASK": INVERTED[0]}
STEPS = 320  # of such a run


def short_run(folder: Path) -> tuple[dict[str, Any], list[soak.Reading]]:
    """A run of five phases, and what it told at their ends."""
    ends: list[soak.Reading] = []
    with mock.patch.multiple(soak, **SMALL):
        return soak.soak(folder, STEPS, ends.append), ends


@pytest.fixture
def small() -> Iterator[None]:
    """Sizes of a short run."""
    with mock.patch.multiple(soak, **SMALL):
        yield


@pytest.mark.slow
def test_a_short_run(small: None, tmp_path: Path):
    found, ends = alone(short_run, tmp_path)
    lines = soak.judge(found, 1e9)
    assert False not in verdicts(lines).values(), [line.cells() for line in lines]
    assert [end.steps for end in ends] == [64, 128, 192, 256, 320]
    assert [len(end.workers) for end in ends] == [3, 3, 3, 3, 3]
    assert found["killed"] == 5
    assert found["files"] == len(list(tmp_path.glob("*/*/*/train_eps/*.npz"))) > 2
    # Of three at a time five were killed, so there were eight.
    pids = {worker.pid for reading in found["readings"] for worker in reading.workers}
    assert len(pids) == 8

    leaking = found["readings"][-1]
    held_more = leaking.main._replace(descriptors=leaking.main.descriptors + 1)
    found["readings"][-1] = leaking._replace(main=held_more, zombies=1)
    no = [what for what, flat in verdicts(soak.judge(found, 1e9)).items() if flat is False]
    assert no == ["main: descriptors", "workers that nobody reaped"]
    assert soak.report("a run that grows", soak.judge(found, 1e9)) is False


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--steps", "7"], "--steps 7"),
        (["--out", "."], "--out ."),
        (["--steps", "0", "--constructions", "9"], "--constructions 9"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    flags: list[str], names: str, capsys: pytest.CaptureFixture
):
    assert soak.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("soak: ")
    assert names in line


def test_a_run_that_stops_is_one_line(
    small: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(soak, "TASK", "dmc2gym_no_task")
    assert soak.main(["--steps", str(STEPS)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "after 0 phases: dreamer.py: " in line
    assert "dmc2gym_no_task" in line
