"""Evaluations that are refused: one line that names the thing and the mend, nothing written."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import config


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    """A finished run, whose agent has not learnt."""
    flags = {"task": "dmc2gym_cartpole_balance", "steps": 0, "prefill": 12, "distillation": False}
    return tiny.finish(tiny.finetune(tmp_path_factory.mktemp("made"), **flags))


@pytest.fixture
def run(tmp_path, made):
    """A copy of that run."""
    return Path(shutil.copytree(made, tmp_path / "seed_0", symlinks=True))


def everything(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def rewrite(folder, drop=(), **changes):
    """Other values in a run's config.yaml."""
    path, yaml = folder / "config.yaml", YAML(typ="safe", pure=True)
    values = yaml.load(path.read_text()) | changes
    with path.open("w") as file:
        file.write(config.HEAD)
        yaml.dump({name: value for name, value in values.items() if name not in drop}, file)


def nowhere(run):
    return run.parent / "sede_0"


def a_file(run):
    return run / "checkpoint.pt"


def above(run):
    return run.parent


def from_above(run):
    os.chdir(run.parent)
    return Path()


def no_run(run):
    return run / "train_eps"


def pretraining(run):
    rewrite(run, beta_vae_pretrain=True)
    return run


def without_checkpoint(run):
    for path in run.glob("checkpoint*.pt"):
        path.unlink()
    return run


def damaged(run):
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:5000])
    return run


def of_something_else(run):
    torch.save([1, 2], run / "checkpoint.pt")
    return run


def broken_config(run):
    (run / "config.yaml").write_text(config.HEAD + "a: [1")
    return run


def of_an_older_format(run):
    rewrite(run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.removeprefix(config.HEAD))
    return run


def with_an_older_checkpoint(run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    del state["format"]
    torch.save(state, run / "checkpoint.pt")
    return run


def of_newer_code(run):
    rewrite(run, units_of_tomorrow=3)
    return run


def of_other_weights(run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    weights = state["learner"]["weights"]
    weights["behavior.extra"] = torch.zeros(3)
    torch.save(state, run / "checkpoint.pt")
    return run


REFUSED = [
    (nowhere, {}, ["--evaluate", "no such folder", "did you mean 'seed_0'"]),
    (lambda run: "", {}, ["--evaluate ''", "give a run's"]),
    (a_file, {}, ["--evaluate", "is a file", "seed_0"]),
    (above, {}, ["--evaluate", "no run's folder", "did you mean", "seed_0"]),
    (no_run, {}, ["--evaluate", "no run's folder", "config.yaml", "<logdir>"]),
    (from_above, {}, ["--evaluate .", "no run's folder", "did you mean seed_0"]),
    (pretraining, {}, ["--evaluate", "pretraining", "no agent"]),
    (without_checkpoint, {}, ["--evaluate", "checkpoint.pt yet", "--checkpoint_every"]),
    (damaged, {}, ["--evaluate", ".pt cannot be read"]),
    (of_something_else, {}, ["--evaluate", ".pt is not"]),
    (broken_config, {}, ["--evaluate", "config.yaml cannot be read"]),
    (of_an_older_format, {}, ["--evaluate", "config.yaml", "format 1", "another version"]),
    (with_an_older_checkpoint, {}, ["--evaluate", ".pt was written by another version"]),
    (of_newer_code, {}, ["--evaluate", "config.yaml", "'units_of_tomorrow'"]),
    (of_other_weights, {}, ["checkpoint.pt", "'behavior.extra'", "(3,)", "code"]),
    (Path, {"eval_colors": "tset"}, ["--eval_colors", "train, test, original", "'test'"]),
    (Path, {"eval_episodes": 0}, ["--eval_episodes", "above 0"]),
    (Path, {"units": 8}, ["--units does not go with --evaluate"]),
    (Path, {"logdir": "x"}, ["--logdir does not go with --evaluate"]),
    (Path, {"grayscale": True}, ["checkpoint.pt", "shape", "leave out --grayscale"]),
    (Path, {"grayscale": True, "time_limit": 9}, ["(", "leave out --grayscale"]),
    (Path, {"export_checkpoint": "x"}, ["--export_checkpoint and --evaluate"]),
    (Path, {"task": "dmc2gym_reacher_easy"}, ["--task does not go with --evaluate"]),
    (Path, {"camera_id": 99}, ["--camera_id", "99"]),
    (Path, {"device": "tpu"}, ["--device", "cpu"]),
]


@pytest.mark.parametrize(
    ("prepare", "flags", "wanted"),
    [pytest.param(*case, id=f"{case[0].__name__} {case[1] or ''}") for case in REFUSED],
)
def test_refusal_is_one_line_and_changes_nothing(monkeypatch, tiny, run, prepare, flags, wanted):
    monkeypatch.chdir(run.parent)  # some go elsewhere; this comes back
    folder = prepare(run)
    before = everything(run.parent)
    given = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    result = tiny.run(["--evaluate", str(folder), *given])
    assert result.code == 2
    assert result.out == ""
    [line] = result.err.splitlines()
    assert line.startswith("dreamer.py: ")
    assert "leave out" not in line or line.endswith(wanted[-1])
    for word in wanted:
        assert word in line
    assert everything(run.parent) == before


def test_folder_that_cannot_be_written_is_refused_before_playing(monkeypatch, tiny, run):
    if os.geteuid():
        run.chmod(0o555)
    else:  # root writes anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    result = tiny.run(["--evaluate", str(run)])
    run.chmod(0o755)
    assert (result.code, result.out) == (2, "")
    assert "cannot be written to" in result.err
    assert "copy its config.yaml and checkpoint.pt" in result.err


def test_colours_without_a_run_are_refused(tmp_path, tiny):
    result = tiny.run(tiny.finetune(tmp_path, eval_colors="test"))
    assert result.code == 2
    assert "--eval_colors goes with --evaluate" in result.err
    assert list(tmp_path.iterdir()) == []
