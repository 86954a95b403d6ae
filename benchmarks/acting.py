"""Policy steps per second: encode an image, go on with the recurrent state, choose an action.

python -m benchmarks.acting [--reference PATH] [--device cuda] [--envs 1 4 16] [--json OUT]

Settings: ``reference``, the authors' ``dreamer.Dreamer._policy``; ``exact``, ours with
``--compile False --precision 32``; ``default``, what a run does without flags. Each has a process
of its own, the sizes are the paper's, the images are noise on the host and the actions come back
there, as in a run. In every round each setting makes ``--steps`` steps for every number of
environments in both modes, beginning with another setting each time; ``× reference`` is the
median over rounds of the reference's time over the setting's in the same round. ``steps/s`` counts
every environment's step.

``--method M`` measures another method than DisWM. TD-MPC2's steps are plans, and its authors'
agent, which has one environment, makes one after the other; other methods have no reference here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.settings import ACTIONS, base, check_checkout, chosen, command, keys_of, look
from benchmarks.table import markdown, write
from benchmarks.turns import ROOT, Failed, Worker
from tools import UserError

MODES = ("train", "eval")
WITH_REFERENCE = ("diswm", "tdmpc2")
SETTINGS = ("reference", "exact", "default")


def measure(
    specs: Mapping[str, Mapping[str, Any]], envs: Sequence[int], steps: int, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Seconds of a step, by setting, then by ``<mode> <envs>``: one number a round.

    Returns:
        The results, and why a setting has none.
    """
    players: dict[str, Worker] = {}
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    cases = [(mode, n) for mode in MODES for n in envs]
    try:
        for turn in range(-1, rounds):  # the first warms up
            names = list(specs)
            for index in range(len(names)):
                name = names[(turn + index) % len(names)]
                if name in failed:
                    continue
                try:
                    if name not in players:
                        players[name] = Worker(specs[name])
                        empty: dict[str, list[float]] = {f"{mode} {n}": [] for mode, n in cases}
                        results[name] = {**players[name].built["facts"], "seconds": empty}
                    for mode, n in cases:
                        seconds = players[name].act(n, mode, steps)
                        if turn >= 0:
                            results[name]["seconds"][f"{mode} {n}"].append(seconds)
                except Failed as error:
                    failed[name] = str(error)
                    results.pop(name, None)
    finally:
        for player in players.values():
            player.close()
    return {name: results[name] for name in specs if name in results}, failed


def summarise(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each mode, number of environments and setting."""
    rows = []
    theirs = results.get("reference")
    for case in next(iter(results.values()))["seconds"] if results else ():
        mode, n = case.split()
        for name, result in results.items():
            seconds = result["seconds"][case]
            row = {"mode": mode, "envs": int(n), "setting": name}
            row |= {"ms": 1e3 * statistics.median(seconds), "ms_min": 1e3 * min(seconds)}
            row |= {"ms_max": 1e3 * max(seconds)}
            row["steps_per_second"] = int(n) / statistics.median(seconds)
            if theirs is not None:
                pairs = zip(theirs["seconds"][case], seconds, strict=True)
                row["faster"] = statistics.median(a / b for a, b in pairs)
            rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the summaries."""
    header = ["mode", "envs", "setting", "steps/s", "ms", "min", "max", "× reference"]
    body = [
        [
            row["mode"],
            str(row["envs"]),
            row["setting"],
            f"{row['steps_per_second']:.1f}",
            *(f"{row[key]:.3f}" for key in ("ms", "ms_min", "ms_max")),
            f"{row['faster']:.2f}" if "faster" in row else "",
        ]
        for row in rows
    ]
    return markdown(header, body)


def _parser() -> argparse.ArgumentParser:
    made = base("acting", __doc__)
    made.add_argument("--method", default="diswm", help="whose policy: a --method_name")
    made.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice")
    made.add_argument("--reference", type=Path, help="your checkout of the authors' code")
    made.add_argument("--settings", nargs="+", help=f"default: {' '.join(SETTINGS)}")
    made.add_argument("--also", nargs="+", default=[], metavar="NAME=FLAGS", help="more of ours")
    made.add_argument("--envs", type=int, nargs="+", default=[1, 4, 16])
    made.add_argument("--steps", type=int, default=20, help="steps of one turn")
    made.add_argument("--rounds", type=int, default=5, help="turns of each setting, after one more")
    return made


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes; returns the exit status."""
    import config  # which the flags alone do not need
    from agents.registry import METHODS, agent_class

    for name in ("steps", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} takes a whole number from 1, not {getattr(args, name)}")
    if min(args.envs) < 1:
        raise UserError(f"--envs takes numbers from 1, not {min(args.envs)}")
    agent_class(args.method)  # or a line that names the nearest
    if args.reference is not None:
        if args.method not in WITH_REFERENCE:
            raise UserError(
                f"--reference: {args.method} acts beside no authors' code: leave it out"
            )
        check_checkout(args.method, args.reference, (64, 64))
    if args.device == "cuda":
        args.device = "cuda:0"
    if args.settings is None:
        args.settings = [n for n in SETTINGS if n != "reference" or args.reference is not None]
    here = look(args, ceiling=False)
    common = {"kind": "act", "device": here["device"], "threads": args.threads, "sizes": {}}
    common |= {"actions": ACTIONS, "method": args.method}
    common["keys"] = keys_of(args.method, config.parse(command(common), methods=METHODS))
    common["checkout"] = str((args.reference or ROOT).resolve())
    specs = {name: {**common, **what} for name, what in chosen(args, here["device"]).items()}
    results, failed = measure(specs, args.envs, args.steps, args.rounds)
    rows = summarise(results)
    print(f"{here['machine'].get('gpu', here['machine']['cpu'])}, {here['device']}")
    print(show(rows))
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    if args.json:
        report = {"benchmark": "acting", **here, "steps": args.steps, "rows": rows}
        write(args.json, {**report, "settings": results, "failed": failed})
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    try:
        return run(_parser().parse_args(argv))
    except UserError as error:
        print(f"acting: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
