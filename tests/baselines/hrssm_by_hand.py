"""HRSSM in float64, from an agent's weights alone: dense products and loops."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.baselines.dreamerv3_by_hand import lambda_returns


def upsampled(cells, size):
    """Cells [rows, columns] over an image, pixel by pixel: the cell that a pixel's corner is in."""
    image = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            image[y, x] = cells[
                math.floor(y * cells.shape[0] / size[0]), math.floor(x * cells.shape[1] / size[1])
            ]
    return image


def mask(noise, length, size, block, share):
    """1 where images are seen, [T, H, W]."""
    frames = []
    for t in range(length):
        drawn = noise[t // block].numpy()
        smallest = np.sort(drawn, None)[: int(share * drawn.size)]
        frames.append(upsampled(~np.isin(drawn, smallest), size))
    return torch.tensor(np.stack(frames))


def cosine(one, other):
    return (one * other).sum() / (one.norm() * other.norm())


def huber(error):
    return 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5


def bisimulation(feat, true_feat, prior, true_prior, reward, first, gamma, published):
    """The mean over all pairs of transitions, one by one."""
    size, length = reward.shape
    rows = [
        (b, t) for b in range(size) for t in range(length - 1) if published or not first[b, t + 1]
    ]
    total = 0.0
    for b, t in rows:
        for c, s in rows:
            found = 1 - cosine(feat[b, t], true_feat[c, s].detach())
            after = 1 - cosine(prior[b, t + 1], true_prior[c, s + 1]).item()
            if published:
                apart = abs(reward[b, t] - reward[c, s]).item()
            else:
                apart = (1 - gamma) * abs(reward[b, t + 1] - reward[c, s + 1]).item()
            total = total + huber(found - (apart + gamma * after))
    return total / len(rows) ** 2


class ByHand:
    """The terms of an agent's losses.

    Args:
        agent: whose weights; they are copied.
    """

    def __init__(self, agent):
        self.c, self.sizes = agent.config, agent.world_model.rssm.config
        self.reward_scale = agent.world_model.bisimulation.reward
        self.w = {
            name: value.detach().double().requires_grad_(value.requires_grad)
            for name, value in agent.named_parameters()
        }
        self.low, self.high = 0.0, 0.0

    def norm(self, x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def affine(self, x, name):
        x = x @ self.w[f"{name}.weight"].T
        return x + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else x

    def mlp(self, x, name, layers=1):
        for i in range(layers):
            x = F.silu(self.norm(self.affine(x, f"{name}.{3 * i}"), f"{name}.{3 * i + 1}"))
        return x

    def encode(self, image, branch):
        """[N, H, W, C] in ±0.5 → [N, E]."""
        x, name = image.permute(0, 3, 1, 2), f"{branch}.encoder.layers"
        for i in range(0, 12, 3):
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.w[f"{name}.{i}.weight"], stride=2)
            x = F.silu(self.norm(x.permute(0, 2, 3, 1), f"{name}.{i + 1}")).permute(0, 3, 1, 2)
        return x.permute(0, 2, 3, 1).flatten(1)

    def probs(self, hidden, name):
        """Probabilities with their uniform share, [N, S, K]."""
        s = self.sizes
        logits = self.affine(hidden, name).unflatten(-1, (s.stoch, s.classes))
        return (1 - self.c.unimix) * logits.softmax(-1) + self.c.unimix / s.classes

    def draw(self, probs, noise):
        """One-hot, with the gradient of the probabilities."""
        index = (probs.log() - (-noise.double().log()).log()).argmax(-1)
        return F.one_hot(index, probs.shape[-1]) + (probs - probs.detach())

    def prior(self, deter, branch):
        return self.probs(self.mlp(deter, f"{branch}.rssm.prior"), f"{branch}.rssm.prior_logits")

    def posterior(self, deter, embed, branch):
        hidden = self.mlp(torch.cat([deter, embed], -1), f"{branch}.rssm.posterior")
        return self.probs(hidden, f"{branch}.rssm.posterior_logits")

    def first(self, branch):
        """The state that an episode begins with: flat stoch, deter."""
        deter = self.w[f"{branch}.rssm.first_deter"].tanh()[0]
        logs = self.prior(deter, branch).log()
        stoch = F.one_hot(logs.argmax(-1), logs.shape[-1]) + (logs - logs.detach())
        return stoch.flatten(), deter

    def cell(self, stoch, deter, action, branch):
        """The next deter; stoch flat, any leading sizes."""
        small = action / action.detach().abs().clamp(min=1)
        x = self.mlp(torch.cat([stoch, small], -1), f"{branch}.rssm.inputs")
        gates = self.affine(torch.cat([x, deter], -1), f"{branch}.rssm.cell.layer")
        reset, candidate, update = self.norm(gates, f"{branch}.rssm.cell.norm").chunk(3, -1)
        share = torch.sigmoid(update - 1)
        return share * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - share) * deter

    def number(self, feat, name, layers):
        """Logarithms of probabilities, and the number that they stand for."""
        out = self.affine(self.mlp(feat, f"{name}.layers", layers), f"{name}.out").log_softmax(-1)
        mean = (out.exp() * torch.linspace(-20, 20, self.c.bins, dtype=torch.float64)).sum(-1)
        return out, mean.sign() * (mean.abs().exp() - 1)

    def error(self, logs, target):
        """The cross-entropy with two-hot targets of the symmetric logarithm."""
        edges = np.linspace(-20, 20, self.c.bins)
        weights = np.zeros((*target.shape, len(edges)))
        for place, x in np.ndenumerate(target.detach().numpy()):
            x = np.sign(x) * np.log(1 + abs(x))
            above = int(np.searchsorted(edges, x, side="right"))
            share = (x - edges[above - 1]) / (edges[above] - edges[above - 1])
            weights[place][above - 1], weights[place][above] = 1 - share, share
        return -(torch.tensor(weights) * logs).sum(-1)

    def reward(self, feat):
        return self.number(feat, "world_model.reward", self.c.reward_layers)

    def value(self, feat, name="value"):
        return self.number(feat, f"behavior.{name}", self.c.value_layers)

    def goes_on(self, feat):
        name = "world_model.discount"
        x = self.mlp(feat, f"{name}.layers", self.c.discount_layers)
        return torch.sigmoid(self.affine(x, f"{name}.out"))[..., 0]

    def filter(self, batch, embed, noise):
        """Online states of each row: flat stoch, deter, both distributions, a prior's sample."""
        name, steps = "world_model", []
        stoch, deter = (x.expand(len(embed), -1) for x in self.first(name))
        for t in range(embed.shape[1]):
            begins = batch["is_first"][:, t, None]
            start = self.first(name)
            stoch, deter = (
                torch.where(begins, start[0], stoch),
                torch.where(begins, start[1], deter),
            )
            action = batch["action"][:, t].double() * ~begins
            deter = self.cell(stoch, deter, action, name)
            prior, post = self.prior(deter, name), self.posterior(deter, embed[:, t], name)
            stoch = self.draw(post, noise.latent[:, t]).flatten(1)
            steps.append((stoch, deter, prior, post, self.draw(prior, noise.prior[:, t])))
        return [torch.stack(each, 1) for each in zip(*steps, strict=True)]

    def see_whole(self, batch, embed, deter, noise):
        """The target's states of each row and its predictions of them, as features [B, T, F]."""
        name, feats, predicted = "world_model.target", [], []
        for b, row in enumerate(embed):
            states, found = [], []
            for t, seen in enumerate(row):
                post = self.posterior(deter[b, t], seen, name)
                before = states[-1] if states and not batch["is_first"][b, t] else self.first(name)
                states.append((self.draw(post, noise.true_latent[b, t]).flatten(), deter[b, t]))
                action = batch["action"][b, t].double() * ~batch["is_first"][b, t]
                after = self.cell(*before, action, name)
                drawn = self.draw(self.prior(after, name), noise.true_prior[b, t])
                found.append(torch.cat([drawn.flatten(), after]))
            feats.append(torch.stack([torch.cat(state) for state in states]))
            predicted.append(torch.stack(found))
        return torch.stack(feats), torch.stack(predicted)

    def terms(self, batch, noise):
        """The world model's terms by their names, and the features that imagination begins with."""
        c, lead = self.c, batch["reward"].shape
        image = batch["image"].double() / 255 - 0.5
        seen = mask(noise.mask, lead[1], c.size, c.block_size, c.mask_ratio)[..., None]
        embed = self.encode((image * seen).flatten(0, 1), "world_model").unflatten(0, lead)
        whole = self.encode(image.flatten(0, 1), "world_model.target").unflatten(0, lead)
        stoch, deter, prior, post, drawn = self.filter(batch, embed, noise)
        feat = torch.cat([stoch, deter], -1)
        predicted = torch.cat([drawn.flatten(2), deter], -1)
        true_feat, true_predicted = self.see_whole(batch, whole, deter.detach(), noise)
        goes_on, target = self.goes_on(feat), batch["discount"].double()

        def kl(p, q):
            each = (p * (p.log() - q.log())).sum((-2, -1))
            return each.clamp(min=float(c.kl_free)).mean()

        apart = 0.0
        for own, true in zip(feat.flatten(0, 1), true_feat.flatten(0, 1), strict=True):
            one = self.affine(own, "world_model.projection")
            two = self.affine(true, "world_model.target.projection")
            apart = apart + (one / one.norm() - two / two.norm()).square().sum()
        return {
            "reward": self.error(self.reward(feat)[0], batch["reward"].double()).mean(),
            "discount": -(target * goes_on.log() + (1 - target) * (1 - goes_on).log()).mean(),
            "mbr": apart / target.numel(),
            "simsr": bisimulation(
                feat,
                true_feat,
                predicted,
                true_predicted,
                self.reward_scale * batch["reward"].double(),
                batch["is_first"],
                c.simsr_discount,
                c.simsr == "published",
            ),
            "dyn": kl(post.detach(), prior),
            "rep": kl(post, prior.detach()),
        }, true_feat

    def losses(self, start, noise):
        """The losses of actor and critic, from features [N, F] on."""
        c, d = self.c, self.sizes.deter
        stoch, deter = start.split([start.shape[1] - d, d], -1)
        states, entropies = [start], []
        for t, (of_action, of_latent) in enumerate(zip(*noise, strict=True)):
            x = self.mlp(states[t].detach(), "behavior.actor.layers", c.actor_layers)
            mean, std = self.affine(x, "behavior.actor.out").chunk(2, -1)
            std = 0.9 * torch.sigmoid(std + 2) + 0.1
            entropies.append((0.5 * torch.log(2 * math.pi * math.e * std**2)).sum(-1))
            action = torch.tanh(mean) + std * of_action.double()
            deter = self.cell(stoch, deter, action, "world_model")
            stoch = self.draw(self.prior(deter, "world_model"), of_latent).flatten(1)
            states.append(torch.cat([stoch, deter], -1))
        reward = [self.reward(x)[1] for x in states[1:]]
        discount = [c.discount * self.goes_on(x) for x in states]
        value = [self.value(x)[1] for x in states]
        returns = lambda_returns(
            reward, discount[1:], value[1:], [c.discount_lambda] * len(entropies)
        )
        ends = np.percentile(torch.stack(returns).detach().numpy(), [5, 95])
        rate = c.return_rate
        self.low = (1 - rate) * self.low + rate * ends[0]
        self.high = (1 - rate) * self.high + rate * ends[1]
        scale, weight, actor, critic = max(1.0, self.high - self.low), 1.0, [], []
        for t, target in enumerate(returns):
            gain = (target - value[t]) / scale + float(c.actor_entropy) * entropies[t]
            actor.append(-weight * gain)
            seen = states[t].detach()
            slow = self.value(seen, "slow_value")[1].detach()
            logs = self.value(seen)[0]
            critic.append(weight * (self.error(logs, target.detach()) + self.error(logs, slow)))
            weight = weight * discount[t].detach()
        return {"actor": torch.stack(actor).mean(), "value": torch.stack(critic).mean()}
