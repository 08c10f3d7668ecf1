"""The first convolution of a chain, with pooling and ReLU, against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dai_lab.core import Key
from dai_lab.learning import first_layer

shapes = st.tuples(st.integers(1, 3), st.integers(6, 11), st.integers(6, 11))


@given(
    shape=shapes,
    blocks=st.integers(1, 2),
    side=st.sampled_from(first_layer.KERNELS),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_forward_and_back_are_what_autograd_makes_of_torchs_layers(
    shape, blocks, side, padding, biased, seed
):
    stream = Key(seed).stream()
    batch, height, width = shape
    images = torch.randn(batch, 1, height, width, generator=stream)
    weight = torch.randn(16 * blocks, 1, side, side, generator=stream, requires_grad=True)
    bias = torch.randn(16 * blocks, generator=stream, requires_grad=True)
    shift = bias if biased else None
    expected = functional.max_pool2d(
        functional.conv2d(images, weight, shift, padding=padding), 2
    ).clamp_min(0)
    out, before, where = first_layer.pooled_outputs(
        images, weight.detach(), None if shift is None else shift.detach(), padding
    )
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-5)
    assert (before.shape[2] // 2, before.shape[3] // 2) == tuple(expected.shape[2:])
    slope = torch.randn(expected.shape, generator=stream)
    expected.backward(slope)
    weights, total = first_layer.slopes_of_weights(slope, where, images, side, padding)
    torch.testing.assert_close(weights, weight.grad, rtol=1e-3, atol=1e-4)
    if biased:
        torch.testing.assert_close(total, bias.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad):
    images = torch.zeros(2, 1, 8, 8)
    images[1, 0, 3, 3] = bad
    weight = torch.ones(16, 1, 3, 3)
    out, _, where = first_layer.pooled_outputs(images, weight, None, (1, 1))
    assert out[0].eq(0).all()
    assert not out[1].isfinite().all()
    weights, _ = first_layer.slopes_of_weights(torch.ones_like(out), where, images, 3, (1, 1))
    assert not weights.isfinite().all()


def test_only_what_there_is_code_for_fits():
    def fits(*shape, stride=(1, 1), dilation=(1, 1)):
        return first_layer.fits(torch.zeros(shape), stride, dilation)

    assert fits(16, 1, 5, 5) and fits(32, 1, 3, 3)
    assert not fits(8, 1, 5, 5)
    assert not fits(16, 2, 5, 5)
    assert not fits(16, 1, 7, 7)
    assert not fits(16, 1, 3, 5)
    assert not fits(16, 1, 5, 5, stride=(2, 2))
    assert not fits(16, 1, 5, 5, dilation=(2, 2))
