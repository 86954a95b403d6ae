"""Paired differences: the numbers, which runs are pairs, and what is refused."""

import csv

import numpy as np
import pytest

from figures import differences
from figures.records import RANDOM, write_csv
from tests.figures.recorded import TASK, make_records
from tests.helpers.runs import refusal

# Three seeds of two arms, and a third arm that has one seed more.
OURS = [[0, 10, 30], [0, 20, 60], [0, 0, 30]]
THEIRS = [[0, 10, 10], [0, 0, 30], [0, 10, 20]]
FRAMES = (10, 20, 40)


def made():
    return [
        *make_records(OURS, frames=FRAMES),
        *make_records(THEIRS, arm="dreamerv2", frames=FRAMES),
        *make_records([[5.0]], arm=RANDOM, frames=[0]),
    ]


def test_a_difference_is_of_one_seed_at_the_end_and_on_the_way():
    [found] = differences.differences(made(), "dreamerv2")
    assert (found.task, found.group.arm, found.frame) == (TASK, "diswm", 40)
    assert found.seeds == [0, 1, 2]
    assert found.end.tolist() == [20, 30, 10]
    # The area between the lines: 10 frames up to the second evaluation, 20 up to the third.
    np.testing.assert_allclose(found.way, np.array([0 + 200, 100 + 500, -50 + 0]) / 30)


def test_the_interval_is_students():
    found = differences.estimate(np.array([20.0, 30.0, 10.0]))
    half = 4.302653 * 10 / np.sqrt(3)  # the table's quantile of two degrees of freedom
    np.testing.assert_allclose(found, [20, 20 - half, 20 + half], rtol=1e-6)
    assert differences.estimate(np.array([7.0])) == (7, 7, 7)


def test_between_evaluations_a_run_lies_on_a_line():
    records = make_records([[0, 40]], frames=(0, 40))
    records += make_records([[0, 0, 0]], arm="ted", frames=(10, 20, 30))
    [found] = differences.differences(records, "TED")
    assert (found.frame, found.end.tolist(), found.way.tolist()) == (30, [30], [20])
    [found] = differences.differences(records, "ted", at=20)
    assert (found.frame, found.end.tolist(), found.way.tolist()) == (20, [20], [15])
    [found] = differences.differences(records, "ted", at=10)
    assert (found.end.tolist(), found.way.tolist()) == ([10], [10])


def test_pairs_are_of_one_seed_task_and_source():
    four = [[0, 1], [0, 2], [0, 3], [0, 4]]
    records = make_records(four, arm="ted") + make_records([[0, 9], [0, 9]])
    [found] = differences.differences(records, "ted")
    assert (found.seeds, found.end.tolist()) == ([0, 1], [8, 7])
    each = {"a": 5, "b": 7}
    records = [r for s, ret in each.items() for r in make_records([[0, ret]], source=s)]
    records += [r for s in each for r in make_records([[0, 1]], arm="apv", source=s)]
    found = differences.differences(records, "apv")
    assert {one.group.source: one.end.tolist() for one in found} == {"a": [4], "b": [6]}
    alone = make_records([[0, 2]], arm="ted")  # learns from no videos
    found = differences.differences([r for r in records if r.arm == "diswm"] + alone, "ted")
    assert {one.group.source: one.end.tolist() for one in found} == {"a": [3], "b": [5]}


def test_what_cannot_be_compared_is_refused():
    line = refusal(differences.differences, made(), "dreamerv3")
    assert line.startswith("against takes diswm, dreamerv2, not 'dreamerv3'")
    line = refusal(lambda: differences.differences(made(), "dreamerv2", at=5))
    assert line.endswith("no evaluation up to 5 frames: give --at 10 or more, or leave it out")
    begun = made() + make_records([[0]], arm="ted", frames=[0])
    line = refusal(differences.differences, begun, "dreamerv2")
    assert line.endswith("no evaluation up to 0 frames: leave out the run that has just begun")
    line = refusal(lambda: differences.differences(begun, "dreamerv2", at=5000))
    assert line.endswith("up to 0 frames: leave out the run that has just begun")
    apart = make_records([[0, 1]]) + make_records([[0, 1]], arm="ted", task="dmc2gym_cheetah_run")
    line = refusal(differences.differences, apart, "ted")
    assert line.startswith("there is nothing to compare TED with: give runs of another arm")


def test_the_figure_has_each_seed_the_mean_and_its_interval():
    records = made()
    found = differences.differences(records, "DreamerV2")
    figure = differences.figure_of(records, found, "DreamerV2", "return")
    end, way = figure.axes
    line, dots, mean, _ = (list(artist.get_xdata()) for artist in end.lines)
    assert (dots, mean) == ([20, 30, 10], [20])
    assert line == pytest.approx([-4.84, 44.84], abs=0.01)
    assert way.lines[1].get_xdata() == pytest.approx([20 / 3, 20, -5 / 3])
    assert [label.get_text() for label in end.get_yticklabels()] == ["DisWM"]
    assert end.get_xlabel() == "return minus that of “DreamerV2”"
    assert figure._supxlabel.get_text().startswith("scale: cpu · n = 3 pairs of one seed")


def test_differences_are_drawn_and_told_by_a_command(tmp_path, capsys):
    write_csv(made(), tmp_path / "r.csv")
    words = [str(tmp_path / "r.csv"), "--against", "dreamerv2", "--output"]
    assert differences.main([*words, str(tmp_path / "d")]) == 0
    assert "+20 (−5 to +45)" in (tmp_path / "d.txt").read_text()
    assert {path.suffix for path in tmp_path.glob("d.*")} == {
        ".png", ".pdf", ".txt", ".csv", ".tex",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert [(row["seed"], row["end"]) for row in rows] == [
        ("0", "20"), ("1", "30"), ("2", "10"), ("mean", "20"),
    ]  # fmt: skip
    assert differences.main([*words, str(tmp_path / "alone.png")]) == 0
    assert [path.name for path in tmp_path.glob("alone*")] == ["alone.png"]
    assert "+20 (−5 to +45)" in capsys.readouterr().out
    assert differences.main([str(tmp_path / "r.csv"), "--against", "rad"]) == 2
    assert capsys.readouterr().err.startswith("differences: against takes")
