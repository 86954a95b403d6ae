"""Pictures of runs and of environments: what is in them, and the files they become."""

import imageio.v3 as iio
import numpy as np

from figures import environments, overview
from logger.pictures import grid


def test_the_strip_shows_the_frames_of_one_clip():
    tiles = np.zeros((6, 3, 2, 64, 64, 3), np.uint8)
    tiles += np.arange(6, dtype=np.uint8)[:, None, None, None, None, None] * 10
    tiles[:, :, 1] += 100  # the second clip
    picture = overview.strip(grid(tiles, ["truth", "model", "error"], ["a", "b"], "c"), 1, [0, 5])
    assert picture.shape == (192, 128, 3)
    assert (picture[:, :64] == 100).all()
    assert (picture[:, 64:] == 150).all()


def test_the_liveliest_latents_come_first():
    traversal = np.zeros((4, 7, 64, 64, 3), np.uint8)
    for row, step in ((2, 20), (0, 5)):
        for column in range(7):
            traversal[row, column] = column * step
    assert overview.liveliest(traversal, 2) == [2, 0]


def test_the_overview_becomes_a_picture(tmp_path, capsys):
    rng, run = np.random.default_rng(0), tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    assert overview.main([str(run), "--output", str(tmp_path / "o.png")]) == 2
    assert "no picture" in capsys.readouterr().err
    video = grid(rng.integers(0, 256, (9, 3, 2, 64, 64, 3), np.uint8), ["truth", "model", "error"])
    iio.imwrite(run / "pictures" / "eval_openl.gif", video)
    picture = grid(rng.integers(0, 256, (4, 7, 64, 64, 3), np.uint8), ["z0", "z2", "z1", "z3"])
    iio.imwrite(run / "pictures" / "beta_vae_traverse.png", picture)
    assert overview.main([str(run), "--output", str(tmp_path / "o.png")]) == 0
    assert iio.imread(tmp_path / "o.png").shape[1] > 500


def test_every_look_is_drawn_with_the_same_actions(monkeypatch, tmp_path):
    from envs import make_env

    monkeypatch.setitem(environments.EPISODE, "gymnasium", 8)
    labels, frames, steps = environments.play("gymnasium_Pusher-v5", seed=3)
    assert labels == ["train", "test", "original"]
    assert steps == 4
    env = make_env("gymnasium_Pusher-v5", variation="test", time_limit=8)
    rng, expected = np.random.default_rng(3), [env.reset(seed=3)[0]["image"]]
    for _ in range(4):
        expected.append(env.step(rng.uniform(-1, 1, 7).astype(np.float32))[0]["image"])
    env.close()
    for shown, index in zip(frames[1], (0, 2, 4), strict=True):
        np.testing.assert_array_equal(shown, expected[index])
    assert environments.looks("gymnasium_Hopper-v5", {}) == {"train": "original = test = train"}
    textures = environments.looks("metaworld_drawer-open-v1", {"texture": "black"})
    assert textures["train"] == "grid = train"
    assert textures["test"] == "black = test"
    png = tmp_path / "looks.png"
    assert environments.main(["gymnasium_Pusher-v5", "--output", str(png)]) == 0
    assert iio.imread(png).shape[0] > 200


def test_pictures_of_an_unknown_task_are_refused_in_a_line(capsys):
    assert environments.main(["gymnasium_Pushr-v5"]) == 2
    assert "gymnasium_Pusher-v5" in capsys.readouterr().err
