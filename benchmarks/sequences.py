"""The updates of authors whose world models see sequences, from checkouts that the user has.

Their files are imported as they are and never edited. What makes them run here:

- Modules that they import and an update does not need are stubs (`repositories.py` lists them).
- Their command lines need simulators and a GPU: their files of settings are read here, HRSSM's
  through its own ``args_type``, ContextWM's through its own ``Config``, DreamerV3's through Hydra.
- DreamerV3's is NM512's, in PyTorch, with ``rep_loss=dreamer``. Its float16 is off at precision 32,
  and it is compiled on CUDA alone, where it is published so and our default is compiled, too.
- ContextWM's predictor has random weights, which costs the same.

An update is their agent's, of the one batch that ours is given, in their layout. Neither draws from
a replay, and DreamerV3's windows begin with zeros in both.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor

from benchmarks.repositories import PLACES, REPOSITORIES
from benchmarks.stubs import enter

Batch = Mapping[str, np.ndarray]
Given = Mapping[str, Any]
# Of the batch → the world model's loss.
Update = Callable[[Batch], Any]

SHARED_NAMES = ("distributions", "dreamer", "models", "networks", "rssm", "tools")
# Where HRSSM's command line has a default of its own, beside its file of settings.
_HRSSM_FLAGS = {
    **{"simsr_discount": 0.99, "dynamics_tau": 0.05, "encoder_tau": 0.05},
    **{"simsr_scale": 1.0, "mbr_scale": 1.0, "nomlr": False, "nosimsr": False},
}


class Reference:
    """Authors' agent, with the update of one batch.

    Args:
        method: whose.
        checkout: the folder with their files.
        config: `repositories.PLACES` of our configuration.
        actions: A.
        device: ``cpu`` or ``cuda:0``.
        precision: 32, or 16 for their mixed precision, which exists on CUDA alone.
    """

    def __init__(
        self, method: str, checkout: Path, config: Given, actions: int, device: str, precision: int
    ):
        enter(checkout, REPOSITORIES[method].stubs, SHARED_NAMES)
        logging.getLogger("torch").setLevel(logging.ERROR)
        places = PLACES[method]
        given = {at: config[name] for name in places for at in places[name].split()}
        make = {"hrssm": _hrssm, "contextwm": _contextwm, "dreamerv3": _dreamerv3}[method]
        self._update = make(checkout.resolve(), given, actions, torch.device(device), precision)

    def update(self, batch: Batch) -> dict[str, float]:
        """One update of theirs.

        Args:
            batch: ``image`` uint8 [B, T, H, W, C], ``action`` [B, T, A], ``reward`` and
                ``is_first`` [B, T].

        Returns:
            The world model's loss.
        """
        return {"model_loss": float(self._update(batch))}


def make(spec: Mapping[str, Any]) -> Update:
    """The update of what a worker is to hold."""
    given = (spec["keys"], spec["actions"], spec["device"], spec["precision"])
    return Reference(spec["method"], Path(spec["checkout"]), *given).update


def _read(path: Path) -> dict[str, Any]:
    """Their blocks of settings."""
    return YAML(typ="safe", pure=True).load(path.read_text())


def _space(shape: tuple[int, ...]) -> Any:
    return SimpleNamespace(shape=shape)


def _hrssm(
    checkout: Path, given: Given, actions: int, device: torch.device, precision: int
) -> Update:
    module, tools = importlib.import_module("dreamer"), importlib.import_module("tools")
    values = _read(checkout / "configs.yaml")["defaults"]  # dmc_vision's update is the same
    for place, value in given.items():
        block, _, name = place.rpartition(".")
        (values[block] if block else values)[name] = value
    values |= {"num_actions": actions, "device": str(device), "precision": precision}
    values["compile"] = False  # theirs wraps modules whose forward nobody calls
    config = SimpleNamespace(**{k: tools.args_type(v)(v) for k, v in values.items()})
    vars(config).update(_HRSSM_FLAGS)
    images = SimpleNamespace(spaces={"image": _space((*config.size, 3))})
    agent = module.Dreamer(images, _space((actions,)), config, SimpleNamespace(step=0), None)
    agent = agent.to(device).requires_grad_(requires_grad=False)

    def update(batch: Batch) -> float:
        data = {name: batch[name] for name in ("image", "action", "reward", "is_first")}
        data["is_terminal"] = np.zeros_like(batch["reward"])
        agent._metrics.clear()
        agent._train(data)
        return agent._metrics["model_loss"][0]

    return update


def _contextwm(
    checkout: Path, given: Given, actions: int, device: torch.device, precision: int
) -> Update:
    wmlib = importlib.import_module("wmlib")
    agents, utils = (importlib.import_module(f"wmlib.{name}") for name in ("agents", "utils"))
    wmlib.ENABLE_FP16 = precision == 16  # type: ignore[attr-defined]
    blocks = _read(checkout / "configs" / "apv_finetuning.yaml")
    config = utils.Config(blocks["defaults"])
    for more in (blocks["dmc_vision"], blocks["contextualized"], given):
        config = config.update(more)
    images, dtype = {"image": _space((64, 64, 3))}, {16: torch.float16, 32: torch.float32}
    agent = agents.APV_Finetune(config, images, {"action": _space((actions,))}, utils.Counter(0))
    agent = agent.to(device)
    agent.init_optimizers()
    train = wmlib.CarryOverState(agent.train)
    kept: dict[str, Tensor] = {}  # as their replay would give it

    def update(batch: Batch) -> float:
        if not kept:
            image = np.ascontiguousarray(batch["image"].transpose(0, 1, 4, 2, 3))
            zeros = np.zeros_like(batch["is_first"])
            rows = {**batch, "image": image, "is_last": zeros, "is_terminal": zeros}
            kept.update({k: torch.from_numpy(v) for k, v in rows.items() if k != "discount"})
        return train({k: v.to(device, dtype[precision]) for k, v in kept.items()})["model_loss"]

    return update


def _dreamerv3(
    checkout: Path, given: Given, actions: int, device: torch.device, precision: int
) -> Update:
    hydra = importlib.import_module("hydra")
    from tensordict import TensorDict

    module, cuda = importlib.import_module("dreamer"), device.type == "cuda"
    for name in ("autocast", "GradScaler"):
        setattr(module, name, functools.partial(getattr(module, name), enabled=precision == 16))
    words = [f"{place}={value}" for place, value in given.items()]
    words += [f"device={device}", "model.rep_loss=dreamer", f"model.compile={cuda}"]
    with hydra.initialize_config_dir(str(checkout / "configs"), version_base=None):
        config = hydra.compose("configs", words)
    if cuda:  # as their train.py
        torch.set_float32_matmul_precision("high")
    images = SimpleNamespace(spaces={"image": _space((64, 64, 3))})
    agent = module.Dreamer(config.model, images, _space((actions,))).to(device)
    kept: dict[str, Any] = {}  # as their replay has it

    def sample() -> tuple[Any, None, Any]:
        # They divide the images by 255 in place.
        return kept["batch"].clone(recurse=False), None, agent.rssm.initial(len(kept["batch"]))

    replay = SimpleNamespace(sample=sample, update=lambda index, stoch, deter: None)

    def update(batch: Batch) -> Tensor:
        if not kept:
            zeros = np.zeros_like(batch["is_first"])
            rows = {**batch, "is_last": zeros, "is_terminal": zeros}
            columns = {k: torch.from_numpy(v).to(device) for k, v in rows.items()}
            for name in ("reward", "is_first", "is_last", "is_terminal"):
                columns[name] = columns[name].unsqueeze(-1)
            kept["batch"] = TensorDict(columns, batch_size=batch["reward"].shape)
        return agent.update(replay)["opt/loss"]

    return update
