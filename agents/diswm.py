"""DisWM and DreamerV2: an agent that learns in imagination, with or without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents import reports
from agents.adaptive_beta import make_controllers
from agents.base import Agent, Batch, Learner, Metrics, Obs, Spaces, State, Taken
from agents.learner import GradientLearner
from agents.model_configs import behavior_config, check_networks, world_model_config
from agents.optimizer import Optimizer
from agents.policy import RecurrentPolicy
from agents.predictor import Predictor, compile_model, latent_means, log_names
from agents.pretrained import find_predictor, load_predictor
from behavior import ActorCritic, ImagineNoise, frozen
from config import Config
from fileio.checkpoints import misfit
from heads import ActionHead
from models import (
    TEACHER_LOGVAR,
    TEACHER_MEAN,
    FilterNoise,
    LossScales,
    VideoPredictor,
    WorldModel,
)
from networks import BetaVAEEncoder
from replay.episodes import Columns
from tools import UserError, expand_path, print_safe

TEACHER = "world_model.teacher."


class AgentNoise(NamedTuple):
    """What an update draws with."""

    filter: FilterNoise
    imagine: ImagineNoise


class DisWM(GradientLearner, Agent):
    """DisWM (arXiv 2503.08751); DreamerV2 (arXiv 2010.02193) where β-VAE and distillation are off.

    The arguments are those of every agent (`agents/base.py`).
    """

    name = "diswm"
    has_latent = True
    sees_vectors = True
    pretrainer: ClassVar[type[Learner] | None] = Predictor
    policy_class: ClassVar[type[RecurrentPolicy]] = RecurrentPolicy

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        check_actor(config, spaces)
        super().__init__(config, runtime)
        size, chunk_size = spaces.action_size, runtime.image_chunk
        self.vector_size = spaces.vector_size
        teacher = None if source is None else load_predictor(config, chunk_size)
        self.world_model = self.make_world_model(size, teacher).to(self.device)
        feat_size = self.world_model.rssm.feat_size
        behavior = behavior_config(config, spaces.discrete)
        self.behavior = ActorCritic(behavior, feat_size, size).to(self.device)
        c, b = config, self.behavior
        self.optimizers = {
            "model": Optimizer("model", self.world_model.parameters(), c, c.model_lr, c.grad_clip),
            "actor": Optimizer("actor", b.actor.parameters(), c, c.actor_lr, c.actor_grad_clip),
            "value": Optimizer("value", b.value.parameters(), c, c.value_lr, c.value_grad_clip),
        }
        self.controllers = make_controllers(config, self.device)
        self.policy = self.policy_class(config, runtime, self.world_model, self.behavior)
        if runtime.compile:
            compile_model(self.world_model)
            compile_methods(b, "imagine_steps", "targets", "actor_loss", "value_loss")

    def make_world_model(self, size: int, teacher: VideoPredictor | None) -> WorldModel:
        """The world model for actions of that size."""
        chunk_size = self.runtime.image_chunk
        return WorldModel(
            world_model_config(self.config, chunk_size, self.vector_size), size, teacher
        )

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks what β-VAE and teacher need."""
        check_networks(config)
        if config.traverse and not config.beta_vae:
            raise UserError("--traverse True draws the β-VAE's latents: add --beta_vae True")
        source, given = cls.find_source(config), config.pretrain_checkpoint_path
        if source is not None and source != expand_path(given, "pretrain_checkpoint_path"):
            print_safe(f"note: {given} has no encoder.pt; its newest is {source}'s")
        if not (config.beta_vae or config.distillation):
            print_safe("note: diswm without --beta_vae True and --distillation True is DreamerV2")

    @classmethod
    def find_source(cls, config: Config) -> Path | None:
        """The teacher's folder, with distillation."""
        return find_predictor(config.pretrain_checkpoint_path) if config.distillation else None

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions: ``train`` samples, ``eval`` takes the actor's mode."""
        return self.policy(obs, state, mode)

    def sync(self) -> None:
        """From here on, actions know of all updates so far; see `RecurrentPolicy`."""
        self.policy.sync()

    def latent(self, images: np.ndarray) -> np.ndarray | None:
        """The means of its own β-VAE's latent."""
        return latent_means(self.world_model, images)

    def columns(self) -> Columns | None:
        """What a frozen teacher's β-VAE says of each image: mean and log variance of its latent."""
        model = self.world_model
        if model.teacher is None or model.train_teacher:
            return None
        encoder = model.teacher.encoder
        if not isinstance(encoder, BetaVAEEncoder):
            return None  # a CNN's embedding would take a third of the image's memory

        def compute(image: np.ndarray) -> dict[str, np.ndarray]:
            found = encoder.statistics(torch.from_numpy(image))
            names = (TEACHER_MEAN, TEACHER_LOGVAR)
            return {k: v.cpu().numpy() for k, v in zip(names, found, strict=True)}

        row = (encoder.embed_size,), np.float32
        return Columns({TEACHER_MEAN: row, TEACHER_LOGVAR: row}, compute)

    def draw_noise(self, batch: int, length: int) -> AgentNoise:
        imagine = self.behavior.draw_noise(self.world_model, batch * length)
        return AgentNoise(self.world_model.draw_noise(batch, length), imagine)

    def before_update(self) -> None:
        """Moves the slow critic when it is time."""
        if self.updates % self.config.slow_target_update == 0:
            self.behavior.update_slow_target()

    def compute(self, batch: Batch, scales: LossScales, noise: AgentNoise) -> Metrics:
        """One update of world model, actor and critic."""
        with self.autocast():
            outputs = self.world_model.terms(batch, scales, noise.filter)
            loss = self.world_model.loss(outputs.terms, scales)
        metrics = self.optimizers["model"].step(loss)
        metrics |= outputs.metrics | log_names(outputs.terms, scales)
        skip = metrics["skipped_model"]
        discount = None if self.world_model.discount is None else batch["discount"]
        return metrics | self._learn_behavior(outputs.post, scales, noise.imagine, discount, skip)

    def _learn_behavior(
        self,
        post: State,
        scales: LossScales,
        noise: ImagineNoise,
        discount: Tensor | None = None,
        skip: Tensor | None = None,
    ) -> Metrics:
        """Actor and critic learn from every row of a batch; ``discount`` [B, T] is its own."""
        model, behavior = self.world_model, self.behavior
        start = {k: v.detach().flatten(0, 1) for k, v in post.items()}
        first = None if discount is None else discount.flatten()
        # Gradients pass through the model and the critic to the actions, and stop nowhere else.
        with frozen([*model.parameters(), *behavior.value.parameters()]), self.autocast():
            imagined = behavior.rollout(model, start, noise)
            for_actor, for_value, cumulative, reward = behavior.targets(
                model, imagined, scales, first
            )
            actor_loss = behavior.actor_loss(model, imagined, for_actor, cumulative, scales)
        with self.autocast():
            value_loss = behavior.value_loss(imagined.feat, for_value, cumulative)
        metrics = self.optimizers["actor"].step(actor_loss, skip)
        metrics |= self.optimizers["value"].step(value_loss, metrics["skipped_actor"])
        metrics |= {
            "reward_mean": reward.detach().mean(),
            "reward_std": reward.detach().std(),
            "actor_ent": imagined.entropy.detach().mean(),
            "target_mean": for_value.detach().mean(),
            "actor_entropy_scale": scales["actor_entropy"],
        }
        if behavior.config.gradient == "both":
            metrics["imag_gradient_mix"] = scales["imag_gradient_mix"]
        return metrics

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag."""
        model, data = self.world_model, self.prepare(batch)
        pictures = reports.draw(model, data, self.config.traverse and self.config.beta_vae)
        if model.teacher is not None and model.teacher.complete:
            pictures["teacher_openl"] = reports.named_open_loop(model.teacher, data)
        return pictures

    def save_state(self) -> dict[str, Any]:
        """Everything it is, its teacher too."""
        return {**super().save_state(), "policy": self.policy.save_state()}

    def init_from(self, state: Mapping[str, Any]) -> Taken:
        """Takes the weights, but no teacher: that is the one it was made with, if any."""
        taken = super().init_from({**state, "weights": _without_teacher(state["weights"])})
        return taken._replace(fresh=[name for name in taken.fresh if not name.startswith(TEACHER)])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned.

        The teacher is the state's own. One that only acts has none, and needs none.

        Raises:
            ValueError: a tensor is missing or of another shape.
            UserError: the teacher that was given is another one than the state's.
        """
        weights, teacher = state["weights"], self.world_model.teacher
        if teacher is None:
            own = _without_teacher(weights)
            if len(own) < len(weights):  # it only acts, and one of them may hold the teacher's
                weights, self.optimizers = own, {}
        else:
            self._check_teacher(teacher, weights)
        super().load_state({**state, "weights": weights})
        self.policy.load_state(state["policy"])

    def _check_teacher(self, teacher: VideoPredictor, weights: Mapping[str, Tensor]) -> None:
        given, own = self.config.pretrain_checkpoint_path, teacher.state_dict()
        saved = {k.removeprefix(TEACHER): v for k, v in weights.items() if k.startswith(TEACHER)}
        if misfit(saved, own):
            raise UserError(
                f"--pretrain_checkpoint_path {given} holds another predictor than the one that "
                "this run learns from: give that, or begin again in another --logdir"
            )
        if self.world_model.train_teacher:
            return  # it has moved away from the files
        learned = [name for name in own if name.startswith("encoder.")]
        if not all(torch.equal(own[name].cpu(), saved[name]) for name in learned):
            what = f"{given} holds another predictor by now: the run goes on with its own"
            print_safe(f"warning: {what}")


class DreamerV2(DisWM):
    """DreamerV2: DisWM without β-VAE and teacher."""

    name = "dreamerv2"

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuses what makes DisWM of it."""
        check_networks(config)
        for name in ("beta_vae", "distillation", "traverse"):
            if config[name]:
                raise UserError(
                    f"--method_name dreamerv2 is the agent without β-VAE and teacher: leave out "
                    f"--{name} True, or use --method_name diswm"
                )


def _without_teacher(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(TEACHER)}


def check_actor(config: Config, spaces: Spaces) -> None:
    """Checks that the actor's distribution fits the environment's actions.

    Raises:
        UserError: it does not.
    """
    fitting = ActionHead.DISCRETE if spaces.discrete else ActionHead.CONTINUOUS
    if config.actor_dist not in ("auto", *fitting):
        raise UserError(
            f"--actor_dist {config.actor_dist} does not fit the {spaces.kind} actions of "
            f"{config.task}: leave it out, or give {' or '.join(fitting)}"
        )
    for flag in ("expl_amount", "eval_noise"):
        if spaces.discrete and config[flag] > 1:
            raise UserError(
                f"--{flag} {config[flag]}: for discrete actions it is the share of uniform "
                "choices: give 1 or less"
            )
    relaxed = config.actor_dist == "onehot_gumble"
    if spaces.discrete and config.imag_gradient == "dynamics" and not relaxed:
        print_safe("note: discrete actors learn better with --imag_gradient reinforce")
