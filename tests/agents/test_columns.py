"""The frozen teacher's latents beside the replay's rows, instead of encoded at every update."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents import diswm
from agents.learner import GradientLearner
from agents.pretrained import load_predictor
from models import TEACHER_LOGVAR, TEACHER_MEAN
from networks import STATISTICS_CHUNK
from tests.helpers.models import make_agent, make_batch


def with_columns(agent, batch):
    """A batch as it comes from the replay, its columns computed of an episode for each sequence."""
    each = [agent.columns().compute(image.numpy()) for image in batch["image"]]
    return batch | {k: torch.from_numpy(np.stack([e[k] for e in each])) for k in each[0]}


@torch.no_grad()
def by_hand(encoder, image):
    """Mean and log variance [N, Z] of one image at a time, in float64, from the weights alone."""
    found = []
    for one in image.reshape(-1, *image.shape[-3:]):
        x = one.double().permute(2, 0, 1)[None] / 255 - 0.5
        for layer, (stride, padding) in zip(
            encoder.layers[::2], [(2, 1)] * 4 + [(1, 0)], strict=True
        ):
            x = F.elu(F.conv2d(x, layer.weight.double(), layer.bias.double(), stride, padding))
        found.append(
            F.linear(x.flatten(), encoder.stats.weight.double(), encoder.stats.bias.double())
        )
    return torch.stack(found).chunk(2, -1)


def kl_by_hand(mean, logvar, noise, student):
    """The distillation's term from the paper's words, in float64."""
    teacher = (mean + noise.double() * torch.exp(logvar / 2)).softmax(-1)
    ratio = teacher.log() - student.double().log_softmax(-1)
    return (teacher * ratio).sum((1, 2)).mean()


def test_they_are_the_encoders_whatever_else_an_episode_holds(tiny):
    agent = make_agent(teacher=tiny.teacher, precision="bf16")
    image = make_batch(size=1, length=STATISTICS_CHUNK + 6)["image"][0]
    columns = agent.columns()
    assert {k: (shape, dtype) for k, (shape, dtype) in columns.fields.items()} == {
        TEACHER_MEAN: ((4,), np.float32),
        TEACHER_LOGVAR: ((4,), np.float32),
    }
    whole = columns.compute(image.numpy())
    assert all(value.dtype == np.float32 for value in whole.values())
    expected = by_hand(agent.world_model.teacher.encoder, image[:3])
    for name, value in zip((TEACHER_MEAN, TEACHER_LOGVAR), expected, strict=True):
        np.testing.assert_allclose(whole[name][:3], value.detach(), rtol=1e-5, atol=1e-6)
    for start, end in ((0, 1), (5, 40), (STATISTICS_CHUNK - 1, None)):
        part = columns.compute(image[start:end].numpy())
        for name, value in part.items():
            np.testing.assert_array_equal(value, whole[name][start:end])


def test_an_update_with_them_equals_one_that_encodes(tiny):
    """Loss terms and all gradients, and the term itself by an independent computation."""
    results, batch = [], make_batch(length=6)
    for given in (False, True):
        agent = make_agent(teacher=tiny.teacher)
        teacher = agent.world_model.teacher
        data = with_columns(agent, batch) if given else batch
        if given:
            teacher.encoder.forward = None  # nobody asks it
        torch.manual_seed(5)
        drawn, caught = agent.draw_noise(2, 6).filter, []
        encode = agent.world_model.encode
        agent.world_model.encode = lambda *a, c=caught, e=encode: c.append(e(*a)) or c[-1]
        torch.manual_seed(5)
        metrics = agent.learn(data, 0).metrics
        mean, logvar = (v.reshape(2, 6, 4) for v in by_hand(teacher.encoder, batch["image"]))
        expected = kl_by_hand(mean, logvar, drawn.teacher, caught[0].embed).item()
        assert float(metrics["distillation_kl_loss"]) == pytest.approx(expected, rel=1e-5)
        grads = {n: p.grad for n, p in agent.named_parameters() if p.grad is not None}
        results.append((metrics, grads))
    (metrics, grads), (ours, own) = results
    assert metrics.keys() == ours.keys()
    for name, value in metrics.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), name
    assert grads.keys() == own.keys()
    for name, value in grads.items():
        assert float((own[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-12, name


def test_under_bfloat16_the_teacher_is_float32s(tiny):
    results = {}
    for precision in ("32", "bf16"):
        agent = make_agent(teacher=tiny.teacher, precision=precision)
        student = make_batch()["image"].float().mean((-1, -2, -3))[..., None].expand(2, 4, 4)
        agent.world_model.encode = lambda *a, e=agent.world_model.encode, s=student: e(*a)._replace(
            embed=s / 64
        )
        torch.manual_seed(1)
        data = agent.prepare(with_columns(agent, make_batch()))
        scales = dict(zip(agent.schedules, agent._scales_at(0).unbind(), strict=True))
        with agent.autocast(), torch.no_grad():
            outputs = agent.world_model.terms(data, scales, agent.draw_noise(2, 4).filter)
        results[precision] = outputs.terms["distill"]
    assert results["bf16"].dtype == torch.float32
    assert torch.equal(results["32"], results["bf16"])


def test_there_are_none_without_a_frozen_teachers_latent(tiny):
    assert make_agent().columns() is None
    assert make_agent(teacher=tiny.teacher, words=("--teacher", "trainable")).columns() is None
    assert make_agent(teacher=tiny.plain, beta_vae=False).columns() is None


@pytest.mark.slow
def test_a_resumed_run_learns_from_its_own_teachers(tiny, killed, monkeypatch):
    """Though the files hold another one by now."""
    batches, learn = [], GradientLearner.learn

    def seeing(self, batch, step):
        batches.append((self, {k: v.clone() for k, v in batch.items()}))
        return learn(self, batch, step)

    def load_moved(*args):
        teacher = load_predictor(*args)
        with torch.no_grad():
            teacher.encoder.stats.weight.mul_(2)
        return teacher

    monkeypatch.setattr(GradientLearner, "learn", seeing)
    monkeypatch.setattr(diswm, "load_predictor", load_moved)
    tiny.finish(tiny.finetune(killed("many steps after a checkpoint")))
    assert len(batches) > 2
    own = load_predictor(batches[0][0].config).encoder.stats.weight
    for agent, batch in batches:
        assert torch.equal(agent.world_model.teacher.encoder.stats.weight, own)
        encoding = agent.world_model.teacher.encode(batch["image"])
        torch.testing.assert_close(batch[TEACHER_MEAN], encoding.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(batch[TEACHER_LOGVAR], encoding.logvar, rtol=1e-5, atol=1e-6)
