"""The authors' update, from a checkout of ``qiwang067/DisWM`` that the user has.

Their files are imported as they are and never edited. Names such as ``tools`` and ``models`` are
theirs and ours: load them in a process that has imported none of our modules of these names.

What makes them run here:

- Modules that they import and the update does not need are stubs: Weights & Biases (its ``log``
  calls stay and do nothing), TensorBoard, their ``wrappers`` (and with it panda_gym, gym,
  cloudpickle, dmc2gym and numpy.distutils), and two imports by mistake
  (``numpy.testing.print_coercion_tables``, ``torch.fx.experimental.migrate_gradual_types``).
- Their command line calls ``yaml.safe_load``, which ruamel.yaml no longer has: their configs.yaml
  is read here and goes through their own ``tools.args_type``.
- The teacher has random weights instead of a checkpoint's, which costs the same.

Their agent is their ``dreamer.Dreamer`` (``pretrain.Dreamer`` while pretraining) and an update is
its ``_train(batch)``, metrics and transfers included. What it does beside the method stays: the
guard around the world model's update switches the teacher's gradients on, for instance, so that
the teacher is trained, too.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks.repositories import DISWM
from benchmarks.stubs import enter

MODULES = {"update": "dreamer", "pretrain": "pretrain"}
_SHARED_NAMES = ("config", "dreamer", "models", "networks", "tools")


def load(checkout: Path, kind: str) -> types.ModuleType:
    """Imports their ``dreamer`` or ``pretrain`` module, over stubs, for this whole process.

    Args:
        checkout: the folder with their files.
        kind: ``update`` or ``pretrain``.

    Raises:
        FileNotFoundError: the folder is no checkout.
        RuntimeError: the process has modules of ours under the same names.
    """
    checkout = checkout.resolve()
    if lacks := DISWM.missing(checkout):
        raise FileNotFoundError(f"{checkout} is no checkout of {DISWM.name}: it has no {lacks}")
    enter(checkout, DISWM.stubs, _SHARED_NAMES)
    return importlib.import_module(MODULES[kind])


def read_config(checkout: Path, overrides: Mapping[str, Any]) -> argparse.Namespace:
    """Their configuration for distracting DMC, through their own types, as their loop leaves it."""
    document = YAML(typ="safe", pure=True).load((checkout / "configs.yaml").read_text())
    values = {**document["defaults"], **document["dmc2gym"], **overrides}
    args_type = importlib.import_module("tools").args_type
    config = argparse.Namespace(**{k: args_type(v)(v) for k, v in values.items()})
    config.act = getattr(torch.nn, config.act)
    return config


class Reference:
    """Their agent, or their pretrainer, with the update of one batch.

    Args:
        checkout: the folder with their files.
        kind: ``update`` (world model, actor, critic) or ``pretrain`` (video predictor).
        actions: size of the action vector.
        device: ``cpu`` or ``cuda:0``.
        precision: 32, or 16 for their mixed precision, which exists on CUDA alone.
        overrides: more keys of their configuration: those of the method, ``batch_size``, ….
    """

    def __init__(
        self,
        checkout: Path,
        kind: str,
        actions: int,
        device: str = "cpu",
        precision: int = 32,
        overrides: Mapping[str, Any] | None = None,
    ):
        module = load(checkout, kind)
        with tempfile.TemporaryDirectory() as empty:  # they count the steps of its episodes
            flags = {"num_actions": actions, "traindir": Path(empty)}
            flags |= {"device": device, "precision": precision, **(overrides or {})}
            if kind == "pretrain":
                flags["distillation"] = False
            self.config = read_config(checkout, flags)
            logging.getLogger("torch").setLevel(logging.ERROR)
            self.agent = module.Dreamer(self.config, None, None).to(device)
        self.agent.requires_grad_(requires_grad=False)

    def update(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """One update of theirs.

        Args:
            batch: ``image`` uint8 [B, T, H, W, C], ``action`` [B, T, A], ``reward`` and
                ``discount`` [B, T].

        Returns:
            The update's metrics, each a mean over one value.
        """
        names = ("image", "action", "reward", "discount")
        data = {name: batch[name] for name in names}
        data["discount"] = data["discount"].copy()  # they scale it in place
        self.agent._metrics.clear()
        self.agent._train(data)
        return {name: float(np.mean(v)) for name, v in self.agent._metrics.items()}

    @torch.no_grad()  # as their loop has it
    def act(
        self, image: np.ndarray, is_first: np.ndarray, state: Any, mode: str
    ) -> tuple[np.ndarray, Any]:
        """Actions [N, A] for images uint8 [N, H, W, C], and the state that goes on."""
        obs = {"image": image, "reward": np.zeros(len(image), np.float32)}
        output, state = self.agent._policy(obs, state, mode == "train")
        return output["action"].cpu().numpy(), state


def make(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """The update of what a worker is to hold, or its policy."""
    kind = "pretrain" if spec["kind"] == "pretrain" else "update"
    keys = {**spec.get("keys", {"beta_vae": True, "distillation": True}), **spec["sizes"]}
    given = (spec["actions"], spec["device"], spec["precision"])
    theirs = Reference(Path(spec["checkout"]), kind, *given, keys)
    return theirs.act if spec["kind"] == "act" else theirs.update
