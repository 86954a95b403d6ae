"""Playing live: what is done, what is seen of it, and whose episode it is."""

import dataclasses

import numpy as np
import pytest
import torch

from agents.registry import METHODS
from config import load_saved
from envs import EnvError, StepResult
from envs.tasks import SUITES
from explorer import live
from explorer.session import Session
from explorer.subject import open_subject
from tests.explorer.served import Client, make_finetuning
from tests.helpers.models import A

LENGTH = 4  # steps of an episode


class Counting:
    """An environment whose frame t has the grey level t, and whose reward is its action's sum."""

    n, image_shape, action_size, discrete, vector_size = 1, (64, 64, 3), A, False, 0
    made, closed, fails = 0, 0, False

    def __init__(self):
        type(self).made += 1

    def frame(self):
        return np.full((1, 64, 64, 3), self.t, np.uint8)

    def reset(self, seeds, variation):
        self.t, self.variation = 0, variation
        return self.frame()

    def step(self, actions):
        if self.fails:
            raise EnvError("env 0 failed in step:\nTraceback\nValueError: it broke")
        self.t += 1
        over = np.array([self.t == LENGTH])
        nothing = np.full(1, np.nan, np.float32)
        reward = actions.sum(1).astype(np.float32)
        ends = np.zeros(1, bool), over, np.ones(1, np.float32)
        numbers = np.zeros((1, 0), np.float32), np.zeros(1, bool)
        return StepResult(self.frame(), reward, *ends, nothing, nothing, *numbers)

    def close(self):
        type(self).closed += 1


@pytest.fixture
def client(runs, monkeypatch):
    monkeypatch.setattr(Counting, "made", 0)
    monkeypatch.setattr(Counting, "closed", 0)
    monkeypatch.setattr(Counting, "fails", False)
    monkeypatch.setattr(live, "make_envs", lambda *given: Counting())
    return Client(Session(open_subject(str(runs.second))))


def begin(client):
    return client.tell("begin", look="train")["id"]


def play(client, name, **words):
    return client.tell("play", id=name, **words)


def test_frames_come_as_they_are_played_until_the_episode_ends(client):
    name = begin(client)
    found = play(client, name, action="random", steps=2)
    assert (found["since"], found["rows"], found["playing"]) == (1, 3, True)
    assert len(found["latents"]["student"]) == 2
    found = play(client, name, action="random", steps=10)
    assert (found["since"], found["rows"], found["playing"]) == (3, LENGTH + 1, False)
    clip = client.read("clip", id=name)
    for row in range(LENGTH + 1):
        picture = client.tell("pictures", id=name, row=row, latents={})
        assert (picture == row).all()
    assert len(clip["latents"]["teacher"]) == LENGTH + 1
    line = client.refused("play", json={"id": name, "action": "random", "steps": 1})
    assert line == "this episode is over: begin another one"


def test_a_chosen_action_is_the_one_that_is_done(client):
    name = begin(client)
    found = play(client, name, action=[0.5, -3.0], steps=2)
    assert found["reward"] == [-0.5, -0.5]  # within −1..1
    action = client.session.clips.get(name).columns["action"]
    np.testing.assert_array_equal(action, [[0, 0], [0.5, -1], [0.5, -1]])


def test_the_policy_does_what_it_does_in_evaluation_and_sees_what_others_did(client):
    name, agent = begin(client), client.session.subject.agent
    torch.manual_seed(0)  # a policy draws its latents
    play(client, name, action=[0.25, 0.75], steps=1)
    play(client, name, action="policy", steps=2)
    columns, state = client.session.clips.get(name).columns, None
    torch.manual_seed(0)
    for row in range(3):
        obs = {"image": columns["image"][row : row + 1], "is_first": np.array([row == 0])}
        action, state = agent.act(obs, state, "eval")
        if row:
            np.testing.assert_allclose(columns["action"][row + 1], action[0], atol=1e-6)
        else:
            state["action"][:] = state["action"].new_tensor([0.25, 0.75])


def test_who_begins_ends_the_episode_before_whose_frames_stay(client):
    first = begin(client)
    play(client, first, action="random", steps=1)
    second = begin(client)
    assert Counting.made == 1
    assert client.read("clip", id=first)["playing"] is False
    assert client.read("clip", id=first)["rows"] == 2
    assert client.read("clip", id=second)["playing"] is True
    line = client.refused("play", json={"id": first, "action": "random", "steps": 1})
    assert line == "this episode is over: begin another one"


def test_an_environment_that_fails_is_told_in_a_line_and_made_anew(client, monkeypatch):
    name = begin(client)
    monkeypatch.setattr(Counting, "fails", True)
    line = client.refused("play", json={"id": name, "action": "random", "steps": 1})
    assert line == "the environment failed: ValueError: it broke"
    assert (Counting.made, Counting.closed) == (1, 1)
    monkeypatch.setattr(Counting, "fails", False)
    assert play(client, begin(client), action="random", steps=1)["rows"] == 2
    client.session.close()
    assert (Counting.made, Counting.closed) == (2, 2)


def test_an_environment_that_does_not_fit_is_refused_as_often_as_it_is_asked_for(
    client, monkeypatch
):
    monkeypatch.setattr(Counting, "action_size", A + 1)
    for made in (1, 2):
        line = client.refused("begin", json={"look": "train"})
        assert line.startswith("the task has other actions than the run's")
        assert (Counting.made, Counting.closed) == (made, made)


def test_a_predictor_plays_at_random_alone(runs, monkeypatch):
    monkeypatch.setattr(live, "make_envs", lambda *given: Counting())
    client = Client(Session(open_subject(str(runs.first))))
    name = begin(client)
    line = client.refused("play", json={"id": name, "action": "policy", "steps": 1})
    assert line.startswith("a predictor has no policy")
    assert play(client, name, action="random", steps=1)["rows"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"task": "gymnasium_os:Thing-v0"},
            "gymnasium_os:Thing-v0 imports os, and no run's",
        ),
        ({"task": "dmc2gym_nobody_knows"}, "dmc2gym_nobody_knows cannot be made here"),
    ],
)
def test_a_task_that_cannot_be_played_says_why(changes, reason, runs):
    subject = open_subject(str(runs.second))
    other = dataclasses.replace(subject, config=subject.config.replace(**changes))
    assert live.Live(other).missing.startswith(reason)


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_whose_suites_package_is_missing_opens_without_its_environment(
    ends, runs, tmp_path, monkeypatch
):
    folder = make_finetuning(tmp_path / "run", runs.first, pred_discount=str(ends))
    path = folder / "config.yaml"
    config = load_saved(path, METHODS)
    config.replace(task="maniskill_PickCube-v1", pred_discount="auto").save(path)
    monkeypatch.setattr(SUITES["maniskill"].tasks, "_package", "nobody_has_this")
    monkeypatch.setattr(SUITES["maniskill"].tasks, "_found", None)
    session = Session(open_subject(str(folder)))
    missing = session.describe()["missing"]["live"]
    assert missing.startswith("maniskill_PickCube-v1 cannot be made here: ")
    assert "pip install -e '.[maniskill]'" in missing
    assert (session.subject.models["student"].discount is not None) == ends


def test_a_predictor_without_a_configuration_has_no_task(runs):
    subject = dataclasses.replace(open_subject(str(runs.first)), config=None)
    assert live.Live(subject).missing.startswith("a predictor without config.yaml")
