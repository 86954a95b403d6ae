"""Convolutions that are computed in other ways than PyTorch's: the numbers are its own."""

import pytest
import torch
import torch.nn.functional as F

from networks import ImageConfig, UpConv, WholeConv, make_decoder

# Inputs, outputs, kernel, stride, padding, and the side of the input; 0 outputs are the image's.
BETA_VAE = [(256, 64, 4, 1, 0, 1), (64, 64, 4, 2, 1, 4), (64, 32, 4, 2, 1, 8)]
BETA_VAE += [(32, 32, 4, 2, 1, 16), (32, 0, 4, 2, 1, 32)]
PLAIN = [
    (1024, 128, 5, 2, 0, 1),
    (128, 64, 5, 2, 0, 5),
    (64, 32, 6, 2, 0, 13),
    (32, 0, 6, 2, 0, 30),
]


def make_layer(inputs, outputs, *rest, dtype=torch.float32):
    torch.manual_seed(0)
    layer = UpConv(inputs, outputs, *rest).to(dtype, memory_format=torch.channels_last)
    with torch.no_grad():
        layer.bias.normal_()
    return layer


def make_input(inputs, *sides, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, inputs, *sides, generator=generator, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def with_gradients(function, x, weight, bias):
    """What a convolution gives, and its gradients for input, weight and bias."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    y = function(*leaves)
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * along).sum(), leaves)]


def run_layer(layer):
    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    return function


def run_plain(stride, padding):
    def function(x, weight, bias):
        return F.conv_transpose2d(x, weight, bias, stride, padding)

    return function


def test_the_shapes_below_are_those_of_the_decoders():
    for beta_vae, shapes in ((True, BETA_VAE), (False, PLAIN)):
        decoder = make_decoder(250, ImageConfig(beta_vae=beta_vae))
        found, sides = [], []
        for layer in decoder.layers:
            if isinstance(layer, UpConv):
                layer.register_forward_pre_hook(
                    lambda _, args, n=sides: n.append(args[0].shape[-1])
                )
                found.append((layer.in_channels, layer.out_channels, layer.kernel_size[0]))
                found[-1] += (layer.stride[0], layer.padding[0])
        decoder(torch.zeros(1, 250))
        expected = [(i, o or 3, *rest) for i, o, *rest, _ in shapes]
        assert found == expected
        assert sides == [shape[-1] for shape in shapes]


LAYERS = [shape for shape in BETA_VAE + PLAIN if shape[1]]
LAYERS += [(i, channels, *rest) for i, o, *rest in (BETA_VAE[-1], PLAIN[-1]) for channels in (1, 3)]


@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_a_transposed_convolution(shape):
    inputs, outputs, kernel, stride, padding, side = shape
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        layer = make_layer(inputs, outputs, kernel, stride, padding, dtype=dtype)
        x = make_input(inputs, side, side, dtype=dtype)
        actual = with_gradients(run_layer(layer), x, layer.weight, layer.bias)
        expected = with_gradients(run_plain(stride, padding), x, layer.weight, layer.bias)
        for got, whole in zip(actual, expected, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(
                got, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max())
            )


def test_a_convolution_of_all_that_there_is():
    layer = WholeConv(64, 256, 4).to(torch.float64, memory_format=torch.channels_last)
    x, own = make_input(64, 4, 4, dtype=torch.float64), (layer.weight, layer.bias)
    actual = with_gradients(run_layer(layer), x, *own)
    expected = with_gradients(lambda *given: F.conv2d(*given).flatten(1), x, *own)
    for got, whole in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, (1, 0), (0, 1)], ids=str)
@pytest.mark.parametrize("sides", [(1, 1), (3, 5)], ids=str)
def test_the_last_layer_by_blocks_has_rows_and_columns_where_they_are(sides, padding):
    layer = make_layer(2, 3, 4, 2, padding, dtype=torch.float64)
    x = make_input(2, *sides, dtype=torch.float64)
    torch.testing.assert_close(
        layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, 2, padding), rtol=0, atol=1e-12
    )


def test_a_layer_does_not_write_to_what_it_was_given():
    for shape in (BETA_VAE[1], (32, 3, 4, 2, 1, 5)):
        layer, x = make_layer(*shape[:-1]), make_input(shape[0], 5, 5)
        before = [tensor.detach().clone() for tensor in (x, layer.weight, layer.bias)]
        layer(x).sum().backward()
        for kept, now in zip(before, (x, layer.weight, layer.bias), strict=True):
            assert torch.equal(kept, now)


@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_a_transposed_convolution_in_bfloat16(shape):
    """Its error is that of rounding what goes in, what comes out, and the sum with the bias."""
    inputs, outputs, *rest, side = shape
    layer, x = make_layer(inputs, outputs, *rest), make_input(inputs, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        y, *grads = with_gradients(run_layer(layer), x, layer.weight, layer.bias)
    assert y.dtype is torch.bfloat16
    assert all(grad.dtype is torch.float32 for grad in grads)
    exact = [tensor.detach().double() for tensor in (x, layer.weight, layer.bias)]
    expected = with_gradients(run_plain(*rest[1:]), *exact)
    for got, whole in zip([y, *grads], expected, strict=True):
        # A bfloat16 has 8 bits: one rounding is wrong by 2⁻⁹ at most, four of them by 2⁻⁷.
        assert float((got.double() - whole).norm() / whole.norm()) < 2**-7
