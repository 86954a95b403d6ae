"""Images of 64, 96 and 128: stacks, an update, files; another's teacher; 84 without a model."""

import math
import re

import numpy as np
import pytest
import torch

from accel.runtime import Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from agents.model_configs import check_networks, grown_kernels, predictor_config
from agents.pretrained import load_predictor, save_predictor
from agents.registry import agent_class
from models import VideoPredictor
from networks import SIDES, make_decoder, make_encoder
from tests.helpers.models import A, make_batch, make_config, make_obs, stored
from tests.helpers.runs import assert_same, refusal

SIZES = sorted(SIDES)
every_size = pytest.mark.parametrize("side", SIZES)
either = pytest.mark.parametrize("beta_vae", [True, False])


def config_of(side, beta_vae=True, **changes):
    return make_config(size=(side, side), beta_vae=beta_vae, **changes)


def convolved(sides, padding):
    """Sides through convolutions of stride 2 (out = ⌊(in + 2p − k) / 2⌋ + 1), by kernel."""
    side, found = sides[0], []
    for kernel in sides[1:]:
        side = math.floor((side + 2 * padding - kernel) / 2) + 1
        found.append(side)
    return found


@every_size
def test_the_beta_vae_halves_down_to_a_pixel_and_doubles_back(side):
    image = predictor_config(config_of(side)).image
    encoder, decoder = make_encoder(image), make_decoder(5, image)
    seen = sides_of(encoder.layers, torch.zeros(1, image.channels, side, side))
    halvings = 4 if side == 64 else 5
    assert seen == [*convolved([side, *[4] * halvings], 1), 1]
    drawn = sides_of(decoder.layers, torch.zeros(1, 256, 1, 1))
    assert drawn == [side // 2**n for n in range(halvings, -1, -1)]
    assert decoder(torch.zeros(2, 5)).mode().shape == (2, side, side, image.channels)
    assert encoder(torch.zeros(2, side, side, 3)).embed.shape == (2, image.z_dim)


def sides_of(layers, x):
    """The heights behind each convolution."""
    found = []
    for layer in layers:
        x = layer(x)
        if hasattr(layer, "kernel_size"):
            found.append(x.shape[2] if x.ndim == 4 else 1)
    return found


@every_size
@pytest.mark.parametrize(("thin", "kernels"), [(True, (5, 5, 6, 6)), (False, (5, 3, 4, 2))])
def test_dreamerv2s_cnn_grows_by_a_layer(side, thin, kernels):
    config = config_of(side, False, decoder_thin=thin, decoder_kernels=kernels)
    check_networks(config)
    image = predictor_config(config).image
    layers = 4 if side == 64 else 5
    assert image.encoder_kernels == (4,) * layers
    assert image.decoder_kernels[-4:] == kernels
    left = convolved([side, *image.encoder_kernels], 0)[-1]
    encoder, decoder = make_encoder(image), make_decoder(5, image)
    assert encoder.embed_size == image.depth * 2 ** (layers - 1) * left**2
    embed = encoder(torch.zeros(2, side, side, 3)).embed
    assert embed.shape == (2, encoder.embed_size)
    assert decoder(torch.zeros(2, 5)).mode().shape == (2, side, side, 3)


def test_kernels_that_already_fit_stay():
    given = {"encoder_kernels": (4, 4, 4, 4, 4), "decoder_kernels": (5, 5, 5, 6, 6)}
    assert grown_kernels(config_of(128, False, **given)) == tuple(given.values())


def agent_of(config, side, teacher=None):
    torch.manual_seed(0)
    return DisWM(config, Runtime.resolve(config), Spaces((side, side, 3), A, False), teacher)


@every_size
@either
def test_each_size_learns_acts_is_saved_and_comes_back(side, beta_vae, tmp_path):
    spaces = Spaces((side, side, 3), A, False)
    config = config_of(side, beta_vae, source_action_num=A)
    torch.manual_seed(1)
    save_predictor(tmp_path, VideoPredictor(predictor_config(config), A))
    given = {"distillation": True, "pretrain_checkpoint_path": str(tmp_path)}
    agents = [agent_of(config.replace(**given), side, tmp_path) for _ in range(2)]
    batch = make_batch(size=1, length=3, spaces=spaces)
    metrics = agents[0].learn(batch, 0).metrics
    assert all(torch.isfinite(value) for value in metrics.values())
    assert float(metrics["image_mse"]) < 1
    agents[1].load_state(stored(agents[0].save_state()))
    obs, acted = make_obs(envs=1, spaces=spaces), []
    for agent in agents:
        torch.manual_seed(3)  # it acts on a sample of the posterior
        acted.append([*agent.act(obs, None, "eval")])
    assert_same(*acted)
    assert agents[1].report(batch)["openl"].shape[-2] >= side


@either
@pytest.mark.parametrize(("own", "given"), [(64, 96), (96, 128), (128, 64)])
def test_a_teacher_of_another_size_is_refused_naming_both(own, given, beta_vae, tmp_path):
    torch.manual_seed(1)
    save_predictor(tmp_path, VideoPredictor(predictor_config(config_of(given, beta_vae)), A))
    config = config_of(own, beta_vae, pretrain_checkpoint_path=str(tmp_path))
    line = refusal(load_predictor, config)
    assert re.search(rf"--size {own} {own}: .* {given}×{given}: give --size {given} {given}", line)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (84, 84)])
def test_other_sizes_are_refused(size):
    line = refusal(check_networks, make_config(size=size))
    assert f"--size {size[0]} {size[1]}" in line
    assert "64 64, 96 96, 128 128" in line


@pytest.mark.parametrize("method", ["sac", "drqv2"])
def test_agents_without_a_model_take_84(method):
    small = ("--hidden_dim", 16, "--num_filters", 4, "--encoder_feature_dim", 8)
    words = ("--method_name", method, "--beta_vae", False, "--size", 84, 84, *small)
    config, kept = make_config(*words), agent_class(method)
    kept.check(config)
    spaces = Spaces((84, 84, 3), A, False)
    agents = []
    for seed in range(2):
        torch.manual_seed(seed)
        agents.append(kept(config, Runtime.resolve(config), spaces, None))
    rows = 6 if method == "drqv2" else 4
    update = agents[0].learn(make_batch(size=4, length=rows, spaces=spaces), 0)
    assert all(np.isfinite(float(value)) for value in update.metrics.values())
    agents[1].load_state(stored(agents[0].save_state()))
    acted = [agent.act(make_obs(envs=2, spaces=spaces), None, "eval")[0] for agent in agents]
    np.testing.assert_array_equal(*acted)
