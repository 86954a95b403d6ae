"""What a world costs beside its plain task: milliseconds a step, in turns, and memory.

python -m benchmarks.worlds [--only WORDS …] [--steps N] [--memory] [--json OUT]

Both environments are in this process and step one after the other, so that whatever else the
machine does meets both alike. Times are the process's own, CPU milliseconds of all of its threads,
and those of the clock. Memory is the resident set of a fresh process that plays one of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.table import markdown, write
from benchmarks.turns import ROOT
from envs import EnvSettings, RenderingError, factories_of, make_env
from tools import UserError

MOVES = {"background_dataset_path": "procedural", "dynamic": True}
BEHIND = {**MOVES, "background_by": "segmentation"}
SEED = 0


class Pair(NamedTuple):
    """A world beside a plain task."""

    name: str
    task: str
    variation: str = "train"
    settings: Mapping[str, Any] = {}
    plain: str = "original"


_WALKER = "dmc_walker_walk"
PAIRS = (
    *(
        Pair(world, _WALKER, world)
        for world in (
            "color_hard",
            "video_easy",
            "video_hard",
            "video",
            "distracting_cs",
            "sensor_cs",
        )
    ),
    Pair("moving sky", "dmc2gym_walker_walk", "train", {**MOVES, "max_delta": 0, "step_std": 0}),
    Pair("segmentation", "dmc2gym_walker_walk", "train", {**BEHIND, "max_delta": 0, "step_std": 0}),
    Pair("moving table", "gymnasium_Pusher-v5", "train", MOVES),
    Pair("moving table", "metaworld_drawer-open-v1", "train", MOVES, "grid"),
    Pair("before pictures", "rms_pull_cube", "train", {"dynamic": True, "action_repeat": 1}),
)


def settings_of(pair: Pair) -> dict[str, Any]:
    """The pair's, with colours left alone."""
    alone = {"disjoint_sets": None} if "dmc2gym" in pair.task else {}
    return {**alone, **pair.settings}


def measure(pair: Pair, steps: int) -> dict[str, Any]:
    """Steps a world and its plain task in turns.

    Returns:
        ``cpu_ms`` and ``ms`` of a step, medians, [plain, world].
    """
    envs = [
        make_env(pair.task, variation=name, **settings_of(pair))
        for name in (pair.plain, pair.variation)
    ]
    try:
        for env in envs:
            env.reset(seed=SEED)
        rng = np.random.default_rng(SEED)
        cpu: list[list[float]] = [[], []]
        wall: list[list[float]] = [[], []]
        for number in range(steps + 5):
            action = rng.uniform(-1, 1, envs[0].action_space.shape).astype(np.float32)
            for k in (0, 1) if number % 2 else (1, 0):
                before = time.process_time(), time.perf_counter()
                envs[k].step(action)
                after = time.process_time(), time.perf_counter()
                if number >= 5:  # the first ones compile shaders
                    cpu[k].append(1e3 * (after[0] - before[0]))
                    wall[k].append(1e3 * (after[1] - before[1]))
    finally:
        for env in envs:
            env.close()
    return {
        "cpu_ms": [statistics.median(one) for one in cpu],
        "ms": [statistics.median(one) for one in wall],
    }


def resident(pair: Pair, variation: str, steps: int) -> float:
    """MB that a process has in memory after some steps."""
    env = make_env(pair.task, variation=variation, **settings_of(pair))
    env.reset(seed=SEED)
    action = np.zeros(env.action_space.shape or (), np.float32)
    for _ in range(steps):
        env.step(action)
    status = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmRSS")]
    env.close()
    return int(line.split()[1]) / 1024


def ask(number: int, variation: str, steps: int) -> float:
    """What :func:`resident` says in a process of its own."""
    words = ["--resident", str(number), variation, str(steps)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.worlds", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    body = []
    for row in rows:
        (plain, world), clock = row["cpu_ms"], row["ms"]
        more = f"{row['mb'][1] - row['mb'][0]:+.0f}" if "mb" in row else ""
        times = [f"{plain:.2f}", f"{world:.2f}", f"{world / plain:.2f}×"]
        rates = [f"{1e3 / plain:.0f}", f"{1e3 / world:.0f}"]
        body.append([row["name"], row["task"], *times, *rates, f"{clock[1] / clock[0]:.2f}×", more])
    head = ["world", "task", "plain, CPU ms", "world", "ratio", "plain, steps/s", "world"]
    return markdown([*head, "by the clock", "MB more"], body)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worlds", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="pairs with such a word in them")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--memory", action="store_true", help="of processes of their own, too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.resident:
        number, variation, steps = args.resident
        print(resident(PAIRS[int(number)], variation, int(steps)))
        return 0
    rows = []
    for number, pair in enumerate(PAIRS):
        if not any(word in f"{pair.name} {pair.task}" for word in args.only):
            continue
        try:
            factories_of(pair.task, EnvSettings())
        except (UserError, RenderingError) as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        print(pair.name, pair.task, file=sys.stderr, flush=True)
        row = {"name": pair.name, "task": pair.task, **measure(pair, args.steps)}
        if args.memory:
            row["mb"] = [ask(number, name, 30) for name in (pair.plain, pair.variation)]
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    print(show(rows))
    if args.json:
        write(args.json, {"benchmark": "worlds", "steps": args.steps, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
