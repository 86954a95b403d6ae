"""Agents that see the last few frames: acting, batches of transitions, rhythms of updates.

Symbols in shapes: B batch, T time (rows), N environments, S frames of an observation, A action,
H and W image height and width, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from accel.fallback import Accelerated
from accel.runtime import Runtime
from agents.base import Agent, Batch, Metrics, Obs, Spaces, State
from agents.learner import GradientLearner
from agents.model_configs import BEHAVIOR_UNREAD
from baselines import pictures
from baselines.augment import Crops, join, stacked
from baselines.networks import Critic, sides
from baselines.stacking import push, transition
from config import Config, key
from replay.sampler import Windows
from tools import UserError

# Of world models and of what is imagined with them.
MODEL_UNREAD = BEHAVIOR_UNREAD | {
    *("dyn_cell", "dyn_hidden", "dyn_deter", "dyn_stoch", "dyn_discrete", "units", "cnn_depth"),
    *("image_scale", "kl_scale", "kl_free", "imag_horizon", "discount_lambda", "actor_entropy"),
}


@dataclasses.dataclass(frozen=True)
class PixelKeys:
    """Keys of all agents that see stacked frames."""

    frame_stack: int = key(3, "frames that are seen at once", at_least=1)
    encoder_feature_dim: int = key(50, "numbers in what the encoder makes of them", above=0)
    hidden_dim: int = key(1024, "units of the hidden layers of actor and critic", above=0)
    num_layers: int = key(4, "convolutions of the encoder", above=0)
    num_filters: int = key(32, "channels of each", above=0)
    critic_tau: float = key(
        0.01, "how far the target's action values move at a time", above=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class CropKeys:
    """Keys of agents that learn from random crops."""

    crop_pad: int = key(
        4,
        "pixels by which images are padded before a random crop; not with render_size",
        at_least=0,
    )
    render_size: int | None = key(
        None, "side of the images that environments draw, which crops of --size come from", above=0
    )


def refuse_discrete(agent: Agent, config: Config, spaces: Spaces) -> None:
    """Refuses a task that the agent cannot act in.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    if spaces.kind not in agent.kinds:
        raise UserError(
            f"--method_name {agent.name} takes continuous actions, and those of {config.task} "
            "are discrete: give another task, or a method such as dreamerv2"
        )


def refuse_others(method: str, config: Config) -> None:
    """Refuses what agents have that see sequences of frames.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    for name in ("beta_vae", "distillation", "traverse"):
        if config[name]:
            raise UserError(
                f"--{name} True is for --method_name diswm, and {method} has neither β-VAE "
                "nor teacher: leave one of them out"
            )
    if config.oversample_ends:
        raise UserError(
            f"--oversample_ends True: {method} draws all transitions alike: leave it out"
        )


class PixelAgent(GradientLearner, Agent):
    """An agent of stacked frames; the arguments are those of every agent (`agents/base.py`).

    A subclass makes its networks, a ``critic`` among them, and optimisers, and says in ``act_step``
    how it acts and in ``compute`` what an update is. What happens at every n-th update alone it
    names in ``rhythm``; ``self.due`` says which of it the update at hand has. So an update that is
    recorded has no branches: each combination is recorded by itself.

    Attributes:
        crops: where crops lie; None for an agent that learns from whole images.
        due: of the update at hand, by the names in ``rhythm``.
    """

    kinds = frozenset({"continuous"})
    unread = MODEL_UNREAD | {"model_lr", "grad_clip"}
    critic: Critic
    min_batch: ClassVar[int] = 1

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        refuse_discrete(self, config, spaces)
        super().__init__(config, runtime)
        self.spaces, self.stack = spaces, config.frame_stack
        self.crops = self.crops_of(config, spaces.image[:2])
        self.due = dict.fromkeys(self.rhythm(), True)
        self._phases: dict[tuple[bool, ...], Accelerated] = {}
        still = dataclasses.replace(runtime, compile=False)
        self._steps = {
            mode: Accelerated(functools.partial(self._act, mode), still, "a policy's step")
            for mode in ("train", "eval")
        }

    # What a configuration comes to

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks sizes, and refuses what other agents have.

        Raises:
            UserError: one line that names the flag and the mend.
        """
        refuse_others(cls.name, config)
        if config.batch_size < cls.min_batch:
            raise UserError(
                f"--batch_size {config.batch_size}: {cls.name} tells transitions of a batch from "
                f"each other: give {cls.min_batch} or more"
            )
        if min(side for n in config.size for side in sides(n, config.num_layers)) < 1:
            least = 4 * config.num_layers - 1
            raise UserError(
                f"--size {' '.join(map(str, config.size))}: {config.num_layers} convolutions "
                f"(--num_layers) leave nothing of it: give {least} {least} or more"
            )
        render = config.get("render_size")
        if render is not None and render < max(config.size):
            raise UserError(
                f"--render_size {render}: crops of --size {' '.join(map(str, config.size))} do "
                "not fit into it: give a larger one, or leave it out"
            )
        if render is not None and "crop_pad" in config.overrides:
            raise UserError(
                "--crop_pad does not go with --render_size, whose images are cropped as they are: "
                "give one of them"
            )

    @classmethod
    def image_size(cls, config: Config) -> tuple[int, ...]:
        """``--render_size``, or ``--size``."""
        render = config.get("render_size")
        return config.size if render is None else (render, render)

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """A stack of frames, and the steps behind it."""
        return Windows(config.frame_stack + cls.steps(config), config.frame_stack)

    @classmethod
    def steps(cls, config: Config) -> int:
        """How many steps a transition has."""
        return 1

    @classmethod
    def crops_of(cls, config: Config, image: tuple[int, ...]) -> Crops | None:
        """The crops that a configuration asks for, out of images of that size."""
        if "crop_pad" not in config:
            return None
        pad = config.crop_pad if config.render_size is None else 0
        (height, width), size = image, config.size
        return Crops((height, width), (size[0], size[1]), pad)

    @property
    def channels(self) -> int:
        """S·C."""
        return self.stack * self.spaces.image[2]

    # Acting

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State]:
        """The next actions: ``train`` samples, ``eval`` does not."""
        inputs = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in obs.items()}
        inputs = {k: x.to(self.device, non_blocking=True) for k, x in inputs.items()}
        before = None if state is None else state["frames"]
        frames = push(before, inputs["image"], inputs["is_first"], self.stack)
        given, shape = {"frames": frames}, (len(frames), self.spaces.action_size)
        if mode == "train":
            given["noise"] = torch.randn(shape, device=self.device)
        action = self._steps[mode](given)["action"]
        amount = self.config.eval_noise if mode == "eval" else self.config.expl_amount
        if amount:
            action = (action + amount * torch.randn_like(action)).clamp(-1, 1)
        return action.float().cpu().numpy(), {"frames": frames}

    @torch.no_grad()
    def _act(self, mode: str, inputs: State) -> State:
        frames = inputs["frames"] if self.crops is None else self.crops.center(inputs["frames"])
        return {"action": self.act_step(self.to_input(join(frames)), inputs.get("noise"))}

    @abstractmethod
    def act_step(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Actions [N, A] for observations [N, S·C, H, W]; without noise, the best."""

    # Seeing

    def to_input(self, obs: Tensor) -> Tensor:
        """uint8 observations as the convolutions see them."""
        return obs.float() / 255

    def to_picture(self, obs: Tensor) -> Tensor:
        """What `to_input` returned, in 0..1."""
        return obs

    def convs(self, net: Critic, obs: Tensor) -> Tensor:
        """What a critic's convolutions make of observations, float32 [B, R].

        They compute in the run's precision, all else in float32: returns need its digits.
        """
        with self.autocast():
            seen = net.convs(obs)
        return seen.float()

    def look(self, batch: Batch, frames: Tensor, crop: Tensor | None) -> Tensor:
        """Observations as the convolutions see them, [B, S·C, H, W]; without a crop, the middle."""
        images = batch["image"]
        if self.crops is None:
            return self.to_input(stacked(images, frames))
        if crop is None:
            return self.to_input(stacked(self.crops.center(images), frames))
        return self.to_input(self.crops.take(images, frames, crop))

    # Updates

    def rhythm(self) -> dict[str, int]:
        """What an update may have beside its rest, and at every which update it has it."""
        return {}

    def before_update(self) -> None:
        """Chooses among the updates, each recorded by itself."""
        due = {name: self.updates % period == 0 for name, period in self.rhythm().items()}
        phase = tuple(due.values())
        if phase not in self._phases:
            function = functools.partial(self._phase, due)
            self._phases[phase] = Accelerated(function, self.runtime, "an update", self._tensors)
        self._compute = self._phases[phase]

    def _phase(self, due: dict[str, bool], tensors: dict[str, Tensor]) -> Metrics:
        self.due = due
        return self._compute_flat(tensors)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned.

        Raises:
            ValueError: a tensor is missing or of another shape.
        """
        super().load_state(state)
        for phase in self._phases.values():
            phase.reset()

    # Pictures

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the encoder is shown of a few transitions, and where the critic looks."""
        few = {name: value[: pictures.CLIPS] for name, value in self.prepare(batch).items()}
        shown = self.shown(few, self.draw_noise(*few["is_first"].shape))
        channels = self.spaces.image[2]
        return {"observations": pictures.observations(shown, channels, self.saliency(few))}

    def shown(self, batch: Batch, noise: Any) -> dict[str, Tensor]:
        """By their names, what the networks see of a batch: [B, S·C, H, W] in 0..1 each.

        The first is the observation as actions are chosen for it, all its frames are drawn.
        """
        step = transition(batch, self.stack, self.steps(self.config))
        if self.crops is None:
            seen = {"seen": (step.obs, None), "next": (step.next_obs, None)}
        else:
            seen = {"middle": (step.obs, None), "crop": (step.obs, noise.crop)}
            seen["next, crop"] = (step.next_obs, noise.next_crop)
        return {name: self.to_picture(self.look(batch, *what)) for name, what in seen.items()}

    def saliency(self, batch: Batch) -> Tensor:
        """How much the smaller action value depends on each pixel, [B, H, W], of whole images."""
        step, critic = transition(batch, self.stack, self.steps(self.config)), self.critic

        def value(obs: Tensor) -> Tensor:
            return torch.minimum(*critic.q(critic.head(critic.convs(obs)), step.action))

        return pictures.gradient(value, self.look(batch, step.obs, None))
