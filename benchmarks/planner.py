"""The update and the plans of TD-MPC2's authors, from a checkout that the user has.

Their files are imported as they are and never edited. What makes them run here:

- Their command line needs a simulator: their config.yaml is read here.
- They say ``cuda:0`` in three modules. On a CPU these see PyTorch through `_OnCPU`.
- It is compiled on CUDA alone, where it is published so and our default is compiled, too.

An update draws from their own replay buffer, full of noise, as ours does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks.noise import EPISODES, STEPS, make_episodes, stacks
from benchmarks.repositories import REPOSITORIES
from benchmarks.stubs import enter

# Settings that are called the same here.
_SAME = (
    *("batch_size", "num_channels", "mlp_dim", "simnorm_dim", "num_q", "num_bins", "vmin", "vmax"),
    *("dropout", "horizon", "iterations", "num_samples", "num_elites", "num_pi_trajs"),
)
_LATENT_PIXELS = 16  # that their convolutions leave of an image


class _OnCPU:
    """PyTorch for modules that say ``cuda:0``: the device is the CPU."""

    cuda = SimpleNamespace(mem_get_info=lambda: (0, 0))  # no room for a replay

    def __init__(self) -> None:
        self.optim = SimpleNamespace(Adam=self._adam)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(name: str) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def _adam(*args: Any, capturable: bool, **kwargs: Any) -> torch.optim.Adam:
        return torch.optim.Adam(*args, **kwargs)


class Reference:
    """Their agent and its replay of noise.

    Args:
        checkout: the folder with their files.
        config: `repositories.KEYS` of our configuration.
        actions: A.
        device: ``cpu`` or ``cuda:0``.
        replay: whether it learns; one that only plans has no replay.
    """

    def __init__(
        self,
        checkout: Path,
        config: Mapping[str, Any],
        actions: int,
        device: str,
        replay: bool = True,
    ):
        repository, cuda = REPOSITORIES["tdmpc2"], torch.device(device).type == "cuda"
        folder = checkout / repository.folder
        enter(folder, repository.stubs, ())
        names = ("tdmpc2", "common.scale", "common.buffer")
        modules = [importlib.import_module(name) for name in names[: 2 + replay]]
        if cuda:  # as their train.py
            torch.set_float32_matmul_precision("high")
        else:
            for module in modules:
                module.torch = _OnCPU()  # type: ignore[attr-defined]
        values = YAML(typ="safe", pure=True).load((folder / "config.yaml").read_text())
        values |= {name: config[name] for name in _SAME}
        values |= {"bin_size": (values["vmax"] - values["vmin"]) / (values["num_bins"] - 1)}
        self._stack, rows = config["frame_stack"], EPISODES * (STEPS + 1)
        shape = (3 * self._stack, *config["size"])
        values |= {"obs": "rgb", "obs_shape": {"rgb": shape}, "action_dim": actions}
        values |= {"latent_dim": _LATENT_PIXELS * config["num_channels"], "task_dim": 0}
        values |= {"multitask": False, "episode_length": 500, "compile": cuda}
        values |= {"steps": rows, "buffer_size": rows}
        settings = SimpleNamespace(**values)
        self._agent = modules[0].TDMPC2(settings)
        if replay:
            self._replay = modules[2].Buffer(settings)
            self._fill(config["size"], actions)

    def _fill(self, size: tuple[int, int], actions: int) -> None:
        from tensordict import TensorDict

        for episode in make_episodes(size, actions):
            columns = {"obs": stacks(episode, self._stack)}
            columns |= {name: episode[name] for name in ("action", "reward")}
            tensors = {name: torch.from_numpy(value) for name, value in columns.items()}
            self._replay.add(TensorDict(tensors, batch_size=(STEPS + 1,)))

    def update(self, batch: Any) -> dict[str, float]:
        """One update of theirs; the batch is their own replay's.

        Returns:
            The critic's loss.
        """
        return {"critic_loss": float(self._agent.update(self._replay)["value_loss"])}

    def act(
        self, image: np.ndarray, is_first: np.ndarray, state: Any, mode: str
    ) -> tuple[np.ndarray, Any]:
        """A plan for each environment, one after the other, as theirs has one environment.

        Args:
            image: uint8 [N, H, W, C].
            is_first: bool [N], where an episode begins.
            state: the frames that the last call returned; None at the start.
            mode: ``train`` or ``eval``.

        Returns:
            Actions [N, A] and the stacked frames uint8 [N, S·C, H, W].
        """
        newest = image.transpose(0, 3, 1, 2)
        frames = np.tile(newest, (1, self._stack, 1, 1))
        if state is not None:
            moved = np.concatenate([state[:, newest.shape[1] :], newest], 1)
            frames = np.where(is_first[:, None, None, None], frames, moved)
        plans = [
            self._agent.act(torch.from_numpy(seen), t0=bool(first), eval_mode=mode == "eval")
            for seen, first in zip(frames, is_first, strict=True)
        ]
        return torch.stack(plans).numpy(), frames


def make(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """The update of what a worker is to hold, or its plans."""
    acts = spec["kind"] == "act"
    given = (spec["keys"], spec["actions"], spec["device"])
    theirs = Reference(Path(spec["checkout"]), *given, replay=not acts)
    return theirs.act if acts else theirs.update
