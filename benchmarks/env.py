"""Environment steps per second, by suite and renderer.

python -m benchmarks.env [--tasks T …] [--renderers osmesa egl] [--envs 1 4] [--json OUT] [-- FLAGS]

Every row is a process of its own, because OpenGL is chosen once for a process. The settings are
those of the suite's block in configs.yaml; words behind ``--`` are flags of dreamer.py over them.
One environment is stepped in that process, several in worker processes. A step is the agent's, of
``--action_repeat`` control steps; resets are told apart. A renderer that cannot draw here is named
below the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import config
from benchmarks.settings import look, split
from benchmarks.table import markdown, write
from benchmarks.turns import ROOT
from envs import EnvSettings, UnknownTask, choose_backend, make_vector, parse_task
from tools import UserError

TASKS = (
    "dmc2gym_walker_walk",
    "dmc_walker_walk",
    "gymnasium_Pusher-v5",
    "gymnasium_HalfCheetah-v5",
    "metaworld_drawer-open-v1",
)
RENDERERS = ("osmesa", "egl")
WARMUP = 5  # steps; the first frames compile shaders


def measure(task: str, n: int, settings: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Steps ``n`` environments, one of them in this process and more in processes of their own.

    Returns:
        ``steps`` and ``resets``: the seconds of each, of all environments together.
    """
    found: dict[str, list[float]] = {"steps": [], "resets": []}
    with make_vector(task, n, workers="none" if n == 1 else "process", **settings) as envs:
        rng, ended, end = np.random.default_rng(0), np.ones(n, bool), None
        while end is None or time.perf_counter() < end or not found["steps"]:
            if ended.any():
                start, first = time.perf_counter(), n * len(found["resets"])
                envs.reset(ended, [first + i for i in range(n)])
                found["resets"].append(time.perf_counter() - start)
            actions = rng.uniform(-1, 1, (n, envs.action_size)).astype(np.float32)
            start = time.perf_counter()
            result = envs.step(actions)
            found["steps"].append(time.perf_counter() - start)
            ended = result.terminated | result.truncated
            if end is None and len(found["steps"]) == WARMUP:
                found["steps"].clear()
                end = time.perf_counter() + seconds
    return found


def summarise(n: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """``steps_per_second`` of all n, and ``ms`` of a step of them all."""
    steps = measured["steps"]
    row = {"steps_per_second": n * len(steps) / sum(steps), "ms": 1e3 * statistics.median(steps)}
    row |= {"ms_min": 1e3 * min(steps), "ms_max": 1e3 * max(steps), "count": len(steps)}
    return row | {"reset_ms": 1e3 * statistics.median(measured["resets"])}


def serve() -> int:
    """Measures what stdin asks for and answers on stdout, each one JSON object."""
    spec = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever a simulator prints
        backend = choose_backend(spec["renderer"])
        measured = measure(spec["task"], spec["envs"], spec["settings"], spec["seconds"])
        answer = {**measured, "backend": dataclasses.asdict(backend)}
        out.write(json.dumps(answer))
    return 0


def ask(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a process with that renderer measured.

    Raises:
        UserError: it could not; the line is its last.
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.env", "--serve"],
        cwd=ROOT,
        env=environment,
        input=json.dumps(spec),
        capture_output=True,
        text=True,
    )
    if done.returncode or not done.stdout:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise UserError(lines[-1])
    return json.loads(done.stdout)


def settings_of(task: str, flags: Sequence[str]) -> dict[str, Any]:
    """The environment's settings in the suite's block of configs.yaml, under the flags."""
    suite = parse_task(task).suite
    parsed = config.parse(["--configs", "defaults", suite, "--task", task, *flags])
    settings = {field.name: parsed[field.name] for field in dataclasses.fields(EnvSettings)}
    if suite == "gymnasium" and "Pusher" not in task and "time_limit" not in parsed.overrides:
        settings["time_limit"] = 1000  # the block's is Pusher's
    return settings


_COLUMNS = (
    ("steps/s", "steps_per_second", "{:.1f}"),
    ("ms/step", "ms", "{:.2f}"),
    ("min", "ms_min", "{:.2f}"),
    ("max", "ms_max", "{:.2f}"),
    ("reset, ms", "reset_ms", "{:.1f}"),
)


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the summaries."""
    body = []
    for row in rows:
        cells = [form.format(row[key]) if key in row else "" for _, key, form in _COLUMNS]
        body.append([row["task"], row["renderer"], str(row["envs"]), *cells])
    return markdown(["task", "renderer", "envs", *(name for name, _, _ in _COLUMNS)], body)


def measure_all(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and why others are missing."""
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    settings = {task: settings_of(task, args.flags) for task in args.tasks}
    for task in args.tasks:
        for renderer in args.renderers:
            for n in args.envs:
                name = f"{task}, {renderer}, {n}"
                print(name, file=sys.stderr, flush=True)
                spec = {"task": task, "renderer": renderer, "envs": n, "seconds": args.seconds}
                try:
                    measured = ask({**spec, "settings": settings[task]})
                except UserError as error:
                    failed[name] = str(error)
                    continue
                rows.append({**spec, **summarise(n, measured), "measured": measured})
    return rows, failed


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.env",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--tasks", nargs="+", default=list(TASKS))
    made.add_argument("--renderers", nargs="+", choices=RENDERERS, default=list(RENDERERS))
    made.add_argument("--envs", type=int, nargs="+", help="default: 1 and the number of cores")
    made.add_argument("--seconds", type=float, default=5.0, help="of each row, after its start")
    made.add_argument("--json", type=Path, help="write every number and the machine there")
    return made


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes; returns the exit status."""
    args.envs = args.envs or sorted({1, max(2, os.cpu_count() or 1)})
    if min(args.envs) < 1:
        raise UserError(f"--envs takes numbers from 1, not {min(args.envs)}")
    if not args.seconds > 0:
        raise UserError(f"--seconds takes a number above 0, not {args.seconds}")
    rows, failed = measure_all(args)
    print(show(rows))
    for name, why in failed.items():
        print(f"{name}: {why}")
    if args.json:
        here = look(argparse.Namespace(device="cpu", threads=0), ceiling=False)
        write(args.json, {"benchmark": "env", **here, "rows": rows, "failed": failed})
    return 0 if rows else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    words, flags = split(argv)
    if words == ["--serve"]:
        return serve()
    args = _parser().parse_args(words)
    args.flags = flags
    try:
        return run(args)
    except (UserError, UnknownTask) as error:
        print(f"env: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
