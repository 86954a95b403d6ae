"""What the explorer draws is what the models draw, computed here another way."""

import base64
import json

import numpy as np
import pytest
import torch

from agents import reports
from distributions import kl_standard
from networks import float_image
from replay.episodes import read_episode
from tests.explorer.served import ROWS, Z, measured, pixels
from tests.helpers.models import A

FIRST = f"train_eps/000000-s0-{ROWS}.npz"


@pytest.fixture(scope="module")
def clip(finetuned):
    return finetuned.read("clip", id=FIRST)


@pytest.fixture(scope="module")
def episode(runs):
    return read_episode(runs.second / FIRST)


@pytest.fixture(scope="module")
def student(finetuned):
    return finetuned.session.subject.agent.world_model


def uint8(image):
    """±0.5 → 0..255, in numpy."""
    return np.clip((image.detach().double().numpy() + 0.5) * 255, 0, 255)


def decoded(model, latent):
    """The picture of a latent [Z] by the RSSM's single step."""
    action, first = torch.zeros(1, model.rssm.action_size), torch.ones(1, dtype=torch.bool)
    state = model.rssm.obs_step(
        model.rssm.initial(1), action, torch.tensor([latent]), first, sample=False
    )
    return uint8(model.decoder(model.rssm.get_feat(state)).mode())[0]


def test_latents_of_an_episode_are_those_of_each_models_encoder(finetuned, clip, episode):
    image = float_image(torch.from_numpy(episode["image"]))
    assert clip["rows"] == ROWS
    assert clip["latents"].keys() == {"teacher", "student"}
    for name, model in finetuned.session.subject.models.items():
        encoding = model.encode(image)
        np.testing.assert_allclose(clip["latents"][name], encoding.mean.detach(), atol=2e-4)
        each = kl_standard(encoding.mean[..., None], encoding.logvar[..., None]).mean(0)
        np.testing.assert_allclose(clip["kl"][name], each.detach(), atol=2e-3)
    np.testing.assert_allclose(clip["reward"], episode["reward"], atol=1e-4)


def test_pictures_are_the_frame_and_what_each_model_draws(finetuned, clip, episode):
    latents = {name: rows[5] for name, rows in clip["latents"].items()}
    latents["student"] = [value + 2 for value in latents["student"]]
    sheet = finetuned.tell("pictures", id=FIRST, row=5, latents=latents)
    truth, teacher, student = np.split(sheet, 3, 1)
    np.testing.assert_array_equal(truth, episode["image"][5])
    models = finetuned.session.subject.models
    for name, drawn in (("teacher", teacher), ("student", student)):
        np.testing.assert_allclose(drawn, decoded(models[name], latents[name]), atol=1)


def test_the_strip_is_the_papers_traversal(finetuned, clip, episode, student):
    words = {"id": FIRST, "row": 3, "model": "student", "latent": clip["latents"]["student"][3]}
    sheet = finetuned.tell("strip", **words, index=1, reach=9)
    frame = torch.from_numpy(episode["image"][None, 3:4])
    traversal = reports.traversal(student, {"image": frame})
    np.testing.assert_allclose(sheet, 255 * traversal[64:128], atol=1)
    narrow = finetuned.tell("strip", **words, index=1, reach=3)
    np.testing.assert_array_equal(narrow[:, 3 * 64 : 4 * 64], sheet[:, 3 * 64 : 4 * 64])
    np.testing.assert_array_equal(narrow[:, :64], sheet[:, 2 * 64 : 3 * 64])  # −3 in both


def film(found):
    return np.split(pixels(base64.b64decode(found["png"])), found["frames"], 1)


@torch.no_grad()
def follow(model, episode, latent, row, choose, steps):
    """Filters step by step up to a row, where ``latent`` is seen, and imagines from there."""
    embed = model.encode(float_image(torch.from_numpy(episode["image"]))).embed
    state, action = model.rssm.initial(1), torch.from_numpy(episode["action"])
    for t in range(row + 1):
        seen = torch.tensor([latent]) if t == row else embed[t : t + 1]
        led = model.pad_action(action[t : t + 1])
        state = model.rssm.obs_step(state, led, seen, torch.tensor([t == 0]), sample=False)
    states, taken = [state], []
    for step in range(steps):
        taken.append(choose(state, step))
        state = model.rssm.img_step(state, model.pad_action(taken[-1]), sample=False)
        states.append(state)
    feats = [model.rssm.get_feat(each) for each in states]
    images = [uint8(model.decoder(feat).mode())[0] for feat in feats]
    return images, [model.reward(feat).mode().item() for feat in feats[1:]], torch.cat(taken)


@pytest.mark.parametrize("kind", ["policy", "recorded", "chosen"])
def test_imagination_is_the_rssms_own_under_each_kind_of_action(
    kind, finetuned, clip, episode, student
):
    actor, rssm = finetuned.session.subject.agent.behavior.actor, student.rssm
    recorded, chosen = torch.from_numpy(episode["action"]), [0.5, -1.0]
    choose = {
        "policy": lambda state, step: actor(rssm.get_feat(state)).mode(),
        "recorded": lambda state, step: recorded[4 + 1 + step][None],
        "chosen": lambda state, step: torch.tensor([chosen]),
    }[kind]
    latent = [value - 1 for value in clip["latents"]["student"][4]]
    words = {"id": FIRST, "row": 4, "model": "student", "latent": latent, "horizon": 5}
    found = finetuned.tell("imagine", **words, action=chosen if kind == "chosen" else kind)
    images, rewards, actions = follow(student, episode, latent, 4, choose, 5)
    assert found["frames"] == 6
    np.testing.assert_allclose(found["reward"], rewards, atol=1e-3)
    np.testing.assert_allclose(found["action"], actions, atol=1e-3)
    for drawn, image in zip(film(found), images, strict=True):
        np.testing.assert_allclose(drawn[:64], image, atol=1)
    assert found["truth"] == (6 if kind == "recorded" else 0)
    if kind == "recorded":
        below = np.stack([drawn[64:] for drawn in film(found)])
        np.testing.assert_array_equal(below, episode["image"][4:10])


def test_recorded_actions_end_where_the_episode_does(finetuned, clip):
    words = {"id": FIRST, "model": "student", "latent": clip["latents"]["student"][0]}
    words |= {"horizon": 50, "action": "recorded"}
    assert finetuned.tell("imagine", **words, row=ROWS - 3)["frames"] == 3
    line = finetuned.refused("imagine", json={**words, "row": ROWS - 1})
    assert line == "no recorded action follows this frame: choose another one"


def test_a_teacher_imagines_without_actions_beside_what_happened(finetuned, clip):
    latent = clip["latents"]["teacher"][0]
    words = {"id": FIRST, "row": 0, "model": "teacher", "latent": latent, "horizon": 20}
    found = finetuned.tell("imagine", **words, action="policy")
    assert (found["frames"], found["truth"]) == (21, ROWS)
    assert (found["reward"], found["action"]) == (None, None)


def test_labels_are_those_of_a_measurement_and_else_the_kl_of_episodes(finetuned, pretrained, runs):
    models = {model["name"]: model["labels"] for model in finetuned.read("subject")["models"]}
    told = [(row["kl"], row["best_factor"], row["r2"]) for row in measured()["latents"]]
    assert [(label["kl"], label["factor"], label["r2"]) for label in models["student"]] == told
    images = [read_episode(runs.second / "train_eps" / f"00000{i}-s0-{ROWS}.npz") for i in (0, 1)]
    image = float_image(torch.from_numpy(np.concatenate([each["image"] for each in images])))
    found = finetuned.session.subject.models["teacher"].encode(image)
    each = kl_standard(found.mean[..., None], found.logvar[..., None]).mean(0).detach()
    np.testing.assert_allclose([label["kl"] for label in models["teacher"]], each, rtol=1e-3)
    assert all(label["factor"] is None for label in models["teacher"])
    nothing = {"kl": None, "factor": None, "r2": 0.0}
    assert pretrained.read("subject")["models"][0]["labels"] == [nothing] * Z


def test_what_needs_an_agent_is_named_with_its_reason(finetuned, pretrained):
    with_agent, without = (client.read("subject") for client in (finetuned, pretrained))
    assert with_agent["missing"] == {"policy": None, "live": None}
    assert with_agent["actions"] == {"size": A, "discrete": False}
    assert without["missing"]["policy"].startswith("a predictor has no policy: open a finetuning")
    assert without["actions"] is None
    assert with_agent["main"] == "student"
    assert with_agent["episodes"] == [f"train_eps/00000{i}-s0-{ROWS}.npz" for i in (1, 0)]


def words_of(**words):
    """A request's, about the first frame."""
    return {"id": FIRST, "row": 0, **words}


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("pictures", words_of(row=99, latents={}), "there is no frame 99: the sequence has 12"),
        ("pictures", words_of(row=-1, latents={}), "'row' is not from 0 to 2147483648"),
        (
            "pictures",
            words_of(row=True, latents={}),
            "'row' is missing in the request, or of a wrong",
        ),
        ("pictures", words_of(), "'latents' is missing in the request"),
        ("pictures", words_of(latents={"student": [0] * 3}), "a latent has 4 numbers, not 3"),
        (
            "pictures",
            words_of(latents={"student": [1e9] * 4}),
            "'student' has what is no number from",
        ),
        (
            "pictures",
            words_of(latents={"student": ["0"] * 4}),
            "'student' has what is no number from",
        ),
        (
            "pictures",
            words_of(latents={"pupil": [0] * 4}),
            "there is no model of that name",
        ),
        (
            "pictures",
            {"id": "train_eps/../config.yaml", "row": 0, "latents": {}},
            "that sequence is not kept",
        ),
        (
            "strip",
            words_of(model="student", latent=[0] * 4, index=4, reach=3),
            "there is no latent 4",
        ),
        ("strip", words_of(model="student", latent=[0] * 4, index=0), "'reach' is missing"),
        (
            "imagine",
            words_of(model="student", latent=[0] * 4, action=[0.0], horizon=2),
            "an action has 2 numbers, not 1",
        ),
        (
            "imagine",
            words_of(model="student", latent=[0] * 4, action="luck", horizon=2),
            "an action is policy, recorded, or numbers",
        ),
        (
            "imagine",
            words_of(model="student", latent=[0] * 4, action="policy", horizon=101),
            "'horizon' is not from 1 to 100",
        ),
        ("play", {"id": FIRST, "action": "policy", "steps": 1}, "this episode is over: begin an"),
        ("begin", {"look": "nowhere"}, "there is no look of that name: train"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(name, words, line, finetuned):
    assert finetuned.refused(name, json=words).startswith(line)


def test_a_name_that_utf_8_cannot_say_is_refused_in_a_line(finetuned):
    content = json.dumps(words_of(latents={"\ud800": 0}))  # as its escape
    line = finetuned.refused("pictures", content=content)
    assert line.startswith(r"'\ud800' is missing in the request")
