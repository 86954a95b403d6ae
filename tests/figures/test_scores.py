"""Scores of latents as a figure and a table: means over seeds, controls, what is not measured."""

import csv

import pytest

from figures import scores
from measure.encoders import CONTROLS
from measure.metrics import SCORES
from measure.results import FOLDER, SHORT, write

FRAMES = 90


def measured(folder, value, frames=FRAMES):
    """A run's folder in which every score is one value, and those of controls are a tenth."""
    own = dict.fromkeys(SCORES, value)
    content = {"version": 1, "task": "dmc2gym_finger_spin", "frames": frames, "scores": own}
    content |= {"controls": {name: dict.fromkeys(SCORES, 0.1) for name in CONTROLS}}
    write(folder / FOLDER, {"encoder": "encoder", "latents": [], "factors": [], "r2": []} | content)
    return folder


@pytest.fixture
def arms(tmp_path):
    """Two seeds of one arm, one of another, one on other frames, one that was not measured."""
    return {
        "GECO": [measured(tmp_path / f"geco{n}", value) for n, value in enumerate((0.4, 0.6))],
        "fixed": [measured(tmp_path / "fixed", 0.3), measured(tmp_path / "old", 0.9, 60)],
        "at work": [tmp_path / "none"],
    }


def test_the_table_has_arms_and_controls(tmp_path, arms):
    paths = scores.draw(arms, tmp_path / "s", FRAMES)
    assert [path.suffix for path in paths] == [".png", ".pdf", ".txt", ".csv", ".tex"]
    assert scores.CONTROLS.keys() == set(CONTROLS)
    with paths[3].open() as file:
        table = {row.pop("arm"): row for row in csv.DictReader(file)}
    assert list(table) == [*arms, *scores.CONTROLS.values()]
    for name in SCORES:
        found = [table[arm][name] for arm in (*arms, "PCA of pixels")]
        assert found == ["0.5", "0.3", "", "0.1"]
        assert table["GECO"][f"{name}_std"] == "0.141"
    assert [table[arm]["seeds"] for arm in arms] == ["2", "1", "0"]
    lines = paths[2].read_text().splitlines()
    assert lines[2].split()[:5] == ["GECO", "2", "0.500", "±", "0.141"]
    assert all(name in lines[0] for name in SHORT.values())


def test_each_score_has_a_panel_with_a_line_for_each_arm_and_control():
    found = {name: {"GECO": [0.2, 0.4], "PCA of pixels": [0.1]} for name in SCORES}
    figure = scores.figure_of(found, "90 frames")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [SHORT[name] for name in SCORES]
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["GECO", "PCA of pixels"]
    dots, mean, control = shown[0].lines
    assert list(dots.get_xdata()) == [0.2, 0.4]
    assert mean.get_xdata()[0] == pytest.approx(0.3)
    assert control.get_color() == scores.GREY != mean.get_color()
    assert "n = 2 · 90 frames" in figure._supxlabel.get_text()
    found = {name: {**own, "σ-VAE": [0.3, 0.3, 0.3]} for name, own in found.items()}
    assert "n = 2 to 3 · 90" in scores.figure_of(found, "90 frames")._supxlabel.get_text()


def test_nothing_is_drawn_while_nothing_is_measured(tmp_path, arms, capsys):
    assert scores.draw({"at work": arms["at work"]}, tmp_path / "s", FRAMES) == []
    assert capsys.readouterr().err.startswith("note: without s: no run has come to its end")
    assert not [*tmp_path.glob("s*")]
