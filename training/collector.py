"""The collector: from training environments into the replay, row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agents.base import Obs, Policy, State
from envs import StepResult, VectorEnv, episode_seed
from replay import Replay
from replay.episodes import Episode
from tools import Diverged


def check_finite(action: np.ndarray) -> None:
    """Raises `Diverged` for an action that is not finite."""
    if not np.isfinite(action).all():
        raise Diverged("an action")


def observed(image: np.ndarray, vector: np.ndarray, is_first: np.ndarray) -> Obs:
    """What a policy is shown of N environments; without numbers there is no ``vector`` [N, V]."""
    obs = {"image": image, "is_first": is_first}
    return obs | ({"vector": vector} if vector.shape[1] else {})


def first_row(image: np.ndarray, vector: np.ndarray) -> dict[str, Any]:
    """Row 0 of an episode: what is seen first, and nothing that led to it."""
    return {
        "image": image,
        "vector": vector,
        "reward": 0.0,
        "discount": 1.0,
        "is_first": True,
        "is_last": False,
        "is_terminal": False,
    }


def step_rows(action: np.ndarray, result: StepResult) -> list[dict[str, Any]]:
    """One row for each environment: the image after the action, and what it earned.

    ``success`` and ``distance`` are not a replay's: an evaluation keeps them.
    """
    last = result.terminated | result.truncated
    return [
        {
            "image": result.image[i],
            "vector": result.vector[i],
            "action": action[i],
            "reward": result.reward[i],
            "discount": result.discount[i],
            "is_first": False,
            "is_last": bool(last[i]),
            "is_terminal": bool(result.terminated[i]),
            "success": result.success[i],
            "distance": result.distance[i],
        }
        for i in range(len(action))
    ]


class Collector:
    """Steps training environments under a policy and hands every row to the replay.

    Episode i of a run is reset with a seed that follows from (seed, split, i), so an interrupted
    episode is taken up again by its seed and its actions. One whose environment broke is dropped,
    as if it had not been.

    Args:
        envs: the training environments.
        replay: where rows go.
        seed: the run's seed.
        variation: says, when an episode begins, which distractions it has.
    """

    def __init__(self, envs: VectorEnv, replay: Replay, seed: int, variation: Callable[[], str]):
        self.envs, self.replay, self.seed, self.variation = envs, replay, seed, variation
        self.steps = 0  # agent steps
        self.begun = 0  # episodes
        self.dropped = 0  # of them, those whose environment broke
        # Seed, variation, index, agent step of the beginning, and success so far, None where the
        # environment does not tell.
        self.playing: list[dict[str, Any]] = [{} for _ in range(envs.n)]
        self.ended = np.ones(envs.n, bool)
        black = np.zeros((envs.n, *envs.image_shape), np.uint8)
        self.obs: Obs = observed(black, envs.vectors, np.zeros(envs.n, bool))
        self.state: State | None = None  # the policy's
        self.sent: np.ndarray | None = None  # actions [N, A] of the step that is under way

    def send(self, policy: Policy) -> None:
        """Begins a step of every environment: worker processes make it until `receive`."""
        if self.ended.any():
            self._begin()
        action, self.state = policy(self.obs, self.state)
        check_finite(action)
        self.envs.step_async(action)
        self.sent = action

    def receive(self) -> list[Episode]:
        """Ends the step that was sent; returns the episodes that it closed."""
        result = self.envs.step_wait()
        assert self.sent is not None  # a step was sent
        action, self.sent = self.sent, None
        rows = step_rows(action, result)
        for i in np.flatnonzero(result.broken):
            self.replay.drop(int(i))
            self.dropped += 1
        whole = np.flatnonzero(~result.broken)
        closed = [self._add(int(i), rows[i]) for i in whole]
        self.ended = result.terminated | result.truncated | result.broken
        self.obs = observed(result.image, result.vector, np.zeros(self.envs.n, bool))
        self.steps += self.envs.n
        return [episode for episode in closed if episode is not None]

    def _add(self, i: int, row: dict[str, Any]) -> Episode | None:
        """Hands a row to the replay; returns the episode that it closed, with its success."""
        playing, success = self.playing[i], float(row["success"])
        if not math.isnan(success):
            playing["success"] = max(playing["success"] or 0.0, success)
        episode = self.replay.add(i, row)
        told = {"success": playing["success"], "variation": playing["variation"]}
        return episode and dataclasses.replace(episode, **told)

    def _begin(self) -> None:
        variation = self.variation()
        for i in np.flatnonzero(self.ended):
            seed = episode_seed(self.seed, "train", self.begun)
            entry = {"seed": seed, "variation": variation, "index": self.begun}
            self.playing[i] = {**entry, "since": self.steps, "success": None}
            self.begun += 1
        seeds = [entry["seed"] for entry in self.playing]
        image = self.envs.reset(self.ended, seeds, variation)
        vector = self.envs.vectors
        for i in np.flatnonzero(self.ended):
            self.replay.add(int(i), first_row(image[i], vector[i]))
        self.obs = observed(image, vector, self.ended.copy())
        self.ended = np.zeros(self.envs.n, bool)

    def whole_since(self, step: int) -> bool:
        """Whether every episode that began before that agent step has ended."""
        pairs = zip(self.ended, self.playing, strict=True)
        return all(ended or entry["since"] >= step for ended, entry in pairs)

    def save_state(self) -> dict[str, Any]:
        """Counters, the episodes being played, the last observation, the policy's state.

        A step that is under way is there as its actions.
        """
        return {
            "steps": self.steps,
            "begun": self.begun,
            "dropped": self.dropped,
            "playing": self.playing,
            "ended": self.ended,
            "obs": self.obs,
            "state": self.state,
            "sent": self.sent,
        }

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Takes up the run: interrupted episodes are replayed up to their last action.

        Call it after the replay's, which holds those actions. A step that was under way is sent
        again.

        Returns:
            Whether the environments show what they showed before. A renderer on another machine
            may draw the same state a little differently.
        """
        self.steps, self.begun = state["steps"], state["begun"]
        self.dropped = state["dropped"]
        self.playing, self.state = [dict(entry) for entry in state["playing"]], state["state"]
        self.ended, self.obs = state["ended"], dict(state["obs"])
        if self.ended.all():
            return True
        recorded = self.replay.ongoing_actions()
        entries = [
            None
            if self.ended[i]
            else {
                "seed": entry["seed"],
                "variation": entry["variation"],
                "actions": recorded[i],
            }
            for i, entry in enumerate(self.playing)
        ]
        image = self.envs.restore(entries)
        self.sent = state["sent"]
        if self.sent is not None:
            self.envs.step_async(self.sent)
        shown = ~self.ended & ~self.envs.lost  # one that is lost shows nothing
        return bool(np.array_equal(image[shown], self.obs["image"][shown]))
