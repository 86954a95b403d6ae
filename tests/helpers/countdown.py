"""Environments and a policy that count, for tests of what plays in them."""

import numpy as np

from envs import StepResult

SHAPE = (2, 2, 3)


class Countdown:
    """Environments whose images show (seed, t); an episode of seed s lasts 2 + s % 5 steps.

    Odd seeds end terminated. The reward is 10·seed + t, and every call is written down. One that
    tells of success has it in the first step of every third seed, at the distance t. Each of
    ``breaks``, pairs (seed, t), is a step in which the environment breaks.
    """

    image_shape, action_size, discrete = SHAPE, 2, False

    def __init__(self, n, tells=False, breaks=()):
        self.n, self.tells, self.breaks = n, tells, breaks
        self.lost, self.notes = np.zeros(n, bool), []
        self.seed, self.t = np.zeros(n, int), np.zeros(n, int)
        self.running, self.waiting = np.zeros(n, bool), False
        self.resets, self.variations, self.actions = [], [], []

    def images(self):
        image = np.zeros((self.n, *SHAPE), np.uint8)
        image[:, 0, 0, 0], image[:, 0, 0, 1] = self.seed, self.t
        return image

    @property
    def vectors(self):
        return np.zeros((self.n, 0), np.float32)

    def reset(self, mask=None, seeds=None, variation=None):
        assert not self.running[mask].any()
        for i in np.flatnonzero(mask):
            self.seed[i], self.t[i], self.running[i] = seeds[i], 0, True
            self.resets.append((int(i), int(seeds[i])))
            self.variations.append(variation)
        return self.images()

    def step(self, actions):
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions):
        assert self.running.all()
        assert not self.waiting
        self.waiting = True
        self.actions.append(actions.copy())

    def step_wait(self):
        assert self.waiting
        self.waiting = False
        self.t += 1
        ended = self.t >= 2 + self.seed % 5
        odd = self.seed % 2 == 1
        broken = np.array([pair in self.breaks for pair in zip(self.seed, self.t, strict=True)])
        self.notes += [{"env": int(i), "reason": "it broke"} for i in np.flatnonzero(broken)]
        ended &= ~broken
        self.running = ~(ended | broken)
        reward = (10 * self.seed + self.t).astype(np.float32)
        discount = 1.0 - (ended & odd).astype(np.float32)
        success = ((self.seed % 3 == 0) & (self.t == 1)).astype(np.float32)
        told = (success, self.t.astype(np.float32))
        if not self.tells:
            told = (np.full(self.n, np.nan, np.float32),) * 2
        ends = (ended & odd, ended & ~odd)
        return StepResult(self.images(), reward, *ends, discount, *told, self.vectors, broken)

    def restore(self, entries):
        image = self.images()
        for i, entry in enumerate(entries):
            if entry is not None:
                self.seed[i], self.t[i] = entry["seed"], len(entry["actions"])
                self.running[i] = True
                self.resets.append((i, entry["seed"]))
                image = self.images()
        return image


class Counting:
    """A policy whose state counts each environment's steps; its actions show that count."""

    def __init__(self):
        self.seen = []

    def __call__(self, obs, state):
        n = len(obs["is_first"])
        state = np.zeros(n, int) if state is None else state
        state = np.where(obs["is_first"], 0, state) + 1
        pixel = obs["image"][:, 0, 0]
        for i in range(n):
            assert obs["is_first"][i] == (pixel[i, 1] == 0)
            assert state[i] == pixel[i, 1] + 1
        self.seen.append(pixel.copy())
        return np.stack([state, -state], 1).astype(np.float32) / 10, state


def step(collector, policy):
    """One whole step of a collector; the episodes that it closed."""
    collector.send(policy)
    return collector.receive()
