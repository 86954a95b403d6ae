"""The agent's updates: who learns, who does not, and by how much."""

import numpy as np
import pytest
import torch

from accel.runtime import compute_dtype
from agents.learner import loss_scales
from tests.helpers.models import copied as copy
from tests.helpers.models import equal as same
from tests.helpers.models import (
    make_agent,
    make_batch,
    make_config,
    make_model,
    make_obs,
    stored,
)

B, T = 2, 4


def terms_of(agent, batch):
    """A batch as the agent takes it, its weights, its noise, and the posterior."""
    scales = dict(zip(agent.schedules, agent._scales_at(0).unbind(), strict=True))
    noise = agent.draw_noise(B, T)
    with torch.no_grad():
        post = agent.world_model.terms(agent.prepare(batch), scales, noise.filter).post
    return post, scales, noise.imagine


def test_the_teacher_is_bit_identical_and_gets_no_gradient(tiny):
    agent = make_agent(teacher=tiny.teacher)
    teacher = agent.world_model.teacher
    before, modes = copy(teacher), teacher.training
    for seed in range(2):
        metrics = agent.learn(make_batch(seed), 22_500).metrics
        assert metrics["distillation_kl_loss"] > 0
        assert float(metrics["eta"]) == pytest.approx(0.055, rel=1e-6)
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert same(before, copy(teacher))
    assert teacher.training == modes
    owned = {p for o in agent.optimizers.values() for p in o.parameters}
    assert not owned & set(teacher.parameters())


FALLING = {0: 0.1, 22_500: 0.055, 45_000: 0.01, 10**6: 0.01}
WAITING = {0: 0.0, 49_999: 0.0, 50_000: 0.1, 72_500: 0.055, 95_000: 0.01, 10**6: 0.01}


@pytest.mark.parametrize(
    ("eta", "cross_domain", "curve"),
    [
        ("paper", False, FALLING),
        ("paper", True, WAITING),
        ("published", False, dict.fromkeys(FALLING, 0.095)),
        ("published", True, dict.fromkeys(WAITING, 0.0)),
    ],
)
def test_eta_by_the_agents_step(eta, cross_domain, curve):
    distill = loss_scales(make_config(eta_schedule=eta, cross_domain=cross_domain))["distill"]
    assert [distill(step) for step in curve] == pytest.approx(list(curve.values()), rel=1e-6)


def test_a_trainable_teacher_learns_is_saved_and_comes_back(tiny, capsys):
    agent, other = (
        make_agent(teacher=tiny.teacher, words=("--teacher", "trainable")) for _ in range(2)
    )
    before = copy(agent.world_model.teacher)
    agent.learn(make_batch(), 0)
    after = copy(agent.world_model.teacher)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("encoder.")}
    other.load_state(stored(agent.save_state()))
    assert "holds another predictor" not in capsys.readouterr().err
    for learner in (agent, other):
        torch.manual_seed(4)
        learner.learn(make_batch(1), 5)
    assert same(copy(agent), copy(other))
    acts = make_agent(seed=9, words=("--teacher", "trainable"))  # as one that is evaluated
    acts.load_state(stored(agent.save_state()))
    assert acts.world_model.teacher is None
    actions = []
    for each in (agent, acts):
        torch.manual_seed(3)
        actions.append(each.act(make_obs(), None, "eval")[0])
    np.testing.assert_array_equal(*actions)


def test_every_weight_follows_the_schedule_of_its_key():
    c = make_config()
    keys = c.schedules()
    assert {name: keys[name] for name in ("kl", "beta_vae", "kl_free", "actor_entropy")} == {
        "kl": "kl_scale",
        "beta_vae": "beta_vae_beta",
        "kl_free": "kl_free",
        "actor_entropy": "actor_entropy",
    }
    for name, key in keys.items():
        scales = loss_scales(c.replace(**{key: "linear(1,0,100)"}))
        assert [scales[name](step) for step in (0, 25, 100)] == pytest.approx([1, 0.75, 0])
    given = c.replace(reward_scale=2.0, distill_scale="0.3", cross_domain=True)
    scales = {name: schedule(0) for name, schedule in loss_scales(given).items()}
    assert (scales["image"], scales["reward"], scales["distill"]) == (1, 2, 0.3)


def test_the_models_loss_is_the_weighted_sum_of_what_is_logged(tiny):
    flags = {"kl_scale": "linear(1,0,90000)", "beta_vae_beta": "linear(0,0.1,45000)"}
    flags |= {"pred_discount": "True", "discount_scale": 5.0, "reward_scale": 2.0}
    agent = make_agent(teacher=tiny.teacher, imag_gradient="both", **flags)
    update = agent.learn(make_batch(), 22_500)
    m = {name: float(value) for name, value in update.metrics.items()}
    expected = m["image_loss"] + 0.75 * m["kl_loss"] + 2 * m["reward_loss"] + 5 * m["discount_loss"]
    expected += 0.05 * m["beta_vae_kl_loss"] + 0.055 * m["distillation_kl_loss"]
    assert m["model_loss"] == pytest.approx(expected, rel=1e-6)
    assert (m["kl_scale"], m["beta"]) == pytest.approx((0.75, 0.05))
    assert m["image_loss"] < 64 * 64 * 3 * 1.5  # pixels were scaled
    assert not any(value.requires_grad for value in update.metrics.values())


def test_who_moves_in_an_update(tiny):
    agent = make_agent(teacher=tiny.teacher, slow_target_update=3)
    behavior = agent.behavior
    parts = {"model": agent.world_model, "actor": behavior.actor, "value": behavior.value}
    assert {name: set(o.parameters) for name, o in agent.optimizers.items()} == {
        name: {p for p in part.parameters() if p.requires_grad} for name, part in parts.items()
    }
    for update in range(5):
        before = {name: copy(part) for name, part in parts.items()}
        slow = copy(behavior.slow_value)
        agent.learn(make_batch(update), 0)
        for name, part in parts.items():
            assert not same(before[name], copy(part))
        expected = before["value"] if update % 3 == 0 else slow  # copied before the critic moves
        assert same(copy(behavior.slow_value), expected)
        assert same(slow, expected) == (update % 3 != 0 or update == 0)
    for name, part in parts.items():  # every single tensor, not only some
        moved = {k for k, v in part.state_dict().items() if not torch.equal(v, before[name][k])}
        frozen = {k for k in before[name] if k.startswith("teacher.")}
        assert moved == set(before[name]) - frozen, name


@pytest.mark.parametrize(
    ("gradient", "slow"), [("dynamics", True), ("reinforce", False), ("both", False)]
)
def test_behaviour_learning_leaves_the_model_alone(tiny, gradient, slow):
    agent = make_agent(teacher=tiny.teacher, imag_gradient=gradient, slow_actor_target=slow)
    post, scales, noise = terms_of(agent, make_batch())
    before, caught = copy(agent.world_model), {}
    for name in ("actor", "value"):
        step = agent.optimizers[name].step

        def catch(loss, skip, name=name, step=step):
            metrics = step(loss, skip)
            for part in ("actor", "value", "slow_value"):
                module = getattr(agent.behavior, part)
                caught[name, part] = [p.grad for p in module.parameters()]
            return metrics

        agent.optimizers[name].step = catch
    post = {k: v.requires_grad_() for k, v in post.items()}
    agent._learn_behavior(post, scales, noise)
    assert all(p.grad is None for p in agent.world_model.parameters())
    assert all(v.grad is None for v in post.values())
    assert same(before, copy(agent.world_model))
    assert all(g is not None and g.abs().sum() > 0 for g in caught["actor", "actor"])
    assert all(g is None for g in caught["actor", "value"])  # the actor's loss spares the critic
    assert all(g is None for g in caught["value", "slow_value"])
    for left, right in zip(caught["actor", "actor"], caught["value", "actor"], strict=True):
        assert left is right  # and the critic's spares the actor
    frozen = {id(p) for p in agent.world_model.teacher.parameters()}
    expected = [id(p) not in frozen for p in agent.world_model.parameters()]
    assert [p.requires_grad for p in agent.world_model.parameters()] == expected


def test_with_pred_discount_no_dream_goes_on_from_an_episodes_end():
    batch = make_batch()
    ends = torch.zeros(B, T, dtype=torch.bool)
    ends[-1, T // 2 - 1] = ends[0, -1] = True  # before another episode's first row, and at last
    batch["discount"][ends] = 0.0
    for choice in ("True", "False"):
        agent, seen = make_agent(pred_discount=choice), []
        targets = agent.behavior.targets

        def catch(*args, targets=targets, seen=seen):
            seen.append(targets(*args))
            return seen[-1]

        agent.behavior.targets = catch
        agent.learn(batch, 0)
        [(_, _, weights, _)] = seen
        begins = ~ends if choice == "True" else torch.ones_like(ends)
        assert torch.equal(weights[0], torch.ones(B * T))  # the critic learns of the ends, too
        # The first discount is the data's, so every other start weighs γ from there on.
        torch.testing.assert_close(weights[1].reshape(B, T), 0.99 * begins)


def test_auto_predicts_the_discount_where_episodes_end_early():
    hopper = {"task": "gymnasium_Hopper-v5"}
    for changes, learned in (
        ({}, False),
        (hopper, True),
        (hopper | {"pred_discount": "False"}, False),
        ({"pred_discount": "True"}, True),
    ):
        assert (make_model(**changes).discount is not None) == learned


def test_the_ends_of_episodes_are_learned():
    """A light that goes out, when the episode ends."""
    alone = {"image_scale": "0", "kl_scale": "0", "beta_vae": False}  # nothing else is wanted
    agent = make_agent(pred_discount="True", model_lr=1e-2, grad_heads=("discount",), **alone)
    steps, batch = torch.arange(T), make_batch()
    batch["image"] = (85 * (T - 1 - steps)).to(torch.uint8).reshape(1, T, 1, 1, 1)
    batch["image"] = batch["image"].repeat(B, 1, 64, 64, 3)
    batch["discount"] = (steps < T - 1).float().repeat(B, 1)
    data = agent.prepare(batch)
    scales = dict(zip(agent.schedules, agent._scales_at(0).unbind(), strict=True))
    for _ in range(40):
        noise = agent.world_model.draw_noise(B, T)
        outputs = agent.world_model.terms(data, scales, noise)
        agent.optimizers["model"].step(agent.world_model.loss(outputs.terms, scales))
    feat = agent.world_model.rssm.get_feat(outputs.post)
    discount = agent.world_model.discount(feat).mean[..., 0]
    assert (discount[:, -1] < 0.2).all()
    assert (discount[:, :-1] > 0.8).all()


@pytest.mark.parametrize("part", ["model", "actor", "value"])
def test_gradients_are_clipped_to_the_norm(part):
    key = {"model": "grad_clip"}.get(part, f"{part}_grad_clip")
    agent, clipped = (make_agent(**{key: norm}) for norm in (1e9, 1e-3))
    norms = []
    for learner in (agent, clipped):
        torch.manual_seed(1)
        metrics = learner.learn(make_batch(), 0).metrics
        grads = [p.grad for p in learner.optimizers[part].parameters]
        norm = float(metrics[f"{part}_grad_norm"])
        norms.append((norm, torch.cat([g.flatten() for g in grads])))
    (before, whole), (reported, short) = norms
    assert float(whole.norm()) == pytest.approx(before, rel=1e-4)
    assert float(short.norm()) == pytest.approx(1e-3, rel=1e-2)
    assert reported > 1e-3
    if part == "model":  # the same gradient, only shorter
        assert reported == pytest.approx(before, rel=1e-5)
        torch.testing.assert_close(short / short.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-6)


def test_other_seeds_and_discrete_latents():
    results = []
    for seed in (0, 0, 1):
        agent = make_agent(seed, imag_gradient="both", dyn_discrete=3)
        torch.manual_seed(2)
        metrics = [agent.learn(make_batch(i), 0).metrics for i in range(2)][-1]
        results.append(metrics | copy(agent))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_precision(tiny):
    cpu = torch.device("cpu")
    assert compute_dtype("32", cpu) is torch.float32
    assert compute_dtype("16", cpu) is compute_dtype("bf16", cpu) is torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    full, half = (make_agent(teacher=tiny.teacher, precision=p) for p in ("32", "bf16"))
    assert full.runtime.dtype is torch.float32
    results = []
    for agent in (full, half):
        torch.manual_seed(3)
        results.append(agent.learn(make_batch(), 0).metrics)
        assert all(p.dtype is torch.float32 for p in agent.parameters())
    for name, tolerance in {"image_loss": 1e-4, "reward_loss": 0.02, "model_loss": 1e-3}.items():
        assert float(results[1][name]) == pytest.approx(float(results[0][name]), rel=tolerance)
    for name in ("kl", "beta_vae_kl_loss", "actor_loss", "value_loss", "distillation_kl_loss"):
        expected = float(results[0][name])
        assert float(results[1][name]) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert not same(results[0], results[1])  # it did compute in something else


@pytest.mark.parametrize("clip", ["identity", "sign", "tanh"])
def test_prepare(clip):
    agent, batch = make_agent(clip_rewards=clip), make_batch()
    kept = {name: value.clone() for name, value in batch.items()}
    data = agent.prepare(batch)
    function = {"identity": lambda x: x, "sign": np.sign, "tanh": np.tanh}[clip]
    np.testing.assert_allclose(data["reward"], function(kept["reward"].numpy()), rtol=1e-5)
    np.testing.assert_allclose(data["discount"], 0.99 * kept["discount"])
    assert torch.equal(data["image"], kept["image"])  # still bytes
    assert same(batch, kept)
