"""TD-MPC2's losses, their gradients and steps against a computation by hand; what it refuses."""

import numpy as np
import pytest
import torch

import config
from accel.runtime import Runtime
from agents.base import Spaces
from agents.registry import METHODS, agent_class
from baselines import pictures, tdmpc2
from baselines.tdmpc2_networks import SimNorm, TwoHot, least_side, sides
from distributions import symexp, symlog
from logger.pictures import cut_grid, grid
from tests.baselines.tdmpc2_by_hand import Expected, World
from tests.helpers.dispatch import NoHostSyncs
from tests.helpers.models import copied, make_batch, make_obs
from tests.helpers.runs import refusal

A, B, H, SIZE = 2, 4, 2, (39, 47)
SPACES = Spaces((*SIZE, 3), A, False)
SMALL = {"frame_stack": 2, "horizon": H, "num_channels": 4, "mlp_dim": 5, "simnorm_dim": 4}
SMALL |= {"num_q": 3, "num_bins": 11, "vmin": -3, "vmax": 3, "dropout": 0.3, "crop_pad": 2}
SMALL |= {"num_samples": 7, "num_elites": 3, "num_pi_trajs": 2, "iterations": 2}
SMALL |= {"batch_size": B, "device": "cpu", "precision": "32"}


def parse(**flags):
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return config.parse(["--method_name", "tdmpc2", *words], methods=METHODS)


def make(**flags):
    """A tiny agent in float64, its weights no longer as they began."""
    words = {**SMALL, "size": f"{SIZE[0]} {SIZE[1]}", **flags}
    parsed, method = parse(**words), agent_class("tdmpc2")
    method.check(parsed)
    torch.manual_seed(0)
    agent = method(parsed, Runtime.resolve(parsed), SPACES).double()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        agent.world.q.weights[2].mul_(12)  # values that differ by more than 1
        agent.scale.fill_(1.7)
    agent.to_input = lambda obs: obs.double() / 255 - 0.5
    values = agent.schedules.values()
    agent._scales_at = lambda step: torch.tensor([v(step) for v in values], dtype=torch.float64)
    return agent


def make_case(agent):
    """A batch and its noise: a seam, a terminal state, an episode's begin, values beyond bins."""
    batch = make_batch(0, B, agent.stack + H, SPACES)
    start = agent.stack - 1
    batch["is_first"][:, 1:] = False
    batch["is_first"][0, start + 2] = True
    batch["discount"][1, start + 1] = 0
    batch["is_first"][1, start + 2] = True
    batch["is_first"][2, start] = True
    batch["reward"][3, start + 1 :] = torch.tensor([50.0, -50.0])
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    torch.manual_seed(1)
    noise = agent.draw_noise(B, batch["image"].shape[1])
    return batch, type(noise)(*(x.double() if x.is_floating_point() else x for x in noise))


def record(agent):
    """Per optimiser its gradients and all weights as they were when it was to step."""
    found = {}
    for name, optimizer in agent.optimizers.items():

        def take(loss, skip=None, name=name, optimizer=optimizer, take=optimizer.take):
            own = {id(p) for p in optimizer.parameters}
            named = [(k, p) for k, p in agent.named_parameters() if id(p) in own]
            found[name] = loss, {k: p.grad.clone() for k, p in named}, copied(agent)
            return take(loss, skip)

        optimizer.take = take
    return found


@pytest.fixture(scope="module")
def update():
    """One update: what went in, what came of it, and what it was expected to be made of."""
    agent = make()
    batch, noise = make_case(agent)
    agent.draw_noise, before, seen = (lambda *_: noise), copied(agent), record(agent)
    metrics = agent.learn(batch, 0).metrics
    expected = Expected(agent, batch, noise, 0.99)
    return agent, before, seen, metrics, expected


def check_gradients(world, loss, found):
    names = [name for name in found if name in world.weights]
    assert len(names) == len(found)
    grads = torch.autograd.grad(loss, [world.weights[name] for name in names])
    for name, grad in zip(names, grads, strict=True):
        scale = max(1e-12, grad.abs().max().item())
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9 * scale, msg=name)


def test_the_models_terms_and_their_gradients_are_those_by_hand(update):
    agent, before, seen, metrics, expected = update
    world = World(agent.config, before)
    terms = expected.model(world)
    for name, term in terms.items():
        assert metrics[f"{name}_loss"].item() == pytest.approx(term.item(), rel=1e-9), name
    loss, grads, _ = seen["model"]
    whole = 20 * terms["consistency"] + 0.1 * terms["reward"] + 0.1 * terms["value"]
    assert loss.item() == pytest.approx(whole.item(), rel=1e-9)
    parts = {name.split(".")[1] for name in grads}
    assert parts == {"encoder", "dynamics", "norm", "reward", "q"}
    check_gradients(world, whole, grads)
    valid = [[expected.valid(b, t) for t in range(H)] for b in range(B)]
    assert valid == [[True, False], [True, False], [True, True], [True, True]]


def test_the_policys_loss_and_its_gradient_are_those_by_hand(update):
    agent, before, seen, metrics, expected = update
    loss, grads, then = seen["actor"]
    world = World(agent.config, then)
    wanted, scale = expected.actor(World(agent.config, before), world, 1.7)
    assert expected.spread > 1
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert metrics["value_scale"].item() == pytest.approx(scale, rel=1e-9)
    assert agent.scale.item() == pytest.approx(scale, rel=1e-9)
    assert {name.split(".")[1] for name in grads} == {"policy"}
    check_gradients(world, wanted, grads)


def test_the_target_follows_and_each_part_has_its_own_rate(update):
    agent, before, seen, _, _ = update
    after, c = copied(agent), agent.config
    for name in (name for name in after if name.startswith("target.")):
        moved = 0.99 * before[name] + 0.01 * after[name.replace("target", "world.q")]
        torch.testing.assert_close(after[name], moved, rtol=1e-12, atol=1e-15)
    for part, eps in (("model", c.opt_eps), ("actor", 1e-5)):
        _, grads, then = seen[part]
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        lr = {"model": c.model_lr, "actor": c.actor_lr}[part]
        for name, grad in grads.items():
            grad = grad * min(1, 20 / (norm.item() + 1e-6))
            rate = lr * (0.3 if ".encoder." in name else 1)
            step = -rate * grad / (grad.abs() + eps)  # Adam's first
            torch.testing.assert_close(
                after[name] - then[name], step, rtol=1e-6, atol=1e-12, msg=name
            )


def test_the_scale_starts_at_1_and_follows_the_percentiles():
    values = torch.randn(37, dtype=torch.float64) * 5
    low, high = np.percentile(values.numpy(), [5, 95])
    assert tdmpc2.spread(values).item() == pytest.approx(high - low, rel=1e-12)
    assert tdmpc2.spread(values[:1]).item() == 0
    words = {**SMALL, "size": "39 47"}
    parsed = parse(**words)
    assert agent_class("tdmpc2")(parsed, Runtime.resolve(parsed), SPACES).scale.item() == 1


def test_simnorm_is_a_softmax_in_each_group():
    x = torch.randn(3, 2, 12, dtype=torch.float64)
    found = SimNorm(4)(x).numpy()
    for row, group in np.ndindex(3, 2):
        for g in range(3):
            e = np.exp(x[row, group, 4 * g : 4 * g + 4].numpy())
            np.testing.assert_allclose(found[row, group, 4 * g : 4 * g + 4], e / e.sum())


def test_two_hot_targets_and_what_they_decode_to():
    two_hot = TwoHot(-3.0, 3.0, 13)
    bins = np.linspace(-3, 3, 13)
    for value in (-100.0, -3.1, 0.0, 0.2, np.e - 1, 5.0, np.exp(3) - 1, 1e4):
        place = np.clip(np.sign(value) * np.log1p(abs(value)), -3, 3)
        target = np.clip(1 - abs(bins - place) / 0.5, 0, None)
        assert target.sum() == pytest.approx(1)
        logits = torch.randn(5, 13, dtype=torch.float64)
        wanted = -(target * logits.log_softmax(-1).numpy()).sum(-1)
        given = torch.full((5,), value, dtype=torch.float64)
        np.testing.assert_allclose(two_hot.loss(logits, given), wanted, rtol=1e-9)
        decoded = two_hot.decode(torch.from_numpy(np.log(target + 1e-300))).item()
        assert decoded == pytest.approx(np.sign(place) * np.expm1(abs(place)), rel=1e-9)
    x = torch.tensor([-7.0, 0.0, 0.3], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x)


def test_sizes_are_those_of_the_published_networks():
    assert sides(64) == [29, 13, 6, 4]
    assert least_side() == 39
    assert (sides(39)[-1], sides(38)[-1]) == (1, 0)
    parsed = parse()
    agent = agent_class("tdmpc2")(parsed, Runtime.resolve(parsed), Spaces((64, 64, 3), 6, False))
    convs = 9 * 32 * 49 + 32 * 32 * (25 + 9 + 9) + 4 * 32
    hidden, first = 512 * 512 + 3 * 512, 518 * 512 + 3 * 512
    heads = 513 * 101, 513 * 12
    wanted = convs + 2 * first + 3 * hidden + heads[0]  # dynamics and reward
    wanted += 5 * (first + hidden + heads[0]) + 2 * hidden + heads[1]
    assert sum(p.numel() for p in agent.world.parameters()) == wanted
    z = torch.rand(3, 512)
    action = torch.zeros(3, 6)
    assert agent.world.earn(z, action).abs().max() < 1e-6
    assert agent.world.value(z, action, torch.tensor([0, 4])).abs().max() < 1e-6
    assert agent.world.dynamics.first.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert agent.world.q.weights[0].std((1, 2)).sub(0.02).abs().max() < 4e-4


def test_the_discount_follows_the_length_of_an_episode():
    lengths = {1000: 0.99, 200: 0.95, 100: 0.95, 4000: 0.995, 300: 1 - 5 / 150}
    for frames, gamma in lengths.items():
        assert tdmpc2.discount_of(parse(time_limit=frames)) == pytest.approx(gamma)
    assert tdmpc2.discount_of(parse(time_limit=31, action_repeat=3, discount_min=0.1)) == (
        pytest.approx(1 - 5 / 11)
    )


def test_seed_phases_are_as_long_as_five_episodes_or_1000_steps():
    for suite, steps in {
        "dmc2gym": 2500,
        "dmc": 2500,
        "gymnasium": 1000,
        "metaworld": 1000,
    }.items():
        c = config.parse(["--configs", "defaults", suite, "tdmpc2"], methods=METHODS)
        length = c.time_limit / c.action_repeat
        assert c.prefill == c.pretrain == steps == max(1000, 5 * length), suite


def test_plans_see_shifted_frames_and_depend_on_nothing_but_their_input():
    agent, seen, shown = make().float(), [], []
    agent.to_input = lambda obs: (seen.append(obs), obs.float() / 255 - 0.5)[1]
    obs = make_obs(0, 1, spaces=SPACES)
    wide = np.pad(obs["image"][0], ((2, 2), (2, 2), (0, 0)), "edge")
    for _ in range(6):
        agent.act(obs, None, "eval")
        places = [
            (y, x)
            for y, x in np.ndindex(5, 5)
            if np.array_equal(
                seen[-1][0, 3:].permute(1, 2, 0), wide[y : y + SIZE[0], x : x + SIZE[1]]
            )
        ]
        shown += places
        assert len(places) == 1
    assert len(set(shown)) > 1

    def act(state, mode="train"):
        torch.manual_seed(3)
        return agent.act(make_obs(1, 1, False, SPACES), state, mode)

    _, state = agent.act(obs, None, "train")
    action, after = act(state)
    act(after)
    again, _ = act(state)
    np.testing.assert_array_equal(action, again)
    fresh, _ = act({**state, "mean": torch.zeros_like(state["mean"])})
    assert (fresh != action).any()
    assert after["mean"].shape == (1, H, A)


def test_the_host_waits_for_no_plan():
    parsed = parse(**SMALL, size="39 47")
    agent = agent_class("tdmpc2")(parsed, Runtime.resolve(parsed), SPACES)
    noise = agent.planner.draw(2, A, 3, True, agent.device)
    image = torch.from_numpy(make_obs(0, 2, spaces=SPACES)["image"])
    given = {"frames": image[:, None].repeat(1, 2, 1, 1, 1), "mean": torch.zeros(2, H, A)}
    given |= {"crop": agent.crops.draw(2, agent.device), **noise._asdict()}
    with NoHostSyncs():
        found = agent._plan(given)
    assert torch.isfinite(found["action"]).all()


def test_pictures_show_the_nearest_frames_and_which_are_the_true_ones():
    frames = torch.arange(2 * 3).view(2, 3, 1, 1, 1).expand(-1, -1, 16, 16, 3).mul(40).byte()
    drawn = pictures.imagined(frames, torch.tensor([2, 0]), torch.tensor([[5, 1]]))
    rims = np.array([[False, True], [False, False], [False, False], [False, False]])
    tiles = np.array([[[80, 200], [80, 200], [0, 40], [0, 120]]], np.uint8)[0]
    tiles = np.broadcast_to(tiles[..., None, None, None], (4, 2, 16, 16, 3))
    title = "imagined latents as the nearest of 6 frames;\nwith a rim: the true one"
    np.testing.assert_array_equal(
        drawn, grid(tiles, ["imagined", "true"] * 2, ["t", "t+1"], title, rims=rims)
    )


def test_a_report_finds_what_a_perfect_model_imagines():
    agent = make()
    batch, _ = make_case(agent)
    order = torch.tensor([2, 3, 0, 1])  # windows of one episode first
    after = [agent.encode(agent.look(batch, t))[order] for t in range(1, H + 1)]
    agent.world.next = lambda z, action: after.pop(0)
    tiles = cut_grid(agent.report(batch)["nearest"], SIZE)
    assert tiles.shape == (2 * B, H + 1, *SIZE, 3)
    inside = tiles[:, :, 2:-2, 2:-2]  # without the rims
    np.testing.assert_array_equal(inside[0::2], inside[1::2])
    rows = batch["image"][order][:, agent.stack - 1 :, 2:-2, 2:-2]
    np.testing.assert_array_equal(inside[1::2], rows)


def test_a_discrete_task_is_refused():
    parsed = parse()
    spaces = Spaces((64, 64, 3), 3, True)
    line = refusal(agent_class("tdmpc2"), parsed, Runtime.resolve(parsed), spaces)
    assert "--method_name tdmpc2 takes continuous actions" in line


REFUSED = {
    "--beta_vae True": "--beta_vae True is for --method_name diswm",
    "--oversample_ends True": "--oversample_ends True",
    "--discount 0.9": "give --discount_min and --discount_max",
    "--size 38 64": "--size 38 64: the encoder's convolutions leave nothing of it: give 39 39",
    "--simnorm_dim 7": "--simnorm_dim 7 does not divide the 512 numbers",
    "--num_elites 600": "--num_elites 600 is above --num_samples 512",
    "--num_pi_trajs 600": "--num_pi_trajs 600 is above --num_samples 512",
    "--min_std 3": "--min_std 3.0 is above --max_std 2.0",
    "--discount_min 0.999": "--discount_min 0.999 is above --discount_max 0.995",
    "--vmin 10": "--vmin 10.0 must be below --vmax 10.0",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused(words):
    parsed = config.parse(["--method_name", "tdmpc2", *words.split()], methods=METHODS)
    assert REFUSED[words] in refusal(agent_class("tdmpc2").check, parsed)
