"""Another run's folder, which is only read: to evaluate its agent, or to begin with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agents.registry import METHODS
from config import Config, load_saved
from fileio import checkpoints
from tools import UserError, expand_path, nearest, print_safe
from training.run_folder import CHECKPOINT, CONFIG, check_format
from training.run_names import is_pretraining


def open_run(flag: str, given: str) -> tuple[Path, Config]:
    """The folder that a flag names, and the configuration of the run in it, which has an agent.

    Raises:
        UserError: there is no such run, or it has no agent that could be loaded.
    """
    folder = expand_path(given, flag)
    _check_folder(flag, given, folder)
    try:
        check_format(folder)
        saved = load_saved(folder / CONFIG, METHODS)
    except UserError as error:
        raise UserError(f"--{flag}: {error}") from None
    if saved.beta_vae_pretrain:
        raise UserError(
            f"--{flag} {folder} is a pretraining, which has no agent: give the folder of a "
            "finetuning that learned from it"
        )
    if not checkpoints.find(folder):
        raise UserError(
            f"--{flag} {folder} has no {CHECKPOINT} yet: its run writes one every "
            f"{saved.checkpoint_every} frames (--checkpoint_every) and when it stops"
        )
    return folder, saved


def _check_folder(flag: str, given: str, folder: Path) -> None:
    """Checks that this is a run's folder; otherwise names one near it."""
    if not given or not folder.exists():
        near = (path.name for path in folder.parent.glob("*") if path.is_dir())
        hint = nearest(folder.name, near) if given else ""
        raise UserError(
            f"--{flag} '{given}': there is no such folder{hint}; give a run's, "
            "<logdir>/<task>/<method>/seed_<n>"
        )
    if folder.is_file():
        raise UserError(f"--{flag} {folder} is a file: give its run's folder, {folder.parent}")
    if not (folder / CONFIG).is_file():
        below = [path for depth in range(1, 4) for path in folder.glob("*/" * depth + CONFIG)]
        below = sorted(p.parent for p in below if not is_pretraining(p.absolute().parts[-3]))
        hint = f": did you mean {below[0]}?" if below else ""
        raise UserError(
            f"--{flag} {folder} is no run's folder, it has no {CONFIG}"
            + (hint or "; give one like <logdir>/<task>/<method>/seed_<n>")
        )


def load_state(flag: str, folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run, read once: the run may replace it at any time.

    Raises:
        UserError: it is damaged, or of another format.
    """
    try:
        state, damaged = checkpoints.load_newest(folder)
    except UserError as error:
        raise UserError(f"--{flag}: {error}") from None
    for _, reason in damaged:
        print_safe(f"warning: {reason}; the one of frame {state['frames']} is taken", sys.stderr)
    return dict(state)
