"""How long a run is, and the frame from which its distractions are others.

A run may be made longer when it goes on. The switch then stays where it was: where the command
line leaves it open, it is half of the length that the run begins with.
"""

from __future__ import annotations

from agents.base import PRETRAIN_UNIT
from config import Config
from tools import UserError


def key_of(config: Config) -> str:
    """The key that holds a run's length."""
    return "pretrain_steps" if config.beta_vae_pretrain else "steps"


def length_of(config: Config) -> int:
    """The frames, or pretrain steps, of a whole run: agent steps and updates are not divided."""
    unit = PRETRAIN_UNIT if config.beta_vae_pretrain else config.action_repeat
    return config[key_of(config)] // unit * unit


def updates_of(config: Config) -> int:
    """How many updates a whole run makes, near enough to decide what pays."""
    if config.beta_vae_pretrain:
        return config.pretrain_steps // PRETRAIN_UNIT
    learning = config.steps // config.action_repeat - config.prefill
    if learning <= 0:
        return 0
    return config.pretrain + learning // config.train_every * config.train_steps


def switch_frame(config: Config) -> int | None:
    """The frame from which episodes begin in the second distractions; None: none does."""
    if config.switch_at is not None:
        return config.switch_at
    return _half(config.steps, config.action_repeat)


def _half(steps: int, repeat: int) -> int | None:
    total = steps // repeat
    return -(-total // 2) * repeat if total else None


def settle_switch(config: Config, before: Config | None) -> Config:
    """The configuration with ``switch_at`` as a number, where there is training to be switched in.

    Args:
        config: as the command line gives it.
        before: the one that the run has had so far; None for a new run.
    """
    if config.switch_at is not None or config.beta_vae_pretrain:
        return config
    return config.replace(switch_at=switch_frame(config if before is None else before))


def check_length(config: Config, before: Config, frames: int) -> None:
    """Checks that a run can have this length, and this switch, from here on.

    Args:
        config: what it is to go on with, its switch settled.
        before: the configuration that it has had so far.
        frames: where it is, in the unit of its length.

    Raises:
        UserError: it has come further, or has no training that could be longer.
    """
    key = key_of(config)
    if config[key] < min(before[key], frames):
        raise UserError(
            f"--{key} {config[key]}: this run has done {frames} already: give that or more, or "
            "another --logdir"
        )
    if config.beta_vae_pretrain:
        return
    if config.steps and not before.steps:
        raise UserError(
            f"--steps {config.steps}: this run began with --steps 0, to fill its replay alone: "
            "train in another --logdir, with its train_eps as --offline_traindir"
        )
    there, now = switch_frame(before), config.switch_at
    if there != now and min(at for at in (there, now) if at is not None) <= frames:
        raise UserError(
            f"--switch_at {now}: this run has done {frames} frames under --switch_at {there}: "
            "leave it out, or choose another --logdir"
        )
