"""The picture that asks whether some runs learn as others do."""

import json

import numpy as np
import pytest
from PIL import Image

from figures import spread


def write(folder, offset=0.0, seed=0, points=40, key="image_loss"):
    """A run that logged a falling number with noise of standard deviation 1."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    values = 100 * np.exp(-np.arange(points) / 10) + rng.normal(size=points) + offset
    rows = [{"step": 500 * i, "time": 0.0, key: float(value)} for i, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def exact(tmp_path):
    return [write(tmp_path / f"exact{seed}", seed=seed) for seed in range(3)]


def test_the_band_is_the_mean_and_two_standard_deviations():
    rng = np.random.default_rng(0)
    curve = spread.Curve(np.arange(400), rng.normal(5, 3, (50, 400)))
    band = spread.band(curve)
    np.testing.assert_allclose(band.mean, curve.values.mean(0))
    assert band.half.shape == (400,)
    np.testing.assert_allclose(band.half.mean(), 6, rtol=0.02)
    assert band.share(rng.normal(5, 3, (50, 400))) == pytest.approx(0.954, abs=0.01)


@pytest.mark.parametrize("points", [1, 3, 4, 5, 9])
def test_short_curves_have_a_band_of_their_length(points):
    curve = spread.Curve(np.arange(points), np.arange(2 * points).reshape(2, -1) * 1.0)
    np.testing.assert_allclose(spread.band(curve).half, 2 * points / np.sqrt(2))


def test_what_learns_alike_is_within_and_what_does_not_is_not(tmp_path, exact, capsys):
    alike = [write(tmp_path / f"alike{i}", seed=10 + i) for i in range(3)]
    other = [write(tmp_path / f"other{i}", offset=8, seed=20 + i) for i in range(3)]
    shares = []
    for runs in (alike, other):
        output = tmp_path / f"{runs[0].name}.png"
        flags = [*map(str, runs), "--within", *map(str, exact), "--output", str(output)]
        assert spread.main(flags) == 0
        printed = capsys.readouterr().out
        assert "of 120 points within" in printed
        shares.append(int(printed.split("image_loss")[1].split("%")[0]) / 100)
        assert np.asarray(Image.open(output)).std() > 10
    assert shares[0] > 0.8
    assert shares[1] < 0.1


def test_what_cannot_be_compared_is_refused(tmp_path, exact, capsys):
    empty = write(tmp_path / "other", key="reward_loss")
    for words, said in (
        ([exact[0], "--within", exact[1]], "at least two"),
        ([tmp_path / "none", "--within", *exact], "no metrics.jsonl"),
        ([empty, "--within", *exact], "no number in common"),
    ):
        assert spread.main([*map(str, words), "--output", str(tmp_path / "no.png")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
