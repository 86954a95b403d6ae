"""Checkpoints: everything that a run is, in one file, and pretrained predictors in three.

Files are written whole or not at all, and read with ``weights_only=True``: they hold tensors,
numbers, strings, lists and dicts, and nothing in them is ever executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import Config
from models import VideoPredictor
from tools import UserError, atomic_write

PREDICTOR_FILES = {"encoder": "encoder.pt", "decoder": "decoder.pt", "rssm": "rssm.pt"}


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes nested dicts and lists of tensors, arrays, numbers, strings, whole or not at all."""
    with atomic_write(path) as file:
        torch.save(_to_tensors(state), file)


def load(path: Path) -> Any:
    """What :func:`save` wrote, on the CPU; arrays come back as tensors.

    Raises:
        UserError: the file is missing, damaged, or holds more than data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from None


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def to_arrays(value: Any) -> Any:
    """Nested dicts and lists with every tensor as a NumPy array."""
    if isinstance(value, Mapping):
        return {key: to_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_arrays(item) for item in value]
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def to_device(value: Any, device: torch.device) -> Any:
    """Nested dicts with every tensor on the device."""
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def rng_state(device: torch.device) -> dict[str, Any]:
    """PyTorch's generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts PyTorch's generators where :func:`rng_state` found them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def scratch_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, PyTorch draws from the given seed; afterwards, as if nothing had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def save_predictor(folder: Path, model: VideoPredictor) -> None:
    """Writes encoder.pt, decoder.pt and rssm.pt: one state dict each."""
    for name, file in PREDICTOR_FILES.items():
        save(folder / file, getattr(model, name).state_dict())


def load_predictor(config: Config) -> VideoPredictor:
    """The pretrained predictor in ``--pretrain_checkpoint_path``, to learn from.

    encoder.pt must be there. Without decoder.pt and rssm.pt it is a teacher that cannot draw.

    Raises:
        UserError: a file is missing or of other sizes than the configuration asks for.
    """
    folder = Path(config.pretrain_checkpoint_path).expanduser()
    if not (folder / PREDICTOR_FILES["encoder"]).is_file():
        raise UserError(
            f"--pretrain_checkpoint_path {folder} has no encoder.pt: pretrain first "
            "(--beta_vae_pretrain True), or give the folder that pretraining named"
        )
    try:
        states = {
            name: load(folder / file)
            for name, file in PREDICTOR_FILES.items()
            if (folder / file).is_file()
        }
    except UserError as error:
        raise UserError(f"--pretrain_checkpoint_path: {error}; pretrain again") from None
    actions = config.source_action_num
    with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
        flat_stoch = config.dyn_stoch * max(1, config.dyn_discrete)
        actions = actions or states["rssm"]["inputs.0.weight"].shape[1] - flat_stoch
    model = VideoPredictor(config, max(0, actions))
    model.complete = set(states) == set(PREDICTOR_FILES)
    for name, state in states.items():
        _load_checked(getattr(model, name), state, folder / PREDICTOR_FILES[name])
    return model


# Which flag sizes a tensor, by the beginning of its name.
_SIZED_BY = {
    ("encoder", "stats"): "--z_dim",
    ("encoder", "layers"): "--beta_vae, --cnn_depth or --grayscale",
    ("decoder", ""): "--z_dim, --dyn_stoch or --dyn_deter",
    ("rssm", "inputs"): "--source_action_num, --dyn_stoch or --dyn_hidden",
    ("rssm", "posterior"): "--z_dim, --beta_vae or --dyn_deter",
    ("rssm", ""): "--dyn_deter, --dyn_stoch, --dyn_hidden or --dyn_cell",
}


def _load_checked(module: nn.Module, state: Any, path: Path) -> None:
    """Loads a state dict whose every tensor must fit; names the first that does not."""

    def flag(tensor: str) -> str:
        for (file, prefix), flags in _SIZED_BY.items():
            if path.stem == file and tensor.startswith(prefix):
                return flags
        return "the flags of pretraining"

    if not isinstance(state, Mapping):
        raise UserError(f"--pretrain_checkpoint_path: {path} holds no state dict; pretrain again")
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{path} has no tensor '{name}': set {flag(name)} as in pretraining")
        there = tuple(getattr(state[name], "shape", ()))
        if there != tuple(tensor.shape):
            raise UserError(
                f"{path}: tensor '{name}' has shape {there}, not {tuple(tensor.shape)}: "
                f"set {flag(name)} as in pretraining"
            )
    if unknown := sorted(set(state) - set(own)):
        raise UserError(
            f"{path} has a tensor '{unknown[0]}' too many: set {flag(unknown[0])} as in pretraining"
        )
    module.load_state_dict(state)
