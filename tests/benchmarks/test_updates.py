"""The benchmarks of updates: what they hold, count, print and write; never how fast it was."""

import json
import os
import re
import statistics
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import compare, machine, pretrain_update, table, turns, update
from tests.benchmarks.here import ours_here

TINY = ["--device", "cpu", "--threads", "1", "--warmup", "1"]
SMALL = ["--batch_size", "2", "--batch_length", "3", "--horizon", "3"]

# A checkout in the shape of the authors': the same names and entry points, one layer to learn.
CONFIGS = """
defaults: {batch_size: 50, device: 'cuda:0', precision: 32, act: 'ELU', beta_vae: False, lr: 1e-3,
           distillation: False, traindir: null, num_actions: 0, size: [64, 64], reward_scale: 1.0}
dmc2gym: {reward_scale: 2}
atari: {reward_scale: 5}
"""
TOOLS = """
import wandb
def args_type(default):
    return lambda x: tuple(x) if isinstance(x, list) else x
"""
MODELS = """
import torch
import wandb
from numpy.testing.print_coercion_tables import print_new_cast_table
from torch.fx.experimental.migrate_gradual_types.operation import op_neq
import tools
class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(config.num_actions, 1), config.act())
        self.optimizer = torch.optim.SGD(self.parameters(), 1e-9)
    def train_on(self, data):
        data['discount'] *= 0.99
        self.requires_grad_(True)
        pixels = torch.tensor(data['image']).float().mean()
        loss = self.layer(torch.tensor(data['action'])).mean() * 0 + pixels
        loss = loss + float(data['discount'].mean()) + float(data['reward'].shape[1])
        loss.backward()
        self.optimizer.step()
        wandb.log({'loss': loss})
        self.requires_grad_(False)
        return loss.item()
"""
DREAMER = """
import torch, wandb
import models, wrappers
from torch.utils.tensorboard import SummaryWriter
from panda_gym import reward_type
from numpy.distutils.command.config import config as unused
class Dreamer(torch.nn.Module):
    def __init__(self, config, logger, dataset):
        super().__init__()
        print('Logdir', config.traindir)
        assert list(config.traindir.glob('*.npz')) == []
        assert config.size == (64, 64) and config.reward_scale == 2 and config.beta_vae
        assert config.distillation is EXPECTED
        self._metrics = {}
        self._model = models.Model(config)
    def _train(self, data):
        self._metrics.setdefault('model_loss', []).append(self._model.train_on(data))
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    files = {"configs.yaml": CONFIGS, "tools.py": TOOLS, "models.py": MODELS}
    files["dreamer.py"] = DREAMER.replace("EXPECTED", "True")
    files["pretrain.py"] = DREAMER.replace("EXPECTED", "False")
    # What a run needs and an update does not is not even read.
    files["wrappers.py"] = "raise ImportError('no simulator here')"
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def here(monkeypatch):
    """What is ours is held in this process, and neither machine nor work are measured."""
    looked = {"device": "cpu", "machine": {"cpu": "this one"}, "ceiling_tflops": {"fp32": 1.0}}
    monkeypatch.setattr(compare, "look", lambda args: looked)
    monkeypatch.setattr(compare, "count_flops", lambda spec, points: [10**9])
    monkeypatch.setattr(turns, "Worker", ours_here)


def test_update_compares_settings_in_one_table_and_json(checkout, tmp_path, capsys, here):
    out = tmp_path / "update.json"
    words = ["--reference", str(checkout), "--settings", "reference", "exact", "--rounds", "1"]
    words += ["--also", "odd=--no_such_flag 1"]
    assert update.main([*TINY, *SMALL, *words, "--json", str(out)]) == 1
    report = json.loads(out.read_text())
    assert report["sizes"] == {"batch_size": 2, "batch_length": 3, "imag_horizon": 3}
    theirs, ours = report["settings"]["reference"], report["settings"]["exact"]
    assert theirs["loss"] == pytest.approx(127.5 + 3.99, abs=1.5)
    assert theirs["warmup_seconds"]
    assert "wandb" in theirs["stubs"]
    assert ours["dtype"] == "torch.float32"
    assert ours["config"]["precision"] == "32"
    for setting in (theirs, ours):
        assert len(setting["seconds"]) == 1
        assert setting["memory"]["resident_peak"] >= setting["before"]["resident"] > 1e7
    row = report["rows"]["exact"]
    pairs = zip(theirs["seconds"], ours["seconds"], strict=True)
    assert row["faster"] == pytest.approx(statistics.median(a / b for a, b in pairs))
    assert row["ms"] == pytest.approx(1e3 * statistics.median(ours["seconds"]))
    assert row["share"] == pytest.approx(1 / row["ms"])
    assert "no_such_flag" in report["failed"]["odd"]
    printed, told = capsys.readouterr()
    lines = [line.split("|") for line in printed.splitlines() if "|" in line]
    names = [line[1].strip() for line in lines]
    assert names == ["setting", "-" * 9, "reference", "exact", "odd"]
    assert lines[2][5].strip() == "1.00"
    assert "odd FAILED" in told
    assert str(checkout) not in out.read_text()


def test_pretraining_has_its_own_update(here, tmp_path):
    out = tmp_path / "pretrain.json"
    words = ["--settings", "bf16", "--rounds", "1", "--json", str(out)]
    assert pretrain_update.main([*TINY, *SMALL, *words]) == 0
    report = json.loads(out.read_text())
    assert list(report["rows"]) == ["bf16"]
    assert report["settings"]["bf16"]["dtype"] == "torch.bfloat16"
    assert "faster" not in report["rows"]["bf16"]


def test_another_method_has_its_own_update_and_its_own_place_in_the_reference(
    here, tmp_path, monkeypatch
):
    out, asked = tmp_path / "update.json", []
    monkeypatch.setattr(compare, "count_flops", lambda spec, points: asked.append(spec) or [10**9])
    words = ["--method", "apv", "--settings", "exact", "--rounds", "1", "--json", str(out)]
    assert update.main([*TINY, *SMALL, "--batch_length", "6", *words]) == 0
    report = json.loads(out.read_text())
    assert report["method"] == asked[0]["method"] == "apv"
    assert asked[0]["keys"] == {"fine_tune": True, "source_action_num": 6}
    assert report["rows"]["exact"]["ms"] > 0


def test_reference_pretrains_too(checkout):
    spec = {"source": "reference", "kind": "pretrain", "device": "cpu", "threads": 1}
    spec |= {"actions": 6, "precision": 32, "checkout": str(checkout)}
    spec["sizes"] = {"batch_size": 2, "batch_length": 3, "imag_horizon": 3}
    worker = turns.Worker(spec)
    losses = [worker.update()["loss"] for _ in range(2)]  # theirs scales the batch in place
    worker.close()
    assert losses[0] == losses[1] == pytest.approx(127.5 + 3.99, abs=1.5)


def test_a_process_that_is_killed_is_a_failed_setting(tmp_path, monkeypatch):
    program = tmp_path / "python"
    built = json.dumps({"facts": {}, "memory": {}})
    program.write_text(f"#!/bin/sh\nread spec\necho '{built}'\nread update\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(turns.sys, "executable", str(program))
    group = turns.Settings({"theirs": {"source": "ours"}}, warmup=0)
    assert list(group.results) == ["theirs"]
    group.round(0, updates=1)
    group.close()
    assert group.failed["theirs"].startswith("its process ended with status -9")
    assert group.results == {}


def test_work_is_that_of_the_paper_and_grows_in_proportion(monkeypatch):
    monkeypatch.setattr(turns, "Worker", ours_here)
    points = [(50, 50, 15), (2, 2, 2), (4, 4, 2), (2, 2, 3), (2, 2, 4)]
    names = ("batch_size", "batch_length", "imag_horizon")
    sizes = [dict(zip(names, point, strict=True)) for point in points]
    common = {"kind": "update", "threads": 1, "actions": 6}
    paper, small, more, farther, farthest = turns.count_flops(common, sizes)
    assert 0.6e12 < paper < 0.8e12
    assert more == pytest.approx(4 * small, rel=1e-2)
    assert farthest - farther == farther - small > 0


def test_memory_on_cuda_is_the_allocators():
    def result(seconds, gb):
        sizes = {"resident": 2e9, "resident_peak": 3e9}
        after = {**sizes, "cuda_allocated_peak": gb * 1e9, "cuda_reserved_peak": 2 * gb * 1e9}
        return {"seconds": seconds, "before": sizes, "memory": after}

    results = {"reference": result([0.4, 0.8], 4.0), "default": result([0.04, 0.02], 1.0)}
    rows = compare.summarise(results, flops=10**12, ceiling=100.0)
    assert rows["default"]["faster"] == pytest.approx((10 + 40) / 2)
    assert rows["default"]["memory_share"] == 0.25
    assert (rows["default"]["gb_allocated"], rows["default"]["gb_reserved"]) == (1, 2)
    assert rows["default"]["tflops"] == pytest.approx(1 / 0.03)
    assert "| GPU peak reserved, GB |" in compare.show(rows, {})


def test_failed_settings_have_a_row():
    rows = {"exact": {"ms": 12.0, "ms_min": 11.0, "ms_max": 13.0}}
    text = compare.show(rows, {"default": "out of memory"})
    assert [line.count("|") for line in text.splitlines()] == [5, 5, 5, 5]
    assert text.splitlines()[-1].split("|")[1:3] == [" default ", "    failed "]


def test_tables_align_their_columns():
    text = table.markdown(["a", "b"], [["long name", "1"], ["x", "100"]])
    assert text.splitlines()[0] == "| a         |   b |"
    assert text.splitlines()[2] == "| long name |   1 |"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--settings", "exat"], "did you mean 'exact'"),
        (["--settings", "reference"], "--reference"),
        (["--method", "avp"], "--method takes diswm, dreamerv2, dv2_finetune, apv, sac, rad"),
        (["--reference", "nowhere"], "no checkout"),
        (["--batch_size", "0"], "--batch_size"),
        (["--rounds", "0"], "--rounds"),
        (["--also", "--image_chunk 5"], "NAME=FLAGS"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--threads", "-1"], "--threads"),
    ],
)
def test_mistakes_are_one_line(words, told, capsys, monkeypatch):
    monkeypatch.setattr(turns, "Worker", ours_here)
    if "cuda:99" not in words:
        looked = {"device": "cpu", "machine": {}, "ceiling_tflops": {}}
        monkeypatch.setattr(compare, "look", lambda args: looked)
    assert update.main(words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_the_machine_is_described_and_its_ceiling_measured():
    found, rates = machine.describe(), machine.ceiling(size=64, seconds=0.01)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert rates.keys() == {"fp32", "bf16"}
    assert min(rates.values()) > 0


@pytest.mark.parametrize(
    ("commit", "modified", "told"),
    [("0123456789", False, "0123456"), ("0123456789", True, "0123456+"), (None, None, None)],
)
def test_a_commit_is_short_and_marked_where_code_differs(monkeypatch, commit, modified, told):
    code = {"commit": commit, "modified": modified}
    monkeypatch.setattr(machine.provenance, "code", lambda root: code)
    assert machine.commit() == told


@pytest.mark.parametrize("reference", [True, False])
def test_gpu_script_goes_on_after_a_failure_and_tells_it(checkout, tmp_path, reference):
    calls, program = tmp_path / "calls", tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *acting*) echo no; exit 3;; esac\n'
    )
    program.chmod(0o755)
    env = {**os.environ, "PYTHON": str(program), "OUT": str(tmp_path / "out"), "FRAMES": "70"}
    env["LC_ALL"] = "C"
    env |= {"REFERENCE": str(checkout)} if reference else {}
    done = subprocess.run(
        [turns.ROOT / "benchmarks" / "gpu.sh"], env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "failed: acting (3)"
    words = [line.split() for line in calls.read_text().splitlines()]
    modules = [f"benchmarks.{n}" for n in ("machine", "update", "pretrain_update", "acting")]
    assert [w[w[0] == "-m"] for w in words] == [*modules, "dreamer.py", "pytest"]
    for command in words[1:4]:
        assert (str(checkout) in command) is reference
    assert words[4][words[4].index("--steps") + 1] == "70"
    assert (tmp_path / "out" / "acting.log").read_text() == "no\n"
    limits = re.findall(r"^part \w+ (\d+)", Path(done.args[0]).read_text(), re.MULTILINE)
    assert len(limits) == 6
    assert sum(map(int, limits)) < 9 * 60


@pytest.mark.gpu
def test_default_and_exact_on_the_gpu(tmp_path):
    out = tmp_path / "update.json"
    words = ["--device", "cuda:0", "--settings", "exact", "default", "--rounds", "2"]
    assert update.main([*words, *SMALL, "--updates", "2", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["machine"]["gpu"]
    assert set(report["ceiling_tflops"]) == {"fp32", "tf32", "bf16"}
    assert all(row["gb_reserved"] > 0 for row in report["rows"].values())
