"""Pretrained predictors: three files of tensors, found, loaded to learn from, and exported."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents import authors_names
from agents.model_configs import predictor_config
from agents.registry import METHODS
from config import Config, load_saved
from fileio.atomic import atomic_write
from fileio.checkpoints import load, save
from models import VideoPredictor
from tools import UserError, expand_path

PREDICTOR_FILES = {"encoder": "encoder.pt", "decoder": "decoder.pt", "rssm": "rssm.pt"}


def save_predictor(folder: Path, model: VideoPredictor) -> None:
    """Writes encoder.pt, decoder.pt and rssm.pt: one state dict each."""
    for name, file in PREDICTOR_FILES.items():
        save(folder / file, getattr(model, name).state_dict())


def find_predictor(given: str) -> Path:
    """The folder with the encoder.pt that a ``--pretrain_checkpoint_path`` means.

    That is the folder itself or, while it has none, its newest snapshot: the subfolder, or the
    one in ``snapshots``, with the largest number, complete ones first.

    Raises:
        UserError: there is no such folder, or no encoder.pt in it.
    """
    folder = expand_path(given, "pretrain_checkpoint_path")
    mend = "pretrain first (--beta_vae_pretrain True), or give the folder that pretraining named"
    if not folder.is_dir():
        raise UserError(f"--pretrain_checkpoint_path {folder}: there is no such folder; {mend}")
    if (folder / PREDICTOR_FILES["encoder"]).is_file():
        return folder
    snapshots = [
        path.parent
        for path in (*folder.glob("*/encoder.pt"), *folder.glob("snapshots/*/encoder.pt"))
        if path.parent.name.isdecimal()
    ]
    if not snapshots:
        raise UserError(f"--pretrain_checkpoint_path {folder} has no encoder.pt: {mend}")
    return max(snapshots, key=lambda path: (_is_complete(path), int(path.name)))


def _is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in PREDICTOR_FILES.values())


def load_predictor(config: Config, chunk_size: int = 0) -> VideoPredictor:
    """The pretrained predictor in ``--pretrain_checkpoint_path``, to learn from.

    encoder.pt must be there. Without decoder.pt and rssm.pt it is a teacher that cannot draw.
    Each file has our names for its tensors, or the authors'. The recurrent cell and, without
    ``--source_action_num``, the width of the actions are the file's.

    Raises:
        UserError: a file is missing or of other sizes than the configuration asks for.
    """
    folder = find_predictor(config.pretrain_checkpoint_path)
    states = _read_predictor(folder)
    beta_vae = authors_names.is_beta_vae(states["encoder"])
    if beta_vae is not None and beta_vae != config.beta_vae:
        kind = "a β-VAE's" if beta_vae else "a plain CNN's"
        raise UserError(
            f"{folder / PREDICTOR_FILES['encoder']} is {kind} encoder: set --beta_vae {beta_vae}, "
            "as in pretraining"
        )
    return _build_predictor(config, folder, states, chunk_size)


def _read_predictor(folder: Path) -> dict[str, Mapping]:
    """The state dicts that are there, as they are, by their part."""
    states = {}
    for part, file in PREDICTOR_FILES.items():
        if not (folder / file).is_file():
            continue
        try:
            states[part] = load(folder / file)
        except UserError as error:
            raise UserError(f"--pretrain_checkpoint_path: {error}; or pretrain again") from None
        states[part] = _state_dict(part, states[part], folder / file)
        for name, tensor in states[part].items():
            check_tensor(name, tensor, folder / file)
    return states


def _state_dict(part: str, content: Any, path: Path) -> dict[Any, Any]:
    """What a file holds, as the state dict of a part, without prefixes of what had wrapped it.

    Raises:
        UserError: it is something else; the line says what.
    """
    start = f"--pretrain_checkpoint_path: {path}"
    mend = f"give the state_dict() of the {part} alone, or pretrain again"
    if not isinstance(content, Mapping):
        raise UserError(f"{start} holds no state dict but a {type(content).__name__}: {mend}")
    try:
        state = authors_names.unwrapped(content)
    except ValueError as error:
        raise UserError(f"{start} has two tensors '{error}' without their prefixes") from None
    if authors_names.is_part(part, state):
        return state
    names = ", ".join(f"'{str(name)[:60]}'" for name in [*content][:3]) or "nothing"
    names += ", …" if len(content) > 3 else ""
    if any(isinstance(value, Mapping) for value in content.values()):
        raise UserError(f"{start} is the checkpoint of a whole training ({names}): {mend}")
    raise UserError(
        f"{start} is of another architecture, no {part} of a predictor ({names}): {mend}"
    )


def check_tensor(name: Any, tensor: Any, path: Path) -> None:
    """Refuses what no pretraining writes: other things than tensors of finite numbers."""
    real = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    # A small file can hold a tensor of any shape that has the same number everywhere.
    if not (
        real
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    ):
        raise UserError(f"{path}: '{name}' is no tensor of numbers: give what pretraining wrote")
    if not torch.isfinite(tensor).all():
        raise UserError(
            f"{path}: tensor '{name}' holds a number that is not finite: give an earlier "
            "snapshot, or pretrain again"
        )


def _build_predictor(
    config: Config, folder: Path, states: Mapping[str, Mapping], chunk_size: int = 0
) -> VideoPredictor:
    """A predictor with the tensors of a folder; the parts that are not there stay random."""
    _check_side(config, folder, states)
    actions = config.source_action_num
    if rssm := states.get("rssm"):
        # A student's cell may be another than its teacher's.
        normed = any(str(name).startswith(("cell.norm.", "_cell._norm.")) for name in rssm)
        config = config.replace(dyn_cell="gru_layer_norm" if normed else "gru")
        first = rssm.get("inputs.0.weight", rssm.get("_inp_layers.0.weight"))
        with contextlib.suppress(IndexError, AttributeError):
            actions = actions or first.shape[1] - config.dyn_stoch * max(1, config.dyn_discrete)
    model = VideoPredictor(predictor_config(config, chunk_size), max(0, actions))
    model.complete = set(states) == set(PREDICTOR_FILES)
    for part, state in states.items():
        _load_checked(model, part, state, folder / PREDICTOR_FILES[part])
    return model


def _check_side(config: Config, folder: Path, states: Mapping[str, Mapping]) -> None:
    """Refuses a predictor of images of another size, as far as its files tell."""
    side, own = authors_names.side_of(states), config.size[0]
    if side not in (None, own):
        raise UserError(
            f"--size {own} {own}: the predictor in {folder} has learned from images of "
            f"{side}×{side}: give --size {side} {side}, or pretrain another one with "
            f"--size {own} {own}"
        )


# Which flag sizes a tensor, by the beginning of our name for it.
_SIZED_BY = {
    ("encoder", "stats"): "--z_dim",
    ("encoder", "layers"): "--beta_vae, --cnn_depth or --grayscale",
    ("decoder", "layers"): "--beta_vae, --cnn_depth or --grayscale",
    ("decoder", ""): "--z_dim, --dyn_stoch or --dyn_deter",
    ("rssm", "inputs.0"): "--source_action_num, --dyn_stoch or --dyn_hidden",
    ("rssm", "inputs"): "--dyn_input_layers",
    ("rssm", "posterior.0"): "--z_dim, --dyn_temp_post, --dyn_hidden or --dyn_deter",
    ("rssm", "posterior."): "--dyn_output_layers",
    ("rssm", "prior.0"): "--dyn_deter or --dyn_hidden",
    ("rssm", "prior."): "--dyn_output_layers",
    ("rssm", ""): "--dyn_deter, --dyn_stoch, --dyn_discrete or --dyn_hidden",
}


def _load_checked(model: VideoPredictor, part: str, state: Mapping, path: Path) -> None:
    """Loads a part's tensors, each of which must fit; names the first that does not.

    The tensors are called by the names that they have in the file.
    """

    def mend(tensor: str) -> str:
        tensor = authors_names.to_ours(part, tensor) if theirs else tensor
        for (file, prefix), flags in _SIZED_BY.items():
            if part == file and tensor.startswith(prefix):
                return f"set {flags} as in pretraining"
        return "give the file that pretraining wrote"

    theirs = authors_names.is_theirs(part, state)
    module = getattr(model, part)
    own = module.state_dict()
    names = {
        name: authors_names.to_theirs(part, name, model.config.image.beta_vae) if theirs else name
        for name in own
    }
    for name, tensor in own.items():
        name = names[name]
        if name not in state:
            raise UserError(f"{path} has no tensor '{name}': {mend(name)}")
        there = tuple(getattr(state[name], "shape", ()))
        if there != tuple(tensor.shape):
            raise UserError(
                f"{path}: tensor '{name}' has shape {there}, not {tuple(tensor.shape)}: "
                f"{mend(name)}"
            )
    if unknown := sorted(str(name) for name in set(state) - set(names.values())):
        raise UserError(f"{path} has a tensor '{unknown[0]}' too many: {mend(unknown[0])}")
    module.load_state_dict({name: state[names[name]] for name in own})


def export_predictor(config: Config) -> tuple[Path, list[Path]]:
    """Writes the predictor of ``--pretrain_checkpoint_path`` as the authors' code reads it.

    Sizes are those of the pretraining run that the files lie in, and of the flags otherwise. A
    predictor without decoder.pt and rssm.pt is one of fewer files there, too.

    Returns:
        The predictor's folder, and the files in the folder ``--export_checkpoint``.

    Raises:
        UserError: what :func:`load_predictor` raises; the predictor has no counterpart in the
            authors' code; a file of other content is there; the folder cannot be written.
    """
    if not config.export_checkpoint:
        raise UserError("--export_checkpoint needs the name of a folder")
    folder = expand_path(config.export_checkpoint, "export_checkpoint")
    source = find_predictor(config.pretrain_checkpoint_path)
    states = _read_predictor(source)
    config = as_pretrained(config, source)
    beta_vae = authors_names.is_beta_vae(states["encoder"])
    if beta_vae is not None:
        config = config.replace(beta_vae=beta_vae)
    model = _build_predictor(config, source, states)
    _check_counterpart(model)
    contents = {folder / PREDICTOR_FILES[part]: _in_their_names(model, part) for part in states}
    try:
        for path, content in contents.items():
            if path.exists() and path.read_bytes() != content:
                raise UserError(
                    f"--export_checkpoint: {path} is there already, with other content: give "
                    "another folder"
                )
        for path, content in contents.items():
            with atomic_write(path) as file:
                file.write(content)
    except OSError as error:
        raise UserError(
            f"--export_checkpoint {folder} cannot be written ({error.strerror}): give another "
            "folder"
        ) from None
    return source, list(contents)


def as_pretrained(config: Config, folder: Path) -> Config:
    """The configuration of the pretraining run that a predictor lies in, with this one's flags."""
    for run in (folder, folder.resolve().parent.parent):  # itself, or <run>/snapshots/<n>
        if (run / "config.yaml").is_file():
            saved = load_saved(run / "config.yaml", METHODS)
            if saved.beta_vae_pretrain:
                return saved.replace(**{name: config[name] for name in config.overrides})
    return config


def _check_counterpart(model: VideoPredictor) -> None:
    c = model.config.image
    if c.side != 64:
        raise UserError(
            f"--export_checkpoint: the authors' networks see 64×64 images, not {c.side}×{c.side}: "
            "pretrain without --size"
        )
    if c.beta_vae and c.channels == 1:
        raise UserError(
            "--export_checkpoint: the authors' β-VAE sees three channels: pretrain without "
            "--grayscale True"
        )
    embed = 4 * c.depth * 2 ** (len(c.encoder_kernels) - 1)
    if not c.beta_vae and model.encoder.embed_size != embed:
        raise UserError(
            f"--export_checkpoint: the authors' CNN ends in 2×2 pixels, so the embedding has "
            f"{embed} numbers and not {model.encoder.embed_size}: pretrain without "
            "--encoder_kernels"
        )


def _in_their_names(model: VideoPredictor, part: str) -> bytes:
    """A file's bytes; the same tensors make the same bytes."""
    state = getattr(model, part).state_dict()
    named = OrderedDict(
        (authors_names.to_theirs(part, name, model.config.image.beta_vae), tensor.contiguous())
        for name, tensor in state.items()
    )
    buffer = io.BytesIO()
    torch.save(named, buffer)
    return buffer.getvalue()
