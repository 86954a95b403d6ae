"""TD-MPC2 from pixels: plans in the latent space of a model that draws no images.

Hansen et al. 2024 (arXiv 2310.16828). Encoder, dynamics, reward and action values learn together;
a policy learns from the action values, proposes plans and ends them.

Symbols in shapes: B batch, T time (rows), H horizon, N environments, S frames of an observation,
C channels, Q action-value networks, L latent, A action, U units.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.compiling import compile_methods
from accel.fallback import Accelerated
from accel.runtime import Runtime
from agents.base import Agent, Batch, Metrics, Obs, Spaces, State
from agents.learner import GradientLearner
from agents.optimizer import Optimizer
from baselines import pictures
from baselines.augment import Crops, join
from baselines.mppi import MPPI, PlanNoise, check_plans
from baselines.networks import move
from baselines.pixels import MODEL_UNREAD, refuse_discrete, refuse_others
from baselines.stacking import Steps, frames_at, push, steps_from
from baselines.tdmpc2_networks import Encoder, TwoHot, World, latent_size, least_side
from behavior import frozen
from config import Config, key
from models import LossScales
from replay.sampler import Windows
from tools import UserError

POLICY_EPS = 1e-5  # Adam's ε for the policy; the model has --opt_eps
MANY_ACTIONS, MORE_ITERATIONS = 20, 2  # so many actions are planned with so many more iterations
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Keys:
    """TD-MPC2's keys; learning rates are --model_lr and --actor_lr."""

    frame_stack: int = key(3, "frames that are seen at once", at_least=1)
    crop_pad: int = key(3, "pixels by which images are shifted at most", at_least=0)
    num_channels: int = key(32, "channels of the encoder's convolutions", above=0)
    mlp_dim: int = key(512, "units of all other hidden layers", above=0)
    simnorm_dim: int = key(8, "numbers of a latent that sum to 1", at_least=2)
    num_q: int = key(5, "action-value networks", at_least=2)
    dropout: float = key(0.01, "share that is dropped in their first layer", at_least=0, below=1)
    num_bins: int = key(101, "bins of reward and action values", at_least=2)
    vmin: float = key(-10.0, "first bin, the symmetric logarithm of a value")
    vmax: float = key(10.0, "last bin, likewise")
    consistency_coef: str = key("20.0", "weight of the next latents' loss", schedule=True)
    reward_coef: str = key("0.1", "weight of the reward's loss", schedule=True)
    value_coef: str = key("0.1", "weight of the action values' loss", schedule=True)
    entropy_coef: str = key("1e-4", "weight of the policy's entropy", schedule=True)
    rho: float = key(0.5, "what a step's losses weigh of those of the step before", above=0)
    enc_lr_scale: float = key(0.3, "the encoder's learning rate as a share of --model_lr", above=0)
    tau: float = key(
        0.01, "how far target and scale of the action values move at a time", above=0, at_most=1
    )
    discount_denom: float = key(5.0, "γ is 1 − this ÷ the agent steps of an episode", above=0)
    discount_min: float = key(0.95, "and at least this", at_least=0, below=1)
    discount_max: float = key(0.995, "and at most this", at_least=0, below=1)
    horizon: int = key(3, "steps of a plan, and of what the model learns from", at_least=1)
    iterations: int = key(6, "of a plan; 2 more from 20 actions on", above=0, marks=["evaluate"])
    num_samples: int = key(512, "plans in each of them", above=0, marks=["evaluate"])
    num_elites: int = key(64, "the best of these, which count", above=0, marks=["evaluate"])
    num_pi_trajs: int = key(24, "those that the policy makes", at_least=0, marks=["evaluate"])
    min_std: float = key(0.05, "least standard deviation of planned actions", above=0)
    max_std: float = key(2.0, "largest one, and that of the beginning", above=0)
    temperature: float = key(0.5, "how much more plans of higher values count", at_least=0)


class TDMPC2Noise(NamedTuple):
    """What an update draws with.

    Attributes:
        crop: offsets of each observation's shift, int64 [H+1, B, 2].
        next_action: standard normal, [H, B, A].
        action: the same, [H+1, B, A].
        next_pair: the two target values whose smaller one counts, int64 [2].
        pair: the two action values that the policy learns from, int64 [2].
        dropout: what all action values keep of their first layer, bool [Q, H, B, U]; None if all.
        actor_dropout: the same of those two, bool [2, H+1, B, U].
    """

    crop: Tensor
    next_action: Tensor
    action: Tensor
    next_pair: Tensor
    pair: Tensor
    dropout: Tensor | None
    actor_dropout: Tensor | None


class TDMPC2(GradientLearner, Agent):
    """TD-MPC2; the arguments are those of every agent (`agents/base.py`)."""

    name = "tdmpc2"
    Keys = Keys
    kinds = frozenset({"continuous"})
    unread = MODEL_UNREAD | {"value_lr", "value_grad_clip"}
    scale: Tensor
    clips = 64  # their frames are what imagined latents are compared with

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        refuse_discrete(self, config, spaces)
        check_plans(config)  # they may be given where an agent only acts
        super().__init__(config.replace(discount=discount_of(config)), runtime)
        c, actions = self.config, spaces.action_size
        self.spaces, self.stack, self.horizon = spaces, c.frame_stack, c.horizon
        self.crops = Crops(spaces.image[:2], spaces.image[:2], c.crop_pad)
        encoder = Encoder(self.stack * spaces.image[2], spaces.image[:2], c.num_channels)
        two_hot = TwoHot(c.vmin, c.vmax, c.num_bins)
        self.world = World(encoder, actions, c.mlp_dim, two_hot, c.simnorm_dim, c.num_q, c.dropout)
        self.target = copy.deepcopy(self.world.q).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))  # of the action values
        self.to(self.device)
        self.optimizers = self.make_optimizers()
        same = {field.name for field in dataclasses.fields(MPPI)} - {"iterations"}
        more = MORE_ITERATIONS if actions >= MANY_ACTIONS else 0
        values = {name: c[name] for name in same}
        self.planner = MPPI(iterations=c.iterations + more, **values)
        # Each with a recording of its own: what they are given differs.
        self._plans = {
            mode: Accelerated(self._plan, runtime, "a plan") for mode in ("train", "eval")
        }
        if runtime.compile:
            compile_methods(self, "target_value", "model_loss", "actor_loss")
            compile_methods(self.planner, "improve")

    def make_optimizers(self) -> dict[str, Optimizer]:
        """One for the model, whose encoder learns more slowly, and one for the policy."""
        c, world = self.config, self.world
        slow = list(world.encoder.parameters())
        others = (world.dynamics, world.norm, world.reward, world.q)
        rest = [parameter for module in others for parameter in module.parameters()]
        model = [{"params": rest}, {"params": slow, "lr": c.enc_lr_scale * c.model_lr}]
        policy = [{"params": list(world.policy.parameters()), "eps": POLICY_EPS}]
        return {
            "model": Optimizer("model", model, c, c.model_lr, c.grad_clip),
            "actor": Optimizer("actor", policy, c, c.actor_lr, c.actor_grad_clip),
        }

    # What a configuration comes to

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks sizes, and refuses what other agents have.

        Raises:
            UserError: one line that names the flag and the mend.
        """
        refuse_others(cls.name, config)
        c = config
        if "discount" in c.overrides:
            raise UserError(
                f"--discount {c.discount}: tdmpc2 takes γ from the length of an episode: give "
                "--discount_min and --discount_max, both the same for a γ of your own"
            )
        size, least = " ".join(map(str, c.size)), least_side()
        if min(c.size) < least:
            raise UserError(
                f"--size {size}: the encoder's convolutions leave nothing of it: give "
                f"{least} {least} or more"
            )
        latent = latent_size(c.size, c.num_channels)
        if latent % c.simnorm_dim:
            raise UserError(
                f"--simnorm_dim {c.simnorm_dim} does not divide the {latent} numbers of a latent "
                f"(--num_channels {c.num_channels}, --size {size}): give another one, such as "
                f"{math.gcd(latent, 8)}"
            )
        check_plans(c)
        least, most = c.discount_min, c.discount_max
        if least > most:
            raise UserError(
                f"--discount_min {least} is above --discount_max {most}: give less of it"
            )
        if c.vmin >= c.vmax:
            raise UserError(f"--vmin {c.vmin} must be below --vmax {c.vmax}: give less of it")

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """A stack of frames, and the steps behind it."""
        return Windows(config.frame_stack + config.horizon, config.frame_stack)

    # Acting

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions, planned: ``train`` adds noise of the plan's own, ``eval`` none."""
        inputs = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in obs.items()}
        inputs = {k: x.to(self.device, non_blocking=True) for k, x in inputs.items()}
        before = {} if state is None else state
        frames = push(before.get("frames"), inputs["image"], inputs["is_first"], self.stack)
        n, actions = len(frames), self.spaces.action_size
        mean = before.get("mean", torch.zeros(n, self.horizon, actions, device=self.device))
        noise = self.planner.draw(n, actions, self.config.num_q, mode == "train", self.device)
        given = {"frames": frames, "crop": self.crops.draw(n, self.device)}
        given["mean"] = self.planner.first_mean(mean, inputs["is_first"])
        given |= {name: value for name, value in noise._asdict().items() if value is not None}
        found = self._plans[mode](given)
        action = found["action"]
        amount = self.config.eval_noise if mode == "eval" else self.config.expl_amount
        if amount:
            action = (action + amount * torch.randn_like(action)).clamp(-1, 1)
        return action.float().cpu().numpy(), {"frames": frames, "mean": found["mean"]}

    @torch.no_grad()
    def _plan(self, inputs: State) -> State:
        noise = PlanNoise(**{k: inputs[k] for k in PlanNoise._fields if k in inputs})
        frames = inputs["frames"]
        rows = torch.arange(self.stack, device=self.device).expand(len(frames), -1)
        obs = self.to_input(self.crops.take(frames, rows, inputs["crop"]))
        # In float32: a single observation would have all weights cast for it.
        z = self.world.simnorm(self.world.encoder(obs))
        action, mean = self.planner.plan(self.world, z, inputs["mean"], noise)
        return {"action": action, "mean": mean}

    # Seeing

    def to_input(self, obs: Tensor) -> Tensor:
        """uint8 observations as the encoder sees them."""
        return obs.float() / 255 - 0.5

    def encode(self, obs: Tensor) -> Tensor:
        """Latents [N, L] of observations [N, S·C, H, W], in updates.

        The convolutions compute in the run's precision, all else in float32: returns need its
        digits.
        """
        with self.autocast():
            seen = self.world.encoder(obs)
        return self.world.simnorm(seen.to(obs.dtype))

    def look(self, batch: Batch, t: int, crop: Tensor | None = None) -> Tensor:
        """Observations t steps into a batch, [B, S·C, H, W]; not shifted without a ``crop``."""
        frames = frames_at(batch["is_first"], self.stack - 1 + t, self.stack)
        if crop is None:
            b = torch.arange(len(frames), device=self.device)[:, None]
            return self.to_input(join(batch["image"][b, frames]))
        return self.to_input(self.crops.take(batch["image"], frames, crop))

    # Updates

    def draw_noise(self, batch: int, length: int) -> TDMPC2Noise:
        c, h, device = self.config, self.horizon, self.device
        crop = self.crops.draw((h + 1) * batch, device).unflatten(0, (h + 1, batch))
        normal = [torch.randn(n, batch, self.spaces.action_size, device=device) for n in (h, h + 1)]
        pairs = torch.rand(2, c.num_q, device=device).argsort(-1)[:, :2]

        def kept(networks: int, steps: int) -> Tensor | None:
            if not c.dropout:
                return None
            shape = (networks, steps, batch, c.mlp_dim)
            return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(1 - c.dropout)

        masks = kept(c.num_q, h), kept(2, h + 1)
        return TDMPC2Noise(crop, normal[0], normal[1], pairs[0], pairs[1], *masks)

    def compute(self, batch: Batch, scales: LossScales, noise: TDMPC2Noise) -> Metrics:
        """One update of the model, of the policy, and of the target."""
        steps = steps_from(batch, self.stack, self.horizon)
        with torch.no_grad():  # a step at a time, before there is a graph: half the memory
            later = range(1, self.horizon + 1)
            next_z = torch.stack([self.encode(self.look(batch, t, noise.crop[t])) for t in later])
        z = self.encode(self.look(batch, 0, noise.crop[0]))
        target = self.target_value(next_z, steps, noise)
        parts, zs = self.model_loss(z, next_z, steps, target, noise)
        loss = sum((scales[f"{k}_coef"] * part for k, part in parts.items()), z.new_zeros(()))
        metrics = self.optimizers["model"].step(loss)
        with frozen(self.world.q.parameters()):
            loss, found = self.actor_loss(zs.detach(), steps, scales["entropy_coef"], noise)
        metrics |= self.optimizers["actor"].step(loss, metrics["skipped_model"])
        self.follow(found.pop("scale"))
        metrics |= {f"{name}_loss": part.detach() for name, part in parts.items()}
        metrics |= {"target_mean": target.mean(), "reward_mean": steps.reward.mean()}
        return metrics | {k: x.detach() for k, x in found.items()} | {"value_scale": +self.scale}

    @torch.no_grad()
    def target_value(self, next_z: Tensor, steps: Steps, noise: TDMPC2Noise) -> Tensor:
        """r + γ min Q'(z', a), a the policy's and Q' two of the target's; [H, B]."""
        action = self.world.act(next_z, noise.next_action)
        logits = self.target(next_z, action, which=noise.next_pair)
        return steps.reward + steps.discount * self.world.two_hot.decode(logits).amin(0)

    def model_loss(
        self, z: Tensor, next_z: Tensor, steps: Steps, target: Tensor, noise: TDMPC2Noise
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The model's losses by their names, and the latents of its rollout, [H+1, B, L].

        Args:
            z: the latents that the rollout begins with, [B, L].
            next_z: those of the observations behind it, [H, B, L].
            steps: what was done there, and earned.
            target: of the action values, [H, B].
            noise: of the update.
        """
        rollout = [z]
        for action in steps.action:
            rollout.append(self.world.next(rollout[-1], action))
        zs, loss = torch.stack(rollout), self.world.two_hot.loss
        values = self.world.q(zs[:-1], steps.action, noise.dropout)
        each = {
            "consistency": (zs[1:] - next_z).square().mean(-1),
            "reward": loss(self.world.reward(zs[:-1], steps.action), steps.reward),
            "value": loss(values, target).mean(0),
        }
        return {name: self.mean(value, steps.weight) for name, value in each.items()}, zs

    def actor_loss(
        self, zs: Tensor, steps: Steps, entropy_coef: Tensor, noise: TDMPC2Noise
    ) -> tuple[Tensor, Metrics]:
        """−(Q/S + coefficient · entropy), its mean; and the new S among what it found.

        The authors' entropy is that of the Gaussian before the tanh, times A: the tanh's slope
        cancels in their fraction.
        """
        action, log_std = self.world.policy(zs, noise.action)
        logits = self.world.q(zs, action, noise.actor_dropout, noise.pair)
        value = self.world.two_hot.decode(logits).mean(0)  # [H+1, B]
        with torch.no_grad():
            scale = torch.lerp(self.scale, spread(value[0]).clamp(min=1), self.config.tau)
            scale = torch.where(torch.isfinite(scale), scale, self.scale)
        log_prob = (-0.5 * noise.action.square() - log_std - _HALF_LOG_2PI).sum(-1)
        entropy = -self.spaces.action_size * log_prob
        weight = torch.cat([torch.ones_like(steps.weight[:1]), steps.weight])
        loss = -self.mean(value / scale + entropy_coef * entropy, weight)
        return loss, {"scale": scale, "actor_ent": -log_prob.mean(), "value_mean": value.mean()}

    def mean(self, values: Tensor, weight: Tensor) -> Tensor:
        """The mean over T of ρᵗ times the means over the batch, of values and weights [T, B]."""
        each = (values * weight).sum(1) / weight.sum(1).clamp(min=1)
        step = torch.arange(len(each), dtype=each.dtype, device=each.device)
        return (each * self.config.rho**step).mean()

    @torch.no_grad()
    def follow(self, scale: Tensor) -> None:
        """The target's action values move; the scale of the action values is ``scale``."""
        move(self.target, self.world.q, self.config.tau)
        self.scale.copy_(scale)

    # Pictures

    @torch.no_grad()
    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the model imagines, as the frames of the batch whose latents are the nearest."""
        data, h = self.prepare(batch), self.horizon
        steps = steps_from(data, self.stack, h)
        seen = torch.stack([self.encode(self.look(data, t)) for t in range(h + 1)])
        few = steps.weight.sum(0).argsort(descending=True, stable=True)[: pictures.CLIPS]
        rollout = [seen[0, few]]
        for action in steps.action[:, few]:
            rollout.append(self.world.next(rollout[-1], action))
        # Not by products: those lose the digits of small distances.
        distance = torch.cdist(
            torch.stack(rollout[1:]).flatten(0, 1),
            seen.flatten(0, 1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        nearest = distance.argmin(1)
        frames = data["image"][:, self.stack - 1 :].transpose(0, 1)  # [H+1, B, H, W, C]
        drawn = pictures.imagined(frames, few, nearest.unflatten(0, (h, len(few))))
        return {"nearest": drawn}


def discount_of(config: Config) -> float:
    """γ, by the agent steps of an episode (arXiv 2310.16828, appendix H)."""
    steps = -(-config.time_limit // config.action_repeat)
    return min(max(1 - config.discount_denom / steps, config.discount_min), config.discount_max)


def spread(values: Tensor) -> Tensor:
    """From the 5th percentile of values [B] to the 95th, linear between neighbours."""
    ordered, last = values.sort().values, len(values) - 1
    ends = []
    for share in (0.05, 0.95):
        below = math.floor(share * last)
        above = min(below + 1, last)
        ends.append(torch.lerp(ordered[below], ordered[above], share * last - below))
    return ends[1] - ends[0]
