"""What is looked at before a run begins: videos of backgrounds, and a frame of each variation."""

import gymnasium as gym
import pytest
from PIL import Image

from envs import EnvSettings, check_backgrounds, trial, try_variations
from tools import UserError

CHEETAH = "dmc2gym_cheetah_run"


def videos(folder, *names):
    """Image sequences of one frame; a name with a dot is a file that holds none."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "." in name:
            path.write_bytes(b"no video")
            continue
        path.mkdir()
        Image.new("RGB", (8, 8)).save(path / "0.png")
    return str(folder)


def refused(settings, *names):
    with pytest.raises(UserError) as caught:
        check_backgrounds(CHEETAH, names or ("train", "test"), settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("given", ["", "test_"])
def test_a_split_without_videos_is_refused(tmp_path, given):
    own = {f"{given}background_dataset_path": videos(tmp_path / "A", "bear")}
    settings = EnvSettings(**{"background_dataset_path": videos(tmp_path / "B", "x"), **own})
    assert refused(settings) == (
        f"--{given}background_dataset_path {tmp_path}/A --test_background_dataset_videos val: "
        "none of the 1 videos there is of that split: give another one, or a folder with a "
        "sub-folder val"
    )
    check_backgrounds(CHEETAH, ["train"], settings)  # which never comes to it


def test_a_folder_without_any_video_is_refused(tmp_path):
    (tmp_path / "A" / "text").mkdir(parents=True)
    line = refused(EnvSettings(background_dataset_path=f"{tmp_path}/A"), "train")
    assert line == (
        f"--background_dataset_path {tmp_path}/A --background_dataset_videos train: {tmp_path}/A "
        "holds neither image sequences nor movie files"
    )


@pytest.mark.parametrize("kind", ["movie.mp4", "movie.gif"])
def test_a_folder_in_which_no_video_can_be_read_is_refused(tmp_path, kind):
    good, bad = videos(tmp_path / "A", "x"), videos(tmp_path / "B", kind)
    settings = EnvSettings(background_dataset_path=good, test_background_dataset_path=bad)
    flags = f"--test_background_dataset_path {bad} --test_background_dataset_videos val"
    assert refused(settings).startswith(
        f"{flags}: the background video {bad}/{kind} cannot be shown ("
    )


def test_a_video_that_cannot_be_read_beside_others_is_noted_once(tmp_path, capsys):
    folder = videos(tmp_path, "a", "b.mp4", "c")
    for _ in range(2):
        settings = EnvSettings(background_dataset_path=folder, dynamic=True)
        check_backgrounds(CHEETAH, ["train"], settings)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: background video {folder}/b.mp4: left out, it cannot be shown (")


@pytest.mark.parametrize(
    ("flags", "asks"),
    [
        ({"test_difficulty": "easy"}, "--test_difficulty easy shows 4"),
        ({"difficulty": "easy", "background_num_videos": 3}, "--background_num_videos 3 shows 3"),
        ({"difficulty": "medium"}, "--difficulty medium shows 8"),
    ],
)
def test_too_few_videos_are_refused(tmp_path, flags, asks):
    folder = videos(tmp_path, "x", "y")
    line = refused(EnvSettings(background_dataset_path=folder, **flags), "test")
    assert f"2 videos are there, and {asks}: give --background_num_videos 2" in line


def test_a_flat_folder_serves_as_train_and_val_and_that_is_noted(tmp_path, capsys):
    flat = videos(tmp_path / "flat", "x", "y")
    apart = videos(tmp_path / "apart", "train/x", "val/x")
    for folder, note in ((flat, f"note: {flat} does not tell train from val"), (apart, "")):
        settings = EnvSettings(background_dataset_path=folder, dynamic=True, test_dynamic=True)
        check_backgrounds(CHEETAH, ["train"], settings)
        assert capsys.readouterr().err == ""
        check_backgrounds(CHEETAH, ["train", "test"], settings)
        assert capsys.readouterr().err.startswith(note)


@pytest.mark.parametrize(
    ("moving", "flags"),
    [
        ({}, "--dynamic True --test_dynamic True plays"),
        ({"dynamic": True}, "; --test_dynamic True plays"),
        ({"test_dynamic": True}, "; --dynamic True plays"),
        ({"dynamic": True, "test_dynamic": True}, None),
    ],
)
def test_backgrounds_that_stand_still_are_noted(tmp_path, capsys, moving, flags):
    folder = videos(tmp_path, "train/x", "val/x")
    settings = EnvSettings(background_dataset_path=folder, **moving)
    check_backgrounds(CHEETAH, ["train", "test"], settings)
    said = capsys.readouterr().err
    assert said == (
        f"note: backgrounds stand still; {flags.removeprefix('; ')} the videos\n" if flags else ""
    )


def test_tasks_without_backgrounds_do_not_look(tmp_path):
    settings = EnvSettings(background_dataset_path=f"{tmp_path}/nowhere")
    check_backgrounds("dmc_cheetah_run", ["train", "test"], settings)
    for task in (CHEETAH, "gymnasium_Pusher-v5", "metaworld_drawer-open-v1"):
        with pytest.raises(UserError, match="nowhere"):
            check_backgrounds(task, ["train", "test"], settings)


def test_computed_backgrounds_that_stand_still_are_noted(capsys):
    check_backgrounds(CHEETAH, ["train"], EnvSettings(background_dataset_path="procedural"))
    assert "--dynamic True plays" in capsys.readouterr().err


def test_nothing_is_said_of_backgrounds_that_are_never_shown(capsys):
    settings = EnvSettings(background_dataset_path="procedural", dynamic=True)
    check_backgrounds("gymnasium_CartPole-v1", ["train", "test"], settings)
    assert capsys.readouterr().err == ""


class Drawn(gym.Env):
    """Writes down what is asked of it; fails as it is told to."""

    def __init__(self, name, ledger, error=None):
        self.facts = name, ledger, error

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def render(self):
        name, ledger, error = self.facts
        ledger.append(f"draw {name}")
        if error:
            raise error

    def close(self):
        name, ledger, _ = self.facts
        ledger.append(f"close {name}")


@pytest.fixture
def suite(monkeypatch):
    """Replaces DrawerWorld's environments; returns what is asked of them, and who fails."""
    ledger, errors = [], {}
    thunks = {
        name: lambda name=name: Drawn(name, ledger, errors.get(name))
        for name in ("train", "switch", "test")
    }
    thunks["alike"] = thunks["switch"]
    monkeypatch.setattr(trial, "factories_of", lambda *_: thunks)
    return ledger, errors


def test_each_look_but_the_first_is_drawn_once(suite):
    ledger, errors = suite
    names = ["train", "switch", "alike", "test"]
    try_variations("metaworld_drawer-open-v1", names, EnvSettings(texture="marble"))
    assert ledger == ["draw switch", "close switch", "draw test", "close test"]
    ledger.clear()
    errors["switch"] = FileNotFoundError("no texture:\ntexture is not there")
    with pytest.raises(UserError) as caught:
        try_variations("metaworld_drawer-open-v1", names, EnvSettings(texture="marble"))
    assert str(caught.value) == (
        "metaworld_drawer-open-v1 cannot be drawn as 'switch': --texture is not there"
    )
    assert ledger == ["draw switch", "close switch"]


def test_nothing_is_drawn_where_nothing_was_set(suite):
    ledger, _ = suite
    settings = EnvSettings(time_limit=7, size=(8, 8), max_delta=0.1)  # not DrawerWorld's
    try_variations("metaworld_drawer-open-v1", ["train", "switch", "test"], settings)
    assert ledger == []


def test_set_2_has_the_background_of_set_1_unless_another_is_given():
    kind = trial.BackgroundSettings
    for own, path in ((None, "one"), ("other", "other")):
        values = {"background_dataset_path": "one", "test_background_dataset_path": own}
        second = kind.of(values, "test_")
        assert (second.background_dataset_path, second.background_dataset_videos) == (path, "val")
