"""DreamerV3: every term and its gradient by hand; latents of the replay; what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import config
from accel.runtime import Runtime
from agents.base import Spaces
from agents.registry import METHODS
from baselines.dreamerv3 import DreamerV3, kept_rows
from baselines.dreamerv3_model import ReturnScale, lambda_returns
from tests.baselines.dreamerv3_by_hand import ByHand
from tests.helpers.models import make_batch, make_obs, stored
from tests.helpers.runs import refusal

SMALL = {"size": [16, 16], "dyn_deter": 8, "dyn_hidden": 5, "dyn_stoch": 3, "dyn_discrete": 4}
SMALL |= {
    "dyn_blocks": 2,
    "cnn_depth": 1,
    "units": 6,
    "bins": 9,
    "imag_horizon": 3,
    "device": "cpu",
}
SMALL |= {"precision": "32", "kl_free": 0.05, "batch_length": 5, "dataset_size": 40}
B, T = 3, 5


def parse(*words, **flags):
    given = {**SMALL, **flags}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        words = (*words, f"--{name}", *map(str, values))
    return config.parse(["--configs", "defaults", "dmc2gym", "dreamerv3", *words], methods=METHODS)


def make(discrete=False, seed=0, **flags):
    """A tiny agent, its weights no longer as they began."""
    parsed = parse(**flags)
    DreamerV3.check(parsed)
    torch.manual_seed(seed)
    runtime = dataclasses.replace(Runtime.resolve(parsed), image_chunk=4)
    agent = DreamerV3(parsed, runtime, Spaces((16, 16, 3), 3 if discrete else 2, discrete))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


def make_rows(agent, seed=0):
    """A batch: one window has a seam, one ends an episode for good, one goes on from before."""
    spaces = Spaces((16, 16, 3), agent.behavior.actor.actions, agent.behavior.actor.discrete)
    batch = make_batch(seed, B, T, spaces)
    batch["is_first"][:, 1:] = False
    batch["is_first"][0, 2] = batch["is_first"][1, 3] = True
    batch["discount"][1, 2] = 0
    return batch


def make_case(agent):
    """What `terms` takes."""
    torch.manual_seed(1)
    batch, noise = make_rows(agent), agent.draw_noise(B, T)
    batch["is_first"][2, 0] = False
    batch["deter"] = 0.5 * torch.randn(B, 8)
    batch["stoch"] = torch.eye(4)[torch.randint(4, (B, 3))]
    return batch, noise


def scales(agent):
    return dict(zip(agent.schedules, agent._scales_at(0).unbind(), strict=True))


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_every_term_and_its_gradient_are_those_by_hand(discrete):
    agent = make(discrete)
    theirs = ByHand(agent)
    batch, noise = make_case(agent)
    agent.behavior.scale.low.fill_(-3.0)  # so that the spread counts
    theirs.low = -3.0
    terms, _, metrics = agent.terms(agent.prepare(batch), scales(agent), noise)
    expected = theirs.terms(batch, noise)
    assert list(terms) == list(expected)
    assert metrics["return_low"].item() == pytest.approx(theirs.low, rel=1e-5)
    assert metrics["return_high"].item() == pytest.approx(theirs.high, rel=1e-3)
    learned = {name: value for name, value in agent.named_parameters() if value.requires_grad}
    reached = dict.fromkeys(learned, 0)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-4), name
        found = torch.autograd.grad(term, learned.values(), retain_graph=True, allow_unused=True)
        by_hand = torch.autograd.grad(
            expected[name], [theirs.w[key] for key in learned], retain_graph=True, allow_unused=True
        )
        for key, one, two in zip(learned, found, by_hand, strict=True):
            if one is None or two is None:
                assert not any(part is not None and part.any() for part in (one, two)), (name, key)
                continue
            error, size = (one - two).norm().item(), two.norm().item()
            assert error <= 2e-4 * size + 1e-6, (name, key, error, size)
            reached[key] += size > 0
    assert all(reached.values()), [key for key, count in reached.items() if not count]


def test_who_learns_from_what():
    agent = make()
    batch, noise = make_case(agent)
    terms, _, _ = agent.terms(agent.prepare(batch), scales(agent), noise)
    parts = {name.split(".")[0] + "." + name.split(".")[1] for name, _ in agent.named_parameters()}
    parts.discard("behavior.slow_value")
    reached = {}
    for name, term in terms.items():
        agent.zero_grad()
        term.backward(retain_graph=True)
        reached[name] = {
            part
            for part in parts
            if any(
                value.grad is not None and value.grad.any()
                for key, value in agent.named_parameters()
                if key.startswith(part + ".")
            )
        }
    model = {"world_model.encoder", "world_model.rssm"}
    assert reached["image"] == model | {"world_model.decoder"}
    assert reached["reward"] == model | {"world_model.reward"}
    assert reached["discount"] == model | {"world_model.discount"}
    assert reached["rep"] == model
    assert reached["policy"] == {"behavior.actor"}
    assert reached["value"] == {"behavior.value"}
    assert reached["replay_value"] == model | {"behavior.value"}


def test_free_nats_are_each_rows_own():
    agent = make(kl_free=1e3)
    batch, noise = make_case(agent)
    terms, _, _ = agent.terms(agent.prepare(batch), scales(agent), noise)
    assert terms["dyn"].item() == terms["rep"].item() == pytest.approx(1e3)
    for name in ("dyn", "rep"):
        agent.zero_grad()
        terms[name].backward(retain_graph=True)
        assert not any(p.grad is not None and p.grad.any() for p in agent.parameters())


def test_returns_are_weighed_sums_of_all_lengths():
    rng = np.random.default_rng(0)
    reward, discount, value = (rng.uniform(size=(4, 2)) for _ in range(3))
    lambda_ = np.array([[0.9, 0.9], [0.0, 0.9], [0.9, 0.9], [0.9, 0.9]])
    found = lambda_returns(*map(torch.tensor, (reward, discount, value, lambda_)))
    last = value[-1]
    for t in reversed(range(4)):
        last = reward[t] + discount[t] * ((1 - lambda_[t]) * value[t] + lambda_[t] * last)
        np.testing.assert_allclose(found[t], last)
    # where the trace ends, what comes after counts for nothing
    reward[2:, 0] += 5
    again = lambda_returns(*map(torch.tensor, (reward, discount, value, lambda_)))
    np.testing.assert_array_equal(again[:2, 0], found[:2, 0])


def test_the_scale_of_returns_moves_slowly_and_is_at_least_one():
    scale, rng = ReturnScale(0.1), np.random.default_rng(0)
    low = high = 0.0
    for turn in range(3):
        returns = rng.normal(3, 40 if turn else 0.1, size=(5, 20))
        found = np.percentile(returns, [5, 95])
        low, high = 0.9 * low + 0.1 * found[0], 0.9 * high + 0.1 * found[1]
        spread = scale.update(torch.tensor(returns, dtype=torch.float32))
        assert spread.item() == pytest.approx(max(1, high - low), rel=1e-5)
    scale.update(torch.tensor([np.nan, 1.0]))
    assert scale.low.item() == pytest.approx(low, rel=1e-5)


def test_the_slow_critic_follows(same):
    agent = make(slow_target_fraction=0.25)
    slow, fast = agent.behavior.slow_value.out.weight, agent.behavior.value.out.weight
    expected = 0.75 * slow + 0.25 * fast.detach()
    agent.before_update()
    torch.testing.assert_close(slow, expected)


def learned_from(agent, row, seed=0):
    """The first states' known ones, after an update on rows of such numbers."""
    torch.manual_seed(seed)
    batch = {**make_rows(agent, seed), "row": torch.tensor(row)[:, None] + torch.arange(T)}
    batch["row"][0, 2:] += 1  # behind a seam
    batch["row"][1, 3:] += 1
    return agent.learn(batch, 0).metrics["known_latents"].item()


def test_windows_begin_with_what_the_last_update_made_of_the_row_before(monkeypatch):
    agent, seen = make(), []
    terms = agent.terms
    monkeypatch.setattr(
        agent, "terms", lambda batch, *rest: seen.append(batch) or terms(batch, *rest)
    )
    assert learned_from(agent, [1, 11, 21]) == 0
    assert seen[0]["is_first"][:, 0].all()
    kept = agent.latents.save_state()
    numbers = [1, 2, 4, 5, 6, 11, 12, 13, 15, 16, 21, 22, 23, 24, 25]
    assert sorted(kept["number"].tolist()) == numbers
    # the row before 3 is known; none comes before 4, an episode's first; 26 goes on behind 25
    assert learned_from(agent, [3, 4, 26], 1) == pytest.approx(2 / 3)
    assert seen[1]["is_first"][:, 0].tolist() == [False, True, False]
    at = kept["number"].tolist().index(25)
    torch.testing.assert_close(seen[1]["deter"][2], kept["deter"][at].float())
    assert seen[1]["stoch"][2].argmax(-1).tolist() == kept["stoch"][at].tolist()
    assert not seen[1]["deter"][1].any()
    assert not seen[1]["stoch"][1].any()


def test_without_replayed_latents_windows_begin_with_zeros():
    agent = make(replay_latents=False)
    assert not agent.windows(agent.config).numbered
    assert "known_latents" not in agent.learn(make_rows(agent), 0).metrics
    assert agent.save_state()["latents"] is None


def test_what_is_kept_survives_a_checkpoint(same):
    agent, other = make(), make(seed=1)
    learned_from(agent, [1, 11, 21])
    learned_from(agent, [3, 12, 30], 1)
    other.load_state(stored(agent.save_state()))
    for each in (agent, other):
        assert learned_from(each, [5, 14, 33], 2) == 1
    same.values(other.save_state(), agent.save_state())


def test_there_is_room_for_short_episodes_and_for_those_of_a_dataset(tmp_path):
    steps, plain = 8000, {"steps": 8000, "action_repeat": 1, "dataset_size": 0}
    games = kept_rows(parse(task="gymnasium_CartPole-v1", **plain))
    assert games >= steps + 2 * steps // 8  # of 8 steps each: a row and a number more
    assert kept_rows(parse(**plain)) < games
    np.savez(tmp_path / "0-own-700.npz", image=np.zeros((700, 16, 16, 3), np.uint8))
    more = kept_rows(parse(offline_traindir=tmp_path, **plain))
    assert more - kept_rows(parse(**plain)) >= 700
    assert kept_rows(parse(offline_traindir=tmp_path, **{**plain, "dataset_size": 500})) < 2000


def test_the_arithmetic_of_an_update_can_be_counted():
    """By what the benchmarks count with, which hooks into every module."""
    counts = []
    for horizon in (2, 3, 4):
        agent = make(imag_horizon=horizon)
        with FlopCounterMode(display=False) as counter:
            agent.learn(make_rows(agent), 0)
        counts.append(counter.get_total_flops())
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_actions_stay_within_their_bounds():
    agent = make()
    with torch.no_grad():
        agent.behavior.actor.std.bias.fill_(50.0)
        agent.behavior.actor.out.bias.fill_(2.0)
    obs = make_obs(0, 8, spaces=Spaces((16, 16, 3), 2, False))
    torch.manual_seed(0)
    action, state = agent.act(obs, None, "train")
    assert np.abs(action).max() == 1  # some would lie outside
    np.testing.assert_array_equal(state["action"], action)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"dyn_deter": 9}, "--dyn_deter 9 does not part into --dyn_blocks 2"),
        ({"cnn_depth": 3, "dyn_blocks": 8}, "--cnn_depth 3 does not part into --dyn_blocks 8"),
        ({"size": [64, 40]}, "--size 64 40: dreamerv3 halves images four times"),
        ({"dyn_discrete": 0}, "--dyn_discrete 0: dreamerv3's latents have from 2 to 256 classes"),
        ({"bins": 254}, "--bins 254: give an odd number"),
        ({"beta_vae": True}, "leave out --beta_vae True"),
        ({"act": "SilU"}, "--act: 'SilU' is no activation"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(flags, line):
    assert line in refusal(DreamerV3.check, parse(**flags))


def test_an_unknown_size_is_refused_and_the_others_named():
    words = ["--configs", "defaults", "dmc2gym", "dreamerv3_13m"]
    line = refusal(lambda: config.parse(words, methods=METHODS))
    assert "did you mean 'dreamerv3_1" in line
