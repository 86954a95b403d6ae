"""Who acts and learns: the agent, the pretrainer, and the optimiser that they share.

An agent is ``act(obs, state, mode)``, ``update(batch)``, ``report(batch)``, ``state_dict()`` and
``load_state_dict()``; the loops know nothing more about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import networks
import reports
from behavior import ActorCritic, frozen
from config import Config
from models import Terms, VideoPredictor, WorldModel, float_image
from rssm import State
from tools import schedule

ActState = dict[str, Tensor]
Metrics = dict[str, Tensor]

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


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products and convolutions under ``--precision``."""
    if precision == "32":
        return torch.float32
    if precision in ("16", "bf16"):
        return torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = (
            torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return torch.bfloat16 if native else torch.float32


class Optimizer:
    """Adam (or another) over named parameters, with the gradient's norm clipped."""

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        config: Config,
        lr: float,
        clip: float,
    ):
        self.name, self.clip = name, clip
        self.parameters = [p for p in parameters if p.requires_grad]
        eps, decay = config.opt_eps, config.weight_decay
        # AdamW without decay is Adam; with it, the decay does not pass through the moments.
        make = {
            "adam": lambda p: torch.optim.AdamW(p, lr, eps=eps, weight_decay=decay, fused=True),
            "adamax": lambda p: torch.optim.Adamax(p, lr, eps=eps, weight_decay=decay),
            "sgd": lambda p: torch.optim.SGD(p, lr, weight_decay=decay),
            "momentum": lambda p: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=decay),
        }[config.opt]
        self.optimizer = make(self.parameters)

    def step(self, loss: Tensor) -> Metrics:
        """One step down the gradient of ``loss``; returns the loss and the norm before the clip."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return {f"{self.name}_loss": loss.detach(), f"{self.name}_grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class Learner(nn.Module):
    """What the agent and the pretrainer have in common.

    ``step`` is what the schedules follow (agent steps; updates while pretraining), set by the
    loop. ``updates`` counts updates.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.device = torch.device(config.device)
        self.dtype = compute_dtype(config.precision, self.device)
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

    def weights(self) -> Terms:
        """The schedules' values now: 0-d tensors on the device, one transfer in all."""
        values = [schedule(self.step) for schedule in self.schedules.values()]
        tensor = torch.tensor([1.0, *values], dtype=torch.float32).to(self.device)
        return dict(zip(["image", *self.schedules], tensor.unbind(), strict=True))

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 where the run computes in it; losses stay in float32."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def prepare(self, batch: Mapping[str, np.ndarray]) -> Terms:
        """A sampled batch → tensors on the device; images become float there, rewards clipped.

        Args:
            batch: ``image`` uint8 [B, T, H, W, C], ``is_first`` bool [B, T] and, for an agent,
                ``action`` [B, T, A], ``reward`` and ``discount`` [B, T].
        """
        data = {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device, non_blocking=True)
            for name, value in batch.items()
        }
        data["image"] = float_image(data["image"])
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
        self.step, self.updates = state["step"], state["updates"]


def named(terms: Terms, weights: Terms) -> Metrics:
    """Each term under its own name, and the weights that move."""
    names = {"beta_vae": "beta_vae_kl_loss", "distill": "distillation_kl_loss"}
    metrics = {names.get(name, f"{name}_loss"): term.detach() for name, term in terms.items()}
    scales = {"kl": "kl_scale", "beta_vae": "beta", "distill": "eta"}
    metrics |= {scales[name]: weights[name] for name in scales if name in terms}
    return metrics | {name: weights[name] for name in ("kl_balance", "kl_free")}


class Pretrainer(Learner):
    """Learns a video predictor from frames alone."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.model = VideoPredictor(config, config.pretrain_action_num).to(self.device)
        self.optimizers["model"] = Optimizer(
            "model", self.model.parameters(), config, config.model_lr, config.grad_clip
        )

    def update(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """One update; the metrics stay on the device."""
        data, weights = self.prepare(batch), self.weights()
        with self.autocast():
            outputs = self.model.terms(data, weights)
            loss = self.model.loss(outputs.terms, weights)
        metrics = self.optimizers["model"].step(loss)
        self.updates += 1
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
        actions: size of the action vector.
        teacher: the pretrained predictor; needed with ``--distillation True``.
    """

    def __init__(self, config: Config, actions: int, teacher: VideoPredictor | None = None):
        super().__init__(config)
        self.num_actions = actions
        self.world_model = WorldModel(config, actions, teacher).to(self.device)
        feat = self.world_model.rssm.feat_size
        self.behavior = ActorCritic(config, feat, actions).to(self.device)
        c, b = config, self.behavior
        self.optimizers = {
            "model": Optimizer("model", self.world_model.parameters(), c, c.model_lr, c.grad_clip),
            "actor": Optimizer("actor", b.actor.parameters(), c, c.actor_lr, c.actor_grad_clip),
            "value": Optimizer("value", b.value.parameters(), c, c.value_lr, c.value_grad_clip),
        }

    def initial(self, batch: int) -> ActState:
        """The recurrent state of ``batch`` environments before their first observation."""
        action = torch.zeros(batch, self.num_actions, device=self.device)
        return {**self.world_model.rssm.initial(batch), "action": action}

    @torch.no_grad()
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
        c, rssm = self.config, self.world_model.rssm
        state = self.initial(len(obs["image"])) if state is None else state
        image = float_image(torch.from_numpy(np.ascontiguousarray(obs["image"])).to(self.device))
        is_first = torch.from_numpy(np.asarray(obs["is_first"])).to(self.device)
        with self.autocast():
            encoding = self.world_model.encode(image[:, None], sample=not c.eval_state_mean)
            prev = {name: state[name] for name in ("stoch", "deter")}
            previous_action = self.world_model.pad_action(state["action"])
            sample = c.collect_dyn_sample and not c.eval_state_mean
            latent = rssm.obs_step(prev, previous_action, encoding.embed[:, 0], is_first, sample)
            action = self._choose(rssm.get_feat(latent), mode)
        return action.float().cpu().numpy(), {**latent, "action": action}

    def _choose(self, feat: Tensor, mode: str) -> Tensor:
        c = self.config
        actor = self.behavior.actor(feat)
        action = actor.mode() if mode == "eval" else actor.rsample()
        noise = c.eval_noise if mode == "eval" else c.expl_amount
        if not noise:
            return action
        if c.actor_dist in networks.ActionHead.DISCRETE:
            probs = noise / self.num_actions + (1 - noise) * action
            index = torch.multinomial(probs, 1)[:, 0]
            return nn.functional.one_hot(index, self.num_actions).float()
        return (action + noise * torch.randn_like(action)).clamp(-1, 1)

    def update(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """One update of world model, actor and critic; the metrics stay on the device."""
        data, weights = self.prepare(batch), self.weights()
        with self.autocast():
            outputs = self.world_model.terms(data, weights)
            loss = self.world_model.loss(outputs.terms, weights)
        metrics = self.optimizers["model"].step(loss)
        metrics |= outputs.metrics | named(outputs.terms, weights)
        metrics |= self._update_behavior(outputs.post, weights)
        self.updates += 1
        return metrics

    def _update_behavior(self, post: State, weights: Terms) -> Metrics:
        c, model, behavior = self.config, self.world_model, self.behavior
        if self.updates % c.slow_target_update == 0:
            behavior.update_slow_target()
        rows = slice(None, -1) if c.pred_discount else slice(None)  # the last row may be terminal
        start = {k: v[:, rows].detach().flatten(0, 1) for k, v in post.items()}
        # Gradients pass through the model and the critic to the actions, and stop nowhere else.
        with frozen([*model.parameters(), *behavior.value.parameters()]), self.autocast():
            dream = behavior.imagine(model, start)
            for_actor, for_value, cumulative, reward = behavior.targets(model, dream, weights)
            actor_loss = behavior.actor_loss(model, dream, for_actor, cumulative, weights)
        with self.autocast():
            value_loss = behavior.value_loss(dream.feat, for_value, cumulative)
        metrics = self.optimizers["actor"].step(actor_loss)
        metrics |= self.optimizers["value"].step(value_loss)
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
