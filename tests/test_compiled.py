"""Compiled updates: no breaks in what is compiled, and the numbers of the eager ones."""

import functools

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import behavior
import config
import rssm
from accel import graphs as fast
from agent import Agent, Pretrainer
from models import VideoPredictor

B, T, A = 2, 6, 2  # a scan of 6 steps comes as 5 and 1
FLAGS = "--configs defaults dmc2gym --device cpu --precision 32 --beta_vae True --z_dim 3 "
FLAGS += "--distillation True --dyn_stoch 4 --dyn_deter 6 --dyn_hidden 7 --units 8 --cnn_depth 2 "
FLAGS += "--actor_layers 1 --value_layers 1 --reward_layers 1 --imag_horizon 6 --kl_free 0.1"
SOME = ("filter_steps", "kl_term", "head_term", "dream_steps")
MISSING = fast.missing_compiler(torch.device("cpu"))


def make_agent(**changes):
    torch.manual_seed(0)
    c = config.parse(FLAGS.split()).replace(**changes)
    return Agent(c, A, VideoPredictor(c, 0) if c.distillation else None)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    first = np.zeros((B, T), bool)
    first[:, 0] = first[1, 2] = True
    return {
        "image": rng.integers(0, 256, (B, T, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (B, T, A)).astype(np.float32),
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "discount": np.ones((B, T), np.float32),
        "is_first": first,
    }


@pytest.fixture
def fresh():
    """The compiler, as it is at a process's start, and its settings put back."""
    random = torch._inductor.config.fallback_random
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()
    counters.clear()
    torch._inductor.config.fallback_random = random


@pytest.fixture
def traced(monkeypatch, fresh):
    """Functions are traced whole, or there is an error, and then run as they are."""
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    return fresh


CASES = [
    {},
    {"precision": "bf16"},
    {"beta_vae": False, "distillation": False},
    {"dyn_discrete": 3, "imag_gradient": "both", "pred_discount": True},
    {"kl_forward": True, "actor_dist": "normal", "future_entropy": True, "image_chunk": 4},
    {"dyn_cell": "gru", "dyn_temp_post": False, "actor_dist": "onehot", "value_head": "huber"},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_what_is_compiled_is_traced_whole_and_once(traced, changes):
    told, graphs = [], []
    for compiles in ("False", "True"):
        agent = make_agent(compile=compiles, **changes)
        torch.manual_seed(1)
        for turn in range(3):
            metrics = agent.update(make_batch(turn))
            graphs.append(traced["stats"]["unique_graphs"])
        told.append(metrics | agent.state_dict()["weights"])
    assert graphs[:3] == [0, 0, 0]
    assert graphs[3] > 8  # the regions of an update, some of them twice: with a gradient, without
    assert graphs[3:] == [graphs[3]] * 3
    assert not traced["graph_break"]
    for name, value in told[0].items():
        torch.testing.assert_close(told[1][name], value, rtol=1e-6, atol=1e-7)


def test_a_pretrainer_is_traced_whole_and_once(traced):
    told = []
    for compiles in ("False", "True"):
        torch.manual_seed(0)
        pretrainer = Pretrainer(make_agent(compile=compiles).config)
        for turn in range(2):
            metrics = pretrainer.update(make_batch(turn))
            graphs = traced["stats"]["unique_graphs"]
        told.append(metrics)
    assert graphs > 3
    assert not traced["graph_break"]
    for name, value in told[0].items():
        torch.testing.assert_close(told[1][name], value, rtol=1e-6, atol=1e-7)


def test_only_updates_are_compiled(traced):
    agent = make_agent(compile="True")
    obs = {"image": make_batch()["image"][:, 0], "is_first": np.ones(B, bool)}
    state = agent.act(obs, None)[1]
    agent.act(obs, state, "eval")
    agent.report(make_batch())
    assert traced["stats"]["unique_graphs"] == 0
    agent.update(make_batch())
    assert traced["stats"]["unique_graphs"] > 8
    assert not fast.Compiled.inside


def test_an_error_inside_leaves_compiling():
    def fail():
        with fast.updating():
            assert fast.Compiled.inside
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not fast.Compiled.inside


def gradients(agent):
    names = {id(p): name for name, p in agent.named_parameters()}
    parts = agent.optimizers.values()
    return {names[id(p)]: p.grad.clone() for part in parts for p in part.parameters}


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=f"torch.compile needs {MISSING}")
def test_compiled_updates_compute_the_terms_and_gradients_of_eager_ones(monkeypatch, fresh):
    """Where most operations are; to make the code of everything takes minutes."""
    compile_methods = fast.compile_methods

    def some(owner, *names):
        compile_methods(owner, *(name for name in names if name in SOME))

    monkeypatch.setattr(fast, "compile_methods", some)
    for module in (rssm, behavior):
        monkeypatch.setattr(module, "STRIDE", 1)
    told = []
    for compiles in ("False", "True"):
        agent = make_agent(compile=compiles)
        torch.manual_seed(1)
        metrics = agent.update(make_batch())
        told.append((metrics, gradients(agent)))
    assert fresh["inductor"]["fxgraph_cache_miss"] + fresh["inductor"]["fxgraph_cache_hit"] > 5
    assert not fresh["graph_break"]
    (terms, grads), (compiled_terms, compiled_grads) = told
    assert terms.keys() == compiled_terms.keys()
    for name, value in terms.items():
        torch.testing.assert_close(compiled_terms[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert grads.keys() == compiled_grads.keys()
    assert len(grads) > 40
    for name, grad in grads.items():
        error = (compiled_grads[name] - grad).norm() / grad.norm().clamp(min=1e-12)
        assert float(error) < 1e-4, name
