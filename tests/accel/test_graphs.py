"""Recordings, made on the CPU where a replay runs the function again; and where updates draw."""

import contextlib
import copy
import functools

import pytest
import torch

from accel.graphs import WARM_UPS, CUDAGraph, HostRecorder
from agents.diswm import Agent, Pretrainer
from tests.helpers.learners import DREAMERV2, B, T, make_batch, make_learner, make_obs

CPU = torch.device("cpu")


class Machine:
    """A function with a state, random numbers and one buffer that it always answers in."""

    def __init__(self):
        self.state, self.fresh = torch.zeros(3), None
        self.out, self.places = torch.zeros(3), []

    def __call__(self, inputs):
        self.places.append(inputs["x"].data_ptr())
        if self.fresh is None:
            self.fresh = torch.zeros(3)  # as an optimiser's moments come to be
        self.state += inputs["x"] + torch.rand(3)
        self.fresh += self.state
        torch.add(self.state, self.fresh, out=self.out)
        return {"vector": self.out, "number": self.out[0], "double": self.out.double().sum()}

    def tensors(self):
        return [self.state] if self.fresh is None else [self.state, self.fresh]


def recorded(machine):
    return CUDAGraph(machine, machine.tensors, CPU)


def test_a_recording_computes_what_the_function_does():
    plain, machine = Machine(), Machine()
    graph, answers = recorded(machine), []
    for function, own in ((plain, plain), (graph, machine)):
        torch.manual_seed(0)
        for turn in range(4):
            answer = function({"x": torch.full((3,), float(turn))})
            answers.append({name: value.clone() for name, value in answer.items()})
        answers.append({"state": own.state, "fresh": own.fresh, "rng": torch.get_rng_state()})
    for expected, actual in zip(answers[:5], answers[5:], strict=True):
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value.to(actual[name].dtype), rtol=0, atol=0)
    assert len(plain.places) == 4
    assert len(machine.places) == 4 + WARM_UPS


def test_what_a_recording_gives_belongs_to_the_caller():
    graph = recorded(Machine())
    first = graph({"x": torch.ones(3)})
    kept = {name: value.clone() for name, value in first.items()}
    second = graph({"x": torch.ones(3)})
    assert not torch.equal(second["vector"], first["vector"])
    for name, value in kept.items():
        assert torch.equal(first[name], value), name
    first["vector"].zero_()
    first["number"].zero_()
    again = {name: value.clone() for name, value in second.items()}
    assert all(torch.equal(second[name], again[name]) for name in again)
    assert again["vector"].abs().min() > 0
    assert again["number"] == again["vector"][0]


class SamePlaces(HostRecorder):
    """As on a GPU, every replay writes to where the recording's outputs lie."""

    def record(self, function):
        outputs = function()

        def replay():
            new = function()
            outputs._packed.copy_(new._packed)
            for name, tensor in outputs._rest.items():
                tensor.copy_(new._rest[name])
            return outputs

        return replay


def test_it_belongs_to_the_caller_where_replays_write_to_the_same_places():
    graph = CUDAGraph(
        lambda inputs: {"sum": inputs["x"].sum(), "twice": 2 * inputs["x"]},
        lambda: [],
        CPU,
    )
    graph._recorder = SamePlaces()
    given = [torch.full((2,), float(turn)) for turn in range(3)]
    answers = [graph({"x": x}) for x in given]
    for x, answer in zip(given, answers, strict=True):
        assert answer["sum"] == x.sum()
        assert torch.equal(answer["twice"], 2 * x)


def test_a_recording_reads_its_own_copy_of_what_it_is_given():
    machine = Machine()
    graph, x = recorded(machine), torch.ones(3)
    graph({"x": x})
    graph({"x": torch.zeros(3)})
    assert torch.equal(x, torch.ones(3))
    assert len(set(machine.places)) == 1
    assert x.data_ptr() not in machine.places


@pytest.mark.parametrize("shaped", [lambda x: x[None], lambda x: x.double()], ids=["shape", "type"])
def test_another_shape_is_recorded_anew(shaped):
    class Sum:
        calls, state = 0, torch.zeros(())

        def __call__(self, inputs):
            self.calls += 1
            self.state += inputs["x"].sum()
            return {"sum": inputs["x"].sum(), "same": inputs["x"]}

    function = Sum()
    graph = CUDAGraph(function, lambda: [function.state], CPU)
    x = torch.arange(3.0)
    for turn, (given, calls) in enumerate([(x, 4), (x + 1, 5), (shaped(x), 9), (x, 13)], 1):
        before = float(function.state)
        out = graph({"x": given})
        assert out["sum"] == given.sum()
        assert torch.equal(out["same"], given)
        assert out["same"].dtype == given.dtype
        assert function.calls == calls, turn
        assert float(function.state) == before + float(given.sum())
    graph.reset()
    graph({"x": x})
    assert function.calls == 17


def test_a_recording_leaves_gradients_as_they_were():
    seen = []

    def function(inputs):
        seen.append(torch.is_grad_enabled())
        return {"x": inputs["x"] * 2}

    graph = CUDAGraph(function, lambda: [], CPU)
    assert torch.is_grad_enabled()
    graph({"x": torch.ones(2)})
    assert torch.is_grad_enabled()
    assert seen == [True] * (WARM_UPS + 1)


class FakeGraph:
    """A graph that has a pool once its recording has ended."""

    ended = False

    def pool(self):
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")


@pytest.mark.parametrize("ends", [False, True])
def test_a_recording_that_fails_gives_its_memory_back(monkeypatch, ends):
    """PyTorch does not, where the end of the recording is what fails."""
    told, streams = [], []

    @contextlib.contextmanager
    def stream(given):
        streams.append(given)
        yield
        streams.pop()

    @contextlib.contextmanager
    def graph(made, pool, on):
        streams.append(on)
        try:
            yield
        finally:
            made.ended = ends
            if not ends:  # as PyTorch's, which then leaves its stream the current one
                raise RuntimeError("operation failed due to a previous error during capture")
            streams.pop()

    def fail():
        raise ValueError("not while recording")

    for name, fake in {"CUDAGraph": FakeGraph, "stream": stream, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        note = functools.partial(lambda name, *args: told.append((name, *args)), name)
        monkeypatch.setattr(torch._C, name, note, raising=False)
    monkeypatch.setattr(CudaRecorder, "_failed", [])
    recorder = object.__new__(CudaRecorder)
    recorder.device, recorder._stream = torch.device("cuda", 1), "its own"
    with pytest.raises(ValueError if ends else RuntimeError):
        recorder.record(fail)
    undone = [("_cuda_endAllocateToPool", 1, (0, 7)), ("_cuda_releasePool", 1, (0, 7))]
    assert told == ([] if ends else undone)
    assert [type(kept) for kept in recorder._failed] == ([] if ends else [FakeGraph])


def drive(agent, state_of_a_while_ago=None):
    """Three updates and actions between them; what came of it, in the order that it did."""
    torch.manual_seed(7)
    told, state = [], None
    for turn in range(3):
        if turn == 1 and state_of_a_while_ago is not None:
            agent.load_state_dict(copy.deepcopy(state_of_a_while_ago))
        agent.step += 11_000
        told.append(agent.update(make_batch(turn)))
        agent.refresh()
        for mode in ("train", "eval"):
            action, latent = agent.act(make_obs(turn), state, mode)
            told.append({"action": torch.tensor(action), **latent})
        state = latent
    weights = {k: v.clone() for k, v in agent.state_dict()["weights"].items()}
    return [*told, weights, {"rng": torch.get_rng_state()}]


CASES = [
    # what differs, and whether a state is loaded in the middle
    ({}, True),
    ({"actor_dist": "tanh_normal"}, False),  # its entropy draws within the update
    ({"imag_gradient": "both", "dyn_discrete": 3, "pred_discount": True}, False),
    ({"opt": "adamax"}, True),
    ({"opt": "momentum", "slow_target_fraction": 0.3}, False),
    ({"overlap": "True", "image_chunk": 3}, True),
    (DREAMERV2, False),
]


@pytest.mark.parametrize(("changes", "loads"), CASES, ids=str)
def test_a_recorded_agent_is_the_same_agent(changes, loads):
    earlier = None
    if loads:
        other = make_learner(seed=3, **changes)
        other.step = 5_000
        other.update(make_batch(9))
        earlier = other.state_dict()
    told = []
    for records in (False, True):
        agent = make_learner(runtime={"graphs": records}, **changes)
        told.append(drive(agent, earlier))
        assert agent._learn.graphs is records
    for place, (plain, graphed) in enumerate(zip(*told, strict=True)):
        assert plain.keys() == graphed.keys(), place
        for name, value in plain.items():
            assert torch.equal(value, graphed[name]), (place, name)


def test_a_loaded_agent_is_recorded_anew(monkeypatch):
    """A recording writes to the moments that were there; loading replaces them."""
    calls = []
    learn = Agent.learn
    monkeypatch.setattr(Agent, "learn", lambda self, data: calls.append(1) or learn(self, data))
    agent = make_learner(runtime={"graphs": True})
    for expected in (1 + WARM_UPS, 2 + WARM_UPS):
        agent.update(make_batch())
        assert len(calls) == expected
    agent.load_state_dict(agent.state_dict())
    agent.update(make_batch())
    assert len(calls) == 2 * (1 + WARM_UPS) + 1
    assert agent.updates == 3


def test_a_recorded_pretrainer_is_the_same_pretrainer():
    told = []
    for records in (False, True):
        pretrainer = make_learner(Pretrainer, runtime={"graphs": records})
        metrics = [pretrainer.update(make_batch(turn)) for turn in range(3)]
        told.append([*metrics, pretrainer.state_dict()["weights"]])
    for plain, graphed in zip(*told, strict=True):
        assert all(torch.equal(value, graphed[name]) for name, value in plain.items())


# Noise comes from outside

DISTS = ["trunc_normal", "tanh_normal", "tanh_normal_5", "normal", "normal_1", "onehot"]
DISTS += ["onehot_gumble"]
ESTIMATED = {"tanh_normal", "tanh_normal_5"}  # their entropy has no formula: it is sampled


@pytest.mark.parametrize("dist", DISTS)
@pytest.mark.parametrize("changes", [{}, {"dyn_discrete": 3, "imag_gradient": "both"}], ids=str)
def test_an_update_draws_nothing_once_its_noise_is_drawn(dist, changes):
    agent = make_learner(actor_dist=dist, **changes)
    data = agent.prepare(make_batch()) | agent.noise(B, T)
    data["weights"] = agent._schedule_values()
    before = torch.get_rng_state()
    agent.learn(data)
    assert torch.equal(before, torch.get_rng_state()) is (dist not in ESTIMATED)


@pytest.mark.parametrize(
    "changes",
    [DREAMERV2, {"imag_sample": False}, {"pred_discount": True}],
    ids=str,
)
def test_other_updates_draw_nothing_either(changes):
    agent, pretrainer = make_learner(**changes), make_learner(Pretrainer)
    for learner in (agent, pretrainer):
        data = learner.prepare(make_batch()) | learner.noise(B, T)
        data["weights"] = learner._schedule_values()
        before = torch.get_rng_state()
        learner.learn(data)
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("seen", "auto"), [(True, "cuda:0"), (False, "cpu")])
def test_auto_is_the_first_gpu_or_else_the_cpu(monkeypatch, seen, auto):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    assert fast.resolve_device("auto") == torch.device(auto)
    assert fast.resolve_device("cuda:1") == torch.device("cuda:1")
