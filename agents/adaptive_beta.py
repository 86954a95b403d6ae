"""β that adapts: what the β-VAE's KL weighs follows from what the updates before came to.

The image's term is ½ Σ (o − ô)² + β·KL in each row, −log of a Normal whose deviation is 1. So β is
the variance that the pixels would have in an ELBO, and one over GECO's multiplier.

A controller's numbers are 0-d tensors on the device that move in their places, as an optimiser's
do: an update can be recorded with them, and nothing waits for it. What it sees of an update moves β
for the next one. Gains and ramps are shares of ``--pretrain_steps``, so that they mean the same in
pretrainings of any length; finetuning counts its updates in the same unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.base import PRETRAIN_UNIT, Metrics
from config import Config
from tools import UserError, schedule, schedule_constant

SPEED_UP = 10.0  # of GECO's steps while the error is below its goal, as in Genesis
SMOOTHED = 200  # GECO averages the error over a 200th of a pretraining: of 20,000 updates, 100


class Seen(NamedTuple):
    """What an update came to, 0-d each.

    Attributes:
        kl: KL[q(z|o) ‖ N(0, I)], summed over the latent, the mean over rows, in nats.
        mse: squared error of a number of the image, in ±0.5, the mean over all.
        goal: what `Controller.goal_at` said.
    """

    kl: Tensor
    mse: Tensor
    goal: Tensor


class Controller(ABC):
    """Moves β from ``--beta_vae_beta``, between ``--beta_min`` and ``--beta_max``.

    Attributes:
        length: updates of a pretraining; a run that is made longer keeps what it began with, or
            ramps and gains would jump.
        state: 0-d float32 tensors by name, ``beta`` among them.
    """

    def __init__(self, config: Config, device: torch.device):
        self.length = config.pretrain_steps / PRETRAIN_UNIT
        self.low, self.high = config.beta_min, config.beta_max
        self._device = device
        self.state: dict[str, Tensor] = {}
        self._keep("beta", schedule(config.beta_vae_beta)(0))

    def _keep(self, name: str, value: float) -> None:
        self.state[name] = torch.tensor(value, dtype=torch.float32, device=self._device)

    @property
    def beta(self) -> Tensor:
        """β of the update that comes, as a tensor that stays."""
        return self.state["beta"].clone()

    def goal_at(self, updates: int) -> float:
        """What it aims at after so many updates; 0 where that does not move."""
        return 0.0

    @torch.no_grad()
    def step(self, metrics: Metrics, goal: Tensor) -> Metrics:
        """Moves on from an update, but from none that was skipped; returns what else to log."""
        seen = Seen(metrics["beta_vae_kl_loss"], metrics["image_mse"], goal)
        skipped = metrics["skipped_model"] > 0
        for name, value in self.after(seen).items():
            old = self.state[name]
            old.copy_(torch.where(skipped, old, value))
        return {}

    @abstractmethod
    def after(self, seen: Seen) -> dict[str, Tensor]:
        """The state after an update."""

    def save_state(self) -> dict[str, Any]:
        """Its tensors, and the length that its shares are of."""
        return {"length": self.length, **self.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned."""
        self.length = state["length"]
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


class ControlVAE(Controller):
    """A PI controller that holds the KL at a goal, which rises (arXiv 2004.05988, equation 8).

    β = K_p / (1 + exp(e)) − Σ K_i·e + β_min, e = goal − KL. The sum stays within the bounds of β;
    theirs stands still in both directions while β is beyond one, and may then never come back.
    It begins at β₀ − β_min: with theirs, β₀ = β_min, at 0.
    """

    def __init__(self, config: Config, device: torch.device):
        super().__init__(config, device)
        self.kp, self.ki = config.beta_kp, config.beta_ki
        self._goal = schedule(config.beta_kl_goal)
        self._keep("integral", float(self.state["beta"]) - self.low)

    def goal_at(self, updates: int) -> float:
        return self._goal(updates / self.length)

    def step(self, metrics: Metrics, goal: Tensor) -> Metrics:
        return super().step(metrics, goal) | {"beta_kl_goal": goal}

    def after(self, seen: Seen) -> dict[str, Tensor]:
        error = seen.goal - seen.kl
        proportional = self.kp * torch.sigmoid(-error)
        integral = self.state["integral"] - self.ki / self.length * error
        integral = integral.clamp(0.0, self.high - self.low)
        beta = (proportional + integral + self.low).clamp(self.low, self.high)
        return {"beta": beta, "integral": integral}


class GECO(Controller):
    """Least KL under a bound on the error (arXiv 1810.00597), as Genesis has it.

    ln β moves by rate·(1 − error / goal), the error being an average over the last updates:
    down while the picture is worse than the goal, up where it is better. In their code the
    difference is not divided by the goal, and so the rate is of one data set.
    """

    def __init__(self, config: Config, device: torch.device):
        super().__init__(config, device)
        self.rate, self.goal = config.beta_rate, config.beta_mse_goal
        self._keep("mse", -1.0)  # none yet

    def after(self, seen: Seen) -> dict[str, Tensor]:
        kept = max(1 - SMOOTHED / self.length, 0.0)
        before = self.state["mse"]
        mse = torch.where(before < 0, seen.mse, kept * before + (1 - kept) * seen.mse)
        change = self.rate / self.length * (1 - mse / self.goal)
        change = torch.where(change > 0, SPEED_UP * change, change)
        beta = (self.state["beta"] * change.exp()).clamp(self.low, self.high)
        return {"beta": beta, "mse": mse}


class SigmaVAE(Controller):
    """The variance that is likeliest for the error: its mean square (arXiv 2006.13202, eq. 4)."""

    def after(self, seen: Seen) -> dict[str, Tensor]:
        return {"beta": seen.mse.clamp(self.low, self.high)}


CONTROLLERS: dict[str, type[Controller]] = {
    "controlvae": ControlVAE,
    "geco": GECO,
    "sigma_vae": SigmaVAE,
}


def make_controllers(config: Config, device: torch.device) -> dict[str, Controller]:
    """The controller of each loss term that has one."""
    if config.beta_control == "none":
        return {}
    return {"beta_vae": CONTROLLERS[config.beta_control](config, device)}


def check(config: Config) -> None:
    """Checks that there is a β to adapt, which begins between its bounds.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    c = config
    if c.beta_control == "none":
        return
    given = f"--beta_control {c.beta_control}"
    if not c.beta_vae:
        raise UserError(f"{given} moves the weight of a β-VAE's KL: add --beta_vae True")
    if (start := schedule_constant(c.beta_vae_beta)) is None:
        raise UserError(
            f"--beta_vae_beta {c.beta_vae_beta} is a schedule, and {given} moves β itself: give "
            "the number that it begins with"
        )
    if not c.beta_min <= start <= c.beta_max:
        raise UserError(
            f"--beta_vae_beta {start:g}, where {given} begins, lies outside of --beta_min "
            f"{c.beta_min:g} to --beta_max {c.beta_max:g}"
        )
