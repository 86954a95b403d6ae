"""The agent's updates: who learns, who does not, by how much, and again the same."""

import io

import numpy as np
import pytest
import torch

import config
from agents.diswm import compute_dtype
from models import VideoPredictor

B, T, A = 2, 4, 2
SMALL = ["--configs", "defaults", "dmc2gym", "--device", "cpu", "--beta_vae", "True"]
SMALL += ["--z_dim", "3", "--dyn_stoch", "4", "--dyn_deter", "6", "--dyn_hidden", "7"]
SMALL += ["--units", "8", "--actor_layers", "2", "--imag_horizon", "3", "--kl_free", "0.1"]
SMALL += ["--distillation", "True", "--slow_target_update", "3"]


def make_config(**changes):
    return config.parse(SMALL).replace(**{"precision": "32", **changes})


def make_agent(seed=0, teacher=True, **changes):
    torch.manual_seed(seed)
    c = make_config(**changes)
    return Agent(c, Runtime.resolve(c), A, VideoPredictor(c, 0) if teacher else None)


def make_pretrainer():
    c = make_config()
    return Pretrainer(c, Runtime.resolve(c))


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    first = np.zeros((B, T), bool)
    first[:, 0] = first[1, 2] = True
    action = rng.uniform(-1, 1, (B, T, A)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (B, T, 64, 64, 3), dtype=np.uint8),
        "action": action,
        "reward": rng.normal(size=(B, T)).astype(np.float32) * 3,
        "discount": np.ones((B, T), np.float32),
        "is_first": first,
    }


def make_obs(envs=2, first=False, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (envs, 64, 64, 3), dtype=np.uint8)
    return {"image": image, "is_first": np.full(envs, first)}


def copy(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def weights_of(agent):
    return {k: v.clone() for k, v in agent.state_dict()["weights"].items()}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[k], right[k]) for k in left)


def test_the_teacher_is_bit_identical_and_gets_no_gradient():
    agent = make_agent()
    teacher = agent.world_model.teacher
    before, modes = copy(teacher), teacher.training
    for seed in range(3):
        metrics = agent.update(make_batch(seed))
        assert metrics["distillation_kl_loss"] > 0
        assert metrics["eta"] > 0
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert same(before, copy(teacher))
    assert teacher.training == modes
    owned = {p for o in agent.optimizers.values() for p in o.parameters}
    assert not owned & set(teacher.parameters())


FALLING = {0: 0.1, 22_500: 0.055, 45_000: 0.01, 10**6: 0.01}
WAITING = {0: 0.0, 49_999: 0.0, 50_000: 0.1, 72_500: 0.055, 95_000: 0.01, 10**6: 0.01}


@pytest.mark.parametrize(("cross_domain", "curve"), [(False, FALLING), (True, WAITING)])
def test_eta_by_the_agents_step(cross_domain, curve):
    agent = make_agent(cross_domain=cross_domain)
    for agent.step, eta in curve.items():
        value = agent.weights()["distill"]
        assert value.ndim == 0
        assert float(value) == pytest.approx(eta, rel=1e-6)
    agent.step = 72_500 if cross_domain else 22_500
    assert float(agent.update(make_batch())["eta"]) == pytest.approx(0.055, rel=1e-6)


def test_schedules_move_with_the_step():
    moving = {"beta_vae": "beta_vae_beta", "kl": "kl_scale"}
    moving |= {n: n for n in ("kl_balance", "kl_free", "actor_entropy", "imag_gradient_mix")}
    flags = dict.fromkeys(moving.values(), "linear(1,0,100)")
    agent = make_agent(**flags, reward_scale=2.0, distill_scale="0.3", cross_domain=True)
    for step in (0, 25, 100):
        agent.step = step
        weights = agent.weights()
        for name in moving:
            assert float(weights[name]) == pytest.approx(1 - step / 100)
        assert (float(weights["image"]), float(weights["reward"])) == (1.0, 2.0)
        assert float(weights["distill"]) == pytest.approx(0.3)  # given, it replaces the paper's
    agent.step = 25
    metrics = agent.update(make_batch())
    assert float(metrics["beta"]) == float(metrics["kl_scale"]) == 0.75


@pytest.mark.parametrize("discounted", [False, True])
def test_the_models_loss_is_the_weighted_sum_of_what_is_logged(discounted):
    agent = make_agent(pred_discount=discounted, discount_scale=5.0, reward_scale=2.0)
    agent.step = 22_500
    metrics = {k: float(v) for k, v in agent.update(make_batch()).items()}
    expected = metrics["image_loss"] + metrics["kl_loss"] + 2 * metrics["reward_loss"]
    expected += 0.015 * metrics["beta_vae_kl_loss"] + 0.055 * metrics["distillation_kl_loss"]
    expected += 5 * metrics["discount_loss"] if discounted else 0
    assert metrics["model_loss"] == pytest.approx(expected, rel=1e-6)


def test_who_moves_in_an_update():
    agent = make_agent()
    behavior = agent.behavior
    parts = {"model": agent.world_model, "actor": behavior.actor, "value": behavior.value}
    assert {name: set(o.parameters) for name, o in agent.optimizers.items()} == {
        name: {p for p in part.parameters() if p.requires_grad} for name, part in parts.items()
    }
    for update in range(7):
        before = {name: copy(part) for name, part in parts.items()}
        slow = copy(behavior.slow_value)
        agent.update(make_batch(update))
        for name, part in parts.items():
            assert not same(before[name], copy(part))
        expected = before["value"] if update % 3 == 0 else slow  # copied before the critic moves
        assert same(copy(behavior.slow_value), expected)
        assert same(slow, expected) == (update % 3 != 0 or update == 0)
    for name, part in parts.items():  # every single tensor, not only some
        moved = {k for k, v in part.state_dict().items() if not torch.equal(v, before[name][k])}
        frozen = {k for k in before[name] if k.startswith("teacher.")}
        assert moved == set(before[name]) - frozen, name


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce", "both"])
@pytest.mark.parametrize("slow_actor_target", [True, False])
def test_behaviour_learning_leaves_the_model_alone(gradient, slow_actor_target):
    agent = make_agent(imag_gradient=gradient, slow_actor_target=slow_actor_target)
    data = agent.prepare(make_batch())
    with torch.no_grad():
        post = agent.world_model.terms(data, agent.weights()).post
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
    agent._learn_behavior(post, agent.noise(B, T), agent.weights())
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


def test_pred_discount_starts_from_all_but_the_last_row():
    for discounted, rows in ((False, T), (True, T - 1)):
        agent = make_agent(pred_discount=discounted)
        imagine, starts = agent.behavior.imagine, []

        def catch(model, start, noise, imagine=imagine, starts=starts):
            starts.append(start)
            return imagine(model, start, noise)

        agent.behavior.imagine = catch
        data = agent.prepare(make_batch())
        post = agent.world_model.terms(data, agent.weights()).post
        agent._learn_behavior(post, agent.noise(B, T), agent.weights())
        expected = post["stoch"][:, :rows].reshape(B * rows, -1)
        assert torch.equal(starts[0]["stoch"], expected)


@pytest.mark.parametrize("part", ["model", "actor", "value"])
def test_gradients_are_clipped_to_the_norm(part):
    key = {"model": "grad_clip"}.get(part, f"{part}_grad_clip")
    agent, clipped = (make_agent(**{key: norm}) for norm in (1e9, 1e-3))
    norms = []
    for learner in (agent, clipped):
        torch.manual_seed(1)
        metrics = learner.update(make_batch())
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


@pytest.mark.parametrize("changes", [{}, {"imag_gradient": "both", "dyn_discrete": 3}], ids=str)
def test_the_same_seed_gives_the_same_bits(changes):
    agents = [make_agent(seed, **changes) for seed in (0, 0, 1)]
    metrics = []
    for agent in agents:
        torch.manual_seed(2)
        metrics = [*metrics, [agent.update(make_batch(i)) for i in range(2)][-1]]
    assert same(metrics[0], metrics[1])
    assert same(weights_of(agents[0]), weights_of(agents[1]))
    assert not same(weights_of(agents[0]), weights_of(agents[2]))


def test_a_loaded_state_goes_on_bit_for_bit():
    agent = make_agent(cross_domain=True)
    agent.step = 60_000
    for i in range(2):
        agent.update(make_batch(i))
    torch.save(agent.state_dict(), file := io.BytesIO())
    file.seek(0)
    state, rng = torch.load(file, weights_only=True), torch.get_rng_state()
    other = make_agent(seed=9, cross_domain=True)
    other.load_state_dict(state)
    assert (other.step, other.updates) == (60_000, 2)
    torch.set_rng_state(rng)
    expected = [agent.update(make_batch(i)) for i in (2, 3)]
    torch.set_rng_state(rng)
    actual = [other.update(make_batch(i)) for i in (2, 3)]
    for left, right in zip(expected, actual, strict=True):
        assert same(left, right)
    assert same(weights_of(agent), weights_of(other))
    fresh = make_agent(seed=9, cross_domain=True)  # without the moments the path is another
    fresh.load_state_dict(state | {"optimizers": make_agent().state_dict()["optimizers"]})
    torch.set_rng_state(rng)
    fresh.update(make_batch(2))
    fresh.update(make_batch(3))
    assert not same(weights_of(agent), weights_of(fresh))


def test_precision():
    cpu = torch.device("cpu")
    assert compute_dtype("32", cpu) is torch.float32
    assert compute_dtype("16", cpu) is compute_dtype("bf16", cpu) is torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    full, half = make_agent(), make_agent(precision="bf16")
    assert full.dtype is torch.float32
    results = []
    for agent in (full, half):
        torch.manual_seed(3)
        results.append(agent.update(make_batch()))
        assert all(p.dtype is torch.float32 for p in agent.parameters())
    for name, tolerance in {"image_loss": 1e-4, "reward_loss": 0.02, "model_loss": 1e-3}.items():
        assert float(results[1][name]) == pytest.approx(float(results[0][name]), rel=tolerance)
    for name in ("kl", "beta_vae_kl_loss", "actor_loss", "value_loss", "distillation_kl_loss"):
        expected = float(results[0][name])
        assert float(results[1][name]) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert not same(results[0], results[1])  # it did compute in something else


def test_metrics_stay_tensors_without_a_graph():
    agent = make_agent(pred_discount=True, imag_gradient="both")
    for metrics in (agent.update(make_batch()), make_pretrainer().update(make_batch())):
        for name, value in metrics.items():
            assert isinstance(value, torch.Tensor), name
            assert value.ndim == 0
            assert not value.requires_grad
            assert torch.isfinite(value)


@pytest.mark.parametrize("clip", ["identity", "sign", "tanh"])
def test_prepare(clip):
    agent, batch = make_agent(clip_rewards=clip), make_batch()
    image, reward = batch["image"].copy(), batch["reward"].copy()
    data = agent.prepare(batch)
    np.testing.assert_array_equal(data["image"], image)  # they cross as bytes
    assert data["image"].dtype == torch.uint8
    function = {"identity": lambda x: x, "sign": np.sign, "tanh": np.tanh}[clip]
    np.testing.assert_allclose(data["reward"], function(reward), rtol=1e-5)
    np.testing.assert_allclose(data["discount"], 0.99 * batch["discount"])
    np.testing.assert_array_equal(batch["image"], image)
    np.testing.assert_array_equal(batch["reward"], reward)
    assert float(agent.update(batch)["model_loss"]) < 1e6


@torch.no_grad()
def test_acting_step_by_step_is_filtering_with_the_actions_that_were_taken():
    agent = make_agent(eval_state_mean=True, action_num_gap=1)  # no noise in the latents
    model, state, actions, states = agent.world_model, None, [np.zeros((2, A))], []
    frames = [make_obs(first=t == 0 or t == 3, seed=t) for t in range(5)]
    frames[3]["is_first"][1] = False  # only the first environment begins anew
    torch.manual_seed(4)
    for obs in frames:
        action, state = agent.act(obs, state, "train")
        assert action.shape == (2, A)
        assert action.dtype == np.float32
        np.testing.assert_array_equal(state["action"], action)
        actions.append(action)
        states.append(state)
    image = torch.tensor(np.stack([obs["image"] for obs in frames], 1)) / 255 - 0.5
    padded = torch.tensor(np.stack(actions[:-1], 1)).float()
    padded = torch.cat([padded, torch.zeros(2, 5, 1)], -1)
    first = torch.tensor(np.stack([obs["is_first"] for obs in frames], 1))
    post, _ = model.rssm.observe(model.encode(image).mean, padded, first, sample=False)
    for name in ("deter", "mean", "std", "stoch"):
        actual = torch.stack([s[name] for s in states], 1)
        torch.testing.assert_close(actual, post[name], rtol=1e-4, atol=1e-5)


def test_is_first_forgets_the_state_and_the_action():
    agent = make_agent(eval_state_mean=True)
    state = {k: torch.randn_like(v) for k, v in agent.initial(2).items()}
    for first in (True, False):
        action, _ = agent.act(make_obs(first=first), state, "eval")
        fresh, _ = agent.act(make_obs(first=first), None, "eval")
        assert np.array_equal(action, fresh) == first
        for name in ("stoch", "deter", "action"):
            other, _ = agent.act(make_obs(first=first), state | {name: -state[name]}, "eval")
            assert np.array_equal(action, other) == first


@pytest.mark.parametrize("dist", ["trunc_normal", "onehot"])
def test_eval_takes_the_mode_and_train_samples(dist):
    agent = make_agent(actor_dist=dist, eval_state_mean=True)
    state = agent.initial(64)
    obs = make_obs(64, first=True)
    obs["image"][:] = obs["image"][:1]
    action, latent = agent.act(obs, state, "eval")
    head = agent.behavior.actor
    feat = torch.cat([latent["mean"], latent["deter"]], -1)
    out = head.out(head.layers(feat)).detach()
    one_hot = torch.nn.functional.one_hot(out[:, :A].argmax(-1), A)
    expected = one_hot if dist == "onehot" else out[:, :A].tanh()
    np.testing.assert_allclose(action, expected, atol=1e-5)
    trained, _ = agent.act(obs, state, "train")
    assert len(np.unique(trained.round(4), axis=0)) > (1 if dist == "onehot" else 60)
    assert np.abs(trained).max() <= 1
    _, latent = make_agent(collect_dyn_sample=False).act(obs, None)
    assert torch.equal(latent["stoch"], latent["mean"])  # its embedding is still a sample


@pytest.mark.parametrize(("key", "mode"), [("eval_noise", "eval"), ("expl_amount", "train")])
def test_noise_is_added_in_its_own_mode(key, mode):
    obs = make_obs(200, first=True)
    obs["image"] = np.broadcast_to(obs["image"][:1], obs["image"].shape)
    actions = {}
    for noise in (0.0, 0.3):
        agent = make_agent(**{key: noise})
        for played in ("eval", "train"):
            torch.manual_seed(5)
            actions[noise, played], _ = agent.act(obs, None, played)
    other = "train" if mode == "eval" else "eval"
    np.testing.assert_array_equal(actions[0.0, other], actions[0.3, other])
    noise = actions[0.3, mode] - actions[0.0, mode]
    inside = np.abs(actions[0.0, mode]) < 0.15  # where the clip to ±1 is far
    assert inside.sum() > 40
    assert noise[inside].std() == pytest.approx(0.3, rel=0.3)
    assert np.abs(actions[0.3, mode]).max() <= 1


def test_noise_on_discrete_actions_is_another_action():
    agent = make_agent(actor_dist="onehot", eval_noise=0.5)
    obs = make_obs(600, first=True)
    obs["image"] = np.broadcast_to(obs["image"][:1], obs["image"].shape)
    agent.behavior.actor.out.bias.data = torch.tensor([50.0, -50.0])
    action, _ = agent.act(obs, None, "eval")
    assert set(np.unique(action)) == {0.0, 1.0}
    assert action.mean(0) == pytest.approx([0.75, 0.25], abs=0.05)  # half of the noise hits itself
