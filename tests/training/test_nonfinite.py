"""Updates that are not finite: skipped, counted, recorded, and too many stop."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import config
from accel.runtime import Runtime
from agents.base import Spaces, Update
from agents.diswm import DisWM
from agents.learner import GradientLearner
from tests.helpers.runs import events
from tools import Diverged
from training.nonfinite import RECORDS, NonFinite


def test_an_agents_later_steps_are_skipped_with_the_first(tiny):
    given = config.parse(tiny.finetune(tiny.teacher, distillation=False))
    torch.manual_seed(0)
    spaces = Spaces((64, 64, 3), 2, discrete=False)
    learner, rng = DisWM(given, Runtime.resolve(given), spaces), np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (2, 6, 2)).astype(np.float32),
        "reward": np.full((2, 6), np.nan, np.float32),
        "discount": np.ones((2, 6), np.float32),
        "is_first": np.eye(1, 6, dtype=bool).repeat(2, 0),
    }
    batch = {name: torch.from_numpy(value) for name, value in arrays.items()}
    before = [p.detach().clone() for p in learner.parameters()]
    update = learner.learn(batch, 0)
    assert update.skipped.tolist() == [1, 1, 1]  # model, actor, value
    assert torch.isfinite(update.metrics["actor_loss"])  # it follows from the images alone
    assert all(map(torch.equal, learner.parameters(), before))
    update = learner.learn(batch | {"reward": torch.zeros(2, 6)}, 0)
    assert update.skipped.tolist() == [0, 0, 0]
    assert not any(map(torch.equal, learner.world_model.parameters(), before[:3]))


class Log:
    """A run, as far as this knows it."""

    last = "its last checkpoint is of frame 40"

    def __init__(self, folder):
        self.folder, self.events, self.good = folder, [], []
        self.meter = SimpleNamespace(add=self.good.append)
        self.logger = SimpleNamespace(event=lambda name, **fields: self.events.append(fields))


def update_of(skipped, value=1.0):
    values = {"model_loss": float("nan") if skipped else value, "kl": 2.0}
    metrics = {name: torch.tensor(v) for name, v in values.items()}
    return Update(metrics, torch.tensor([float(skipped), 0.0]))


BATCH = {"image": torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2, 1)}
BATCH |= {"reward": torch.ones(3)}


def test_it_counts_records_and_keeps_bad_numbers_out_of_the_means(tmp_path):
    log = Log(tmp_path)
    nonfinite = NonFinite(log, most=3)
    for number, skipped in enumerate([0, 1, 1, 0, 1], 1):
        nonfinite.submit(number, BATCH, update_of(skipped))
    assert (nonfinite.bad, nonfinite.in_a_row) == (3, 1)
    assert [m["model_loss"].item() for m in log.good] == [1.0, 1.0]
    assert all(set(m) == {"model_loss", "kl"} for m in log.good)
    assert [(e["update"], e["what"], e["in_a_row"]) for e in log.events] == [
        (2, "model_loss", 1),
        (3, "model_loss", 2),
        (5, "model_loss", 1),
    ]
    paths = sorted((tmp_path / "bad_updates").iterdir())
    assert [e["file"] for e in log.events] == [str(path) for path in paths]
    record = np.load(paths[0], allow_pickle=False)
    np.testing.assert_array_equal(record["batch/image"], BATCH["image"].numpy())
    np.testing.assert_array_equal(record["batch/reward"], np.ones(3))
    assert np.isnan(record["metrics/model_loss"])
    assert record["metrics/kl"] == 2.0


def test_it_stops_after_too_many_in_a_row_also_across_a_restart(tmp_path):
    nonfinite = NonFinite(Log(tmp_path), most=3)
    for number in (1, 2):
        nonfinite.submit(number, BATCH, update_of(True))
    resumed = NonFinite(Log(tmp_path), most=3)
    resumed.load_state(json.loads(json.dumps(nonfinite.save_state())))
    with pytest.raises(Diverged) as caught:
        resumed.submit(3, BATCH, update_of(True))
    line = str(caught.value)
    assert "\n" not in line
    for words in ("3 updates in a row (--max_bad_updates)", str(tmp_path), "of frame 40", "_lr"):
        assert words in line


def test_records_are_few(tmp_path):
    nonfinite = NonFinite(Log(tmp_path), most=1000)
    for number in range(RECORDS + 5):
        nonfinite.submit(number, BATCH, update_of(True))
    assert len(list((tmp_path / "bad_updates").iterdir())) == RECORDS
    assert nonfinite.bad == RECORDS + 5


class Poisoned:
    """Puts a NaN into the batches of some updates."""

    def __init__(self, monkeypatch, bad, kind, field):
        prepare, self.count = kind.prepare, 0

        def poison(learner, batch):
            data = prepare(learner, batch)
            self.count += 1
            if self.count in bad:
                data[field] = data[field].float().clone()
                data[field].view(-1)[3] = float("nan")
            return data

        monkeypatch.setattr(kind, "prepare", poison)


@pytest.mark.slow
def test_a_run_goes_on_after_bad_updates(tmp_path, tiny, monkeypatch):
    Poisoned(monkeypatch, {2, 3, 6}, GradientLearner, "reward")
    argv = tiny.finetune(tmp_path, max_bad_updates=3, eval_every=0)
    folder = tiny.finish(argv)
    assert [row["update"] for row in events(folder, "bad_update")] == [2, 3, 6]
    assert all("model_loss" in row["what"] for row in events(folder, "bad_update"))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["nonfinite"] == {"bad": 3, "in_a_row": 0}
    assert state["updates"] > 6
    weights = state["learner"]["weights"].values()
    assert all(torch.isfinite(w).all() for w in weights if w.is_floating_point())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [row for row in map(json.loads, lines) if "model_loss" in row]
    assert logged
    assert all("nonfinite" not in row for row in logged)
    assert logged[-1]["bad_updates"] == 3
    record = np.load(folder / "bad_updates" / "000000002.npz", allow_pickle=False)
    assert record["batch/image"].dtype == np.uint8
    assert np.isfinite(record["batch/reward"]).all()  # as the replay gave it
    assert np.isnan(record["metrics/reward_loss"])


@pytest.mark.slow
def test_a_run_that_only_makes_bad_updates_stops_with_its_last_good_checkpoint(
    tmp_path, tiny, monkeypatch
):
    Poisoned(monkeypatch, range(6, 1000), GradientLearner, "reward")
    argv = tiny.finetune(tmp_path, max_bad_updates=4, train_steps=2, eval_every=0)
    result = tiny.run(argv)
    assert result.code == 1
    [line] = [x for x in result.err.splitlines() if x.startswith("dreamer.py:")]
    assert "4 updates in a row (--max_bad_updates)" in line
    folder = tiny.folder(argv)
    assert len(events(folder, "bad_update")) == 4
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert f"its last checkpoint is of frame {state['frames']}" in line
    assert state["nonfinite"]["in_a_row"] < 4
    weights = state["learner"]["weights"].values()
    assert all(torch.isfinite(w).all() for w in weights if w.is_floating_point())


@pytest.mark.slow
def test_pretraining_skips_a_bad_update_too(tmp_path, tiny, videos, monkeypatch):
    Poisoned(monkeypatch, {4}, GradientLearner, "image")
    folder = tiny.finish(tiny.pretrain(tmp_path, videos))
    [row] = events(folder, "bad_update")
    assert row["update"] == 4
    encoder = torch.load(folder / "encoder.pt", weights_only=True)
    assert all(torch.isfinite(w).all() for w in encoder.values())
