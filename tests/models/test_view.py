"""The flat view computes what the module computes, shares memory, and refuses hidden state."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from dai_lab import models
from dai_lab.core import Key, cross_entropy, squared_error

SHAPE = (1, 28, 28)


class Tied(nn.Module):
    """An autoencoder's way to share: the second layer is the first, transposed."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs))


class Shifted(nn.Module):
    """Learned weights beside a constant buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("shift", torch.full((6,), 2.0))

    def forward(self, inputs):
        return self.linear(inputs + self.shift)


class Counting(nn.Module):
    """Remember a running mean of the inputs while training, as a buffer that is no batch norm."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, inputs):
        if self.training:
            self.seen.lerp_(inputs.mean(0), 0.1)
        return self.linear(inputs - self.seen)


@pytest.mark.parametrize("name", ["logistic", "mlp", "small_cnn", "lenet5", "resnet8"])
@given(seed=st.integers(0, 99))
def test_the_flat_view_computes_what_the_module_computes(name, seed):
    model = models.create(getattr(models, name), shape=SHAPE, classes=10, key=Key(seed))
    inputs = torch.randn(4, *SHAPE)
    assert torch.equal(model(model.initial, inputs), model.module(inputs))
    other = getattr(models, name)(SHAPE, 10)
    moved = torch.cat([each.detach().flatten() for each in other.parameters()])
    torch.testing.assert_close(model(moved, inputs), other(inputs))
    assert model.params == len(moved) == sum(shape.numel() for shape in model.shapes)


def test_views_are_the_vector_itself():
    model = models.create(models.mlp, shape=(6,), classes=3, key=Key(0))
    vector = model.initial.clone()
    views = model.views(vector)
    assert tuple(views) == model.names
    for view in views.values():
        view.fill_(7)
    assert (vector == 7).all()
    rows = torch.stack([vector, vector])
    assert {len(view) for view in model.views(rows).values()} == {2}


def test_gradients_of_the_flat_vector_are_those_of_the_module():
    model = models.create(models.lenet5, shape=SHAPE, classes=10, key=Key(1))
    inputs, targets = torch.randn(5, *SHAPE), torch.arange(5)
    vector = model.initial.clone().requires_grad_()
    (flat,) = torch.autograd.grad(model.loss(model(vector, inputs), targets).mean(), vector)
    F.cross_entropy(model.module(inputs), targets).backward()
    expected = torch.cat([each.grad.flatten() for each in model.module.parameters()])
    torch.testing.assert_close(flat, expected)


def test_losses_are_one_number_per_example():
    outputs, targets = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    by_hand = -outputs.log_softmax(1)[torch.arange(7), targets]
    torch.testing.assert_close(cross_entropy(outputs, targets), by_hand)
    numbers = torch.tensor([1.0, 2.0])
    expected = torch.tensor([1.0, 9.0])
    assert torch.equal(squared_error(torch.tensor([[0.0], [5.0]]), numbers), expected)
    assert torch.equal(squared_error(torch.tensor([0.0, 5.0]), numbers), expected)


def test_regression_and_classification_get_their_losses():
    regression = models.create(models.logistic, shape=(6,), classes=0, key=Key(0))
    assert regression.loss is squared_error and regression.params == 7
    assert models.create(models.logistic, shape=(6,), classes=2, key=Key(0)).loss is (cross_entropy)


def test_initial_weights_come_from_the_key_and_from_nowhere_else():
    def initial(key):
        return models.create(models.mlp, shape=(6,), classes=3, key=key).initial

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = initial(Key(0) / "model")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(initial(Key(0) / "model"), first)
    assert not torch.equal(initial(Key(1) / "model"), first)


def test_a_shared_weight_is_one_entry_and_gets_both_gradients():
    model = models.flat(Tied(), classes=6)
    assert model.names == ("first.weight",) and model.params == 36
    vector, inputs = torch.randn(36), torch.randn(2, 6)
    weight = vector.reshape(6, 6)
    torch.testing.assert_close(model(vector, inputs), inputs @ weight.T @ weight.T)
    vector.requires_grad_()
    (gradient,) = torch.autograd.grad(model(vector, inputs).sum(), vector)
    weight = weight.detach().requires_grad_()
    (expected,) = torch.autograd.grad((inputs @ weight.T @ weight.T).sum(), weight)
    torch.testing.assert_close(gradient, expected.flatten())


def test_constant_buffers_stay_constants():
    model = models.create(Shifted, shape=(6,), classes=3, key=Key(0))
    assert model.params == 21 and not any("shift" in name for name in model.names)
    ones = torch.ones(21)
    torch.testing.assert_close(model(ones, torch.zeros(2, 6)), torch.full((2, 3), 13.0))


def test_frozen_weights_stay_where_they_are():
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    model = models.flat(module, classes=3)
    assert model.names == ("1.weight", "1.bias")
    inputs = torch.randn(2, 6)
    torch.testing.assert_close(model(model.initial, inputs), module(inputs))


def test_any_module_by_its_own_settings():
    linear = partial(nn.Linear, in_features=6, out_features=3)
    assert models.create(linear, shape=(6,), classes=3, key=Key(0)).params == 21
    lazy = partial(nn.LazyLinear, out_features=3)
    assert models.create(lazy, shape=(6,), classes=3, key=Key(0)).params == 21


def test_a_torchvision_network_is_taken_unless_it_has_batch_norm():
    from torchvision.models import resnet18, squeezenet1_1

    small = partial(squeezenet1_1, num_classes=1000)
    model = models.create(small, shape=(3, 64, 64), classes=1000, key=Key(0))
    assert model.params == 1_235_496  # as its documentation says
    with pytest.raises(ValueError, match=r"^model: layer 'bn1' is BatchNorm2d.*model=resnet8.*$"):
        models.create(partial(resnet18, num_classes=10), shape=(3, 64, 64), classes=10, key=Key(0))


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (Counting, "buffer 'seen' of Counting changes while it trains"),
        (partial(nn.Linear, in_features=6), "Linear cannot be built, missing .*out_features"),
        (
            partial(nn.Linear, in_features=5, out_features=3),
            r"does not take inputs of shape \(6,\)",
        ),
        (
            partial(nn.Linear, in_features=6, out_features=4),
            r"must map .* to \(2, 3\), got \(2, 4\)",
        ),
        (partial(nn.BatchNorm1d, num_features=6), "the network is BatchNorm1d"),
        (partial(nn.LSTM, input_size=6, hidden_size=3), r"must map .* got tuple"),
        (lambda: 3, "made int, not a network"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(factory, complaint):
    classes = 6 if "BatchNorm" in complaint else 3
    with pytest.raises(ValueError, match=complaint) as caught:
        models.create(factory, shape=(6,), classes=classes, key=Key(0))
    assert str(caught.value).startswith("model: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "classes", "complaint"),
    [
        (nn.Flatten(), 3, "no weights to train"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), 2, "exactly one type"),
        (nn.Linear(2, 1), 1, "classes must be 0"),
    ],
)
def test_what_cannot_be_flat_is_refused(module, classes, complaint):
    with pytest.raises(ValueError, match=complaint):
        models.flat(module, classes=classes)
