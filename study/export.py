"""From a study's runs to what draws them: one record for each run, arm and evaluation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from study.job import Job, read_state
from study.records import Plan
from tools import UserError, print_safe

OF_RUNS = (
    "traversals",
    "tsne",
    "logged",
)  # kinds that are drawn from runs, as the table of costs is


def drawn(plan: Plan, logdir: Path) -> list[tuple[str, Job]]:
    """The runs that a study is about, by arm; those without anything to draw yet are told of."""
    found, left_out = [], []
    for job in plan.jobs:
        if not job.is_goal:
            continue
        state = read_state(job, logdir / job.name)
        if state.ret is None and (job.stage == "train" or not state.frames):
            left_out.append(job.name)
        else:
            found += [(arm, job) for arm in job.arms]
    if left_out and found:
        more = f" and {len(left_out) - 1} more" if left_out[1:] else ""
        print_safe(f"note: without {left_out[0]}{more}, which has come to nothing yet")
    if not found:
        raise UserError(f"no run of {plan.study} in {logdir} has come to anything yet")
    return found


def records_of(plan: Plan, logdir: Path) -> list[Any]:
    """The records of a study, as :mod:`figures.records` has them.

    Raises:
        UserError: there are none yet.
    """
    from figures.records import from_run

    found: dict[Any, None] = {}
    for arm, job in drawn(plan, logdir):
        if job.stage == "train":
            named = {"study": plan.study, "scale": plan.scale, "source": job.source, "arm": arm}
            # A random policy belongs to no arm: that of a run which several share is one record.
            found |= dict.fromkeys(from_run(logdir / job.name, **named))
    return [*found]


def export(plan: Plan, logdir: Path, path: Path) -> None:
    """Writes the records of a study to a CSV, whole or not at all.

    Raises:
        UserError: there are none yet.
        OSError: it cannot be written.
    """
    from figures.records import write_csv

    records = records_of(plan, logdir)
    write_csv(records, path)
    print(f"{len(records)} evaluations of {plan.study} are in {path}")


def draw(plan: Plan, logdir: Path, output: Path) -> None:
    """Draws a study's figure or table into a folder, under its name.

    Raises:
        UserError: there is nothing to draw yet.
        OSError: it cannot be written.
    """
    kinds = importlib.import_module("figures.kinds")  # draws, and takes seconds to import
    settings, records = dict(plan.draw), []
    if plan.figure in OF_RUNS or settings.get("value") == "cost":
        found = drawn(plan, logdir)
        if plan.figure == "logged" and (frames := settings.get("frames")):
            from study.disentanglement import measure_finished

            measure_finished([job for _, job in found], logdir, frames)
        runs = {(arm, job.name): logdir / job.name for arm, job in found}
        arms = [arm for arm, _ in runs]
        settings["runs"] = {
            arm if arms.count(arm) == 1 else f"{arm}, {name}": path
            for (arm, name), path in runs.items()
        }
    else:
        records = records_of(plan, logdir)
    against = settings.pop("against", None) if plan.figure == "curves" else None
    paths = kinds.draw(plan.figure, records, output / plan.study, **settings)
    if against:
        try:
            beside = output / f"{plan.study}_differences"
            value = settings.get("value", "return")
            paths += kinds.draw("differences", records, beside, against=against, value=value)
        except UserError as error:
            print_safe(f"note: without differences: {error}")
    for path in paths:
        print(path)
