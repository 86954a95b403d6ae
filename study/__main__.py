"""Figures and tables of the paper, each by one command that goes on after anything.

python -m study run figure4 --scale debug --logdir runs/figure4
python -m study status figure4 --logdir runs/figure4 --watch
python -m study commands figure4 --scale paper
python -m study export figure4 --logdir runs/figure4 --csv figure4.csv
python -m study draw figure4 --logdir runs/figure4 --output figures/
python -m study metrics runs/dmc2gym_reacher_easy/pretrain/seed_0 --task dmc2gym_reacher_easy
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.document import SCALES, names
from study.records import read_plan
from tools import UserError, expand_path, print_safe

BACKENDS = ("local", "slurm", "ray")


def parser() -> argparse.ArgumentParser:
    """The flags of each command."""
    made = argparse.ArgumentParser(
        prog="python -m study",
        description=f"{__doc__}\nStudies: {', '.join(names())}; or a .yaml file of your own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True)
    run = _command(commands, "run", "run a study to its end, or go on with it")
    _add_plan(run)
    run.add_argument("--dry", action="store_true", help="measure a minute, and print what it costs")
    run.add_argument("--backend", choices=BACKENDS, default="local")
    run.add_argument("--jobs", type=_count, help="at once; local default: one a core, or GPU")
    run.add_argument("--per_gpu", type=_count, default=1, help="jobs that share a GPU")
    run.add_argument("--address", help="of the Ray cluster that is there: host:port, or auto")
    run.add_argument(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="parameters of submitit's"
    )
    commands_ = _command(commands, "commands", "print every command line, to paste")
    _add_plan(commands_)
    status = _command(commands, "status", "how far it is")
    status.add_argument("--watch", action="store_true", help="again and again, until all is done")
    export = _command(commands, "export", "one row for each run and evaluation")
    export.add_argument("--csv", type=Path, required=True)
    draw = _command(commands, "draw", "the figure or table")
    draw.add_argument("--output", type=Path, required=True, help="a folder")
    told = "what encoders have disentangled, by a task's true factors"
    metrics = commands.add_parser("metrics", help=told, description=told)
    _add_metrics(metrics)
    return made


def _add_metrics(made: argparse.ArgumentParser) -> None:
    made.add_argument("given", nargs="+", metavar="RUN", help="a run, or a folder with encoder.pt")
    made.add_argument("--task", required=True, help="whose true factors it is measured by")
    made.add_argument("--variation", default="train", help="train, test, original or a world's")
    made.add_argument("--frames", type=int, default=15000, help="default %(default)s")
    made.add_argument(
        "--onpolicy_frames", type=int, default=2000, help="of a random policy; 0 for none"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--workers", type=int, default=0, help="that draw; 0 for one a core")
    made.add_argument("--output", help="a folder; default disentanglement/ in each run's own")


def _command(commands: Any, name: str, told: str) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=told, description=told)
    made.add_argument("study", metavar="NAME", help="figure4, …, or a .yaml file")
    made.add_argument("--logdir", default="runs", help="of all runs; default ./runs")
    made.add_argument("--scale", choices=SCALES, required=name == "run", help="of all runs")
    return made


def _add_plan(made: argparse.ArgumentParser) -> None:
    made.add_argument("--seeds", type=_count, help="how many, in the place of the study's")
    made.add_argument("--only", nargs="+", default=[], metavar="ARM", help="these arms alone")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        return {
            "run": _run, "commands": _commands, "status": _status, "export": _export, "draw": _draw,
            "metrics": _metrics,
        }[args.command](args)  # fmt: skip
    except UserError as error:
        print_safe(f"study: {error}")
        return 2
    except OSError as error:
        from training.failures import describe

        print_safe(f"study: {describe(error)}")
        return 1
    except KeyboardInterrupt:
        print_safe("study: left; jobs that were at work go on, or end as they were asked to")
        return 130


def _run(args: argparse.Namespace) -> int:
    from study import commands

    return commands.run(args)


def _commands(args: argparse.Namespace) -> int:
    from study import commands

    return commands.show(args)


def _status(args: argparse.Namespace) -> int:
    from study import status

    logdir = expand_path(args.logdir, "logdir")
    plan = read_plan(logdir, args.study, args.scale)
    if args.watch:
        status.watch(plan, logdir)
    else:
        print_safe(status.table(plan, logdir), sys.stdout)
    return 0


def _export(args: argparse.Namespace) -> int:
    from study.export import export

    logdir = expand_path(args.logdir, "logdir")
    export(read_plan(logdir, args.study, args.scale), logdir, args.csv)
    return 0


def _draw(args: argparse.Namespace) -> int:
    from study.export import draw

    logdir = expand_path(args.logdir, "logdir")
    draw(read_plan(logdir, args.study, args.scale), logdir, args.output)
    return 0


def _metrics(args: argparse.Namespace) -> int:
    from study import metrics

    return metrics.run(args)


if __name__ == "__main__":
    sys.exit(main())
