"""Who acts and learns: the agent and the pretrainer.

An agent is ``act(obs, state, mode)``, ``update(batch)``, ``report(batch)``, ``state_dict()`` and
``load_state_dict()``; the loops know nothing more about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import reports
from accel.compiling import compile_methods
from accel.fallback import Accelerated
from accel.runtime import Runtime
from acting import Acting, ActState
from behavior import ActorCritic, frozen
from config import Config
from models import Terms, VideoPredictor, WorldModel
from optimizer import Metrics, Optimizer
from rssm import State
from tools import say, schedule

# The schedules of a run: the name inside a loss and the config key that says how it moves.
SCHEDULES = {
    "kl": "kl_scale",
    "kl_balance": "kl_balance",
    "kl_free": "kl_free",
    "beta_vae": "beta_vae_beta",
    "reward": "reward_scale",
    "discount": "discount_scale",
    "distill": "distill_scale",
    "actor_entropy": "actor_entropy",
    "actor_state_entropy": "actor_state_entropy",
    "imag_gradient_mix": "imag_gradient_mix",
}

# η falls over 45,000 agent steps; across domains it waits for 50,000 first.
DISTILL_SCHEDULES = {
    False: "linear(0.1,0.01,45000)",
    True: "delay(50000,linear(0.1,0.01,45000))",
}


class Learner(nn.Module):
    """What the agent and the pretrainer have in common.

    ``step`` is what the schedules follow (agent steps; updates while pretraining), set by the
    loop. ``updates`` counts updates. Subclasses say in :meth:`learn` what an update computes.
    """

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__()
        self.config, self.runtime = config, runtime
        self.device, self.dtype = runtime.device, runtime.dtype
        self.step = 0
        self.updates = 0
        eta = config.distill_scale
        self.schedules = {
            name: schedule(DISTILL_SCHEDULES[config.cross_domain])
            if name == "distill" and eta == "auto"
            else schedule(config[key])
            for name, key in SCHEDULES.items()
        }
        self.optimizers: dict[str, Optimizer] = {}
        self._learn = Accelerated(self.learn, runtime, "an update", self._tensors)

    def place(self, model: VideoPredictor) -> VideoPredictor:
        """A model and its teacher on the device, which take images in chunks that suit it."""
        for part in model.modules():
            if isinstance(part, VideoPredictor):
                part.encoder.rows = self.runtime.image_chunk
        return model.to(self.device)

    def update(self, batch: Mapping[str, np.ndarray | Tensor]) -> Metrics:
        """One update; the metrics stay on the device, and nothing waits for it.

        Args:
            batch: as for :meth:`prepare`.
        """
        data = self.prepare(batch)
        data |= self.noise(*data["is_first"].shape)
        data["weights"] = self._schedule_values()
        self.before_update()
        metrics = self._learn(data)
        self.updates += 1
        return metrics

    def learn(self, data: Terms) -> Metrics:
        """An update as a function of tensors: the prepared batch, noise, and ``weights``.

        It draws nothing, looks at no value, and changes parameters and moments in their places:
        so it can be recorded.
        """
        raise NotImplementedError

    def noise(self, batch: int, length: int) -> Terms:
        """All that an update draws with, made outside of it."""
        raise NotImplementedError

    def before_update(self) -> None:
        """What happens once in a while; a recorded update cannot hold it."""

    def _tensors(self) -> list[Tensor]:
        moments = [t for optimizer in self.optimizers.values() for t in optimizer.tensors()]
        return [*self.parameters(), *self.buffers(), *moments]

    def weights(self) -> Terms:
        """The schedules' values now: 0-d tensors on the device, one transfer in all."""
        return self._named_weights(self._schedule_values())

    def _schedule_values(self) -> Tensor:
        values = [schedule(self.step) for schedule in self.schedules.values()]
        pinned = self.device.type == "cuda"  # a copy from other memory may wait for the device
        values = torch.tensor([1.0, *values], dtype=torch.float32, pin_memory=pinned)
        return values.to(self.device, non_blocking=True)

    def _named_weights(self, values: Tensor) -> Terms:
        return dict(zip(["image", *self.schedules], values.unbind(), strict=True))

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 where the run computes in it; losses stay in float32."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def prepare(self, batch: Mapping[str, np.ndarray]) -> Terms:
        """A sampled batch → tensors on the device; images stay uint8, rewards are clipped.

        Args:
            batch: ``image`` uint8 [B, T, H, W, C], ``is_first`` bool [B, T] and, for an agent,
                ``action`` [B, T, A], ``reward`` and ``discount`` [B, T]: arrays, or tensors.
        """
        data = {
            name: torch.as_tensor(value).to(self.device, non_blocking=True)
            for name, value in batch.items()
        }
        if "reward" in data and self.config.clip_rewards != "identity":
            data["reward"] = getattr(torch, self.config.clip_rewards)(data["reward"])
        if "discount" in data:
            data["discount"] = data["discount"] * self.config.discount
        return data

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Weights, optimisers, step and count of updates."""
        return {
            "weights": super().state_dict(*args, **kwargs),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "step": self.step,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # type: ignore[override]
        super().load_state_dict(state["weights"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._learn.reset()
        self.step, self.updates = state["step"], state["updates"]


def named(terms: Terms, weights: Terms) -> Metrics:
    """Each term under its own name, and the weights that move."""
    names = {"beta_vae": "beta_vae_kl_loss", "distill": "distillation_kl_loss"}
    metrics = {names.get(name, f"{name}_loss"): term.detach() for name, term in terms.items()}
    scales = {"kl": "kl_scale", "beta_vae": "beta", "distill": "eta"}
    metrics |= {scales[name]: weights[name] for name in scales if name in terms}
    return metrics | {name: weights[name] for name in ("kl_balance", "kl_free")}


def compile_model(model: VideoPredictor) -> None:
    """Compiles the parts of a model's loss: of the scan a few steps, which all of them share."""
    say("note: the first update compiles its steps, for a minute or more")
    compile_methods(model, "encode", "image_nll", "kl_term")
    compile_methods(model.rssm, "filter_steps", "prior_of")
    if isinstance(model, WorldModel):
        compile_methods(model, "head_term")
        if model.teacher is not None:
            compile_methods(model.teacher, "encode")


class Pretrainer(Learner):
    """Learns a video predictor from frames alone."""

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__(config, runtime)
        self.model = self.place(VideoPredictor(config, config.pretrain_action_num))
        self.optimizers["model"] = Optimizer(
            "model", self.model.parameters(), config, config.model_lr, config.grad_clip
        )
        if runtime.compile:
            compile_model(self.model)

    def noise(self, batch: int, length: int) -> Terms:
        return self.model.noise(batch, length)

    def learn(self, data: Terms) -> Metrics:
        """One update of the predictor."""
        weights = self._named_weights(data["weights"])
        with self.autocast():
            outputs = self.model.terms(data, weights)
            loss = self.model.loss(outputs.terms, weights)
        metrics = self.optimizers["model"].step(loss)
        return metrics | outputs.metrics | named(outputs.terms, weights)

    def report(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag."""
        data = self.prepare(batch)
        pictures = {
            "openl": reports.open_loop(self.model, data),
            "reconstruction": reports.reconstruction(self.model, data),
        }
        if self.config.beta_vae:
            pictures["beta_vae_traverse"] = reports.traversal(self.model, data)
        return pictures


class Agent(Learner):
    """DisWM, and DreamerV2 where β-VAE and distillation are off.

    Args:
        config: the run's configuration.
        runtime: where and how it computes.
        actions: size of the action vector.
        teacher: the pretrained predictor; needed with ``--distillation True``.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        actions: int,
        teacher: VideoPredictor | None = None,
    ):
        super().__init__(config, runtime)
        self.num_actions = actions
        self.world_model = self.place(WorldModel(config, actions, teacher))
        feat = self.world_model.rssm.feat_size
        self.behavior = ActorCritic(config, feat, actions).to(self.device)
        c, b = config, self.behavior
        self.optimizers = {
            "model": Optimizer("model", self.world_model.parameters(), c, c.model_lr, c.grad_clip),
            "actor": Optimizer("actor", b.actor.parameters(), c, c.actor_lr, c.actor_grad_clip),
            "value": Optimizer("value", b.value.parameters(), c, c.value_lr, c.value_grad_clip),
        }
        self.acting = Acting(config, runtime, self.world_model, self.behavior)
        if runtime.compile:  # not before there is a copy that acts, which is not to be compiled
            compile_model(self.world_model)
            compile_methods(b, "dream_steps", "targets", "actor_loss", "value_loss")

    def initial(self, batch: int) -> ActState:
        """The recurrent state of ``batch`` environments before their first observation."""
        return self.acting.initial(batch)

    def act(
        self, obs: Mapping[str, np.ndarray], state: ActState | None, mode: str = "train"
    ) -> tuple[np.ndarray, ActState]:
        """The next actions.

        Args:
            obs: ``image`` uint8 [N, H, W, C] and ``is_first`` bool [N].
            state: what the last call returned; None at the start.
            mode: ``train`` samples, ``eval`` takes the actor's mode.

        Returns:
            Actions float32 [N, A], and the recurrent state.
        """
        return self.acting(obs, state, mode)

    def refresh(self) -> None:
        """From here on, actions know of all updates so far; see `Acting`."""
        self.acting.refresh()

    def noise(self, batch: int, length: int) -> Terms:
        starts = batch * (length - self.config.pred_discount)
        noise = self.behavior.noise(self.world_model, starts)
        return self.world_model.noise(batch, length) | noise

    def before_update(self) -> None:
        """Moves the slow critic when it is time."""
        if self.updates % self.config.slow_target_update == 0:
            self.behavior.update_slow_target()

    def learn(self, data: Terms) -> Metrics:
        """One update of world model, actor and critic."""
        weights = self._named_weights(data["weights"])
        with self.autocast():
            outputs = self.world_model.terms(data, weights)
            loss = self.world_model.loss(outputs.terms, weights)
        metrics = self.optimizers["model"].step(loss)
        metrics |= outputs.metrics | named(outputs.terms, weights)
        skip = metrics["skipped_model"]
        return metrics | self._learn_behavior(outputs.post, data, weights, skip)

    def _learn_behavior(
        self, post: State, noise: Terms, weights: Terms, skip: Tensor | None = None
    ) -> Metrics:
        c, model, behavior = self.config, self.world_model, self.behavior
        rows = slice(None, -1) if c.pred_discount else slice(None)  # the last row may be terminal
        start = {k: v[:, rows].detach().flatten(0, 1) for k, v in post.items()}
        # Gradients pass through the model and the critic to the actions, and stop nowhere else.
        with frozen([*model.parameters(), *behavior.value.parameters()]), self.autocast():
            dream = behavior.imagine(model, start, noise)
            for_actor, for_value, cumulative, reward = behavior.targets(model, dream, weights)
            actor_loss = behavior.actor_loss(model, dream, for_actor, cumulative, weights)
        with self.autocast():
            value_loss = behavior.value_loss(dream.feat, for_value, cumulative)
        metrics = self.optimizers["actor"].step(actor_loss, skip)
        metrics |= self.optimizers["value"].step(value_loss, metrics["skipped_actor"])
        metrics |= {
            "reward_mean": reward.detach().mean(),
            "reward_std": reward.detach().std(),
            "actor_ent": dream.entropy.detach().mean(),
            "target_mean": for_value.detach().mean(),
            "actor_entropy_scale": weights["actor_entropy"],
        }
        if c.imag_gradient == "both":
            metrics["imag_gradient_mix"] = weights["imag_gradient_mix"]
        return metrics

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().state_dict(*args, **kwargs), "acting": self.acting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # type: ignore[override]
        super().load_state_dict(state)
        self.acting.load_state_dict(state.get("acting"))

    def report(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag."""
        data, model = self.prepare(batch), self.world_model
        pictures = {
            "openl": reports.open_loop(model, data),
            "reconstruction": reports.reconstruction(model, data),
        }
        if self.config.traverse and self.config.beta_vae:
            pictures["beta_vae_traverse"] = reports.traversal(model, data)
        if model.teacher is not None and model.teacher.complete:
            pictures["teacher_openl"] = reports.open_loop(model.teacher, data)
        return pictures
