"""Pictures: what they show, what they must not have seen, and what they leave alone."""

import numpy as np
import pytest
import torch

from accel.generators import scratch_rng
from accel.runtime import Runtime
from agents import reports
from agents.predictor import Predictor
from logger.pictures import GAP, RIM_COLOR, cut_grid, write_text
from networks import float_image
from tests.helpers import models as tiny_models
from tests.helpers.models import A, copied, equal, make_agent, make_config, make_predictor

B, T, Z, D = 7, 7, 4, 16


def make_model(make=tiny_models.make_model, **changes):
    """A model with larger weights than at the start, so that its pictures have contrast."""
    model = make(**changes)
    with torch.no_grad():
        for part, factor in ((model.decoder, 1.5), (model.rssm, 3)):
            for parameter in part.parameters():
                parameter.mul_(factor)
    return model


def make_batch(clips=B, steps=T):
    batch = tiny_models.make_batch(0, clips, steps)
    first = torch.eye(1, steps, dtype=torch.bool).repeat(clips, 1)
    return batch | {"image": float_image(batch["image"]), "is_first": first}


def draw(function, *args, seed=1):
    torch.manual_seed(seed)
    return function(*args)


def panels(video):
    """Truth, prediction and error: [N, T, 64, 64, 3] each."""
    return video[:, :, :64], video[:, :, 64:128], video[:, :, 128:]


@pytest.mark.parametrize("clips", [2, B])
def test_open_loop_stacks_truth_model_and_error(clips):
    batch = make_batch(clips)
    video = reports.open_loop(make_model(), batch)
    assert video.shape == (min(clips, 6), T, 3 * 64, 64, 3)
    assert video.dtype == np.float32
    assert 0 <= video.min() < video.max() <= 1
    truth, predicted, error = panels(video)
    np.testing.assert_allclose(truth, batch["image"][:6] + 0.5, atol=1e-6)
    inside = (predicted > 0) & (predicted < 1)
    assert inside.mean() > 0.5
    expected = (predicted - truth) / 2 + 0.5
    np.testing.assert_allclose(error[inside], expected[inside], atol=1e-5)


def test_open_loop_predicts_the_future_without_seeing_it():
    model, batch = make_model(), make_batch()
    _, expected, _ = panels(draw(reports.open_loop, model, batch))
    other = batch | {"image": batch["image"].clone()}
    other["image"][:, 5:] *= -1
    truth, predicted, _ = panels(draw(reports.open_loop, model, other))
    np.testing.assert_array_equal(predicted, expected)
    assert not np.array_equal(truth[:, 5:], batch["image"][:6, 5:] + 0.5)
    for seen in (0, 4):  # what lies in the context does matter, up to its last frame
        other["image"][:, seen] *= -1
        _, predicted, _ = panels(draw(reports.open_loop, model, other))
        assert np.abs(predicted[:, 5:] - expected[:, 5:]).max() > 1e-4
        other["image"][:, seen] *= -1


@torch.no_grad()
def test_open_loop_filters_the_context_and_imagines_under_the_actions():
    """With the noise taken out of the latents, each frame is computable on its own."""
    model, batch = make_model(dyn_min_std=1e-6), make_batch(3)
    model.rssm.posterior_stats.bias[4:] = model.rssm.prior_stats.bias[4:] = -1e4  # std → 1e-6
    model.encoder.stats.bias[Z:] = -60  # logvar
    _, predicted, _ = panels(reports.open_loop(model, batch))
    embed = model.encode(batch["image"]).embed
    state = model.rssm.initial(3)
    for t in range(T):
        if t < 5:
            first = batch["is_first"][:, t]
            state = model.rssm.obs_step(state, batch["action"][:, t], embed[:, t], first, False)
        else:
            state = model.rssm.img_step(state, batch["action"][:, t], False)
        expected = (model.decoder(model.rssm.get_feat(state)).mode() + 0.5).clamp(0, 1)
        np.testing.assert_allclose(predicted[:, t], expected, atol=1e-3)


def test_open_loop_follows_the_actions_unless_there_are_none():
    batch = make_batch()
    other = batch | {"action": -batch["action"]}
    predictor = make_model(make_predictor, actions=A)
    for model, follows in ((make_model(), True), (predictor, False)):
        left, right = (panels(draw(reports.open_loop, model, b))[1] for b in (batch, other))
        assert np.array_equal(left, right) is not follows
    without = {k: batch[k] for k in ("image", "is_first")}
    assert reports.open_loop(predictor, without).shape[1] == T


@pytest.mark.parametrize("steps", [2, 3, 5, 6])
def test_open_loop_of_short_clips(steps):
    assert reports.open_loop(make_model(), make_batch(2, steps)).shape[:2] == (2, steps)


@pytest.mark.parametrize("beta_vae", [True, False])
def test_reconstruction_shows_the_last_frames(beta_vae):
    model, batch = make_model(beta_vae=beta_vae), make_batch()
    picture = reports.reconstruction(model, batch)
    assert picture.shape == (2 * 64, 6 * 64, 3)
    assert 0 <= picture.min() < picture.max() <= 1
    for n in range(6):
        truth = picture[:64, n * 64 : (n + 1) * 64]
        np.testing.assert_allclose(truth, batch["image"][n, -1] + 0.5, atol=1e-6)
    other = batch | {"image": batch["image"].clone()}
    other["image"][2, -1] *= -1
    before, after = (draw(reports.reconstruction, model, b)[64:] for b in (batch, other))
    changed = [np.abs(before - after)[:, n * 64 : (n + 1) * 64].max() > 0 for n in range(6)]
    assert changed == [False, False, True, False, False, False]


def test_traversal_rows_move_the_named_latent_only():
    """A posterior that passes on latent 1 alone: only row 1 changes along its columns."""
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        model.rssm.posterior[0].weight[:, D:] = 0
        model.rssm.posterior[0].weight[:, D + 1] = 1
    picture = reports.traversal(model, batch)
    assert picture.shape == (Z * 64, 7 * 64, 3)
    assert 0 <= picture.min() < picture.max() <= 1
    cells = picture.reshape(Z, 64, 7, 64, 3).swapaxes(1, 2)  # [Z, 7, 64, 64, 3]
    for row in (0, 2, 3):
        np.testing.assert_allclose(cells[row], cells[0, :1].repeat(7, 0), atol=1e-4)
    steps = np.abs(np.diff(cells[1], axis=0)).max((1, 2, 3))
    assert (steps > 4e-4).all()
    np.testing.assert_allclose(cells[1, 3], cells[0, 3], atol=1e-4)


@torch.no_grad()
def test_traversal_cells_one_by_one():
    model, batch = make_model(), make_batch()
    picture = reports.traversal(model, batch)
    mean = model.encode(batch["image"][0, -1]).mean
    for row in range(Z):
        for column, offset in enumerate((-9, -6, -3, 0, 3, 6, 9)):
            latent = mean.clone()
            latent[row] += offset
            state, action = model.rssm.initial(1), torch.zeros(1, A)
            first = torch.ones(1, dtype=torch.bool)
            state = model.rssm.obs_step(state, action, latent[None], first, sample=False)
            image = model.decoder(model.rssm.get_feat(state)).mode()[0] + 0.5
            cell = picture[row * 64 : (row + 1) * 64, column * 64 : (column + 1) * 64]
            np.testing.assert_allclose(cell, image.clamp(0, 1), atol=1e-4)


@torch.no_grad()
def test_the_kl_of_each_latent_by_an_independent_formula():
    model, batch = make_model(), make_batch()
    encoding = model.encode(batch["image"][:6])
    posterior = torch.distributions.Normal(encoding.mean, (encoding.logvar / 2).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, standard).mean((0, 1))
    np.testing.assert_allclose(reports.latent_kl(model, batch), expected, rtol=1e-4)


def as_uint8(picture):
    return (picture * 255 + 0.5).astype(np.uint8)


def test_named_open_loop_shows_the_same_frames_and_a_rim_while_it_is_given_the_truth():
    model, batch = make_model(), make_batch()
    video = draw(reports.named_open_loop, model, batch)
    clips = {name: value[:3] for name, value in batch.items()}
    bare = as_uint8(draw(reports.open_loop, model, clips))  # [3, T, 192, 64, 3]
    tiles = cut_grid(video, (64, 64))[0]  # [T, 3, 3, 64, 64, 3]
    for clip in range(3):
        np.testing.assert_array_equal(np.concatenate(list(tiles[:, :, clip].swapaxes(0, 1)), 1),
                                      bare[clip])  # fmt: skip
    rims = (video[0] == RIM_COLOR).all(-1).any((1, 2))
    assert rims.tolist() == [True] * 5 + [False] * (T - 5)


def test_named_traversal_has_the_rows_in_the_order_of_their_kl():
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        model.encoder.stats.bias[:Z] = torch.tensor([2.0, 4.0, 0.0, 3.0])
    order = np.argsort(-reports.latent_kl(model, batch))
    assert order.tolist() == [1, 3, 0, 2]
    sheet = reports.named_traversal(model, batch)
    bare = as_uint8(reports.traversal(model, batch)).reshape(Z, 64, 7, 64, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(cut_grid(sheet, (64, 64)), bare[order])
    label = write_text(f"z1\nKL {reports.latent_kl(model, batch)[1]:.2f}")
    top = len(sheet) - Z * (128 + GAP)
    np.testing.assert_array_equal(sheet[top : top + len(label), : label.shape[1]], label)


def test_reports_leave_weights_and_gradients_alone():
    model, batch = make_model(), make_batch()
    before = copied(model)
    kept = {k: v.clone() for k, v in batch.items()}
    for report in (reports.named_open_loop, reports.reconstruction, reports.named_traversal):
        report(model, batch)
    assert equal(copied(model), before)
    assert equal(batch, kept)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


def test_which_pictures_a_learner_draws(tiny):
    batch, base = tiny_models.make_batch(), {"openl", "reconstruction"}
    c = make_config()
    predictors = [Predictor(c.replace(beta_vae=b), Runtime.resolve(c)) for b in (True, False)]
    assert set(predictors[0].report(batch)) == base | {"beta_vae_traverse"}
    assert set(predictors[1].report(batch)) == base
    assert set(make_agent().report(batch)) == base
    assert set(make_agent(traverse=True, beta_vae=False).report(batch)) == base
    agent = make_agent(traverse=True, teacher=tiny.teacher)
    pictures = agent.report(batch)
    assert set(pictures) == base | {"beta_vae_traverse", "teacher_openl"}
    assert all(isinstance(p, np.ndarray) and np.isfinite(p).all() for p in pictures.values())
    agent.world_model.teacher.complete = False
    assert "teacher_openl" not in agent.report(batch)


def test_a_report_between_updates_changes_nothing_under_a_scratch_generator():
    batch, results = tiny_models.make_batch(), []
    for reporting in (False, True):
        agent = make_agent(imag_horizon=2)
        agent.learn(batch, 0)
        if reporting:
            with scratch_rng(5, agent.device):
                agent.report(batch)
        agent.learn(batch, 0)
        results.append(copied(agent))
    assert equal(*results)
