"""HRSSM: a world model without pictures, robust to what does not matter (Sun et al. 2024, ICML).

DreamerV3's first agent without a decoder. Its recurrent state comes from images in which half of
the cells are hidden; it learns to be like what a slow copy makes of whole images, and to keep
states as far apart as their rewards, now and later, differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents.base import Agent, Batch, Metrics, Obs, Spaces, State
from agents.learner import GradientLearner
from agents.model_configs import BEHAVIOR_UNREAD
from agents.optimizer import SKIPPED, Optimizer
from agents.reports import CONTEXT
from baselines import pictures
from baselines.dreamerv3 import (
    CommonKeys,
    Policy,
    behavior_config,
    check_sizes,
    network_config,
)
from baselines.dreamerv3_model import ImagineNoise
from baselines.hrssm_model import (
    ActorCritic,
    BisimulationConfig,
    Branch,
    FilterNoise,
    MaskConfig,
    WorldModel,
)
from baselines.hrssm_networks import ActorHead, BinsHead
from baselines.pixels import refuse_discrete
from config import Config, key
from envs import parse_task
from models import LossScales
from tools import UserError, print_safe

IMAGINED = 10  # steps of the picture
UNIT_REWARDS = ("dmc", "dmc2gym", "maniskill", "rms")  # suites whose steps earn from 0 to 1
LARGEST_DISTANCE = 2.0  # between two directions, 1 − cos


@dataclasses.dataclass(frozen=True)
class Keys(CommonKeys):
    """HRSSM's own keys, called as in its authors' code where that has them."""

    mask_ratio: float = key(
        0.5, "share of an image's cells that the encoder is not shown", at_least=0, at_most=1
    )
    patch_size: int = key(10, "pixels of a cell's side", above=0)
    block_size: int = key(4, "frames in a row with the same cells hidden", above=0)
    dyn_cont_stoch_size: int = key(
        32, "numbers of a feature's projection, which the target's is to be like", above=0
    )
    mbr_scale: str = key("1.0", "weight of that latent reconstruction", schedule=True)
    simsr_scale: str = key("1.0", "weight of the bisimulation", schedule=True)
    simsr_discount: float = key(
        0.99, "its discount factor, of the distance of what follows", at_least=0, below=1
    )
    simsr: str = key(
        "mended",
        "published: its rewards are one step late and count whole, and episodes' borders are "
        "transitions, as in the authors' code",
        choices=("mended", "published"),
    )
    largest_reward: float | None = key(
        None,
        "the most that an agent step earns, which the bisimulation takes for the largest distance; "
        "default action_repeat, as a control step of dm_control or ManiSkill earns 1 at most",
        above=0,
    )
    encoder_tau: float = key(
        0.05, "how far the target's encoder moves at a time", above=0, at_most=1
    )
    dynamics_tau: float = key(
        0.05, "how far the target's RSSM and projection move at a time", above=0, at_most=1
    )
    ac_opt_eps: float = key(1e-5, "epsilon of the actor's and the critic's optimiser", above=0)


class Noise(NamedTuple):
    """What an update draws with."""

    filter: FilterNoise
    imagine: ImagineNoise


class HRSSM(GradientLearner, Agent):
    """HRSSM; the arguments are those of every agent (`agents/base.py`)."""

    name = "hrssm"
    Keys = Keys
    kinds = frozenset({"continuous"})
    unread = BEHAVIOR_UNREAD
    clips = 64  # their frames are what imagined latents are compared with

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        refuse_discrete(self, config, spaces)
        super().__init__(config, runtime)
        c, actions = config, spaces.action_size
        networks = network_config(c, runtime.image_chunk)
        self.world_model = WorldModel(
            Branch(spaces.image, actions, c.dyn_cont_stoch_size, networks),
            spaces.image[:2],
            networks,
            MaskConfig(c.patch_size, c.block_size, c.mask_ratio),
            bisimulation_config(c),
        )
        # The first imagined state is the one that it begins with.
        learns = dataclasses.replace(behavior_config(c), horizon=c.imag_horizon - 1)
        actor = ActorHead(actions, networks.layers[2], networks)
        self.behavior = ActorCritic(actor, BinsHead(networks.layers[3], networks), learns)
        self.to(self.device)
        self.optimizers = self.make_optimizers()
        parts: Any = (self.world_model, self.behavior)  # have what a policy asks for
        self.policy = Policy(config, runtime, *parts)
        if runtime.compile:
            for branch in (self.world_model, self.world_model.target):
                compile_methods(branch.encoder, "convolve")
            compile_methods(self.world_model.rssm, "filter_steps", "prior_of")
            compile_methods(self.behavior, "imagine_steps")

    def make_optimizers(self) -> dict[str, Optimizer]:
        """One each for world model, actor and critic."""
        c, behavior = self.config, self.behavior

        def of(name: str, part: torch.nn.Module, lr: float, clip: float) -> Optimizer:
            group = {"params": list(part.parameters()), "eps": c.ac_opt_eps}
            return Optimizer(name, [group], c, lr, clip)

        model = self.world_model.parameters()
        return {
            "model": Optimizer("model", model, c, c.model_lr, c.grad_clip),
            "actor": of("actor", behavior.actor, c.actor_lr, c.actor_grad_clip),
            "value": of("value", behavior.value, c.value_lr, c.value_grad_clip),
        }

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks that sizes go into each other."""
        c = config
        check_sizes(cls.name, c)
        if c.largest_reward is None and parse_task(c.task).suite not in UNIT_REWARDS:
            print_safe(
                f"note: hrssm's distances take an agent step of {c.task} to earn no more than "
                "--action_repeat: give --largest_reward, if it does"
            )
        if c.batch_length % c.block_size:
            fits = max(c.batch_length // c.block_size, 1) * c.block_size
            raise UserError(
                f"--batch_length {c.batch_length}: hrssm hides the same of {c.block_size} frames "
                f"in a row (--block_size): give a multiple, such as {fits}"
            )
        if c.patch_size > min(c.size):
            raise UserError(
                f"--patch_size {c.patch_size}: images of --size {' '.join(map(str, c.size))} have "
                f"no such cell: give {min(c.size)} or less"
            )

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions: ``train`` samples, ``eval`` takes the actor's mode."""
        return self.policy(obs, state, mode)

    def sync(self) -> None:
        """From here on, actions know of all updates so far; see `RecurrentPolicy`."""
        self.policy.sync()

    def prepare(self, batch: Batch) -> Batch:
        """As of every learner, but discounts without γ: the head learns whether episodes go on."""
        data = super().prepare(batch)
        return {**data, "discount": batch["discount"]} if "discount" in batch else data

    def draw_noise(self, batch: int, length: int) -> Noise:
        model = self.world_model
        imagine = self.behavior.draw_noise(model.rssm, batch * length)
        return Noise(model.draw_noise(batch, length), imagine)

    def before_update(self) -> None:
        """Moves the slow critic when it is time."""
        if self.updates % self.config.slow_target_update == 0:
            self.behavior.update_slow_target()

    def compute(self, batch: Batch, scales: LossScales, noise: Noise) -> Metrics:
        """One update of the world model, its target, actor and critic."""
        c, model = self.config, self.world_model
        with self.autocast():
            terms, post, told = model.terms(batch, scales, noise.filter)
            loss = torch.stack([scales[name] * term for name, term in terms.items()]).sum()
        metrics = self.optimizers["model"].step(loss)
        model.move_target(c.encoder_tau, c.dynamics_tau)
        start = {name: value.flatten(0, 1) for name, value in post.items()}
        with self.autocast():
            losses, more = self.behavior.terms(model, start, noise.imagine, c.discount, scales)
        skip = metrics[f"{SKIPPED}model"]
        for name, loss in losses.items():
            metrics |= self.optimizers[name].step(loss, skip)
        metrics |= told | more | {f"{name}_loss": term.detach() for name, term in terms.items()}
        return metrics | {f"{name}_scale": scales[name] for name in ("kl_free", "actor_entropy")}

    @torch.no_grad()
    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the model imagines, as the frames of the batch whose projections are the nearest.

        It sees the first frames, whole, and imagines on under the true actions.
        """
        context = min(CONTEXT, batch["is_first"].shape[1] - 1)
        data = {k: v[:, : context + IMAGINED] for k, v in self.prepare(batch).items()}
        model, rssm = self.world_model, self.world_model.rssm
        embed = model.encoder(data["image"]).embed
        post, _ = rssm.observe(embed, data["action"], data["is_first"], sample=False)
        later = {name: value[:, context - 1 :].transpose(0, 1) for name, value in post.items()}
        breaks = data["is_first"][:, context:].sum(1)
        few = breaks.argsort(stable=True)[: pictures.CLIPS]
        start = {name: value[0, few] for name, value in later.items()}
        imagined = rssm.imagine(data["action"][few, context:], start, sample=False)
        alike = model.direction(imagined) @ model.direction(later).flatten(0, 1).T
        nearest = alike.argmax(-1).T  # [T−1, N]
        frames = data["image"][:, context - 1 :].transpose(0, 1)
        return {"nearest": pictures.imagined(frames, few, nearest)}

    def save_state(self) -> dict[str, Any]:
        """Everything it is."""
        return {**super().save_state(), "policy": self.policy.save_state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned.

        Raises:
            ValueError: a tensor is missing or of another shape.
        """
        super().load_state(state)
        self.policy.load_state(state["policy"])


def bisimulation_config(config: Config) -> BisimulationConfig:
    """What the distances of states are to come to; the largest reward to the largest distance."""
    c = config
    largest = c.largest_reward or float(c.action_repeat)  # a control step earns 1 at most
    return BisimulationConfig(c.simsr_discount, LARGEST_DISTANCE / largest, c.simsr == "published")
