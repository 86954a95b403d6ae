"""Tables A to C: published numbers beside ours, measured costs, and three formats."""

import csv
import json

import torch

from figures import cost, tables
from figures.records import write_csv
from fileio import checkpoints
from tests.figures.recorded import ROWS, evaluation, make_records, make_run
from tests.helpers.runs import refusal

CHEETAH = {"task": "dmc2gym_cheetah_run", "scale": "paper"}


def cells(rows, *start):
    """The row that begins so."""
    [row] = [row for row in rows if row[: len(start)] == list(start)]
    return row[len(start) :]


def test_table_a_has_the_papers_returns_beside_ours():
    records = [
        *make_records([[0, 800], [0, 812]], source="dmc2gym_reacher_easy", **CHEETAH),
        *make_records([[0, 500]], arm="dreamerv2", **CHEETAH),
        *make_records([[0, 999]], source="dmc2gym_walker_walk", arm="diswm-other", **CHEETAH),
    ]
    rows = tables.rows_of(records, "return", "paper")
    ours = cells(rows, "Reacher Easy", "Cheetah Run", "DisWM")
    assert ours == ["817 ± 59", "806 ± 8", "2", "10"]
    assert cells(rows, "Reacher Easy", "Cheetah Run", "TD-MPC2") == ["510 ± 15", "–", "–", "–"]
    assert cells(rows, "Reacher Easy", "Cheetah Run", "DreamerV2") == ["–", "500", "1", "10"]
    assert cells(rows, "Walker Walk", "Humanoid Walk", "DisWM") == ["147 ± 85", "–", "–", "–"]
    assert len(rows) == 1 + 8 + 1  # what other videos taught is in no row


def test_a_smaller_scale_fills_no_cell_of_the_papers():
    small = make_records([[0, 800]], source="dmc2gym_reacher_easy", **{**CHEETAH, "scale": "cpu"})
    rows = tables.rows_of(small, "return", "paper")
    assert rows[0][4] == "ours, paper scale"
    assert {tuple(row[4:]) for row in rows[1:]} == {("–", "–", "–")}
    assert (
        cells(tables.rows_of(small, "return"), "Reacher Easy", "Cheetah Run", "DisWM")[1] == "800"
    )


def test_table_b_has_shares_of_success():
    drawer = {"task": "metaworld_drawer-open-v1", "source": "dmc2gym_finger_spin"}
    records = make_records([[0, 9]], success=0.5, scale="paper", **drawer)
    rows = tables.rows_of(records, "success", "paper")
    assert cells(rows, "Finger Spin", "Drawer Open", "DisWM") == ["0.70 ± 0.10", "0.50", "1", "10"]


def make_costly(folder, seed=0):
    """A run that tells what it cost, with its first stage."""
    first = make_run(
        folder / "p" / "pretrain" / "seed_0", [{"step": 5, "time": 60.0, "updates": 7}]
    )
    rows = [
        *ROWS,
        {"step": 50, "time": 90.0, "updates": 20, "seconds_evaluate": 3.0},
        {"step": 60, "time": 120.0, "updates": 30, "seconds_evaluate": 3.0},
    ]
    run = make_run(folder / "t" / "diswm" / "seed_0", rows, pretrain_checkpoint_path=first)
    names = {"world_model.encoder.w": 10, "behavior.slow_value.w": 5, "world_model.teacher.w": 3}
    weights = {name: torch.zeros(size) for name, size in (names | {"target.w": 4, "a": 2}).items()}
    checkpoints.save_newest(run, 60, {"learner": {"weights": weights}}, keep=1)
    (run / "provenance.jsonl").write_text(json.dumps({"device_name": "a CPU"}) + "\n")
    return run


def test_costs_are_measured_from_a_runs_own_files(tmp_path):
    run = make_costly(tmp_path)
    assert cost.measure(run) == cost.Cost(
        "dmc2gym_walker_walk", "diswm", 30, 2.0, 7, 1.0, 0.5, 12, "a CPU"
    )
    (run / "provenance.jsonl").write_text("torn\n")
    for path in run.glob("checkpoint*"):
        path.unlink()
    measured = cost.measure(run)
    assert (measured.parameters, measured.device) == (None, None)
    checkpoints.save_newest(run, 60, {"learner": 1}, keep=1)
    assert "another format" in refusal(cost.measure, run)


def test_episodes_in_other_worlds_count_as_well(tmp_path):
    worlds = [evaluation(50, f"eval_{name}", 1.0, 1.0, 4) for name in ("color_hard", "video_easy")]
    rows = [*ROWS, *worlds, {"step": 50, "train_episodes": 7, "seconds_evaluate": 10.0}]
    assert cost.measure(make_run(tmp_path, rows)).seconds_per_episode == 10 / (3 * 4 + 2 * 4)


def test_table_c_has_the_papers_costs_and_ours(tmp_path, capsys):
    make_costly(tmp_path)
    make_run(tmp_path / "c" / "dreamerv2" / "seed_0", steps=0, method_name="dreamerv2")
    assert tables.main(["C", str(tmp_path), "--output", str(tmp_path / "c.csv")]) == 0
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert cells(rows, "DisWM", "published") == [
        "200,000", "1311", "9.48", "5.8M", "–", "RTX 3090"
    ]  # fmt: skip
    assert cells(rows, "DisWM, Walker Walk", "ours") == [
        "7 + 30", "1.0 + 2.0", "0.50", "0.00M", "1", "a CPU"
    ]  # fmt: skip
    assert len(rows) == 1 + 6 + 1  # a run that only collected is no system
    assert "DisWM, Walker Walk  ours" in capsys.readouterr().out


def test_a_table_is_text_csv_and_latex(tmp_path):
    written = tables.draw([], tmp_path / "table_a", value="return")
    assert [path.name for path in written] == ["table_a.txt", "table_a.csv", "table_a.tex"]
    text, table, tex = (path.read_text() for path in written)
    assert text.splitlines()[2].startswith("Reacher Easy  Cheetah Run    DreamerV3")
    assert ["Reacher Easy", "Cheetah Run", "DisWM", "817 ± 59", "–", "–", "–"] in list(
        csv.reader(table.splitlines())
    )
    assert r"Reacher Easy & Cheetah Run & DisWM & 817 $\pm$ 59 & -- & -- & -- \\" in tex
    assert tex.startswith("\\begin{tabular}{lllllll}\n\\toprule\n")


def test_no_such_table_is_refused(tmp_path, capsys):
    assert refusal(tables.rows_of, [], "D") == "value takes return, success, cost, not 'D'"
    mixed = make_records([[1, 2]]) + make_records([[1, 2]], arm="ted", scale="paper")
    assert "of the scales cpu, paper: name one, --scale" in refusal(tables.rows_of, mixed, "return")
    write_csv(make_records([[1, 2]]), tmp_path / "r.csv")
    assert tables.main(["B", str(tmp_path / "none")]) == 2
    assert "is not there" in capsys.readouterr().err
