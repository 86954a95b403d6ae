"""Hurts real runs in every way that is known, starts them again, and says what came of it.

python -m tests.faults [--only NAME …] [--quick] [--jobs 2] [--keep]

It ends with a table, which a whole round also writes into README.md, and with exit status 1 unless
every fault was survived. Nothing else should need the two cores meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from envs import choose_backend
from tests.faults.harness import Lab, Tally, Unmet
from tests.faults.rows import ROWS, Row, table, write

QUICK = ("checkpoint-write", "worker-killed", "full-checkpoint")


def main() -> int:
    """Runs the rows that were asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--keep", action="store_true", help="leave the runs' folder there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    choose_backend()
    chosen = set(QUICK if given.quick else given.only)
    if os.geteuid():
        mounted = {row.name for row in ROWS if row.name in chosen and row.mounts}
        print(f"left out, as only root can mount disks: {', '.join(sorted(mounted)) or 'nothing'}")
        chosen -= mounted
    began, scratch = time.monotonic(), Path(tempfile.mkdtemp(prefix="diswm-faults-"))
    lab = Lab(scratch)
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = {row.name: pool.submit(one, lab, row) for row in ROWS if row.name in chosen}
        results = {name: job.result() for name, job in jobs.items()}
    if not given.keep:
        shutil.rmtree(scratch)
    passed = (time.monotonic() - began) / 60
    print(f"\n{table(results)}\n{passed:.1f} minutes")
    good = all(tally.good for tally in results.values())
    if good and chosen == set(names):
        write(results, f"{passed:.0f} minutes on 2 cores, on the CPU.")
    return 0 if good else 1


def one(lab: Lab, row: Row) -> Tally:
    """One row; what is unmet is said at once, and the others go on."""
    began = time.monotonic()
    tally = Tally()
    try:
        row.hurt(lab, row.name, tally)
    except Unmet as error:
        tally.unmet = str(error)
    except Exception:  # a comparison that fails, or the harness itself
        tally.unmet = traceback.format_exc()
    finally:
        tally.destroy()
    if tally.unmet:
        tally.survived = min(tally.survived, max(tally.injected - 1, 0))
    seconds = time.monotonic() - began
    verdict = "survived" if tally.good else "NOT SURVIVED"
    print(
        f"{row.name:20} {verdict}: {tally.survived} of {tally.injected}, lost {tally.lost}, "
        f"{seconds:.0f} s",
        flush=True,
    )
    if tally.unmet:
        print(f"  {tally.unmet}", file=sys.stderr, flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(main())
