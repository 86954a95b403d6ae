"""ContextWM: its loss, gradients and norms against the same written out, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import config
from accel.runtime import Runtime
from agents.optimizer import Optimizer
from agents.registry import METHODS
from baselines import context_networks
from baselines.context_model import context_config
from baselines.contextwm import ContextPredictorLearner, ContextWM, exchange
from logger.pictures import cut_grid
from networks import float_image
from tests.baselines.context_by_hand import ContextWorld, attend
from tests.helpers.models import SPACES, copied, make_batch, make_config, make_obs, stored
from tests.helpers.models import equal as same
from tests.helpers.runs import refusal

B, T = 2, 5
SMALL = {"k": 3, "intr_seq_length": 2, "queue_size": 12, "queue_dim": 4, "dyn_discrete": 3}
SMALL |= {"res_layers": 1, "grad_clip": 1e9, "beta_vae": False}


def configure(**changes):
    return make_config("--method_name", "contextwm", **{**SMALL, **changes})


def make_agent(runtime=None, **changes):
    c = configure(**changes)
    torch.manual_seed(0)
    agent = ContextWM(c, dataclasses.replace(Runtime.resolve(c), **(runtime or {})), SPACES)
    with torch.no_grad():  # fresh biases, norms and positions hide what is left out
        for name, parameter in agent.named_parameters():
            if parameter.ndim == 1 or "position" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    agent.sync()
    return agent


def running(agent):
    return {name: value.clone() for name, value in agent.named_buffers() if "running" in name}


# An update


@pytest.mark.parametrize(
    "changes",
    [
        {"concat_embed": True, "context_augment": "erasing", "res_layers": 2},
        {"concat_embed": False, "context_frame": "last", "context_mask": 0.5, "kl_free": "0.0"},
    ],
    ids=["two layers", "one"],
)
def test_terms_gradients_and_statistics_of_an_update(changes):
    agent = make_agent(**changes)
    by_hand, weights = ContextWorld(agent), {"image": 1.0, "kl": 1.0, "reward": 1.0}
    weights |= {"af_kl": 0.0, "aux_reward": 1.0}
    names = [name for name, _ in agent.world_model.named_parameters()]
    batch, noise, before = make_batch(0, B, T), agent.draw_noise(B, T), running(agent)
    if (erased := noise.filter.decoder.erased) is not None:
        erased[0] = torch.tensor([10, 30, 20, 64])
    agent.draw_noise = lambda *_: noise
    terms = by_hand.terms(batch, noise.filter)
    loss = sum(weights[name] * term for name, term in terms.items())
    leaves = [by_hand.weights[name] for name in names]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    metrics = agent.learn(batch, 0).metrics
    for name, term in terms.items():
        assert float(metrics[f"{name}_loss"]) == pytest.approx(term.item(), rel=1e-5), name
    for (name, own), grad in zip(agent.world_model.named_parameters(), grads, strict=True):
        wanted = torch.zeros_like(own) if grad is None else grad.float()
        error = (own.grad - wanted).norm() / wanted.norm().clamp(min=1e-3)
        assert error < 1e-2, (name, float(error))  # float32, through many norms
    after = running(agent)
    assert len(by_hand.moments) * 2 == len(after)
    for name, (mean, var) in by_hand.moments.items():
        for what, value in (("mean", mean), ("var", var)):
            key = f"world_model.{name}.running_{what}"
            wanted = (0.9 * before[key] + 0.1 * value).float()
            torch.testing.assert_close(after[key], wanted.detach(), rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_each_pixel_by_itself():
    torch.manual_seed(0)
    channels, side, seen, left = 8, 4, 3, 0.75
    module = context_networks.CrossAttention(channels, side, 1 - left).double()
    w = {name: p.detach().numpy() for name, p in module.named_parameters()}
    for name, p in module.named_parameters():
        if "position" in name or "bias" in name:
            p.data.normal_()
    x, context = torch.randn(4, channels, side, side), torch.randn(2, channels, side, side)
    x, context = x.double(), context.double()
    noise = module.draw_noise(4, seen, True)
    given = {"asking": w["asking_position"], "known": w["context_position"]}
    given |= {"inputs": w["inputs.weight"], "bias": w["inputs.bias"]}
    given |= {"outputs": w["outputs.weight"], "outputs_bias": w["outputs.bias"]}
    rows = [image.flatten(1).T.numpy() for image in x]
    beside = [image.flatten(1).T.numpy() for image in context]
    found = [
        attend(given, rows[n], beside[n // 2], *(part[n].numpy() for part in noise), left)
        for n in range(4)
    ]
    mixed = torch.from_numpy(np.stack(found)).transpose(1, 2).unflatten(2, (side, side))
    own = module(x, context, noise)
    torch.testing.assert_close(own, F.relu(x + module.norm(mixed)))


def test_an_image_is_drawn_beside_its_sequences_frame_alone():
    decoder = make_agent().world_model.decoder
    torch.manual_seed(0)
    noise = decoder.draw_noise(B, T)._replace(frame=torch.tensor([3, 1]))
    feat, image = torch.randn(B, T, decoder.first.in_features), make_batch(0, B, T)["image"]

    def drawn(changed, row):
        other = image.clone()
        other[changed, row] = 255 - other[changed, row]
        with torch.no_grad():
            return decoder(feat, other, noise).mode()

    truth = drawn([], [])
    assert torch.equal(drawn([0, 1], [1, 3]), truth)  # frames that were not chosen
    changed = drawn([1], [1])
    assert torch.equal(changed[0], truth[0])
    assert all((changed[1, t] != truth[1, t]).any() for t in range(T))


def test_what_a_decoder_draws_with_has_its_shares():
    c = configure(cnn_depth=8, attention_dropout=0.1)
    decoder = context_networks.ContextDecoder(10, context_config(c).image)
    torch.manual_seed(0)
    noise = decoder.draw_noise(64, 3)
    assert set(noise.frame.tolist()) == {0, 1, 2}
    assert list(noise.attention) == ["0_0", "1_0"]
    for pixels, seen, drawn in zip((64, 256), (16, 64), noise.attention.values(), strict=True):
        assert drawn.kept.shape == (192, seen)
        assert all(len(set(row)) == seen for row in drawn.kept.tolist())
        assert set(drawn.kept.flatten().tolist()) == set(range(pixels))
        assert drawn.weights.shape == (192, 4, pixels, seen)
        for mask in (drawn.weights, drawn.outputs):
            assert mask.float().mean() == pytest.approx(0.9, abs=0.01)
    drawn = decoder.draw_noise(64, 3, learning=False)
    assert not drawn.frame.any()
    assert all(n.weights is None and n.outputs is None for n in drawn.attention.values())
    last = dataclasses.replace(decoder.config, frame="last", mask=0.99)
    drawn = context_networks.ContextDecoder(10, last).draw_noise(2, 3)
    assert drawn.frame.tolist() == [2, 2]
    assert [n.kept.shape[1] for n in drawn.attention.values()] == [1, 2]


def test_half_of_the_erased_rectangles_are_there_and_of_the_published_sizes():
    torch.manual_seed(0)
    rectangles = context_networks.draw_rectangles(2000, torch.device("cpu")).numpy()
    top, bottom, left, right = rectangles.T
    area, there = (bottom - top) * (right - left), bottom > top
    assert there.mean() == pytest.approx(0.5, abs=0.04)
    assert (rectangles >= 0).all()
    assert (rectangles <= 64).all()
    whole = there & (bottom - top < 64) & (right - left < 64)
    sides = np.stack([bottom - top, right - left])[:, whole]
    assert ((sides + 0.5).prod(0) > 0.02 * 4096).all()
    assert ((sides - 0.5).prod(0) < 0.33 * 4096).all()
    assert area[whole].mean() == pytest.approx(0.175 * 4096, rel=0.1)
    tall = sides[0] / sides[1]
    assert tall.min() < 0.4
    assert tall.max() > 2.5
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64, 64, 3))
    erased = context_networks.erase(torch.from_numpy(image), torch.from_numpy(rectangles[:3]))
    for picture, (t, b, le, r) in zip(image, rectangles[:3], strict=True):
        picture[t:b, le:r] = 0
    np.testing.assert_array_equal(erased.numpy(), image)


# Norms, rates and where an agent begins


def test_acting_takes_running_statistics_and_leaves_them_alone():
    agent = make_agent(runtime={"overlap": True})
    for seed in range(2):
        agent.learn(make_batch(seed, B, T), 0)
    agent.sync()
    before, obs = running(agent), make_obs(0, 3)
    for mode in ("train", "eval"):  # a copy acts in training, and has to know the statistics
        with torch.no_grad():
            embeds = [agent.policy._copy[0], agent.world_model.encoder][mode == "eval"](
                torch.from_numpy(obs["image"])
            ).embed
            alone = agent.world_model.encoder(torch.from_numpy(obs["image"][:1])).embed
        torch.testing.assert_close(embeds[:1], alone, rtol=1e-4, atol=1e-5)
        agent.act(obs, None, mode)
    agent.report(make_batch(3, B, T))
    assert same(before, running(agent))
    agent.learn(make_batch(4, B, T), 0)
    after = running(agent)
    assert all(not torch.equal(before[name], after[name]) for name in after)


def test_bad_batches_leave_everything_alone():
    agent = make_agent()
    agent.learn(make_batch(0, B, T), 0)
    before, batch = copied(agent), make_batch(1, B, T)
    batch["reward"][0, 0] = torch.nan
    assert agent.learn(batch, 0).skipped.any()
    assert same(before, copied(agent))


def test_what_is_below_stands_still_at_first_in_a_run_that_goes_on_too():
    agent, others = make_agent(hold_below=2), make_agent(hold_below=2)
    below = {id(p) for p in agent.below()}
    names = {name for name, p in agent.world_model.named_parameters() if id(p) in below}
    assert {name.split(".")[0] for name in names} == {"encoder", "af_rssm", "decoder"}
    assert all(name.startswith("decoder.context.") for name in names if name[0] == "d")

    def moved(one):
        before = {name: p.clone() for name, p in one.world_model.named_parameters()}
        torch.manual_seed(1)
        one.learn(make_batch(0, B, T), 0)
        after = dict(one.world_model.named_parameters())
        return {name for name, p in before.items() if not torch.equal(p, after[name])}

    assert not moved(agent) & names
    others.load_state(stored(agent.save_state()))
    for one in (agent, others):
        still = moved(one)
        assert still
        assert not still & names
        assert names <= moved(one)  # the KL below weighs nothing, but weights decay
    assert same(copied(agent), copied(others))
    groups = agent.optimizers["model"].optimizer.param_groups
    assert [float(group["lr"]) for group in groups] == pytest.approx([agent.config.model_lr] * 2)


def test_weights_decay_through_the_moments():
    """Adam (Kingma and Ba 2015, algorithm 1) of the gradient plus decay · weight."""
    c = configure(weight_decay=0.3)
    assert c.opt == "adam_l2"
    weight, lr = nn.Parameter(torch.tensor([1.0, -2.0])), 0.1
    optimizer, w = Optimizer("x", [weight], c, lr), np.array([1.0, -2.0])
    m = v = np.zeros(2)
    for t in range(1, 4):
        optimizer.step((weight * torch.tensor([0.5, 3.0])).sum())
        g = np.array([0.5, 3.0]) + 0.3 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + c.opt_eps)
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-5)


def test_the_start_is_glorots_but_where_pytorchs_is_left():
    torch.manual_seed(0)
    c = configure()
    agent = ContextWM(c, Runtime.resolve(c), SPACES)
    for module in (agent.world_model.rssm.prior_stats, agent.behavior.actor.out):
        bound = (6 / sum(module.weight.shape)) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound
        assert not module.bias.any()
    cell = agent.world_model.af_rssm.cell
    assert cell.norm.eps == 1e-3
    assert cell.layer.bias.any()  # PyTorch's own
    assert same(copied(agent.behavior.value), copied(agent.behavior.slow_value))


def test_the_blocks_are_as_its_authors_ran_it():
    """Their `dmc_remastered` and `metaworld`, stacked with `contextualized`."""
    common = {"prefill": 1000, "pretrain": 100, "train_every": 5, "batch_size": 16}
    common |= {"batch_length": 50, "oversample_ends": False, "kl_free": "1.0", "intr_beta": 0.1}
    common |= {"concat_embed": True, "hold_below": 0, "context_augment": "none", "k": 16}
    metaworld = common | {"prefill": 5000, "batch_size": 50, "oversample_ends": True}
    metaworld |= {"kl_free": "0.0", "intr_beta": 1.0, "concat_embed": False, "hold_below": 100}
    metaworld["context_augment"] = "erasing"
    for suite, published in (("dmc2gym", common), ("metaworld", metaworld)):
        parsed = config.parse(["--configs", "defaults", suite, "contextwm"], methods=METHODS)
        assert {name: parsed[name] for name in published} == published


def test_pretraining_leaves_what_finetuning_begins_as(tmp_path):
    c = configure(video_length=3, video_kl_free="0.0", kl_free="50.0")
    torch.manual_seed(0)
    learner = ContextPredictorLearner(c, Runtime.resolve(c))
    assert learner.windows(c).length == 3
    batch = {name: make_batch(0, B, 3)[name] for name in ("image", "is_first")}
    metrics = learner.learn(batch, 0).metrics
    assert float(metrics["kl_free"]) == 0
    assert 0 < float(metrics["kl_loss"]) < 50
    learner.export(tmp_path, {name: value[:1] for name, value in batch.items()})
    c = configure(pretrain_checkpoint_path=str(tmp_path))
    ContextWM.check(c)
    agent = ContextWM(c, Runtime.resolve(c), SPACES, ContextWM.find_source(c))
    given, own = learner.model, agent.world_model
    for theirs, ours in ((given.encoder, own.encoder), (given.decoder, own.decoder)):
        assert same(copied(theirs), copied(ours))
    assert same(copied(given.rssm), copied(own.af_rssm))
    assert not any(module.training for module in agent.world_model.modules())


def test_a_pretraining_that_goes_on_is_the_same_to_the_last_bit():
    c = configure(video_length=3)
    batch = {name: make_batch(0, B, 3)[name] for name in ("image", "is_first")}
    torch.manual_seed(0)
    learner = ContextPredictorLearner(c, Runtime.resolve(c))
    learner.learn(batch, 0)
    other = ContextPredictorLearner(c, Runtime.resolve(c))
    other.load_state(stored(learner.save_state()))
    for one in (learner, other):
        torch.manual_seed(1)
        one.learn(batch, 1)
    assert same(copied(learner), copied(other))
    assert all(p.isfinite().all() for p in copied(learner).values())


# Pictures, and what is refused


def test_latents_and_contexts_are_exchanged():
    agent = make_agent(context_mask=0.0)  # all of the context is seen: nothing is drawn at random
    model, batch = agent.world_model, make_batch(0, 2, T)
    torch.manual_seed(0)
    picture = exchange(model, batch)
    tiles = cut_grid(picture, (64, 64)).astype(int)
    assert tiles.shape[:2] == (3, 3)
    image = float_image(batch["image"])
    torch.manual_seed(0)
    with torch.no_grad():
        post, _ = model.observe(batch, model.encode(image))
        feat = model.rssm.get_feat(post)[:, -1:]
        for i in range(2):
            np.testing.assert_array_equal(tiles[0, 1 + i], batch["image"][i, 0])
            np.testing.assert_array_equal(tiles[1 + i, 0], batch["image"][i, -1])
            for j in range(2):
                drawn = model.decode(feat[i : i + 1], image[j : j + 1])[0, 0]
                wanted = ((drawn + 0.5).clamp(0, 1) * 255).numpy()
                assert np.abs(tiles[1 + i, 1 + j] - wanted).max() < 1.1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cnn_depth": 5}, "--cnn_depth 5: attention has 4 heads … give a multiple of 2"),
        ({"cnn_depth": 6}, "encoder.pt: tensor … has shape … at the same sizes"),
        (
            {"res_layers": 2},
            "encoder.pt: tensor … --method_name contextwm --beta_vae_pretrain True",
        ),
        ({"beta_vae": True}, "--beta_vae True is not for --method_name contextwm"),
        ({"queue_size": 9}, "--queue_size 9 is smaller"),
        (
            {"pretrain_checkpoint_path": "nowhere"},
            "nowhere: there is no such folder; pretrain first",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_training(tiny, changes, told):
    c = configure(**{"pretrain_checkpoint_path": str(tiny.contextual), **changes})
    line = refusal(ContextWM.check, c)
    assert all(part in line for part in told.split(" … ")), line


def test_another_methods_predictor_is_refused_and_so_is_a_part_of_one(tiny, tmp_path):
    line = refusal(ContextWM.check, configure(pretrain_checkpoint_path=str(tiny.plain)))
    assert "encoder.pt: tensor" in line
    assert "pretrain with --method_name contextwm --beta_vae_pretrain True" in line
    for path in tiny.contextual.iterdir():
        if path.name != "decoder.pt":
            shutil.copy(path, tmp_path)
    line = refusal(ContextWM.check, configure(pretrain_checkpoint_path=str(tmp_path)))
    assert "has no decoder.pt, and contextwm begins as the whole predictor" in line
    torch.save({"a": torch.tensor([torch.inf])}, tmp_path / "decoder.pt")
    line = refusal(ContextWM.check, configure(pretrain_checkpoint_path=str(tmp_path)))
    assert "tensor 'a' holds a number that is not finite" in line
    torch.save([1], tmp_path / "decoder.pt")
    line = refusal(ContextWM.check, configure(pretrain_checkpoint_path=str(tmp_path)))
    assert "decoder.pt holds no state dict" in line


def test_the_actor_begins_as_small_as_it_is_asked_to():
    own, scaled = (make_agent(actor_outscale=scale).behavior.actor.out for scale in (0.0, 0.01))
    torch.testing.assert_close(scaled.weight, 0.01 * own.weight)
