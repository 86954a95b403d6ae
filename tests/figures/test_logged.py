"""Numbers of logs as figures: means over seeds, where runs end, the CSV, and what is refused."""

import csv

import numpy as np
import pytest

from figures import kinds, logged
from tests.figures.recorded import make_run
from tests.helpers.runs import refusal

VALUES = {"beta": "β", "image_mse": "error"}


def log_of(scale, steps=20):
    """A log in which β falls as 1/step, and the error is ten times that."""
    rows = [{"step": 0, "event": "start"}]
    return rows + [
        {"step": s, "beta": scale / s, "image_mse": 10 * scale / s} for s in range(1, steps + 1)
    ]


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one arm, and one of another."""
    names = {"GECO, a task/geco/seed_0": 1.0, "GECO, a task/geco/seed_1": 3.0, "fixed": 5.0}
    return {
        name: make_run(tmp_path / (name.rpartition(", ")[2]), log_of(scale))
        for name, scale in names.items()
    }


def test_the_csv_has_the_mean_of_the_last_tenth_over_seeds(tmp_path, runs):
    paths = kinds.draw("logged", [], tmp_path / "out", runs=runs, values=VALUES)
    assert [path.suffix for path in paths] == [".png", ".pdf", ".txt", ".csv", ".tex"]
    with paths[3].open() as file:
        geco, fixed = csv.DictReader(file)
    end = np.mean([1 / 19, 1 / 20])
    assert (geco["arm"], geco["seeds"], fixed["arm"], fixed["seeds"]) == ("GECO", "2", "fixed", "1")
    assert float(geco["beta"]) == pytest.approx(2 * end, rel=1e-5)
    assert float(geco["beta_std"]) == pytest.approx(np.std([end, 3 * end], ddof=1), rel=1e-2)
    assert float(geco["image_mse"]) == pytest.approx(20 * end, rel=1e-5)
    assert fixed["beta_std"] == ""
    head, _, row, other = paths[2].read_text().splitlines()
    assert head.split() == ["arm", "n", "β", "error"]
    assert row.split() == ["GECO", "2", "0.103", "±", "0.073", "1.03", "±", "0.73"]
    assert other.split() == ["fixed", "1", "0.257", "2.57"]


def test_starts_are_told_by_ratios_and_share_a_colour(tmp_path):
    """One ends where the arm does; the other is four times as far from it to the end."""
    usual, late = log_of(1.0), log_of(4.0)
    halfway = [
        {**row, "beta": row.get("beta", 0) * (4 if n < 10 else 1)} for n, row in enumerate(usual)
    ]
    named = {"GECO": usual, "GECO from 4": halfway[1:], "fixed": late}
    runs = {arm: make_run(tmp_path / arm, rows) for arm, rows in named.items()}
    starts = {"GECO": ["GECO from 4", "fixed", "not run"]}
    paths = kinds.draw("logged", [], tmp_path / "o", runs=runs, values=VALUES, starts=starts)
    assert [path.name for path in paths[5:]] == ["o_starts.txt", "o_starts.csv", "o_starts.tex"]
    head, *rows = csv.reader(paths[6].open())
    assert head == ["arm", "beside", "β, first", "β, end", "error, first", "error, end"]
    assert rows == [
        ["GECO from 4", "GECO", "4", "1", "1", "1"],
        ["fixed", "GECO", "4", "4", "4", "4"],
        ["not run", "GECO", "–", "–", "–", "–"],
    ]
    styles = logged.styles_of([*runs, "σ-VAE"], starts)
    assert len({color for color, _ in styles.values()}) == 2
    assert styles["σ-VAE"][1] == styles["GECO"][1] == "-"
    assert len({styles[arm] for arm in runs}) == 3


def test_a_line_is_the_mean_over_seeds_as_far_as_all_have_come(tmp_path, runs):
    make_run(tmp_path / "a task/geco/seed_1", log_of(3.0, 10))
    arms = logged.by_arm(runs)
    found = {n: {arm: logged.lines(own, n) for arm, own in arms.items()} for n in VALUES}
    figure = logged.figure_of(found, VALUES, "", {})
    panel = figure.axes[0]
    assert panel.get_title() == "β"
    assert panel.get_yscale() == "log"
    *_, mean, other = panel.lines
    np.testing.assert_allclose(mean.get_xdata(), range(1, 11))
    np.testing.assert_allclose(mean.get_ydata(), 2 / np.arange(1, 11))
    assert len(other.get_xdata()) == 20


def test_a_number_that_no_log_has_is_refused(tmp_path, runs):
    line = refusal(lambda: logged.draw([], tmp_path / "o", runs=runs, values={"betta": "β"}))
    assert "no run's log has betta" in line
