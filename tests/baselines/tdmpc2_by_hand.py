"""TD-MPC2's losses from an agent's weights, one number after another; gradients by autograd."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def symlog(x):
    return math.copysign(math.log(1 + abs(x)), x)


def symexp(x):
    return torch.where(x < 0, 1 - torch.exp(-x), torch.exp(x) - 1)


class World:
    """What the networks say of one latent [L] or observation; ``weights`` are leaves."""

    def __init__(self, config, weights):
        self.c = config
        self.weights = {k: w.detach().double().requires_grad_() for k, w in weights.items()}
        self.bins = torch.from_numpy(np.linspace(config.vmin, config.vmax, config.num_bins))

    def encode(self, obs):
        """[S·C, H, W] in −0.5 … 0.5 → [L]."""
        x = obs[None]
        for i, stride in enumerate((2, 2, 2, 1)):
            x = F.relu(x) if i else x
            weight, bias = (
                self.weights[f"world.encoder.layers.{i}.{p}"] for p in ("weight", "bias")
            )
            x = F.conv2d(x, weight, bias, stride)
        return self.simnorm(x.flatten())

    def simnorm(self, x):
        groups = x.split(self.c.simnorm_dim)
        return torch.cat([torch.exp(g) / torch.exp(g).sum() for g in groups])

    def linear(self, name, x):
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def norm(self, x, weight, bias):
        return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5) * weight + bias

    def named_norm(self, name, x):
        return self.norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def mish(self, x):
        return x * torch.tanh(torch.log(1 + torch.exp(x)))

    def net(self, name, z, action):
        x = self.linear(f"world.{name}.first", torch.cat([z, action]))
        x = self.mish(self.named_norm(f"world.{name}.norm", x))
        x = self.linear(f"world.{name}.rest.0.0", x)
        x = self.mish(self.named_norm(f"world.{name}.rest.0.1", x))
        return self.linear(f"world.{name}.rest.1", x)

    def next(self, z, action):
        return self.simnorm(self.named_norm("world.norm", self.net("dynamics", z, action)))

    def policy(self, z, noise):
        """Action, and the Gaussian's log density before the tanh."""
        x = z
        for i in range(2):
            x = self.linear(f"world.policy.layers.{i}.0", x)
            x = self.mish(self.named_norm(f"world.policy.layers.{i}.1", x))
        mean, log_std = self.linear("world.policy.layers.2", x).chunk(2)
        log_std = -10 + 6 * (torch.tanh(log_std) + 1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        drawn = mean + log_std.exp() * noise
        # The density at the point that was drawn, whose gradient flows through the scale alone.
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        assert torch.allclose(normal.log_prob(drawn), log_prob)
        return torch.tanh(drawn), log_prob.sum()

    def q(self, which, z, action, mask=None, of="world.q"):
        """Logits of one of the action values."""
        x = torch.cat([z, action])
        for i in range(3):
            x = x @ self.weights[f"{of}.weights.{i}"][which]
            x = x + self.weights[f"{of}.biases.{i}"][which, 0]
            if i == 0 and mask is not None:
                x = x * mask / (1 - self.c.dropout)
            if i < 2:
                scale, offset = (self.weights[f"{of}.{p}.{i}"] for p in ("scales", "offsets"))
                x = self.mish(self.norm(x, scale[which, 0], offset[which, 0]))
        return x

    def decode(self, logits):
        return symexp((logits.softmax(0) * self.bins).sum())

    def cross_entropy(self, logits, value):
        """With a target whose weight falls linearly to 0 from one bin to the next."""
        place = min(max(symlog(float(value)), self.c.vmin), self.c.vmax)
        step = (self.bins[1] - self.bins[0]).item()
        target = (1 - (self.bins - place).abs() / step).clamp(min=0)
        return -(target * logits.log_softmax(0)).sum()


class Expected:
    """The losses of one update.

    Args:
        agent: TD-MPC2.
        batch: as for `learn`, in float64.
        noise: of the update.
        gamma: the discount factor.
    """

    def __init__(self, agent, batch, noise, gamma):
        self.c, self.batch, self.noise, self.gamma = agent.config, batch, noise, gamma
        self.size, self.h, self.stack = len(batch["image"]), agent.horizon, agent.stack
        self.first = batch["is_first"].numpy()

    def valid(self, b, t):
        """Whether step t of window b lies in the episode that the window begins in."""
        return not self.first[b, self.stack : self.stack + t + 1].any()

    def obs(self, b, t):
        """What is seen at step t of window b, shifted."""
        row, pad = self.stack - 1 + t, self.c.crop_pad
        begun = max([0, *(r for r in range(row + 1) if self.first[b, r])])
        rows = [max(r, begun) for r in range(row + 1 - self.stack, row + 1)]
        top, left = self.noise.crop[t, b].tolist()
        frames = []
        for r in rows:
            image = self.batch["image"][b, r].numpy()
            wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), "edge")
            frames.append(wide[top : top + image.shape[0], left : left + image.shape[1]])
        return torch.from_numpy(np.concatenate(frames, 2).transpose(2, 0, 1) / 255.0 - 0.5)

    def step(self, name, b, t):
        return self.batch[name][b, self.stack + t]

    def rollout(self, world, b):
        zs = [world.encode(self.obs(b, 0))]
        for t in range(self.h):
            zs.append(world.next(zs[-1], self.step("action", b, t)))
        return zs

    def mean(self, terms):
        """(1/T) Σ ρᵗ · the mean over the windows that have a step t, of {(b, t): term}."""
        times = 1 + max(t for _, t in terms)
        total = 0
        for t in range(times):
            found = [term for (_, at), term in terms.items() if at == t]
            total = total + self.c.rho**t * sum(found) / len(found)
        return total / times

    @torch.no_grad()
    def target(self, world, b, t):
        z = world.encode(self.obs(b, t + 1))
        action, _ = world.policy(z, self.noise.next_action[t, b])
        values = [
            world.decode(world.q(q, z, action, of="target")) for q in self.noise.next_pair.tolist()
        ]
        return self.step("reward", b, t) + self.gamma * self.step("discount", b, t) * min(values)

    def model(self, world):
        """The terms of the model's loss by their names."""
        terms = {"consistency": {}, "reward": {}, "value": {}}
        for b in range(self.size):
            zs = self.rollout(world, b)
            for t in range(self.h):
                if not self.valid(b, t):
                    continue
                action, at = self.step("action", b, t), (b, t)
                seen = world.encode(self.obs(b, t + 1)).detach()
                terms["consistency"][at] = ((zs[t + 1] - seen) ** 2).mean()
                reward = self.step("reward", b, t)
                terms["reward"][at] = world.cross_entropy(
                    world.net("reward", zs[t], action), reward
                )
                target = self.target(world, b, t)
                values = [
                    world.q(q, zs[t], action, self.noise.dropout[q, t, b])
                    for q in range(self.c.num_q)
                ]
                terms["value"][at] = sum(
                    world.cross_entropy(logits, target) for logits in values
                ) / len(values)
        return {name: self.mean(each) for name, each in terms.items()}

    def actor(self, before, world, scale):
        """The policy's loss, and the new scale: latents as they were before the model's step."""
        losses, values, tau = {}, {}, self.c.tau
        entropies = {}
        for b in range(self.size):
            zs = [z.detach() for z in self.rollout(before, b)]
            for t in range(self.h + 1):
                if t and not self.valid(b, t - 1):
                    continue
                action, log_prob = world.policy(zs[t], self.noise.action[t, b])
                masks = self.noise.actor_dropout[:, t, b]
                pair = zip(self.noise.pair.tolist(), masks, strict=True)
                asked = [world.decode(world.q(q, zs[t], action, mask)) for q, mask in pair]
                values[b, t] = sum(asked) / 2
                entropies[b, t] = -len(action) * log_prob
        low, high = np.percentile([v.item() for (_, t), v in values.items() if t == 0], [5, 95])
        self.spread = high - low
        scale = (1 - tau) * scale + tau * max(1.0, self.spread)
        weight = float(self.c.entropy_coef)
        for at, value in values.items():
            losses[at] = -(value / scale + weight * entropies[at])
        return self.mean(losses), scale
