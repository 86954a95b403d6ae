"""A policy's step against the same step written out; and whose weights act when."""

import dataclasses
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import config
from agents.diswm import Agent
from models import VideoPredictor

N, A, B, T = 3, 2, 2, 4
FLAGS = "--configs defaults dmc2gym --device cpu --precision 32 --beta_vae True --z_dim 3 "
FLAGS += "--dyn_stoch 4 --dyn_deter 6 --dyn_hidden 7 --units 8 --cnn_depth 2 --actor_layers 2 "
FLAGS += "--imag_horizon 2"


def make_agent(seed=0, runtime=None, **changes):
    torch.manual_seed(seed)
    c = config.parse(FLAGS.split()).replace(**changes)
    runtime = dataclasses.replace(Runtime.resolve(c), **(runtime or {}))
    agent = Agent(c, runtime, A, VideoPredictor(c, 0) if c.distillation else None)
    with torch.no_grad():  # fresh biases and norms hide what is left out
        for name, parameter in agent.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    agent.refresh()
    return agent


def make_obs(seed=0, first=False):
    image = np.random.default_rng(seed).integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
    is_first = np.full(N, first)
    is_first[1] = True  # one of them begins anew
    return {"image": image, "is_first": is_first}


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (B, T, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (B, T, A)).astype(np.float32),
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "discount": np.ones((B, T), np.float32),
        "is_first": np.eye(1, T, dtype=bool).repeat(B, 0),
    }


class ByHand:
    """One step of a policy in float64, from an agent's weights alone."""

    def __init__(self, agent):
        self.c = agent.config
        weights = agent.state_dict()["weights"]
        self.w = {name: value.double() for name, value in weights.items()}

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def mlp(self, name, x):
        layer = 0
        while f"{name}.{layer}.weight" in self.w:
            x, layer = F.elu(self.linear(f"{name}.{layer}", x)), layer + 2
        return x

    def embed(self, image, noise):
        name = "world_model.encoder"
        x = torch.as_tensor(image).double().permute(0, 3, 1, 2) / 255 - 0.5
        layers = [(2, 1)] * 4 + [(1, 0)] if self.c.beta_vae else [(2, 0)] * 4
        for layer, (stride, padding) in enumerate(layers):
            weight, bias = (self.w[f"{name}.layers.{2 * layer}.{p}"] for p in ("weight", "bias"))
            x = F.elu(F.conv2d(x, weight, bias, stride, padding))
        x = x.flatten(1)
        if not self.c.beta_vae:
            return x
        mean, logvar = self.linear(f"{name}.stats", x).chunk(2, -1)
        return mean if noise is None else mean + noise * (logvar / 2).exp()

    def latent(self, state, embed, is_first, noise):
        name, keep = "world_model.rssm", torch.tensor(~is_first).double()[:, None]
        stoch, deter, action = (state[k].double() * keep for k in ("stoch", "deter", "action"))
        action = F.pad(action, (0, self.c.action_num_gap))
        x = self.mlp(f"{name}.inputs", torch.cat([stoch, action], -1))
        gates = self.linear(f"{name}.cell.layer", torch.cat([x, deter], -1))
        gates = F.layer_norm(
            gates, gates.shape[-1:], *(self.w[f"{name}.cell.norm.{p}"] for p in ("weight", "bias"))
        )
        reset, candidate, update = gates.chunk(3, -1)
        candidate, update = torch.tanh(reset.sigmoid() * candidate), (update - 1).sigmoid()
        deter = update * candidate + (1 - update) * deter
        x = self.mlp(f"{name}.posterior", torch.cat([deter, embed], -1))
        mean, std = self.linear(f"{name}.posterior_stats", x).chunk(2, -1)
        std = 2 * (std / 2).sigmoid() + self.c.dyn_min_std
        stoch = mean if noise is None else mean + std * noise
        return {"mean": mean, "std": std, "deter": deter, "stoch": stoch}

    def action(self, latent, noise):
        feat = torch.cat([latent["stoch"], latent["deter"]], -1)
        x = self.mlp("behavior.actor.layers", feat)
        mean, std = (v.numpy() for v in self.linear("behavior.actor.out", x).chunk(2, -1))
        mean, std = np.tanh(mean), 2 / (1 + np.exp(-std / 2)) + self.c.actor_min_std
        if noise is None:
            return mean
        edges = (-1 - mean) / std, (1 - mean) / std
        return stats.truncnorm.ppf(noise.double().numpy(), *edges, loc=mean, scale=std)


def draw(c, mode):
    """The noise of one step, in the order in which it is drawn."""
    embed = torch.randn(N, 1, c.z_dim)[:, 0] if c.beta_vae and not c.eval_state_mean else None
    sampled = c.collect_dyn_sample and not c.eval_state_mean
    latent = torch.randn(N, c.dyn_stoch) if sampled else None
    return embed, latent, torch.rand(N, A) if mode == "train" else None


SETTINGS = [
    {},
    {"action_num_gap": 2},
    {"collect_dyn_sample": False},
    {"eval_state_mean": True},
    {"beta_vae": False},
    {"overlap": "True"},
    {"precision": "bf16"},  # acting is in float32 all the same
    {"image_chunk": 2},
]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_a_step_is_encoder_recursion_and_actor(changes, mode):
    agent = make_agent(**changes)
    reference, state = ByHand(agent), None
    expected = {"stoch": torch.zeros(N, 4), "deter": torch.zeros(N, 6), "action": torch.zeros(N, A)}
    for turn in range(3):
        obs = make_obs(turn, first=turn == 0)
        torch.manual_seed(turn)
        action, state = agent.act(obs, state, mode)
        after = torch.get_rng_state()
        torch.manual_seed(turn)
        noise = draw(agent.config, mode)
        assert torch.equal(torch.get_rng_state(), after)  # it draws that, and nothing else
        embed = reference.embed(obs["image"], noise[0])
        latent = reference.latent(expected, embed, obs["is_first"], noise[1])
        by_hand = reference.action(latent, noise[2])
        assert action.shape == (N, A)
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, by_hand, atol=3e-5)
        np.testing.assert_array_equal(state["action"], action)
        assert set(state) == {*latent, "action"}
        for name, value in latent.items():
            np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=3e-5)
            assert state[name].dtype is torch.float32
            assert not state[name].requires_grad
        expected = state
    assert np.ptp(action, axis=0).min() > 1e-3  # the environments are told apart


@pytest.mark.parametrize("graphs", [False, True])
def test_what_a_step_gave_stays_as_it_is(graphs):
    agent = make_agent(runtime={"graphs": graphs})
    _, state = agent.act(make_obs(0, first=True), None, "train")
    kept = {name: value.clone() for name, value in state.items()}
    agent.act(make_obs(1), state, "train")
    agent.act(make_obs(2), state, "eval")
    assert all(torch.equal(state[name], value) for name, value in kept.items())


# Whose weights act


def actions(agent, seed=0):
    """What the agent does from the same state with the same noise: in training, evaluation."""
    state = {name: torch.ones_like(value) for name, value in agent.initial(N).items()}
    done = []
    for mode in ("train", "eval"):
        torch.manual_seed(seed)
        done.append(agent.act(make_obs(seed), state, mode)[0])
    return done


def same(one, other):
    return np.array_equal(one, other)


def test_with_overlap_actions_know_of_an_update_when_they_are_told():
    agent = make_agent(overlap="True")
    old_train, old_eval = actions(agent)
    agent.update(make_batch())
    train, evaluation = actions(agent)
    assert same(train, old_train)
    assert not same(evaluation, old_eval)  # evaluations see the newest weights
    new_eval = evaluation
    agent.refresh()
    train, evaluation = actions(agent)
    assert not same(train, old_train)
    assert same(evaluation, new_eval)
    plain = make_agent(overlap="False")
    plain.load_state_dict(agent.state_dict())
    assert same(actions(plain)[0], train)


@pytest.mark.parametrize("overlap", ["False", "auto"])
def test_without_overlap_they_follow_at_once(overlap):
    agent = make_agent(overlap=overlap)
    before = actions(agent)
    agent.update(make_batch())
    after = actions(agent)
    assert not same(after[0], before[0])
    assert not same(after[1], before[1])
    agent.refresh()  # there is nothing to bring up to date
    assert same(actions(agent)[0], after[0])
    assert agent.state_dict()["acting"] is None


def test_the_copy_has_every_weight_that_acts():
    agent = make_agent(overlap="True")
    behavior, model = agent.behavior, agent.world_model
    for part in (model.encoder, model.rssm, behavior.actor):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    agent.refresh()
    live = make_agent(overlap="False")
    live.load_state_dict(agent.state_dict() | {"acting": None})
    assert same(actions(agent)[0], actions(live)[0])


def test_the_copy_does_not_learn():
    agent = make_agent(overlap="True", distillation=True)
    before = {k: v.clone() for k, v in agent.state_dict()["acting"].items()}
    numbers = sum(p.numel() for p in agent.parameters())
    assert numbers == sum(p.numel() for p in make_agent(distillation=True).parameters())
    for seed in range(2):
        agent.update(make_batch(seed))
    after = agent.state_dict()["acting"]
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def through_a_file(state):
    torch.save(state, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_copy_is_in_the_checkpoint():
    agent = make_agent(overlap="True")
    agent.update(make_batch())  # the copy now lags behind
    expected = actions(agent)
    other = make_agent(seed=8, overlap="True")
    other.load_state_dict(through_a_file(agent.state_dict()))
    assert same(actions(other)[0], expected[0])
    assert same(actions(other)[1], expected[1])
    other.refresh()
    agent.refresh()
    assert same(actions(other)[0], actions(agent)[0])
    assert not same(actions(other)[0], expected[0])


@pytest.mark.parametrize("overlaps", [True, False])
def test_a_checkpoint_goes_with_either_setting(overlaps):
    """Where there is no copy to take up, the newest weights act."""
    agent = make_agent(overlap=str(overlaps))
    agent.update(make_batch())
    other = make_agent(seed=8, overlap=str(not overlaps))
    other.load_state_dict(through_a_file(agent.state_dict()))
    agent.refresh()
    assert same(actions(other)[0], actions(agent)[0])
    assert same(actions(other)[1], actions(agent)[1])


def test_a_checkpoint_from_before_there_were_copies():
    agent = make_agent(overlap="True")
    agent.update(make_batch())
    state = through_a_file(agent.state_dict())
    del state["acting"]
    other = make_agent(seed=8, overlap="True")
    other.load_state_dict(state)
    agent.refresh()
    assert same(actions(other)[0], actions(agent)[0])
