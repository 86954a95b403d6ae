"""Compiled updates: no breaks in what is compiled, and the numbers of the eager ones."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from accel import compiling
from accel.compiling import Compiled, is_compilers, missing_compiler, updating
from agents import diswm, predictor
from tests.agents.test_conformance import build, rows
from tests.helpers.models import make_agent, make_batch, make_obs, make_pretrainer

MISSING = missing_compiler(torch.device("cpu"))


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


def update_both(make, **changes):
    """The compiled learner, and what two updates came to, eager and compiled."""
    told = []
    for compiles in (False, True):
        learner = make(runtime={"compile": compiles}, **changes)
        torch.manual_seed(1)
        metrics = [learner.learn(make_batch(turn), turn).metrics for turn in range(2)]
        told.append(metrics[-1] | learner.save_state()["weights"])
    return learner, *told


def assert_near(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-7)


OTHERS = {"dyn_discrete": 3, "imag_gradient": "both", "pred_discount": "True", "image_chunk": 4}
OTHERS |= {"dyn_cell": "gru", "dyn_temp_post": False, "actor_dist": "onehot", "kl_forward": True}
OTHERS |= {"value_head": "huber", "future_entropy": True, "precision": "bf16", "beta_vae": False}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, OTHERS], ids=["default", "others"])
def test_what_is_compiled_is_traced_whole_and_once_and_in_updates_alone(traced, tiny, changes):
    teacher = None if changes else tiny.teacher
    agent, eager, compiled = update_both(make_agent, teacher=teacher, **changes)
    graphs = traced["stats"]["unique_graphs"]
    assert graphs > 8  # the regions of an update, some of them twice: with a gradient, without
    assert_near(eager, compiled)
    agent.learn(make_batch(2), 2)
    state = agent.act(make_obs(), None, "train")[1]
    agent.act(make_obs(1, first=False), state, "eval")
    agent.report(make_batch())
    assert traced["stats"]["unique_graphs"] == graphs
    assert not traced["graph_break"]


def test_a_pretrainer_is_traced_whole_and_once(traced):
    _, eager, compiled = update_both(make_pretrainer)
    assert traced["stats"]["unique_graphs"] > 3
    assert not traced["graph_break"]
    assert_near(eager, compiled)


@pytest.mark.parametrize(
    "method", ["curl", "drqv2", "hrssm", "rad", "sac", "svea", "tdmpc2", "ted"]
)
def test_updates_of_a_method_are_traced_whole_and_are_those_of_eager_ones(traced, tiny, method):
    told = []
    for compiles in (False, True):
        agent = build(tiny, method, "continuous", compile=compiles)
        torch.manual_seed(1)
        metrics = [agent.learn(rows(agent, turn), turn).metrics for turn in range(2)]
        told.append(metrics[-1] | agent.save_state()["weights"])
    assert traced["stats"]["unique_graphs"] >= 3
    assert not traced["graph_break"]
    assert_near(*told)


def test_an_error_inside_leaves_compiling():
    def fail():
        with updating():
            assert Compiled.inside
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not Compiled.inside


def test_an_error_of_compiling_is_known_from_one_of_what_is_compiled(fresh):
    def fail(module, inputs):
        raise ValueError("no such instruction")

    for function, ours in ((torch.compile(torch.sin, backend=fail), True), (torch.mm, False)):
        with pytest.raises(RuntimeError) as caught:
            function(*[torch.ones(3)] * (1 if ours else 2))
        assert is_compilers(caught.value) is ours


def gradients(agent):
    names = {id(p): name for name, p in agent.named_parameters()}
    parts = agent.optimizers.values()
    return {names[id(p)]: p.grad.clone() for part in parts for p in part.parameters}


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=f"torch.compile needs {MISSING}")
def test_compiled_updates_compute_the_terms_and_gradients_of_eager_ones(monkeypatch, fresh):
    """The code of one method is made: that of everything takes minutes."""

    def some(owner, *names):
        compiling.compile_methods(owner, *{"kl_term"}.intersection(names))

    for module in (diswm, predictor):
        monkeypatch.setattr(module, "compile_methods", some)
    told = []
    for compiles in (False, True):
        agent = make_agent(runtime={"compile": compiles})
        torch.manual_seed(1)
        metrics = agent.learn(make_batch(), 0).metrics
        told.append((metrics, gradients(agent)))
    assert fresh["inductor"]["fxgraph_cache_miss"] + fresh["inductor"]["fxgraph_cache_hit"] > 1
    assert not fresh["graph_break"]
    (terms, grads), (compiled_terms, compiled_grads) = told
    assert terms.keys() == compiled_terms.keys()
    for name, value in terms.items():
        torch.testing.assert_close(compiled_terms[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert len(grads) > 40
    for name, grad in grads.items():
        error = (compiled_grads[name] - grad).norm() / grad.norm().clamp(min=1e-12)
        assert float(error) < 1e-4, name
