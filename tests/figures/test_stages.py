"""Traversals and t-SNE of what a run's stages have learned, from tiny checkpoints."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from agents import reports
from agents.pretrained import save_predictor
from agents.reports import OFFSETS
from data.scaling import fit
from figures import stages, traversals, tsne
from fileio import checkpoints
from logger.pictures import grid
from replay.episodes import save_episode
from tests.figures.recorded import make_run
from tests.helpers.models import make_agent, make_config, make_predictor
from tests.helpers.runs import refusal

Z = 4
SEEN = (64, 64, 3)


def make_episodes(folder, count=4, length=8, shade=0):
    """Episodes of a colour with noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(shade)
    for index in range(count):
        image = rng.integers(shade, shade + 100, (length, 64, 64, 3)).astype(np.uint8)
        save_episode(folder / f"{index}.npz", {"image": image})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a pretraining and of the finetuning that it taught, with episodes each."""
    root = tmp_path_factory.mktemp("stages")
    videos = make_episodes(root / "videos", shade=0)
    first, second = root / "t" / "pretrain" / "seed_0", root / "t" / "diswm" / "seed_0"
    save_predictor(first, make_predictor(2))
    given = make_config(beta_vae_pretrain=True, pretrain_datasets_path=str(videos))
    given.save(first / "config.yaml")
    agent = make_agent(seed=1, teacher=first)
    second.mkdir(parents=True)
    agent.config.save(second / "config.yaml")
    checkpoints.save_newest(second, 60, {"learner": agent.save_state()}, keep=1)
    make_episodes(second / "train_eps", shade=100)
    return first, second


def test_a_finetuning_has_its_teacher_and_its_own_model(runs):
    first, second = runs
    found = stages.load_stages(second)
    teacher, own = make_predictor(2), make_agent(seed=1, teacher=first).world_model
    for model, expected in ((found.pretrained, teacher), (found.finetuned, own)):
        for part in ("encoder", "rssm", "decoder"):
            given, state = (getattr(m, part).state_dict() for m in (model, expected))
            assert given.keys() == state.keys()
            assert all(torch.equal(given[name], state[name]) for name in state), part
    assert list(found.named) == ["pretrained", "finetuned"]
    assert list(stages.load_stages(first).named) == ["pretrained"]
    assert stages.videos_of(found) == stages.videos_of(stages.load_stages(first))


def test_the_latents_that_move_the_picture_most_come_first(runs):
    _, second = runs
    teacher, student = traversals.sheets_of(second)
    assert (teacher.title, student.title) == ("teacher, its own videos", "student, Walker Walk")
    frame = torch.from_numpy(stages.read_clips(second / "train_eps", SEEN, 1, 1))
    picture = reports.traversal(stages.load_stages(second).finetuned, {"image": frame})
    row = picture[64:128].reshape(64, 7, 64, 3).swapaxes(0, 1)  # z1
    np.testing.assert_allclose(student.tiles[1], row * 255, atol=1.01)
    moved = [np.mean([np.std(student.tiles[i].astype(float), axis=0)]) for i in range(Z)]
    np.testing.assert_allclose(student.moved, moved)
    figure = traversals.figure_of([student], (), 3, {"z0": "colour"}, "")
    order = sorted(range(Z), key=lambda i: -moved[i])[:3]
    names = [label.get_text().partition("\n")[0] for label in figure.axes[0].get_yticklabels()]
    assert names == ["colour" if i == 0 else f"z{i}" for i in order]
    figure = traversals.figure_of([teacher, student], ["z2"], 3, {}, "")
    for axes in figure.axes:
        assert [t.get_text().partition("\n")[0] for t in axes.get_yticklabels()] == ["z2"]
    line = refusal(traversals.figure_of, [student], ["z9"], 3, {}, "")
    assert line == "there is no latent z9 in student, Walker Walk: the last is z3"


def test_traversals_are_drawn_by_a_command(runs, tmp_path, capsys):
    first, second = runs
    words = [str(first), "--output", str(tmp_path / "t"), "--name", "z1=arm", "--rows", "2"]
    assert traversals.main(words) == 0
    assert (tmp_path / "t.pdf").is_file()
    assert iio.imread(tmp_path / "t.png").shape[1] > 500
    assert traversals.main([str(first), "--name", "arm"]) == 2
    assert traversals.main([str(first), "--rows", "0"]) == 2
    assert traversals.main([str(second), "--episodes", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[-1].endswith("holds no episodes (*.npz): name a folder that does")


def test_a_run_without_a_checkpoint_is_drawn_from_its_picture(tmp_path):
    run = make_run(tmp_path / "run")
    assert "has neither a checkpoint nor a traversal" in refusal(traversals.sheets_of, run)
    tiles = np.zeros((3, len(OFFSETS), 64, 64, 3), np.uint8)
    tiles[1] += (np.arange(7, dtype=np.uint8) * 20)[:, None, None, None]
    for name, picture in (
        ("pictures/beta_vae_traverse.png", grid(tiles, ["z5", "z1", "z0"])),
        ("traverse.png", tiles.swapaxes(1, 2).reshape(3 * 64, 7 * 64, 3)),
    ):
        (run / name).parent.mkdir(exist_ok=True)
        iio.imwrite(run / name, picture)
        [sheet] = traversals.sheets_of(run)
        np.testing.assert_array_equal(sheet.tiles, tiles)
        assert sheet.names == ["row 1", "row 2", "row 3"]
        assert sheet.moved.argmax() == 1


def test_clips_are_windows_of_episodes(runs):
    _, second = runs
    clips = stages.read_clips(second / "train_eps", SEEN, 6, 5)
    assert clips.shape == (6, 5, 64, 64, 3)
    files = sorted((second / "train_eps").glob("*.npz"))
    images = [np.load(path)["image"] for path in files]
    windows = {image[t : t + 5].tobytes(): i for i, image in enumerate(images) for t in range(4)}
    assert {windows[clip.tobytes()] for clip in clips[:4]} == {0, 1, 2, 3}  # each episode once
    assert all(clip.tobytes() in windows for clip in clips)
    line = refusal(stages.read_clips, second / "train_eps", SEEN, 1, 9)
    assert line.endswith("holds no episode of 9 frames: take shorter clips")


def test_frames_of_another_size_are_seen_as_training_sees_them(runs, tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(84, 84, 3), (48, 80, 1), SEEN]
    images = [rng.integers(0, 256, (2, *shape)).astype(np.uint8) for shape in shapes]
    for index, image in enumerate(images):
        save_episode(tmp_path / f"{index}.npz", {"image": image})
    clips = stages.read_clips(tmp_path, SEEN, 3, 2)
    expected = {fit(image, SEEN).tobytes() for image in images}
    assert {clip.tobytes() for clip in clips} == expected
    first, second = runs
    assert stages.load_stages(first).image_shape == SEEN
    words = [str(second), "--episodes", str(tmp_path), "--output", str(tmp_path / "t.png")]
    assert traversals.main(words) == 0
    words = [str(second), "--offline", str(tmp_path), "--clips", "8", "--length", "2"]
    assert tsne.main([*words, "--output", str(tmp_path / "j.png")]) == 0


def test_frames_of_other_channels_are_refused(tmp_path):
    save_episode(tmp_path / "0.npz", {"image": np.zeros((2, 64, 64, 4), np.uint8)})
    line = refusal(stages.read_clips, tmp_path, SEEN, 1, 1)
    assert line.endswith("has images of 4 channels, and the run sees 3: name other episodes")


def test_features_are_the_latents_mean_over_a_clip(runs):
    model = make_predictor()
    clips = stages.read_clips(runs[1] / "train_eps", SEEN, 2, 3)
    with torch.no_grad():
        each = [
            [model.encode(torch.from_numpy(f)[None, None]).mean[0, 0] for f in c] for c in clips
        ]
    expected = torch.stack([torch.stack(c).mean(0) for c in each]).numpy()
    np.testing.assert_allclose(stages.features_of(model, clips), expected, atol=1e-5)


def test_both_encoders_see_both_sets_of_clips(runs, tmp_path, capsys):
    _, second = runs
    output = tmp_path / "j.png"
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsne, "features_of", lambda model, c: seen.append(c) or _features(c))
        embeddings = tsne.embed(second, None, 12, 3, seed=0)
    assert [e.title for e in embeddings] == ["pretrained encoder", "finetuned encoder"]
    offline, online = seen[:2]
    assert offline.max() < 100 <= online.min()  # the shades of either set
    assert [clips.tobytes() for clips in seen[2:]] == [offline.tobytes(), online.tobytes()]
    for embedding in embeddings:
        assert embedding.points.shape == (12, 2)
        assert embedding.apart > 0.5  # the sets are far apart in what was made of them
    figure = tsne.figure_of(embeddings, 6, 3, "")
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal(lines[0].get_xydata(), embeddings[0].points[:6])
    np.testing.assert_array_equal(lines[1].get_xydata(), embeddings[0].points[6:])
    words = ["--clips", "8", "--length", "2", "--output", str(output)]
    assert tsne.main([str(second), *words]) == 0
    assert iio.imread(output).shape[0] > 100


def _features(clips):
    """Brightness, and a little noise: sets of two shades are far apart in it."""
    rng = np.random.default_rng(0)
    return clips.mean((1, 2, 3, 4))[:, None] + rng.normal(size=(len(clips), 3))


def test_what_has_no_encoders_is_refused_in_one_line(runs, tmp_path):
    first, second = runs
    line = refusal(tsne.embed, first, None, 8, 2, 0)
    assert line.endswith("has no teacher: name a finetuning with --distillation True")
    plain = tmp_path / "plain"
    plain.mkdir()
    make_config(beta_vae=False).save(plain / "config.yaml")
    assert "has no β-VAE" in refusal(stages.load_stages, plain)
    make_config().save(plain / "config.yaml")
    checkpoints.save_newest(plain, 1, {"learner": {"weights": {}}}, keep=1)
    assert "has no world model in its checkpoint" in refusal(stages.load_stages, plain)
    assert "name one of 0" in refusal(lambda: tsne.draw([], tmp_path / "x", runs=[]))
    moved = tmp_path / "moved"
    moved.mkdir()
    config = make_agent(seed=1, teacher=first).config.replace(pretrain_checkpoint_path="gone")
    config.save(moved / "config.yaml")
    checkpoints.save_newest(moved, 1, checkpoints.load_newest(second)[0], keep=1)
    assert "name their folder, --offline" in refusal(tsne.embed, moved, None, 8, 2, 0)


def test_without_scikit_learn_it_is_named(runs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    line = refusal(tsne.embed, runs[1], None, 8, 2, 0)
    assert "pip install -r requirements-figures.txt" in line
