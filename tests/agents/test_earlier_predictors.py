"""Predictors that earlier code wrote, under our names and under the authors', mean the same now.

`predictors.tar.xz` holds tiny ones with weights by a formula, in both formats, of a β-VAE and of
the plain CNN, and what the code that wrote them (commit 74704a4) made of one image.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import config
from agents.pretrained import load_predictor

SIZES = "--configs defaults dmc2gym --device cpu --z_dim 3 --dyn_stoch 4 --dyn_deter 8"
SIZES += " --dyn_hidden 8 --cnn_depth 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    there = tmp_path_factory.mktemp("predictors")
    with tarfile.open(Path(__file__).with_name("predictors.tar.xz")) as archive:
        archive.extractall(there)
    return there


@pytest.mark.parametrize("kind", ["beta_vae", "plain"])
@pytest.mark.parametrize("names", ["ours", "authors"])
def test_it_sees_remembers_and_draws_as_it_did(folder, kind, names):
    flags = ["--beta_vae", str(kind == "beta_vae")]
    flags += ["--pretrain_checkpoint_path", str(folder / kind / names)]
    model = load_predictor(config.parse([*SIZES.split(), *flags]))
    image = torch.arange(64 * 64 * 3).reshape(1, 1, 64, 64, 3).remainder(256).to(torch.uint8)
    first = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        embed = model.encode(image).embed
        post, _ = model.rssm.observe(embed, torch.ones(1, 1, 2), first, sample=False)
        picture = model.decoder(model.rssm.get_feat(post)).mode()
    expected = np.load(folder / kind / "expected.npz")
    np.testing.assert_allclose(embed, expected["embed"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(post["deter"], expected["deter"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(picture, expected["picture"], rtol=2e-3, atol=1e-3)
