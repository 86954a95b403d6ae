"""Work done in chunks: the numbers of one piece, with the memory of one chunk."""

import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from accel.chunks import by_chunks, chunks, sum_by_chunks
from tests.helpers.models import (
    SCALES,
    make_agent,
    make_batch,
    make_model,
    make_predictor,
)

B, T = 2, 4


@given(n=st.integers(1, 400), rows=st.integers(0, 450))
def test_chunks_are_even_and_cover_all_rows(n, rows):
    parts = chunks(torch.arange(n), rows)
    sizes = [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), torch.arange(n))
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == (math.ceil(n / rows) if rows else 1)
    assert max(sizes) <= (rows or n)


@given(n=st.integers(1, 60), rows=st.integers(0, 70))
def test_by_chunks_is_the_function_of_the_whole(n, rows):
    x, seen = torch.arange(2.0 * n).view(n, 2), []

    def function(part):
        seen.append(len(part))
        return part.square().sum(1)

    assert torch.equal(by_chunks(function, x, rows), x.square().sum(1))
    assert sum(seen) == n
    assert max(seen) <= (rows or n)


@pytest.mark.parametrize("beta_vae", [True, False])
def test_an_encoder_in_chunks(beta_vae):
    torch.manual_seed(0)
    encoder = make_predictor(beta_vae=beta_vae).encoder
    image = torch.randint(0, 256, (B, T, 64, 64, 3), dtype=torch.uint8)
    results = []
    for encoder.chunk_size in (3, 0):
        parts = [part for part in encoder(image) if part is not None]
        out = torch.cat(parts, -1)
        grads = torch.autograd.grad(out.square().sum(), list(encoder.parameters()))
        results.append([out, *grads])
    for got, whole in zip(*results, strict=True):
        torch.testing.assert_close(
            got, whole, rtol=1e-4, atol=1e-5 * float(whole.detach().abs().max())
        )


# A sum in chunks


class Rows:
    """A function of rows, with parameters, in float64: a small network's squared error."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
        self.bias = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
        self.parameters = [self.weight, self.bias]
        self.sizes = []

    def data(self, n):
        generator = torch.Generator().manual_seed(4)
        x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        return x, torch.randn(n, 4, generator=generator, dtype=torch.float64)

    def __call__(self, x, target):
        self.sizes.append(len(x))
        return (torch.tanh(x @ self.weight + self.bias) - target).square().sum(1)

    def by_hand(self, x, target):
        """The sum, and its gradients for x, weight and bias, written out."""
        weight, bias = (p.detach().numpy() for p in self.parameters)
        x, target = x.detach().numpy(), target.numpy()
        y = np.tanh(x @ weight + bias)
        before = 2 * (y - target) * (1 - y**2)  # the gradient in front of the tanh
        return ((y - target) ** 2).sum(), before @ weight.T, x.T @ before, before.sum(0)


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 11, 12, 50])
@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_a_sum_by_chunks_and_all_its_gradients(rows, scale):
    function = Rows()
    x, target = function.data(11)
    x.requires_grad_()
    total = sum_by_chunks(function, x, target, function.parameters, rows)
    assert function.sizes == {0: [11], 1: [1] * 11, 3: [3, 3, 3, 2], 4: [4, 4, 3]}.get(rows, [11])
    value, *expected = function.by_hand(x, target)
    assert total.ndim == 0
    close(total, value)
    (total * scale).backward()
    for leaf, grad in zip([x, *function.parameters], expected, strict=True):
        close(leaf.grad, scale * grad)


@pytest.mark.parametrize("rows", [0, 4])
def test_gradients_of_sums_add_up_with_others(rows):
    function = Rows()
    x, target = function.data(9)
    leaf = x.clone().requires_grad_()
    scaled = leaf * 2  # x need not be a leaf
    one = sum_by_chunks(function, scaled, target, function.parameters, rows)
    two = sum_by_chunks(function, scaled, -target, function.parameters, rows)
    (3 * one + two + function.bias.sum()).backward()
    _, *first = function.by_hand(2 * x, target)
    _, *second = function.by_hand(2 * x, -target)
    close(leaf.grad, 2 * (3 * first[0] + second[0]))
    close(function.weight.grad, 3 * first[1] + second[1])
    close(function.bias.grad, 3 * first[2] + second[2] + 1)


def test_gradients_reach_only_those_that_ask():
    function = Rows()
    x, target = function.data(9)
    value, *expected = function.by_hand(x, target)
    total = sum_by_chunks(function, x, target, function.parameters, 2)  # x asks for none
    close(total, value)
    total.backward()
    assert x.grad is None
    close(function.weight.grad, expected[1])
    frozen = Rows()
    frozen.weight.requires_grad_(False)
    x = x.clone().requires_grad_()
    sum_by_chunks(frozen, x, target, frozen.parameters, 2).backward()
    assert frozen.weight.grad is None
    close(x.grad, expected[0])
    close(frozen.bias.grad, expected[2])
    frozen.bias.requires_grad_(False)
    nobody = sum_by_chunks(frozen, x.detach(), target, frozen.parameters, 2)
    close(nobody, value)
    assert not nobody.requires_grad
    with torch.no_grad():
        quiet = sum_by_chunks(function, x, target, function.parameters, 2)
    close(quiet, value)
    assert not quiet.requires_grad


def test_gradients_reach_the_rows_where_no_parameter_asks():
    frozen = Rows()
    for parameter in frozen.parameters:
        parameter.requires_grad_(False)
    x, target = frozen.data(9)
    value, expected, *_ = frozen.by_hand(x, target)
    total = sum_by_chunks(frozen, x.requires_grad_(), target, frozen.parameters, 2)
    close(total, value)
    total.backward()
    close(x.grad, expected)


def test_what_is_saved_for_a_gradient_is_that_of_one_piece():
    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    def most(rows):
        """Numbers held for gradients: left by earlier pieces, and the most at any time."""
        function, alive, left, peak = Rows(), weakref.WeakSet(), [], []
        x, target = function.data(12)

        def held():
            return sum(each.tensor.numel() for each in alive)

        def pack(tensor):
            alive.add(saved := Saved(tensor))
            return saved

        def watched(*args):
            left.append(held())
            out = function(*args)
            peak.append(held())
            return out

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            total = sum_by_chunks(watched, x.requires_grad_(), target, function.parameters, rows)
        return left, max(peak), total

    left, whole, _ = most(0)
    assert left == [0]
    for rows, count in ((6, 2), (2, 6), (1, 12)):
        left, peak, total = most(rows)
        assert left == [0] * count
        assert peak < whole / count + 21  # 20 numbers of the weights are the same for all
        assert total.requires_grad


# Images in chunks


def decode(decoder, feat, beta_vae):
    """A decoder's image [N, 64, 64, C] in float64, from its weights alone."""
    w = {name: value.detach().double() for name, value in decoder.state_dict().items()}
    x = feat.detach().double()
    if beta_vae:
        for name in ("bottleneck", "inflate"):
            x = F.elu(F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    else:
        x = F.linear(x, w["first.weight"], w["first.bias"])
    x = x[:, :, None, None]
    strides = [(1, 0)] + [(2, 1)] * 4 if beta_vae else [(2, 0)] * 4
    for layer, (stride, padding) in enumerate(strides):
        weight, bias = (w[f"layers.{2 * layer}.{name}"] for name in ("weight", "bias"))
        x = F.elu(x) if layer else x
        x = F.conv_transpose2d(x, weight, bias, stride, padding)
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize("beta_vae", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_term_written_out(beta_vae, channels, chunk):
    model = make_predictor(beta_vae=beta_vae, grayscale=channels == 1)
    model.encoder.chunk_size = chunk
    feat = torch.randn(B, T, model.rssm.feat_size)
    image = torch.randint(0, 256, (B, T, 64, 64, channels), dtype=torch.uint8)
    term = model.image_term(feat, image)
    mean = decode(model.decoder, feat.flatten(0, 1), beta_vae).numpy()
    error = image.flatten(0, 1).double().numpy() / 255 - 0.5 - mean
    constant = 64 * 64 * channels * 0.5 * math.log(2 * math.pi)
    expected = 0.5 * (error**2).sum() / (B * T) + constant
    assert float(term.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("heads", [("image", "reward"), ("reward",)], ids=str)
@pytest.mark.parametrize("beta_vae", [True, False])
@pytest.mark.parametrize("chunk", [2, 3])
def test_the_world_models_terms_and_gradients_do_not_know_of_chunks(beta_vae, chunk, heads):
    results = []
    for size in (chunk, 10**6):
        teacher = make_predictor(seed=1) if beta_vae else None
        model = make_model(teacher, beta_vae=beta_vae, grad_heads=heads, pred_discount="True")
        for part in filter(None, (model, teacher)):
            part.encoder.chunk_size = size
        torch.manual_seed(1)
        terms = model.terms(make_batch(), SCALES, model.draw_noise(B, T)).terms
        model.loss(terms, dict.fromkeys(terms, torch.tensor(0.7))).backward()
        results.append((terms, {name: p.grad for name, p in model.named_parameters()}))
    (terms, grads), (whole_terms, whole_grads) = results
    assert terms.keys() == whole_terms.keys()
    assert len(terms) == (6 if beta_vae else 4)
    for name, term in whole_terms.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-6, atol=1e-6)
    for name, grad in whole_grads.items():
        assert (grad is None) == (grads[name] is None) == name.startswith("teacher.")
        if grad is not None:
            atol = 1e-5 * float(grad.abs().max())
            torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=atol)


def test_an_update_does_not_know_of_chunks(tiny):
    metrics = []
    for size in (2, 10**6):
        agent = make_agent(teacher=tiny.teacher, image_chunk=size)
        torch.manual_seed(1)
        metrics.append([agent.learn(make_batch(), 0).metrics for _ in range(2)][-1])
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[1].items():
        torch.testing.assert_close(metrics[0][name], value, rtol=1e-4, atol=1e-5)
