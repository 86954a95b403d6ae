"""python -m study metrics: the files it leaves, its tables, and what it refuses."""

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest

from agents.pretrained import save_predictor
from fileio import checkpoints
from measure.encoders import CONTROLS
from measure.metrics import SCORES
from measure.results import FOLDER, read
from study import disentanglement
from study.__main__ import main
from tests.helpers.models import make_agent, make_config, make_predictor
from tests.helpers.runs import refusal
from tests.study import fakes

TASK, Z = "dmc_reacher_easy", 4
WORDS = ["--task", TASK, "--frames", "90", "--onpolicy_frames", "0", "--workers", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A pretraining, its snapshot, and the finetuning that it taught."""
    root = tmp_path_factory.mktemp("measured")
    first, second = root / "t" / "pretrain" / "seed_0", root / "t" / "diswm" / "seed_0"
    for folder in (first, first / "snapshots" / "100"):
        save_predictor(folder, make_predictor(2))
    make_config("--shadow_size", 16, beta_vae_pretrain=True).save(first / "config.yaml")
    agent = make_agent(seed=1, teacher=first, words=("--shadow_size", "16"))
    second.mkdir(parents=True)
    agent.config.save(second / "config.yaml")
    checkpoints.save_newest(second, 60, {"learner": agent.save_state()}, keep=1)
    return root


@pytest.fixture(scope="module")
def measured(root, tmp_path_factory):
    """What the command prints of both runs, and where it wrote."""
    output = tmp_path_factory.mktemp("output")
    runs = [str(root / "t" / stage / "seed_0") for stage in ("pretrain", "diswm")]
    words = ["metrics", *runs, *WORDS[:4], "--onpolicy_frames", "60", "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("study.metrics.print_safe", lambda text, stream=None: lines.append(text))
        assert main([*words, "--output", str(output)]) == 0
    return output, lines


def test_every_encoder_has_its_files_and_its_row(measured):
    output, lines = measured
    labels = ["t/pretrain/seed_0", "t/diswm/seed_0", "t/diswm/seed_0, teacher"]
    rows = [line.split("  ")[0] for line in lines[-1].splitlines()]
    summary = ["mean", "mean, low", "mean, high"]
    assert rows == ["encoder", *labels, *summary, *CONTROLS]
    with (output / "metrics.csv").open() as file:
        table = {row.pop("encoder"): row for row in csv.DictReader(file)}
    assert list(table) == [*labels, *summary, *CONTROLS]
    first, own, teacher = (table[label] for label in labels)
    assert first == teacher != own  # the teacher is the pretraining's predictor
    value = float(table["mean"]["mig"])  # of the two that learned, not of what they share
    assert value == pytest.approx(np.mean([float(t["mig"]) for t in (first, own)]), abs=1e-4)
    for place in ("t/pretrain/seed_0", "t/diswm/seed_0", "t/diswm/seed_0/teacher"):
        names = sorted(path.name for path in (output / place).iterdir() if path.is_file())
        assert names == ["heatmap.png", "metrics.csv", "metrics.json"]
        assert iio.imread(output / place / "heatmap.png").std() > 10


def test_the_json_is_as_its_description_says(measured):
    output, _ = measured
    content = json.loads((output / "t/pretrain/seed_0/metrics.json").read_text())
    assert content["task"] == TASK
    assert content["frames"] == 90
    assert content["encoder"] == "encoder"
    assert [latent["index"] for latent in content["latents"]] == list(range(Z))
    names = [factor["name"] for factor in content["factors"]]
    assert names[:2] == ["shoulder", "wrist"]
    for key in ("r2", "r2_ridge", "importance", "mutual_information"):
        assert np.shape(content[key]) == (Z, len(names)), key
    for latent, row in zip(content["latents"], content["r2"], strict=True):
        assert latent["kl"] >= 0
        assert latent["r2"] == max(row)
        assert latent["best_factor"] in (None, names[int(np.argmax(row))])
    assert set(SCORES) <= set(content["scores"])
    assert set(content["controls"]) == set(CONTROLS)
    controls = content["controls"]
    best, chance = (controls[n]["ridge_r2"] for n in ("permuted_factors", "shuffled_frames"))
    assert best > 0.5 > 0.2 > chance  # an angle is not linear in itself
    met = content["onpolicy"]
    assert met["frames"] == 60
    assert np.shape(met["correlations"]) == (len(met["factors"]),) * 2
    assert {*met["factors"]} <= {*names}


def test_each_setting_of_environments_has_a_table_with_its_own_controls(
    tmp_path, monkeypatch, capsys
):
    """Their frames are drawn once, also where runs of another setting are named between them."""
    runs = {"a": True, "b": False, "c": True}
    for name, dynamic in runs.items():
        save_predictor(tmp_path / name, make_predictor(2))
        config = make_config(beta_vae_pretrain=True, dynamic=dynamic)
        config.save(tmp_path / name / "config.yaml")
    drawn = []

    def draw(frames, sees):
        drawn.append(sees["dynamic"])
        return len(drawn), None

    def measure_one(frames, encoder, images, played, controls):
        scores = {"mig": 0.1 * int(encoder.sees["dynamic"])}
        return SimpleNamespace(scores=scores), controls or {"pca": {"mig": float(images)}}

    monkeypatch.setattr(disentanglement, "draw", draw)
    monkeypatch.setattr(disentanglement, "measure_one", measure_one)
    runs = [str(tmp_path / name) for name in runs]
    assert main(["metrics", *runs, *WORDS, "--output", str(tmp_path / "o")]) == 0
    assert drawn == [True, False]
    above = str(Path(*tmp_path.parts[-2:]))
    rows = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    ends = [f"mean{end}, dynamic True" for end in ("", ", low", ", high")]
    first = [[f"{above}/a", "0.100"], [f"{above}/c", "0.100"], *([end, "0.100"] for end in ends)]
    second = [[f"{above}/b", "0.000"], ["pca, dynamic False", "2.000"]]
    head = ["encoder", "MIG"]
    assert rows == [head, *first, ["pca, dynamic True", "1.000"], head, *second]
    with (tmp_path / "o" / "metrics.csv").open() as file:
        labels = [row["encoder"] for row in csv.DictReader(file)]
    assert labels == [label for label, _ in rows if label != "encoder"]


def test_by_default_files_lie_in_the_runs_own_folder(root, capsys):
    first = root / "t" / "pretrain" / "seed_0"
    assert read(first) is None
    snapshot = first / "snapshots" / "100"
    assert main(["metrics", str(snapshot), *WORDS]) == 0
    content = read(snapshot)
    assert content["onpolicy"] is None
    assert len(content["latents"]) == Z  # the sizes are those of the run that it is of
    assert "pretrain" not in capsys.readouterr().out  # named by its own folder
    path = snapshot / FOLDER / "metrics.json"
    path.write_text("{")
    assert "metrics.json is damaged" in refusal(read, snapshot)
    path.write_text("{}")
    assert "of another version: measure again" in refusal(read, snapshot)
    shutil.rmtree(snapshot / FOLDER)


@pytest.mark.parametrize(
    ("folder", "name"), [("/a/b/c/d", "b/c/d"), ("/data/seed_0", "data/seed_0"), ("/run", "run")]
)
def test_files_of_a_run_near_the_root_lie_in_the_output_too(folder, name):
    assert Path("output") / disentanglement._own_name(Path(folder)) == Path("output") / name


def test_finished_runs_of_a_study_are_measured_once(root, monkeypatch, capsys):
    """A run at work is left; what is older than the run, or of other frames, is measured anew."""
    usual = {"task": TASK, "end": 60}
    done, waits = (fakes.job(root, f"t/{stage}/seed_0", **usual) for stage in ("diswm", "pretrain"))
    folder = root / done.name
    (folder / "metrics.jsonl").write_text('{"step": 60, "event": "finished"}\n')
    monkeypatch.setattr(disentanglement, "available_cores", lambda: 1)
    drawn = []
    sample = disentanglement.sample
    monkeypatch.setattr(
        disentanglement,
        "sample",
        lambda *words, **how: drawn.append(words[1]) or sample(*words, **how),
    )
    for count in (90, 90, 91):
        disentanglement.measure_finished([waits, done, done], root, count)
    assert drawn == [90, 91]
    assert read(folder)["frames"] == 91
    assert set(read(folder)["controls"]) == set(CONTROLS)
    assert read(root / waits.name) is None
    assert capsys.readouterr().err.count("measuring 1 runs, once") == 2
    assert disentanglement.is_measured(folder, disentanglement.Frames(TASK, 91))
    assert not disentanglement.is_measured(folder, disentanglement.Frames("dmc_finger_spin", 91))
    times = folder / FOLDER / "metrics.json"
    os.utime(times, (0, 0))
    assert not disentanglement.is_measured(folder, disentanglement.Frames(TASK, 91))
    shutil.rmtree(folder / FOLDER)


def test_what_cannot_be_measured_is_refused_in_a_line(root, tmp_path, capsys, monkeypatch):
    first = str(root / "t" / "pretrain" / "seed_0")
    plain = tmp_path / "plain"
    save_predictor(plain, make_predictor(2, beta_vae=False))
    make_config(beta_vae_pretrain=True, beta_vae=False).save(plain / "config.yaml")
    cases = {
        (str(plain), *WORDS): "has no β-VAE",
        (str(tmp_path / "none"), *WORDS): "none is no run's folder: it has no config.yaml",
        (first, "--task", "dmc2gym_reacher_esy"): "there is no task … did you mean",
        (first, "--task", "minigrid_MiniGrid-Empty-5x5-v0", "--variation", "original"): "is told",
        (first, "--task", TASK, "--variation", "tset"): "no variation 'tset'",
        (
            first,
            f"{first}/.",
            *WORDS,
        ): "two are called t/pretrain/seed_0, by their last three folders",
        (first, "--task", TASK, "--frames", "40"): "--frames 40 is too few for 20 bins",
        (first, "--task", TASK, "--onpolicy_frames", "5"): "--onpolicy_frames takes 0, or 60",
        (first, "--task", TASK, "--workers", "-1"): "--seed and --workers take 0 or more",
        (first, "--task", TASK, "--output", f"{first}/encoder.pt"): "encoder.pt is a file",
    }
    monkeypatch.setattr(
        "measure.factors._gather_parts", lambda *_: pytest.fail("something is drawn")
    )
    for words, said in cases.items():
        assert main(["metrics", *words]) == 2, words
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1, told
        for part in said.split(" … "):
            assert part in told[0]
