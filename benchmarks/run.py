"""A real finetuning, where each of its seconds went, and what a run of 1e6 frames would take.

python -m benchmarks.run [--frames N] [--device cuda] [--json OUT] [-- FLAGS OF dreamer.py]

The command is ``dreamer.py --configs defaults dmc2gym --beta_vae True --distillation True`` with a
teacher of random weights, in a folder that is thrown away, under the flags behind ``--``. The
seconds are what the run itself logs (``seconds_<name>``):

env         stepping and resetting the training environments, or waiting for them
act         the policy, and waiting for its actions
sample      drawing batches
transfer    handing them to the device
update      updates; on a GPU their launching, and what waits for them is under act and wait
evaluate    evaluations, whole
log         log lines and pictures
checkpoint  checkpoints
wait        for the device's numbers, once a log line
other       all that has no name
start, end  the process outside its loop: imports, building, the last checkpoint

The projection takes each name's cost of one piece (of an agent step, an update, a step of an
evaluation, …) and counts the pieces of a run of ``--project`` frames: prefill, pretraining updates
and evaluations included, all at the schedule that the preset of configs.yaml has, whatever the
flags made of it here. Costs of steps and updates are those after the first log line; what the first
line had beyond them (compiling, warming up) is added once, like start and end. Evaluation episodes
are taken to last ``--time_limit`` frames.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import config as configuration
from agents.pretrained import save_predictor
from benchmarks.settings import base, look, split
from benchmarks.table import markdown, write
from benchmarks.turns import ROOT
from config import Config
from logger import read_metrics
from models import VideoPredictor
from tools import UserError
from training.run_folder import folder_of

WORDS = ["--configs", "defaults", "dmc2gym", "--beta_vae", "True", "--distillation", "True"]
# What each name's seconds are divided by, and whether they settle only after the first log line.
PIECES = {
    "env": ("agent steps", True),
    "act": ("steps acted", True),
    "sample": ("updates", True),
    "transfer": ("updates", True),
    "update": ("updates", True),
    "wait": ("updates", True),
    "other": ("agent steps", True),
    "evaluate": ("evaluation steps", False),
    "log": ("log lines", False),
    "checkpoint": ("checkpoints", False),
}
START = "start, end"
# The preset's own in a projection.
SCHEDULE = ("prefill", "pretrain", "train_every", "train_steps", "checkpoint_every", "log_every")
SCHEDULE += ("eval_every", "eval_episodes")


class Failed(Exception):
    """The run failed. Its text is the run's last line."""


def begun_at(config: Config) -> int:
    """The agent step at which learning begins: after the prefill, and one whole episode."""
    episode = -(-config.time_limit // config.action_repeat) * config.envs
    step = max(config.prefill, episode)
    return -(-step // config.envs) * config.envs


def pieces(config: Config, frames: int) -> dict[str, int]:
    """How often a run of so many frames does each thing."""
    c, repeat = config, config.action_repeat
    steps, begun = frames // repeat, begun_at(config)
    acted = max(steps - begun, 0)

    def times(period: int) -> int:
        """Multiples of a period from the beginning of learning to the end."""
        return frames // period - begun * repeat // period if period else 0

    # One evaluation when learning begins, one where it ends, and the random policy's.
    ends = bool(c.eval_every) and frames % c.eval_every != 0
    evaluations = 2 + times(c.eval_every) + ends if c.eval_every else 0
    episode = -(-c.time_limit // repeat)
    return {
        "agent steps": steps,
        "steps acted": acted,
        "updates": c.pretrain + acted // c.train_every * c.train_steps,
        "evaluation steps": evaluations * c.eval_episodes * episode,
        "log lines": times(c.log_every) + (not c.log_every or frames % c.log_every != 0),
        "checkpoints": times(c.checkpoint_every),
    }


def counted(rows: Sequence[Mapping[str, Any]], config: Config) -> dict[str, int]:
    """The same of a run that was made, up to its last log line, by its log where that tells."""
    lines = [row for row in rows if "seconds_other" in row]
    found = pieces(config, lines[-1]["step"])
    played = [
        row[f"{kind}_length"] * row[f"{kind}_episodes"]
        for row in rows
        for kind in ("eval", "random")
        if f"{kind}_length" in row
    ]
    found["evaluation steps"] = round(sum(played))
    with_means = [row for row in lines if "updates" in row]  # the others have seconds alone
    found["log lines"] = len(with_means)
    found["updates"] = int(with_means[-1]["updates"]) if with_means else 0
    return found


def costs(rows: Sequence[Mapping[str, Any]], config: Config, wall: float) -> dict[str, Any]:
    """Where the time of a run went.

    Args:
        rows: of its metrics.jsonl.
        config: the run's.
        wall: seconds of its process.

    Returns:
        ``frames``, ``wall``, ``counts``, and ``names``: for each name its ``seconds``, the
        seconds ``each`` piece takes (None if there was none) and those to count ``once``.

    Raises:
        Failed: the log has no seconds.
    """
    lines = [row for row in rows if "seconds_other" in row]
    if not lines:
        raise Failed("its log has no line with seconds: give more --frames or -- --log_every")
    whole, first = counted(rows, config), counted(_until(rows, lines[0]), config)
    names: dict[str, dict[str, Any]] = {}
    for name, (piece, settles) in PIECES.items():
        each = [row.get(f"seconds_{name}", 0.0) for row in lines]
        seconds, count = sum(each), whole[piece]
        unit = seconds / count if count else None
        if settles and count > first[piece] > 0:
            unit = sum(each[1:]) / (count - first[piece])
        once = max(seconds - (unit or 0.0) * count, 0.0) if settles else 0.0
        names[name] = {"seconds": seconds, "piece": piece, "each": unit, "once": once}
    logged = sum(cost["seconds"] for cost in names.values())
    rest = max(wall - logged, 0.0)
    names[START] = {"seconds": rest, "piece": "run", "each": None, "once": rest}
    return {"frames": lines[-1]["step"], "wall": wall, "counts": whole, "names": names}


def _until(rows: Sequence[Mapping[str, Any]], line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows up to a log line, that one included."""
    index = next(i for i, row in enumerate(rows) if row is line)
    return list(rows[: index + 1])


def project(measured: Mapping[str, Any], config: Config, frames: int) -> dict[str, Any]:
    """The seconds of a run of ``frames``, by name; ``unknown`` are names without a cost."""
    counts = pieces(config, frames)
    seconds: dict[str, float] = {}
    unknown = []
    for name, cost in measured["names"].items():
        count = counts.get(cost["piece"], 0)
        if cost["each"] is None and count:
            unknown.append(name)
        seconds[name] = cost["once"] + (cost["each"] or 0.0) * count
    total = sum(seconds.values())
    return {
        "frames": frames,
        "counts": counts,
        "seconds": seconds,
        "total": total,
        "unknown": unknown,
    }


def at_presets_schedule(config: Config) -> Config:
    """The run's configuration, at the schedule that its blocks have without flags."""
    return config.replace(**{name: config.preset_value(name) for name in SCHEDULE})


def show(measured: Mapping[str, Any], projected: Mapping[str, Any]) -> str:
    """The table of the costs, measured and projected."""
    header = ["", "seconds", "share", "pieces", "", "ms each", "once, s"]
    header += [f"pieces of {projected['frames']:.3g}", "seconds", "share"]
    body = []
    for name, cost in measured["names"].items():
        count = measured["counts"].get(cost["piece"], 1)
        ahead = projected["seconds"][name]
        body.append(
            [
                name,
                f"{cost['seconds']:.1f}",
                f"{cost['seconds'] / measured['wall']:.1%}",
                str(count),
                cost["piece"],
                "" if cost["each"] is None else f"{1e3 * cost['each']:.3f}",
                f"{cost['once']:.1f}",
                str(projected["counts"].get(cost["piece"], 1)),
                f"{ahead:.0f}",
                f"{ahead / projected['total']:.1%}",
            ]
        )
    total = [f"{measured['wall']:.1f}", "100.0%", "", "", "", ""]
    body.append(["whole", *total, "", f"{projected['total']:.0f}", "100.0%"])
    return markdown(header, body)


def finetune(words: Sequence[str]) -> tuple[list[dict[str, Any]], Config, dict[str, float]]:
    """Makes a run in a folder of its own and throws it away.

    Returns:
        The rows of its log; its configuration; ``wall`` seconds, and gigabytes of the ``peak``
        resident memory of its largest process.

    Raises:
        UserError: the run refused its flags.
        Failed: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = ["--pretrain_checkpoint_path", f"{folder}/teacher", "--logdir", f"{folder}/runs"]
        config = configuration.parse([*words, *own])
        save_predictor(Path(folder, "teacher"), VideoPredictor(config, config.source_action_num))
        command = [sys.executable, "-W", "ignore", str(ROOT / "dreamer.py"), *words, *own]
        with tempfile.TemporaryFile() as errors:
            start = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, stdout=errors, stderr=errors)
            wall = time.perf_counter() - start
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        if done.returncode:
            last = lines[-1] if lines else f"the run ended with status {done.returncode}"
            raise (UserError if done.returncode == 2 else Failed)(last)
        rows = read_metrics(folder_of(config) / "metrics.jsonl")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return rows, config, {"wall": wall, "peak": peak}


def _parser() -> argparse.ArgumentParser:
    made = base("run", __doc__)
    made.add_argument("--frames", type=int, default=50_000, help="env frames of the run")
    made.add_argument("--project", type=int, default=1_000_000, help="env frames to project to")
    return made


def run(args: argparse.Namespace) -> int:
    """Measures, prints the tables, writes; returns the exit status."""
    if args.device == "cuda":
        args.device = "cuda:0"
    args.threads = 0
    here = look(args, ceiling=False)
    words = [*WORDS, "--device", here["device"], *args.flags, "--steps", str(args.frames)]
    begun = begun_at(parsed := configuration.parse(words)) * parsed.action_repeat
    if args.frames <= begun:
        raise UserError(f"--frames must be more than {begun}, where learning begins")
    rows, config, whole = finetune(words)
    measured = costs(rows, config, whole["wall"])
    projected = project(measured, at_presets_schedule(config), args.project)
    machine = here["machine"]
    print(f"{config.task} on {machine.get('gpu', machine['cpu'])}, {here['device']}")
    print(show(measured, projected))
    rate = measured["frames"] / measured["wall"]
    print(
        f"{measured['frames']} frames in {whole['wall']:.0f} s: {rate:.1f} a second, "
        f"peak RSS {whole['peak']:.2f} GB"
    )
    print(f"{args.project} frames: {projected['total'] / 60:.1f} minutes", end="")
    print(f", without {', '.join(projected['unknown'])}" if projected["unknown"] else "")
    if args.json:
        report = {"benchmark": "run", **here, "flags": args.flags, "peak_gb": whole["peak"]}
        write(args.json, {**report, "measured": measured, "projected": projected, "rows": rows})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    words, flags = split(argv)
    args = _parser().parse_args(words)
    args.flags = flags
    try:
        return run(args)
    except (UserError, Failed) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
