"""What can be explored: runs, their checkpoints, predictors; and what cannot, in a line."""

import dataclasses
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from accel.runtime import Runtime
from agents.diswm import DisWM
from agents.pretrained import save_predictor
from explorer import __main__ as command
from explorer.labels import read_labels
from explorer.session import Session
from explorer.subject import open_subject
from fileio import checkpoints
from tests.explorer.served import Client, Z, archive, make_episode, make_finetuning, measured
from tests.helpers.models import SPACES, make_config, make_predictor, make_pretrainer
from tests.helpers.runs import refusal


def weights_of(subject):
    return {name: model.state_dict() for name, model in subject.models.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_checkpoint_of_a_run_is_as_good_as_its_folder(runs):
    whole = weights_of(open_subject(str(runs.second)))
    for name in ("checkpoint.pt", "checkpoint_000000060.pt"):
        found = weights_of(open_subject(str(runs.second / name)))
        assert all(same(found[key], whole[key]) for key in ("teacher", "student"))


def test_an_earlier_checkpoint_is_not_named_by_what_was_measured_later(runs, tmp_path):
    folder = shutil.copytree(runs.second, tmp_path / "run", symlinks=True)
    shutil.copy(folder / "checkpoint_000000060.pt", folder / "checkpoint_000000020.pt")
    factors = {}
    for name in ("", "checkpoint.pt", "checkpoint_000000060.pt", "checkpoint_000000020.pt"):
        labels = Session(open_subject(str(folder / name))).labels["student"]
        factors[name] = [label.factor for label in labels]
    assert factors.pop("checkpoint_000000020.pt") == [None] * Z
    assert all(names == ["elbow", None, "grid.r", "self.b"] for names in factors.values())


def test_the_teacher_is_the_predictor_that_taught(runs):
    [predictor] = weights_of(open_subject(str(runs.first))).values()
    teacher = weights_of(open_subject(str(runs.second)))["teacher"]
    assert same(teacher, predictor)


def test_a_snapshot_has_its_pretrainings_configuration(runs, tmp_path):
    folder = shutil.copytree(runs.first, tmp_path / "run")
    save_predictor(folder / "snapshots" / "000200", make_predictor(2, seed=9))
    found = open_subject(str(folder / "snapshots" / "000200" / "encoder.pt"))
    assert same(found.models["predictor"].state_dict(), make_predictor(2, seed=9).state_dict())


def test_a_predictors_file_has_the_configuration_beside_it(runs):
    whole, found = (open_subject(str(path)) for path in (runs.first, runs.first / "encoder.pt"))
    assert same(weights_of(found)["predictor"], weights_of(whole)["predictor"])


def test_a_pretrainings_checkpoint_holds_its_predictor(runs, tmp_path):
    learner = make_pretrainer()
    learner.config.replace(beta_vae_pretrain=True).save(tmp_path / "config.yaml")
    checkpoints.save_newest(tmp_path, 500, {"learner": learner.save_state()}, keep=1)
    found = open_subject(str(tmp_path / "checkpoint.pt"))
    assert same(found.models["predictor"].state_dict(), learner.model.state_dict())


def test_an_encoder_alone_shows_its_latents_and_draws_nothing(runs, tmp_path):
    folder = shutil.copytree(runs.first, tmp_path / "t" / "pretrain" / "seed_0")
    (folder / "decoder.pt").unlink()
    shutil.copytree(runs.second / "train_eps", folder / "train_eps")
    client = Client(Session(open_subject(str(folder))))
    told = client.read("subject")
    assert told["models"][0]["draws"] == "without decoder.pt and rssm.pt an encoder draws nothing"
    clip = client.read("clip", id=told["episodes"][0])
    assert len(clip["latents"]["predictor"][0]) == Z
    picture = client.tell("pictures", id=clip["id"], row=0, latents={})
    assert picture.shape == (64, 64, 3)
    words = {"id": clip["id"], "row": 0, "latents": {"predictor": [0] * Z}}
    assert client.refused("pictures", json=words).startswith("without decoder.pt")


def test_a_run_of_larger_images_is_seen_as_large(tmp_path):
    first, second = tmp_path / "t" / "pretrain" / "seed_0", tmp_path / "t" / "diswm" / "seed_0"
    save_predictor(first, make_predictor(2, size=(96, 96)))
    make_config(beta_vae_pretrain=True, size=(96, 96)).save(first / "config.yaml")
    client = Client(Session(open_subject(str(make_finetuning(second, first, size=(96, 96))))))
    told = client.read("subject")
    assert told["side"] == 96
    words = {"id": told["episodes"][0], "row": 2}
    latents = {"teacher": [0.0] * Z, "student": [0.0] * Z}
    assert client.tell("pictures", **words, latents=latents).shape == (96, 3 * 96, 3)
    words |= {"model": "student", "latent": [0.0] * Z}
    assert client.tell("strip", **words, index=0, reach=3).shape == (96, 7 * 96, 3)
    assert client.tell("imagine", **words, action="recorded", horizon=2)["frames"] > 1


def test_an_actor_of_fixed_deviation_is_continuous(runs, tmp_path):
    folder = make_finetuning(tmp_path / "run", runs.first, actor_dist="normal_1")
    told = Session(open_subject(str(folder))).describe()
    assert told["actions"] == {"size": 2, "discrete": False}


def test_a_student_with_numbers_beside_its_images_asks_for_them(tmp_path):
    config, spaces = make_config(), SPACES._replace(vector_size=3)
    agent = DisWM(config, Runtime.resolve(config), spaces)
    config.save(tmp_path / "config.yaml")
    checkpoints.save_newest(tmp_path, 60, {"learner": agent.save_state()}, keep=1)
    client = Client(Session(open_subject(str(tmp_path))))
    assert client.session.subject.vector_size == 3
    episode = make_episode(0)
    line = client.refused("upload", content=archive(**episode))
    assert line == "the uploaded episode lacks the 3 numbers that the student sees beside an image"
    vector = np.zeros((len(episode["image"]), 3), np.float32)
    vector[1] = 5
    content = archive(**episode, vector=vector)
    clip = client.ask("POST", "/api/upload", content=content).json()
    words = {"id": clip["id"], "latents": {"student": [0.0] * Z}}
    drawn = [client.tell("pictures", **words, row=row)[:, 64:].astype(int) for row in range(3)]
    assert (drawn[0] == drawn[2]).all()
    assert (drawn[0] != drawn[1]).any()
    words = {"id": clip["id"], "row": 4, "model": "student", "latent": [0.0] * Z}
    assert client.tell("imagine", **words, action="policy", horizon=2)["frames"] == 3


def test_names_that_are_no_text_are_left_out_or_shown_as_far_as_they_are(runs, tmp_path):
    folder = shutil.copytree(runs.second, tmp_path / "run", symlinks=True)
    name = os.fsdecode(b"\xff.npz")
    shutil.copy(next((folder / "train_eps").glob("*.npz")), folder / "train_eps" / name)
    subject = open_subject(str(folder))
    told = Client(Session(subject)).read("subject")
    assert len(told["episodes"]) == 2
    odd = Path(os.fsdecode(b"/runs/\xff"))
    client = Client(Session(dataclasses.replace(subject, folder=odd)))
    assert client.read("subject")["folder"] == "/runs/?"


def test_what_cannot_be_explored_is_told_in_a_line(runs, tmp_path):
    missing = refusal(open_subject, str(tmp_path / "nothing"))
    assert "there is no such file or folder" in missing
    assert "has no encoder.pt" in refusal(open_subject, str(tmp_path))
    (tmp_path / "plain").mkdir()
    make_config(beta_vae=False).save(tmp_path / "plain" / "config.yaml")
    assert "has no β-VAE" in refusal(open_subject, str(tmp_path / "plain"))
    (tmp_path / "new").mkdir()
    make_config().save(tmp_path / "new" / "config.yaml")
    assert "has no checkpoint.pt yet" in refusal(open_subject, str(tmp_path / "new"))
    broken = shutil.copytree(runs.second, tmp_path / "broken", symlinks=True)
    path = broken / "checkpoint_000000060.pt"
    path.write_bytes(path.read_bytes()[:5000])
    assert "cannot be read" in refusal(open_subject, str(broken))
    shutil.copy(runs.first / "encoder.pt", broken / "other.pt")
    assert "is no checkpoint of a run" in refusal(open_subject, str(broken / "other.pt"))


def test_a_predictor_of_other_sizes_without_its_configuration_is_refused(runs, tmp_path):
    for name in ("encoder.pt", "decoder.pt", "rssm.pt"):
        shutil.copy(runs.first / name, tmp_path)
    line = refusal(open_subject, str(tmp_path))
    assert "--z_dim" in line
    assert line.endswith("put the config.yaml of its pretraining beside it")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda found: "no JSON", "cannot be read (JSONDecodeError"),
        (lambda found: json.dumps([]), "cannot be read (TypeError"),
        (lambda found: json.dumps({"latents": [{"index": 0}]}), "cannot be read (KeyError: 'kl'"),
        (lambda found: json.dumps(measured(3)), "tells of 3 latents, not of 4"),
        (lambda found: found.replace('"kl": 0.5', '"kl": NaN'), "is not finite"),
        (lambda found: found.replace('"index": 0', '"index": Infinity'), "(OverflowError"),
        (lambda found: found.replace('"elbow"', "[1]"), "a factor's name is no text"),
    ],
)
def test_a_damaged_measurement_is_told_in_a_line(change, line, tmp_path):
    (tmp_path / "metrics.json").write_text(change(json.dumps(measured())))
    assert line in refusal(read_labels, tmp_path, Z)


def test_a_port_that_is_taken_or_none_is_told_in_a_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert command.main(["nothing", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told == f"explorer: --port {port} is taken: give another, or 0 for a free one\n"
    assert command.main(["nothing", "--port", "70000"]) == 2
    assert "--port 70000: give one from 1024 to 65535" in capsys.readouterr().err
    with command.listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_run_that_is_not_there_is_told_in_a_line(capsys, tmp_path):
    assert command.main([str(tmp_path / "nothing"), "--port", "0"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("explorer: ")
    assert line.endswith("there is no such file or folder; give a run's folder")


def test_a_package_that_is_missing_is_told_with_its_command(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert command.main(["nothing", "--port", "0"]) == 2
    line = "explorer: the explorer needs uvicorn: pip install -e '.[explorer]' -c constraints.txt\n"
    assert capsys.readouterr().err == line
