"""HRSSM: every term and its gradient by hand; masks, distances, targets; what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

import config
from accel.runtime import Runtime
from agents.base import Spaces
from agents.learner import GradientLearner
from agents.registry import METHODS
from baselines import pictures
from baselines.hrssm import HRSSM, bisimulation_config
from baselines.hrssm_model import (
    BisimulationConfig,
    MaskConfig,
    bisimulation_term,
    cube_mask,
    reconstruction_term,
)
from tests.baselines import hrssm_by_hand
from tests.baselines.hrssm_by_hand import ByHand
from tests.helpers.models import make_batch
from tests.helpers.runs import refusal

SMALL = {"size": [16, 32], "dyn_deter": 6, "dyn_hidden": 5, "dyn_stoch": 3, "dyn_discrete": 4}
SMALL |= {"cnn_depth": 2, "units": 6, "bins": 9, "imag_horizon": 4, "device": "cpu"}
SMALL |= {"precision": "32", "kl_free": 0.02, "patch_size": 5, "block_size": 2}
SMALL |= {"batch_length": 6, "dyn_cont_stoch_size": 4, "actor_entropy": 0.1, "largest_reward": 3}
B, T, A = 2, 6, 2
SPACES = Spaces((16, 32, 3), A, False)


def parse(*blocks, **flags):
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name}", *map(str, values)]
    return config.parse(["--configs", *blocks, *words], methods=METHODS)


def make(seed=0, **flags):
    """A tiny agent, its weights no longer as they began."""
    parsed = parse("defaults", "dmc2gym", "hrssm", **{**SMALL, **flags})
    HRSSM.check(parsed)
    torch.manual_seed(seed)
    runtime = dataclasses.replace(Runtime.resolve(parsed), image_chunk=4)
    agent = HRSSM(parsed, runtime, SPACES)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return agent


def make_case(agent):
    """A batch and noise: one window has a seam, one ends an episode for good."""
    batch = make_batch(0, B, T, SPACES)
    batch["action"] *= 1.5  # some lie outside of ±1
    batch["is_first"][:, 1:] = False
    batch["is_first"][0, 2] = batch["is_first"][1, 4] = True
    batch["discount"][1, 3] = 0
    torch.manual_seed(1)
    return batch, agent.draw_noise(B, T)


def scales(agent):
    return dict(zip(agent.schedules, agent._scales_at(0).unbind(), strict=True))


def same_gradients(name, loss, expected, learned, theirs):
    """Compares a loss and its gradient by every parameter; the names of those that it reaches."""
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5), name
    found = torch.autograd.grad(loss, learned.values(), retain_graph=True, allow_unused=True)
    wanted = [theirs.w[key] for key in learned]
    by_hand = torch.autograd.grad(expected, wanted, retain_graph=True, allow_unused=True)
    reached = set()
    for key, one, two in zip(learned, found, by_hand, strict=True):
        one, two = (torch.zeros(()) if x is None else x for x in (one, two))
        error, size = (one - two).norm().item(), two.norm().item()
        assert error <= 2e-4 * size + 1e-7, (name, key, error, size)
        reached |= {key} if one.any() else set()
    return reached


@pytest.mark.parametrize("simsr", ["mended", "published"])
def test_every_term_and_its_gradient_are_those_by_hand(simsr):
    agent = make(simsr=simsr)
    theirs, (batch, noise) = ByHand(agent), make_case(agent)
    terms, post, _ = agent.world_model.terms(agent.prepare(batch), scales(agent), noise.filter)
    expected, start = theirs.terms(batch, noise.filter)
    assert terms.keys() == expected.keys()
    assert set(terms) | {"kl_free", "actor_entropy"} <= set(agent.schedules)
    learned = {name: x for name, x in agent.named_parameters() if x.requires_grad}
    torch.testing.assert_close(agent.world_model.rssm.get_feat(post), start.float())
    reached = {
        name: same_gradients(name, term, expected[name], learned, theirs)
        for name, term in terms.items()
    }
    heads = {"reward", "discount", "projection"}
    parts = {name: {key.split(".")[1] for key in keys} for name, keys in reached.items()}
    assert parts["reward"] & heads == {"reward"}
    assert parts["discount"] & heads == {"discount"}
    assert parts["mbr"] & heads == {"projection"}
    assert all(parts[name] == {"encoder", "rssm"} for name in ("simsr", "rep"))
    ours = {key for key in learned if key.startswith("world_model.")}
    assert set().union(*reached.values()) == ours


def test_actor_and_critic_learn_what_is_worked_out_by_hand():
    agent = make()
    theirs, (_, noise) = ByHand(agent), make_case(agent)
    agent.behavior.scale.low.fill_(-3.0)  # so that the spread counts
    theirs.low = -3.0
    torch.manual_seed(2)
    rssm = agent.world_model.rssm
    stoch = torch.eye(4)[torch.randint(4, (B * T, 3))]
    start = {"stoch": stoch, "deter": torch.randn(B * T, 6)}
    losses, metrics = agent.behavior.terms(
        agent.world_model, start, noise.imagine, agent.config.discount, scales(agent)
    )
    expected = theirs.losses(rssm.get_feat(start).double(), noise.imagine)
    learned = {name: x for name, x in agent.named_parameters() if x.requires_grad}
    for name, loss in losses.items():
        own = {key: x for key, x in learned.items() if key.startswith(f"behavior.{name}.")}
        assert same_gradients(name, loss, expected[name], own, theirs) == own.keys()
        others = [x for key, x in learned.items() if key not in own]
        found = torch.autograd.grad(loss, others, retain_graph=True, allow_unused=True)
        assert found == (None,) * len(others)
    assert metrics["return_low"].item() == pytest.approx(theirs.low, rel=1e-5)
    assert metrics["return_high"].item() == pytest.approx(theirs.high, rel=1e-4)


def test_half_of_the_cells_are_hidden_in_blocks_of_frames():
    mask, size = MaskConfig(), (64, 64)
    assert mask.shape(64, size) == (16, 6, 6)
    torch.manual_seed(0)
    seen = cube_mask(torch.rand(16, 6, 6), 64, size, mask)[..., 0]
    assert seen.shape == (64, 64, 64)
    blocks = seen.unflatten(0, (16, 4))
    assert (blocks == blocks[:, :1]).all()
    assert len({block[0].numpy().tobytes() for block in blocks}) == 16
    starts, ends = [0, 11, 22, 32, 43, 54], [11, 22, 32, 43, 54, 64]
    for frame in seen:
        cells = [
            [frame[a:b, c:d] for c, d in zip(starts, ends, strict=True)]
            for a, b in zip(starts, ends, strict=True)
        ]
        assert all((cell == cell[0, 0]).all() for row in cells for cell in row)
        assert sum(int(cell[0, 0]) for row in cells for cell in row) == 18
    with_torch = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6), (64, 64))
    by_hand = hrssm_by_hand.upsampled(with_torch[0, 0][np.ix_(starts, starts)].numpy(), size)
    np.testing.assert_array_equal(by_hand, with_torch[0, 0])


def test_every_cell_is_hidden_as_often():
    torch.manual_seed(0)
    mask = MaskConfig(patch=8, block=1, share=0.25)
    seen = cube_mask(torch.rand(4000, 2, 4), 4000, (16, 32), mask)[..., 0]
    shares = seen[:, ::8, ::8].mean(0)
    torch.testing.assert_close(shares, torch.full((2, 4), 0.75), atol=0.03, rtol=0)
    last = cube_mask(torch.rand(2, 2, 4), 3, (16, 32), MaskConfig(8, 2))  # a block that is cut off
    assert last.shape == (3, 16, 32, 1)
    assert torch.equal(last[0], last[1])


def pairs(seed=0):
    torch.manual_seed(seed)
    feats = [torch.randn(2, 4, 5) for _ in range(4)]
    batch = {"reward": torch.rand(2, 4), "is_first": torch.zeros(2, 4, dtype=torch.bool)}
    batch["is_first"][:, 0] = batch["is_first"][1, 2] = True
    return feats, batch


def bisimulation(feats, batch, **more):
    return bisimulation_term(*feats[:2], tuple(feats[2:]), batch, BisimulationConfig(**more))


def test_a_mended_distance_knows_no_episodes_border_and_the_rewards_that_follow():
    feats, batch = pairs()
    before = bisimulation(feats, batch)
    for x in (batch["reward"], *feats[2:]):
        x[1, 2] = 7.0  # what is there follows from nothing
        x[:, 0] = 8.0  # and this comes before everything
    assert torch.equal(bisimulation(feats, batch), before)
    batch["reward"][0, 1] += 1
    assert not torch.equal(bisimulation(feats, batch), before)
    before = bisimulation(feats, batch, published=True)
    batch["reward"][:, -1] += 1
    assert torch.equal(bisimulation(feats, batch, published=True), before)
    batch["reward"][1, 1] += 1
    assert not torch.equal(bisimulation(feats, batch, published=True), before)


def test_targets_that_are_met_cost_nothing():
    """Where all rewards are alike and what follows is one state, so is what came before."""
    feats, batch = pairs()
    batch["reward"][:] = 0.3
    for x in feats:
        x[:] = torch.arange(1.0, 6.0)
    assert bisimulation(feats, batch).item() == pytest.approx(0, abs=1e-12)
    one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[-4.0, 3.0]]])
    assert reconstruction_term(one, 5 * one).item() == pytest.approx(0, abs=1e-12)
    assert reconstruction_term(one, other).item() == pytest.approx(2)


def test_rewards_that_are_as_far_apart_as_can_be_make_the_largest_distance():
    repeat = {"task": "dmc_walker_walk", "action_repeat": 2}
    for flags, factor in (
        (repeat, 1.0),  # as the authors': the sum of two rewards of at most 1
        ({"task": "dmc_walker_walk", "action_repeat": 4}, 0.5),
        ({**repeat, "largest_reward": 10}, 0.2),
    ):
        found = bisimulation_config(parse("defaults", "dmc", "hrssm", **flags))
        assert found.reward == pytest.approx(factor)
        assert not found.published
    manipulation = parse("defaults", "hrssm").replace(task="rms_push_cube", action_repeat=1)
    assert bisimulation_config(manipulation).reward == pytest.approx(2)


def test_the_target_and_the_slow_critic_follow_and_the_target_learns_nothing():
    agent = make(encoder_tau=0.25, dynamics_tau=0.5, slow_target_fraction=0.1)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    batch, _ = make_case(agent)
    agent.learn(batch, 0)
    now, moved = agent.state_dict(), 0
    for name in (name for name in now if name.startswith("world_model.target.")):
        online = now[name.replace("target.", "")]
        share = 0.25 if ".encoder." in name else 0.5
        torch.testing.assert_close(now[name], torch.lerp(before[name], online, share))
        moved += not torch.equal(now[name], before[name])
    assert moved > 20
    slow = before["behavior.slow_value.out.weight"]
    expected = torch.lerp(slow, before["behavior.value.out.weight"], 0.1)
    torch.testing.assert_close(now["behavior.slow_value.out.weight"], expected)


def test_what_the_target_begins_as_is_the_online_branch():
    parsed = parse("defaults", "dmc2gym", "hrssm", **SMALL)
    model = HRSSM(parsed, Runtime.resolve(parsed), SPACES).world_model
    online = model.state_dict()
    for name, value in model.target.state_dict().items():
        assert torch.equal(value, online[name])
    assert not any(value.requires_grad for value in model.target.parameters())
    assert not model.reward.out.weight.any()


def test_ends_of_episodes_are_learned_without_gamma(monkeypatch):
    agent = make(discount=0.5)
    batch, _ = make_case(agent)
    assert torch.equal(agent.prepare(batch)["discount"], batch["discount"])
    assert GradientLearner.prepare(agent, batch)["discount"].max() == 0.5


def test_an_episode_begins_with_what_was_learned_and_forgets():
    rssm = make().world_model.rssm
    embed = torch.randn(B, T, rssm.posterior[0].in_features - 6)
    action, first = torch.rand(B, T, A), torch.zeros(B, T, dtype=torch.bool)
    first[0, 3] = True
    whole, _ = rssm.observe(embed, action, first, sample=False)
    again, _ = rssm.observe(embed[:1, 3:], action[:1, 3:], first[:1, 3:], sample=False)
    torch.testing.assert_close(whole["deter"][:1, 3:], again["deter"])
    state = rssm.initial(B)
    assert torch.equal(state["deter"], rssm.first_deter.tanh().expand(B, -1))
    for t in range(T):
        state = rssm.obs_step(state, action[:, t], embed[:, t], first[:, t], sample=False)
        torch.testing.assert_close(state["deter"], whole["deter"][:, t])


def test_the_picture_has_the_frames_whose_projections_are_the_nearest(monkeypatch):
    agent, drawn = make(batch_length=8), {}

    def imagined(frames, few, nearest):
        drawn.update(frames=frames, few=few, nearest=nearest)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(pictures, "imagined", imagined)
    batch = make_batch(0, 5, 8, SPACES)
    batch["is_first"][1, 6] = True
    assert [*agent.report(batch)] == ["nearest"]
    assert drawn["few"].tolist() == [0, 2, 3, 4, 1]  # those that go on come first
    assert torch.equal(drawn["frames"], batch["image"][:, 4:].transpose(0, 1))
    model, rssm = agent.world_model, agent.world_model.rssm
    with torch.no_grad():
        embed = model.encoder(batch["image"]).embed
        post, _ = rssm.observe(embed, batch["action"], batch["is_first"], sample=False)
        of_frames = [(t, b) for t in range(4, 8) for b in range(5)]
        known = [model.projection(rssm.get_feat(post)[b, t]) for t, b in of_frames]
        for i, b in enumerate(drawn["few"].tolist()):
            state = {name: value[b : b + 1, 4] for name, value in post.items()}
            for step in range(3):
                state = rssm.img_step(state, batch["action"][b, 5 + step][None], sample=False)
                own = model.projection(rssm.get_feat(state))[0]
                alike = [hrssm_by_hand.cosine(own, other).item() for other in known]
                assert drawn["nearest"][step, i] == int(np.argmax(alike))


def test_the_published_command_line_is_the_published_agent():
    argv = ["--configs", "dmc_vision", "--task", "dmc_walker_stand", "--seed", "0"]
    parsed = config.parse([*argv, "--logdir", "./log"], methods=METHODS)
    HRSSM.check(parsed)
    assert parsed.method_name == "hrssm"
    published = {"envs": 4, "action_repeat": 2, "batch_size": 16, "batch_length": 64}
    published |= {"steps": 10**6, "train_every": 2, "prefill": 2500, "pretrain": 100}
    published |= {"model_lr": 1e-4, "actor_lr": 3e-5, "value_lr": 3e-5, "opt_eps": 1e-8}
    published |= {"grad_clip": 1000, "actor_grad_clip": 100, "discount": 0.997}
    published |= {"discount_lambda": 0.95, "imag_horizon": 15, "actor_entropy": "3e-4"}
    assert {name: parsed[name] for name in published} == published
    meta = torch.device("meta")
    runtime = dataclasses.replace(Runtime.resolve(parsed), device=meta, compile=False)
    with meta:
        agent = HRSSM(parsed, runtime, Spaces((64, 64, 3), 6, False))
    assert agent.world_model.encoder.embed_size == 4096
    assert agent.world_model.rssm.feat_size == 1536
    assert agent.behavior.config.horizon == 14  # 15 states, their beginning among them


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"batch_length": 7}, "--batch_length 7: hrssm hides the same of 2 frames in a row"),
        ({"batch_length": 3, "block_size": 4}, "(--block_size): give a multiple, such as 4"),
        ({"patch_size": 17}, "--patch_size 17: images of --size 16 32 have no such cell"),
        ({"size": [64, 40]}, "--size 64 40: hrssm halves images four times"),
        ({"dyn_discrete": 0}, "--dyn_discrete 0: hrssm's latents have from 2 to 256 classes"),
        ({"bins": 254}, "--bins 254: give an odd number"),
        ({"beta_vae": True}, "leave out --beta_vae True"),
        ({"act": "SilU"}, "--act: 'SilU' is no activation"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(flags, line):
    given = parse("defaults", "dmc2gym", "hrssm", **{**SMALL, **flags})
    assert line in refusal(HRSSM.check, given)


def test_rewards_that_may_be_larger_than_distances_are_noted(capsys):
    plain = {name: value for name, value in SMALL.items() if name != "largest_reward"}
    pusher = {"task": "gymnasium_Pusher-v5"}
    for flags in (plain, {**SMALL, **pusher, "largest_reward": 5}, {**plain, **pusher}):
        assert capsys.readouterr().err == ""
        HRSSM.check(parse("defaults", "dmc2gym", "hrssm", **flags))
    assert "note: hrssm's distances take an agent step" in capsys.readouterr().err


def test_a_task_with_choices_is_refused():
    given = parse("defaults", "dmc2gym", "hrssm", **SMALL)
    discrete = Spaces((16, 32, 3), 3, True)
    line = refusal(HRSSM, given, Runtime.resolve(given), discrete)
    assert "--method_name hrssm takes continuous actions" in line
