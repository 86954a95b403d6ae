"""``--distractors`` becomes plain settings, and what contradicts it is refused."""

import numpy as np
import pytest

import config
import envs
from agents.registry import METHODS
from config.distractors import distractor_settings
from envs.settings import DISTRACTION_SETTINGS, TEXTURE_SETTINGS, EnvSettings
from tests.helpers.runs import refusal
from training import evaluate

BLOCKS = ("dmc2gym", "gymnasium", "metaworld")
# Which videos there are in the folder that nobody reads then.
HARMLESS = {"background_dataset_videos", "test_background_dataset_videos"}


def parse(words):
    return config.parse(["--configs", "defaults", *words.split()], methods=METHODS)


def test_every_distraction_is_switched_off_by_none():
    names = (DISTRACTION_SETTINGS | TEXTURE_SETTINGS | {"color_distractor"}) - HARMLESS
    assert set(distractor_settings()) == names


@pytest.mark.parametrize("block", BLOCKS)
def test_without_the_flag_everything_is_as_the_blocks_have_it(block):
    plain, colors = parse(block), parse(f"{block} --distractors colors")
    assert plain.distractors == "auto"
    assert dict(colors.replace(distractors="auto")) == dict(plain)
    assert dict(parse(f"{block} --distractors auto --max_delta 0.1 --camera True")) == {
        **plain,
        "max_delta": 0.1,
        "camera": True,
    }


@pytest.mark.parametrize("block", BLOCKS)
def test_none_is_the_same_as_the_single_flags(block):
    words = "--max_delta 0 --step_std 0 --disjoint_sets null --test_disjoint_sets null "
    words += "--switch_texture grid --texture grid"
    single = dict(parse(f"{block} {words}"))
    assert dict(parse(f"{block} --distractors none")) == {**single, "distractors": "none"}
    assert dict(parse(f"{block} --distractors none {words}")) == {**single, "distractors": "none"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("none --max_delta 0.1", "none leaves every image clean, and --max_delta 0.1 does not go"),
        ("none --color_distractor True", "none leaves every image clean, and --color_distractor T"),
        ("none --disjoint_sets train", "none leaves every image clean, and --disjoint_sets train"),
        ("none --texture wood", "none leaves every image clean, and --texture wood does not go"),
        ("none --camera_roll_delta 0.2", "none leaves every image clean, and --camera_roll_delta"),
        ("none --background_dataset_path x", "none leaves every image clean, and --background_d"),
        (
            "colors --camera True",
            "colors changes colours alone, and --camera True does not go with",
        ),
        (
            "colors --difficulty easy",
            "colors changes colours alone, and --difficulty easy does not",
        ),
        ("clean", "takes auto, none, colors, not 'clean'"),
    ],
)
def test_a_flag_that_contradicts_is_refused(words, line):
    assert refusal(parse, f"dmc2gym --distractors {words}").startswith(f"--distractors {line}")


def test_what_a_file_of_ones_own_says_is_distractors_to_decide(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distractors: none\nmax_delta: 0.1\n")
    assert parse(f"dmc2gym {path}").max_delta == 0
    parsed = parse(f"dmc2gym {path} --distractors colors")
    assert (parsed.max_delta, parsed.disjoint_sets) == (0.1, "train")


@pytest.mark.parametrize(
    ("trained", "given", "max_delta", "sets"),
    [
        ("", "", 0.2, ("train", "test")),
        ("", "--distractors none", 0, (None, None)),
        ("--distractors none", "", 0, (None, None)),
        ("--distractors none", "--distractors colors", 0.2, ("train", "test")),
        ("--max_delta 0.1", "--distractors auto", 0.1, ("train", "test")),
        ("--camera True", "--distractors colors --max_delta 0.15", 0.15, ("train", "test")),
    ],
)  # fmt: skip
def test_an_evaluation_takes_the_distractors_that_it_is_given(
    tmp_path, trained, given, max_delta, sets
):
    parse(f"dmc2gym --device cpu {trained}").save(tmp_path / "config.yaml")
    (tmp_path / "checkpoint.pt").touch()
    words = ["--evaluate", str(tmp_path), *given.split()]
    found = evaluate.configure(config.parse(words, methods=METHODS))
    assert (found.max_delta, found.disjoint_sets, found.test_disjoint_sets) == (max_delta, *sets)
    assert found.camera == ("--camera" in trained and not given)
    assert found.overrides == {word[2:] for word in words if word.startswith("--")}


@pytest.mark.parametrize(
    ("block", "task", "clean"),
    [
        ("dmc2gym", "dmc2gym_point_mass_easy", "original"),
        ("gymnasium", "gymnasium_Pusher-v5", "original"),
        ("metaworld", "metaworld_drawer-open-v1", "grid"),
    ],
)
def test_images_of_none_are_those_of_the_plain_task(block, task, clean):
    settings = EnvSettings.pick(parse(f"{block} --distractors none --size 32 32 --shadow_size 16"))
    env = envs.make_env(task, variation=clean, **settings)
    looks = {}
    for variation in (clean, "train", "test"):
        first, _ = env.reset(seed=1, options={"variation": variation})
        looks[variation] = [first["image"], env.step(env.action_space.high)[0]["image"]]
    env.close()
    np.testing.assert_array_equal(looks["train"], looks[clean])
    np.testing.assert_array_equal(looks["test"], looks[clean])
    assert np.std(looks[clean]) > 1
