"""The networks: sizes, starting weights, and the RSSM step by step in NumPy with its weights."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from distributions import OneHot, UnitNormal
from networks import (
    BetaVAEDecoder,
    BetaVAEEncoder,
    ImageConfig,
    PlainDecoder,
    PlainEncoder,
)
from rssm import RSSM, RSSMConfig

B, T, E, A, S, D, K = 3, 6, 4, 2, 5, 8, 3  # batch, time, embedding, action, stoch, deter, classes


def make_rssm(**settings):
    """A small RSSM whose every parameter is random: a fresh LayerNorm is hard to see."""
    torch.manual_seed(0)
    rssm = RSSM(E, A, RSSMConfig(stoch=S, deter=D, hidden=7, **settings))
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return rssm


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    embed = torch.randn(B, T, E, generator=generator)
    action = torch.randn(B, T, A, generator=generator)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = True
    first[1, 3] = first[2, 1] = first[2, 5] = True
    return embed, action, first


class NumpyRSSM:
    """One step of the RSSM as its paper describes it, in float64."""

    def __init__(self, rssm):
        self.w = {k: v.double().numpy() for k, v in rssm.state_dict().items()}
        self.c = rssm.config

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def mlp(self, name, x):
        layer = 0
        while f"{name}.{layer}.weight" in self.w:
            x = self.linear(f"{name}.{layer}", x)
            x = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))  # ELU
            layer += 2
        return x

    def gru(self, x, h):
        gates = self.linear("cell.layer", np.concatenate([x, h], -1))
        if self.c.cell == "gru_layer_norm":
            gates = (gates - gates.mean(-1, keepdims=True)) / np.sqrt(
                gates.var(-1, keepdims=True) + 1e-5
            )
            gates = gates * self.w["cell.norm.weight"] + self.w["cell.norm.bias"]
        reset, candidate, update = gates[..., :D], gates[..., D : 2 * D], gates[..., 2 * D :]
        candidate = np.tanh(candidate / (1 + np.exp(-reset)))
        update = 1 / (1 + np.exp(-(update - 1)))
        return update * candidate + (1 - update) * h

    def recur(self, stoch, deter, action):
        stoch = stoch.reshape(len(stoch), -1)
        return self.gru(self.mlp("inputs", np.concatenate([stoch, action], -1)), deter)

    def stats(self, name, x):
        x = self.linear(f"{name}_stats", self.mlp(name, x))
        if self.c.discrete:
            return {"logit": x.reshape(*x.shape[:-1], S, K)}
        mean, std = x[..., :S], x[..., S:]
        if self.c.mean_act == "tanh5":
            mean = 5 * np.tanh(mean / 5)
        std = {
            "sigmoid2": lambda s: 2 / (1 + np.exp(-s / 2)),
            "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
            "softplus": lambda s: np.log1p(np.exp(s)),
            "abs": lambda s: np.abs(s + 1),
        }[self.c.std_act](std)
        return {"mean": mean, "std": std + 0.1}

    def prior(self, deter):
        return self.stats("prior", deter)

    def posterior(self, deter, embed):
        x = np.concatenate([deter, embed], -1) if self.c.temp_post else embed
        return self.stats("posterior", x)


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=2e-5)


CASES = [
    {},
    {"cell": "gru"},
    {"temp_post": False},
    {"input_layers": 2, "output_layers": 3},
    {"mean_act": "tanh5", "std_act": "softplus"},
    {"std_act": "abs"},
    {"std_act": "sigmoid"},
    {"discrete": K},
    {"discrete": K, "temp_post": False, "cell": "gru"},
    {"keep_first_action": True},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("sample", [True, False])
@torch.no_grad()
def test_observe_is_the_recursion_written_out(settings, sample):
    """Every step is computed again from the latents that were drawn before it."""
    rssm = make_rssm(**settings)
    reference, (embed, action, first) = NumpyRSSM(rssm), make_inputs()
    post, prior = rssm.observe(embed, action, first, sample=sample)
    embeds, actions, keep = (x.double().numpy() for x in (embed, action, ~first))
    drawn = post["stoch"].double().numpy().reshape(B, T, -1)
    deter, stoch = np.zeros((B, D)), np.zeros(drawn.shape[::2])
    for t in range(T):
        kept = keep[:, t, None]
        fed = actions[:, t] if settings.get("keep_first_action") else actions[:, t] * kept
        deter = reference.recur(stoch * kept, deter * kept, fed)
        close(post["deter"][:, t], deter)
        for name, value in reference.posterior(deter, embeds[:, t]).items():
            close(post[name][:, t], value)
        for name, value in reference.prior(deter).items():
            close(prior[name][:, t], value)
        stoch = drawn[:, t]
    assert torch.equal(post["deter"], prior["deter"])
    assert all(v.shape[:2] == (B, T) for v in [*post.values(), *prior.values()])
    if not sample and not rssm.discrete:
        assert torch.equal(post["stoch"], post["mean"])


@torch.no_grad()
def test_the_posterior_is_drawn_with_its_mean_and_std():
    rssm = make_rssm()
    torch.manual_seed(2)
    embed = torch.randn(60, 20, E)
    post, prior = rssm.observe(embed, None, torch.zeros(60, 20, dtype=torch.bool))
    noise = (post["stoch"] - post["mean"]) / post["std"]  # [60, 20, S]
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:, 1:].flatten(), noise[:, :-1].flatten())[0, 1]) < 0.05
    assert abs(np.corrcoef(noise[1:].flatten(), noise[:-1].flatten())[0, 1]) < 0.05
    torch.testing.assert_close(prior["stoch"], prior["mean"])


@torch.no_grad()
def test_discrete_latents_are_one_hot_and_follow_their_logits():
    rssm = make_rssm(discrete=K)
    torch.manual_seed(3)
    embed = torch.randn(1, 1, E).expand(3000, 1, E)
    post, _ = rssm.observe(embed, None, torch.ones(3000, 1, dtype=torch.bool))
    assert post["stoch"].shape == (3000, 1, S, K)
    assert ((post["stoch"].round() == 1).sum(-1) == 1).all()
    probs = post["logit"][0, 0].softmax(-1)
    torch.testing.assert_close(post["stoch"].mean((0, 1)), probs, atol=0.04, rtol=0)
    assert rssm.get_feat(post).shape == (3000, 1, S * K + D)
    mode, _ = rssm.observe(embed, None, torch.ones(3000, 1, dtype=torch.bool), sample=False)
    assert torch.equal(mode["stoch"].argmax(-1), mode["logit"].argmax(-1))


@pytest.mark.parametrize("discrete", [0, K])
def test_gradients_reach_earlier_latents_but_not_across_a_first_row(discrete):
    rssm = make_rssm(discrete=discrete)
    embed, action, first = make_inputs()
    embed, action = embed.requires_grad_(), action.requires_grad_()
    torch.manual_seed(4)
    post, _ = rssm.observe(embed, action, first)
    by_embed, by_action = torch.autograd.grad(post["deter"][:, 4].sum(), (embed, action))
    reached = by_embed.abs().sum(-1) > 0  # [B, T]
    assert reached.tolist() == [
        [True, True, True, True, False, False],
        [False, False, False, True, False, False],  # row 3 is a first one
        [False, True, True, True, False, False],  # row 1 is a first one
    ]
    reached = by_action.abs().sum(-1) > 0
    assert reached.tolist() == [
        [False, True, True, True, True, False],
        [False, False, False, False, True, False],
        [False, False, True, True, True, False],
    ]


@torch.no_grad()
def test_no_action_equals_zero_actions():
    rssm = make_rssm()
    embed, action, first = make_inputs()
    none, zero, some = (
        rssm.observe(embed, given, first, sample=False)[0]["stoch"]
        for given in (None, torch.zeros_like(action), action)
    )
    assert torch.equal(none, zero)
    assert not torch.equal(none, some)


KEPT = {"keep_first_action": True}


@pytest.mark.parametrize("settings", [{}, {"discrete": K}, {"temp_post": False}, KEPT], ids=str)
@torch.no_grad()
def test_obs_step_by_step_is_observe(settings):
    """Who acts has taken no action before an episode's first row, whatever training is fed."""
    rssm = make_rssm(**settings)
    embed, action, first = make_inputs()
    given, action = action, action * ~first[..., None]
    whole, _ = rssm.observe(embed, action, first, sample=False)
    state = rssm.initial(B)
    for t in range(T):
        state = rssm.obs_step(state, given[:, t], embed[:, t], first[:, t], sample=False)
        for name in whole:
            torch.testing.assert_close(state[name], whole[name][:, t])


@pytest.mark.parametrize("settings", [{}, {"discrete": K}, {"cell": "gru"}], ids=str)
@torch.no_grad()
def test_imagine_is_the_prior_step_after_step(settings):
    rssm = make_rssm(**settings)
    reference = NumpyRSSM(rssm)
    embed, action, first = make_inputs()
    post, _ = rssm.observe(embed, action, first)
    start = {k: v[:, -1] for k, v in post.items()}
    torch.manual_seed(6)
    dream = rssm.imagine(action, start)
    stoch, deter = start["stoch"].double().numpy(), start["deter"].double().numpy()
    for t in range(T):
        deter = reference.recur(stoch, deter, action[:, t].double().numpy())
        close(dream["deter"][:, t], deter)
        for name, value in reference.prior(deter).items():
            close(dream[name][:, t], value)
        stoch = dream["stoch"][:, t].double().numpy()
    mode = rssm.imagine(action, start, sample=False)
    if rssm.discrete:
        assert torch.equal(mode["stoch"].argmax(-1), mode["logit"].argmax(-1))
    else:
        assert torch.equal(mode["stoch"], mode["mean"])
        assert (dream["stoch"] - dream["mean"]).abs().min() > 0


def test_initial_feat_and_dist():
    rssm = make_rssm()
    state = rssm.initial(2)
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes == {"stoch": (2, S), "mean": (2, S), "std": (2, S), "deter": (2, D)}
    assert all((v == 0).all() for v in state.values())
    state = {k: torch.randn(2, *v.shape[1:]).exp() for k, v in state.items()}
    assert torch.equal(rssm.get_feat(state), torch.cat([state["stoch"], state["deter"]], -1))
    dist = rssm.get_dist(state)
    expected = torch.distributions.Normal(state["mean"], state["std"]).entropy().sum(-1)
    torch.testing.assert_close(dist.entropy(), expected)
    assert isinstance(make_rssm(discrete=K).get_dist({"logit": torch.zeros(2, S, K)}), OneHot)


ENCODERS = [(PlainEncoder, PlainDecoder, 128), (BetaVAEEncoder, BetaVAEDecoder, 5)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("encoder", "decoder", "size"), ENCODERS)
@torch.no_grad()
def test_encoders_and_decoders(encoder, decoder, size, channels):
    """A frame's numbers are its own: the leading dimensions are not mixed up."""
    c = ImageConfig(depth=4, z_dim=5, channels=channels)
    encoder, decoder = encoder(c), decoder(9, c)
    image, feat = torch.rand(2, 3, 64, 64, channels) - 0.5, torch.randn(2, 3, 9)
    assert encoder.embed_size == size
    embed = encoder(image).embed
    assert embed.shape == (2, 3, size)
    torch.testing.assert_close(encoder(image[1, 2]).embed, embed[1, 2], rtol=1e-4, atol=1e-5)
    dist = decoder(feat)
    assert isinstance(dist, UnitNormal)
    assert dist.mode().shape == (2, 3, 64, 64, channels)
    assert dist.log_prob(image).shape == (2, 3)
    torch.testing.assert_close(decoder(feat[1, 2]).mode(), dist.mode()[1, 2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_latents_statistics_and_its_sample():
    torch.manual_seed(7)
    encoder, image = BetaVAEEncoder(ImageConfig(z_dim=5)), torch.rand(2, 64, 64, 3) - 0.5
    noise = encoder.draw_noise(2)
    embed, mean, logvar = encoder(image, noise)
    stats = encoder.stats(encoder.layers(image.permute(0, 3, 1, 2)).flatten(1))
    torch.testing.assert_close(torch.cat([mean, logvar], -1), stats, rtol=1e-4, atol=1e-5)
    assert noise.shape == (2, 5)
    torch.testing.assert_close(embed, mean + noise * (logvar / 2).exp())
    assert torch.equal(encoder(image).embed, mean)
    plain = PlainEncoder(ImageConfig())
    assert plain.embed_size == 1024
    assert plain.draw_noise(2) is None
    assert plain(image)[1:] == (None, None)


def test_the_encoder_sees_rows_columns_and_channels_where_they_are():
    """A convolution written out for one output pixel of the first layer."""
    encoder = BetaVAEEncoder(ImageConfig(z_dim=3))
    image = torch.rand(1, 64, 64, 3) - 0.5
    caught = []
    encoder.layers[0].register_forward_hook(
        lambda module, args, out: caught.append(out.clone())  # the ELU overwrites it
    )
    encoder(image)
    weight, (row, column) = encoder.layers[0].weight.detach().numpy(), (10, 21)
    patch = image[0, 2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3].numpy()
    expected = np.einsum("oijk,jki->o", weight, patch)  # a new encoder's biases are 0
    np.testing.assert_allclose(
        caught[0][0, :, row, column].detach(), expected, rtol=1e-4, atol=1e-5
    )


def test_starting_weights_are_kaiming_and_biases_zero():
    torch.manual_seed(8)
    modules = [BetaVAEEncoder(ImageConfig()), BetaVAEDecoder(250, ImageConfig())]
    for layer in (m for module in modules for m in module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight = layer.weight.detach()
            fan_in = weight[0].numel()
            assert weight.std() * (fan_in / 2) ** 0.5 == pytest.approx(1, abs=0.1)
            assert (layer.bias == 0).all()
        elif isinstance(layer, nn.ConvTranspose2d):  # PyTorch's own: uniform, narrow
            bound = (layer.weight.shape[1] * layer.weight[0, 0].numel()) ** -0.5
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() > 0


def test_an_encoder_of_more_layers_than_the_image_has_room_for_is_refused():
    with pytest.raises(ValueError, match="too small"):
        PlainEncoder(ImageConfig(encoder_kernels=(4, 4, 4, 4, 4)))
