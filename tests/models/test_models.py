"""The loss terms against torch.distributions and NumPy, and where each gradient goes."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as td

import config
from accel.runtime import Runtime
from agents.model_configs import behavior_config, predictor_config, world_model_config
from agents.predictor import Predictor
from behavior import ActorCritic
from models import VideoPredictor, WorldModel, distillation
from networks import float_image
from tests.helpers.models import SCALES, A, make_batch, make_config, make_model, make_predictor
from tests.helpers.models import equal as same
from tools import UserError

B, T, S = 2, 4, 4
TERMS = {"image", "kl", "beta_vae", "reward"}


def run(model, batch=None, seed=1):
    """One pass with noise of its own."""
    torch.manual_seed(seed)
    return model.terms(make_batch() if batch is None else batch, SCALES, model.draw_noise(B, T))


def gradients(term, module):
    """The sum of absolute gradients that a term sends into a module's parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in grads if g is not None)


def random_state(seed, discrete=0):
    generator = torch.Generator().manual_seed(seed)
    if discrete:
        return {"logit": torch.randn(B, T, S, discrete, generator=generator).requires_grad_()}
    mean = torch.randn(B, T, S, generator=generator).requires_grad_()
    return {"mean": mean, "std": (torch.rand(B, T, S, generator=generator) + 0.3).requires_grad_()}


def kl(left, right):
    p, q = (
        td.Categorical(logits=s["logit"]) if "logit" in s else td.Normal(s["mean"], s["std"])
        for s in (left, right)
    )
    return td.kl_divergence(p, q).sum(-1)


def test_float_image():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(float_image(pixels), torch.tensor([-0.5, -0.3, 0.5]))


def test_every_term_against_its_own_definition():
    model, batch = make_model(pred_discount="True"), make_batch()
    batch["discount"] = 0.99 * (batch["reward"] > 0)
    pixels = float_image(batch["image"])
    encoded = model.encode(pixels)
    outputs = run(model, batch)
    post, terms = outputs.post, outputs.terms
    feat = torch.cat([post["stoch"], post["deter"]], -1)
    error = (pixels - model.decoder(feat).mode()).detach().double().numpy()
    image = 0.5 * (error**2).sum((2, 3, 4)) + 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)
    assert float(terms["image"].detach()) == pytest.approx(image.mean(), rel=1e-5)
    stats = model.rssm.prior_stats(model.rssm.prior(post["deter"])).detach()
    prior = td.Normal(stats[..., :S], 2 * torch.sigmoid(stats[..., S:] / 2) + 0.1)
    value = td.kl_divergence(td.Normal(post["mean"], post["std"]), prior).sum(-1).mean()
    torch.testing.assert_close(terms["kl"], value)
    torch.testing.assert_close(outputs.metrics["kl"], value.detach())
    torch.testing.assert_close(outputs.metrics["prior_ent"], prior.entropy().sum(-1).mean())
    q = td.Normal(encoded.mean, (encoded.logvar / 2).exp())
    expected = td.kl_divergence(q, td.Normal(0.0, 1.0)).sum() / (B * T)
    torch.testing.assert_close(terms["beta_vae"], expected)
    like = td.Normal(model.reward(feat).mode()[..., 0], 1.0).log_prob(batch["reward"])
    torch.testing.assert_close(terms["reward"], -like.mean())
    p, x = model.discount(feat).mean[..., 0], batch["discount"]
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).mean()
    torch.testing.assert_close(terms["discount"], expected)
    assert set(terms) == TERMS | {"discount"}
    assert all(not value.requires_grad for value in outputs.metrics.values())


def test_loss_is_the_weighted_sum():
    terms = {"image": torch.tensor(3.0), "kl": torch.tensor(5.0), "distill": torch.tensor(-2.0)}
    scales = {"image": 1.0, "kl": 0.5, "distill": 0.1, "reward": 7.0}
    scales = {name: torch.tensor(value) for name, value in scales.items()}
    assert float(VideoPredictor.loss(terms, scales)) == pytest.approx(3 + 2.5 - 0.2)
    with pytest.raises(UserError, match="'stillness' has no weight: add stillness_scale"):
        VideoPredictor.loss({"stillness": torch.tensor(1.0)}, scales)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("discrete", [0, 3])
def test_kl_balance_shares_the_gradient(forward, discrete):
    """0.8 of the KL's gradient trains the prior, 0.2 the posterior; the value is the KL itself."""
    model = make_model(kl_forward=forward, dyn_discrete=discrete)
    post, prior = random_state(0, discrete), random_state(1, discrete)
    value = kl(prior, post) if forward else kl(post, prior)
    term, raw = model.kl_term(post, prior, torch.tensor(0.8), torch.tensor(0.0))
    torch.testing.assert_close(term, value.mean())
    torch.testing.assert_close(raw, value.detach())
    assert not raw.requires_grad
    for state, share in ((post, 0.2), (prior, 0.8)):
        leaves = list(state.values())
        full = torch.autograd.grad(value.mean(), leaves, retain_graph=True)
        part = torch.autograd.grad(term, leaves, retain_graph=True)
        for got, whole in zip(part, full, strict=True):
            torch.testing.assert_close(got, share * whole)
            assert whole.abs().max() > 0


def test_free_nats_clip_the_mean_and_stop_the_gradient():
    model, post, prior = make_model(), random_state(0), random_state(1)
    value = kl(post, prior)
    mean = float(value.mean().detach())
    assert value.detach().min() < 0.8 * mean < value.detach().max()  # a clip per step would show
    below, _ = model.kl_term(post, prior, 0.8, torch.tensor(0.8 * mean))
    torch.testing.assert_close(below, value.mean())
    above, _ = model.kl_term(post, prior, 0.8, torch.tensor(1.5 * mean))
    assert float(above.detach()) == pytest.approx(1.5 * mean)
    leaves = [*post.values(), *prior.values()]
    assert all((g == 0).all() for g in torch.autograd.grad(above, leaves))
    assert all((g != 0).any() for g in torch.autograd.grad(below, leaves))


def test_distillation_against_numpy():
    teacher, student = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(4)).unbind()
    total = 0.0
    for b in range(3):
        for t in range(4):
            e, f = (np.exp(x[b, t].double().numpy()) for x in (teacher, student))
            p, q = e / e.sum(), f / f.sum()
            total += (p * (np.log(p) - np.log(q))).sum()
    value = distillation(teacher, student)
    assert float(value) == pytest.approx(total / 3, rel=1e-5)
    # Twice the clips leave it as it is; twice the steps double it.
    for repeats, factor in (((2, 1, 1), 1), ((1, 2, 1), 2)):
        repeated = distillation(teacher.repeat(*repeats), student.repeat(*repeats))
        torch.testing.assert_close(repeated, factor * value)
    assert float(distillation(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_distillation_compares_sampled_latents_and_trains_the_students_encoder_alone():
    model, batch = make_model(make_predictor(seed=1)), make_batch()
    noise = model.draw_noise(B, T)
    terms = model.terms(batch, SCALES, noise).terms
    latents = []
    for part, eps in ((model.teacher, noise.teacher), (model, noise.embed)):
        encoding = part.encode(batch["image"])
        latents.append(encoding.mean + eps * (encoding.logvar / 2).exp())
    torch.testing.assert_close(terms["distill"], distillation(*latents))
    assert gradients(terms["distill"], model.encoder) > 0
    for module in (model.rssm, model.decoder, model.reward):
        assert gradients(terms["distill"], module) == 0
    model.loss(terms, dict.fromkeys(terms, torch.tensor(1.0))).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_a_teacher_that_learns_is_moved_by_the_distillation_alone():
    """d KL(p ‖ q)/d teacher = p·(ln p − ln q − KL), through its encoder; nothing else of it."""
    sizes = world_model_config(make_config("--teacher", "trainable"))
    model = WorldModel(sizes, A, make_predictor(seed=1))
    batch, noise = make_batch(), model.draw_noise(B, T)
    terms = model.terms(batch, SCALES, noise).terms
    teacher = model.teacher.encoder
    wanted = list(teacher.parameters())
    grads = torch.autograd.grad(terms["distill"], wanted, retain_graph=True)
    mine, its = model.encode(batch["image"], noise.embed), teacher(batch["image"], noise.teacher)
    logits = [x.embed.detach().double().numpy() for x in (its, mine)]
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits)
    ratio = np.log(p) - np.log(q)
    of_latent = p * (ratio - (p * ratio).sum(-1, keepdims=True)) / B
    expected = torch.autograd.grad(its.embed, wanted, torch.from_numpy(of_latent).float())
    for grad, by_hand in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, by_hand, rtol=1e-4, atol=1e-6)
    for name, term in terms.items():
        assert (gradients(term, teacher) > 0) == (name == "distill")
    rest = [*model.teacher.rssm.parameters(), *model.teacher.decoder.parameters()]
    assert not any(p.requires_grad for p in rest)
    with torch.no_grad():
        assert not model.terms(batch, SCALES, noise).terms["distill"].requires_grad


def test_pretraining_on_modes():
    """The latents of the first stage alone are modes; its terms are those of the modes."""
    c = make_config(pretrain_latents="mode")
    learner = Predictor(c, Runtime.resolve(c))
    model, batch = learner.model, make_batch()
    noise = learner.draw_noise(B, T)
    assert noise.latent is None
    outputs = model.terms(batch, SCALES, noise)
    assert torch.equal(outputs.post["stoch"], outputs.post["mean"])
    embed = model.encode(batch["image"], noise.embed).embed
    still = torch.zeros(B, T, S)  # mean + std·0
    post, prior = model.rssm.observe(embed, None, batch["is_first"], noise=still)
    torch.testing.assert_close(outputs.post, post)
    nll = 0.5 * (model.decoder(model.rssm.get_feat(post)).mean - float_image(batch["image"])) ** 2
    nll = nll.sum((-3, -2, -1)).mean() + 64 * 64 * 3 * 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(outputs.terms["image"], nll)
    value = (0.2 * kl(post, prior) + 0.8 * kl(post, prior)).mean()
    torch.testing.assert_close(outputs.terms["kl"], value)
    assert learner.learn(batch, 0).metrics["kl_loss"] > 0
    assert make_model(pretrain_latents="mode").draw_noise(B, T).latent is not None


@torch.no_grad()
def test_noise_is_what_latents_are_drawn_with():
    model, batch = make_model(), make_batch()
    torch.manual_seed(3)
    noise = model.draw_noise(B, T)
    passes = []
    model.encoder.register_forward_hook(lambda module, args, out: passes.append(out))
    post = model.terms(batch, SCALES, noise).post
    (encoding,) = passes  # one pass: distillation and the RSSM share the latent
    expected = encoding.mean + noise.embed * torch.exp(encoding.logvar / 2)
    torch.testing.assert_close(encoding.embed, expected)
    torch.testing.assert_close(post["stoch"], post["mean"] + post["std"] * noise.latent)
    assert torch.equal(model.encode(batch["image"]).embed, encoding.mean)
    many = model.draw_noise(40, 30)
    for eps in (many.embed, many.latent):
        assert eps.shape == (40, 30, S)
        assert float(eps.mean()) == pytest.approx(0, abs=0.05)
        assert float(eps.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("changes", [{}, {"beta_vae": False}, {"dyn_discrete": 3}], ids=str)
def test_terms_draw_nothing_and_every_part_of_the_noise_counts(changes):
    beta_vae = "beta_vae" not in changes
    teacher = make_predictor(seed=1) if beta_vae else None
    model, batch = make_model(teacher, **changes), make_batch()
    noise = model.draw_noise(B, T)
    drawn = {name: value for name, value in noise._asdict().items() if value is not None}
    assert set(drawn) == ({"latent", "embed", "teacher"} if beta_vae else {"latent"})
    before = torch.get_rng_state()
    one, other = (model.terms(batch, SCALES, noise) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one.terms, other.terms)
    assert same(one.post, other.post)
    assert all(term.isfinite() for term in one.terms.values())
    for name, value in drawn.items():
        other = model.terms(batch, SCALES, noise._replace(**{name: value.flip(0)}))
        assert not same(one.terms, other.terms), name


@pytest.mark.parametrize("heads", [("image",), ("reward",), ("image", "reward", "discount")])
def test_grad_heads_decide_whose_gradient_reaches_the_rssm(heads):
    model = make_model(pred_discount="True", grad_heads=heads)
    terms = run(model).terms
    own = {"image": model.decoder, "reward": model.reward, "discount": model.discount}
    for name, head in own.items():
        assert gradients(terms[name], head) > 0
        for module in (model.rssm, model.encoder):
            assert (gradients(terms[name], module) > 0) == (name in heads)
    assert gradients(terms["kl"], model.rssm) > 0
    assert gradients(terms["beta_vae"], model.encoder) > 0
    assert gradients(terms["beta_vae"], model.rssm) == 0


def test_a_predictor_is_the_world_model_under_zero_actions():
    """Actions matter to the world model and not to the predictor, which has no other terms."""
    model, predictor, batch = make_model(), make_predictor(A), make_batch()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("reward")}
    predictor.load_state_dict(own)
    still = batch | {"action": torch.zeros_like(batch["action"])}
    frames = {name: batch[name] for name in ("image", "is_first")}
    for other in (still, frames):
        assert same(run(predictor, batch).terms, run(predictor, other).terms)
    moved, expected = (run(model, data).terms for data in (batch, still))
    assert set(moved) == TERMS
    assert not torch.equal(moved["image"], expected.pop("image"))
    terms = run(predictor, frames).terms
    assert set(terms) == TERMS - {"reward"}
    for name in ("kl", "beta_vae"):
        torch.testing.assert_close(terms[name], expected[name])


def test_action_num_gap_appends_zeros():
    model = make_model(action_num_gap=3)
    action = torch.ones(4, A)
    assert torch.equal(model.pad_action(action), torch.cat([action, torch.zeros(4, 3)], 1))
    weight = model.rssm.inputs[0].weight
    assert weight.shape == (16, S + A + 3)
    run(model).terms["image"].backward()
    assert (weight.grad[:, -3:] == 0).all()
    assert (weight.grad[:, -5:-3] != 0).any()


@pytest.mark.parametrize(("grayscale", "beta_vae"), [(True, True), (True, False), (False, False)])
def test_models_by_their_flags(grayscale, beta_vae):
    model = make_model(grayscale=grayscale, beta_vae=beta_vae, pred_discount="False")
    batch = make_batch()
    batch["image"] = batch["image"][..., : 1 if grayscale else 3]
    terms = run(model, batch).terms
    assert set(terms) == (TERMS if beta_vae else TERMS - {"beta_vae"})
    assert all(torch.isfinite(term) and term.ndim == 0 for term in terms.values())
    assert (model.encode(batch["image"]).mean is not None) == beta_vae
    assert model.encoder.embed_size == (4 if beta_vae else 128)


def test_parameter_counts_of_the_published_networks():
    """Counted in the authors' modules, for 6 actions under the presets defaults and dmc2gym."""

    def count(*modules):
        return [sum(p.numel() for p in module.parameters()) for module in modules]

    c = config.parse(["--configs", "defaults", "dmc2gym", "--device", "cpu"])
    model = WorldModel(world_model_config(c.replace(beta_vae=True)), 6)
    plain = VideoPredictor(predictor_config(c), 6)
    behavior = ActorCritic(behavior_config(c), model.rssm.feat_size, 6)
    assert model.rssm.feat_size == 250
    assert count(plain.encoder, plain.decoder) == [690_144, 3_816_035]
    assert count(model.encoder, model.decoder) == [389_096, 388_959]
    assert count(model.rssm, model.reward) == [377_800, 261_201]
    assert count(behavior.actor, behavior.value) == [586_412, 421_601]


def test_the_predictor_learns_one_batch_by_heart():
    """It must beat the best still picture, so it has to tell frames apart."""
    torch.manual_seed(0)
    c = make_config(model_lr=3e-3, beta_vae_beta="0.001")
    learner, batch = Predictor(c, Runtime.resolve(c)), make_batch()
    pixels = np.full((B, T, 64, 64, 3), 128, np.uint8)
    for b in range(B):
        for t in range(T):  # a bright square that moves
            pixels[b, t, 24 * b : 24 * b + 32, 8 * t : 8 * t + 32] = (255, 30, 60)
    batch = {"image": torch.from_numpy(pixels), "is_first": batch["is_first"]}
    image = pixels / 255
    still = 0.5 * ((image - image.mean((0, 1))) ** 2).sum((2, 3, 4)).mean()
    constant = 64 * 64 * 3 * 0.5 * np.log(2 * np.pi)
    errors = []
    for step in range(75):
        metrics = learner.learn(batch, step).metrics
        errors.append(float(metrics["image_loss"]) - constant)
    assert errors[0] > still
    assert np.mean(errors[-10:]) < 0.25 * still
    assert learner.updates == 75
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
