"""Recordings, made on the CPU where a replay runs the function again; and where updates draw."""

import pytest
import torch

from accel.graphs import WARM_UPS, CUDAGraph, HostRecorder
from agents.diswm import DisWM
from tests.helpers.models import (
    make_agent,
    make_batch,
    make_inputs,
    make_obs,
    make_pretrainer,
    stored,
)
from tests.helpers.runs import assert_same

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


def drive(agent, earlier=None):
    """Three updates and actions between them; what came of it, in the order that it did.

    With a state of ``earlier`` times, that is loaded in the middle.
    """
    torch.manual_seed(7)
    told, state = [], None
    for turn in range(3):
        if turn == 1 and earlier is not None:
            agent.load_state(stored(earlier))
        told.append(list(agent.learn(make_batch(turn), 11_000 * turn)))
        agent.sync()
        for mode in ("train", "eval"):
            action, latent = agent.act(make_obs(turn, first=turn == 0), state, mode)
            told.append([action, latent])
        state = latent
    return [*told, agent.save_state(), torch.get_rng_state()]


CASES = [
    # what differs, and whether a state is loaded in the middle
    ({"teacher": True}, True),
    ({"actor_dist": "tanh_normal"}, False),  # its entropy draws within the update
    ({"imag_gradient": "both", "dyn_discrete": 3, "pred_discount": "True"}, False),
    ({"opt": "adamax"}, True),
    ({"opt": "momentum", "slow_target_fraction": 0.3}, False),
    ({"overlap": "True", "image_chunk": 3}, True),
    ({"beta_vae": False}, False),
]


@pytest.mark.parametrize(("changes", "loads"), CASES, ids=str)
def test_a_recorded_agent_is_the_same_agent(tiny, changes, loads):
    changes = {"slow_target_update": 2, **changes}
    if "teacher" in changes:
        changes["teacher"] = tiny.teacher
    earlier = None
    if loads:
        other = make_agent(seed=3, **changes)
        other.learn(make_batch(9), 5_000)
        earlier = other.save_state()
    told = []
    for records in (False, True):
        agent = make_agent(runtime={"graphs": records}, **changes)
        told.append(drive(agent, earlier))
        assert agent._compute.graphs is records
    assert_same(*told)


def test_a_loaded_agent_is_recorded_anew(monkeypatch):
    """A recording writes to the moments that were there; loading replaces them."""
    calls, compute = [], DisWM.compute
    monkeypatch.setattr(DisWM, "compute", lambda *args: calls.append(1) or compute(*args))
    agent = make_agent(runtime={"graphs": True})
    for expected in (1 + WARM_UPS, 2 + WARM_UPS):
        agent.learn(make_batch(), 0)
        assert len(calls) == expected
    agent.load_state(stored(agent.save_state()))
    agent.learn(make_batch(), 0)
    assert len(calls) == 2 * (1 + WARM_UPS) + 1
    assert agent.updates == 3


def test_a_recorded_pretrainer_is_the_same_pretrainer():
    told = []
    for records in (False, True):
        torch.manual_seed(7)
        pretrainer = make_pretrainer(runtime={"graphs": records})
        updates = [list(pretrainer.learn(make_batch(turn), turn)) for turn in range(3)]
        told.append([*updates, pretrainer.save_state(), torch.get_rng_state()])
    assert_same(*told)


# Noise comes from outside

DISTS = ["trunc_normal", "tanh_normal", "tanh_normal_5", "normal", "normal_1", "onehot"]
DISTS += ["onehot_gumble"]


def draws(learner):
    """Whether an update draws once its noise is drawn."""
    inputs = make_inputs(learner, make_batch())
    before = torch.get_rng_state()
    learner._compute_flat(inputs)
    return not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dist", DISTS)
@pytest.mark.parametrize("changes", [{}, {"dyn_discrete": 3, "imag_gradient": "both"}], ids=str)
def test_an_update_draws_nothing_once_its_noise_is_drawn(dist, changes):
    assert not draws(make_agent(actor_dist=dist, **changes))


OTHERS = [{"beta_vae": False}, {"imag_sample": False}, {"pred_discount": "True"}]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_other_updates_draw_nothing_either(changes):
    assert not draws(make_agent(**changes))


def test_a_teacher_and_a_pretrainer_draw_nothing_either(tiny):
    assert not draws(make_agent(teacher=tiny.teacher))
    assert not draws(make_pretrainer())
