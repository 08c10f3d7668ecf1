"""Published sizes, published shapes, and one line for whatever does not fit."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dai_lab import models
from dai_lab.core import Key

NETWORKS = (
    models.logistic,
    models.mlp,
    models.mcmahan_cnn,
    models.small_cnn,
    models.lenet5,
    models.mnist_cnn,
    models.resnet8,
    models.resnet18,
)
CHAINS = NETWORKS[:5]
IMAGES_ONLY = NETWORKS[2:]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("classes", [0, 2, 10])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 13, 17)])
def test_every_network_gives_one_score_per_class_or_one_number(network, classes, shape):
    module = network(shape, classes)
    assert module(torch.randn(3, *shape)).shape == (3, classes or 1)


@pytest.mark.parametrize(
    ("network", "shape", "weights"),
    [
        (models.logistic, (1, 28, 28), 7_850),
        (models.mlp, (1, 28, 28), 159_010),
        (models.mcmahan_cnn, (1, 28, 28), 1_663_370),
        (models.mnist_cnn, (1, 28, 28), 1_199_882),
        (models.tanh_cnn, (1, 28, 28), 26_010),
        (models.lenet5, (1, 28, 28), 61_706),
        (models.lenet5, (3, 32, 32), 62_006),
        (models.resnet8, (3, 32, 32), 78_042),
        (models.resnet18, (3, 32, 32), 11_173_962),
    ],
)
def test_networks_have_as_many_weights_as_published(network, shape, weights):
    assert sum(each.numel() for each in network(shape, 10).parameters()) == weights


@pytest.mark.parametrize("network", NETWORKS)
def test_operations_are_those_that_torch_counts(network):
    from torch.utils.flop_counter import FlopCounterMode

    shape = (3, 32, 32)
    model = models.create(network, shape=shape, classes=10, key=Key(0))
    with FlopCounterMode(display=False) as counted:
        model(model.initial.clone().requires_grad_(), torch.zeros(1, *shape)).sum().backward()
    assert models.flops(model, shape) == counted.get_total_flops() > 0


@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    classes=st.integers(2, 5),
)
def test_an_mlp_has_the_layers_it_is_asked_for(hidden, shape, classes):
    widths = [math.prod(shape), *hidden, classes]
    expected = sum((a + 1) * b for a, b in pairwise(widths))
    module = models.mlp(shape, classes, hidden=hidden)
    assert sum(each.numel() for each in module.parameters()) == expected


@pytest.mark.parametrize("network", CHAINS)
def test_plain_networks_are_chains_that_a_fused_engine_can_read(network):
    plain = (nn.Flatten, nn.Linear, nn.ReLU, nn.Conv2d, nn.MaxPool2d)
    module = network((1, 28, 28), 10)
    assert isinstance(module, nn.Sequential)
    assert all(type(layer) in plain for layer in module)


@pytest.mark.parametrize("network", [*NETWORKS, models.tanh_cnn])
def test_no_network_holds_anything_but_weights(network):
    assert list(network((1, 28, 28), 10).buffers()) == []


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_group_norm_normalizes_every_group_of_every_image(groups):
    norms = [
        layer
        for layer in models.resnet8((1, 8, 8), 2, groups=groups).modules()
        if isinstance(layer, nn.GroupNorm)
    ]
    assert len(norms) == 9 and {layer.num_groups for layer in norms} == {groups}


def test_a_shortcut_carries_what_the_body_does_not_change():
    block = models.residual.Residual(4, 4, stride=1, groups=2)
    nn.init.zeros_(block.body[-1].weight)
    inputs = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(inputs), inputs.relu())


@pytest.mark.parametrize("classes", [0, 2, 10])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 16, 17)])
def test_a_tanh_network_gives_scores_and_is_bounded_everywhere_below(shape, classes):
    module = models.tanh_cnn(shape, classes)
    assert module(torch.randn(3, *shape)).shape == (3, classes or 1)
    assert module[:-1](1e3 * torch.randn(3, *shape)).abs().max() <= 1


@pytest.mark.parametrize("network", [*IMAGES_ONLY, models.tanh_cnn])
@pytest.mark.parametrize("shape", [(561,), (28, 28), (1, 3, 28)])
def test_a_network_for_images_refuses_anything_else_in_one_line(network, shape):
    with pytest.raises(ValueError, match=rf"^model={network.__name__} needs images.*model=mlp.*$"):
        network(shape, 10)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: models.mlp((4,), 2, hidden=[8, 0]), r"model.hidden .* got \[8, 0\]"),
        (
            lambda: models.mnist_cnn((1, 8, 8), 2, dropout=[0.5, 1.0]),
            r"model.dropout must be two shares in \[0, 1\), got \[0.5, 1.0\]",
        ),
        (lambda: models.mnist_cnn((1, 8, 8), 2, dropout=[0.5]), r"model.dropout .* got \[0.5\]"),
        (lambda: models.resnet8((1, 8, 8), 2, groups=3), "model.groups must divide 16, got 3"),
        (lambda: models.resnet18((1, 8, 8), 2, groups=0), "model.groups must divide 64, got 0"),
    ],
)
def test_a_knob_out_of_range_is_named(build, complaint):
    with pytest.raises(ValueError, match=complaint):
        build()
