"""The policy in the environments: encoder, RSSM and actor, one step at a time."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from accel.fallback import Accelerated
from accel.runtime import Runtime
from agents.base import Obs, State
from behavior import ActorCritic
from config import Config
from heads import ActionHead
from models import WorldModel


class RecurrentPolicy:
    """Acts with the learner's weights, or with a copy that is one update older.

    Args:
        config: the run's configuration.
        runtime: where and how it computes; nothing is compiled here.
        world_model: whose encoder and RSSM see.
        behavior: whose actor acts.

    It computes in float32, whatever updates compute in: casting the weights anew for a few images
    costs more than it saves.

    With ``--overlap`` the actions of training come from a copy of the weights that
    :meth:`sync` takes, so that the environments need not wait for an update; on a GPU they are
    then computed on a stream of their own. Evaluation always acts with the learner's weights.

    Attributes:
        carried: what of a step's state the next step reads.
    """

    carried: ClassVar[tuple[str, ...]] = ("stoch", "deter", "action")

    def __init__(
        self, config: Config, runtime: Runtime, world_model: WorldModel, behavior: ActorCritic
    ):
        self.config = config
        self.device = runtime.device
        self.actions = behavior.actor.actions
        self._live = self.parts(world_model, behavior)
        self._pad, self._copy, self._stream = world_model.pad_action, None, None
        if runtime.overlap:
            self._copy = nn.ModuleList(copy.deepcopy(part) for part in self._live)
            self._copy.requires_grad_(False)
            if self.device.type == "cuda":
                self._stream = torch.cuda.Stream(self.device)
                self._wait()
        runtime = dataclasses.replace(runtime, compile=False)
        self._steps = {
            mode: Accelerated(self._step(mode), runtime, "a policy's step")
            for mode in ("train", "eval")
        }

    def parts(self, world_model: Any, behavior: ActorCritic) -> tuple[Any, ...]:
        """The modules that act: encoder, RSSM, actor, and what else there is beside them."""
        vector = getattr(world_model, "vector", None)
        beside = () if vector is None else (vector,)
        return world_model.encoder, world_model.rssm, behavior.actor, *beside

    @torch.no_grad()
    def sync(self) -> None:
        """Copies the learner's weights, where a copy acts, and its norms' running statistics."""
        if self._copy is None:
            return
        live: list[Tensor] = [p for part in self._live for p in part.parameters()]
        live += [b for part in self._live for b in part.buffers()]
        torch._foreach_copy_([*self._copy.parameters(), *self._copy.buffers()], live)
        self._wait()

    def _wait(self) -> None:
        """What is acted from here on comes behind what the device has been given so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def save_state(self) -> dict[str, Any] | None:
        """The copy's weights, if there is one."""
        return None if self._copy is None else self._copy.state_dict()

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes up the copy's weights; where none were kept, those of the learner."""
        if self._copy is not None and state is not None:
            self._copy.load_state_dict(state)
            self._wait()
        else:
            self.sync()

    def initial(self, batch: int) -> State:
        """The recurrent state of ``batch`` environments before their first observation."""
        action = torch.zeros(batch, self.actions, device=self.device)
        return {**self._live[1].initial(batch), "action": action}

    @torch.no_grad()
    def __call__(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions; see `Agent.act`."""
        stream = self._stream if mode == "train" else None
        with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
            state = self.initial(len(obs["image"])) if state is None else state
            inputs = {name: torch.from_numpy(np.ascontiguousarray(obs[name])) for name in obs}
            inputs = {name: x.to(self.device, non_blocking=True) for name, x in inputs.items()}
            inputs |= {name: state[name] for name in self.carried}
            inputs |= self.draw_noise(len(obs["image"]), mode)
            latent = self._steps[mode](inputs)
            action = self._explore(latent.pop("action"), mode)
            return action.float().cpu().numpy(), {**latent, "action": action}

    def draw_noise(self, n: int, mode: str) -> State:
        """What the step draws with, made here: a recorded step draws nothing by itself."""
        c, (encoder, rssm, actor) = self.config, self._live[:3]
        noise = {}
        if not c.eval_state_mean:
            noise["embed_noise"] = encoder.draw_noise(n, 1)
        if c.collect_dyn_sample and not c.eval_state_mean:
            noise["latent_noise"] = rssm.draw_noise(n)
        if mode != "eval":
            noise["action_noise"] = actor.draw_noise(n)
        return {name: value for name, value in noise.items() if value is not None}

    def see(self, parts: Any, inputs: State) -> tuple[Tensor, State]:
        """What the RSSM is shown of an observation, and what else of the step is remembered.

        Args:
            parts: the modules that act.
            inputs: observation, state and noise, as the step has them.

        Returns:
            [N, E], and tensors [N, …] by their names.
        """
        embed = parts[0](inputs["image"][:, None], inputs.get("embed_noise")).embed[:, 0]
        if "vector" in inputs:
            embed = torch.cat([embed, parts[3](inputs["vector"])], -1)
        return embed, {}

    def _step(self, mode: str) -> Callable[[State], State]:
        copied = mode == "train" and self._copy is not None
        parts: Any = self._copy if copied else self._live
        rssm, actor = parts[1], parts[2]

        @torch.no_grad()
        def step(inputs: State) -> State:
            """Observation, state and noise → the posterior and the actor's action."""
            embed, beside = self.see(parts, inputs)
            noise = inputs.get("latent_noise")
            previous = {name: inputs[name] for name in ("stoch", "deter")}
            latent = rssm.obs_step(
                previous,
                self._pad(inputs["action"]),
                embed,
                inputs["is_first"],
                sample=noise is not None,
                noise=noise,
            )
            policy = actor(rssm.get_feat(latent))
            drawn = inputs.get("action_noise")
            action = policy.mode() if drawn is None else policy.rsample(drawn)
            return {**latent, **beside, "action": action}

        return step

    def _explore(self, action: Tensor, mode: str) -> Tensor:
        """The action with the noise of ``--expl_amount`` or ``--eval_noise``."""
        c = self.config
        noise = c.eval_noise if mode == "eval" else c.expl_amount
        if not noise:
            return action
        if self._live[2].dist in ActionHead.DISCRETE:
            probs = noise / self.actions + (1 - noise) * action
            index = torch.multinomial(probs, 1)[:, 0]
            return nn.functional.one_hot(index, self.actions).float()
        return (action + noise * torch.randn_like(action)).clamp(-1, 1)
