"""A policy's step against the same step written out; its noise; and whose weights act when."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from tests.helpers.models import A, copied, equal, make_batch, stored
from tests.helpers.models import make_agent as make_fresh
from tests.helpers.models import make_obs as look
from tests.helpers.runs import refusal

N = 3


def make_agent(seed=0, **changes):
    agent = make_fresh(seed, **changes)
    with torch.no_grad():  # fresh biases and norms hide what is left out
        for name, parameter in agent.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    agent.sync()
    return agent


def make_obs(seed=0, first=False):
    obs = look(seed, N, first)
    obs["is_first"][1] = True  # one of them begins anew
    return obs


class ByHand:
    """One step of a policy in float64, from an agent's weights alone."""

    def __init__(self, agent):
        self.c = agent.config
        weights = agent.save_state()["weights"]
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
    expected = agent.policy.initial(N)
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


# Noise


def same_views(envs):
    obs = look(envs=envs)
    return {**obs, "image": np.broadcast_to(obs["image"][:1], obs["image"].shape)}


def test_discrete_actions_are_the_mode_in_evaluation_and_samples_in_training():
    agent, obs = make_fresh(actor_dist="onehot", eval_state_mean=True), same_views(64)
    action, latent = agent.act(obs, None, "eval")
    head = agent.behavior.actor
    logits = head.out(head.layers(torch.cat([latent["mean"], latent["deter"]], -1)))
    np.testing.assert_allclose(action, F.one_hot(logits.argmax(-1), A), atol=1e-5)
    trained, _ = agent.act(obs, None, "train")
    assert len(np.unique(trained.round(4), axis=0)) == A


@pytest.mark.parametrize(("key", "mode"), [("eval_noise", "eval"), ("expl_amount", "train")])
def test_noise_is_added_in_its_own_mode(key, mode):
    obs, actions = same_views(200), {}
    for noise in (0.0, 0.3):
        agent = make_fresh(**{key: noise})
        for played in ("eval", "train"):
            torch.manual_seed(5)
            actions[noise, played], _ = agent.act(obs, None, played)
    other = "train" if mode == "eval" else "eval"
    np.testing.assert_array_equal(actions[0.0, other], actions[0.3, other])
    noise = actions[0.3, mode] - actions[0.0, mode]
    inside = np.abs(actions[0.0, mode]) < 0.15  # where the clip to ±1 is far
    assert inside.sum() > 40
    assert noise[inside].std() == pytest.approx(0.3, rel=0.3)
    assert np.abs(actions[0.3, mode]).max() <= 1


def test_noise_on_discrete_actions_is_another_action():
    agent = make_fresh(actor_dist="onehot", eval_noise=0.5)
    agent.behavior.actor.out.bias.data = torch.tensor([50.0, -50.0])
    action, _ = agent.act(same_views(600), None, "eval")
    assert set(np.unique(action)) == {0.0, 1.0}
    assert action.mean(0) == pytest.approx([0.75, 0.25], abs=0.05)  # half of the noise hits itself


# Whose weights act


def actions(agent):
    """What the agent does from the same state with the same noise: in training, evaluation."""
    state = {name: torch.ones_like(value) for name, value in agent.policy.initial(N).items()}
    done = []
    for mode in ("train", "eval"):
        torch.manual_seed(0)
        done.append(agent.act(make_obs(), state, mode)[0])
    return done


same = np.array_equal


def test_with_overlap_actions_know_of_an_update_when_they_are_told():
    agent = make_agent(overlap="True")
    old_train, old_eval = actions(agent)
    agent.learn(make_batch(), 0)
    train, evaluation = actions(agent)
    assert same(train, old_train)
    assert not same(evaluation, old_eval)  # evaluations see the newest weights
    behind = stored(agent.save_state())
    other = make_agent(seed=8, overlap="True")  # the copy is in the checkpoint
    other.load_state(behind)
    assert same(actions(other), [train, evaluation])
    agent.sync()
    other.sync()
    newest = actions(agent)
    assert not same(newest[0], old_train)
    assert same(newest[1], evaluation)
    assert same(actions(other), newest)
    plain = make_agent(seed=8, overlap="False")  # without a copy to take up, the newest act
    plain.load_state(behind)
    assert same(actions(plain), newest)


@pytest.mark.parametrize("overlap", ["False", "auto"])
def test_without_overlap_they_follow_at_once(overlap):
    agent = make_agent(overlap=overlap)
    before = actions(agent)
    agent.learn(make_batch(), 0)
    after = actions(agent)
    assert not any(same(*pair) for pair in zip(before, after, strict=True))
    agent.sync()  # there is nothing to bring up to date
    assert same(actions(agent), after)
    state = stored(agent.save_state())
    assert state["policy"] is None
    other = make_agent(seed=8, overlap="True")
    other.load_state(state)
    assert same(actions(other), after)


def test_the_copy_has_every_weight_that_acts():
    agent = make_agent(overlap="True")
    for part in (agent.world_model.encoder, agent.world_model.rssm, agent.behavior.actor):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    agent.sync()
    live = make_agent(overlap="False")
    live.load_state(agent.save_state() | {"policy": None})
    assert same(actions(agent)[0], actions(live)[0])


def test_the_copy_does_not_learn(tiny):
    agent = make_agent(overlap="True", teacher=tiny.teacher)
    before = {name: value.clone() for name, value in agent.save_state()["policy"].items()}
    assert copied(agent).keys() == copied(make_agent(teacher=tiny.teacher)).keys()
    agent.learn(make_batch(), 0)
    assert equal(agent.save_state()["policy"], before)


@pytest.mark.parametrize("key", ["eval_noise", "expl_amount"])
def test_noise_of_choices_is_a_share(key):
    line = refusal(lambda: make_fresh(actor_dist="onehot", **{key: 1.5}))
    assert line.startswith(f"--{key} 1.5: for discrete actions")
