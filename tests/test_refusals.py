"""What the user got wrong: one line that names the flag and the mend, status 2, nothing written."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

import config
import dreamer

ROOT = Path(dreamer.__file__).parent
CUDA = torch.cuda.is_available()


def empty(path):
    path.mkdir()
    return path


def broken_videos(path):
    path.mkdir()
    (path / "a.npz").write_bytes(b"no archive")
    np.savez(path / "b.npz", reward=np.zeros(3))
    return path


def damaged_encoder(path):
    path.mkdir()
    (path / "encoder.pt").write_bytes(b"PK\x03\x04 cut short")
    return path


def encoder_without_tensors(path):
    path.mkdir()
    torch.save([1, 2], path / "encoder.pt")
    return path


def code_in_encoder(path):
    """A pickle that would call a function."""
    path.mkdir()
    torch.save({"a": Path("x")}, path / "encoder.pt")
    return path


def used_traindir(path):
    path.mkdir()
    np.savez(path / "000000-s0-3.npz", image=np.zeros((3, 64, 64, 3), np.uint8))
    return path


def a_file(path):
    path.write_text("something else")
    return path


def below_a_file(path):
    return a_file(path) / "runs"


def nowhere(path):
    return path


def run_folder(path):
    """A run's folder in place of the train_eps in it."""
    empty(path)
    used_traindir(path / "train_eps")
    return path


PLAIN = {"method_name": "dreamerv2", "beta_vae": False, "distillation": False}
FLAGS = [
    # flags of a finetuning; what the line has to say
    ({"task": "dmc2gym_walker_wlak"}, ["dmc2gym_walker_wlak", "'dmc2gym_walker_walk'"]),
    ({"task": "dmc2gym_wakler_walk"}, ["'dmc2gym_walker_walk'"]),
    ({"task": "dmc2gm_walker_walk"}, ["'dmc2gym_walker_walk'"]),
    ({"task": "walker"}, ["did you mean"]),
    ({"device": "gpu"}, ["--device", "'gpu'", "cuda:0"]),
    ({"device": "tpu:0"}, ["--device", "tpu:0", "cpu"]),
    ({"device": "meta"}, ["--device", "meta", "cpu"]),
    ({"method_name": "apv"}, ["--method_name", "diswm, dreamerv2", "'apv'"]),
    ({"method_name": "disvm"}, ["--method_name", "did you mean 'diswm'"]),
    ({"method_name": "dreamerv2"}, ["--method_name dreamerv2", "--beta_vae", "diswm"]),
    ({"seed": "one"}, ["--seed", "a whole number", "'one'"]),
    ({"batch_size": 2.5}, ["--batch_size", "a whole number", "2.5"]),
    ({"steps": "inf"}, ["--steps", "a whole number", "inf"]),
    ({"model_lr": "fast"}, ["--model_lr", "a number", "'fast'"]),
    ({"model_lr": "nan"}, ["--model_lr", "a finite number"]),
    ({"beta_vae": "yes"}, ["--beta_vae", "True or False", "'yes'"]),
    ({"camera_id": "first"}, ["--camera_id", "a whole number"]),
    ({"test_camera": "maybe"}, ["--test_camera", "True or False"]),
    ({"size": ["a", "b"]}, ["--size", "a whole number"]),
    ({"size": 64}, ["--size", "64 64"]),
    ({"size": [32, 32]}, ["--size 32 32", "64 64"]),
    ({"size": [64, 64, 3]}, ["--size 64 64 3", "64 64"]),
    ({"dyn_cell": "lstm"}, ["--dyn_cell", "gru, gru_layer_norm", "'lstm'"]),
    ({"wandb": "true"}, ["--wandb", "off, online, offline"]),
    ({"disjoint_sets": "trian"}, ["--disjoint_sets", "did you mean 'train'"]),
    ({"steps": -1}, ["--steps", "0 or more", "-1"]),
    ({"seed": -1}, ["--seed", "0 or more", "-1"]),
    ({"batch_size": 0}, ["--batch_size", "above 0"]),
    ({"envs": 0}, ["--envs", "above 0"]),
    ({"eval_episodes": -2}, ["--eval_episodes", "above 0", "-2"]),
    ({"eval_every": -1}, ["--eval_every", "0 or more"]),
    ({"model_lr": 0}, ["--model_lr", "above 0"]),
    ({"batch_length": 1}, ["--batch_length", "at least 2"]),
    ({"imag_horizon": 1}, ["--imag_horizon", "at least 2"]),
    ({"discount": 1.5}, ["--discount", "between 0 and 1"]),
    ({"beta_vae_beta": "linear(1,2)"}, ["--beta_vae_beta", "linear(from,to,steps)"]),
    ({"kl_scale": "much"}, ["--kl_scale", "'much' is not a schedule"]),
    ({"distill_scale": "delay(5)"}, ["--distill_scale", "delay(steps,schedule)"]),
    ({"kl_scale": "exp(1,0,0)"}, ["--kl_scale"]),
    ({"act": "Elu"}, ["--act", "'Elu'", "ELU"]),
    ({"act": "Conv2d"}, ["--act", "'Conv2d'"]),
    ({"grad_heads": ["image", "rewards"]}, ["--grad_heads", "did you mean 'reward'"]),
    ({"max_delta": 0.5}, ["--max_delta 0.5", "--disjoint_sets null"]),
    ({"test_max_delta": 0.5}, ["--test_max_delta", "0.5"]),
    ({"traindir": __file__}, ["--traindir", "is a file"]),
    ({"evaldir": __file__}, ["--evaldir", "is a file"]),
    (
        {"max_delta": 0.3, "disjoint_sets": "null"},
        ["--test_max_delta 0.3", "--test_disjoint_sets null"],
    ),
    ({"beta_vae": False, "traverse": True}, ["--traverse", "--beta_vae True"]),
    (
        {"beta_vae": False, "distillation": False, "traverse": True},
        ["--traverse", "--beta_vae True"],
    ),
    ({"pretrain_checkpoint_path": nowhere}, ["--pretrain_checkpoint_path", "beta_vae_pretrain"]),
    ({"pretrain_checkpoint_path": empty}, ["--pretrain_checkpoint_path", "no encoder.pt"]),
    ({"pretrain_checkpoint_path": damaged_encoder}, ["encoder.pt", "--pretrain_checkpoint_path"]),
    (
        {"pretrain_checkpoint_path": encoder_without_tensors},
        ["--pretrain_checkpoint_path", "encoder.pt", "pretrain again"],
    ),
    ({"pretrain_checkpoint_path": code_in_encoder}, ["encoder.pt", "--pretrain_checkpoint_path"]),
    ({"z_dim": 5}, ["encoder.pt", "'stats.weight'", "(8, 256)", "(10, 256)", "--z_dim"]),
    ({"dyn_deter": 8}, [".pt", "--dyn_deter"]),
    ({"source_action_num": 9}, ["rssm.pt", "'inputs.0.weight'", "--source_action_num"]),
    ({"actor_dist": "onehot"}, ["--actor_dist onehot", "continuous", "trunc_normal"]),
    ({"traindir": used_traindir}, ["--traindir", "holds episodes", "--offline_traindir"]),
    ({"offline_traindir": nowhere}, ["--offline_traindir", "no such folder"]),
    ({"offline_traindir": empty}, ["--offline_traindir", "no .npz"]),
    ({"offline_traindir": broken_videos}, ["--offline_traindir"]),
    ({"logdir": a_file}, ["--logdir", "choose another"]),
    *(
        ({flag: "~nobody-here/x"}, [f"--{flag} ~nobody-here/x", "its home is not known"])
        for flag in ("logdir", "traindir", "offline_traindir", "pretrain_checkpoint_path")
    ),
    ({"logdir": below_a_file}, ["--logdir", "choose another"]),
    ({"camera": True}, ["--camera", "--difficulty"]),
    ({"camera_id": 99}, ["--camera_id", "99"]),
    ({"shadow_size": -1}, ["--shadow_size", "-1"]),
    ({"background_dataset_path": nowhere}, ["--background_dataset_path", "folder"]),
    ({"camera_max_zoom_in_percent": 2.0, "camera": True}, ["--camera_max_zoom_in_percent"]),
    ({**PLAIN, "decoder_kernels": [5, 5, 5, 5]}, ["--decoder_kernels", "64"]),
    ({**PLAIN, "decoder_thin": False}, ["--decoder_thin", "--decoder_kernels"]),
]

VIDEOS = [
    # flags of a pretraining; what the line has to say
    ({"pretrain_datasets_path": ""}, ["--pretrain_datasets_path", "train_eps"]),
    ({"pretrain_datasets_path": nowhere}, ["--pretrain_datasets_path", "no such folder"]),
    ({"pretrain_datasets_path": empty}, ["--pretrain_datasets_path", "no .npz"]),
    ({"pretrain_datasets_path": a_file}, ["--pretrain_datasets_path", "folder"]),
    (
        {"pretrain_datasets_path": "~nobody-here/x"},
        ["--pretrain_datasets_path", "its home is not known"],
    ),
    ({"pretrain_datasets_path": run_folder}, ["--pretrain_datasets_path", "did you mean"]),
    ({"pretrain_datasets_path": broken_videos}, ["--pretrain_datasets_path", "no usable", "a.npz"]),
    ({"offline_evaldir": nowhere}, ["--offline_evaldir", "no such folder"]),
    ({"offline_evaldir": broken_videos}, ["--offline_evaldir"]),
    ({"pretrain_dataset_scale": 0}, ["--pretrain_dataset_scale", "above 0"]),
    ({"pretrain_dataset_scale": 1.5}, ["--pretrain_dataset_scale", "up to 1"]),
    ({"pretrain_steps": 49}, ["--pretrain_steps 49", "at least 50"]),
    ({"pretrain_steps": -50}, ["--pretrain_steps", "at least 50"]),
    ({"size": [128, 128]}, ["--size 128 128", "64 64"]),
    ({"kl_scale": "horizon(0,10,100)"}, ["--kl_scale", "horizon"]),
]

WORDS = [
    # whole command lines; what the line has to say
    (["--configs", "defaults", "dmc2gim"], ["'dmc2gim'", "did you mean 'dmc2gym'"]),
    (["--configs", "defaults", "--batchsize", "3"], ["--batchsize", "did you mean 'batch_size'"]),
    (["--tsk=dmc_walker_walk"], ["--tsk", "did you mean 'task'"]),
    (["--fine_tune", "True"], ["--fine_tune", "--method_name"]),
    (["--domain_name", "walker"], ["--domain_name", "--task"]),
    (["--disag_models", "3"], ["--disag_models", "Plan2Explore"]),
    (["--intr_beta", "1"], ["--intr_beta", "APV"]),
    (["dmc_walker_walk"], ["'dmc_walker_walk'", "--task"]),
    (["--steps"], ["--steps"]),
    (["--configs"], ["--configs"]),
    (["--device", "cpu", "--seed", "1", "2"], ["'2'"]),
]


def named(case):
    """A test's name from its flags."""
    flags = case[0]
    if isinstance(flags, list):
        return " ".join(flags)
    hidden = PLAIN if set(PLAIN) <= set(flags) else ()
    values = ((k, getattr(v, "__name__", v)) for k, v in flags.items() if k not in hidden)
    return " ".join(f"{k}={v}" for k, v in values)


def cases(table):
    return [pytest.param(*case, id=named(case)) for case in table]


def made(flags, folder):
    """The flags, those that are functions replaced by the path that they prepare."""
    return {k: v(folder / "given") if callable(v) else v for k, v in flags.items()}


def everything(folder):
    """All files and folders below, with the files' contents; the lock of a run is nobody's work."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "lock"]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def assert_refused(result, wanted):
    """One line on stderr, and nothing else."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.endswith("\n")
    [line] = result.err.splitlines()
    assert line.startswith("dreamer.py: ")
    for word in wanted:
        assert word in line
    assert "Traceback" not in line


@pytest.mark.parametrize(("flags", "wanted"), cases(FLAGS))
def test_wrong_finetuning_is_refused(tmp_path, tiny, flags, wanted):
    argv = tiny.finetune(tmp_path / "runs", **made(flags, tmp_path))
    before = everything(tmp_path)
    assert_refused(tiny.run(argv), wanted)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("flags", "wanted"), cases(VIDEOS))
def test_wrong_pretraining_is_refused(tmp_path, tiny, videos, flags, wanted):
    argv = tiny.pretrain(tmp_path / "runs", videos, **made(flags, tmp_path))
    before = everything(tmp_path)
    assert_refused(tiny.run(argv), wanted)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("argv", "wanted"), cases(WORDS))
def test_wrong_words_are_refused(tmp_path, monkeypatch, tiny, argv, wanted):
    monkeypatch.chdir(tmp_path)
    assert_refused(tiny.run(argv), wanted)
    assert everything(tmp_path) == {}


LACKING = {
    "a compiler": ["a compiler (g++)", "--compile False"],
    "headers": ["headers", "python3-dev", "--compile False"],
}


@pytest.mark.parametrize("lacking", LACKING)
def test_compiling_is_refused_where_something_is_missing(tmp_path, tiny, monkeypatch, lacking):
    if lacking == "a compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
    else:
        compiler = tmp_path / "c++"
        compiler.touch(mode=0o755)
        monkeypatch.setenv("CXX", str(compiler))
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    before = everything(tmp_path)
    argv = tiny.finetune(tmp_path / "runs", compile=True)
    assert_refused(tiny.run(argv), ["--compile True needs", *LACKING[lacking]])
    assert everything(tmp_path) == before


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda:0", "cuda"])
def test_cuda_is_refused_where_there_is_none(tmp_path, tiny, device):
    argv = tiny.finetune(tmp_path, device=device)
    assert_refused(tiny.run(argv), [f"--device {device}", "--device cpu"])


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_default_device_is_refused_without_a_gpu(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    argv = ["--configs", "defaults", "dmc2gym", "--method_name", "dreamerv2"]
    assert_refused(tiny.run(argv), ["--device", "cpu"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
def test_logdir_that_cannot_be_made_is_refused(tiny):
    assert_refused(tiny.run(tiny.finetune(Path("/proc/runs"))), ["--logdir", "choose another"])


def test_logdir_that_cannot_be_written_is_refused(tmp_path, monkeypatch, tiny):
    argv = tiny.finetune(tmp_path)
    tiny.folder(argv).mkdir(parents=True)
    if os.geteuid():
        tiny.folder(argv).chmod(0o555)
    else:  # root writes anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(tiny.run(argv), ["--logdir", "choose another"])
    tiny.folder(argv).chmod(0o755)
    assert list(tiny.folder(argv).iterdir()) == []


def test_config_of_another_run_is_refused_and_shown(tmp_path, tiny):
    argv = tiny.finetune(tmp_path)
    folder = tiny.folder(argv)
    config.parse(argv).save(folder / "config.yaml")
    before = everything(tmp_path)
    changed = tiny.finetune(tmp_path, batch_size=3, units=8)
    wanted = ["batch_size: 2 there, 3 now", "units: 16 there, 8 now", "--logdir", str(folder)]
    assert_refused(tiny.run(changed), wanted)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("content", ["- a list", "a: [1", ""], ids=["list", "broken", "empty"])
@pytest.mark.parametrize("head", [config.HEAD, "", "# DisWM run, format 0\n"])
def test_config_that_is_none_or_of_an_older_format_is_refused(tmp_path, tiny, content, head):
    argv = tiny.finetune(tmp_path)
    tiny.folder(argv).mkdir(parents=True)
    (tiny.folder(argv) / "config.yaml").write_text(head + content)
    assert_refused(tiny.run(argv), ["config.yaml", "--logdir"])


def test_damaged_checkpoint_of_a_run_is_refused(tmp_path, tiny):
    argv = tiny.finetune(tmp_path)
    folder = tiny.folder(argv)
    config.parse(argv).save(folder / "config.yaml")
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    before = everything(tmp_path)
    assert_refused(tiny.run(argv), ["checkpoint.pt"])
    assert everything(tmp_path) == before


def test_missing_episodes_of_a_checkpoint_are_refused_or_told(tmp_path, tiny):
    argv = tiny.finetune(tmp_path, **PLAIN, steps=0, prefill=12)
    folder = tiny.finish(argv)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**state, "finished": False}, folder / "checkpoint.pt")  # as if it had stopped
    path = folder / "train_eps" / "000000-s0-11.npz"
    path.rename(tmp_path / "kept")
    (folder / "train_eps").rename(tmp_path / "elsewhere")
    assert_refused(tiny.run(argv), [str(path)])  # none is left
    (tmp_path / "elsewhere").rename(folder / "train_eps")
    result = tiny.run(argv)
    assert result.code == 0, result.err
    assert f"goes on without {path}" in result.err


def test_corrected_command_works_after_a_refusal(tmp_path, tiny):
    """A refused command must not leave a folder that then refuses the right one."""
    assert tiny.run(tiny.finetune(tmp_path, z_dim=5)).code == 2
    short = {"steps": 0, "prefill": 12}
    assert tiny.run(tiny.finetune(tmp_path, z_dim=4, **short)).code == 0


def test_refusal_of_a_real_process(tmp_path, tiny):
    argv = tiny.finetune(tmp_path / "runs", z_dim=5)
    command = [sys.executable, str(ROOT / "dreamer.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("dreamer.py: ")
    assert "--z_dim" in line
    assert everything(tmp_path) == {}
