"""When a run draws: every --video_every frames, with a log line or an evaluation; at its end."""

import pytest

from training.trainer import Trainer


@pytest.fixture
def drawn(monkeypatch):
    """(prefix, frames) of each report, none of which is drawn."""
    calls = []
    monkeypatch.setattr(
        Trainer, "report", lambda self, prefix, replay: calls.append((prefix, self.frames))
    )
    return calls


def test_a_run_draws_once_in_a_period_and_at_the_end(tmp_path, tiny, drawn):
    flags = {"log_videos": True, "video_every": 50, "log_every": 20, "eval_every": 20}
    flags |= {"steps": 90, "distillation": False, "eval_episodes": 1}
    folder = tiny.finish(tiny.finetune(tmp_path, **flags))
    assert [at for prefix, at in drawn if prefix == "train"] == [40, 60, 90]
    assert [at for prefix, at in drawn if prefix == "eval"] == [30, 60, 90]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["eval_policy.gif"]


def test_a_pretraining_draws_once_in_a_period_and_once_at_the_end(tmp_path, tiny, videos, drawn):
    flags = {"log_videos": True, "video_every": 200, "log_every": 50, "offline_evaldir": videos}
    tiny.finish(tiny.pretrain(tmp_path, videos, **flags))
    times = [50, 200, 400, 500]
    assert drawn == [(prefix, at) for at in times for prefix in ("train", "eval")]
