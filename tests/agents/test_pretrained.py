"""Pretrained predictors: what goes in comes out, and what does not fit is refused in one line."""

import argparse
import os

import pytest
import torch

from agents import authors_names, pretrained
from agents.diswm import DisWM
from fileio import checkpoints
from tests.helpers import models
from tests.helpers.models import copied, equal, make_predictor
from tests.helpers.runs import refusal


def make_config(folder, **changes):
    return models.make_config(pretrain_checkpoint_path=str(folder), **changes)


def written(folder, actions=0, **changes):
    model = make_predictor(actions, **changes)
    pretrained.save_predictor(folder, model)
    return model


def test_a_predictor_comes_back(tmp_path):
    model = written(tmp_path, actions=5)
    assert sorted(os.listdir(tmp_path)) == ["decoder.pt", "encoder.pt", "rssm.pt"]
    loaded = pretrained.load_predictor(make_config(tmp_path))
    assert loaded.rssm.action_size == 5
    assert equal(copied(loaded), copied(model))


@pytest.mark.parametrize("discrete", [0, 3])
@pytest.mark.parametrize("actions", [0, 4])
def test_the_action_width_is_read_off_the_file(tmp_path, discrete, actions):
    written(tmp_path, actions, dyn_discrete=discrete)
    loaded = pretrained.load_predictor(make_config(tmp_path, dyn_discrete=discrete))
    assert loaded.rssm.action_size == actions
    given = make_config(tmp_path, dyn_discrete=discrete, source_action_num=4)
    if actions == 4:
        assert pretrained.load_predictor(given).rssm.action_size == 4
    else:
        assert "--source_action_num" in refusal(pretrained.load_predictor, given)


def test_the_encoder_alone_is_a_teacher(tmp_path):
    model = written(tmp_path)
    (tmp_path / "rssm.pt").unlink()
    (tmp_path / "decoder.pt").unlink()
    loaded = pretrained.load_predictor(make_config(tmp_path))
    image = torch.rand(1, 2, 64, 64, 3) - 0.5
    assert torch.equal(loaded.encode(image).embed, model.encode(image).embed)
    line = refusal(pretrained.load_predictor, make_config(tmp_path / "elsewhere"))
    assert "--pretrain_checkpoint_path" in line
    assert "there is no such folder" in line
    (tmp_path / "encoder.pt").unlink()
    assert "has no encoder.pt" in refusal(pretrained.load_predictor, make_config(tmp_path))


MISFITS = [
    ({"z_dim": 5}, "encoder", "stats.weight", "(8, 256)", "(10, 256)", "--z_dim"),
    ({"grayscale": True}, "encoder", "layers.0.weight", "(32, 3, 4, 4)", "(32, 1, 4, 4)", "--gray"),
    ({"dyn_hidden": 9}, "rssm", "inputs.0.weight", "(16, 4)", "(9, 4)", "--dyn_hidden"),
    ({"dyn_deter": 8}, "decoder", "bottleneck.weight", "(4, 20)", "(4, 12)", "--dyn_deter"),
    ({"source_action_num": 2}, "rssm", "inputs.0.weight", "(16, 4)", "(16, 6)", "--source_action"),
]


@pytest.mark.parametrize(("changes", "file", "tensor", "there", "here", "flag"), MISFITS)
def test_a_misfit_names_tensor_shapes_and_flag(tmp_path, changes, file, tensor, there, here, flag):
    written(tmp_path)
    line = refusal(pretrained.load_predictor, make_config(tmp_path, **changes))
    assert line.startswith(f"{tmp_path / file}.pt: tensor '{tensor}' has shape {there}, not {here}")
    assert flag in line


@pytest.mark.parametrize("below", ["", "snapshots"])
def test_the_newest_snapshot_stands_in_for_the_run(tmp_path, below, capsys):
    run = tmp_path / "run"
    for number, actions in (("100", 3), ("90", 2), ("last", 1)):
        written(run / below / number, actions)
    (run / below / "200").mkdir()
    checkpoints.save(run / below / "200" / "encoder.pt", {})  # the rest is yet to be written
    for given, found in ((run, "100"), (run / below, "100"), (run / below / "90", "90")):
        assert pretrained.find_predictor(str(given)) == run / below / found
    settings = make_config(run, distillation=True)
    DisWM.check(settings)
    noted = capsys.readouterr().err
    assert str(run / below / "100") in noted
    assert noted.count("\n") == 1
    assert pretrained.load_predictor(settings).rssm.action_size == 3
    written(run, 5)
    DisWM.check(settings)
    assert not capsys.readouterr().err
    assert pretrained.load_predictor(settings).rssm.action_size == 5


def test_a_missing_and_a_superfluous_tensor(tmp_path):
    model = written(tmp_path)
    state = model.rssm.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name != "cell.norm.weight"}
    checkpoints.save(tmp_path / "rssm.pt", kept)
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert "has no tensor 'cell.norm.weight'" in line
    assert "--dyn_deter" in line
    checkpoints.save(tmp_path / "rssm.pt", {**state, "cell.norm.scale": torch.ones(1)})
    line = refusal(pretrained.load_predictor, make_config(tmp_path))
    assert "has a tensor 'cell.norm.scale' too many" in line
    written(tmp_path, beta_vae=False)
    assert "--beta_vae" in refusal(pretrained.load_predictor, make_config(tmp_path))


CONTENTS = [[1, 2], 3, "text", {"inputs.0.weight": 1}, torch.ones(2)]


@pytest.mark.parametrize("content", [*CONTENTS, {"inputs.0.weight": torch.ones(3)}], ids=str)
@pytest.mark.parametrize("name", ["encoder", "rssm"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_that_holds_something_else(tmp_path, content, name):
    written(tmp_path)
    torch.save(content, tmp_path / f"{name}.pt")
    assert f"{tmp_path / name}.pt" in refusal(pretrained.load_predictor, make_config(tmp_path))


WRAPPED = ["module.{}", "_orig_mod.{}", "_orig_mod.module.{}", "module._orig_mod.{}"]


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("theirs", [False, True])
def test_files_of_wrapped_modules_load(tmp_path, form, theirs):
    """As torch.compile, DataParallel and DistributedDataParallel name their tensors."""
    model = written(tmp_path)
    for part in pretrained.PREDICTOR_FILES:
        state = getattr(model, part).state_dict()
        if theirs:
            state = {authors_names.to_theirs(part, k, True): v for k, v in state.items()}
        torch.save({form.format(k): v for k, v in state.items()}, tmp_path / f"{part}.pt")
    assert equal(copied(pretrained.load_predictor(make_config(tmp_path))), copied(model))


def test_files_of_modules_with_compiled_layers_load(tmp_path):
    model = written(tmp_path)
    state = {k.replace(".", "._orig_mod.", 1): v for k, v in model.rssm.state_dict().items()}
    torch.save(state, tmp_path / "rssm.pt")
    assert equal(copied(pretrained.load_predictor(make_config(tmp_path))), copied(model))


CONV, LINEAR = torch.ones(3, 3, 3, 3), torch.ones(3, 3)
FOREIGN = {  # what is no part of a predictor, and why
    "twice": ({"layers.0.weight": CONV, "module.layers.0.weight": CONV}, "two tensors 'layers.0.w"),
    "resnet": ({"conv1.weight": CONV, "bn1.steps": torch.tensor(1)}, "another architecture"),
    "mlp": ({"layers.0.weight": LINEAR, "layers.0.bias": LINEAR[0]}, "another architecture"),
    "empty": ({}, "(nothing)"),
    "training": ({"epoch": 3, "state_dict": {"layers.0.weight": CONV}}, "('epoch', 'state_dict')"),
    "objects": ({"args": argparse.Namespace(a=1)}, "it holds objects (argparse.Namespace)"),
    "module": (torch.nn.Linear(2, 2), "(torch.nn.modules.linear.Linear)"),
    "list": ([1, 2], "holds no state dict but a list"),
}


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_part_of_a_predictor_says_what_it_is(tmp_path, content, reason):
    written(tmp_path)
    torch.save(content, tmp_path / "encoder.pt")
    for beta_vae in (True, False):
        line = refusal(pretrained.load_predictor, make_config(tmp_path, beta_vae=beta_vae))
        assert line.startswith(f"--pretrain_checkpoint_path: {tmp_path / 'encoder.pt'} ")
        assert reason in line
        assert "--beta_vae" not in line


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_program_is_not_run(tmp_path):
    written(tmp_path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "encoder.pt")
    assert "holds a program" in refusal(pretrained.load_predictor, make_config(tmp_path))
