"""Figures from run folders that the tests write: the numbers in them, and the files they become."""

import csv
import json
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from scipy import stats

from figures import environments, learning_curve, overview
from logger.pictures import grid

CONFIG = (
    "task: dmc2gym_walker_walk\nmethod_name: diswm\nseed: 3\nsteps: 100\ncolor_distractor: true\n"
)


@pytest.fixture
def run(tmp_path):
    """A run's folder with two evaluations."""
    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)

    def row(step, kind, mean, std, n):
        values = {"return": mean, "return_std": std, "episodes": n}
        return {"step": step, **{f"{kind}_{name}": value for name, value in values.items()}}

    rows = [
        row(0, "random", 20.0, 10.0, 4),
        row(0, "eval", 30.0, 5.0, 4),
        {"step": 10, "image_loss": 3.0},
        row(50, "eval", 80.0, 8.0, 4),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_a_curve_is_what_was_logged(run):
    curve = learning_curve.read_run(run)
    assert curve["frames"].tolist() == [0, 50]
    assert curve["mean"].tolist() == [30.0, 80.0]
    assert curve["random"] == {"mean": 20.0, "std": 10.0, "episodes": 4}


def test_a_curve_of_success_is_what_was_logged(run, tmp_path, capsys):
    path = run / "metrics.jsonl"
    assert learning_curve.main([str(run), "--value", "success", "--output", "x.png"]) == 2
    assert "logs no success" in capsys.readouterr().err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for kind in ("eval", "random"):
            if f"{kind}_return" in row:
                row[f"{kind}_success"] = 0.75 if row["step"] else 0.25
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = learning_curve.read_run(run, "success")
    assert curve["mean"].tolist() == [0.25, 0.75]
    each = np.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(curve["std"], each.std(ddof=1))
    assert curve["random"]["mean"] == 0.25
    out = ["--value", "success", "--output", str(tmp_path / "s.png")]
    assert learning_curve.main([str(run), *out]) == 0
    [axes] = learning_curve.draw([curve]).axes
    assert axes.get_ylabel() == "success rate in evaluation"
    assert axes.get_ylim() == (-0.03, 1.03)  # a line at 0 or at 1 is seen


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(5, 2, 10)
    low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
    half = learning_curve.interval(values.std(ddof=1), 10)
    assert half == pytest.approx((high - low) / 2)
    assert learning_curve.interval(0.0, 1) == 0.0


def test_the_curve_becomes_a_picture_and_a_table(run, tmp_path):
    png, table = tmp_path / "out" / "curve.png", tmp_path / "curve.csv"
    assert learning_curve.main([str(run), "--output", str(png), "--csv", str(table)]) == 0
    assert iio.imread(png).shape[0] > 100
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(r["method"], r["frames"], r["mean"]) for r in rows] == [
        ("random", "0", "20.0"),
        ("diswm", "0", "30.0"),
        ("diswm", "50", "80.0"),
    ]


def test_the_outcome_is_told_beside_the_random_policys(run, tmp_path, capsys):
    assert learning_curve.main([str(run), "--output", str(tmp_path / "c.png")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    # t(0.975, 3) is 3.182: 3.182 · 8 / √4, and 3.182 · 10 / √4
    assert line.endswith(
        "diswm, seed 3: evaluation return 80.0 ± 12.7 after 50 frames; "
        "a random policy 20.0 ± 15.9 (95% of 4 episodes)"
    )


def test_lines_of_the_curve(run):
    [axes] = learning_curve.draw([learning_curve.read_run(run)]).axes
    line = axes.get_lines()[0]
    np.testing.assert_array_equal(line.get_xydata(), [[0, 30], [50, 80]])
    assert [li.get_xdata()[0] for li in axes.get_lines()][-1] == 50  # where the colours switch
    (run / "config.yaml").write_text(CONFIG + "switch_at: 70\n")
    [axes] = learning_curve.draw([learning_curve.read_run(run)]).axes
    assert [li.get_xdata()[0] for li in axes.get_lines()][-1] == 70


def test_a_curve_says_which_axis_it_has(run, tmp_path, capsys):
    [axes] = learning_curve.draw([learning_curve.read_run(run)]).axes
    assert axes.get_xlabel() == "environment frames (control steps)"
    [axes] = learning_curve.draw([learning_curve.read_run(run)], axis="published").axes
    assert "the paper" in axes.get_xlabel()
    lines = axes.get_lines()
    np.testing.assert_array_equal(lines[0].get_xydata(), [[0, 30], [25, 80]])
    assert lines[-1].get_xdata()[0] == 25  # where the colours switch
    (run / "config.yaml").write_text(CONFIG.replace("dmc2gym_walker_walk", "gymnasium_Pusher-v5"))
    words = [str(run), "--axis", "published", "--output", str(tmp_path / "no.png")]
    assert learning_curve.main(words) == 2
    said = "--axis published is for dm_control's tasks: leave it out for gymnasium_Pusher-v5\n"
    assert capsys.readouterr().err.endswith(said)


def test_variants_have_their_labels_in_the_legend_and_the_table(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "config.yaml").write_text(CONFIG + "label: no_switch\n")
    runs = [learning_curve.read_run(folder) for folder in (run, other)]
    [axes] = learning_curve.draw(runs).axes
    _, legend = axes.get_legend_handles_labels()
    assert legend == ["diswm, seed 3", "diswm-no_switch, seed 3", "random policy"]
    learning_curve.write_csv(runs, tmp_path / "curve.csv")
    rows = csv.DictReader((tmp_path / "curve.csv").read_text().splitlines())
    assert {row["method"] for row in rows} == {"random", "diswm", "diswm-no_switch"}


def test_every_value_is_in_the_picture_below_zero_too(run):
    curve = learning_curve.read_run(run)
    [axes] = learning_curve.draw([curve]).axes
    assert axes.get_ylim()[0] == 0
    below = {**curve, "mean": curve["mean"] - 500, "random": {**curve["random"], "mean": -600.0}}
    [axes] = learning_curve.draw([below]).axes
    low, high = axes.get_ylim()
    assert low < -600 < below["mean"].max() < high < 0


def test_a_folder_of_runs_is_refused_with_the_runs_in_it(run, capsys):
    assert learning_curve.main([str(run.parent)]) == 2
    assert f"it has no config.yaml: did you mean {run}?\n" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl"])
def test_no_run_is_refused_in_one_line(run, tmp_path, capsys, missing):
    (run / missing).unlink()
    assert learning_curve.main([str(run), "--output", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"task: [1\n", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"- task\n", "not a run's configuration"),
        (b"task: x\n", "not a run's configuration"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_a_damaged_configuration_is_refused_in_one_line(run, tmp_path, capsys, content, said):
    (run / "config.yaml").write_bytes(content)
    assert learning_curve.main([str(run), "--output", str(tmp_path / "x.png")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert str(run / "config.yaml") in line


def test_a_damaged_log_is_refused_in_one_line(run, capsys):
    (run / "metrics.jsonl").write_text('{"step": 1, "eval_return": 2.0}\nhello\n')
    assert learning_curve.main([str(run)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert "metrics.jsonl, line 2: no line of a log; take it out" in line


def test_a_run_without_evaluation_is_refused(run, capsys):
    (run / "metrics.jsonl").write_text('{"step": 1, "image_loss": 2.0}\n')
    assert learning_curve.main([str(run)]) == 2
    assert "not been evaluated" in capsys.readouterr().err


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


def test_the_overview_becomes_a_picture(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
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


def test_runs_of_several_tasks_are_told_apart(run):
    one = learning_curve.read_run(run)
    other = {**one, "config": {**one["config"], "task": "gymnasium_Hopper-v5"}}
    [axes] = learning_curve.draw([one, other]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["dmc2gym_walker_walk, diswm, seed 3", "gymnasium_Hopper-v5, diswm, seed 3"]
    assert axes.get_title() == "dmc2gym_walker_walk, gymnasium_Hopper-v5"
    [axes] = learning_curve.draw([other]).axes
    assert "new look" not in [text.get_text() for text in axes.texts]
    [axes] = learning_curve.draw([one]).axes
    assert "new look" in [text.get_text() for text in axes.texts]
