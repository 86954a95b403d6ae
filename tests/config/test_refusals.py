"""What the user got wrong: one line that names the flag and the mend, status 2, nothing written.

Each line of the tables is ``words => line``: words that go behind a command that is right, and what
the refusal has to say, in this order, with anything in the places of ``…``. ``{name}`` makes a
thing (see `Things`) and stands for it.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

import config
import dreamer

ROOT = Path(dreamer.__file__).parent
CUDA = torch.cuda.is_available()
# One episode of four steps, and nothing is learnt.
SHORT = {"steps": 0, "prefill": 2, "time_limit": 8, "shadow_size": 16, "eval_episodes": 1}

TABLES = {
    "": """
--configs defaults dmc2gim => 'dmc2gim' (did you mean 'dmc2gym'?)
--configs defaults --batchsize 3 => --batchsize (did you mean 'batch_size'?)
--configs defaults mien.yaml => --configs mien.yaml: there is no such file
--lr 3 => --lr (did you mean 'model_lr'?)
--tsk=dmc_walker_walk => --tsk (did you mean 'task'?)
--fine_tune True --naive_fine_tune True => --fine_tune True is apv … is dv2_finetune: give one
--fine_tune True --method_name diswm => --method_name diswm and --fine_tune True … is apv: give one
--fine_tune yes => --fine_tune takes True or False, not 'yes'
--configs defaults random --fine_tune True => the block random is for --method_name random
--domain_name walker => --domain_name … --task
--disag_models 3 => --disag_models … Plan2Explore
--intr_beta 1 => --intr_beta belongs to --method_name apv
dmc_walker_walk => 'dmc_walker_walk' … --task
--steps => --steps
--configs => --configs
--device cpu --seed 1 2 => '2'
--export_checkpoint x --evaluate y => --export_checkpoint and --evaluate do not go together
--model_lr nan => --model_lr takes a finite number
--size 64 => --size … height and a width … not (64,)
--size 32 32 => --size 32 32: … 64 64
--size 64 64 3 => --size … height and a width … not (64, 64, 3)
--method_name avp => --method_name takes diswm, … not 'avp' (did you mean 'apv'?)
--wandb true => --wandb takes off, online, offline
--disjoint_sets trian => --disjoint_sets … (did you mean 'train'?)
--max_delta 0.3 --disjoint_sets null => --test_max_delta 0.3 … --test_disjoint_sets null
""",
    "finetune": """
--task dmc2gym_walker_wlak => dmc2gym_walker_wlak … 'dmc2gym_walker_walk'
--task dmc2gym_wakler_walk => 'dmc2gym_walker_walk'
--task dmc2gm_walker_walk => 'dmc2gym_walker_walk'
--task walker => did you mean
--device gpu => --device 'gpu' … cuda:0
--device tpu:0 => --device 'tpu:0' … cpu
--device meta => --device meta … cpu
--method_name dreamerv2 => --method_name dreamerv2 … --beta_vae … diswm
--label a/b => --label 'a/b' is to name a folder
--dataset_name a => --dataset_name is for a pretraining … --label
--steps 1 => --steps 1 is less than one agent step of 2 frames
--eval_colors test => --eval_colors goes with --evaluate
--beta_vae_beta linear(1,2) => --beta_vae_beta … linear(from,to,steps)
--distill_scale delay(5) => --distill_scale … delay(steps,schedule)
--kl_scale exp(1,0,0) => --kl_scale
--act Elu => --act … 'Elu' … ELU
--act Conv2d => --act … 'Conv2d'
--grad_heads image rewards => --grad_heads takes image, reward, discount … did you mean 'reward'
--max_delta 0.5 => --max_delta 0.5 … --disjoint_sets null
--test_max_delta 0.5 => --test_max_delta 0.5
--traindir {a_file} => --traindir … is a file
--evaldir {a_file} => --evaldir … is a file
--beta_vae False --traverse True => --traverse … --beta_vae True
--beta_vae False --distillation False --traverse True => --traverse … --beta_vae True
--pretrain_checkpoint_path {nowhere} => --pretrain_checkpoint_path … beta_vae_pretrain
--pretrain_checkpoint_path {empty} => --pretrain_checkpoint_path … no encoder.pt
--pretrain_checkpoint_path {damaged_encoder} => --pretrain_checkpoint_path … encoder.pt
--pretrain_checkpoint_path {no_tensors} => --pretrain_checkpoint_path … encoder.pt … pretrain again
--pretrain_checkpoint_path {code} => --pretrain_checkpoint_path … encoder.pt
--z_dim 5 => encoder.pt … 'stats.weight' … (8, 256) … (10, 256) … --z_dim
--dyn_deter 8 => .pt … --dyn_deter
--source_action_num 9 => rssm.pt … 'inputs.0.weight' … --source_action_num
--actor_dist onehot => --actor_dist onehot … continuous … trunc_normal
--traindir {used} => --traindir … holds episodes … --offline_traindir
--offline_traindir {nowhere} => --offline_traindir … no such folder
--offline_traindir {empty} => --offline_traindir … no .npz
--offline_traindir {broken} => --offline_traindir
--logdir {a_file} => --logdir … choose another
--logdir {a_file}/runs => --logdir … choose another
--logdir ~nobody-here/x => --logdir ~nobody-here/x … its home is not known
--traindir ~nobody-here/x => --traindir ~nobody-here/x … its home is not known
--offline_traindir ~nobody-here/x => --offline_traindir ~nobody-here/x … its home is not known
--pretrain_checkpoint_path ~nobody-here/x => --pretrain_checkpoint_path ~nobody-here/x … home
--camera True => --camera … --difficulty
--camera_id 99 => --camera_id … 99
--background_dataset_path {nowhere} => --background_dataset_path … folder
--camera True --camera_max_zoom_in_percent 2.0 => --camera_max_zoom_in_percent
{plain} --decoder_kernels 5 5 5 5 => --decoder_kernels … 64
{plain} --decoder_thin False => --decoder_kernels … --decoder_thin
{plain} --encoder_kernels 9 9 9 9 => --encoder_kernels 9 9 9 9: too much
""",
    "pretrain": """
--pretrain_datasets_path {nothing} => --pretrain_datasets_path … train_eps
--pretrain_datasets_path {nowhere} => --pretrain_datasets_path … no such folder
--pretrain_datasets_path {empty} => --pretrain_datasets_path … no .npz
--pretrain_datasets_path {a_file} => --pretrain_datasets_path … folder
--pretrain_datasets_path ~nobody-here/x => --pretrain_datasets_path … its home is not known
--pretrain_datasets_path {run_folder} => --pretrain_datasets_path … did you mean
--pretrain_datasets_path {broken} => --pretrain_datasets_path … no usable … a.npz
--offline_evaldir {nowhere} => --offline_evaldir … no such folder
--offline_evaldir {broken} => --offline_evaldir
--pretrain_dataset_scale 1.5 => --pretrain_dataset_scale must be above 0 and up to 1
--pretrain_steps 49 => --pretrain_steps must be at least 50, not 49
--size 100 100 => --size 100 100 … 64 64, 96 96, 128 128
--dataset_name a/b => --dataset_name 'a/b' is to name a folder
--eval_colors test => --eval_colors goes with --evaluate
""",
    "evaluate": """
{run}/../sede_0 => --evaluate … no such folder (did you mean 'seed_0'?)
{nothing} => --evaluate '' … give a run's
{run}/checkpoint.pt => --evaluate … is a file … seed_0
{run}/.. => --evaluate … no run's folder … did you mean … seed_0
{run}/train_eps => --evaluate … no run's folder … config.yaml … <logdir>
{from_above} => --evaluate . … no run's folder … did you mean seed_0
{pretraining} => --evaluate … pretraining … no agent
{without_checkpoint} => --evaluate … checkpoint.pt yet … --checkpoint_every
{damaged} => --evaluate … checkpoint_000000008.pt cannot be read
{of_something_else} => --evaluate … checkpoint_000000008.pt is not
{broken_config} => --evaluate … config.yaml cannot be read
{of_newer_code} => --evaluate … config.yaml … 'units_of_tomorrow'
{of_other_weights} => checkpoint.pt … 'behavior.extra' … (3,) … code
{run} --eval_colors tset => --eval_colors … train, test, original … 'test'
{run} --eval_episodes 0 => --eval_episodes must be above 0
{run} --units 8 => --units does not go with --evaluate
{run} --logdir x => --logdir does not go with --evaluate
{run} --task dmc2gym_reacher_easy => --task does not go with --evaluate
{run} --grayscale True => checkpoint.pt … shape … leave out --grayscale$
{run} --grayscale True --time_limit 9 => checkpoint.pt … ( … leave out --grayscale$
{run} --size 32 32 => --size 32 32 … 64 64
{run} --camera_id 99 => --camera_id … 99
{run} --device tpu => --device … cpu
""",
}
if not CUDA:
    TABLES["finetune"] += "--device cuda:0 => --device cuda:0 … --device cpu\n"
    TABLES["finetune"] += "--device cuda => --device cuda … --device cpu\n"

CASES = [
    pytest.param(kind, *line.split(" => "), id=f"{kind} {line.split(' => ')[0]}".strip())
    for kind, table in TABLES.items()
    for line in table.strip().splitlines()
]


class Things:
    """What a table's ``{name}`` stands for; it is made when it is asked for."""

    def __init__(self, folder, finished):
        self.folder, self.finished = folder, finished

    def __getitem__(self, name):
        if name in TEXTS:
            return TEXTS[name]
        made = self.folder / "made"
        if name in RUNS:
            # A copy of a finished run, whose agent has not learnt.
            made = Path(shutil.copytree(self.finished(), self.folder / "seed_0", symlinks=True))
        elif name not in ("nowhere", "a_file"):
            made.mkdir()
        {**FOLDERS, **RUNS}[name](made)
        return "." if name == "from_above" else made


def broken(folder):
    (folder / "a.npz").write_bytes(b"no archive")
    np.savez(folder / "b.npz", reward=np.zeros(3))


def used(folder):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "000000-s0-3.npz", image=np.zeros((3, 64, 64, 3), np.uint8))


def rewritten(run, **changes):
    yaml, path = YAML(typ="safe", pure=True), run / "config.yaml"
    values = yaml.load(path.read_text()) | changes
    with path.open("w") as file:
        file.write(config.HEAD)
        yaml.dump(values, file)


def of_other_weights(run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["learner"]["weights"]["behavior.extra"] = torch.zeros(3)
    torch.save(state, run / "checkpoint.pt")


def damaged(run):
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:5000])


TEXTS = {"plain": "--method_name dreamerv2 --beta_vae False --distillation False", "nothing": "''"}
FOLDERS = {
    "nowhere": lambda path: None,
    "a_file": lambda path: path.write_text("something else"),
    "empty": lambda folder: None,
    "damaged_encoder": lambda f: (f / "encoder.pt").write_bytes(b"PK\x03\x04 cut"),
    "no_tensors": lambda folder: torch.save([1, 2], folder / "encoder.pt"),
    # A pickle that would call a function.
    "code": lambda folder: torch.save({"a": Path("x")}, folder / "encoder.pt"),
    "broken": broken,
    "used": used,
    # A run's folder in place of the train_eps in it.
    "run_folder": lambda folder: used(folder / "train_eps"),
}
RUNS = {
    "run": lambda run: None,
    "from_above": lambda run: os.chdir(run.parent),
    "pretraining": lambda run: rewritten(run, beta_vae_pretrain=True),
    "of_newer_code": lambda run: rewritten(run, units_of_tomorrow=3),
    "broken_config": lambda run: (run / "config.yaml").write_text(config.HEAD + "a: [1"),
    "without_checkpoint": lambda run: [path.unlink() for path in run.glob("checkpoint*.pt")],
    "damaged": damaged,
    "of_something_else": lambda run: torch.save([1, 2], run / "checkpoint.pt"),
    "of_other_weights": of_other_weights,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """Gives the folder of a finished run, made once, where it is needed."""
    made = []

    def folder():
        if not made:
            flags = {"task": "dmc2gym_cartpole_balance", "distillation": False, **SHORT}
            made.append(tiny.finish(tiny.finetune(tmp_path_factory.mktemp("made"), **flags)))
        return made[0]

    return folder


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
    pieces = ".*".join(map(re.escape, re.split(" ?… ?", wanted.removesuffix("$"))))
    assert re.search(pieces + "$" * wanted.endswith("$"), line), line
    assert "Traceback" not in line


@pytest.mark.parametrize(("kind", "words", "wanted"), CASES)
def test_a_refusal_is_one_line_and_changes_nothing(
    tmp_path, monkeypatch, tiny, videos, finished, kind, words, wanted
):
    monkeypatch.chdir(tmp_path)  # where relative folders are; some go elsewhere, this comes back
    words = words.format_map(Things(tmp_path, finished)).split()
    words = ["" if word == "''" else word for word in words]
    base = {"": [], "evaluate": ["--evaluate"], "finetune": tiny.finetune(tmp_path / "runs")}
    base["pretrain"] = tiny.pretrain(tmp_path / "runs", videos)
    before = everything(tmp_path)
    assert_refused(tiny.run(base[kind] + words), wanted)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("lacking", ["a compiler", "headers"])
def test_compiling_is_refused_where_something_is_missing(tmp_path, tiny, monkeypatch, lacking):
    if lacking == "a compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        wanted = "--compile True needs a compiler (g++) … --compile False"
    else:
        compiler = tmp_path / "c++"
        compiler.touch(mode=0o755)
        monkeypatch.setenv("CXX", str(compiler))
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
        wanted = "--compile True needs … headers … python3-dev … --compile False"
    before = everything(tmp_path)
    assert_refused(tiny.run(tiny.finetune(tmp_path / "runs", compile=True)), wanted)
    assert everything(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
def test_logdir_that_cannot_be_made_is_refused(tiny):
    assert_refused(tiny.run(tiny.finetune(Path("/proc/runs"))), "--logdir … choose another")


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path, monkeypatch, tiny, finished, evaluated
):
    argv, wanted = tiny.finetune(tmp_path), "--logdir … choose another"
    folder = tiny.folder(argv)
    if evaluated:
        folder = Things(tmp_path, finished)["run"]
        argv, wanted = ["--evaluate", str(folder)], "cannot be written to … copy its config.yaml"
    folder.mkdir(parents=True, exist_ok=evaluated)
    before = everything(folder)
    if os.geteuid():
        folder.chmod(0o555)
    else:  # root writes anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(tiny.run(argv), wanted)
    folder.chmod(0o755)
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("- a list", "config.yaml … --logdir"),
        ("a: [1", "config.yaml … --logdir"),
        ("", "config.yaml … --logdir"),
        (None, "(batch_size: 2 there, 3 now, units: 16 there, 8 now) … --logdir"),
        (b"PK\x03\x04 cut short", "checkpoint.pt"),
    ],
    ids=["list", "broken", "empty", "another run's", "checkpoint"],
)
def test_a_folder_with_something_else_is_refused(tmp_path, tiny, content, wanted):
    argv = tiny.finetune(tmp_path)
    folder = tiny.folder(argv)
    config.parse(argv).save(folder / "config.yaml")
    if isinstance(content, bytes):
        (folder / "checkpoint.pt").write_bytes(content)
    elif content is None:
        argv = tiny.finetune(tmp_path, batch_size=3, units=8)
    else:
        (folder / "config.yaml").write_text(content)
    before = everything(tmp_path)
    assert_refused(tiny.run(argv), f"{folder} … {wanted}" if content is None else wanted)
    assert everything(tmp_path) == before


def test_missing_episodes_of_a_checkpoint_are_refused_or_told(tmp_path, tiny):
    short = {"method_name": "dreamerv2", "beta_vae": False, "distillation": False}
    argv = tiny.finetune(tmp_path, **short, **SHORT | {"prefill": 5})
    folder = tiny.finish(argv)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**state, "finished": False}, folder / "checkpoint.pt")  # as if it had stopped
    path = folder / "train_eps" / "000000-s0-5.npz"
    path.rename(tmp_path / "kept")
    (folder / "train_eps").rename(tmp_path / "elsewhere")
    assert_refused(tiny.run(argv), str(path))  # none is left
    (tmp_path / "elsewhere").rename(folder / "train_eps")
    result = tiny.run(argv)
    assert result.code == 0, result.err
    assert f"goes on without {path}" in result.err


def test_refusal_of_a_real_process_and_the_right_command_after_it(tmp_path, tiny):
    """A refused command must not leave a folder that then refuses the right one."""
    argv = tiny.finetune(tmp_path / "runs", z_dim=5)
    command = [sys.executable, str(ROOT / "dreamer.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("dreamer.py: ")
    assert "--z_dim" in line
    assert everything(tmp_path) == {}
    assert tiny.run(tiny.finetune(tmp_path / "runs", z_dim=4, **SHORT)).code == 0
