"""DreamerV3 in float64, from an agent's weights alone: dense products and loops."""

import numpy as np
import torch
import torch.distributions as td
import torch.nn.functional as F


def masked(weight):
    """Blocks [G, I, O] as one matrix [G·I, G·O] with zeros between them."""
    blocks, ins, outs = weight.shape
    full = torch.zeros(blocks * ins, blocks * outs, dtype=weight.dtype)
    for g in range(blocks):
        rows, columns = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
        part = torch.zeros_like(full)
        part[rows, columns] = 1
        full = full + part * weight[g].repeat(blocks, blocks)
    return full


def lambda_returns(reward, discount, value, lambda_):
    """Sums over all n-step returns; lists over the states that steps lead to."""
    returns = []
    for t in range(len(reward)):
        total, weight = 0.0, 1.0  # of what follows, and its product of discounts and λ
        for k in range(t, len(reward)):
            total = total + weight * (reward[k] + discount[k] * (1 - lambda_[k]) * value[k])
            weight = weight * discount[k] * lambda_[k]
        returns.append(total + weight * value[-1])
    return returns


class ByHand:
    """The terms of an agent's loss.

    Args:
        agent: whose weights; they are copied.
    """

    def __init__(self, agent):
        self.c, self.sizes = agent.config, agent.world_model.rssm.config
        self.discrete = agent.behavior.actor.discrete
        self.w = {
            name: value.detach().double().requires_grad_(value.requires_grad)
            for name, value in agent.named_parameters()
        }
        self.low, self.high = 0.0, 0.0

    def norm(self, x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * self.w[f"{name}.scale"]

    def affine(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def dense(self, x, name):
        return F.silu(self.norm(self.affine(x, f"{name}.0"), f"{name}.1"))

    def mlp(self, x, name, layers):
        for i in range(layers):
            x = self.dense(x, f"{name}.{i}")
        return x

    def conv(self, x, name):
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], padding=2)

    def pixel_norm(self, x, name):
        return F.silu(self.norm(x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2))

    def encode(self, image):
        """[N, H, W, C] in ±0.5 → [N, E]."""
        x = image.permute(0, 3, 1, 2)
        for i in range(0, 16, 4):
            x = self.conv(x, f"world_model.encoder.layers.{i}")
            pixels = [x[:, :, p::2, q::2] for p in (0, 1) for q in (0, 1)]
            x = self.pixel_norm(torch.stack(pixels).amax(0), f"world_model.encoder.layers.{i + 2}")
        return x.permute(0, 2, 3, 1).flatten(1)

    def decode(self, stoch, deter):
        """[N, …] → [N, H, W, C] in 0..1."""
        name, top, blocks = "world_model.decoder", 4 * self.sizes.depth, self.sizes.blocks
        side = self.c.size[0] // 16
        flat = (
            deter @ masked(self.w[f"{name}.from_deter.weight"]) + self.w[f"{name}.from_deter.bias"]
        )
        parts = flat.reshape(len(flat), blocks, side, side, top // blocks)
        x = torch.cat([parts[:, g] for g in range(blocks)], -1)
        hidden = self.affine(
            self.dense(stoch.flatten(1), f"{name}.from_stoch"), f"{name}.from_hidden"
        )
        x = x + hidden.reshape(x.shape)
        x = F.silu(self.norm(x, f"{name}.first.0")).permute(0, 3, 1, 2)
        for i in range(0, 12, 3):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = self.conv(x, f"{name}.layers.{i}")
            x = self.pixel_norm(x, f"{name}.layers.{i + 1}") if i < 9 else torch.sigmoid(x)
        return x.permute(0, 2, 3, 1)

    def cell(self, stoch, deter, action):
        name, s = "world_model.rssm", self.sizes
        seen = [self.dense(deter, f"{name}.deter_in"), self.dense(stoch, f"{name}.stoch_in")]
        seen.append(self.dense(action.clamp(-1, 1), f"{name}.action_in"))
        parts = deter.reshape(len(deter), s.blocks, -1)
        x = torch.cat([torch.cat([parts[:, g], *seen], -1) for g in range(s.blocks)], -1)
        x = x @ masked(self.w[f"{name}.cell_hidden.weight"]) + self.w[f"{name}.cell_hidden.bias"]
        x = F.silu(self.norm(x, f"{name}.cell_norm"))
        x = x @ masked(self.w[f"{name}.cell_gates.weight"]) + self.w[f"{name}.cell_gates.bias"]
        new, size = [], s.deter // s.blocks
        for g in range(s.blocks):
            reset, candidate, update = x[:, 3 * size * g : 3 * size * (g + 1)].chunk(3, -1)
            share = torch.sigmoid(update - 1)
            candidate = torch.tanh(torch.sigmoid(reset) * candidate)
            new.append(share * candidate + (1 - share) * parts[:, g])
        return torch.cat(new, -1)

    def probs(self, logits, shape=None):
        """Probabilities with their uniform share."""
        logits = logits.unflatten(-1, shape) if shape else logits
        return (1 - self.c.unimix) * logits.softmax(-1) + self.c.unimix / logits.shape[-1]

    def draw(self, probs, noise):
        """One-hot, with the gradient of the probabilities."""
        index = (probs.log() - (-noise.double().log()).log()).argmax(-1)
        return F.one_hot(index, probs.shape[-1]) + (probs - probs.detach())

    def latents(self, hidden, name):
        logits = self.affine(hidden, f"world_model.rssm.{name}_logits")
        return self.probs(logits, (self.sizes.stoch, self.sizes.classes))

    def prior(self, deter):
        return self.latents(self.mlp(deter, "world_model.rssm.prior", 2), "prior")

    def number(self, feat, name, layers):
        """Probabilities of bins, and their mean."""
        probs = self.affine(self.mlp(feat, f"{name}.layers", layers), f"{name}.out").softmax(-1)
        steps = np.linspace(-20, 20, self.c.bins)
        bins = torch.tensor(np.sign(steps) * (np.exp(np.abs(steps)) - 1))
        return probs, bins, probs @ bins

    def error(self, head, target):
        """The cross-entropy with two-hot targets."""
        probs, bins, _ = head
        edges = bins.numpy()
        weights = np.zeros((*target.shape, len(edges)))
        for place, x in np.ndenumerate(target.detach().numpy()):
            above = int(np.searchsorted(edges, x, side="right"))
            share = (x - edges[above - 1]) / (edges[above] - edges[above - 1])
            weights[place][above - 1], weights[place][above] = 1 - share, share
        return -(torch.tensor(weights) * probs.log()).sum(-1)

    def reward(self, feat):
        return self.number(feat, "world_model.reward", self.c.reward_layers)

    def value(self, feat, name="value"):
        return self.number(feat, f"behavior.{name}", self.c.value_layers)

    def goes_on(self, feat):
        name, layers = "world_model.discount", self.c.discount_layers
        return torch.sigmoid(self.affine(self.mlp(feat, f"{name}.layers", layers), f"{name}.out"))[
            ..., 0
        ]

    def policy(self, feat):
        x = self.mlp(feat, "behavior.actor.layers", self.c.actor_layers)
        out = self.affine(x, "behavior.actor.out")
        if self.discrete:
            return td.OneHotCategorical(probs=self.probs(out))
        std = 0.9 * torch.sigmoid(self.affine(x, "behavior.actor.std") + 2) + 0.1
        return td.Independent(td.Normal(torch.tanh(out), std), 1)

    def filter(self, batch, noise):
        """Posterior of each row: stoch, deter, probabilities, [B, T, …]."""
        image = batch["image"].double() / 255 - 0.5
        size, length = batch["reward"].shape
        embed = self.encode(image.flatten(0, 1)).reshape(size, length, -1)
        s, steps = self.sizes, []
        deter = batch.get("deter", torch.zeros(size, s.deter)).double()
        stoch = batch.get("stoch", torch.zeros(size, s.stoch, s.classes)).double().flatten(1)
        for t in range(length):
            keep = (~batch["is_first"][:, t]).double()[:, None]
            action = batch["action"][:, t].double() * keep
            deter = self.cell(stoch * keep, deter * keep, action)
            hidden = self.dense(torch.cat([deter, embed[:, t]], -1), "world_model.rssm.posterior")
            probs = self.latents(hidden, "posterior")
            drawn = self.draw(probs, noise[:, t])
            stoch = drawn.flatten(1)
            steps.append((drawn, deter, probs))
        return [torch.stack(each, 1) for each in zip(*steps, strict=True)]

    def terms(self, batch, noise):
        """Every term by its name, 0-d each."""
        stoch, deter, post = self.filter(batch, noise.filter.latent)
        prior, feat = self.prior(deter), torch.cat([stoch.flatten(2), deter], -1)
        discount = batch["discount"].double() * self.c.discount
        drawn = self.decode(stoch.flatten(0, 1), deter.flatten(0, 1))
        error = (drawn - batch["image"].double().flatten(0, 1) / 255).square()
        logit = self.goes_on(feat).logit()
        ce = discount * F.softplus(-logit) + (1 - discount) * F.softplus(logit)

        def kl(p, q):
            each = (p * (p.log() - q.log())).sum((-2, -1))
            return each.clamp(min=float(self.c.kl_free)).mean()

        terms = {
            "image": error.sum((1, 2, 3)).mean(),
            "reward": self.error(self.reward(feat), batch["reward"]).mean(),
            "discount": ce.mean(),
            "dyn": kl(post.detach(), prior),
            "rep": kl(post, prior.detach()),
        }
        start = (stoch.detach().flatten(0, 1), deter.detach().flatten(0, 1))
        terms["policy"], terms["value"], returns = self.imagine(start, noise.imagine)
        terms["replay_value"] = self.replay(feat, batch, discount, returns)
        return terms

    def imagine(self, start, noise):
        """The actor's and the critic's term, and the starts' returns."""
        stoch, deter = start
        states, actions = [torch.cat([stoch.flatten(1), deter], -1)], []
        with torch.no_grad():
            for of_action, of_latent in zip(*noise, strict=True):
                policy = self.policy(states[-1])
                if self.discrete:
                    action = self.draw(policy.probs, of_action)
                else:
                    action = policy.base_dist.mean + policy.base_dist.stddev * of_action.double()
                deter = self.cell(stoch.flatten(1), deter, action)
                stoch = self.draw(self.prior(deter), of_latent)
                actions.append(action)
                states.append(torch.cat([stoch.flatten(1), deter], -1))
            reward = [self.reward(x)[2] for x in states[1:]]
            discount = [self.goes_on(x) for x in states]
            value = [self.value(x)[2] for x in states]
            slow = [self.value(x, "slow_value")[2] for x in states]
            steps = [self.c.discount_lambda] * len(actions)
            returns = lambda_returns(reward, discount[1:], value[1:], steps)
        low, high = np.percentile(torch.stack(returns).numpy(), [5, 95])
        rate = self.c.return_rate
        self.low, self.high = (
            (1 - rate) * self.low + rate * low,
            (1 - rate) * self.high + rate * high,
        )
        scale = max(1.0, self.high - self.low)
        of_policy, of_value, weight = [], [], 1.0
        for t, (action, target) in enumerate(zip(actions, returns, strict=True)):
            weight = weight * discount[t]
            policy, critic = self.policy(states[t]), self.value(states[t])
            gain = policy.log_prob(action) * (target - value[t]) / scale
            of_policy.append(-weight * (gain + float(self.c.actor_entropy) * policy.entropy()))
            of_value.append(weight * (self.error(critic, target) + self.error(critic, slow[t])))
        return torch.stack(of_policy).mean(), torch.stack(of_value).mean(), returns[0]

    def replay(self, feat, batch, discount, imagined):
        """The critic's term on the replay's rows."""
        size, length = batch["reward"].shape
        imagined, total = imagined.reshape(size, length), 0.0
        for b in range(size):
            last = [bool(batch["is_first"][b, t + 1]) for t in range(length - 1)] + [False]
            following = range(1, length)
            lambda_ = [self.c.discount_lambda * (not last[t]) for t in following]
            parts = [
                [x[b, t].double() for t in following] for x in (batch["reward"], discount, imagined)
            ]
            returns = lambda_returns(*parts, lambda_)
            for t in range(length - 1):
                critic = self.value(feat[b, t])
                slow = self.value(feat[b, t], "slow_value")[2].detach()
                each = self.error(critic, returns[t]) + self.error(critic, slow)
                total = total + (not last[t]) * each
        return total / (size * (length - 1))
