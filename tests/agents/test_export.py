"""--export_checkpoint: the command, what it writes, and what it refuses to write."""

import os

import pytest
import torch

import dreamer
from agents import pretrained
from agents.model_configs import predictor_config
from models import VideoPredictor
from tests.helpers.models import parse

SIZES = ["--z_dim", "4", "--dyn_stoch", "4", "--dyn_deter", "16", "--dyn_hidden", "16"]
SIZES += ["--cnn_depth", "4"]
FILES = ["decoder.pt", "encoder.pt", "rssm.pt"]


def written(folder, *flags):
    """A predictor's files, with our names."""
    model = VideoPredictor(predictor_config(parse(*map(str, flags))), 2)
    pretrained.save_predictor(folder, model)


def export(*words):
    """A command line's exit status."""
    return dreamer.main([str(word) for word in words])


def test_a_runs_snapshot_is_exported_without_flags(tmp_path, tiny, videos, capsys):
    flags = {"pretrain_steps": 100, "pretrain_save_every": 50, "device": "cpu"}
    run = tiny.finish(tiny.pretrain(tmp_path, videos, **flags))
    for source, file in (("", run), ("/snapshots", run / "snapshots" / "100")):
        capsys.readouterr()
        out = tmp_path / "out" / str(len(source))
        words = ["--pretrain_checkpoint_path", f"{run}{source}", "--export_checkpoint", out]
        assert export(*words, "--task", "no_task", "--device", "cuda:0") == 0
        assert (
            f" of {file}, as the authors' code reads them, are in {out}\n"
            in capsys.readouterr().out
        )
        exported = torch.load(out / "encoder.pt", weights_only=True)["dis_encoder.0.weight"]
        own = torch.load(file / "encoder.pt", weights_only=True)["stats.weight"]
        assert torch.equal(exported, own)
        assert sorted(os.listdir(out)) == FILES
    # Another size than the run's own is a misfit, not a silent change.
    assert export(*words[:2], "--export_checkpoint", tmp_path / "no", "--z_dim", 6) == 2
    assert "(8, 256), not (12, 256)" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_export_replaces_nothing(tmp_path, capsys):
    written(tmp_path / "a")
    out = tmp_path / "b"
    words = ["--configs", "defaults", *SIZES, "--pretrain_checkpoint_path", tmp_path / "a"]
    words += ["--export_checkpoint", out]
    assert export(*words) == 0
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert export(*words) == 0
    assert sorted(path.name for path in times) == FILES
    (out / "encoder.pt").unlink()
    (out / "rssm.pt").write_bytes(b"something else")
    capsys.readouterr()
    assert export(*words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "rssm.pt is there already" in line
    assert (out / "rssm.pt").read_bytes() == b"something else"
    assert sorted(os.listdir(out)) == ["decoder.pt", "rssm.pt"]


def test_an_encoder_alone_is_exported_alone(tmp_path, capsys):
    written(tmp_path / "a")
    (tmp_path / "a" / "rssm.pt").unlink()
    (tmp_path / "a" / "decoder.pt").unlink()
    words = ["--pretrain_checkpoint_path", tmp_path / "a", "--export_checkpoint", tmp_path / "b"]
    assert export(*words, *SIZES) == 0
    assert os.listdir(tmp_path / "b") == ["encoder.pt"]
    assert "decoder.pt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "target", "said"),
    [
        (["--grayscale", True], "b", ["β-VAE", "--grayscale"]),
        (["--beta_vae", False, "--encoder_kernels", 3, 3, 3, 3], "b", ["--encoder_kernels"]),
        ([], "a_file", ["--export_checkpoint", "a_file", "another folder"]),
        ([], "a_file/below", ["--export_checkpoint", "a_file/below", "another folder"]),
        ([], "", ["--export_checkpoint needs"]),
        (["--act", "Nothing"], "b", ["--act", "ELU"]),
    ],
)
def test_what_cannot_be_exported(tmp_path, capsys, flags, target, said):
    written(tmp_path / "a", *(flags if "Nothing" not in flags else []))
    (tmp_path / "a_file").touch()
    words = ["--pretrain_checkpoint_path", tmp_path / "a", "--export_checkpoint"]
    words += [tmp_path / target if target else "", *SIZES, *flags]
    assert export(*words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(word in line for word in said), line
    assert not (tmp_path / "b").exists()


def test_nothing_to_export(tmp_path, capsys):
    words = ["--pretrain_checkpoint_path", tmp_path, "--export_checkpoint", tmp_path / "b"]
    assert export(*words) == 2
    assert "has no encoder.pt" in capsys.readouterr().err
