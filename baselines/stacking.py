"""Observations out of single frames: the last few of them, and the transitions between.

The replay keeps each frame once. Symbols in shapes: B batch, T time (rows), S frames of an
observation, A action, H steps, or H and W image height and width, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agents.base import Batch


class Transition(NamedTuple):
    """What n steps led from an observation to another one.

    Attributes:
        obs: which rows of its window are the frames of the first observation, int64 [B, S].
        next_obs: of the other one, likewise.
        action: the first of the n, [B, A].
        reward: what they earned, discounted to the first, [B].
        discount: of what comes after them, [B]: γⁿ, and 0 behind a terminal state.
        weight: 1; 0 where the rows are of two episodes, and there is no such transition, [B].
    """

    obs: Tensor
    next_obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor


class Steps(NamedTuple):
    """What was done behind an observation, step by step.

    Attributes:
        action: [H, B, A].
        reward: what each earned, [H, B].
        discount: of what comes after it: γ, and 0 behind a terminal state, [H, B].
        weight: 1; 0 from where a window goes on in another episode, [H, B].
    """

    action: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor


def frames_at(is_first: Tensor, row: int, stack: int) -> Tensor:
    """Which rows of each window are the frames that an agent sees at ``row``, the oldest first.

    Before an episode's first frame that one is repeated, as a reset fills the stack with it.

    Args:
        is_first: bool [B, T].
        row: at least ``stack`` − 1.
        stack: S.

    Returns:
        int64 [B, S].
    """
    rows = torch.arange(row + 1, device=is_first.device)
    begun = (rows * is_first[:, : row + 1]).amax(1, keepdim=True)  # the row of the last reset
    return rows[row + 1 - stack :].maximum(begun)


def transition(batch: Batch, stack: int, steps: int = 1) -> Transition:
    """The transition from row ``stack`` − 1 of each window to the row ``steps`` later.

    Row t holds the action that led to it. An episode that is cut off by its time limit has a
    discount of γ there, as if it went on; the rows behind a terminal state count for nothing.

    Args:
        batch: ``is_first`` [B, T], ``action`` [B, T, A], ``reward`` [B, T], and ``discount``
            [B, T], γ in it.
        stack: S.
        steps: n; T is at least S + n.
    """
    start, first = stack - 1, batch["is_first"]
    reward = torch.zeros_like(batch["reward"][:, 0])
    discount, weight = torch.ones_like(reward), torch.ones_like(reward)
    for row in range(stack, stack + steps):
        weight = weight * ~(first[:, row] & (discount > 0))
        reward = reward + discount * batch["reward"][:, row]
        discount = discount * batch["discount"][:, row]
    return Transition(
        frames_at(first, start, stack),
        frames_at(first, start + steps, stack),
        batch["action"][:, stack],
        reward,
        discount,
        weight,
    )


def steps_from(batch: Batch, stack: int, steps: int) -> Steps:
    """The steps behind row ``stack`` − 1 of each window.

    Args:
        batch: as for `transition`.
        stack: S.
        steps: H; T is at least S + H.
    """
    rows = slice(stack, stack + steps)
    action, reward, discount, first = (
        batch[name][:, rows].transpose(0, 1)
        for name in ("action", "reward", "discount", "is_first")
    )
    return Steps(action, reward, discount, (~first).cumprod(0).to(reward.dtype))


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean of values [B] where ``weight`` [B] is 1; 0 where it is nowhere."""
    return (values * weight).sum() / weight.sum().clamp(min=1)


def push(frames: Tensor | None, image: Tensor, is_first: Tensor, stack: int) -> Tensor:
    """The last S frames of each environment, uint8 [N, S, H, W, C].

    Args:
        frames: what the last call returned; None at the start.
        image: the newest, uint8 [N, H, W, C].
        is_first: bool [N], where an episode begins: all frames are then the newest.
        stack: S.
    """
    newest = image[:, None]
    repeated = newest.expand(-1, stack, -1, -1, -1)
    if frames is None:
        return repeated.contiguous()
    shifted = torch.cat([frames[:, 1:], newest], 1)
    return torch.where(is_first[:, None, None, None, None], repeated, shifted)
