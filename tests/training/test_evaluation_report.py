"""What an evaluation came to: statistics, table, JSON, video, contact sheet."""

import json

import av
import numpy as np
import pytest
from PIL import Image

import config
from logger.pictures import cut_grid, write_text
from training import evaluation_report
from training.evaluation_report import HEAD, Played, record, table, worlds_table
from training.evaluator import Evaluation
from training.returns import Outcome, outcome, summarize


@pytest.fixture
def played(tmp_path):
    """Four episodes that an environment with a goal might have given."""
    each = [(1.0, 5, True, 0.5), (2.0, 5, False, 1.5), (4.0, 6, True, 0.25), (9.0, 8, True, 0.75)]
    c = config.parse(["--evaluate", str(tmp_path / "seed_0"), "--eval_colors", "wood"])
    black = [{"image": np.zeros((length + 1, 64, 64, 3), np.uint8)} for _, length, _, _ in each]
    results = [Outcome(*one) for one in each]
    evaluation = Evaluation("wood", [11, 12, 13, 14], black, results, summarize(results))
    return Played(c, 40, 20, 7, False, evaluation, 1.5)


def of(played, episodes, outcomes, seeds):
    """The same with other episodes."""
    evaluation = Evaluation("wood", seeds, episodes, outcomes, summarize(outcomes))
    return played._replace(evaluation=evaluation)


def decoded(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_outcome_of_an_episode():
    nan = np.nan
    told = {"reward": np.array([0, 0.1, 0.2, 0.7], np.float32)}
    assert outcome(told) == (pytest.approx(1.0), 3, None, None)
    told["success"] = np.array([nan, 0, 1, 0], np.float32)
    told["distance"] = np.array([nan, 3, 2, 2.5], np.float32)
    assert outcome(told) == (pytest.approx(1.0), 3, True, 2.5)
    told["success"][2] = 0
    assert outcome(told).success is False


def test_record_has_success_and_distance(played):
    found = record(played)
    assert (found["return_mean"], found["length_mean"]) == (4.0, 6.0)
    assert found["return_std"] == pytest.approx(np.std([1, 2, 4, 9], ddof=1))
    assert (found["success_rate"], found["distance_mean"]) == (0.75, 0.75)
    wanted = {"seed": 12, "return": 2.0, "length": 5, "success": False, "distance": 1.5}
    assert found["episodes"][1] == wanted
    json.dumps(found, allow_nan=False)


def test_table_of_worlds_has_a_line_for_each(played):
    results = played.evaluation.outcomes[:1]
    evaluation = Evaluation("video_hard", [11], [], results, summarize(results))
    title, _, names, *lines = worlds_table([played, played._replace(evaluation=evaluation)]).split(
        "\n"
    )
    assert title == "dmc_walker_walk, diswm: frame 40, decision 20"
    assert names.split() == ["world", "return", "±", "95%", "decisions", "frames", "success"]
    first, second = (line.split() for line in lines)
    assert first[:2] + first[4:] == ["wood", "4.00", "6", "12", "75%"]
    assert second == ["video_hard", "1.00", "0.00", "5", "10", "100%"]  # one has no interval


def test_table_has_success_and_distance(played):
    lines = [line.split() for line in table(played).splitlines()]
    assert ["episode", "seed", "return", "length", "success", "distance"] in lines
    assert ["2", "12", "2.00", "5", "no", "1.5000"] in lines
    assert ["4", "14", "9.00", "8", "yes", "0.7500"] in lines
    assert "success 75%, 3 of 4" in table(played)
    single = of(played, [], played.evaluation.outcomes[:1], [11])
    assert "interval" not in table(single)
    assert record(single)["return_interval95"] is None
    assert record(single)["return_std"] == 0


def test_episodes_of_different_lengths_share_a_video(tmp_path, played):
    for number, episode in enumerate(played.evaluation.episodes):
        video = episode["image"]
        video[...] = np.linspace(0, 250, len(video)).astype(np.uint8)[:, None, None, None]
        assert video[-1].min() == 250, number
    paths = evaluation_report.write(played, tmp_path)
    video = decoded(paths[1])
    assert video.shape == (9, HEAD + 256, 4 * 256, 3)
    assert (video[0, :HEAD] < 100).any()  # something is written there
    video = video[:, HEAD:]
    assert video[-1].min() > 240  # those that ended earlier stay on their last frames
    assert video[5, :, :512].min() > 240 > video[5, :, 512:].max()


def test_foreign_file_in_the_way_stays(tmp_path, played):
    path = tmp_path / "000000040-wood-4.json"
    path.write_text("mine")
    written = evaluation_report.write(played, tmp_path)
    assert [path.name for path in written] == [
        f"000000040-wood-4-2.{suffix}" for suffix in ("json", "mp4", "png")
    ]
    assert path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_sheet_has_a_row_for_each_of_the_first_episodes(tmp_path, played):
    one = played.evaluation
    many = of(played, one.episodes * 6, one.outcomes * 6, list(range(24)))
    many = many._replace(config=many.config.replace(label="mine"))
    paths = evaluation_report.write(many, tmp_path)
    assert paths[2].name == "000000040-wood-24.png"
    sheet = np.asarray(Image.open(paths[2]))
    assert cut_grid(sheet, (64, 64)).shape[:2] == (20, 8)
    title = write_text("dmc_walker_walk, colours wood: diswm-mine at 40 frames")
    np.testing.assert_array_equal(sheet[: len(title), : title.shape[1]], title)
    assert decoded(paths[1]).shape[2] == 4 * 256
    assert len(json.loads(paths[0].read_text())["episodes"]) == 24


def test_episodes_lost_with_their_environment_are_neither_drawn_nor_missed(tmp_path, played):
    one = played.evaluation
    many = of(played, one.episodes * 4, one.outcomes * 6, list(range(24)))
    sheet = np.asarray(Image.open(evaluation_report.write(many, tmp_path)[2]))
    assert cut_grid(sheet, (64, 64)).shape[0] == 16
    unseen = of(played._replace(frames=50), [], one.outcomes, one.seeds)
    assert [path.suffix for path in evaluation_report.write(unseen, tmp_path)] == [".json"]


def test_the_video_of_an_episode_says_how_it_goes():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    episode = {"image": image, "reward": np.array([0, 1.5, 2], np.float32)}
    video = evaluation_report.draw_episode(episode, "test")
    np.testing.assert_array_equal(video[:, -48::3, ::3], image.repeat(3, -1))
    above = video[:, :-48]
    text = write_text("colours test, step 1\nreturn 1.5 of 3.5")
    np.testing.assert_array_equal(above[1], text[: above.shape[1], : 3 * 16])
    assert not np.array_equal(above[1], above[2])
