"""What a run cost, by its own files: time, updates, seconds of an episode, parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from figures.runs import arm_of, read_config, read_log
from fileio import checkpoints
from tools import UserError
from training.provenance import FILE as PROVENANCE

# The episodes of an evaluation, in its own world or another one, as they are logged.
_EPISODES = re.compile(r"(random|eval(_.+)?)_episodes")
# Parts of an agent's weights that no gradient moves.
_COPIES = re.compile(r"(^|\.)(teacher|slow_\w+|target\w*|bonus)\.")


class Cost(NamedTuple):
    """What one run cost; None where its files do not tell.

    Attributes:
        task, arm: of the run.
        updates, minutes: of training, evaluations included.
        pretrain_updates, pretrain_minutes: of the first stage, where its folder is still there.
        seconds_per_episode: of the run's evaluations, by the wall clock; those that are played side
            by side share it.
        parameters: numbers that gradients move: without teachers and slow copies.
        device: as its maker calls it.
    """

    task: str
    arm: str
    updates: float | None
    minutes: float | None
    pretrain_updates: float | None
    pretrain_minutes: float | None
    seconds_per_episode: float | None
    parameters: int | None
    device: str | None


def measure(run: Path) -> Cost:
    """What a run cost.

    Raises:
        UserError: it is no run's folder, or has a damaged log.
    """
    config, rows = read_config(run), read_log(run)
    before = (None, None)
    given = config.get("pretrain_checkpoint_path")
    if given and (Path(given) / "metrics.jsonl").is_file():
        before = _work(read_log(Path(given)))
    spent = sum(row.get("seconds_evaluate") or 0 for row in rows)
    episodes = sum(n or 0 for row in rows for name, n in row.items() if _EPISODES.fullmatch(name))
    updates, minutes = _work(rows)
    return Cost(
        config["task"],
        arm_of(config),
        updates,
        minutes,
        *before,
        spent / episodes if spent and episodes else None,
        _parameters(run),
        _device(run),
    )


def _work(rows: list[dict]) -> tuple[float | None, float | None]:
    """Updates and minutes of a log."""
    updates = [row["updates"] for row in rows if row.get("updates") is not None]
    times = [row["time"] for row in rows if "time" in row]
    return (max(updates) if updates else None), (max(times) / 60 if times else None)


def _parameters(run: Path) -> int | None:
    """How many numbers a run's newest checkpoint has learned; None without one."""
    if not checkpoints.find(run):
        return None
    try:
        state, _ = checkpoints.load_newest(run)
        weights = state["learner"]["weights"]
    except (KeyError, TypeError):
        raise UserError(
            f"{run} has a checkpoint of another format: draw with its own code"
        ) from None
    return sum(t.numel() for name, t in weights.items() if not _COPIES.search(name))


def _device(run: Path) -> str | None:
    """The device of a run's last start, from its provenance."""
    path = run / PROVENANCE
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    try:
        return str(json.loads(lines[-1])["device_name"])
    except (LookupError, TypeError, ValueError):  # an editor took it
        return None
