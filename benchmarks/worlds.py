"""What a world costs beside its plain task: milliseconds a step, in turns, and memory.

python -m benchmarks.worlds [--only WORDS …] [--rounds N] [--steps N] [--memory] [--json OUT]

Both environments are in this process and step one after the other, so that whatever else the
machine does meets both alike, and the pairs take turns, round after round. Times are the process's
own, CPU milliseconds of all of its threads, and those of the clock; a ratio is the median over the
rounds of the ratio within one. Games without distractors stand beside themselves, which tells how
exact the others are. Memory is the resident set of a fresh process that plays one of them.
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
OWN = {"max_delta": 0, "disjoint_sets": None}  # its own colours
SEED = 0
WARMUP = 5  # steps; the first ones compile shaders


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
    *(
        Pair(name, task, "train", {**settings, "action_repeat": repeat})
        for task, repeat in (
            ("atari_pong", 4),
            ("atari_breakout", 4),
            ("minigrid_MiniGrid-Empty-6x6-v0", 1),
        )
        for name, settings in (
            ("palette", {}),
            ("pictures behind", {**MOVES, **OWN}),
            ("both", MOVES),
        )
    ),
    *(
        Pair("itself", task, "original", {"action_repeat": 1})
        for task in ("crafter_reward", "gymnasium_CartPole-v1")
    ),
)


def settings_of(pair: Pair) -> dict[str, Any]:
    """The pair's, with colours left alone."""
    alone = {"disjoint_sets": None} if "dmc2gym" in pair.task else {}
    return {**alone, **pair.settings}


def measure(pair: Pair, steps: int, seed: int, films: Mapping[str, Any]) -> dict[str, Any]:
    """Steps a world and its plain task in turns; an episode that ends is followed by the next.

    Returns:
        ``cpu_ms`` and ``ms`` of a step, ``reset_cpu_ms`` of a reset, medians, [plain, world].
    """
    envs = [
        make_env(pair.task, variation=name, **{**settings_of(pair), **films})
        for name in (pair.plain, pair.variation)
    ]
    cpu: list[list[float]] = [[], []]
    wall: list[list[float]] = [[], []]
    resets: list[list[float]] = [[], []]
    try:
        for env in envs:  # what is read once is not a reset's
            env.reset(seed=seed)
        episodes, ended = [seed, seed], [True, True]
        rng = np.random.default_rng(seed)
        for number in range(steps + WARMUP):
            action = rng.uniform(-1, 1, envs[0].action_space.shape).astype(np.float32)
            for k in (0, 1) if number % 2 else (1, 0):
                if ended[k]:
                    episodes[k] += 1
                    began = time.process_time()
                    envs[k].reset(seed=episodes[k])
                    resets[k].append(1e3 * (time.process_time() - began))
                before = time.process_time(), time.perf_counter()
                _, _, terminated, truncated, _ = envs[k].step(action)
                after = time.process_time(), time.perf_counter()
                ended[k] = terminated or truncated
                if number >= WARMUP:
                    cpu[k].append(1e3 * (after[0] - before[0]))
                    wall[k].append(1e3 * (after[1] - before[1]))
    finally:
        for env in envs:
            env.close()
    measured = {"cpu_ms": cpu, "ms": wall, "reset_cpu_ms": resets}
    return {name: [statistics.median(one) for one in both] for name, both in measured.items()}


def together(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A pair's rounds as one: medians, and ``ratios`` of CPU time, one of each round."""
    row = {
        name: [statistics.median(one[name][k] for one in rounds) for k in (0, 1)]
        for name in rounds[0]
    }
    return {**row, "ratios": [one["cpu_ms"][1] / one["cpu_ms"][0] for one in rounds]}


def resident(pair: Pair, variation: str, steps: int, films: Mapping[str, Any]) -> float:
    """MB that a process has in memory after some steps."""
    env = make_env(pair.task, variation=variation, **{**settings_of(pair), **films})
    env.reset(seed=SEED)
    action = np.zeros(env.action_space.shape or (), np.float32)
    for _ in range(steps):
        env.step(action)
    status = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmRSS")]
    env.close()
    return int(line.split()[1]) / 1024


def ask(number: int, variation: str, steps: int, films: Mapping[str, Any]) -> float:
    """What :func:`resident` says in a process of its own."""
    words = ["--resident", str(number), variation, str(steps)]
    words += [word for name, value in films.items() for word in (f"--{name}", value)]
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
        (plain, world), clock, ratios = row["cpu_ms"], row["ms"], row["ratios"]
        more = f"{row['mb'][1] - row['mb'][0]:+.0f}" if "mb" in row else ""
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rates = [f"{1e3 / plain:.0f}", f"{1e3 / world:.0f}"]
        resets = " and ".join(f"{one:.1f}" for one in row["reset_cpu_ms"])
        body.append([row["name"], row["task"], f"{plain:.2f}", f"{world:.2f}", ratio, *rates])
        body[-1] += [resets, f"{clock[1] / clock[0]:.2f}", more]
    head = ["world", "task", "plain, CPU ms", "world", "ratio", "plain, steps/s", "world"]
    return markdown([*head, "reset, CPU ms", "by the clock", "MB more"], body)


def films_of(args: argparse.Namespace) -> dict[str, str]:
    """The folders that were given."""
    given = {name: getattr(args, name) for name in ("dmcgb_path", "background_dataset_path")}
    return {name: value for name, value in given.items() if value is not None}


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table, of what the command line asks for and can be played here."""
    films, chosen = films_of(args), []
    for number, pair in enumerate(PAIRS):
        if not any(word in f"{pair.name} {pair.task}" for word in args.only):
            continue
        try:
            factories_of(pair.task, EnvSettings())
        except (UserError, RenderingError) as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        chosen.append((number, pair))
    measured: dict[int, list[dict[str, Any]]] = {number: [] for number, _ in chosen}
    for seed in range(SEED, SEED + args.rounds):
        for number, pair in chosen:
            measured[number].append(measure(pair, args.steps, seed, films))
            found = json.dumps(measured[number][-1])
            print(pair.name, pair.task, found, file=sys.stderr, flush=True)
    rows = []
    for number, pair in chosen:
        row = {"name": pair.name, "task": pair.task, **together(measured[number])}
        if args.memory:
            row["mb"] = [ask(number, name, 30, films) for name in (pair.plain, pair.variation)]
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worlds", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="pairs with such a word in them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of each round")
    parser.add_argument("--dmcgb_path", help="the benchmark's folder of colours and movies")
    parser.add_argument("--background_dataset_path", help="films of the other worlds")
    parser.add_argument("--memory", action="store_true", help="of processes of their own, too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.resident:
        number, variation, steps = args.resident
        print(resident(PAIRS[int(number)], variation, int(steps), films_of(args)))
        return 0
    rows = measure_all(args)
    print(show(rows))
    if args.json:
        write(
            args.json,
            {"benchmark": "worlds", "rounds": args.rounds, "steps": args.steps, "rows": rows},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
