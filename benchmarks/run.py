"""A real finetuning, and where each of its seconds went.

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

The first column is of the whole run, the second without what came before its first log line, which
compiles and warms up.
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
from agents.model_configs import predictor_config
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
START = "start, end"


class Failed(Exception):
    """The run failed. Its text is the run's last line."""


def begun_at(config: Config) -> int:
    """The agent step at which learning begins: after the prefill, and one whole episode."""
    episode = -(-config.time_limit // config.action_repeat) * config.envs
    step = max(config.prefill, episode)
    return -(-step // config.envs) * config.envs


def spent(rows: Sequence[Mapping[str, Any]], wall: float) -> dict[str, dict[str, float]]:
    """By name, a run's ``seconds``, and those ``later`` than its first log line.

    Args:
        rows: of its metrics.jsonl.
        wall: seconds of its process.

    Raises:
        Failed: the log has no seconds.
    """
    lines = [row for row in rows if "seconds_other" in row]
    if not lines:
        raise Failed("its log has no line with seconds: give more --frames or -- --log_every")
    names = sorted({key for row in lines for key in row if key.startswith("seconds_")})
    found = {}
    for name in names:
        each = [row.get(name, 0.0) for row in lines]
        found[name.removeprefix("seconds_")] = {"seconds": sum(each), "later": sum(each[1:])}
    rest = max(wall - sum(each["seconds"] for each in found.values()), 0.0)
    return found | {START: {"seconds": rest, "later": 0.0}}


def show(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table of the seconds and their shares."""
    whole = {kind: sum(each[kind] for each in found.values()) for kind in ("seconds", "later")}

    def cells(name: str, each: Mapping[str, float]) -> list[str]:
        return [name] + [
            text
            for kind, total in whole.items()
            for text in (f"{each[kind]:.1f}", f"{each[kind] / total:.1%}" if total else "")
        ]

    body = [cells(name, each) for name, each in found.items()]
    return markdown(["", "seconds", "share", "later", "share"], [*body, cells("whole", whole)])


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
        sizes = predictor_config(config)
        teacher = VideoPredictor(sizes, config.source_action_num)
        save_predictor(Path(folder, "teacher"), teacher)
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
    found = spent(rows, whole["wall"])
    machine, frames = here["machine"], max(row.get("step", 0) for row in rows)
    print(f"{config.task} on {machine.get('gpu', machine['cpu'])}, {here['device']}")
    print(show(found))
    print(
        f"{frames} frames in {whole['wall']:.0f} s: {frames / whole['wall']:.1f} a second, "
        f"peak RSS {whole['peak']:.2f} GB"
    )
    if args.json:
        report = {"benchmark": "run", **here, "flags": args.flags, "peak_gb": whole["peak"]}
        report |= {"frames": frames, "wall": whole["wall"]}
        write(args.json, {**report, "seconds": found, "rows": rows})
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
