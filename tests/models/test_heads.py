"""Heads: the distributions that they give, and their precision."""

import numpy as np
import pytest
import torch
from torch import nn

from distributions import Bernoulli, Huber, Normal, OneHot, TanhNormal, TruncatedNormal, UnitNormal
from heads import ActionHead, ActorConfig, DenseHead, HeadConfig
from networks import activation
from tests.models.test_networks import close


def test_action_heads():
    torch.manual_seed(9)
    feat, kinds = torch.randn(50, 4) * 3, {}
    for dist in ActionHead.CONTINUOUS + ActionHead.DISCRETE:
        head = ActionHead(4, 2, ActorConfig(1, 6, dist=dist, init_std=0.7, min_std=0.2))
        x = head.out(head.layers(feat)).detach().double()
        policy = head(feat)
        kinds[dist] = type(policy)
        assert policy.rsample().shape == policy.mode().shape == (50, 2)
        assert policy.entropy().shape == policy.log_prob(policy.rsample().detach()).shape == (50,)
        softplus = np.logaddexp(0, x[:, -2:] + 0.7) + 0.2
        if dist in ("trunc_normal", "normal_published"):
            close(policy.mode(), np.tanh(x[:, :2]))
            close(policy.std, 2 / (1 + np.exp(-x[:, 2:] / 2)) + 0.2)
            noise = torch.full((50, 2), 0.999 if dist == "trunc_normal" else 2.5)
            beyond = (policy.rsample(noise) > 1).any()
            assert beyond == (dist == "normal_published")
        elif dist == "tanh_normal":
            close(policy.mean, np.tanh(x[:, :2]))
            close(policy.std, softplus)
        elif dist == "tanh_normal_5":
            close(policy.mean, 5 * np.tanh(x[:, :2] / 5))
            close(policy.std, np.logaddexp(0, x[:, 2:] + 5) + 5)
        elif dist == "normal":
            close(policy.mean, x[:, :2])
            close(policy.std, softplus)
        elif dist == "normal_1":
            close(policy.mean, x)
            close(policy.std, np.ones((50, 2)))
    assert kinds == {
        "trunc_normal": TruncatedNormal,
        "tanh_normal": TanhNormal,
        "tanh_normal_5": TanhNormal,
        "normal": Normal,
        "normal_1": Normal,
        "normal_published": Normal,
        "onehot": OneHot,
        "onehot_gumble": OneHot,
    }


@pytest.mark.parametrize("kind", ["value", "actor"])
def test_what_a_head_says_is_not_rounded_to_bfloat16(kind):
    """At 200 bfloat16 counts in ones; the last layer's own arithmetic is float32's."""
    torch.manual_seed(3)
    value = kind == "value"
    config = HeadConfig(1, 8) if value else ActorConfig(1, 8, dist="normal_1")
    head = DenseHead(4, config) if value else ActionHead(4, 2, config)
    last = head.mean if value else head.out
    with torch.no_grad():
        last.bias.add_(200)
    feat = torch.randn(64, 4)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = head.layers(feat)
        said = head(feat).mode()
    assert (hidden.dtype, said.dtype) == (torch.bfloat16, torch.float32)
    weight, bias = (p.detach().double().numpy() for p in last.parameters())
    expected = hidden.detach().double().numpy() @ weight.T + bias
    np.testing.assert_allclose(said.detach(), expected, rtol=1e-6)
    (grad,) = torch.autograd.grad(said.sum(), last.weight)
    np.testing.assert_allclose(grad[0], hidden.detach().double().sum(0), rtol=1e-5, atol=1e-5)


def test_heads_small_things():
    feat = torch.randn(3, 5, 4)
    for name, kind in {"normal": UnitNormal, "huber": Huber, "binary": Bernoulli}.items():
        dist = DenseHead(4, HeadConfig(2, 6, dist=name))(feat)
        assert type(dist) is kind
        assert dist.mode().shape == (3, 5, 1)
    torch.manual_seed(0)
    own = ActionHead(4, 2, ActorConfig(1, 6)).out.weight
    torch.manual_seed(0)
    torch.testing.assert_close(
        ActionHead(4, 2, ActorConfig(1, 6, outscale=0.1)).out.weight, 0.1 * own
    )
    assert activation("SiLU") is nn.SiLU
    with pytest.raises(ValueError, match="'Elu' is no activation"):
        activation("Elu")
