"""What a study leaves in its --logdir: studies/<name>/, with the plan of its last start, a lock."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fileio.atomic import atomic_write
from study.document import Study
from study.job import Job
from tools import UserError, nearest, print_safe
from training.lock import FolderLock

FOLDER, PLAN = "studies", "plan.json"


class Plan(NamedTuple):
    """What a runner was last asked to do.

    Attributes:
        study: its name.
        scale: which of its scales.
        figure: what draws it.
        draw: settings of the drawing.
        jobs: each behind those that it needs.
    """

    study: str
    scale: str
    figure: str
    draw: Mapping[str, Any]
    jobs: tuple[Job, ...]


def folder_of(logdir: Path, name: str) -> Path:
    """Where a study's plan and lock lie."""
    return logdir / FOLDER / name


def write_plan(logdir: Path, study: Study, scale: str, jobs: Sequence[Job]) -> None:
    """Writes down what is going to be done, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    plan: dict[str, Any] = {
        "study": study.name,
        "scale": scale,
        "figure": study.figure,
        "draw": {**study.draw, **study.draw_at.get(scale, {})},
    }
    plan["jobs"] = [job.to_dict() for job in jobs]
    with atomic_write(folder_of(logdir, study.name) / PLAN) as file:
        file.write(json.dumps(plan, indent=1, ensure_ascii=False).encode())


def read_plan(logdir: Path, name: str, scale: str | None = None) -> Plan:
    """What a study's runner was last asked to do.

    Args:
        logdir: of its runs.
        name: its, or the path of its file.
        scale: what its scale has to be; None takes any.

    Raises:
        UserError: there was none, it is of another scale, or the file is damaged.
    """
    name = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    path = folder_of(logdir, name) / PLAN
    there = sorted(one.parent.name for one in (logdir / FOLDER).glob(f"*/{PLAN}"))
    if name not in there:
        known = f"; there are {', '.join(there)}" if there else ""
        raise UserError(
            f"{logdir} has no study '{name}'{nearest(name, there)}{known}: begin it with "
            f"python -m study run {name}"
        )
    try:
        values = json.loads(path.read_bytes())
        jobs = tuple(Job.from_dict(job) for job in values["jobs"])
        plan = Plan(values["study"], values["scale"], values["figure"], values["draw"], jobs)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): run the study again") from None
    if scale not in (None, plan.scale):
        raise UserError(
            f"{logdir} holds {plan.study} at scale {plan.scale}, not {scale}: name that, or the "
            f"--logdir of the runs at scale {scale}"
        )
    return plan


def check_scale(logdir: Path, scale: str) -> None:
    """Checks that no study in the same --logdir has another scale: they share runs.

    Raises:
        UserError: one has.
    """
    for path in sorted((logdir / FOLDER).glob(f"*/{PLAN}")):
        plan = read_plan(logdir, path.parent.name)
        if plan.scale != scale:
            raise UserError(
                f"{logdir} holds {plan.study} at scale {plan.scale}, and studies there share their "
                f"runs: give another --logdir for scale {scale}"
            )


def lock(logdir: Path, name: str) -> FolderLock:
    """Takes a study for this runner.

    Raises:
        UserError: another runner has it.
        OSError: the lock cannot be written.
    """
    folder = folder_of(logdir, name)
    folder.mkdir(parents=True, exist_ok=True)
    taken = FolderLock(folder)
    try:
        taken.acquire()
    except UserError:
        who = (folder / "lock").read_text(errors="replace").strip()
        raise UserError(
            f"another runner is at work on {name} in {logdir} ({who}): wait until it ends, or stop "
            "it; python -m study status tells how far it is"
        ) from None
    if taken.warning:
        print_safe(f"warning: {taken.warning}")
    return taken
