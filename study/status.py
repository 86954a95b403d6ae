"""How far a study is: a table for a terminal, read off the folders of its runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from logger.terminal import duration
from study import job as jobs
from study.job import Job, State, read_state
from study.records import Plan

COLUMNS = ("state", "run", "at", "of", "return", "left")
ORDER = (jobs.RUNNING, jobs.FAILED, jobs.STOPPED, jobs.WAITING, jobs.DONE)


def read_states(plan: Sequence[Job], logdir: Path) -> dict[str, State]:
    """The state of each job, by its name."""
    return {job.name: read_state(job, logdir / job.name) for job in plan}


def seconds_left(plan: Sequence[Job], states: dict[str, State]) -> dict[str, float]:
    """Seconds that each job still takes, where its own log or one of its kind tells."""
    took: dict[tuple, list[float]] = defaultdict(list)
    for job in plan:
        if states[job.name].status == jobs.DONE:
            took[job.kind].append(states[job.name].seconds)
    left = {}
    for job in plan:
        state = states[job.name]
        if state.status == jobs.DONE:
            continue
        if state.rate > 0:
            left[job.name] = max(job.end - state.frames, 0) / state.rate
        elif took[job.kind]:
            mean = sum(took[job.kind]) / len(took[job.kind])
            left[job.name] = max(mean - state.seconds, 0.0)
    return left


def table(plan: Plan, logdir: Path, lines: int | None = None) -> str:
    """The table: a line for each run, and one for all of them.

    Args:
        plan: of the study.
        logdir: of its runs.
        lines: of the terminal; the last ones, which are done, are then summed up.
    """
    states = read_states(plan.jobs, logdir)
    left = seconds_left(plan.jobs, states)
    ordered = sorted(plan.jobs, key=lambda job: ORDER.index(states[job.name].status))
    rows = [COLUMNS, *(_row(job, states[job.name], left.get(job.name)) for job in ordered)]
    if lines is not None and len(rows) > max(lines - 2, 4):
        hidden = rows[max(lines - 3, 3) :]
        rows = rows[: max(lines - 3, 3)]
        counts = Counter(row[0] for row in hidden)
        more = ", ".join(f"{count} {status}" for status, count in counts.items())
        rows.append(("…", f"and {more}", "", "", "", ""))
    failed = {job.name: states[job.name].line for job in plan.jobs}
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    text = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in
                 enumerate(zip(row, widths, strict=True))]  # fmt: skip
        text.append("  ".join(cells).rstrip())
        if row[0] == jobs.FAILED:
            text.append(f"        {failed[row[1]]}")
    return "\n".join([*text, _sum(plan, states, left)])


def _row(job: Job, state: State, left: float | None) -> tuple[str, ...]:
    ret = "" if state.ret is None else f"{state.ret:.1f}"
    told = duration(left) if left is not None else ""
    return state.status, job.name, f"{state.frames:,}", f"{job.end:,}", ret, told


def _sum(plan: Plan, states: dict[str, State], left: dict[str, float]) -> str:
    """All jobs in one line; the time that is left is told once something of each kind has run."""
    counts = Counter(state.status for state in states.values())
    told = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
    undone = [name for name, state in states.items() if state.status != jobs.DONE]
    line = f"{plan.study} at scale {plan.scale}: {told} of {len(plan.jobs)}"
    if undone and all(name in left for name in undone):
        at_once = max(counts[jobs.RUNNING], 1)
        line += f"; {duration(sum(left.values()) / at_once)} left, {at_once} at once"
    return line


def watch(plan: Plan, logdir: Path, every: float = 2.0, stream: TextIO | None = None) -> None:
    """Prints the table again and again, in its place, until all is done or Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    stream = stream or sys.stdout
    live = stream.isatty()
    while True:
        lines = shutil.get_terminal_size().lines if live else None
        text = table(plan, logdir, lines)
        print(f"\033[H\033[2J{text}" if live else text, file=stream, flush=True)
        states = read_states(plan.jobs, logdir)
        if all(state.status == jobs.DONE for state in states.values()):
            return
        time.sleep(every)
