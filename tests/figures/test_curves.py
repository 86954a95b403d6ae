"""Learning curves: the lines of a panel, what stands beside them, and the command that draws."""

import dataclasses
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from scipy import stats

from figures import curves, learning_curve, reference
from figures.curves import Settings, figure_of
from figures.groups import describe
from figures.records import RANDOM, from_run, read_csv, write_csv
from tests.figures.recorded import ROWS, TASK, evaluation, make_records, make_run
from tests.helpers.runs import refusal

PUSHER = "gymnasium_Pusher-v5"


@pytest.fixture
def run(tmp_path):
    """A run's folder with two evaluations."""
    return make_run(tmp_path / "run")


def panel_of(records, **settings):
    """The first panel."""
    return figure_of(records, Settings(**settings)).axes[0]


def lines_of(axes):
    """The lines that are neither across nor along the whole panel."""
    return [
        line
        for line in axes.get_lines()
        if len(line.get_xdata()) > 2 or line.get_marker() != "None"
    ]


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_line_is_the_mean_over_seeds():
    records = make_records([[0, 6, 1], [2, 10, 2], [4, 20, 6]], frames=(0, 10, 20))
    figure = figure_of(records)
    [line] = lines_of(figure.axes[0])
    np.testing.assert_allclose(line.get_xydata(), [[0, 2], [10, 12], [20, 3]])
    assert labels_of(figure) == ["DisWM"]
    caption = figure.legends[0].get_title().get_text()
    assert caption == "scale: cpu · n = 3 seeds · bands: bootstrap 95% interval over seeds"


def test_seeds_have_thin_lines_on_wish():
    records = make_records([[0, 6, 1], [2, 10, 2]], frames=(0, 10, 20))
    lines = panel_of(records, seeds=True).get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [[1, 8, 1.5], [0, 6, 1], [2, 10, 2]]
    assert lines[1].get_linewidth() < lines[0].get_linewidth()


def test_a_line_ends_with_the_seed_that_has_come_least_far():
    long = make_records([[0, 6, 1]], frames=(0, 10, 20))
    short = [dataclasses.replace(r, seed=1) for r in make_records([[2, 10]], frames=(0, 10))]
    [line] = lines_of(panel_of(long + short))
    np.testing.assert_allclose(line.get_xydata(), [[0, 1], [10, 8]])
    late = [dataclasses.replace(r, frames=r.frames + 100, seed=1) for r in long]
    assert "have no frames in common" in refusal(figure_of, long + late)


def test_seeds_evaluated_elsewhere_are_interpolated():
    one = make_records([[0, 10, 20]], frames=(0, 10, 20))
    other = [dataclasses.replace(r, seed=1) for r in make_records([[4, 8]], frames=(0, 20))]
    [line] = lines_of(panel_of(one + other))
    np.testing.assert_allclose(line.get_xydata(), [[0, 2], [10, 8], [20, 14]])


def test_a_single_seed_has_the_interval_of_its_episodes(run):
    records = from_run(run)
    band = panel_of(records).collections[0].get_paths()[0].get_extents()
    half = stats.t.ppf(0.975, 3) * 8.0 / 2  # of the second evaluation: 80 ± 8 over 4 episodes
    assert band.ymax == pytest.approx(80 + half)
    band = panel_of(records, band="std").collections[0].get_paths()[0].get_extents()
    assert band.ymax == pytest.approx(88.0)


@pytest.mark.parametrize(
    ("seeds", "band", "told"),
    [
        ((1,), "ci", "n = 1 seed · bands: 95% interval over an evaluation's episodes"),
        ((2, 2), "std", "n = 2 seeds · bands: standard deviation over seeds"),
        ((2, 1), "ci", "n = 1 to 2 seeds\n"
         "bands: bootstrap 95% interval over seeds, of a single one over its episodes"),
        ((2, 1), "std", "n = 1 to 2 seeds\n"
         "bands: standard deviation over seeds, of a single one over its episodes"),
    ],
)  # fmt: skip
def test_the_legend_says_over_what_bands_are(seeds, band, told):
    arms = zip(("diswm", "ted"), seeds, strict=False)
    records = [r for arm, n in arms for r in make_records([[1, 2]] * n, arm=arm)]
    assert describe(records, "return", band) == f"scale: cpu · {told}"


def test_each_task_has_a_panel_and_each_label_one_entry():
    records = [
        *make_records([[1, 2]], source="dmc2gym_finger_spin"),
        *make_records([[1, 2]], arm="diswm-no_switch"),
        *make_records([[3, 4]], task=PUSHER, source="dmc2gym_reacher_easy"),
        *make_records([[3, 4]], task=PUSHER, arm=RANDOM, frames=(0, 0)),
    ]
    figure = figure_of(records)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Finger Spin → Walker Walk", "Reacher Easy → Pusher"]
    assert labels_of(figure) == ["DisWM", "DisWM, no switch", "random policy"]


def test_a_method_looks_alike_in_all_figures():
    alone = lines_of(panel_of(make_records([[1, 2]], arm="ted")))[0]
    among = make_records([[3, 4]], arm="curl") + make_records([[1, 2]], arm="ted")
    beside = lines_of(panel_of(among))
    same = [line for line in beside if line.get_color() == alone.get_color()]
    assert [line.get_marker() for line in same] == [alone.get_marker()]


def test_sources_are_told_apart():
    records = [
        *make_records([[1, 2]], source="dmc2gym_finger_spin"),
        *make_records([[3, 4]], source="dmc2gym_hopper_stand"),
        *make_records([[5, 6]], arm="dreamerv2"),
    ]
    videos = ["videos of Finger Spin", "videos of Hopper Stand"]
    assert labels_of(figure_of(records, Settings(by="source"))) == ["DreamerV2", *videos]
    assert labels_of(figure_of(records)) == ["DreamerV2", *(f"DisWM, {v}" for v in videos)]


def test_the_random_policy_is_a_line_across():
    records = make_records([[1, 2]]) + [
        dataclasses.replace(r, frames=0) for r in make_records([[4], [8]], arm=RANDOM, frames=[0])
    ]
    across = [line for line in panel_of(records).get_lines() if line.get_linestyle() == "-."]
    assert [line.get_ydata()[0] for line in across] == [6.0]


def test_the_published_curve_is_dashed_beside_ours():
    records = make_records([[1, 2]], frames=(0, 2_000_000), source="dmc2gym_cheetah_run")
    ours, theirs = lines_of(panel_of(records, published="same"))
    given = [row for row in reference.rows("figure4.csv") if row["method"] == "diswm"]
    given = [row for row in given if row["transfer"] == "cheetah_run>walker_walk"]
    assert theirs.get_color() == ours.get_color()
    np.testing.assert_allclose(theirs.get_ydata(), [float(row["return"]) for row in given])
    np.testing.assert_allclose(theirs.get_xdata(), [2 * int(row["env_steps"]) for row in given])
    _, theirs = lines_of(panel_of(records, published="same", axis="published"))
    np.testing.assert_allclose(theirs.get_xdata(), [int(row["env_steps"]) for row in given])
    all_ = figure_of(records, Settings(published="all"))
    assert len(lines_of(all_.axes[0])) == 7
    assert labels_of(all_)[-1] == "published (Figure 4)"
    assert set(labels_of(all_)) >= {"CURL", "TED", "APV", "DV2 finetune", "DreamerV2"}
    # Taught by other videos, or on a task of which the paper has none, nothing is beside it.
    other = make_records([[1, 2]], source="dmc2gym_finger_spin")
    assert len(lines_of(panel_of(other, published="same"))) == 1


def test_a_method_may_be_called_as_in_the_legend():
    records = make_records([[1, 2]], arm="DisWM", method="diswm", source="dmc2gym_cheetah_run")
    figure = figure_of(records, Settings(published="same"))
    assert labels_of(figure) == ["DisWM", "published (Figure 4)"]


def test_a_variant_is_not_compared_with_the_method_as_published():
    records = make_records([[1, 2]], arm="diswm-no_switch", source="dmc2gym_cheetah_run")
    assert len(lines_of(panel_of(records, published="same"))) == 1


def test_published_ranges_are_bands():
    records = make_records([[1, 2]], frames=(0, 1_000_000))
    figure = figure_of(records, Settings(bands="clean"))
    assert "DreamerV3, published, clean at 1M" in labels_of(figure)
    [band] = [b for b in reference.bands("clean", TASK, 1e6) if "CURL" in b.label]
    assert (band.low, band.high) == (902 - 43, 902 + 43)  # of two sources, 892 and 902 ± 43
    assert "did you mean 'clean'" in refusal(reference.bands, "claen", TASK, 1e6)


def test_the_axis_may_end_before_the_lines():
    frames, source = (0, 40_000, 80_000), "dmc2gym_cheetah_run"
    records = make_records([[1, 2, 9], [1, 4, 9]], frames=frames, source=source)
    ours, *_, theirs = lines_of(panel_of(records, published="same", until=60_000, seeds=True))
    assert ours.get_xdata().tolist() == [0, 40_000]
    assert theirs.get_xdata().tolist() == [20_000, 40_000, 60_000]


def test_what_nobody_has_run_stays_empty():
    figure = figure_of(make_records([[1, 2]]), Settings(tasks=[PUSHER, TASK]))
    empty, drawn = figure.axes
    assert [text.get_text() for text in empty.texts] == ["not run yet"]
    assert not empty.get_lines()
    assert len(drawn.get_lines()) == 1


def test_scales_are_not_mixed_in_a_panel():
    records = make_records([[1, 2]]) + make_records([[3, 4]], arm="ted", scale="paper")
    line = refusal(figure_of, records)
    assert line.startswith(f"{TASK} has runs of the scales cpu, paper")


def test_a_seed_is_not_counted_twice():
    records = make_records([[1, 2]]) + make_records([[1, 3]])
    assert "two runs are dmc2gym_walker_walk, diswm, seed 0" in refusal(figure_of, records)
    same = make_records([[1, 2]]) * 2
    assert figure_of(same).legends[0].get_title().get_text().startswith("scale: cpu · n = 1 seed ")


@pytest.mark.parametrize("name", ["value", "axis", "band", "by", "published"])
def test_settings_are_checked(name):
    assert refusal(lambda: Settings(**{name: "x"})).startswith(f"{name} takes ")


def test_the_axis_says_what_it_counts(run, tmp_path, capsys):
    records = from_run(run)
    axes = panel_of(records, switch={TASK: 50})
    assert axes.get_xlabel() == "frames (control steps)"
    assert [line.get_xdata()[0] for line in axes.get_lines()][-1] == 50
    axes = panel_of(records, axis="published", switch={TASK: 50})
    assert "the paper" in axes.get_xlabel()
    np.testing.assert_array_equal(axes.get_lines()[0].get_xydata(), [[0, 30], [25, 80]])
    assert [line.get_xdata()[0] for line in axes.get_lines()][-1] == 25
    make_run(run, task=PUSHER)
    words = [str(run), "--axis", "published", "--output", str(tmp_path / "no.png")]
    assert learning_curve.main(words) == 2
    said = f"--axis published is for dm_control's tasks: leave it out for {PUSHER}\n"
    assert capsys.readouterr().err.endswith(said)
    long = make_records([[1, 2]], frames=(0, 2_000_000))
    axes = panel_of(long)
    assert axes.get_xlabel().startswith("million ")
    assert axes.xaxis.get_major_formatter()(500_000, 0) == "0.5"


def test_every_value_is_in_the_picture_below_zero_too():
    assert panel_of(make_records([[1, 2]])).get_ylim()[0] == 0
    low, high = panel_of(make_records([[-500, -420]])).get_ylim()
    assert low < -500 < -420 < high < 0


def test_the_switch_is_marked_where_the_run_has_it(run, tmp_path):
    assert learning_curve.switches([run]) == {TASK: 50}
    make_run(run, switch_at=70)
    assert learning_curve.switches([run.parent]) == {TASK: 70}
    make_run(run, color_distractor="false")
    assert learning_curve.switches([run]) == {}
    texts = panel_of(make_records([[1, 2]]), switch={TASK: 5}).texts
    assert [text.get_text() for text in texts] == ["new look"]


@pytest.mark.parametrize("switch_at", ["null", 9])
def test_a_collection_has_no_switch(tmp_path, switch_at):
    make_run(tmp_path / "diswm" / "seed_0", switch_at=70)
    make_run(tmp_path / "random" / "seed_0", steps=0, switch_at=switch_at)
    assert learning_curve.switches([tmp_path]) == {TASK: 70}


def test_runs_become_a_picture_and_a_table(run, tmp_path, capsys):
    png, table = tmp_path / "out" / "curve.png", tmp_path / "curve.csv"
    assert learning_curve.main([str(run), "--output", str(png), "--csv", str(table)]) == 0
    assert iio.imread(png).shape[0] > 100
    # t(0.975, 3) is 3.182: 3.182 · 8 / √4, and 3.182 · 10 / √4
    assert capsys.readouterr().out.splitlines() == [
        str(png),
        "dmc2gym_walker_walk, diswm, seed 3: evaluation return 80.0 ± 12.7 after 50 frames; "
        "a random policy 20.0 ± 15.9 (95% of 4 episodes)",
    ]
    assert read_csv(table) == from_run(run)


def test_a_name_without_an_ending_gets_both_files(tmp_path):
    paths = curves.draw(make_records([[1, 2]]), tmp_path / "figure4")
    assert [path.name for path in paths] == ["figure4.png", "figure4.pdf"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    again = paths[1].read_bytes()
    [path] = curves.draw(make_records([[1, 2]]), tmp_path / "figure4.pdf")
    assert path.read_bytes() == again


def test_several_seeds_are_told_in_a_line(tmp_path, capsys):
    write_csv(make_records([[0, 6], [2, 6]]), tmp_path / "r.csv")
    assert learning_curve.main([str(tmp_path / "r.csv"), "--output", str(tmp_path / "c.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "dmc2gym_walker_walk, diswm, 2 seeds: evaluation return 6.0 after 10 frames "
        "(95% bootstrap interval 6.0 to 6.0)"
    )


def test_success_is_drawn_where_it_is_told(run, tmp_path, capsys):
    out = ["--value", "success", "--output", str(tmp_path / "x.png")]
    assert learning_curve.main([str(run), *out]) == 2
    assert "logs no success" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
    shares = {0: 0.25, 50: 0.75}
    rows = [{**r, "eval_success": shares[r["step"]]} if "eval_return" in r else r for r in ROWS]
    make_run(run, rows)
    assert learning_curve.main([str(run), *out]) == 0
    each = np.array([0.0, 1.0, 1.0, 1.0])
    half = stats.t.ppf(0.975, 3) * each.std(ddof=1) / 2
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"success rate in evaluation 0.75 ± {half:.2f} after 50 frames" in said
    axes = panel_of(from_run(run), value="success")
    assert axes.get_ylim() == (-0.03, 1.03)
    assert axes.get_lines()[0].get_ydata().tolist() == [0.25, 0.75]


def test_two_folders_are_two_lines_by_their_names(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "other")
    make_run(tmp_path / "other", [evaluation(0, "eval", 5.0, 1.0, 4)])
    words = [str(run), str(tmp_path / "other"), "--output", str(tmp_path / "c.png")]
    assert learning_curve.main(words) == 2
    assert "tell them apart as NAME=FOLDER" in capsys.readouterr().err
    words[:2] = [f"old={run}", f"new={tmp_path / 'other'}"]
    assert learning_curve.main(words) == 0
    assert "old, seed 3" in capsys.readouterr().out
