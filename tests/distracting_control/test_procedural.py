"""Computed pictures: seeded, moving, and told."""

from itertools import pairwise

import numpy as np
import pytest

from distracting_control.procedural import (
    FAMILIES,
    LENGTH,
    SPLITS,
    families_of,
    is_procedural,
)

SIZE = 48


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_determines_every_frame_in_whatever_order(family):
    one, same, other = (FAMILIES[family](seed, SIZE) for seed in (3, 3, 4))
    numbers = [0, 1, 17, 90]
    frames = [one[number] for number in numbers]
    for number, frame in reversed([*zip(numbers, frames, strict=True)]):
        assert (frame.shape, frame.dtype) == ((SIZE, SIZE, 3), np.uint8)
        np.testing.assert_array_equal(same[number], frame)
        assert (other[number] != frame).any()
    assert len(one) == LENGTH


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_moves_to_its_end_and_has_contrast(family):
    for seed in range(3):
        clip = FAMILIES[family](seed, SIZE)
        frames = np.stack([clip[number] for number in (0, 8, 16, 200, 208, LENGTH - 1)]).astype(int)
        assert (np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)) > 0.5).all()
        assert (np.ptp(frames, axis=(1, 2)).max(axis=1) > 60).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_told_and_within_their_ranges(family):
    ranges = {"hue": (0, 1), "speed": (0.5, 2), "angle": (0, 2 * np.pi), "scale": (0.1, 0.3)}
    for seed in range(5):
        factors = FAMILIES[family](seed, SIZE).factors
        assert factors.keys() == ranges.keys()
        assert all(low <= factors[name] < high for name, (low, high) in ranges.items())


def test_life_follows_its_rules():
    clip = FAMILIES["life"](5, 20)
    clip[12 * clip._lasts]
    boards, side = clip._boards, clip._side
    for before, after in pairwise(boards[2:]):
        for row, column in np.random.default_rng(0).integers(side, size=(40, 2)):
            near = sum(
                before[(row + y) % side, (column + x) % side]
                for y in (-1, 0, 1)
                for x in (-1, 0, 1)
                if (y, x) != (0, 0)
            )
            assert after[row, column] == (near == 3 or (before[row, column] and near == 2))


def test_training_and_test_share_no_family():
    assert not set(SPLITS["train"]) & set(SPLITS["val"])
    assert {*SPLITS["train"], *SPLITS["val"]} == FAMILIES.keys()
    assert families_of("procedural", "train") == SPLITS["train"]
    assert families_of("procedural", "val") == SPLITS["val"]
    assert families_of("procedural:life", "train") == families_of("procedural:life", "val")
    assert families_of("procedural", None) == tuple(FAMILIES)


def test_what_is_no_family_is_refused():
    with pytest.raises(ValueError, match="no family 'fire': give one of flow, plasma, shapes"):
        families_of("procedural:fire", "train")
    with pytest.raises(ValueError, match="not 'test'"):
        families_of("procedural", "test")
    assert is_procedural("procedural")
    assert is_procedural("procedural:flow")
    assert not is_procedural("./procedural")
    assert not is_procedural(None)
