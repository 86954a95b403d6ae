"""Beginning as a video predictor: what methods share that go on training a pretrained one."""

from __future__ import annotations

from typing import Any

import torch

from agents import authors_names
from agents.model_configs import check_networks
from agents.predictor import Predictor
from agents.pretrained import PREDICTOR_FILES, find_predictor, load_predictor
from config import Config
from fileio.checkpoints import load
from models import VideoPredictor
from rssm import RSSM
from tools import UserError

_UNFIT = {
    "beta_vae": "whose predictor has DreamerV2's CNN",
    "traverse": "which has no latents to traverse",
    "distillation": "which learns from no teacher",
}


class VideoPredictorLearner(Predictor):
    """The first stage: a video predictor with DreamerV2's CNN, which learns from frames alone."""

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuses what makes another predictor of it."""
        check_plain(config)

    @classmethod
    def second_stage(cls, config: Config) -> dict[str, Any]:
        """The method that it is for."""
        return {"method_name": config.method_name}


def check_plain(config: Config) -> None:
    """Checks that a configuration asks for nothing that is DisWM's alone.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    check_networks(config)
    for name, why in _UNFIT.items():
        if config[name]:
            raise UserError(
                f"--{name} True is not for --method_name {config.method_name}, {why}: leave it "
                "out, or use --method_name diswm"
            )


def load_videos(config: Config) -> VideoPredictor:
    """The predictor in ``--pretrain_checkpoint_path``, whole, of the configuration's own layers.

    Raises:
        UserError: there is none, or it is of another kind or of other sizes.
    """
    folder = find_predictor(config.pretrain_checkpoint_path)
    start = f"--pretrain_checkpoint_path {folder}"
    mend = f"pretrain with --method_name {config.method_name} --beta_vae_pretrain True"
    for file in PREDICTOR_FILES.values():
        if not (folder / file).is_file():
            raise UserError(
                f"{start} has no {file}, and {config.method_name} begins as the whole predictor: "
                f"{mend}"
            )
    encoder = load(folder / PREDICTOR_FILES["encoder"])
    if isinstance(encoder, dict) and authors_names.is_beta_vae(list(map(str, encoder))):
        raise UserError(
            f"{start} holds a β-VAE's predictor, and {config.method_name} begins as one with "
            f"DreamerV2's CNN: {mend}"
        )
    model = load_predictor(config)
    cell = model.config.rssm.cell
    if cell != config.dyn_cell:
        raise UserError(
            f"{start} has another recurrent cell: give --dyn_cell {cell}, as in pretraining"
        )
    return model


@torch.no_grad()
def fill_rssm(rssm: RSSM, given: RSSM) -> None:
    """Gives an RSSM the weights of a pretrained one.

    The pretrained input of actions was only ever fed zeros. Where ``rssm`` has fewer actions, the
    columns that are too many are left out, which changes nothing while zeros are fed; where it has
    more, those that are missing keep the start that they have, as all of them did so far.
    """
    name, theirs = "inputs.0.weight", given.state_dict()
    width = rssm.flat_stoch + min(rssm.action_size, given.action_size)
    filled = rssm.state_dict()[name].clone()
    filled[:, :width] = theirs[name][:, :width]
    rssm.load_state_dict({**theirs, name: filled})
