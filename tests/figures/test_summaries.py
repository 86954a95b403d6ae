"""Bars and aggregates: the numbers in them, what stays empty, and what is refused."""

import dataclasses

import numpy as np
import pytest

from figures import aggregates, bars
from figures.records import RANDOM, write_csv
from tests.figures.recorded import TASK, make_records
from tests.helpers.runs import refusal

PUSHER = "gymnasium_Pusher-v5"


def bars_of(records, value="return", at=None, panels=None):
    return bars.figure_of(records, value, at, panels or {}, "")


def test_a_bar_is_the_mean_at_the_last_frame_that_all_have_come_to():
    records = make_records([[0, 6, 90], [2, 10, 90]], frames=(0, 10, 20))
    records += make_records([[1, 4], [1, 2]], arm="ted")
    figure = bars_of(records)
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [8, 3]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["DisWM", "TED"]
    assert axes.get_xlabel() == "return at 10 frames"
    assert "scale: cpu · n = 2 seeds" in figure._supxlabel.get_text()
    [axes] = bars_of(records, at=5).axes
    assert [bar.get_width() for bar in axes.patches] == [1, 1]


def test_a_bar_without_an_evaluation_up_to_the_frame_is_refused():
    records = make_records([[4, 6]], frames=(2000, 3000))
    line = refusal(bars_of, records, "return", 10)
    assert line == (
        f"{TASK}, diswm has no evaluation up to 10 frames: give --at 2000 or more, or leave it out"
    )
    begun = make_records([[1]], arm="ted", frames=[0])
    line = refusal(bars_of, records + begun)
    assert line.endswith("up to 0 frames: leave out the run that has just begun")
    alone = {"panel": ["ted"]}
    [axes] = bars_of(records + begun, panels=alone).axes  # an arm that is not shown may lack it
    assert [bar.get_width() for bar in axes.patches] == [1]


def test_a_bar_of_one_seed_is_of_the_seed_that_has_come_to_the_frame():
    each = make_records([[8, 9], [3, 5]])
    # The first seed's evaluations are at 20 and 30 frames, the second one's at 0 and 10.
    records = [dataclasses.replace(r, frames=r.frames + 20 * (r.seed == 0)) for r in each]
    [axes] = bars_of(records, at=10).axes
    assert [bar.get_width() for bar in axes.patches] == [5]


def test_panels_ask_each_their_own_question():
    records = make_records([[0, 6]]) + make_records([[0, 3]], arm="eta_0.1", method="diswm")
    panels = {"η": ["eta_0.1", "eta_0.5"], "ablation": ["diswm"]}
    figure = bars_of(records, panels=panels)
    sweep, ablation = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["η", "ablation"]
    assert [label.get_text() for label in sweep.get_yticklabels()] == ["eta 0.1", "eta 0.5"]
    assert [bar.get_width() for bar in sweep.patches] == [3]
    assert "not run yet" in [text.get_text() for text in sweep.texts]
    assert [label.get_text() for label in ablation.get_yticklabels()] == ["DisWM"]
    line = refusal(lambda: bars_of(records, panels={"β": ["beta_1"]}))
    assert line.startswith("panel 'β': nobody has run beta_1")


def test_bars_are_drawn_by_a_command(tmp_path, capsys):
    table = tmp_path / "r.csv"
    write_csv(make_records([[0, 6], [1, 7]]), table)
    words = [str(table), "--panel", "all: diswm", "--output", str(tmp_path / "b.pdf")]
    assert bars.main(words) == 0
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert bars.main([str(table), "--panel", "diswm"]) == 2
    assert "--panel takes 'TITLE: ARM ARM …'" in capsys.readouterr().err


def test_scores_are_normalised_by_their_tasks_ranges():
    records = [
        *make_records([[0, 250], [0, 750]]),
        *make_records([[-100, -90]], task=PUSHER),
        *make_records([[-140.0]], task=PUSHER, arm=RANDOM, frames=[0]),
    ]
    table = aggregates.table_of(records)
    assert table.tasks == [TASK, PUSHER]
    walker, pusher = table.scores["diswm", "diswm"]
    np.testing.assert_allclose(walker, [0.25, 0.75])
    best = -44.4  # DreamerV2's last and DV2 finetune's near it, in Figure 4
    assert pusher[0] == pytest.approx((-90 + 140) / (best + 140), abs=0.03)
    given = aggregates.table_of(records, ranges={PUSHER: (-190, -90)})
    assert given.scores["diswm", "diswm"][1].tolist() == [1.0]


def test_a_range_that_nobody_knows_is_asked_for():
    hopper = make_records([[0, 1]], task="gymnasium_Hopper-v5")
    line = refusal(aggregates.table_of, hopper)
    assert "give it, --range gymnasium_Hopper-v5 LOW HIGH" in line
    wrong = {"gymnasium_Hopper-v5": (3, 3)}
    assert "is to go upwards" in refusal(lambda: aggregates.table_of(hopper, ranges=wrong))


def test_arms_are_compared_on_tasks_that_all_have_run():
    both = make_records([[0, 500]]) + make_records([[0, 400]], arm="ted")
    records = both + make_records([[0, 900]], task="dmc2gym_cheetah_run")
    table = aggregates.table_of(records)
    assert table.tasks == [TASK]
    assert table.left_out == ["dmc2gym_cheetah_run"]
    figure = aggregates.figure_of(table, records, "", "")
    caption = figure._supxlabel.get_text().replace("\n", " ")
    assert "n = 1 seeds on each of 1 tasks · without Cheetah Run" in caption
    apart = make_records([[0, 1]]) + make_records([[0, 1]], arm="ted", task="dmc2gym_cheetah_run")
    assert "no task on which all arms have runs" in refusal(aggregates.table_of, apart)
    assert refusal(aggregates.figure_of, table, records, "tedd", "").endswith(
        "(did you mean 'ted'?)"
    )


def test_an_arm_without_an_evaluation_up_to_the_frame_is_refused():
    records = make_records([[4, 6]], frames=(20, 30))
    line = refusal(aggregates.table_of, records, "return", 10)
    assert line.endswith("up to 10 frames: give --at 20 or more, or leave it out")


def test_aggregates_are_drawn_and_told_by_a_command(tmp_path, capsys):
    records = make_records([[0, 400], [0, 600], [0, 500]]) + make_records([[0, 100]], arm="ted")
    write_csv(records, tmp_path / "r.csv")
    output = tmp_path / "a.png"
    assert aggregates.main([str(tmp_path / "r.csv"), "--output", str(output)]) == 0
    path, ours, theirs = capsys.readouterr().out.splitlines()
    assert path == str(output)
    assert ours == "diswm: IQM 0.500 (0.400 to 0.600), mean 0.500 (0.400 to 0.600)"
    assert theirs == "ted: IQM 0.100 (0.100 to 0.100), mean 0.100 (0.100 to 0.100)"
    assert aggregates.main([str(tmp_path / "r.csv"), "--range", TASK, "0", "x"]) == 2
    assert "takes a task and two numbers, not 'x'" in capsys.readouterr().err
