"""Pretraining through the command line: snapshots, pictures, the next command, any videos."""

import re
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import config
from agents.registry import METHODS
from logger import read_metrics
from logger.pictures import cut_grid
from replay import files
from tests.helpers.runs import events
from training.pretrain import PretrainTrainer

FILES = {"encoder.pt", "decoder.pt", "rssm.pt", "traverse.png"}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, tiny, videos):
    """A pretraining that draws, and the text that it printed."""
    root = tmp_path_factory.mktemp("pretrained")
    argv = tiny.pretrain(root, videos, log_videos=True, offline_evaldir=videos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dreamer.py", *argv])
        result = tiny.run(None)
    assert result.code == 0, result.err
    return tiny.folder(argv), result


def test_snapshots_and_the_end_have_all_files(pretrained):
    folder, _ = pretrained
    snapshots = sorted(folder.glob("snapshots/*"))
    assert [path.name for path in snapshots] == ["200", "400"]
    for place in (folder, *snapshots):
        assert {path.name for path in place.iterdir()} >= FILES
        with Image.open(place / "traverse.png") as picture:
            tiles = cut_grid(np.asarray(picture), (64, 64))
            assert tiles.shape == (4, 7, 64, 64, 3)
            assert tiles.std() > 0
    weights = [
        torch.load(f / "encoder.pt", weights_only=True)["stats.weight"]
        for f in (*snapshots, folder)
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_rssm_has_the_asked_action_width(pretrained):
    folder, _ = pretrained
    rssm = torch.load(folder / "rssm.pt", weights_only=True)
    assert rssm["inputs.0.weight"].shape == (16, 4 + 2)


def test_log_of_a_pretraining(pretrained):
    folder, result = pretrained
    dataset, _ = events(folder, "dataset")
    assert (dataset["episodes"], dataset["frames"], dataset["skipped"]) == (6, 75, 0)
    assert [row["step"] for row in events(folder, "snapshot")] == [200, 400, 500]
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "image_loss" in row]
    assert [row["step"] for row in rows] == [150, 300, 450, 500]
    for row in rows:
        for name in ("image_loss", "kl_loss", "beta_vae_kl_loss", "model_grad_norm", "beta"):
            assert np.isfinite(row[name])
        assert "reward_loss" not in row
    assert [row["updates"] for row in rows] == [3, 6, 9, 10]
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {
        "train_openl.gif",
        "train_reconstruction.png",
        "beta_vae_traverse.png",
        "eval_openl.gif",
        "eval_reconstruction.png",
    }
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("block", "finetuning"),
    [
        ("", (True, True, True)),
        ("no_switch", (True, True, False)),
        ("no_distillation", (False, True, True)),
        ("no_disentanglement", (True, False, True)),
    ],
)
def test_the_printed_command_is_one_that_the_blocks_allow(tmp_path, block, finetuning):
    vae = [] if block == "no_disentanglement" else ["--beta_vae", "True"]
    blocks = ["--configs", "defaults", "dmc2gym", *block.split()]
    words = [*blocks, "--beta_vae_pretrain", "True", *vae]
    run = SimpleNamespace(config=config.parse(words, methods=METHODS), folder=tmp_path)
    text = PretrainTrainer.next_step(run).partition("\n\n")[2].replace("\\\n", " ")
    found = config.parse(shlex.split(text)[2:], methods=METHODS)
    assert (found.distillation, found.beta_vae, found.color_distractor) == finetuning
    assert found.pretrain_checkpoint_path == str(tmp_path)


@pytest.mark.slow
def test_printed_command_runs(tmp_path, monkeypatch, tiny, pretrained):
    folder, result = pretrained
    assert "Next, finetune" in result.out
    text = result.out[result.out.index("python dreamer.py") :].replace("\\\n", " ")
    words = shlex.split(text)
    assert words[:2] == ["python", "dreamer.py"]
    argv = words[2:]
    assert argv[:3] == ["--configs", "defaults", "dmc2gym"]
    assert argv[argv.index("--pretrain_checkpoint_path") + 1] == str(folder)
    assert argv[argv.index("--source_action_num") + 1] == "2"
    assert argv[argv.index("--z_dim") + 1] == "4"
    small = {"logdir": tmp_path, "log_videos": False, "num_threads": 1, "steps": 60}
    small |= {"units": 16, "dyn_deter": 16, "dyn_hidden": 16, "dyn_stoch": 4, "batch_size": 2}
    small |= {"batch_length": 6, "imag_horizon": 3, "time_limit": 20, "prefill": 12, "pretrain": 1}
    small |= {"eval_every": 0, "action_num_gap": 0}
    command = argv + [word for k, v in small.items() for word in (f"--{k}", str(v))]
    target = tiny.finish(command)
    assert target.parts[-3:] == ("dmc2gym_walker_walk", "diswm", "seed_0")
    rows = read_metrics(target / "metrics.jsonl")
    assert any(row.get("distillation_kl_loss", 0) > 0 for row in rows)


def test_blocks_of_the_printed_command_are_those_of_this_run(tmp_path, monkeypatch, tiny, videos):
    monkeypatch.setattr(sys, "argv", ["elsewhere", "--configs", "nonsense"])
    argv = tiny.pretrain(tmp_path, videos, pretrain_steps=50)
    out = tiny.run(argv).out
    assert "--configs defaults dmc2gym " in out


@pytest.mark.parametrize(("scale", "count"), [(1.0, 6), (0.5, 3), (0.01, 1)])
def test_dataset_scale_reads_a_seeded_share_and_copies_nothing(
    tmp_path, monkeypatch, tiny, videos, scale, count
):
    before = {path: path.stat().st_mtime_ns for path in videos.iterdir()}
    read = {}
    reader = files.read_episodes

    def chosen(name, seed):
        opened = read[name] = []
        spy = lambda path, *more: opened.append(path.name) or reader(path, *more)  # noqa: E731
        monkeypatch.setattr(files, "read_episodes", spy)
        flags = {"pretrain_dataset_scale": scale, "pretrain_steps": 50, "seed": seed}
        folder = tiny.finish(tiny.pretrain(tmp_path / name, videos, **flags))
        assert events(folder, "dataset")[0]["episodes"] == count
        assert not list(folder.rglob("*.npz"))
        return sorted(opened)

    one, again, other = chosen("one", 0), chosen("again", 0), chosen("other", 3)
    assert one == again
    assert len(set(one)) == len(set(other)) == count
    if scale == 0.5:
        assert one != other
    assert {path: path.stat().st_mtime_ns for path in videos.iterdir()} == before


def test_unusable_files_are_named_and_left_out(tmp_path, tiny, videos):
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.npz").write_bytes((videos / "0.npz").read_bytes())
    (data / "cut.npz").write_bytes((videos / "0.npz").read_bytes()[:500])
    np.savez(data / "wide.npz", image=np.zeros((5, 32, 64, 2), np.uint8))
    result = tiny.run(argv := tiny.pretrain(tmp_path / "runs", data, pretrain_steps=50))
    assert result.code == 0
    skipped = {row["file"]: row["reason"] for row in events(tiny.folder(argv), "skipped")}
    assert set(skipped) == {"cut.npz", "wide.npz"}
    assert "[5, 32, 64, 2]" in skipped["wide.npz"]


def test_offline_traindir_is_another_name_for_the_dataset(tmp_path, tiny, videos):
    flags = {"offline_traindir": videos, "pretrain_steps": 50}
    folder = tiny.finish(tiny.pretrain(tmp_path, "", **flags))
    assert events(folder, "dataset")[0]["episodes"] == 6


def test_predictor_without_beta_vae(tmp_path, tiny, videos):
    flags = {"beta_vae": False, "pretrain_steps": 50, "log_videos": True}
    folder = tiny.finish(tiny.pretrain(tmp_path, videos, **flags))
    assert (folder / "encoder.pt").exists()
    assert not (folder / "traverse.png").exists()


def test_schedules_follow_the_updates(tmp_path, tiny, videos):
    flags = {"beta_vae_beta": "linear(0,1,10)", "log_every": 50}
    folder = tiny.finish(tiny.pretrain(tmp_path, videos, **flags))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "beta" in row]
    np.testing.assert_allclose([row["beta"] for row in rows], np.arange(10) / 10, atol=1e-6)


def test_one_value_a_step_where_the_end_is_also_a_log_line(tmp_path, tiny, videos):
    folder = tiny.finish(tiny.pretrain(tmp_path, videos, pretrain_steps=300))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "updates" in row]
    assert [row["step"] for row in rows] == [150, 300]


def test_printed_command_has_one_line_per_group(pretrained):
    _, result = pretrained
    lines = result.out[result.out.index("python") :].rstrip().splitlines()
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert all(re.match(r" +--", line) for line in lines[1:])
