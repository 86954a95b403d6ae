"""Playing: the collector feeds the replay, the evaluation plays whole episodes beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from envs import EnvError, VectorEnv, episode_seed
from replay import Replay
from replay.episodes import Episode
from tools import Diverged

Observation = dict[str, np.ndarray]  # image uint8 [N, H, W, C], is_first bool [N]
Policy = Callable[[Observation, Any], tuple[np.ndarray, Any]]


class RandomPolicy:
    """Uniform actions, or uniform choices, from a generator of its own."""

    def __init__(self, action_size: int, discrete: bool, seed: int):
        self.action_size, self.discrete = action_size, discrete
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs: Observation, state: Any) -> tuple[np.ndarray, Any]:
        shape = (len(obs["is_first"]), self.action_size)
        if self.discrete:
            choice = self.rng.integers(self.action_size, size=shape[0])
            return np.eye(self.action_size, dtype=np.float32)[choice], None
        return self.rng.uniform(-1, 1, shape).astype(np.float32), None

    def state_dict(self) -> dict[str, str]:
        return {"rng": json.dumps(self.rng.bit_generator.state)}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        self.rng.bit_generator.state = json.loads(state["rng"])


def _check_finite(action: np.ndarray) -> None:
    if not np.isfinite(action).all():
        raise Diverged("an action")


def first_row(image: np.ndarray) -> dict[str, Any]:
    """Row 0 of an episode: its first image, and nothing that led to it."""
    return {
        "image": image,
        "reward": 0.0,
        "discount": 1.0,
        "is_first": True,
        "is_last": False,
        "is_terminal": False,
    }


def step_rows(action: np.ndarray, result: Any) -> list[dict[str, Any]]:
    """One row for each environment: the image after the action, and what it earned.

    ``success`` and ``distance`` are not a replay's: an evaluation keeps them.
    """
    last = result.terminated | result.truncated
    return [
        {
            "image": result.image[i],
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
        self.obs: Observation = {
            "image": np.zeros((envs.n, *envs.image_shape), np.uint8),
            "is_first": np.zeros(envs.n, bool),
        }
        self.state: Any = None  # the policy's
        self.sent: np.ndarray | None = None  # actions [N, A] of the step that is under way

    def step(self, policy: Policy) -> list[Episode]:
        """One step of every environment; returns the episodes that it closed."""
        self.send(policy)
        return self.receive()

    def send(self, policy: Policy) -> None:
        """Begins a step of every environment: worker processes make it until `receive`."""
        if self.ended.any():
            self._begin()
        action, self.state = policy(self.obs, self.state)
        _check_finite(action)
        self.envs.step_async(action)
        self.sent = action

    def receive(self) -> list[Episode]:
        """Ends the step that was sent; returns the episodes that it closed."""
        result = self.envs.step_wait()
        action, self.sent = self.sent, None
        rows = step_rows(action, result)
        for i in np.flatnonzero(result.broken):
            self.replay.drop(int(i))
            self.dropped += 1
        whole = np.flatnonzero(~result.broken)
        closed = [self._add(int(i), rows[i]) for i in whole]
        self.ended = result.terminated | result.truncated | result.broken
        self.obs = {"image": result.image, "is_first": np.zeros(self.envs.n, bool)}
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
        for i in np.flatnonzero(self.ended):
            self.replay.add(int(i), first_row(image[i]))
        self.obs = {"image": image, "is_first": self.ended.copy()}
        self.ended = np.zeros(self.envs.n, bool)

    def whole_since(self, step: int) -> bool:
        """Whether every episode that began before that agent step has ended."""
        pairs = zip(self.ended, self.playing, strict=True)
        return all(ended or entry["since"] >= step for ended, entry in pairs)

    def state_dict(self) -> dict[str, Any]:
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

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Takes up the run: interrupted episodes are replayed up to their last action.

        Call it after the replay's, which holds those actions. A step that was under way is sent
        again.

        Returns:
            Whether the environments show what they showed before. A renderer on another machine
            may draw the same state a little differently.
        """
        self.steps, self.begun = state["steps"], state["begun"]
        self.dropped = state.get("dropped", 0)  # runs of earlier versions have none
        self.playing, self.state = [dict(entry) for entry in state["playing"]], state["state"]
        for entry in self.playing:  # runs of earlier versions have neither
            entry.setdefault("since", 0)
            entry.setdefault("success", None)
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
        self.sent = state.get("sent")  # runs of earlier versions have none
        if self.sent is not None:
            self.envs.step_async(self.sent)
        shown = ~self.ended & ~self.envs.lost  # one that is lost shows nothing
        return bool(np.array_equal(image[shown], self.obs["image"][shown]))


def play(
    envs: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    variation: str,
    check: Callable[[], None] = lambda: None,
    images: int | None = None,
    lost: Callable[[int], None] = lambda index: None,
) -> list[dict[str, np.ndarray]]:
    """Plays one whole episode for each seed, as many at once as there are environments.

    Args:
        envs: the environments to play in.
        policy: acts; its state starts as None.
        seeds: of the episodes.
        variation: the distractions of all of them.
        check: called at every step, to raise if the run is to stop.
        images: keep those of so many episodes, the first ones; None keeps all.
        lost: called with the place of a seed whose environment broke; its episode is left out.

    Returns:
        The episodes in the order of the seeds: ``image`` [T, H, W, C], ``action`` [T, A],
        ``reward``, ``discount``, ``is_terminal`` [T]; where the environment tells them, also
        ``success`` and ``distance`` float32 [T], NaN in row 0.

    Raises:
        EnvError: no episode is left.
    """
    rows: dict[int, list[dict[str, Any]]] = {}
    finished: set[int] = set()
    playing = [-1] * envs.n
    ended, state, begun = np.ones(envs.n, bool), None, 0
    is_first = ended
    while len(finished) < len(seeds):
        check()
        if ended.any():
            for i in np.flatnonzero(ended):
                # Beyond the last seed an idle environment plays along, and nobody looks.
                playing[i], begun = begun, begun + 1
            image = envs.reset(ended, [seeds[p % len(seeds)] for p in playing], variation)
            for i in np.flatnonzero(ended):
                rows[playing[i]] = [first_row(image[i])]
            is_first = ended
        action, state = policy({"image": image, "is_first": is_first}, state)
        _check_finite(action)
        result = envs.step(action)
        for i, row in enumerate(step_rows(action, result)):
            rows[playing[i]].append(row)
            if images is not None and playing[i] >= images:
                del row["image"]
        for i in np.flatnonzero(result.broken):
            del rows[playing[i]]
            if playing[i] < len(seeds):
                lost(playing[i])
        image, ended = result.image, result.terminated | result.truncated | result.broken
        is_first = np.zeros(envs.n, bool)
        finished |= {playing[i] for i in np.flatnonzero(ended) if playing[i] < len(seeds)}
    return _whole(rows, len(seeds), envs)


def _whole(rows: dict[int, list[dict]], n: int, envs: VectorEnv) -> list[dict[str, np.ndarray]]:
    """The episodes of the first n that are there, which leave ``rows`` one by one."""
    played = [i for i in range(n) if i in rows]
    if not played:
        raise EnvError(f"no episode could be played to its end: {envs.notes[-1]['reason']}")
    return [_stack(rows.pop(i), envs.action_size) for i in played]


def _stack(rows: list[dict[str, Any]], action_size: int) -> dict[str, np.ndarray]:
    zero = np.zeros(action_size, np.float32)
    kinds = {"reward": np.float32, "discount": np.float32, "is_terminal": bool}
    episode = {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    if all("image" in row for row in rows):
        episode["image"] = np.stack([row["image"] for row in rows])
    episode["action"] = np.stack([row.get("action", zero) for row in rows])
    for name in ("success", "distance"):
        told = np.array([row.get(name, np.nan) for row in rows], np.float32)
        if not np.isnan(told).all():
            episode[name] = told
    return episode
