"""No failure of recording or compiling costs an update, or counts it twice."""

import functools

import pytest
import torch

from accel import compiling, fallback
from accel.compiling import Compiled
from accel.fallback import Accelerated, reason
from accel.graphs import WARM_UPS, HostRecorder
from accel.runtime import Runtime
from agents import diswm, predictor
from agents.base import Agent
from agents.optimizer import Optimizer
from tests.helpers.models import (
    copied,
    equal,
    make_agent,
    make_batch,
    make_inputs,
    make_obs,
    make_pretrainer,
)
from tests.helpers.runs import assert_same
from tools import UserError

CPU = torch.device("cpu")
REFUSED = "operation not permitted when stream is capturing"


@pytest.fixture(autouse=True)
def anew():
    """Lines that were said once may be said again."""
    fallback._say_once.cache_clear()


def in_warm_up(monkeypatch, error):
    """In the second run before the recording: an agent's model has made its step by then."""
    step, calls = Optimizer.step, []

    def failing(self, *args):
        calls.append(self.name)
        if calls in (["model", "actor", "value", "model", "actor"], ["model", "model"]):
            raise error
        return step(self, *args)

    monkeypatch.setattr(Optimizer, "step", failing)


def in_capture(monkeypatch, error):
    def failing(self, function):
        function()
        raise error

    monkeypatch.setattr(HostRecorder, "record", failing)


def in_first_replay(monkeypatch, error):
    def failing(self, function):
        def replay():
            function()
            raise error

        return replay

    monkeypatch.setattr(HostRecorder, "record", failing)


def behind_first_replay(monkeypatch, error):
    def failing(self):
        raise error

    monkeypatch.setattr(HostRecorder, "wait", failing)


def drive(learner):
    """Three updates and, of an agent, actions between them; all that came of it."""
    torch.manual_seed(7)
    told, state = [], None
    for turn in range(3):
        told.append(list(learner.learn(make_batch(turn), turn)))
        if isinstance(learner, Agent):
            action, state = learner.act(make_obs(turn, first=turn == 0), state, "train")
            told.append([action, state])
    return [*told, learner.save_state(), torch.get_rng_state()]


@functools.cache
def eager(make, opt="adam"):
    return drive(make(opt=opt))


PLACES = [in_warm_up, in_capture, in_first_replay, behind_first_replay]
CASES = [(make_agent, "adam", place) for place in PLACES]
CASES += [(make_agent, "adamax", in_first_replay), (make_agent, "momentum", in_capture)]
CASES += [(make_pretrainer, "adam", in_warm_up)]


@pytest.mark.parametrize(("make", "opt", "place"), CASES)
def test_a_learner_that_cannot_be_recorded_is_the_eager_one(monkeypatch, capsys, make, opt, place):
    place(monkeypatch, torch.OutOfMemoryError(f"{REFUSED}\nfurther words"))
    learner = make(runtime={"graphs": True}, opt=opt)
    assert_same(drive(learner), eager(make, opt))
    assert not learner._compute.graphs
    lines = capsys.readouterr().err.splitlines()
    why = f"could not be recorded as a CUDA graph (OutOfMemoryError: {REFUSED})"
    told = ["an update"]
    if make is make_agent and place is not in_warm_up:
        told.append("a policy's step")
    assert lines == [f"note: {what} {why}: it goes on as it is" for what in told]


def test_a_policys_step_that_cannot_be_recorded_is_told_once_for_both_modes(monkeypatch, capsys):
    told = []
    for graphs in (False, True):
        if graphs:
            in_capture(monkeypatch, RuntimeError(REFUSED))
        agent = make_agent(runtime={"graphs": graphs})
        for mode in ("train", "eval"):
            torch.manual_seed(0)
            action, state = agent.act(make_obs(), None, mode)
            told.append([action, state, torch.get_rng_state()])
    assert_same(told[:2], told[2:])
    assert capsys.readouterr().err.count("\n") == 1


def broken_compiler(monkeypatch, error=None):
    """Only the critic's loss is compiled, behind two optimisers' steps; or it fails to be."""

    def backend(module, inputs):
        if error is not None:
            raise error
        return module.forward

    def only(owner, *names):
        compiling.compile_methods(owner, *{"value_loss"}.intersection(names))

    torch._dynamo.reset()
    for module in (diswm, predictor):
        monkeypatch.setattr(module, "compile_methods", only)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


@pytest.mark.parametrize("graphs", [False, True])
def test_an_agent_that_cannot_be_compiled_is_the_eager_one(monkeypatch, capsys, graphs):
    broken_compiler(monkeypatch, SyntaxError("no such instruction"))
    agent = make_agent(runtime={"compile": True, "graphs": graphs})
    assert_same(drive(agent), eager(make_agent))
    assert (agent._compute.compile, agent._compute.graphs) == (False, graphs)
    first, line = capsys.readouterr().err.splitlines()
    assert "the first update compiles" in first
    how = "it goes on recorded" if graphs else "it goes on as it is"
    what = "an update could not be compiled (SyntaxError: no such instruction)"
    assert line == f"note: {what}: {how}"


def test_what_cannot_be_recorded_goes_on_compiled(monkeypatch, capsys):
    broken_compiler(monkeypatch)
    in_capture(monkeypatch, RuntimeError(REFUSED))
    agent = make_agent(runtime={"compile": True, "graphs": True})
    told, expected = drive(agent), eager(make_agent)
    for (one, _), (other, _) in zip(told[:-2:2], expected[:-2:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert (agent._compute.compile, agent._compute.graphs) == (True, False)
    assert "it goes on compiled" in capsys.readouterr().err


INSISTS = [
    ("insist_graphs", "recorded as a CUDA graph", "--cuda_graphs auto"),
    ("insist_compile", "compiled", "--compile auto"),
]


@pytest.mark.parametrize(("flag", "what", "mend"), INSISTS)
def test_what_is_insisted_on_is_refused_in_a_line(monkeypatch, flag, what, mend):
    if flag == "insist_graphs":
        in_first_replay(monkeypatch, RuntimeError(REFUSED))
        agent = make_agent(runtime={"graphs": True, flag: True})
    else:
        broken_compiler(monkeypatch, SyntaxError("no such instruction"))
        agent = make_agent(runtime={"compile": True, flag: True})
    inputs, before = make_inputs(agent, make_batch()), copied(agent)
    rng = torch.get_rng_state()
    with pytest.raises(UserError) as caught:
        agent._compute(inputs)
    assert f"an update could not be {what} (" in str(caught.value)
    assert mend in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(rng, torch.get_rng_state())
    assert equal(copied(agent), before)


class Tally:
    """A function that counts what it did, and fails where it is told to."""

    def __init__(self, *failing):
        self.state, self.failing, self.calls = torch.zeros(3), failing, 0

    def __call__(self, inputs):
        self.calls += 1
        self.state += inputs["x"].sum() + torch.rand(())
        if self.calls in self.failing:
            raise RuntimeError(REFUSED)
        return {"state": self.state}


def accelerated(tally, **runtime):
    return Accelerated(tally, Runtime(CPU, **runtime), "it", lambda: [tally.state])


def test_memory_that_is_full_without_graphs_too_is_told_as_it_is():
    def full(inputs):
        raise torch.OutOfMemoryError("full")

    for insists in (False, True):
        function = Accelerated(full, Runtime(CPU, graphs=True, insist_graphs=insists), "it")
        with pytest.raises(torch.OutOfMemoryError, match="full"):
            function({"x": torch.ones(2)})


def test_a_later_failure_is_none_of_recording(capsys):
    function, x = accelerated(Tally(WARM_UPS + 3), graphs=True), {"x": torch.ones(2)}
    for _ in range(2):
        function(x)
    with pytest.raises(RuntimeError, match=REFUSED):
        function(x)
    assert function.graphs
    assert capsys.readouterr().err == ""


def test_another_shape_may_be_the_one_that_cannot_be_recorded(capsys):
    torch.manual_seed(0)
    tally, plain = Tally(WARM_UPS + 2), Tally()
    function = accelerated(tally, graphs=True)
    for size in (2, 3, 2):
        told = function({"x": torch.ones(size)})["state"].clone()
    assert tally.calls == (WARM_UPS + 1) + 1 + 2
    torch.manual_seed(0)
    for size in (2, 3, 2):
        plain({"x": torch.ones(size)})
    assert torch.equal(told, plain.state)
    function.reset()  # as loading does
    function({"x": torch.ones(2)})
    assert tally.calls == (WARM_UPS + 1) + 1 + 3  # it stays as it is
    assert capsys.readouterr().err.count("\n") == 1


def test_compiled_functions_are_used_inside_alone():
    seen = []
    function = Accelerated(
        lambda inputs: seen.append(Compiled.inside) or inputs, Runtime(CPU, compile=True), "it"
    )
    function({"x": torch.ones(2)})
    assert seen == [True]
    assert not Compiled.inside


def test_the_reason_is_the_first_error():
    def fail():
        try:
            raise ValueError("the first\nof two lines")
        except ValueError:
            raise RuntimeError("the second")  # noqa: B904 as it comes

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert reason(caught.value) == "ValueError: the first"
    assert reason(KeyError()) == "KeyError"
