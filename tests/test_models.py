"""The loss terms against torch.distributions and NumPy, and where each gradient goes."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as td

import config
from agents.diswm import Pretrainer
from behavior import ActorCritic
from models import VideoPredictor, WorldModel, distillation, float_image

B, T, A = 2, 5, 2
SMALL = ["--z_dim", "3", "--dyn_stoch", "4", "--dyn_deter", "6", "--dyn_hidden", "7"]
SMALL += ["--units", "8", "--cnn_depth", "2"]
WEIGHTS = {"kl_balance": torch.tensor(0.8), "kl_free": torch.tensor(0.0)}


def make_config(*flags, **changes):
    blocks = ["--configs", "defaults", "dmc2gym", "--device", "cpu", "--beta_vae", "True"]
    return config.parse([*blocks, *SMALL, *flags]).replace(**changes)


def make_model(*flags, teacher=None, **changes):
    torch.manual_seed(0)
    return WorldModel(make_config(*flags, **changes), A, teacher)


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = True
    return {
        "image": torch.rand(B, T, 64, 64, 3, generator=generator) - 0.5,
        "action": torch.randn(B, T, A, generator=generator),
        "reward": torch.randn(B, T, generator=generator),
        "discount": (torch.rand(B, T, generator=generator) > 0.5) * 0.99,
        "is_first": first,
    }


def gradients(term, module):
    """The sum of absolute gradients that a term sends into a module's parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in grads if g is not None)


def random_state(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(*shape, generator=generator).requires_grad_()
    std = (torch.rand(*shape, generator=generator) + 0.3).requires_grad_()
    return {"mean": mean, "std": std}


def kl(left, right):
    return td.kl_divergence(
        td.Normal(left["mean"], left["std"]), td.Normal(right["mean"], right["std"])
    ).sum(-1)


def test_float_image():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(float_image(pixels), torch.tensor([-0.5, -0.3, 0.5]))


def test_every_term_against_its_own_definition():
    model, batch = make_model(pred_discount=True), make_batch()
    encoded = model.encode(batch["image"])
    torch.manual_seed(1)
    outputs = model.terms(batch, WEIGHTS)
    post, terms = outputs.post, outputs.terms
    feat = torch.cat([post["stoch"], post["deter"]], -1)
    error = (batch["image"] - model.decoder(feat).mode()).detach().double().numpy()
    image = 0.5 * (error**2).sum((2, 3, 4)) + 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)
    assert float(terms["image"].detach()) == pytest.approx(image.mean(), rel=1e-5)
    stats = model.rssm.prior_stats(model.rssm.prior(post["deter"])).detach()
    prior = td.Normal(stats[..., :4], 2 * torch.sigmoid(stats[..., 4:] / 2) + 0.1)
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
    assert set(terms) == {"image", "kl", "beta_vae", "reward", "discount"}
    assert all(not value.requires_grad for value in outputs.metrics.values())


def test_which_terms_there_are():
    batch = make_batch()
    assert set(make_model().terms(batch, WEIGHTS).terms) == {"image", "kl", "beta_vae", "reward"}
    plain = make_model(beta_vae=False)
    assert set(plain.terms(batch, WEIGHTS).terms) == {"image", "kl", "reward"}
    predictor = VideoPredictor(make_config(), 0)
    batch = {name: batch[name] for name in ("image", "is_first")}
    assert set(predictor.terms(batch, WEIGHTS).terms) == {"image", "kl", "beta_vae"}


def test_loss_is_the_weighted_sum():
    terms = {"image": torch.tensor(3.0), "kl": torch.tensor(5.0), "distill": torch.tensor(-2.0)}
    weights = {"image": 1.0, "kl": 0.5, "distill": 0.1, "reward": 7.0}
    weights = {name: torch.tensor(value) for name, value in weights.items()}
    assert float(VideoPredictor.loss(terms, weights)) == pytest.approx(3 + 2.5 - 0.2)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("discrete", [0, 3])
def test_kl_balance_shares_the_gradient(forward, discrete):
    """0.8 of the KL's gradient trains the prior, 0.2 the posterior; the value is the KL itself."""
    model = make_model(kl_forward=forward, dyn_discrete=discrete)
    post, prior = random_state(0, B, T, 4), random_state(1, B, T, 4)
    if discrete:
        post = {"logit": torch.randn(B, T, 4, 3, generator=torch.Generator().manual_seed(2))}
        prior = {"logit": torch.randn(B, T, 4, 3, generator=torch.Generator().manual_seed(3))}
        post["logit"].requires_grad_(), prior["logit"].requires_grad_()
    left, right = (prior, post) if forward else (post, prior)
    if discrete:
        p, q = (td.Categorical(logits=s["logit"]) for s in (left, right))
        value = td.kl_divergence(p, q).sum(-1)
    else:
        value = kl(left, right)
    term, raw = model.kl_term(post, prior, torch.tensor(0.8), torch.tensor(0.0))
    torch.testing.assert_close(term, value.mean())
    torch.testing.assert_close(raw, value.detach())
    assert not raw.requires_grad
    for state, share in ((post, 0.2), (prior, 0.8)):
        names = list(state)
        full = torch.autograd.grad(value.mean(), [state[n] for n in names], retain_graph=True)
        part = torch.autograd.grad(term, [state[n] for n in names], retain_graph=True)
        for got, whole in zip(part, full, strict=True):
            torch.testing.assert_close(got, share * whole)
            assert whole.abs().max() > 0


def test_free_nats_clip_the_mean_and_stop_the_gradient():
    model = make_model()
    post, prior = random_state(0, B, T, 4), random_state(1, B, T, 4)
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
    assert float(distillation(teacher, student)) == pytest.approx(total / 3, rel=1e-5)
    # Twice the clips leave it as it is; twice the steps double it.
    value = distillation(teacher, student)
    torch.testing.assert_close(
        distillation(teacher.repeat(2, 1, 1), student.repeat(2, 1, 1)), value
    )
    doubled = distillation(teacher.repeat(1, 2, 1), student.repeat(1, 2, 1))
    torch.testing.assert_close(doubled, 2 * value)
    assert float(distillation(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_distillation_trains_the_students_encoder_alone():
    teacher = VideoPredictor(make_config(), 0)
    model, batch = make_model(teacher=teacher), make_batch()
    terms = model.terms(batch, WEIGHTS).terms
    assert gradients(terms["distill"], model.encoder) > 0
    for module in (model.rssm, model.decoder, model.reward):
        assert gradients(terms["distill"], module) == 0
    assert not any(p.requires_grad for p in model.teacher.parameters())
    loss = model.loss(terms, dict.fromkeys(terms, torch.tensor(1.0)))
    loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())


def test_distillation_compares_the_sampled_latents():
    teacher = VideoPredictor(make_config(), 0)
    model, batch = make_model(teacher=teacher), make_batch()
    caught = {}
    for name, module in (("teacher", teacher), ("student", model)):
        encode = module.encode

        def catch(image, noise, name=name, encode=encode):
            caught[name] = encode(image, noise=noise)
            return caught[name]

        module.encode = catch
    terms = model.terms(batch, WEIGHTS).terms
    expected = distillation(caught["teacher"].embed, caught["student"].embed)
    torch.testing.assert_close(terms["distill"], expected)
    for encoding in caught.values():
        assert (encoding.embed - encoding.mean).abs().min() > 0


@torch.no_grad()
def test_encode_draws_one_latent_per_image_and_pass():
    model, batch = make_model(), make_batch()
    torch.manual_seed(3)
    draws = [model.encode(batch["image"]) for _ in range(30)]
    noise = torch.stack([(e.embed - e.mean) / (e.logvar / 2).exp() for e in draws])
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(model.encode(batch["image"], sample=False).embed, draws[0].mean)
    calls = []
    model.encoder.register_forward_hook(lambda *args: calls.append(1))
    model.terms(batch, WEIGHTS)
    assert len(calls) == 1  # distillation and the RSSM share the latent


@pytest.mark.parametrize("changes", [{}, {"beta_vae": False}, {"dyn_discrete": 3}], ids=str)
def test_terms_with_given_noise_draw_nothing_and_are_those_of_the_draw(changes):
    """Given noise, the same terms again; without it they draw as much, and come out elsewhere."""
    teacher = VideoPredictor(make_config(), 0) if "beta_vae" not in changes else None
    model, batch = make_model(teacher=teacher, z_dim=3, **changes), make_batch()
    torch.manual_seed(1)
    noise = model.noise(B, T)
    drawn = torch.get_rng_state()
    names = {"latent_noise"} | ({"embed_noise", "teacher_noise"} if teacher else set())
    assert set(noise) == names
    results = [model.terms(batch | noise, WEIGHTS) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(1)
    free = model.terms(batch, WEIGHTS)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, term in results[0].terms.items():
        assert torch.equal(term, results[1].terms[name])
        assert term.isfinite()
    assert all(torch.equal(value, results[1].post[name]) for name, value in results[0].post.items())
    if not teacher:  # one draw, in whichever order
        assert all(torch.equal(v, free.terms[k]) for k, v in results[0].terms.items())
    for name in names:  # every part of it counts
        other = model.terms(batch | noise | {name: noise[name].flip(0)}, WEIGHTS).terms
        assert any(not torch.equal(v, other[k]) for k, v in results[0].terms.items()), name


def test_given_noise_is_what_the_latents_are_drawn_with():
    model, batch = make_model(), make_batch()
    noise = model.noise(B, T)
    caught = {}
    encode = model.encode
    model.encode = lambda *args, **more: caught.setdefault("encoding", encode(*args, **more))
    post = model.terms(batch | noise, WEIGHTS).post
    encoding = caught["encoding"]
    expected = encoding.mean + noise["embed_noise"] * torch.exp(encoding.logvar / 2)
    torch.testing.assert_close(encoding.embed, expected)
    torch.testing.assert_close(post["stoch"], post["mean"] + post["std"] * noise["latent_noise"])


@pytest.mark.parametrize("heads", [("image",), ("reward",), ("image", "reward", "discount")])
def test_grad_heads_decide_whose_gradient_reaches_the_rssm(heads):
    model, batch = make_model(pred_discount=True, grad_heads=heads), make_batch()
    terms = model.terms(batch, WEIGHTS).terms
    own = {"image": model.decoder, "reward": model.reward, "discount": model.discount}
    for name, head in own.items():
        assert gradients(terms[name], head) > 0
        for module in (model.rssm, model.encoder):
            assert (gradients(terms[name], module) > 0) == (name in heads)
    assert gradients(terms["kl"], model.rssm) > 0
    assert gradients(terms["beta_vae"], model.encoder) > 0
    assert gradients(terms["beta_vae"], model.rssm) == 0


def test_actions_matter_to_the_world_model_and_not_to_the_predictor():
    batch = make_batch()
    other = batch | {"action": batch["action"] + 1}
    torch.manual_seed(0)
    for model, cares in ((make_model(), True), (VideoPredictor(make_config(), A), False)):
        runs = []
        for data in (batch, other):
            torch.manual_seed(5)
            runs.append(model.terms(data, WEIGHTS).post["deter"])
        assert torch.equal(*runs) is not cares


def test_a_predictor_with_zeros_for_actions_is_the_world_model_under_zero_actions():
    predictor, model = VideoPredictor(make_config(), A), make_model()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("reward")}
    predictor.load_state_dict(own)
    batch = make_batch()
    batch["action"] = torch.zeros_like(batch["action"])
    terms = []
    for learner in (predictor, model):
        torch.manual_seed(6)
        terms.append(learner.terms(batch, WEIGHTS).terms)
    for name in ("image", "kl", "beta_vae"):
        torch.testing.assert_close(terms[0][name], terms[1][name])


def test_action_num_gap_appends_zeros():
    model = make_model(action_num_gap=3)
    assert model.rssm.actions == A + 3
    action = torch.ones(4, A)
    expected = torch.cat([action, torch.zeros(4, 3)], 1)
    assert torch.equal(model.pad_action(action), expected)
    weight = model.rssm.inputs[0].weight
    assert weight.shape == (7, 4 + A + 3)
    model.terms(make_batch(), WEIGHTS).terms["image"].backward()
    assert (weight.grad[:, -3:] == 0).all()
    assert (weight.grad[:, -5:-3] != 0).any()


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("beta_vae", [False, True])
def test_models_by_their_flags(grayscale, beta_vae):
    model = make_model(grayscale=grayscale, beta_vae=beta_vae, pred_discount=False)
    batch = make_batch()
    batch["image"] = batch["image"][..., : 1 if grayscale else 3]
    outputs = model.terms(batch, WEIGHTS)
    assert all(torch.isfinite(term) and term.ndim == 0 for term in outputs.terms.values())
    assert (model.encode(batch["image"]).mean is not None) == beta_vae
    assert model.encoder.embed_size == (3 if beta_vae else 64)


def test_parameter_counts_of_the_published_networks():
    """Counted in the authors' modules, for 6 actions under the presets defaults and dmc2gym."""

    def count(module):
        return sum(p.numel() for p in module.parameters())

    c = config.parse(["--configs", "defaults", "dmc2gym", "--device", "cpu"])
    model, plain = WorldModel(c.replace(beta_vae=True), 6), WorldModel(c, 6)
    behavior = ActorCritic(c, model.rssm.feat_size, 6)
    assert model.rssm.feat_size == 250
    assert [count(m) for m in (plain.encoder, plain.decoder)] == [690_144, 3_816_035]
    assert [count(m) for m in (model.encoder, model.decoder)] == [389_096, 388_959]
    assert [count(m) for m in (model.rssm, model.reward)] == [377_800, 261_201]
    assert [count(m) for m in (behavior.actor, behavior.value)] == [586_412, 421_601]


@pytest.mark.parametrize("sample", [True, False])
@torch.no_grad()
def test_imag_sample_decides_whether_a_dream_draws(sample):
    c = make_config(imag_sample=sample, imag_horizon=3)
    model = WorldModel(c, A)
    behavior = ActorCritic(c, model.rssm.feat_size, A)
    state = behavior.imagine(model, model.rssm.initial(2)).state
    assert torch.equal(state["stoch"][1:], state["mean"][1:]) is not sample


def test_the_pretrainer_learns_one_batch_by_heart():
    """It must beat the best still picture, so it has to tell frames apart."""
    torch.manual_seed(0)
    c = make_config(model_lr=3e-3, beta_vae_beta="0.001", kl_free="0.1")
    pretrainer = Pretrainer(c, Runtime.resolve(c))
    pixels = np.full((B, T, 64, 64, 3), 128, np.uint8)
    for b in range(B):
        for t in range(T):  # a bright square that moves
            pixels[b, t, 24 * b : 24 * b + 32, 8 * t : 8 * t + 32] = (255, 30, 60)
    batch = {"image": pixels, "is_first": make_batch()["is_first"].numpy()}
    image = pixels / 255
    still = 0.5 * ((image - image.mean((0, 1))) ** 2).sum((2, 3, 4)).mean()
    constant = 64 * 64 * 3 * 0.5 * np.log(2 * np.pi)
    errors = []
    for _ in range(200):
        metrics = pretrainer.update(batch)
        errors.append(float(metrics["image_loss"]) - constant)
    assert errors[0] > still
    assert np.mean(errors[-10:]) < 0.25 * still
    assert pretrainer.updates == 200
