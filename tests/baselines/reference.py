"""Agents from pixels written out in NumPy and float64, from their weights alone."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def softplus(x):
    return np.logaddexp(0, x)


def conv(x, weight, bias, stride):
    """[B, C, H, W] → [B, O, H', W'], no padding."""
    views = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", views, weight) + bias[:, None, None]


class Nets:
    """The networks of an agent.

    Args:
        w: weights by their names in ``state_dict``, float64.
        layers: convolutions.
        last_relu, tanh: as the agent has them.
        shares_head: the actor sees the critic's feature.
    """

    def __init__(self, w, layers, last_relu=True, tanh=False, shares_head=False):
        self.w, self.layers, self.last_relu = w, layers, last_relu
        self.tanh, self.shares_head = tanh, shares_head

    def convs(self, net, obs):
        x = obs
        for i in range(self.layers):
            name = f"{net}.convs.layers.{i}"
            x = conv(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1 if i else 2)
            if self.last_relu or i < self.layers - 1:
                x = np.maximum(x, 0)
        return x.reshape(len(x), -1)

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def head(self, net, seen):
        x = self.linear(f"{net}.head.0", seen)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = x * self.w[f"{net}.head.1.weight"] + self.w[f"{net}.head.1.bias"]
        return np.tanh(x) if self.tanh else x

    def mlp(self, name, x):
        for layer in (0, 2):
            x = np.maximum(self.linear(f"{name}.{layer}", x), 0)
        return self.linear(f"{name}.4", x)

    def feature(self, net, obs):
        return self.head(net, self.convs(net, obs))

    def q(self, net, feature, action):
        both = np.concatenate([feature, action], 1)
        return [self.mlp(f"{net}.q.q{i}", both)[:, 0] for i in (1, 2)]

    def sample(self, obs, noise, exact):
        """A squashed Gaussian's action, and its log density."""
        seen = self.convs("critic", obs)
        seen = self.head("critic" if self.shares_head else "actor", seen)
        mean, raw = np.split(self.mlp("actor.trunk", seen), 2, 1)
        log_std = -10 + 6 * (np.tanh(raw) + 1)
        before = mean + np.exp(log_std) * noise
        action = np.tanh(before)
        density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
        if exact:
            slope = 2 * np.log(2) - 2 * before - 2 * softplus(-2 * before)
        else:
            slope = np.log(np.maximum(1 - action**2, 0) + 1e-6)
        return action, (density - slope).sum(1)

    def mean_action(self, obs):
        """DrQ-v2's actor."""
        return np.tanh(self.mlp("actor.policy", self.head("actor", self.convs("critic", obs))))


def observation(images, rows, offset, size, pad):
    """Crops [B, S·C, h, w] in 0..1 of padded frames, uint8 [B, T, H, W, C]; rows [B, S]."""
    found = []
    for image, frames, (y, x) in zip(images, rows, offset, strict=True):
        whole = np.concatenate([image[t].transpose(2, 0, 1) for t in frames])
        padded = np.pad(whole, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        found.append(padded[:, y : y + size[0], x : x + size[1]])
    return np.stack(found) / 255


def random_conv(obs, kernel):
    """Each observation's frames through its own 3×3 convolution and a sigmoid."""
    changed = []
    for x, k in zip(obs, kernel, strict=True):
        frames = x.reshape(-1, k.shape[0], *x.shape[1:])
        padded = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        changed.append(conv(padded, k, np.zeros(len(k)), 1).reshape(x.shape))
    return 1 / (1 + np.exp(-np.stack(changed)))


def squares(values, target, weight):
    return sum((weight * (value - target) ** 2).sum() / weight.sum() for value in values)


def contrast(query, keys, w):
    """InfoNCE with the diagonal as truth."""
    logits = query @ w @ keys.T
    logits = logits - logits.max(1, keepdims=True)
    return (np.log(np.exp(logits).sum(1)) - np.diag(logits)).mean()


def classifier(w, x, other):
    pair = w["classifier.pair"]
    linear = np.abs(pair[0] * x + pair[1] * other + w["classifier.bias"])
    alone = (w["classifier.scale"] * x + w["classifier.shift"]) ** 2
    return (linear - alone).sum(1) + w["classifier.offset"][0, 0]


def temporal(w, x, following, elsewhere, weight):
    """TED's cross-entropy, the truth of the first kind of pairs alone being 1."""
    wrong = [np.roll(following, 1, 0), elsewhere]
    errors = [weight * softplus(-classifier(w, x, following))]
    errors += [softplus(classifier(w, x, other)) for other in wrong]
    return np.concatenate(errors).sum() / (weight.sum() + 2 * len(x))
