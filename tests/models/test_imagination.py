"""Imagination in a real world model: discrete actions, the noise that it takes, frozen weights."""

import contextlib

import pytest
import torch
from torch import nn

from agents.model_configs import behavior_config, world_model_config
from behavior import ActorCritic, ImagineNoise, frozen
from models import WorldModel
from tests.helpers.models import make_config
from tests.models.test_behavior import SCALES, SIZES, H, N


def make_dream(actions, **changes):
    """A real world model, an actor in it, and its dream from some states."""
    torch.manual_seed(1)
    c = make_config(**SIZES | changes)
    world = WorldModel(world_model_config(c), actions)
    behavior = ActorCritic(behavior_config(c), world.rssm.feat_size, actions)
    start = {k: torch.randn(N, *v.shape[1:]).abs() for k, v in world.rssm.initial(N).items()}
    noise = behavior.draw_noise(world, N)
    with frozen(world.parameters()):
        return world, behavior, behavior.rollout(world, start, noise), (start, noise)


@pytest.mark.parametrize("dist", ["onehot", "onehot_gumble"])
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_discrete_actions_in_a_real_world_model(dist, gradient):
    flags = {"actor_dist": dist, "imag_gradient": gradient, "action_num_gap": 2}
    world, behavior, dream, _ = make_dream(3, **flags)
    with frozen(world.parameters()):
        scales = {k: torch.tensor(v) for k, v in SCALES.items()}
        target, _, cumulative, _ = behavior.targets(world, dream, scales)
        loss = behavior.actor_loss(world, dream, target, cumulative, scales)
    assert ((dream.action > 0.999).sum(-1) == 1).all()
    torch.testing.assert_close(dream.action.sum(-1), torch.ones(H, N))
    if gradient == "reinforce":
        logits = behavior.actor.out(behavior.actor.layers(dream.feat[:-1]))
        expected = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(dream.log_prob, expected.log_prob(dream.action.argmax(-1)))
    loss.backward()
    assert all((p.grad != 0).any() for p in behavior.actor.parameters())
    assert all(p.grad is None for p in [*world.parameters(), *behavior.value.parameters()])


@pytest.mark.parametrize("sample", [True, False])
@torch.no_grad()
def test_a_dream_is_its_noise_and_imag_sample_decides_about_the_latents(sample):
    world, behavior, dream, (start, noise) = make_dream(2, imag_sample=sample)
    mean, std, stoch = (dream.state[name][1:] for name in ("mean", "std", "stoch"))
    torch.testing.assert_close(stoch, mean + std * noise.latent if sample else mean)
    before = torch.get_rng_state()
    again = behavior.rollout(world, start, noise)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.feat, dream.feat)
    for index, part in enumerate(noise):
        parts = [*noise]
        parts[index] = part.flip(1)
        other = behavior.rollout(world, start, ImagineNoise(*parts))
        assert torch.equal(other.feat, dream.feat) == (index == 1 and not sample)


def test_frozen_lets_gradients_through_and_restores():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with contextlib.suppress(KeyError), frozen(layer.parameters()):
        layer(x).sum().backward()
        raise KeyError
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
