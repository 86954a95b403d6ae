"""Every registered agent keeps the contract of agents/base.py: a new method is tested by its name.

What a method needs beside its block in configs.yaml to be tiny goes into ``FLAGS``.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import config
from accel.generators import scratch_rng
from accel.runtime import Runtime
from agents.base import Agent, Batch, Spaces
from agents.random import Random
from agents.registry import AGENTS, METHODS, agent_class
from tests.helpers.models import make_batch, make_obs, stored
from tests.helpers.runs import Tiny, events
from training.stop import Stopped

ROOT = Path(__file__).parents[2]
PIXELS = ("sac", "rad", "curl", "ted", "drqv2", "svea")  # one way to act and to resume
FLAGS: dict[str, dict[str, Any]] = {
    "diswm": {"beta_vae": True, "distillation": True, "color_distractor": True},
    "apv": {"k": 3, "intr_seq_length": 2, "queue_size": 20, "queue_dim": 4},
    "tdmpc2": {"mlp_dim": 16, "num_channels": 4, "num_bins": 11, "num_samples": 8}
    | {"num_elites": 3, "num_pi_trajs": 2, "iterations": 2},
    "dreamerv3": {"dyn_discrete": 3, "bins": 7, "lr_warmup": 0},
    "hrssm": {"dyn_discrete": 3, "bins": 7, "block_size": 3, "envs": 1},
    **{name: {"hidden_dim": 16, "num_filters": 4, "encoder_feature_dim": 8} for name in PIXELS},
}
FLAGS["contextwm"] = {**FLAGS["apv"], "dyn_discrete": 3, "res_layers": 1, "hold_below": 3}
FROM_VIDEOS = {"apv", "dv2_finetune"}  # begin as a predictor with a plain CNN
LENGTHS = {"drqv2": 6, "ted": 7, "tdmpc2": 6}  # rows of the batches that they take; else 4 will do
SPACES = {
    "continuous": Spaces((64, 64, 3), 2, False),
    "discrete": Spaces((64, 64, 3), 3, True),
}
N = 3
CASES = [(m, kind) for m in sorted(AGENTS) for kind in sorted(agent_class(m).kinds)]


def words(tiny: Tiny, runs: Path, method: str, **more: Any) -> list[str]:
    """A command line of a tiny run of that method."""
    predictor = tiny.plain if method in FROM_VIDEOS else tiny.teacher
    predictor = tiny.contextual if method == "contextwm" else predictor
    flags = {"method_name": method, "pretrain_checkpoint_path": predictor}
    return tiny.episodes(runs, **flags, **FLAGS.get(method, {}), **more)


def build(tiny: Tiny, method: str, kind: str, seed: int = 0, **runtime: Any) -> Agent:
    """An agent as the loop builds it; ``runtime`` changes its `Runtime`."""
    given = words(tiny, Path("runs"), method, seed=seed)
    parsed = config.parse(given, methods=METHODS)
    kept = agent_class(method)
    kept.check(parsed)
    torch.manual_seed(seed)
    given_runtime = dataclasses.replace(Runtime.resolve(parsed), **runtime)
    return kept(parsed, given_runtime, SPACES[kind], kept.find_source(parsed))


def rows(agent: Agent, seed: int = 0, **more: Any) -> Batch:
    """A batch that the agent takes."""
    return make_batch(seed, length=LENGTHS.get(agent.name, 4), **more)


def trace(agent: Agent, spaces: Spaces) -> dict[str, Any]:
    """What an agent does next: an update, actions of both modes, and all that it then is."""
    torch.manual_seed(7)
    update = agent.learn(rows(agent, 1, spaces=spaces), 30)
    agent.sync()
    state, actions = None, []
    for mode, first in (("train", True), ("train", False), ("eval", False)):
        action, state = agent.act(make_obs(first=first, spaces=spaces), state, mode)
        actions.append(action)
    return {"metrics": update.metrics, "actions": actions, "state": agent.save_state()}


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_updates_and_actions_have_their_shapes_and_kinds(tiny, method, kind):
    agent, spaces = build(tiny, method, kind), SPACES[kind]
    assert agent.name == method
    update = agent.learn(rows(agent, spaces=spaces), 0)
    for name, value in update.metrics.items():
        assert value.ndim == 0, name
        assert torch.isfinite(value), name
        assert not value.requires_grad, name
    assert update.skipped is None or not update.skipped.any()
    agent.sync()
    for mode in ("train", "eval"):
        action, state = agent.act(make_obs(spaces=spaces), None, mode)
        assert (action.dtype, action.shape) == (np.float32, (N, spaces.action_size))
        assert (np.abs(action) <= 1).all()
        if spaces.discrete:
            np.testing.assert_allclose(np.sort(action)[:, -2:], [[0, 1]] * N, atol=1e-6)
        assert all(len(value) == N for value in (state or {}).values())
    for tag, picture in agent.report(rows(agent, spaces=spaces)).items():
        assert picture.ndim in (3, 5), tag
        assert picture.shape[-1] == spaces.image[-1], tag


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_new_episode_forgets_and_the_seed_decides(tiny, method, kind, same):
    agent, again, spaces = build(tiny, method, kind), build(tiny, method, kind), SPACES[kind]
    same.values(trace(agent, spaces), trace(again, spaces))
    _, state = agent.act(make_obs(spaces=spaces), None, "eval")
    _, later = agent.act(make_obs(first=False, spaces=spaces), state, "eval")
    states = (None, later)
    kept = agent.save_state()
    actions = []
    for remembered in states:
        agent.load_state(stored(kept))
        torch.manual_seed(0)
        actions.append(agent.act(make_obs(spaces=spaces), remembered, "eval")[0])
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_saved_state_is_data_and_everything_there_is(tiny, method, kind, same):
    agent, other, spaces = build(tiny, method, kind), build(tiny, method, kind, 1), SPACES[kind]
    for step in range(2):
        agent.learn(rows(agent, step, spaces=spaces), step)
    other.load_state(stored(agent.save_state()))
    same.values(trace(other, spaces), trace(agent, spaces))
    if any(value.ndim for value in other.parameters()):
        wider = spaces._replace(action_size=spaces.action_size + 1)
        parsed = config.parse(words(tiny, Path("runs"), method), methods=METHODS)
        other = type(agent)(parsed, Runtime.resolve(parsed), wider)
        with pytest.raises(ValueError, match="shape"):
            other.load_state(agent.save_state())


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_another_agent_begins_with_what_fits_of_its_weights(tiny, method, kind, same):
    agent, other, spaces = build(tiny, method, kind), build(tiny, method, kind, 1), SPACES[kind]
    agent.learn(rows(agent, 1, spaces=spaces), 1)
    state, fresh = stored(agent.save_state()), other.save_state().get("optimizers")
    taken = other.init_from(state)
    assert (taken.fresh, taken.left_over) == ([], [])
    assert taken.tensors <= len(other.state_dict())
    same.values(other.state_dict(), agent.state_dict())
    same.values(other.save_state().get("optimizers"), fresh)
    parsed = config.parse(words(tiny, Path("runs"), method), methods=METHODS)
    wider = type(agent)(
        parsed, Runtime.resolve(parsed), spaces._replace(action_size=spaces.action_size + 1)
    )
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    partly, given = wider.init_from(state), agent.state_dict()
    for name, value in wider.state_dict().items():
        same.values(value, before[name] if name in partly.fresh else given.get(name, value), name)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(AGENTS))
def test_a_run_stops_goes_on_and_is_evaluated(tiny, method, tmp_path, calling, same):
    short = {"steps": 80, "eval_every": 80}
    whole = tiny.finish(words(tiny, tmp_path / "whole", method, **short))
    argv = words(tiny, tmp_path / "parts", method, **short)

    def stop() -> None:
        raise Stopped

    with calling({("acting", 3): stop}):
        result = tiny.run(argv)
    assert result.code == 128, result.err
    if method in PIXELS[1:]:  # a process costs seconds, and is the same to all of these
        tiny.finish(argv)
    else:
        process = [sys.executable, "dreamer.py", *argv]
        ended = subprocess.run(process, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    folder = tiny.folder(argv)
    same.run(whole, folder)
    evaluated = tiny.run(["--evaluate", str(folder)])
    assert evaluated.code == 0, evaluated.err
    logged = events(folder, "evaluation")[-1]
    assert f"return {logged['ret']:.1f}"[:-1] in evaluated.out
    if method == "tdmpc2":  # flags of its own go with an evaluation
        for number, code in (("9", 0), ("2", 2)):
            planned = tiny.run(["--evaluate", str(folder), "--num_samples", number])
            assert planned.code == code, planned.err
        assert "--num_elites 3 is above --num_samples 2" in planned.err


def test_a_random_agent_that_is_evaluated_trains_on_as_if_it_were_not():
    agent = Random(config.parse([]), None, Spaces((8, 8, 3), 2, False))
    obs, before = {"is_first": np.ones(3, bool)}, agent.save_state()
    with scratch_rng(5, torch.device("cpu")):
        seen = [agent.act(obs, None, "eval")[0] for _ in range(2)]
    assert agent.save_state() == before
    assert not np.array_equal(*seen)
    with scratch_rng(5, torch.device("cpu")):
        np.testing.assert_array_equal(agent.act(obs, None, "eval")[0], seen[0])
