"""β that adapts: each controller against NumPy, in real updates, through stops; refusals."""

import math

import numpy as np
import pytest
import torch

from accel.graphs import CUDAGraph
from agents.adaptive_beta import CONTROLLERS, check, make_controllers
from agents.base import PRETRAIN_UNIT
from logger import read_metrics
from tests.helpers.models import (
    make_agent,
    make_batch,
    make_config,
    make_inputs,
    make_pretrainer,
    stored,
)
from tests.helpers.runs import assert_same, refusal

CPU = torch.device("cpu")
UPDATES = 400  # of the pretraining whose shares the controllers take
LENGTH = {"pretrain_steps": UPDATES * PRETRAIN_UNIT}
every_controller = pytest.mark.parametrize("kind", sorted(CONTROLLERS))
# Gains and ramps are shares of a pretraining, of any length.
LENGTHS = [UPDATES, UPDATES, 4 * UPDATES]
worlds = pytest.mark.parametrize(("seed", "updates"), [*enumerate(LENGTHS)])


def make_one(kind, updates=UPDATES, **changes):
    config = make_config(beta_control=kind, **changes, pretrain_steps=updates * PRETRAIN_UNIT)
    check(config)
    return make_controllers(config, CPU)["beta_vae"]


def play(controller, world, updates=UPDATES):
    """β, and what a world said, at each update: [updates, 3]; its KL and error follow from β."""
    rows = []
    for update in range(updates):
        beta = float(controller.beta)
        kl, mse = world(update, beta)
        rows.append((beta, kl, mse))
        seen = {"beta_vae_kl_loss": kl, "image_mse": mse, "skipped_model": 0.0}
        metrics = {name: torch.tensor(value) for name, value in seen.items()}
        controller.step(metrics, torch.tensor(controller.goal_at(update)))
    return np.array(rows)


def told(seed, updates=UPDATES):
    """A world that does not care: KL from 0 to 60 nats, errors around the goal."""
    rng = np.random.default_rng(seed)
    kl, mse = rng.uniform(0, 60, updates), rng.uniform(0, 6e-3, updates)
    return lambda update, beta: (kl[update], mse[update])


class Plant:
    """A world whose KL and error follow β late, as those of networks do that have to learn it."""

    def __init__(self, lag):
        self.lag, self.kl, self.mse = lag, 5.0, 0.02

    def __call__(self, update, beta):
        self.kl += (max(0.0, 36 - 8 * math.log(beta / 0.015)) - self.kl) / self.lag
        self.mse += (2e-3 * (beta / 0.015) ** 0.4 - self.mse) / self.lag
        return self.kl, self.mse


@worlds
def test_controlvae_is_the_published_rule_with_its_sum_held_at_the_bounds(seed, updates):
    gains = {"beta_kp": 2e-3, "beta_ki": 0.5, "beta_min": 0.004, "beta_max": 0.05}
    goal = "linear(0.5,30,0.25)"
    controller = make_one("controlvae", updates, beta_kl_goal=goal, **gains)
    rows = play(controller, told(seed, updates), updates)
    beta, total = 0.015, 0.015 - 0.004
    for update, (found, kl, _) in enumerate(rows):
        assert found == pytest.approx(beta, rel=3e-5)
        error = 0.5 + 29.5 * min(update / (updates / 4), 1) - kl
        total = min(max(total - 0.5 / updates * error, 0), 0.05 - 0.004)
        p = 2e-3 / (1 + math.exp(error))
        beta = min(max(p + total + 0.004, 0.004), 0.05)
    assert rows[:, 0].max() == pytest.approx(0.05)
    assert rows[:, 0].min() < 0.01


@worlds
def test_geco_is_the_published_rule_of_a_relative_error(seed, updates):
    given = {"beta_mse_goal": 2.8e-3, "beta_rate": 9.0, "beta_min": 1e-3, "beta_max": 0.2}
    rows = play(make_one("geco", updates, **given), told(seed, updates), updates)
    log_beta, mean, kept = math.log(0.015), None, 1 - 200 / updates
    for found, _, mse in rows:
        assert found == pytest.approx(math.exp(log_beta), rel=3e-5)
        mean = mse if mean is None else kept * mean + (1 - kept) * mse
        constraint = mean / 2.8e-3 - 1
        log_beta -= 9.0 / updates * constraint * (10 if constraint < 0 else 1)
        log_beta = min(max(log_beta, math.log(1e-3)), math.log(0.2))
    assert np.ptp(rows[:, 0]) > 0.01


def test_sigma_vae_is_the_maximum_of_the_likelihood():
    rows = play(make_one("sigma_vae"), told(0))
    np.testing.assert_allclose(rows[1:, 0], np.clip(rows[:-1, 2], 1e-4, 1.0), rtol=1e-6)
    errors = np.random.default_rng(1).normal(0, 0.06, 5000)
    grid = np.geomspace(1e-4, 1, 4001)  # variances
    nll = 0.5 * np.log(grid) + np.mean(errors**2) / (2 * grid)
    controller = play(make_one("sigma_vae"), lambda *_: (1.0, np.mean(errors**2)), 2)
    assert controller[1, 0] == pytest.approx(grid[nll.argmin()], rel=5e-3)


@pytest.mark.parametrize("start", [0.0015, 0.15])
@pytest.mark.parametrize(("kind", "column", "goal"), [("controlvae", 1, 36.0), ("geco", 2, 2e-3)])
def test_a_wrong_start_is_recovered_from(kind, column, goal, start):
    rows = play(make_one(kind, beta_vae_beta=str(start)), Plant(lag=20))
    assert rows[0, 0] == pytest.approx(start)
    assert abs(rows[100, 0] / 0.015 - 1) > 0.3  # there was something to recover from
    assert rows[-40:, column].mean() == pytest.approx(goal, rel=0.1)


@every_controller
def test_an_update_that_is_skipped_moves_nothing(kind):
    controller = make_one(kind)
    play(controller, told(0), 3)
    before = {name: float(value) for name, value in controller.state.items()}
    seen = {"beta_vae_kl_loss": math.nan, "image_mse": math.nan, "skipped_model": 1.0}
    controller.step({k: torch.tensor(v) for k, v in seen.items()}, torch.tensor(3.0))
    assert {name: float(value) for name, value in controller.state.items()} == before


@every_controller
@pytest.mark.parametrize("make", [make_pretrainer, make_agent])
def test_an_update_weighs_the_kl_with_what_the_ones_before_came_to(make, kind):
    learner, twin = make(beta_control=kind, **LENGTH), make_one(kind)
    for update in range(3):
        m = {k: float(v) for k, v in learner.learn(make_batch(update), 0).metrics.items()}
        assert m["beta"] == pytest.approx(float(twin.beta))
        weighed = m["image_loss"] + m["kl_loss"] + m["beta"] * m["beta_vae_kl_loss"]
        weighed += 2 * m.get("reward_loss", 0.0)
        assert m["model_loss"] == pytest.approx(weighed, rel=1e-6)
        assert m.get("beta_kl_goal", 0.0) == pytest.approx(twin.goal_at(update))
        seen = {name: torch.tensor(m[name]) for name in ("beta_vae_kl_loss", "image_mse")}
        seen["skipped_model"] = torch.tensor(0.0)
        twin.step(seen, torch.tensor(twin.goal_at(update)))
    assert float(learner.controllers["beta_vae"].beta) == pytest.approx(float(twin.beta))


def test_the_logged_error_is_that_of_the_pictures():
    learner, batch = make_pretrainer(), make_batch()
    torch.manual_seed(5)
    noise = learner.draw_noise(2, 4)
    with torch.no_grad():
        encoding = learner.model.encode(batch["image"], noise.embed)
        post, _ = learner.model.observe(batch, encoding, noise.latent)
        drawn = learner.model.decoder(learner.model.rssm.get_feat(post)).mode().numpy()
    expected = np.mean((drawn - (batch["image"].numpy() / 255 - 0.5)) ** 2)
    torch.manual_seed(5)
    found = float(learner.learn(batch, 0).metrics["image_mse"])
    assert found == pytest.approx(expected, rel=1e-3)


@every_controller
def test_a_recorded_update_moves_beta_as_often_as_it_is_asked_to(kind):
    """Recording runs an update several times before, and puts back what that moved."""
    learners, found = [make_pretrainer(beta_control=kind, **LENGTH) for _ in range(2)], []
    ways = [learners[0]._compute_flat]
    ways.append(CUDAGraph(learners[1]._compute_flat, learners[1]._tensors, CPU))
    for learner, way in zip(learners, ways, strict=True):
        torch.manual_seed(1)
        for update in range(3):
            found.append(float(way(make_inputs(learner, make_batch(update)))["beta"]))
            learner.updates += 1
    assert len(set(found[:3])) == 3
    assert found[:3] == found[3:]
    assert_same(*(learner.save_state()["controllers"] for learner in learners))


@every_controller
def test_a_state_goes_on_as_if_there_had_been_no_stop(kind):
    first, second = (make_agent(beta_control=kind, **LENGTH) for _ in range(2))
    for update in range(2):
        first.learn(make_batch(update), update)
    second.load_state(stored(first.save_state()))
    found = []
    for learner in (first, second):
        torch.manual_seed(3)
        found.append(learner.learn(make_batch(2), 2).metrics)
        found.append(learner.save_state()["controllers"])
    assert_same(found[:2], found[2:])


def test_a_run_that_is_made_longer_keeps_its_ramp():
    first, longer = make_one("controlvae"), make_one("controlvae")
    longer.length *= 2
    longer.load_state(stored(first.save_state()))
    assert longer.goal_at(100) == first.goal_at(100) == pytest.approx(0.5 + 35.5 / 2)


@pytest.mark.slow
@every_controller
def test_a_pretraining_that_was_stopped_ends_as_one_that_was_not(
    kind, tmp_path, tiny, videos, calling, same
):
    from training.stop import Stopped

    def stop():
        raise Stopped

    flags = {"beta_control": kind, "log_every": 50}
    whole = tiny.finish(tiny.pretrain(tmp_path / "whole", videos, **flags))
    argv = tiny.pretrain(tmp_path / "stopped", videos, **flags)
    with calling({("update", 6): stop}):
        assert tiny.run(argv).code == 128
    same.run(whole, tiny.finish(argv))
    rows = [row for row in read_metrics(whole / "metrics.jsonl") if "beta" in row]
    assert len({row["beta"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta_vae": False}, "add --beta_vae True"),
        ({"beta_vae_beta": "linear(0,1,9)"}, "--beta_vae_beta linear(0,1,9) is a schedule"),
        ({"beta_vae_beta": "3"}, "--beta_vae_beta 3, where --beta_control geco begins"),
        ({"beta_min": 0.5, "beta_max": 0.2}, "outside of --beta_min 0.5 to --beta_max 0.2"),
    ],
)
def test_what_is_refused(changes, said):
    assert said in refusal(check, make_config(beta_control="geco", **changes))


def test_without_a_controller_nothing_is_checked_or_made():
    config = make_config(beta_vae=False, beta_vae_beta="linear(0,1,9)")
    check(config)
    assert make_controllers(config, CPU) == {}
