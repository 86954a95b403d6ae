"""Fuzzes everything that is read, on every core: ``python -m tests.fuzz --help``.

Prints a table, and for each finding its reason and the folder that holds the input. The exit status
is 1 after a finding. ``--only TARGET --input FOLDER`` judges a kept input again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported

from tests.fuzz.harness import Harness, scratch
from tests.fuzz.targets import TARGETS, divided
from tests.fuzz.workers import BATCH, Tally, Task, fuzz


def table(tallies: dict[str, Tally]) -> str:
    """Target, inputs, seconds and findings, as Markdown."""
    lines = ["| target | inputs | seconds | findings |", "|---|---:|---:|---:|"]
    whole = Tally()
    for name, tally in tallies.items():
        lines.append(f"| {name} | {tally.inputs:,} | {tally.seconds:.0f} | {len(tally.findings)} |")
        whole.inputs += tally.inputs
        whole.seconds += tally.seconds
        whole.findings |= tally.findings
    lines.append(f"| all | {whole.inputs:,} | {whole.seconds:.0f} | {len(whole.findings)} |")
    return "\n".join(lines)


def again(name: str, folder: Path) -> int:
    """Judges a kept input; returns the exit status."""
    case = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "reason.txt"}
    with scratch() as inside:
        harness = Harness(inside / "desk", inside / "kept")
        try:
            harness(TARGETS[name], case)
        except Exception as error:
            print(f"finding: {error}")
            return 1
    print("nothing is wrong with it")
    return 0


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many at least, in all")
    parser.add_argument("--seconds", type=float, default=3600, help="after which it stops")
    parser.add_argument("--only", action="append", default=[], choices=TARGETS, metavar="TARGET")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="where they go")
    parser.add_argument("--input", type=Path, help="a kept input to judge again, with --only")
    args = parser.parse_args()
    if args.input is not None:
        if len(args.only) != 1:
            parser.error("--input goes with one --only")
        return again(args.only[0], args.input)
    tasks = deque()
    shares = divided(args.inputs, tuple(args.only))
    for at in range(-(-max(shares.values()) // BATCH)):
        for place, (name, count) in enumerate(shares.items()):
            if (left := count - at * BATCH) > 0:
                seed = (args.seed * 1000 + place) * 100_000 + at
                tasks.append(Task(name, min(left, BATCH), seed))
    begun = time.monotonic()
    until = begun + args.seconds
    tallies = fuzz(tasks, args.processes, args.findings.absolute(), until)
    print(table({name: tallies[name] for name in shares}))
    print(f"{time.monotonic() - begun:.0f} s on {args.processes} processes, seed {args.seed}")
    findings = [finding for tally in tallies.values() for finding in tally.findings.values()]
    for finding in findings:
        print(f"{finding.target}: {finding.reason}\n    {finding.folder}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
