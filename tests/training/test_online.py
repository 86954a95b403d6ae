"""Finetuning through the command line: what is logged, which colours are seen, who teaches."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dreamer
from logger import read_metrics
from logger.groups import scalar_tag
from replay.episodes import read_episode
from tests.helpers.runs import events

ROOT = Path(dreamer.__file__).parent
SCALARS = "eval_return train_return image_loss kl_loss reward_loss beta_vae_kl_loss"
SCALARS += " distillation_kl_loss eta model_grad_norm actor_loss value_loss fps"
SCALARS += " updates_per_second replay_steps"


@pytest.fixture(scope="module")
def board(shown):
    """What TensorBoard reads of that run."""
    accumulator = EventAccumulator(str(shown), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def values(folder, name):
    return [row[name] for row in read_metrics(folder / "metrics.jsonl") if name in row]


def greener(images):
    """How much more green than red there is: about −20 in set 1, +45 in set 2."""
    mean = images.reshape(-1, 3).astype(float).mean(0)
    return mean[1] - mean[0]


def looks(images):
    """The colour set that frames were drawn in."""
    return "test" if greener(images) > 12 else "train"


# The log


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALARS.split())
def test_tensorboard_has_every_scalar_and_agrees_with_the_log(shown, board, name):
    there = [(event.step, event.value) for event in board.Scalars(scalar_tag(name))]
    rows = [row for row in read_metrics(shown / "metrics.jsonl") if name in row]
    assert there
    assert [step for step, _ in there] == [row["step"] for row in rows]
    logged = np.array([row[name] for row in rows], np.float32)
    np.testing.assert_allclose([value for _, value in there], logged, rtol=1e-6)
    assert np.isfinite(logged).all()


@pytest.mark.slow
def test_tensorboard_has_all_of_the_logs_names_and_no_more(shown, board):
    rows = [row for row in read_metrics(shown / "metrics.jsonl") if "event" not in row]
    names = {name for row in rows for name in row} - {"step", "time", "nonfinite"}
    assert set(board.Tags()["scalars"]) == {scalar_tag(name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "count"),
    [
        ("train_openl", 3),
        ("train_reconstruction", 3),
        ("eval_openl", 3),
        ("eval_reconstruction", 3),
        ("eval_policy", 3),
        ("beta_vae_traverse", 3),
        ("eval_teacher_openl", 3),
        ("train_policy", 6),
    ],
)
def test_tensorboard_has_every_picture(shown, board, tag, count):
    kind = "image" if tag.endswith(("reconstruction", "traverse")) else "video"
    pictures = board.Images(f"{kind}/{tag}")
    assert len(pictures) >= count
    assert all(len(picture.encoded_image_string) > 100 for picture in pictures)
    assert list((shown / "pictures").glob(f"*{tag}.*"))


@pytest.mark.slow
def test_tensorboard_has_the_config(shown, board):
    [text] = board.Tensors("config")
    written = text.tensor_proto.string_val[0].decode()
    assert (shown / "config.yaml").read_text() in written


@pytest.mark.slow
def test_every_name_of_the_log_is_explained(shown):
    page = (ROOT / "docs" / "watching.md").read_text()
    rows = [row for row in read_metrics(shown / "metrics.jsonl") if "event" not in row]
    for name in {name for row in rows for name in row} - {"step", "time", "nonfinite"}:
        name = re.sub("^random_", "eval_", name)
        found = re.match("(seconds|share)_(.*)", name)
        assert f"`{found[2] if found else name}`" in page, name


@pytest.mark.slow
def test_every_name_has_one_value_a_step(shown):
    seen = set()
    for row in read_metrics(shown / "metrics.jsonl"):
        if "event" not in row:
            pairs = {(row["step"], name) for name in row if name not in ("step", "time")}
            assert not seen & pairs, sorted(seen & pairs)
            seen |= pairs


@pytest.mark.slow
def test_events_and_rows_of_an_episode_have_one_step(shown):
    rows = read_metrics(shown / "metrics.jsonl")
    returns = [row["step"] for row in rows if "train_return" in row]
    assert returns == [20, 40, 60, 80, 100, 120]
    assert [row["step"] for row in events(shown, "random", "train")] == returns


@pytest.mark.slow
def test_counts_of_the_log(shown):
    assert values(shown, "train_length") == [10] * 6
    assert values(shown, "eval_length") == [10] * 3
    assert values(shown, "eval_episodes") == [2] * 3
    assert values(shown, "random_episodes") == [2]
    assert values(shown, "train_episodes") == [1, 2, 3, 4, 5, 6]
    # 3 before the first step; then one every 5 of the 45 steps behind the 15 of the filling.
    assert values(shown, "updates")[-1] == 3 + 45 // 5
    assert values(shown, "replay_steps")[-1] == 66
    for path in sorted((shown / "train_eps").iterdir()):
        episode = read_episode(path)
        index = int(path.name[:6])
        total = episode["reward"].sum(dtype=np.float64)
        assert values(shown, "train_return")[index] == pytest.approx(total)


@pytest.mark.slow
def test_log_line_has_the_mean_of_its_updates(shown):
    losses = values(shown, "image_loss")
    assert len(losses) == len(values(shown, "kl_loss")) == len(values(shown, "actor_loss"))
    assert 11_000 < losses[0] < 13_000  # 64·64·3 pixels, −ln N(x; 0, 1) of each about 0.95


# Colours


@pytest.mark.slow
def test_colours_switch_at_the_midpoint(shown):
    played = {row["episode"]: row["colors"] for row in events(shown, "random", "train")}
    assert played == dict.fromkeys((0, 1, 2), "train") | dict.fromkeys((3, 4, 5), "test")
    for path in sorted((shown / "train_eps").iterdir()):
        assert looks(read_episode(path)["image"]) == played[int(path.name[:6])]
    evaluated = [(row["step"], row["colors"]) for row in events(shown, "evaluation")]
    assert evaluated == [(30, "train"), (30, "train"), (60, "test"), (120, "test")]
    for path in sorted((shown / "eval_eps").iterdir()):
        second_half = int(path.name[:9]) >= 60
        assert looks(read_episode(path)["image"]) == ("test" if second_half else "train")


@pytest.mark.slow
def test_without_the_switch_training_and_evaluation_differ_throughout(tmp_path, tiny):
    flags = {"color_distractor": False, "beta_vae": False, "distillation": False, "pretrain": 0}
    flags |= {"train_every": 90, "eval_episodes": 1}
    folder = tiny.finish(tiny.finetune(tmp_path, method_name="dreamerv2", **flags))
    assert {row["colors"] for row in events(folder, "random", "train")} == {"train"}
    assert {row["colors"] for row in events(folder, "evaluation")} == {"test"}
    for split, look in (("train", "train"), ("eval", "test")):
        for path in (folder / f"{split}_eps").iterdir():
            assert looks(read_episode(path)["image"]) == look
    assert not values(folder, "image_loss")


def test_episode_that_spans_the_midpoint_keeps_its_colours(tmp_path, tiny):
    """Episodes begin at steps 0, 18 and 36, and the midpoint is 30."""
    flags = {"time_limit": 36, "prefill": 59, "pretrain": 0, "eval_every": 0, "train_every": 99}
    folder = tiny.finish(tiny.finetune(tmp_path, **flags))
    images = [read_episode(p)["image"] for p in sorted((folder / "train_eps").iterdir())]
    assert [looks(image) for image in images] == ["train", "train", "test"]
    assert looks(images[1][13:]) == "train"  # behind the midpoint


# The teacher


@pytest.mark.slow
def test_distillation_follows_its_teacher(tmp_path, tiny):
    """Another teacher gives another student; the teacher stays as it was."""
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny.teacher.glob("*.pt"):
        state = torch.load(path, weights_only=True)
        torch.save({name: 0.9 * tensor for name, tensor in state.items()}, other / path.name)
    short = {"steps": 42, "eval_every": 0}  # three updates, and one more
    runs = {
        "a": tiny.finetune(tmp_path / "a", **short),
        "b": tiny.finetune(tmp_path / "b", pretrain_checkpoint_path=other, **short),
        "none": tiny.finetune(tmp_path / "c", distillation=False, **short),
    }
    folders = {name: tiny.finish(argv) for name, argv in runs.items()}
    weights = {
        name: torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]["weights"]
        for name, folder in folders.items()
    }
    student = "world_model.encoder.stats.weight"
    assert not torch.equal(weights["a"][student], weights["b"][student])
    assert not torch.equal(weights["a"][student], weights["none"][student])
    for name, folder in (("a", tiny.teacher), ("b", other)):
        taught = torch.load(folder / "encoder.pt", weights_only=True)
        kept = {k: v for k, v in weights[name].items() if ".teacher.encoder." in k}
        for key, tensor in kept.items():
            assert torch.equal(tensor, taught[key.split(".teacher.encoder.")[1]])
    assert all(value > 0 for value in values(folders["a"], "distillation_kl_loss"))
    assert not values(folders["none"], "distillation_kl_loss")
    assert not values(folders["none"], "eta")


@pytest.mark.slow
@pytest.mark.parametrize(("cross_domain", "eta"), [(False, [0.05, 0.0]), (True, [0.0, 0.0])])
def test_eta_moves_with_the_agents_step(tmp_path, monkeypatch, tiny, cross_domain, eta):
    scale = "linear(0.1,0,40)" if not cross_domain else "auto"
    flags = {"cross_domain": cross_domain, "distill_scale": scale, "log_every": 2}
    folder = tiny.finish(tiny.finetune(tmp_path, eval_every=0, **flags))
    by_step = {
        row["step"] // 2: row["eta"]
        for row in read_metrics(folder / "metrics.jsonl")
        if "eta" in row
    }
    assert by_step[20] == pytest.approx(eta[0], abs=1e-6)
    assert by_step[60] == pytest.approx(eta[1], abs=1e-6)


# The data


def test_prefill_alone_collects_and_stops(tmp_path, tiny):
    """``--steps 0``: whole episodes of random play, which pretraining then takes."""
    flags = {"steps": 0, "prefill": 25, "method_name": "dreamerv2", "color_distractor": False}
    argv = tiny.finetune(tmp_path, beta_vae=False, distillation=False, **flags)
    result = tiny.run(argv)
    assert result.code == 0
    folder = tiny.folder(argv)
    names = [path.name for path in sorted((folder / "train_eps").iterdir())]
    assert names == [f"00000{i}-s0-11.npz" for i in range(3)]  # the third one to its end
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert (state["frames"], state["learner"]["updates"]) == (60, 0)
    assert not events(folder, "evaluation")
    assert {row["colors"] for row in events(folder, "random")} == {"train"}
    predictor = tiny.pretrain(tmp_path / "next", folder / "train_eps", pretrain_steps=100)
    [dataset] = events(tiny.finish(predictor), "dataset")
    assert (dataset["episodes"], dataset["frames"]) == (3, 33)


def test_collecting_ends_where_episodes_end_at_different_steps(tmp_path, tiny):
    """Each environment finishes what it plays at the end of prefill, and no more is kept."""
    flags = {"task": "gymnasium_Hopper-v5", "envs": 3, "async_env": "none", "time_limit": 400}
    fill = {
        "steps": 0,
        "prefill": 60,
        "shadow_size": 16,
        "method_name": "dreamerv2",
        "color_distractor": False,
    }
    argv = tiny.finetune(tmp_path, **flags, **fill, beta_vae=False, distillation=False)
    folder = tiny.finish(argv)
    lengths = [int(p.stem.rpartition("-")[2]) - 1 for p in (folder / "train_eps").iterdir()]
    assert len(set(lengths)) > 1
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    steps = state["collector"]["steps"]
    assert 60 <= steps < 60 + 3 * max(lengths)
    # What was begun before the end of prefill is there whole; of the rest, what had ended by then.
    begun = [entry["since"] for entry in state["collector"]["playing"]]
    ended = state["collector"]["ended"].tolist()
    assert all(done or since >= 60 for done, since in zip(ended, begun, strict=True))
    assert sum(lengths) <= steps


def test_dataset_of_prefill_alone_has_the_first_colours(tmp_path, tiny):
    folder = tiny.finish(tiny.finetune(tmp_path, steps=0, prefill=10))
    assert [row["colors"] for row in events(folder, "random")] == ["train"]


@pytest.mark.slow
def test_offline_episodes_are_learnt_from_beside_the_own(tmp_path, tiny, calling):
    from training.stop import Stopped

    def stop():
        raise Stopped

    fill = {"steps": 0, "prefill": 20}
    data = tiny.finish(tiny.finetune(tmp_path / "data", **fill)) / "train_eps"
    flags = {"offline_traindir": data, "prefill": 2, "eval_every": 0, "steps": 60}
    argv = tiny.finetune(tmp_path / "own", **flags)
    with calling({("acting", 12): stop}):
        assert tiny.run(argv).code == 128
    folder = tiny.finish(argv)
    assert values(folder, "replay_episodes")[-1] == 2 + 3
    assert len(list((folder / "train_eps").iterdir())) == 3
    assert len(list(data.iterdir())) == 2


@pytest.mark.slow
def test_grayscale_run_draws_its_pictures(tmp_path, tiny):
    flags = {"grayscale": True, "log_videos": True, "distillation": False, "steps": 40}
    flags |= {"eval_episodes": 1, "pretrain": 1, "prefill": 10}
    folder = tiny.finish(tiny.finetune(tmp_path, **flags))
    assert (folder / "pictures" / "eval_policy.gif").exists()
    paths = list((folder / "train_eps").iterdir())
    assert read_episode(paths[0])["image"].shape == (11, 64, 64, 1)


@pytest.mark.slow
def test_wandb_is_never_imported_unless_asked_for(tmp_path, tiny):
    code = (
        "import sys, dreamer\n"
        "code = dreamer.main(sys.argv[1:])\n"
        "sys.exit(33 if any(m.split('.')[0] == 'wandb' for m in sys.modules) else code)\n"
    )
    argv = tiny.finetune(tmp_path, steps=0, prefill=2, time_limit=4, distillation=False)
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_note_says_that_diswm_without_its_parts_is_dreamerv2(tmp_path, tiny):
    flags = {"beta_vae": False, "distillation": False, "steps": 0, "prefill": 2}
    result = tiny.run(tiny.finetune(tmp_path, **flags))
    assert result.code == 0
    assert "note: diswm without" in result.err
    assert "changes nothing" not in result.err


def test_note_names_the_given_flags_that_the_suite_does_not_read(tmp_path, tiny):
    flags = {"steps": 0, "prefill": 2, "texture": "black", "train_texture": "wood"}
    result = tiny.run(tiny.finetune(tmp_path, **flags))
    assert result.code == 0
    assert f"note: --texture, --train_texture changes nothing in {tiny.task}\n" in result.err
    assert "the block" not in result.err


def test_note_names_a_block_of_another_suite(tmp_path, tiny):
    flags = {"steps": 0, "prefill": 2, "task": "dmc_reacher_easy", "color_distractor": True}
    result = tiny.run(tiny.finetune(tmp_path, **flags))
    assert result.code == 0
    assert "the block dmc2gym is for dmc2gym_… tasks; dmc_reacher_easy has the block dmc\n" in (
        result.err
    )
    assert "note: dmc_reacher_easy looks the same in both halves of training\n" in result.err
