"""What a run needs of its environments is checked before it begins."""

import pytest
from PIL import Image

from agents.registry import METHODS
from config import parse
from training import factory

DRAWER = "metaworld_drawer-open-v1"


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("", ["train", "test"]),
        ("--eval_every 0", ["train"]),
        ("--eval_every 0 --color_distractor True", ["train", "test"]),
        ("--steps 0 --color_distractor True", ["train"]),
        (f"--task {DRAWER}", ["train", "test"]),
        (f"--task {DRAWER} --color_distractor True", ["train", "switch", "test"]),
    ],
)
def test_the_variations_of_a_run_are_those_that_its_episodes_will_have(monkeypatch, flags, names):
    seen = []
    monkeypatch.setattr(factory, "try_variations", lambda *given: seen.append(given[:2]))
    config = parse(["--configs", "defaults", "dmc2gym", *flags.split()])
    factory.check_variations(config)
    assert seen == [(config.task, names)]


@pytest.fixture
def folders(tmp_path):
    """A folder whose only video DAVIS counts to train, and one whose only video is damaged."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    (good / "bear").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(good / "bear" / "0.png")
    bad.mkdir()
    (bad / "movie.mp4").write_bytes(b"no video")
    return good, bad


def test_a_run_whose_second_half_cannot_be_drawn_does_not_begin(tmp_path, tiny, folders):
    for folder, wrong in zip(folders, ("split", "movie.mp4 cannot be shown"), strict=True):
        flags = {"background_dataset_path": folders[0], "test_background_dataset_path": folder}
        argv = tiny.episodes(tmp_path / "runs", color_distractor=True, **flags)
        result = tiny.run(argv)
        assert result.code == 2
        [line] = [row for row in result.err.splitlines() if not row.startswith("note: ")]
        assert line.startswith(f"dreamer.py: --test_background_dataset_path {folder} --")
        assert wrong in line
        assert not (tmp_path / "runs").exists()


def test_an_evaluation_that_cannot_be_drawn_does_not_begin(tiny, whole, folders):
    flags = {"test_background_dataset_path": folders[1], "test_camera": True}
    for name, wrong in zip(flags, ("movie.mp4 cannot be shown", "nothing says how"), strict=True):
        words = [f"--{name}", str(flags[name]), "--eval_colors", "test"]
        result = tiny.run(["--evaluate", str(whole), *words])
        assert result.code == 2
        [line] = result.err.splitlines()
        assert line.startswith(f"dreamer.py: --{name} ")
        assert wrong in line


@pytest.mark.parametrize(
    ("words", "noted"),
    [
        ("dreamerv3 --grad_clip 9 --actor_lr 1e-3 --model_lr 1e-3", "--actor_lr, --grad_clip"),
        ("dreamerv3 --model_lr 1e-3", ""),
        ("tdmpc2 --value_lr 1e-3 --model_lr 1e-3", "--value_lr"),
        ("sac --value_lr 1e-3 --model_lr 1e-3", "--model_lr"),
        ("cpu --actor_lr 1e-3", ""),
    ],
)
def test_flags_that_a_method_does_not_read_are_noted(capsys, words, noted):
    factory.note_unread(
        parse(["--configs", "defaults", "dmc2gym", *words.split()], methods=METHODS)
    )
    line = f"note: {noted} changes nothing with --method_name {words.split()[0]}\n"
    assert capsys.readouterr().err == (line if noted else "")


@pytest.mark.parametrize(
    ("flags", "short"),
    [
        ("--steps 20 --prefill 2", True),
        ("--steps 1000 --prefill 2", True),
        ("--steps 1002 --prefill 2", False),
        ("--steps 1002 --prefill 501", True),
        ("--steps 1002 --prefill 2 --envs 2", True),
        ("--steps 20 --prefill 2 --time_limit 10", False),
        ("--steps 20 --prefill 2 --offline_traindir here", False),
        ("--steps 0 --prefill 2", False),
        ("--steps 20 --pretrain 0 --train_steps 0", False),
    ],
)
def test_a_run_that_ends_where_learning_begins_is_noted(capsys, flags, short):
    factory.note_short(parse(flags.split()))
    noted = capsys.readouterr().err
    assert noted.startswith(f"note: --steps {flags.split()[1]} may end") == short
    assert noted.count("\n") == short
