"""DreamerV3's layers: blocks against a mask, kernels taken apart, how they begin."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import config
from agents.registry import METHODS
from baselines.dreamerv3 import network_config
from baselines.dreamerv3_model import ActorCritic, BehaviorConfig, WorldModel
from baselines.dreamerv3_networks import (
    ActorHead,
    BlockLinear,
    ChannelNorm,
    Decoder,
    NetworkConfig,
    RMSNorm,
    UpConv,
    linear,
    mixed,
)
from baselines.dreamerv3_rssm import RSSM
from tests.baselines.dreamerv3_by_hand import masked

TINY = NetworkConfig(deter=8, hidden=5, stoch=3, classes=4, blocks=2, depth=1, units=6, bins=9)


def test_a_layer_in_blocks_is_a_dense_one_with_a_mask():
    torch.manual_seed(0)
    layer = BlockLinear(6, 9, 3).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ masked(layer.weight) + layer.bias)
    assert masked(layer.weight).count_nonzero() == 18


def test_a_step_of_the_cell_keeps_blocks_apart():
    """A block of deter reaches its own gates only through itself and what all blocks see."""
    torch.manual_seed(0)
    rssm = RSSM(7, 2, TINY)
    with torch.no_grad():
        rssm.deter_in[0].weight.zero_()  # what all blocks see says nothing of deter any more
        rssm.cell_norm.forward = lambda x: x  # nor do the sizes of the others
    deter = torch.rand(1, 8).requires_grad_()
    weights = rssm.scan_weights()
    projected = rssm.project_action(weights, torch.rand(1, 2))
    after = rssm.recur(weights, torch.rand(1, 12), projected, deter)
    for g in range(2):
        mine = slice(4 * g, 4 * g + 4)
        grad = torch.autograd.grad(after[0, mine].sum(), deter, retain_graph=True)[0][0]
        assert grad[mine].all()
        assert not grad[4 - 4 * g : 8 - 4 * g].any()


def test_large_actions_count_as_one():
    torch.manual_seed(0)
    rssm = RSSM(7, 2, TINY)
    weights = rssm.scan_weights()
    far, near = (torch.tensor([[3.0, y]]) for y in (-0.5, -0.5))
    near[0, 0] = 1.0
    found = [rssm.project_action(weights, action) for action in (far, near)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("outputs", [3, 5])
def test_an_enlarging_convolution_is_one_on_repeated_pixels(outputs):
    torch.manual_seed(0)
    layer = UpConv(4, outputs).double()
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=2)
    torch.testing.assert_close(layer(x), plain)
    weigh = torch.randn_like(plain)
    wanted = [x, layer.weight, layer.bias]
    one, two = (torch.autograd.grad((y * weigh).sum(), wanted) for y in (layer(x), plain))
    torch.testing.assert_close(one, two)


def test_norms_are_of_the_last_dimension_or_of_channels():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=5)
    norm = RMSNorm(5).double()
    norm.scale.data = torch.tensor(scale)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * scale
    float32 = {"rtol": 1e-5, "atol": 1e-6}  # they compute in it
    np.testing.assert_allclose(norm.float()(torch.tensor(x)).detach(), expected, **float32)
    channels = ChannelNorm(5)
    channels.scale.data = torch.tensor(scale, dtype=torch.float32)
    found = channels(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found.detach(), expected, **float32)


def test_a_norm_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    norm, x, grad = RMSNorm(5), torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 4, 5)
    norm.scale.data.normal_()
    wanted = [x, norm.scale]
    found = torch.autograd.grad(norm(x), wanted, grad)
    formula = x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * norm.scale
    torch.testing.assert_close(found, torch.autograd.grad(formula, wanted, grad))
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_a_block_of_deter_draws_a_group_of_channels():
    torch.manual_seed(0)
    decoder = Decoder((16, 32, 3), TINY)
    seen = []
    decoder.first.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    feat = torch.zeros(2, TINY.feat_size)
    feat[1, TINY.flat_stoch + 4 :] = 1  # the second block
    assert decoder(feat).mode().shape == (2, 16, 32, 3)
    changed = (seen[0][0] != seen[0][1]).flatten(0, 1).any(0)
    assert changed.tolist() == [False, False, True, True]


def test_a_share_of_each_categorical_is_uniform():
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    probs = mixed(logits, 0.2).exp()
    exact = np.exp(logits.double().numpy())
    exact = 0.8 * exact / exact.sum(-1, keepdims=True) + 0.05
    np.testing.assert_allclose(probs, exact, rtol=1e-6)


def test_a_latent_without_uniform_share_has_finite_logarithms():
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    logs = mixed(logits, 0.0)
    torch.testing.assert_close(logs.detach(), torch.tensor([[-200.0, 0.0]]))
    (logs.exp() * logs).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_actor_begins_wide_and_in_the_middle():
    torch.manual_seed(0)
    policy = ActorHead(2, False, TINY)(torch.randn(64, TINY.feat_size))
    assert policy.mean.abs().max() < 0.1
    start = 0.9 / (1 + math.exp(-2)) + 0.1
    assert (policy.std - start).abs().max() < 0.01
    discrete = ActorHead(4, True, TINY)(torch.randn(64, TINY.feat_size))
    assert (discrete.probs - 0.25).abs().max() < 0.02


def test_weights_begin_as_a_normal_of_the_inputs_cut_off():
    torch.manual_seed(0)
    dense, blocks = linear(400, 100), BlockLinear(400, 400, 8)
    for weight in (dense.weight, blocks.weight):
        assert weight.std().item() == pytest.approx(0.05, rel=0.03)  # 1 / √400, also in blocks
        assert weight.abs().max() <= 2 * 1.1368 * 0.05
    assert not dense.bias.any()
    world = WorldModel((16, 16, 3), 2, TINY)
    assert not world.reward.out.weight.any()
    behavior = ActorCritic(2, False, TINY, BehaviorConfig())
    assert not behavior.value.out.weight.any()


@pytest.mark.parametrize(
    ("blocks", "millions"),
    [
        (["dreamerv3_1m"], 0.7),
        (["dreamerv3"], 10.5),
        (["dreamerv3_12m"], 10.5),
        (["dreamerv3", "cpu", "dreamerv3_25m"], 23.5),
        (["dreamerv3_50m"], 41.6),
    ],
)
def test_sizes_are_those_of_their_names(blocks, millions):
    parsed = config.parse(["--configs", "defaults", "dmc2gym", *blocks], methods=METHODS)
    assert parsed.method_name == "dreamerv3"
    sizes = network_config(parsed, 0)
    with torch.device("meta"):
        parts = WorldModel((64, 64, 3), 6, sizes), ActorCritic(6, False, sizes, BehaviorConfig())
    count = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    assert count / 1e6 == pytest.approx(millions, rel=0.03)
