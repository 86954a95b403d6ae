"""APV: its loss and gradients against the same written out, what acts, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from accel.runtime import Runtime
from agents.optimizer import Optimizer
from baselines.apv import APV, APVPredictor, decayed
from tests.baselines.by_hand import World
from tests.helpers.models import SPACES, A, copied, make_batch, make_config, make_inputs
from tests.helpers.models import equal as same
from tests.helpers.runs import refusal

B, T = 2, 5
BONUS = {"k": 3, "intr_seq_length": 2, "queue_size": 12, "queue_dim": 4}
# What differs in the authors' preset for dm_control, at these sizes.
AUTHORS = {"dyn_discrete": 3, "af_latents": "sample", "af_kl_scale": "0.0", "concat_embed": True}
AUTHORS |= {"clip_apart": True, "weight_decay": 0.01, "decay_by_lr": False, "intr_beta": 0.1}


def configure(**changes):
    given = {"beta_vae": False, "grad_clip": 1e9, **BONUS, **changes}
    return make_config("--method_name", "apv", **given)


def make_apv(graphs=False, **changes):
    c = configure(**changes)
    torch.manual_seed(0)
    agent = APV(c, dataclasses.replace(Runtime.resolve(c), graphs=graphs), SPACES)
    with torch.no_grad():  # fresh biases and norms hide what is left out
        for name, parameter in agent.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


@pytest.mark.parametrize("changes", [{"action_num_gap": 1, "beta_type": "rel"}, AUTHORS], ids=str)
def test_terms_and_gradients_of_updates_in_a_row(changes):
    agent = make_apv(kl_free="0.01", **changes)
    by_hand, weights = World(agent), {"image": 1.0, "kl": 1.0, "reward": 2.0}
    weights["af_kl"] = float(agent.config.af_kl_scale)
    names = [name for name, _ in agent.world_model.named_parameters()]
    for seed in range(2):  # in the second, the queue has another batch in it
        batch, noise = make_batch(seed, B, T), agent.draw_noise(B, T)
        agent.draw_noise = lambda *_, noise=noise: noise
        with torch.no_grad():
            for name, weight in agent.world_model.state_dict().items():
                by_hand.weights[name].copy_(weight)
        terms = by_hand.terms(batch, noise.filter)
        loss = sum(weights[name] * term for name, term in terms.items())
        leaves = [by_hand.weights[name] for name in names]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        metrics = agent.learn(batch, 0).metrics
        for name, term in terms.items():
            assert float(metrics[f"{name}_loss"]) == pytest.approx(term.item(), rel=1e-5), name
        assert float(metrics["model_loss"]) == pytest.approx(loss.item(), rel=1e-5)
        for (name, own), grad in zip(agent.world_model.named_parameters(), grads, strict=True):
            wanted = torch.zeros_like(own) if grad is None else grad.float()
            torch.testing.assert_close(own.grad, wanted, rtol=1e-3, atol=2e-5, msg=name)
        assert own.grad.abs().max() > 0
    if not weights["af_kl"]:  # the prior below is left untrained
        assert not agent.world_model.af_rssm.prior_stats.weight.grad.any()


def test_the_reward_that_imagination_asks_for_has_the_bonus_in_it():
    """Its head is fit to reward + bonus, so the bonus moves its last bias's gradient."""
    grads, bonuses = [], []
    for beta in (1e-6, 50.0):
        agent = make_apv(intr_beta=beta, reward_scale="3.0")
        bonuses.append(float(agent.learn(make_batch(0, B, T), 0).metrics["intr_reward"]))
        grads.append(float(agent.world_model.reward.mean.bias.grad))
    assert bonuses[1] > 0.1
    assert grads[0] - grads[1] == pytest.approx(3 * (bonuses[1] - bonuses[0]), rel=1e-3)


def test_without_a_weight_there_is_no_bonus():
    agent = make_apv(intr_beta=0.0)
    metrics = agent.learn(make_batch(0, B, T), 0).metrics
    assert agent.bonus is None
    assert "intr_reward" not in metrics


def test_acting_carries_both_states_as_training_unrolls_them():
    agent, steps = make_apv(collect_dyn_sample=False), 4
    batch = make_batch(3, B, steps)
    batch["is_first"][:] = False
    batch["is_first"][:, 0] = batch["is_first"][1, 2] = True
    state, states, actions = None, [], [np.zeros((B, A), np.float32)]
    for t in range(steps):
        obs = {name: batch[name][:, t].numpy() for name in ("image", "is_first")}
        action, state = agent.act(obs, state, "eval")
        states.append(state)
        actions.append(action)
    batch["action"] = torch.from_numpy(np.stack(actions[:steps], 1))
    model = agent.world_model
    with torch.no_grad():
        lower = model.lower(batch, model.encode(batch["image"]), None)
        post, _ = model.upper(batch, lower, None)
    for t, carried in enumerate(states):
        for name in ("stoch", "deter"):
            below, above = lower.post[name][:, t], post[name][:, t]
            torch.testing.assert_close(carried[f"af_{name}"], below, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(carried[name], above, rtol=1e-4, atol=1e-5)


def test_a_recorded_update_moves_the_queue_as_an_eager_one():
    """Warming up for a recording moves the queue, too; what counts is one update each."""
    results = []
    for graphs in (False, True):
        agent = make_apv(graphs)
        torch.manual_seed(1)
        for seed in range(3):
            agent.learn(make_batch(seed, B, T), 0)
        assert agent._compute.graphs is graphs
        results.append(copied(agent))
    assert same(*results)
    assert int(results[0]["bonus.filled"]) == 12
    kept = {id(tensor) for tensor in agent._tensors()}
    assert all(id(tensor) in kept for tensor in agent.bonus.buffers())


def test_bad_batches_leave_the_queue_alone():
    agent = make_apv()
    agent.learn(make_batch(0, B, T), 0)
    before, batch = copied(agent), make_batch(1, B, T)
    batch["reward"][0, 0] = torch.nan
    assert agent.learn(batch, 0).skipped.any()
    assert same(before, copied(agent))


def test_clipped_apart_is_two_optimisers_and_decay_is_a_share_of_each_update():
    """The authors' form: w ← (1 − decay)·w, then Adam; here against two of PyTorch's own."""
    config = configure(weight_decay=0.01, decay_by_lr=False)
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(4)]
    own = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    lr, clip = 0.1, 0.5
    optimizer = Optimizer("x", own, decayed(config, lr), lr, clip, own[:1])
    adams = [torch.optim.Adam([p], lr, eps=config.opt_eps) for p in theirs]
    for _ in range(3):
        metrics = optimizer.step(own[0].square().sum() + 3 * own[1].sum())
        (theirs[0].square().sum() + 3 * theirs[1].sum()).backward()
        norms = [float(torch.nn.utils.clip_grad_norm_(p, clip)) for p in theirs]
        assert float(metrics["x_grad_norm"]) == pytest.approx(np.hypot(*norms), rel=1e-5)
        for p, adam in zip(theirs, adams, strict=True):
            p.data *= 0.99
            adam.step()
            adam.zero_grad()
        torch.testing.assert_close(own, theirs)


def test_all_three_optimisers_have_the_authors_decay():
    agent = make_apv(**AUTHORS)
    for optimizer in agent.optimizers.values():
        (group,) = optimizer.optimizer.param_groups
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.01)
    below = agent.optimizers["model"]._parts[0]
    parts = [agent.world_model.encoder, agent.world_model.af_rssm]
    assert {id(p) for p in below} == {id(p) for part in parts for p in part.parameters()}


@pytest.mark.parametrize(("latents", "drawn"), [("mode", False), ("sample", True)])
def test_pretraining_takes_the_latents_that_finetuning_takes(latents, drawn):
    c = configure(af_latents=latents)
    noise = APVPredictor(c, Runtime.resolve(c)).draw_noise(B, T)
    assert (noise.latent is not None) == drawn
    assert (make_apv(af_latents=latents).draw_noise(B, T).filter.lower is not None) == drawn
    learner = APVPredictor(c, Runtime.resolve(c))
    batch = {name: make_batch(0, B, T)[name] for name in ("image", "is_first")}
    make_inputs(learner, batch)
    assert torch.isfinite(learner.learn(batch, 0).metrics["model_loss"])


def test_the_predictor_is_all_there_is_below(tiny):
    agent = make_apv()
    c = configure(pretrain_checkpoint_path=str(tiny.plain))
    APV.check(c)
    agent = APV(c, Runtime.resolve(c), SPACES, APV.find_source(c))
    for part, module in (("encoder", "encoder"), ("decoder", "decoder"), ("rssm", "af_rssm")):
        given = torch.load(tiny.plain / f"{part}.pt", weights_only=True)
        assert same(given, copied(getattr(agent.world_model, module))), part


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"queue_size": 9}, "--queue_size 9 is smaller … 2 sequences of 5 windows … at least 10"),
        ({"intr_seq_length": 7}, "--intr_seq_length 7 is longer … --batch_length 6"),
        ({"intr_reward_norm": (0.9, 1.0)}, "--intr_reward_norm takes four numbers"),
        ({"beta_vae": True}, "--beta_vae True is not for --method_name apv … leave it out"),
        ({"distillation": True}, "--distillation True is not for --method_name apv"),
        ({"decay_by_lr": False, "opt": "sgd"}, "--decay_by_lr False takes --opt adam, not sgd"),
        ({"dyn_cell": "gru"}, "another recurrent cell: give --dyn_cell gru_layer_norm"),
    ],
)
def test_what_does_not_fit_is_one_line_before_training(tiny, changes, told):
    c = configure(**{"pretrain_checkpoint_path": str(tiny.plain), **changes})
    line = refusal(APV.check, c)
    assert all(part in line for part in told.split(" … ")), line
