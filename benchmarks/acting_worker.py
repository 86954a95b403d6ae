"""A process that holds one policy and acts on request; :mod:`benchmarks.acting` is the other side.

It reads what to hold (``source``, ``flags``, ``precision``, ``checkout``, ``device``, ``threads``,
``actions``, as in :mod:`benchmarks.worker`), then ``{"envs", "mode", "steps"}`` requests.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.worker import main

# (image uint8 [N, 64, 64, 3], is_first bool [N], state, mode) → (action [N, A], state)
Policy = Callable[[np.ndarray, np.ndarray, Any, str], tuple[np.ndarray, Any]]


def ours(spec: Mapping[str, Any]) -> tuple[Policy, dict[str, Any]]:
    """Our policy at a setting, and the configuration keys that say which."""
    import config  # not above: a process with the reference has modules of theirs by these names
    from accel.runtime import Runtime
    from agent import Agent

    flags = ["--configs", "defaults", "dmc2gym", "--beta_vae", "True", "--device", spec["device"]]
    parsed = config.parse([*flags, "--num_threads", str(spec["threads"]), *spec["flags"]])
    runtime = Runtime.resolve(parsed)
    runtime.prepare()
    torch.manual_seed(parsed.seed)
    agent = Agent(parsed, runtime, spec["actions"])

    def policy(image: np.ndarray, is_first: np.ndarray, state: Any, mode: str) -> Any:
        return agent.act({"image": image, "is_first": is_first}, state, mode)

    keys = [k for k in ("precision", "compile", "cuda_graphs") if k in parsed]
    return policy, {"config": {k: parsed[k] for k in keys}, "dtype": str(agent.dtype)}


def reference(spec: Mapping[str, Any]) -> tuple[Policy, dict[str, Any]]:
    """The authors' policy, and the commit of their checkout."""
    from benchmarks.machine import commit
    from benchmarks.reference import Reference

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    checkout = Path(spec["checkout"])
    theirs = Reference(checkout, "update", spec["actions"], spec["device"], spec["precision"]).agent

    @torch.no_grad()  # as their loop has it
    def policy(image: np.ndarray, is_first: np.ndarray, state: Any, mode: str) -> Any:
        obs = {"image": image, "reward": np.zeros(len(image), np.float32)}
        output, state = theirs._policy(obs, state, mode == "train")
        return output["action"].cpu().numpy(), state

    return policy, {"commit": commit(checkout)}


class Player:
    """A policy among environments that show noise.

    Args:
        policy: who acts.
        actions: A.
    """

    def __init__(self, policy: Policy, actions: int):
        self._policy, self._actions = policy, actions
        self._states: dict[tuple[int, str], Any] = {}
        self._rng = np.random.default_rng(0)

    def act(self, envs: int, mode: str, steps: int) -> dict[str, float]:
        """``seconds`` of one step of all ``envs``, the mean of ``steps``; the episodes go on."""
        image = self._rng.integers(0, 256, (2, envs, 64, 64, 3), dtype=np.uint8)
        state = self._states.get((envs, mode))
        is_first = np.full(envs, state is None)
        start = time.perf_counter()
        for step in range(steps):
            action, state = self._policy(image[step % 2], is_first, state, mode)
            is_first = np.zeros(envs, bool)
        seconds = (time.perf_counter() - start) / steps
        if action.shape != (envs, self._actions) or not np.isfinite(action).all():
            raise ValueError(f"the policy's actions are {action}")
        self._states[envs, mode] = state
        return {"seconds": seconds}


def serve(requests: Any, answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Builds what the first request says, then acts until the requests end."""
    spec = json.loads(next(requests))
    policy, facts = {"ours": ours, "reference": reference}[spec["source"]](spec)
    player = Player(policy, spec["actions"])
    answer({"facts": {**facts, "threads": torch.get_num_threads()}})
    for line in requests:
        answer(player.act(**json.loads(line)))


if __name__ == "__main__":
    sys.exit(main(serve))
