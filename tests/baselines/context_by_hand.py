"""ContextWM's networks in float64, from an agent's weights alone."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.baselines.by_hand import World

HEADS = 4


class ContextWorld(World):
    """Its world model's terms; ``moments`` are the means and variances that norms have taken."""

    eps = 1e-3

    def __init__(self, agent):
        super().__init__(agent)
        self.moments = {}

    def norm(self, name, x):
        """Each channel over images and pixels."""
        mean = x.mean((0, 2, 3), keepdim=True)
        var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        count = x.numel() / x.shape[1]
        self.moments[name] = mean.flatten(), var.flatten() * count / (count - 1)
        scale, shift = (self.weights[f"{name}.{p}"][:, None, None] for p in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def convolution(self, name, x, padding):
        return F.conv2d(x, self.weights[f"{name}.weight"], padding=padding)

    def layer(self, name, x, z):
        around = x
        if f"{name}.skip.0.weight" in self.weights:
            around = self.norm(f"{name}.skip.1", self.convolution(f"{name}.skip.0", x, 0))
        z = self.norm(f"{name}.block.1", self.convolution(f"{name}.block.0", z, 1)).relu()
        z = self.norm(f"{name}.block.4", self.convolution(f"{name}.block.3", z, 1))
        return (around + z).relu()

    def stages(self, name, images):
        """What three stages see, each after the mean of 2×2 pixels of the one before."""
        weight, bias = (self.weights[f"{name}.first.{p}"] for p in ("weight", "bias"))
        x, found = F.elu(F.conv2d(images, weight, bias, 2, 1)), []
        for i in range(3):
            for j in range(self.c.res_layers):
                x = self.layer(f"{name}.stages.{i}.{j}", x, x)
            found.append(x)
            x = mean_of_four(x)
        return found

    def embed(self, images):
        return mean_of_four(self.stages("encoder.layers", images)[-1]).flatten(1)

    def decode(self, feat, images, noise):
        (size, length), drawn = feat.shape[:2], noise.decoder
        frames = images.unflatten(0, (size, length))
        chosen = [frames[b, drawn.frame[b]].clone() for b in range(size)]
        if drawn.erased is not None:
            for image, (top, bottom, left, right) in zip(chosen, drawn.erased, strict=True):
                image[:, top:bottom, left:right] = 0
        contexts = self.stages("decoder.context", torch.stack(chosen))[::-1]
        x = self.linear("decoder.first", feat.flatten(0, 1)).unflatten(1, (-1, 4, 4))
        for i, context in enumerate(contexts):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            for j in range(self.c.res_layers):
                z, name = x, f"decoder.stages.{i}.{j}"
                if i < 2 and j % 2 == 0:
                    beside = context.repeat_interleave(length, 0)
                    z = self.attend(f"{name}.attention", x, beside, drawn.attention[f"{i}_{j}"])
                x = self.layer(name, x, z)
        weight, bias = (self.weights[f"decoder.last.{p}"] for p in ("weight", "bias"))
        return F.conv_transpose2d(x, weight, bias, 2, 1, 1)

    def attend(self, name, x, context, noise):
        """One image after another, one head after another."""
        left, mixed = 1 - self.c.attention_dropout, []
        for n in range(len(x)):
            asking = x[n].flatten(1).T + self.weights[f"{name}.asking_position"]
            known = context[n].flatten(1).T + self.weights[f"{name}.context_position"]
            known = known[noise.kept[n]]
            query = self.linear(f"{name}.inputs", asking).chunk(3, 1)[0].chunk(HEADS, 1)
            _, key, value = self.linear(f"{name}.inputs", known).chunk(3, 1)
            heads = []
            for h, (k, v) in enumerate(
                zip(key.chunk(HEADS, 1), value.chunk(HEADS, 1), strict=True)
            ):
                score = query[h] @ k.T / math.sqrt(k.shape[1])
                weights = score.exp() / score.exp().sum(1, keepdim=True)
                heads.append(weights * noise.weights[n, h] / left @ v)
            out = self.linear(f"{name}.outputs", torch.cat(heads, 1))
            mixed.append((out * noise.outputs[n] / left).T.unflatten(1, x.shape[2:]))
        return (x + self.norm(f"{name}.norm", torch.stack(mixed))).relu()

    def more_terms(self, feat, batch):
        wrong = self.head("aux_reward", feat) - batch["reward"].double()
        return {"aux_reward": 0.5 * wrong.square().mean() + 0.5 * math.log(2 * math.pi)}


def mean_of_four(x):
    """Means of 2×2 pixels."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def attend(w, x, context, kept, weights, outputs, left):
    """Attention of each pixel by itself, in NumPy: what is added to x before its norm.

    Args:
        w: in float64: asking, known [Q, C], inputs [3·C, C], outputs [C, C], and their biases.
        x, context: one image each, [Q, C].
        kept: numbers of the context's pixels that are seen.
        weights: what dropout leaves, [HEADS, Q, S]; ``outputs`` [Q, C].
        left: the share that it leaves.
    """
    size, found = x.shape[1], np.zeros_like(x)
    width = size // HEADS
    for q in range(len(x)):
        query = w["inputs"][:size] @ (x[q] + w["asking"][q]) + w["bias"][:size]
        seen = [w["inputs"] @ (context[k] + w["known"][k]) + w["bias"] for k in kept]
        mixed = np.zeros(size)
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            scores = [query[own] @ s[size : 2 * size][own] / math.sqrt(width) for s in seen]
            share = np.exp(scores) / np.exp(scores).sum() * weights[h, q] / left
            mixed[own] = sum(p * s[2 * size :][own] for p, s in zip(share, seen, strict=True))
        found[q] = (w["outputs"] @ mixed + w["outputs_bias"]) * outputs[q] / left
    return found
