"""``--init_from``: an agent that begins as another run's has become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.base import Agent
from config import Config
from tools import UserError
from training.run_folder import RunFolder
from training.saved_run import load_state, open_run

LISTED = 12  # names of tensors in a note


class Source(NamedTuple):
    """Another run's agent.

    Attributes:
        folder: the run's.
        frames: where its checkpoint stands.
        state: its agent's, as `Learner.save_state` returned it.
    """

    folder: Path
    frames: int
    state: Mapping[str, Any]


def read_source(config: Config) -> Source | None:
    """The agent that ``--init_from`` names; None without it.

    Raises:
        UserError: there is no such run, it is another method's, or its checkpoint is damaged.
    """
    if config.init_from is None:
        return None
    folder, saved = open_run("init_from", config.init_from)
    if saved.method_name != config.method_name:
        raise UserError(
            f"--init_from {folder} is a run of {saved.method_name}, and the method is "
            f"{config.method_name} here: give --method_name {saved.method_name}, or another run"
        )
    state = load_state("init_from", folder)
    return Source(folder, state["frames"], state["learner"])


def begin_from(run: RunFolder, agent: Agent, source: Source) -> None:
    """Gives an agent what fits it of another one, and notes what does not.

    Raises:
        UserError: nothing does.
    """
    taken = agent.init_from(source.state)
    if not taken.tensors:
        raise UserError(
            f"--init_from {source.folder}: this agent has no tensor of the name and shape of one "
            "of its agent's: give a run of the same sizes, or leave it out"
        )
    agent.sync()
    run.note(
        "init_from",
        folder=str(source.folder),
        frames=source.frames,
        tensors=taken.tensors,
        fresh=_listed(taken.fresh),
        left_over=_listed(taken.left_over),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) + more) or "none"
