"""Metrics of the latent while training: within their share of the time, and refused without one."""

import numpy as np
import pytest

from agents.random import Random
from logger import read_metrics
from measure.metrics import CHEAP
from tests.helpers.models import make_config, make_predictor, make_pretrainer
from tests.helpers.runs import refusal
from training import disentanglement
from training.disentanglement import Budget, LatentMetrics


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_budget_keeps_what_is_done_within_its_share():
    clock = Clock()
    budget, spent = Budget(0.03, clock), 0.0
    for _ in range(2000):
        clock.now += 1.0
        if budget.allows():
            clock.now += 2.0
            budget.spend(2.0)
            spent += 2.0
    passed = clock.now - 100
    assert 0.025 * passed < spent <= 0.03 * passed + 2.0


def test_metrics_are_of_the_learners_own_latent(monkeypatch):
    monkeypatch.setattr(disentanglement, "FRAMES", 80)
    monkeypatch.setattr(disentanglement, "available_cores", lambda: 1)
    clock, config = Clock(), make_config("--task", "dmc2gym_reacher_easy", "--shadow_size", "16")
    found, learner = LatentMetrics(config, clock), make_pretrainer()
    scores = found.measure(learner)
    assert set(scores) == {f"latent_{name}" for name in CHEAP}
    assert (
        found.measure(learner) == scores
    )  # nothing has passed on this clock, and nothing is drawn
    other = found.measure(make_pretrainer(seed=1))
    assert other != scores
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert make_pretrainer(beta_vae=False).latent(images) is None
    means = learner.latent(images)
    assert means.shape == (5, make_predictor().encoder.embed_size)
    found._budget.spend(10.0)
    assert found.measure(learner) == {}


def test_a_run_without_a_latent_or_a_task_is_refused_in_a_line():
    def check(learner, *words, **changes):
        disentanglement.check(make_config("--metrics_every", "100", *words, **changes), learner)

    learner = type(make_pretrainer())
    assert "add --beta_vae True" in refusal(lambda: check(learner, beta_vae=False))
    assert "there is none" in refusal(lambda: check(Random))
    assert "give the --task" in refusal(lambda: check(learner, beta_vae_pretrain=True))
    check(learner, "--task", "dmc2gym_reacher_easy", beta_vae_pretrain=True)
    disentanglement.check(make_config(), Random)


@pytest.mark.slow
def test_runs_log_them_and_go_on_as_without(tmp_path, tiny, whole, monkeypatch):
    monkeypatch.setattr(disentanglement, "FRAMES", 60)
    monkeypatch.setattr(disentanglement, "SHARE", 1.0)
    with_them = tiny.finish(tiny.finetune(tmp_path / "with", metrics_every=40))
    names = [f"latent_{name}" for name in CHEAP]
    logged = [row for row in read_metrics(with_them / "metrics.jsonl") if names[0] in row]
    assert len(logged) >= 2
    assert all(np.isfinite(row[name]) for row in logged for name in names)
    losses = [
        [row["image_loss"] for row in read_metrics(run / "metrics.jsonl") if "image_loss" in row]
        for run in (with_them, whole)
    ]
    assert losses[0] == losses[1]
