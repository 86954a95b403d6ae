"""Colours of the generalisation benchmark: drawn, read from its files, and painted."""

import pickle

import numpy as np
import pytest
import torch

import distracting_control as dc
from distracting_control.palette import (
    GREEN,
    STOCK,
    DistractingPalette,
    draw_colors,
    read_colors,
)
from distracting_control.pickles import read_arrays

SHADOW = 64


def save_as_the_benchmark(path, sets):
    torch.save(sets, path, _use_new_zipfile_serialization=False)


def sets_of(count, seed=0):
    random = np.random.default_rng(seed)
    return [{name: random.uniform(size=3) for name in STOCK} for _ in range(count)]


@pytest.mark.parametrize(("strength", "std"), [("easy", 0.1), ("hard", 0.2)])
def test_colours_are_drawn_around_the_stock_ones(strength, std):
    random = np.random.default_rng(0)
    drawn = [draw_colors(random, strength) for _ in range(4000)]
    for name, stock in STOCK.items():
        colors = np.array([one[name] for one in drawn])
        assert ((colors >= 0) & (colors <= 1)).all()
        np.testing.assert_allclose(np.median(colors, axis=0), stock, atol=0.02)
    body = np.array([one["self_rgb"] for one in drawn])
    low, high = np.quantile(body, [0.1587, 0.8413], axis=0)  # a standard deviation to either side
    np.testing.assert_allclose((high - low) / 2, std, atol=0.015)
    for one in drawn[:100]:
        np.testing.assert_allclose(one["grid_rgb2"], np.minimum(one["grid_rgb1"] + 0.1, 1))


def test_the_benchmarks_files_are_read_without_torch(tmp_path):
    sets = sets_of(3)
    save_as_the_benchmark(tmp_path / "color_easy.pt", sets)
    found = read_colors(tmp_path, "easy")
    assert len(found) == 3
    for one, other in zip(found, sets, strict=True):
        assert one.keys() == STOCK.keys()
        for name in STOCK:
            np.testing.assert_array_equal(one[name], other[name])


class Evil:
    """What would run a command where it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    save_as_the_benchmark(tmp_path / "color_hard.pt", [{"self_rgb": Evil()}])
    with pytest.raises(ValueError, match=r"color_hard.pt: .*print, which is refused"):
        read_colors(tmp_path, "hard")
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="refused"):
        read_arrays(tmp_path / "a.pt")
    assert capsys.readouterr().out == ""


def test_other_files_are_refused_in_a_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the benchmark's folder"):
        read_colors(tmp_path, "easy")
    path = tmp_path / "color_easy.pt"
    torch.save(sets_of(1), path)  # the format of today
    with pytest.raises(ValueError, match="damaged, or no file of colours"):
        read_colors(tmp_path, "easy")
    for content, said in (
        ([{"self_rgb": np.zeros(3)}], "holds no sets of grid_rgb1"),
        ([dict.fromkeys(STOCK, np.full(3, 2.0))], "no three numbers"),
        ([], "holds no colours"),
        ({"a": 1}, "holds no sets"),
    ):
        save_as_the_benchmark(path, content)
        with pytest.raises(ValueError, match=said):
            read_colors(tmp_path, "easy")
    path.write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match="not of the format"):
        read_colors(tmp_path, "easy")


@pytest.fixture(scope="module")
def plain():
    env = dc.load("walker", "walk", seed=1, shadow_size=SHADOW)
    env.reset()
    yield env.physics.render(48, 48, camera_id=0).astype(int)
    env.physics.free()


def test_stock_colours_are_the_plain_picture(tmp_path, plain):
    stock = {name: np.array(color) for name, color in STOCK.items()}
    other = {**stock, "skybox_rgb": np.array([0.8, 0.2, 0.2]), "self_rgb": np.array([0.0, 0, 1])}
    save_as_the_benchmark(tmp_path / "color_hard.pt", [stock])
    kwargs = {"strength": "hard", "folder": tmp_path}
    env = dc.load("walker", "walk", seed=1, shadow_size=SHADOW, palette_kwargs=kwargs)
    assert isinstance(env, DistractingPalette)
    env.reset()
    same = env.physics.render(48, 48, camera_id=0).astype(int)
    assert np.abs(same - plain).max() <= 1  # of a byte's rounding in the sky
    env._sets = [other]  # and after a picture was drawn, textures have to be brought there
    dc.reseed(env, 1)
    env.reset()
    changed = env.physics.render(48, 48, camera_id=0).astype(int)
    assert env.factors()["skybox_rgb_r"] == 0.8
    env.physics.free()
    assert (changed[2, 2, 0] - changed[2, 2, 2]) > 20  # a red sky
    assert plain[2, 2, 2] > plain[2, 2, 0]
    assert np.abs(changed[-3, 3] - plain[-3, 3]).max() <= 12  # floor, but for what it mirrors


@pytest.mark.parametrize("screen", ["sky", "all"])
def test_a_screen_is_green_and_the_body_is_not(screen, plain):
    kwargs = {"screen": screen}
    env = dc.load("walker", "walk", seed=1, shadow_size=SHADOW, palette_kwargs=kwargs)
    env.reset()
    image = env.physics.render(48, 48, camera_id=0).astype(int)
    assert env.factors() == {}
    width = env.physics.model.tex_width.max()
    env.physics.free()
    np.testing.assert_allclose(image[1, 1], np.floor(255 * np.array(GREEN)), atol=1)
    floor = image[-2, 2]
    assert (floor[1] > 1.8 * max(floor[0], floor[2])) == (screen == "all")
    body = (plain[..., 0] > 150) & (plain[..., 2] < 120)
    assert body.sum() > 10
    assert np.abs(image[body][:, 0] - plain[body][:, 0]).max() < 60
    assert width < 800  # such a sky is small


def test_a_palette_has_a_strength_or_a_screen():
    env = dc.load("cartpole", "balance")
    for kwargs in ({}, {"strength": "easy", "screen": "sky"}, {"strength": "medium"}):
        with pytest.raises(ValueError, match="a strength of easy, hard, or a screen of sky, all"):
            DistractingPalette(env, **kwargs)
    env.physics.free()
