"""APV's world model in float64, from an agent's weights alone; its gradients by autograd."""

import math

import numpy as np
import torch
import torch.distributions as td
import torch.nn.functional as F


class Bonus:
    """The bonus of one batch after another, from its definition, in NumPy."""

    def __init__(self, projection, config):
        self.c, self.projection = config, projection.astype(np.float64)
        self.queue, self.mean, self.reward_mean = [], config.init, 1.0

    def __call__(self, feat, reward, first):
        """Rewards [B, T−L+1] of features [B, T, F], rewards and first rows [B, T]."""
        c, new, (size, length) = self.c, [], reward.shape
        for b in range(size):
            for t in range(length - c.window + 1):
                rows = [feat[b, t]]
                for later in range(t + 1, t + c.window):
                    if first[b, later]:
                        break
                    rows.append(feat[b, later])
                new.append(np.mean(np.float64(rows), 0) @ self.projection)
        self.queue = (new + self.queue)[: c.queue_size]
        raw = []
        for point in new:
            distances = sorted(np.sqrt(((point - other) ** 2).sum()) for other in self.queue)
            raw.append(np.mean(distances[: c.k]))
        self.mean = c.momentum * self.mean + (1 - c.momentum) * np.mean(np.abs(raw))
        self.reward_mean = 0.99 * self.reward_mean + 0.01 * np.abs(reward).mean()
        weight = c.weight * (self.reward_mean if c.relative else 1.0)
        bonus = weight * np.reshape(raw, (size, -1)) / (self.mean + c.eps) * c.scale
        return reward[:, : bonus.shape[1]] + bonus


class World:
    """The loss terms of a batch; ``weights`` are leaves, so gradients can be taken by them."""

    eps = 1e-5  # of the norm in the recurrent cell

    def __init__(self, agent):
        self.c = agent.config
        state = agent.world_model.state_dict()
        self.weights = {name: w.double().requires_grad_() for name, w in state.items()}
        self.bonus = Bonus(agent.bonus.projection.numpy(), agent.bonus.config)

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def head(self, name, x):
        layer = 0
        while f"{name}.layers.{layer}.weight" in self.weights:
            x, layer = F.elu(self.linear(f"{name}.layers.{layer}", x)), layer + 2
        return self.linear(f"{name}.mean", x)[..., 0]

    def convolve(self, name, x, function):
        for layer in range(4):
            weight, bias = (
                self.weights[f"{name}.layers.{2 * layer}.{p}"] for p in ("weight", "bias")
            )
            x = function(x, weight, bias, 2)
            x = F.elu(x) if layer < 3 or function is F.conv2d else x
        return x

    def draw(self, name, x, noise):
        """(statistics, sample or mode) of the last layer of that name."""
        x, c = self.linear(name, x), self.c
        if not c.dyn_discrete:
            mean, std = x.chunk(2, -1)
            std = 2 / (1 + torch.exp(-std / 2)) + c.dyn_min_std
            return (mean, std), mean if noise is None else mean + std * noise
        logits = x.unflatten(-1, (c.dyn_stoch, c.dyn_discrete))
        probs = logits.softmax(-1)
        score = logits if noise is None else logits - torch.log(-torch.log(noise))
        hard = F.one_hot(score.argmax(-1), c.dyn_discrete).double()
        return (logits,), (hard + probs - probs.detach()).flatten(-2)

    def filter(self, name, seen, action, first, noise):
        """Features [B, T, F], and the statistics of posterior and prior in lists over time."""
        size, length = first.shape
        stoch = deter = None
        feats, posts, priors = [], [], []
        for t in range(length):
            keep = 1 - first[:, t].double()[:, None]
            width = self.c.dyn_stoch * max(1, self.c.dyn_discrete)
            stoch = torch.zeros(size, width).double() if stoch is None else stoch * keep
            deter = torch.zeros(size, self.c.dyn_deter).double() if deter is None else deter * keep
            x = F.elu(self.linear(f"{name}.inputs.0", torch.cat([stoch, action[:, t] * keep], 1)))
            gates = self.linear(f"{name}.cell.layer", torch.cat([x, deter], 1))
            gates = F.layer_norm(
                gates,
                gates.shape[1:],
                *(self.weights[f"{name}.cell.norm.{p}"] for p in ("weight", "bias")),
                self.eps,
            )
            reset, candidate, update = gates.chunk(3, 1)
            update = torch.sigmoid(update - 1)
            deter = update * torch.tanh(reset.sigmoid() * candidate) + (1 - update) * deter
            x = F.elu(self.linear(f"{name}.prior.0", deter))
            priors.append(self.draw(f"{name}.prior_stats", x, None)[0])
            x = F.elu(self.linear(f"{name}.posterior.0", torch.cat([deter, seen[:, t]], 1)))
            drawn = None if noise is None else noise[:, t].double()
            post, stoch = self.draw(f"{name}.posterior_stats", x, drawn)
            posts.append(post)
            feats.append(torch.cat([stoch, deter], 1))
        return torch.stack(feats, 1), posts, priors

    def kl(self, posts, priors):
        """0.2 of the gradient to the posterior and 0.8 to the prior, the configured nats free."""

        def dist(stats):
            return td.Normal(*stats) if len(stats) == 2 else td.Categorical(logits=stats[0])

        def mean(left, right):
            each = [td.kl_divergence(dist(p), dist(q)).sum(-1) for p, q in zip(left, right)]  # noqa: B905
            return torch.stack(each).mean().clamp(min=float(self.c.kl_free))

        def stop(states):
            return [tuple(s.detach() for s in stats) for stats in states]

        return 0.2 * mean(posts, stop(priors)) + 0.8 * mean(stop(posts), priors)

    def embed(self, images):
        """[N, C, H, W] → [N, E]."""
        return self.convolve("encoder", images, F.conv2d).flatten(1)

    def decode(self, feat, images, noise):
        """[B, T, F] → [N, C, H, W]; what a decoder may look at, and what it draws with."""
        x = self.linear("decoder.first", feat.flatten(0, 1))[:, :, None, None]
        return self.convolve("decoder", x, F.conv_transpose2d)

    def terms(self, batch, noise):
        """The unweighted terms of a batch, as the agent is to have them."""
        pixels = batch["image"].double() / 255 - 0.5
        first = batch["is_first"]
        images = pixels.flatten(0, 1).permute(0, 3, 1, 2)
        embed = self.embed(images).unflatten(0, first.shape)
        nothing = torch.zeros(*first.shape, 0).double()
        below, *af_states = self.filter("af_rssm", embed, nothing, first, noise.lower)
        seen = torch.cat([embed, below], -1) if self.c.concat_embed else below
        action = F.pad(batch["action"].double(), (0, self.c.action_num_gap))
        feat, *states = self.filter("rssm", seen, action, first, noise.latent)
        error = (self.decode(feat, images, noise) - images).square().sum((1, 2, 3)).mean()
        reward = self.bonus(below.detach().numpy(), batch["reward"].double().numpy(), first.numpy())
        wrong = self.head("reward", feat[:, : reward.shape[1]]) - torch.from_numpy(reward)
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        return {
            "image": 0.5 * error + images[0].numel() * half_log_2pi,
            "kl": self.kl(*states),
            "af_kl": self.kl(*af_states),
            "reward": 0.5 * wrong.square().mean() + half_log_2pi,
            **self.more_terms(feat, batch),
        }

    def more_terms(self, feat, batch):
        """What other methods have beside."""
        return {}
