"""What models draw for the explorer: decoded latents, strips, open-loop imagination."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents import reports
from agents.diswm import DisWM
from explorer.clips import Clip
from logger.pictures import to_rgb
from models import VECTOR, VideoPredictor, WorldModel
from networks import float_image
from rssm import State

COLUMNS = len(reports.OFFSETS)
CONTEXT = 50  # frames that are filtered before imagination begins
# A state of the RSSM, and how many steps lie behind it → the next action [1, A].
Choose = Callable[[State, int], Tensor]


class Imagined(NamedTuple):
    """An open-loop prediction.

    Attributes:
        images: uint8 [H + 1, side, side, 3]; the first is what the model sees, the others it
            imagines.
        reward: predicted, [H]; None of a model without rewards.
        action: taken, [H, A]; None of a model without actions.
    """

    images: np.ndarray
    reward: np.ndarray | None
    action: np.ndarray | None


def to_images(image: Tensor) -> np.ndarray:
    """Images in ±0.5 as uint8 [N, H, W, 3]."""
    return to_rgb((image.float() + 0.5).clamp(0, 1).numpy())


def decode(model: VideoPredictor, latents: np.ndarray, clip: Clip, row: int) -> np.ndarray:
    """What latents [N, Z] draw at a row of a clip: uint8 [N, H, W, 3]; see `reports.decode`."""
    vector = clip.columns.get(VECTOR)
    given = None if vector is None else torch.from_numpy(vector[row])
    return to_images(reports.decode(model, torch.from_numpy(latents), given))


def strip(
    model: VideoPredictor, latent: np.ndarray, index: int, reach: float, clip: Clip, row: int
) -> np.ndarray:
    """One number of a latent [Z], moved from ``reach`` below its value to as far above it.

    Returns:
        uint8 [7, H, W, 3].
    """
    latents = np.repeat(latent[None], COLUMNS, 0)
    latents[:, index] += np.linspace(-reach, reach, COLUMNS, dtype=latents.dtype)
    return decode(model, latents, clip, row)


@torch.no_grad()
def posterior(model: VideoPredictor, latent: np.ndarray, clip: Clip, row: int) -> State:
    """The state [1, …] that the model is in at a row of a clip, if it sees this latent there.

    It has seen up to `CONTEXT` frames before, with what led to them; all of them as modes.
    """
    batch = clip.batch(max(0, row + 1 - CONTEXT), row)
    if isinstance(model, WorldModel) and "action" not in batch:
        lead = batch["is_first"].shape
        batch["action"] = torch.zeros(*lead, model.rssm.action_size - model.action_gap)
    encoding = model.encode(float_image(batch["image"]))
    encoding.embed[:, -1] = torch.from_numpy(latent)
    post, _ = model.observe(batch, encoding)
    return {key: value[:, -1] for key, value in post.items()}


@torch.no_grad()
def imagine(
    model: VideoPredictor, state: State, horizon: int, choose: Choose | None = None
) -> Imagined:
    """What a model imagines from a state [1, …] on, its modes.

    Args:
        model: a world model, or a predictor without actions.
        state: where it begins.
        horizon: H, steps.
        choose: the actions of a world model.
    """
    world, states, actions = model if isinstance(model, WorldModel) else None, [state], []
    for step in range(horizon):
        if world is not None and choose is not None:
            actions.append(choose(states[-1], step))
            action = world.pad_action(actions[-1])
        else:
            action = torch.zeros(1, model.rssm.action_size)
        states.append(model.rssm.img_step(states[-1], action, sample=False))
    feat = torch.cat([model.rssm.get_feat(each) for each in states])  # [H + 1, F]
    reward = None if world is None else world.reward(feat[1:]).mode()[:, 0].numpy()
    taken = torch.cat(actions).numpy() if actions else None
    return Imagined(to_images(model.decoder(feat).mode()), reward, taken)


def of_policy(agent: DisWM) -> Choose:
    """The actor's best action."""
    model, actor = agent.world_model, agent.behavior.actor
    return lambda state, step: actor(model.rssm.get_feat(state)).mode().float()


def constant(action: np.ndarray) -> Choose:
    """The same action [A] at every step."""
    given = torch.from_numpy(action)[None]
    return lambda state, step: given


def recorded(clip: Clip, row: int) -> Choose:
    """The actions that followed a row of a clip."""
    actions = torch.from_numpy(clip.columns["action"])
    return lambda state, step: actions[row + 1 + step][None]
