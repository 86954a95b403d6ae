"""Where a name of the log stands in TensorBoard and W&B: its group, and what to look at first.

Names in ``metrics.jsonl`` are flat (``eval_return``). A board has one section for each group, so
there the name is ``eval/return``.
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import NamedTuple

# The first line that fits a name has its group; * is any text. What no line fits is the model's.
NAMES = {
    "eval": "eval_* random_*",
    "train": "train_* updates",
    "health": "bad_* skipped_* dropped_* env_restarts nonfinite_* memory_* *_memory",
    "schedule": "beta beta_kl_goal eta *_scale kl_balance kl_free imag_gradient_mix *_lr",
    "actor": "actor_* imagined_* reward_mean reward_std",
    "critic": "value_* critic_* target_mean",
    "loss": "*_loss",
    "speed": "fps *_per_second seconds_* share_*",
    "latent": "latent_*",
    "replay": "replay_*",
    "model": "*",
}


class Chart(NamedTuple):
    """Curves in one picture: those whose whole tag fits a regular expression."""

    title: str
    tags: tuple[str, ...]


# Pages of TensorBoard's Custom Scalars, from top to bottom.
LAYOUT = {
    "first: return, losses, speed": (
        Chart("evaluation's return", ("eval/return", "eval/random_return")),
        Chart("training episodes' return", ("train/return",)),
        Chart("image loss", ("loss/image_loss",)),
        Chart("other terms of the model's loss", ("loss/(?!image_|model_).*",)),
        Chart("actor's and critic's loss", ("actor/loss", "critic/value_loss")),
        Chart("frames per second", ("speed/fps",)),
        Chart("where the time goes, shares", ("speed/share_.*",)),
    ),
    "then: is it healthy?": (
        Chart("gradient norms before the clip", (".*grad_norm",)),
        Chart("entropy of actor and model", ("actor/ent", "model/(prior|post)_ent")),
        Chart("weights that move", ("schedule/.*",)),
        Chart("what went wrong", ("health/.*",)),
    ),
}


# Columns of TensorBoard's HParams that are shown at first: as many as it shows, and no more.
FIRST = ("task", "method_name", "seed", "beta_vae", "distillation")
RESULTS = ("eval/return", "eval/success", "train/return")


@functools.cache
def group_of(name: str) -> str:
    """The group of a scalar's name."""
    fitting = (
        group
        for group, patterns in NAMES.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns.split())
    )
    return next(fitting)


def scalar_tag(name: str) -> str:
    """``<group>/<name>``, the group not twice: ``eval/return``; one with a / stays as it is."""
    if "/" in name:
        return name
    group = group_of(name)
    return f"{group}/{name.removeprefix(group + '_')}"


def picture_tag(name: str, kind: str) -> str:
    """``video/<name>`` or ``image/<name>``; one with a / stays as it is."""
    return name if "/" in name else f"{kind}/{name}"
