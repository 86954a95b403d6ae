"""DreamerV3: one agent for many tasks (Hafner et al. 2023, arXiv 2301.04104; Nature 2025).

The method's block in configs.yaml is its 12M size for control from pixels; ``dreamerv3_1m``,
``dreamerv3_25m`` and ``dreamerv3_50m`` are others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents import reports
from agents.base import Agent, Batch, Metrics, Obs, Spaces, State, Update
from agents.learner import GradientLearner
from agents.model_configs import BEHAVIOR_UNREAD
from agents.policy import RecurrentPolicy
from baselines.dreamerv3_model import (
    ActorCritic,
    BehaviorConfig,
    FilterNoise,
    ImagineNoise,
    WorldModel,
)
from baselines.dreamerv3_networks import MULTIPLES, NetworkConfig
from baselines.laprop import LaProp
from baselines.replayed_latents import ReplayedLatents
from config import Config, key
from envs import ends_early
from models import LossScales, Terms
from networks import activation
from replay.files import count_rows
from replay.sampler import Windows
from tools import UserError, expand_path

HALVINGS = 2 ** len(MULTIPLES)  # of an image's sides
KEPT = "replayed_"  # and a latent's name: what an update hands on to the replay


@dataclasses.dataclass(frozen=True)
class CommonKeys:
    """Keys of DreamerV3 and of what grew on it."""

    unimix: float = key(
        0.01, "share of a uniform distribution in latents and discrete actions", at_least=0, below=1
    )
    bins: int = key(255, "bins of rewards and values, an odd number", at_least=3)
    dyn_scale: str = key("1.0", "weight of the KL that trains the prior", schedule=True)
    rep_scale: str = key("0.1", "weight of the KL that trains the posterior", schedule=True)
    return_rate: float = key(
        0.01, "rate of the averages that returns are scaled by", above=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class Keys(CommonKeys):
    """DreamerV3's own keys."""

    dyn_blocks: int = key(8, "blocks of the recurrent cell", above=0)
    policy_scale: str = key("1.0", "weight of the actor's loss", schedule=True)
    value_scale: str = key("1.0", "weight of the critic's loss in imagination", schedule=True)
    replay_value_scale: str = key(
        "0.3", "weight of the critic's loss on the replay's own rows", schedule=True
    )
    lr_warmup: int = key(1000, "updates in which the learning rate rises from 0", at_least=0)
    agc: float = key(
        0.3, "largest norm of a tensor's gradient, as a share of the tensor's own", above=0
    )
    replay_latents: bool = key(
        True, "windows begin with what the last update made of the row before; False: with zeros"
    )


class Noise(NamedTuple):
    """What an update draws with."""

    filter: FilterNoise
    imagine: ImagineNoise


class Policy(RecurrentPolicy):
    """The policy in the environments, its Gaussian's samples cut off at ±1."""

    def _explore(self, action: Tensor, mode: str) -> Tensor:
        # The RSSM sees the same of an action that is cut off as of the whole.
        return super()._explore(action, mode).clamp(-1, 1)


class DreamerV3(GradientLearner, Agent):
    """DreamerV3; the arguments are those of every agent (`agents/base.py`)."""

    name = "dreamerv3"
    Keys = Keys
    # One optimiser learns all, and clips each tensor by itself.
    unread = BEHAVIOR_UNREAD | {
        *("actor_lr", "value_lr", "opt", "weight_decay"),
        *("grad_clip", "actor_grad_clip", "value_grad_clip"),
    }

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__(config, runtime)
        c, networks = config, network_config(config, runtime.image_chunk)
        self.world_model = WorldModel(spaces.image, spaces.action_size, networks)
        self.behavior = ActorCritic(
            spaces.action_size, spaces.discrete, networks, behavior_config(c)
        )
        self.to(self.device)
        self.optimizers = {
            "model": LaProp(
                "model", self.parameters(), c.model_lr, c.agc, warmup=c.lr_warmup, eps=c.opt_eps
            )
        }
        parts: Any = (self.world_model, self.behavior)  # have what a policy asks for
        self.policy = Policy(config, runtime, *parts)
        self.latents: ReplayedLatents | None = None
        if c.replay_latents and c.evaluate is None:  # who only acts has no use for them
            n = networks
            self.latents = ReplayedLatents(kept_rows(c), n.deter, n.stoch, n.classes, self.device)
        if runtime.compile:
            compile_methods(self.world_model.encoder, "convolve")
            compile_methods(self.world_model, "image_error")
            compile_methods(self.world_model.rssm, "filter_steps", "prior_of")
            compile_methods(self.behavior, "imagine_steps", "terms", "replay_term")

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks that sizes go into each other."""
        c = config
        check_sizes(cls.name, c)
        for flag, parts in (("dyn_deter", c.dyn_deter), ("cnn_depth", MULTIPLES[-1] * c.cnn_depth)):
            if parts % c.dyn_blocks:
                what = f"--{flag} {c[flag]} does not part into --dyn_blocks {c.dyn_blocks}"
                raise UserError(f"{what}: give a multiple of {c.dyn_blocks}, or fewer blocks")

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """Those of the default; where latents are replayed, with the numbers of their rows."""
        return Windows(config.batch_length, numbered=config.replay_latents)

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions: ``train`` samples, ``eval`` takes the actor's mode."""
        return self.policy(obs, state, mode)

    def sync(self) -> None:
        """From here on, actions know of all updates so far; see `RecurrentPolicy`."""
        self.policy.sync()

    def learn(self, batch: Batch, step: int) -> Update:
        """One update, which begins from the latents that are kept, and keeps those that it made."""
        latents, row = self.latents, batch.get("row")
        if latents is None or row is None:
            return super().learn(batch, step)
        state, known = latents.before(row[:, 0])
        is_first = torch.cat([~known[:, None], batch["is_first"][:, 1:]], 1)
        update = super().learn({**batch, **state, "is_first": is_first}, step)
        made = {k: update.metrics.pop(KEPT + k) for k in ("deter", "stoch")}
        latents.keep(row, made["deter"], made["stoch"])
        update.metrics["known_latents"] = known.float().mean()
        return update

    def prepare(self, batch: Batch) -> Batch:
        """As of every learner; rows' numbers are no part of what is learned from."""
        return super().prepare({k: v for k, v in batch.items() if k != "row"})

    def draw_noise(self, batch: int, length: int) -> Noise:
        imagine = self.behavior.draw_noise(self.world_model.rssm, batch * length)
        return Noise(self.world_model.draw_noise(batch, length), imagine)

    def before_update(self) -> None:
        """Moves the slow critic when it is time."""
        if self.updates % self.config.slow_target_update == 0:
            self.behavior.update_slow_target()

    def compute(self, batch: Batch, scales: LossScales, noise: Noise) -> Metrics:
        """One update of world model, actor and critic, which have one loss."""
        terms, post, told = self.terms(batch, scales, noise)
        loss = torch.stack([scales[name] * term for name, term in terms.items()]).sum()
        metrics = self.optimizers["model"].step(loss)
        metrics |= told | {f"{name}_loss": term.detach() for name, term in terms.items()}
        metrics |= {f"{name}_scale": scales[name] for name in ("kl_free", "actor_entropy")}
        if "deter" in batch:
            metrics[KEPT + "deter"] = post["deter"].detach()
            metrics[KEPT + "stoch"] = post["stoch"].detach().argmax(-1)
        return metrics

    def terms(self, batch: Batch, scales: LossScales, noise: Noise) -> tuple[Terms, State, Metrics]:
        """Every term of the loss, the posterior [B, T, …], and metrics."""
        model, behavior = self.world_model, self.behavior
        with self.autocast():
            terms, post, metrics = model.terms(batch, scales, noise.filter)
        start = {k: v.detach().flatten(0, 1) for k, v in post.items()}
        with self.autocast():  # apart, as weights cast here are cast without gradients
            imagined = behavior.rollout(model, start, noise.imagine)
        with self.autocast():
            more, returns, told = behavior.terms(model, imagined, scales)
            feat, returns = model.rssm.get_feat(post), returns.view(post["deter"].shape[:2])
            more["replay_value"] = behavior.replay_term(feat, batch, returns)
        return terms | more, post, metrics | told

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag."""
        model: Any = self.world_model  # has what a report asks for
        return reports.draw(model, self.prepare(batch), traverse=False)

    def save_state(self) -> dict[str, Any]:
        """Everything it is, the latents of the replay's rows too."""
        latents = None if self.latents is None else self.latents.save_state()
        return {**super().save_state(), "policy": self.policy.save_state(), "latents": latents}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned.

        Raises:
            ValueError: a tensor is missing or of another shape.
        """
        super().load_state(state)
        self.policy.load_state(state["policy"])
        if self.latents is not None:
            self.latents.load_state(state["latents"])


def check_sizes(method: str, config: Config) -> None:
    """Checks what DreamerV3's encoder, latents and heads need, and that no teacher is asked for.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    c = config
    for name in ("beta_vae", "distillation", "traverse"):
        if c[name]:
            raise UserError(
                f"--method_name {method} has no β-VAE and no teacher: leave out --{name} True"
            )
    if any(side % HALVINGS for side in c.size):
        raise UserError(
            f"--size {' '.join(map(str, c.size))}: {method} halves images four times: give "
            f"multiples of {HALVINGS}, such as 64 64"
        )
    if not 2 <= c.dyn_discrete <= 256:
        raise UserError(
            f"--dyn_discrete {c.dyn_discrete}: {method}'s latents have from 2 to 256 classes"
        )
    if not c.bins % 2:
        raise UserError(f"--bins {c.bins}: give an odd number, as one of them is 0")
    try:
        activation(c.act)
    except ValueError as error:
        raise UserError(f"--act: {error}") from None


def network_config(config: Config, chunk_size: int) -> NetworkConfig:
    """The sizes that the configuration's keys come to."""
    c = config
    return NetworkConfig(
        deter=c.dyn_deter,
        hidden=c.dyn_hidden,
        stoch=c.dyn_stoch,
        classes=c.dyn_discrete,
        blocks=c.get("dyn_blocks", 1),
        depth=c.cnn_depth,
        units=c.units,
        layers=(c.reward_layers, c.discount_layers, c.actor_layers, c.value_layers),
        bins=c.bins,
        unimix=c.unimix,
        min_std=c.actor_min_std,
        act=c.act,
        chunk_size=chunk_size,
    )


def behavior_config(config: Config) -> BehaviorConfig:
    """How actor and critic learn."""
    c = config
    return BehaviorConfig(c.imag_horizon, c.discount_lambda, c.slow_target_fraction, c.return_rate)


def kept_rows(config: Config) -> int:
    """How many rows' latents there is room for: a few more than the replay comes to hold.

    Between two episodes a number is left out, and each has a row before its first step.
    """
    c = config
    length = -(-c.time_limit // c.action_repeat)
    steps = max(c.steps // c.action_repeat, c.prefill) + c.envs * length
    if c.offline_traindir:
        steps += count_rows(expand_path(c.offline_traindir, "offline_traindir"))
    # Short episodes have more rows and numbers beside their steps: a quarter more, if of 8 steps.
    more = 1.25 if ends_early(c.task) else 1 + 2 / length
    return int(more * min(steps, c.dataset_size or steps)) + 1000
