"""What runs are called: ablations live side by side, and a pretraining needs no task."""

import pytest

import config
from agents.registry import METHODS
from tests.helpers.runs import refusal
from training.run_folder import folder_of
from training.run_names import is_pretraining

PRETRAIN = "--configs defaults dmc2gym --beta_vae_pretrain True"
FROM = f"{PRETRAIN} --pretrain_datasets_path"
REACHER = f"{PRETRAIN} --task dmc2gym_reacher_easy"


def named(words):
    """The folder of a command line below --logdir."""
    return folder_of(config.parse(words.split(), methods=METHODS)).relative_to("runs").as_posix()


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("--configs dmc2gym", "dmc2gym_walker_walk/diswm/seed_0"),
        ("--configs dmc2gym --label b_1.0-x --seed 3", "dmc2gym_walker_walk/diswm-b_1.0-x/seed_3"),
        ("--configs dmc2gym --label none", "dmc2gym_walker_walk/diswm-none/seed_0"),
        ("--configs no_distillation", "dmc_walker_walk/diswm-no_distillation/seed_0"),
        ("--configs no_disentanglement", "dmc_walker_walk/diswm-no_disentanglement/seed_0"),
        ("--configs no_switch", "dmc_walker_walk/diswm-no_switch/seed_0"),
        ("--configs no_switch --label a --color_distractor True", "dmc_walker_walk/diswm-a/seed_0"),
        (REACHER, "dmc2gym_reacher_easy/pretrain/seed_0"),
        (f"{REACHER} --offline_traindir x --label y", "dmc2gym_reacher_easy/pretrain-y/seed_0"),
        (f"{REACHER} --dataset_name reacher", "reacher/pretrain/seed_0"),
        (f"{FROM} my+videos/", "my+videos/pretrain/seed_0"),
        (f"{FROM} a/../b/./c.d", "c.d/pretrain/seed_0"),
        (f"{FROM} a/(b)'s!.mp4", "b_s/pretrain/seed_0"),
        (f"{FROM} hf:walker_walk", "walker_walk/pretrain/seed_0"),
        (f"{FROM} a/walker.tar.xz", "walker/pretrain/seed_0"),
        (f"{FROM} dmc_x/a/seed_0/train_eps", "dmc_x/pretrain/seed_0"),
        (f"{FROM} elsewhere/train_eps", "train_eps/pretrain/seed_0"),
        (f"{PRETRAIN} --offline_traindir a/b", "b/pretrain/seed_0"),
        (f"{FROM} /", "videos/pretrain/seed_0"),
        (f"{FROM} a,my+videos:0.3", "a+my+videos/pretrain/seed_0"),
        (f"{FROM} hf:walker_walk:0.3,a", "walker_walk+a/pretrain/seed_0"),
        (f"{FROM} a/b:c", "b_c/pretrain/seed_0"),
    ],
)  # fmt: skip
def test_the_folder_of_a_command(tmp_path, monkeypatch, words, path):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/c.d", "a/b:c", "b/c.d", "my+videos", "dmc_x/a/seed_0/train_eps"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dmc_x/a/seed_0/config.yaml").touch()
    assert named(words) == path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        *(
            (f"--label {text}", f"--label '{text}' is to name a fold")
            for text in ("a/b", "..", "-")
        ),
        (f"--label {'x' * 51}", f"--label '{'x' * 50}' is to name a folder: give up to 50 letters"),
        (f"{PRETRAIN} --dataset_name a/b", "--dataset_name 'a/b' is to name a folder"),
        ("--dataset_name a", "--dataset_name is for a pretraining: --task names the run"),
    ],
)
def test_a_name_that_is_no_folders_is_refused(words, line):
    assert refusal(named, words).startswith(line)


@pytest.mark.parametrize(
    "words",
    [
        "no_distillation --distillation True",
        "no_switch with.yaml",
        "no_disentanglement --beta_vae 1",
    ],
)
def test_the_label_of_an_ablation_is_not_given_to_another_run(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with.yaml").write_text("color_distractor: True\n")
    words = words.replace(" 1", " True")
    line = refusal(named, f"--configs defaults dmc2gym {words}")
    assert line.startswith(f"the label {words.split()[0]} stands for --")
    assert line.endswith("is True here: leave one of them out, or give another --label")


def test_a_label_that_takes_the_place_of_a_blocks_is_noted(capsys):
    words = ["--configs", "defaults", "no_distillation", "--label"]
    assert config.parse([*words, "mine"]).label == "mine"
    assert "note: the label mine takes the place of no_distillation" in capsys.readouterr().err
    assert config.parse([*words, "no_distillation"]).label == "no_distillation"
    assert capsys.readouterr().err == ""


def test_a_file_of_ones_own_may_label_what_flags_change(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("label: mine\nbatch_size: 3\n")
    parsed = config.parse(["--configs", str(path), "--batch_size", "4"], methods=METHODS)
    assert (parsed.label, parsed.batch_size) == ("mine", 4)


def test_pretrainings_are_told_from_agents_with_a_label_too():
    assert [*map(is_pretraining, ("pretrain", "pretrain-x", "diswm-pretrain", "pretrainer"))] == [
        *(True, True, False, False)
    ]
