"""The loop of finetuning: in which order it acts, steps and learns, and where its time goes."""

import pytest

from accel.runtime import Runtime
from agents.diswm import DisWM
from envs import VectorEnv
from logger import read_metrics
from training import factory, online
from training.evaluator import Evaluator
from training.online import OnlineTrainer

NAMES = {"env", "act", "sample", "transfer", "update", "evaluate", "log", "checkpoint", "wait"}
# No log line, evaluation or checkpoint within the run, which updates would have to come before.
CALM = {"eval_every": 0, "log_every": 0, "checkpoint_every": 0, "distillation": False}


def noting(monkeypatch, events, kind, method, word):
    """Writes a word down at each call of a method."""
    before = getattr(kind, method)

    def noted(self, *args, **kwargs):
        events.append(word)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(kind, method, noted)


@pytest.fixture
def events(monkeypatch):
    """What happens in a run, a letter each: Act, Send, Receive, Update, Log, Evaluate."""
    noted = []
    noting(monkeypatch, noted, DisWM, "act", "A")
    noting(monkeypatch, noted, VectorEnv, "step_async", "S")
    noting(monkeypatch, noted, VectorEnv, "step_wait", "R")
    noting(monkeypatch, noted, DisWM, "learn", "U")
    noting(monkeypatch, noted, OnlineTrainer, "log", "L")
    noting(monkeypatch, noted, OnlineTrainer, "evaluate", "E")
    return noted


def test_updates_run_while_the_environment_steps(tmp_path, tiny, events):
    flags = CALM | {"steps": 60, "train_steps": 2, "async_env": "none"}
    tiny.finish(tiny.finetune(tmp_path / "overlap", overlap=True, **flags))
    # 15 steps of filling, three updates, and 15 steps: the last updates find none to overlap with.
    turn = "ASUUR" + "ASR" * 4
    assert "".join(events) == "SR" * 15 + "UUU" + "ASR" * 5 + turn * 2 + "UU" + "L"
    events.clear()
    tiny.finish(tiny.finetune(tmp_path / "in_turn", overlap=False, **flags))
    assert "".join(events) == "SR" * 15 + "UUU" + ("ASR" * 5 + "UU") * 3 + "L"


def test_what_waits_for_updates_comes_behind_them(tmp_path, tiny, events):
    """At step 20 a log line is due, at step 25 a checkpoint."""
    flags = CALM | {"steps": 60, "log_every": 20, "checkpoint_every": 50, "async_env": "none"}
    tiny.finish(tiny.finetune(tmp_path, overlap=True, **flags))
    found = "".join(events)
    assert found.startswith("SR" * 15 + "UUU" + "ASR" * 5 + "U" + "L" + "ASR" * 5 + "U" + "ASR")
    assert found.endswith("ASR" * 4 + "U" + "L")


def test_an_environment_that_overlaps_has_a_process(tmp_path, tiny, monkeypatch):
    import config

    made = []
    monkeypatch.setattr(factory.os, "cpu_count", lambda: 2)

    def make_vector(task, n, *, workers, split, **settings):
        made.append((n, split, workers))
        raise ValueError("not made")

    monkeypatch.setattr(factory, "make_vector", make_vector)
    for overlap in (True, False):
        parsed = config.parse(tiny.finetune(tmp_path, overlap=overlap))
        for split in ("train", "eval"):
            with pytest.raises(factory.UserError, match="not made"):
                factory.make_envs(parsed, Runtime.resolve(parsed), 1, split)
    given = config.parse(tiny.finetune(tmp_path, overlap=True, async_env="none"))
    with pytest.raises(factory.UserError, match="not made"):
        factory.make_envs(given, Runtime.resolve(given), 1, "train")
    assert [workers for *_, workers in made] == ["process", "auto", "auto", "auto", "none"]


def test_every_log_line_says_where_the_time_went(tmp_path, tiny):
    folder = tiny.finish(tiny.finetune(tmp_path, distillation=False, eval_episodes=1))
    rows = [r for r in read_metrics(folder / "metrics.jsonl") if "seconds_other" in r]
    assert [row["step"] for row in rows] == [40, 80, 120]
    assert all("image_loss" in row for row in rows)
    assert rows[-1]["seconds_evaluate"] > 0  # of the last evaluation, which comes before it
    named = {key[8:] for row in rows for key in row if key.startswith("seconds_")}
    assert named == NAMES | {"other"}
    for row in rows:
        seconds = {key[8:]: value for key, value in row.items() if key.startswith("seconds_")}
        assert all(value >= 0 for value in seconds.values())
        shares = {key: row[f"share_{key}"] for key in seconds}
        assert sum(shares.values()) == pytest.approx(1)
        passed = sum(seconds.values())
        assert shares == pytest.approx({key: value / passed for key, value in seconds.items()})


@pytest.mark.parametrize(("videos", "kept"), [(True, 2), (False, 1)])
def test_an_evaluation_keeps_the_images_that_are_drawn(tmp_path, tiny, monkeypatch, videos, kept):
    """Of three episodes those of two, and of the random policy's none."""
    asked, play = [], Evaluator.play

    def noted(self, policy, steps, *, images):
        asked.append(images)
        return play(self, policy, steps, images=images)

    monkeypatch.setattr(online, "PICTURED", 2)
    monkeypatch.setattr(Evaluator, "play", noted)
    flags = {"eval_episodes": 3, "distillation": False, "log_videos": videos, "time_limit": 10}
    flags |= {"steps": 20, "prefill": 5, "pretrain": 0}
    folder = tiny.finish(tiny.finetune(tmp_path, **flags))
    assert asked == [0, kept, kept]
    assert len(list((folder / "eval_eps").iterdir())) == 2
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["eval_episodes"] for row in rows if "eval_episodes" in row] == [3, 3]
    assert (folder / "pictures" / "eval_openl.gif").exists() == videos
