"""A gradient of one is a picture; a sum of many with noise in it is not."""

import csv
import inspect
import math
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dai_lab import data
from dai_lab.config import build, load
from dai_lab.core import Key
from dai_lab.models import create, logistic, mlp
from dai_lab.models.view import flat
from dai_lab.privacy import shortened
from dai_lab.privacy.audits import inversion, labels, pictures

DIGITS = data.digits()
SHAPE = DIGITS.shape
SEEDS = st.integers(0, 999)
ATTACKS = (inversion.deep_leakage, inversion.cosine, inversion.analytic)


def tanh_cnn(bias=True, seed=0):
    with Key(seed).seeded():
        module = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Tanh(),
            nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(128, 10, bias=bias),
        )  # fmt: skip
    return flat(module, classes=10)


def some(count, start=0):
    return DIGITS.train.inputs[start : start + count], DIGITS.train.targets[start : start + count]


def rows(model, params, inputs, targets):
    """One gradient a picture, by plain backpropagation."""
    found = []
    for x, y in zip(inputs, targets, strict=True):
        point = params.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(point, x[None]), y[None])
        found.append(torch.autograd.grad(loss, point)[0])
    return torch.stack(found)


def closeness(found, real):
    found = pictures.scaled(found, low=0.0, high=1.0)
    here, there = pictures.matched(found, real)
    return float(pictures.psnr(found[here], real[there]).mean())


def blind(real):
    return closeness(DIGITS.test.inputs.mean(0).expand_as(real), real)


@pytest.mark.parametrize("network", [logistic, partial(mlp, hidden=(30,))])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_linear_first_layer_gives_its_input_away_exactly(network, scale):
    model = create(network, shape=SHAPE, classes=10, key=Key(0))
    params = model.initial.double()
    inputs, targets = some(5)
    for one, seen in enumerate(rows(model, params, inputs.double(), targets)):
        found = inversion.analytic(model, scale * seen, shape=SHAPE)
        torch.testing.assert_close(found, inputs[one].double(), rtol=0, atol=1e-12)


def test_of_a_mean_a_linear_layer_gives_a_mixture_of_the_inputs():
    model = create(logistic, shape=SHAPE, classes=10, key=Key(0))
    inputs, targets = some(3)
    mean = rows(model, model.initial.double(), inputs.double(), targets).mean(0)
    found = inversion.analytic(model, mean, shape=SHAPE).flatten()
    shares = torch.linalg.lstsq(inputs.double().flatten(1).T, found[:, None]).solution
    torch.testing.assert_close(inputs.double().flatten(1).T @ shares, found[:, None])
    assert shares.abs().max() < 0.95


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("label", range(10))
def test_the_label_of_a_single_example_is_read_whatever_it_is(label, bias, learned):
    model = tanh_cnn(bias)
    # What a network believes once it has learned differs from input to input.
    drawn = torch.randn(model.params, generator=Key(5).stream())
    params = model.initial + 0.3 * learned * drawn
    inputs, _ = some(6)
    for row in rows(model, params, inputs, torch.full((6,), label)):
        assert labels.one_label(model, 0.01 * row) == label


@given(seed=SEEDS, examples=st.integers(1, 40), scale=st.sampled_from([1.0, 0.2]))
def test_counts_are_exact_where_the_network_believes_the_same_of_every_input(seed, examples, scale):
    model = tanh_cnn()
    params = model.initial.clone()
    model.views(params)["5.weight"].zero_()
    model.views(params)["5.bias"].copy_(torch.randn(10, generator=Key(seed).stream()))
    # Class 9 is not among them, which a guess at the scale relies on.
    targets = torch.randint(9, (examples,), generator=(Key(seed) / "labels").stream())
    inputs = DIGITS.train.inputs[:examples]
    mean = scale * rows(model, params, inputs, targets).mean(0)
    found = labels.counts(
        model, params, mean, examples=examples, shape=SHAPE, key=Key(1), probes=8,
        clipped=scale < 1,
    )  # fmt: skip
    assert torch.equal(found, targets.bincount(minlength=10))
    assert torch.equal(labels.labels(found), targets.sort().values)


@pytest.mark.parametrize("bias", [True, False])
def test_counts_of_a_fresh_network_are_right_for_nine_labels_in_ten(bias):
    right = []
    for seed in range(10):
        model = tanh_cnn(bias, seed)
        inputs, targets = some(20, 20 * seed)
        mean = rows(model, model.initial, inputs, targets).mean(0)
        found = labels.counts(model, model.initial, mean, examples=20, shape=SHAPE, key=Key(seed))
        assert int(found.sum()) == 20
        right.append(labels.label_accuracy(labels.labels(found), targets))
    assert np.mean(right) >= 0.9


def test_label_accuracy_counts_labels_and_not_their_order():
    found, real = torch.tensor([3, 1, 1, 0]), torch.tensor([1, 3, 2, 2])
    assert labels.label_accuracy(found, real) == 0.5


@pytest.mark.parametrize("clients", [1, 2, 6])
@pytest.mark.parametrize("norm", [0.3, 1.5, 9.0])
def test_what_an_attack_compares_with_is_what_clients_send(clients, norm):
    model = tanh_cnn(seed=clients)
    inputs, targets = some(6)
    each = rows(model, model.initial, inputs, targets).unflatten(0, (clients, -1)).mean(1)
    hot = nn.functional.one_hot(targets, 10).float()
    bounded = inversion.gradient(
        model, model.initial, inputs, hot, clients=clients, norm=norm
    )  # fmt: skip
    torch.testing.assert_close(bounded, shortened(each, norm).mean(0), rtol=1e-4, atol=1e-6)
    free = inversion.gradient(model, model.initial, inputs, hot, clients=clients)
    torch.testing.assert_close(free, each.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("examples", [1, 2])
@pytest.mark.parametrize("norm", [math.inf, 0.5])
def test_deep_leakage_finds_pictures_and_labels_in_the_gradient_of_a_tanh_network(examples, norm):
    model, params = tanh_cnn(), tanh_cnn().initial.double()
    inputs, targets = some(examples, 3)
    seen = shortened(rows(model, params, inputs.double(), targets), norm).mean(0)
    found = inversion.deep_leakage(
        model, params, seen, examples=examples, shape=SHAPE, key=Key(1), clients=examples,
        norm=norm, iterations=150, tries=2,
    )  # fmt: skip
    assert closeness(found.inputs, inputs.double()) > 20
    assert torch.equal(found.labels.sort().values, targets.sort().values)
    assert found.distance < 1e-3


def test_cosine_finds_the_picture_on_any_scale():
    model = tanh_cnn()
    inputs, targets = some(1, 7)
    seen = 0.01 * rows(model, model.initial, inputs, targets)[0]
    read = torch.tensor([labels.one_label(model, seen)])
    found = inversion.cosine(
        model, model.initial, seen, labels=read, shape=SHAPE, key=Key(1), low=0.0, high=1.0
    )
    assert closeness(found.inputs, inputs) > 20
    assert torch.equal(found.labels, targets)
    assert bool((found.inputs >= 0).all()) and bool((found.inputs <= 1).all())


def test_of_two_tries_the_better_one_counts_and_a_key_repeats_it():
    model = tanh_cnn()
    inputs, targets = some(2)
    seen = rows(model, model.initial, inputs, targets).mean(0)
    knobs = {"labels": targets, "shape": SHAPE, "low": 0.0, "high": 1.0, "iterations": 30}
    ends = [
        inversion.cosine(model, model.initial, seen, key=Key(1), tries=tries, **knobs)
        for tries in (1, 2, 2)
    ]
    assert ends[1].distance <= ends[0].distance
    assert torch.equal(ends[1].inputs, ends[2].inputs)


def test_an_attack_finds_the_picture_once_the_picture_is_gone():
    model = tanh_cnn()
    inputs, targets = (one.clone() for one in some(1))
    seen, kept = rows(model, model.initial, inputs, targets)[0].clone(), inputs.clone()
    inputs.fill_(torch.nan), targets.fill_(-1)
    found = inversion.deep_leakage(
        model, model.initial, seen, examples=1, shape=SHAPE, key=Key(0), iterations=80
    )
    assert closeness(found.inputs, kept) > 20


@pytest.mark.parametrize("attack", [*ATTACKS, labels.one_label, labels.counts])
def test_an_attack_takes_no_data(attack):
    told = {"model", "params", "seen", "examples", "shape", "key", "labels", "clients", "norm"}
    knobs = {"iterations", "tries", "enough", "rate", "smooth", "low", "high", "probes", "clipped"}
    assert set(inspect.signature(attack).parameters) <= told | knobs


@pytest.mark.parametrize("attack", ["deep_leakage", "cosine", "analytic"])
def test_behind_a_secure_sum_of_twenty_with_noise_no_attack_beats_the_mean_picture(attack):
    count, norm = 20, 1.0
    network = partial(mlp, hidden=(20,)) if attack == "analytic" else None
    model = create(network, shape=SHAPE, classes=10, key=Key(0)) if network else tanh_cnn()
    inputs, targets = some(count)
    sent = shortened(rows(model, model.initial, inputs, targets), norm)
    assert bool((sent.norm(dim=1) <= norm * 1.0001).all())
    summed = build(load("secagg=pairwise").secagg, at="secagg")(
        sent, torch.ones(count), clients=tuple(range(count)), key=Key(2)
    )
    assert summed.count == 1 and len(summed.members[0]) == count
    torch.testing.assert_close(summed.rows[0], sent.mean(0), rtol=0, atol=1e-4)
    noise = norm / count * torch.randn(model.params, generator=Key(3).stream())
    seen = summed.rows[0] + noise
    if attack == "analytic":
        found = inversion.analytic(model, seen, shape=SHAPE).expand_as(inputs)
        assert closeness(found, inputs) < blind(inputs)
        return
    read = labels.labels(
        labels.counts(
            model, model.initial, seen, examples=count, shape=SHAPE, key=Key(4), clipped=True
        )
    )
    knobs = {"shape": SHAPE, "key": Key(4), "clients": count, "norm": norm, "iterations": 20}
    if attack == "cosine":
        knobs |= {"labels": read, "low": 0.0, "high": 1.0}
    else:
        knobs["examples"] = count
    found = getattr(inversion, attack)(model, model.initial, seen, **knobs)
    assert closeness(found.inputs, inputs) < blind(inputs)


def test_a_constant_error_of_a_tenth_is_twenty_decibels():
    real = torch.full((2, 1, 12, 12), 0.5, dtype=torch.float64)
    found = real + torch.tensor([0.1, -0.01])[:, None, None, None]
    torch.testing.assert_close(pictures.psnr(found, real), torch.tensor([20.0, 40.0]).double())
    assert pictures.psnr(real, real).isinf().all()


@given(seed=SEEDS)
def test_structural_similarity_is_what_scipys_filters_make_of_it(seed):
    from scipy.ndimage import gaussian_filter

    stream = Key(seed).stream()
    real = torch.rand(2, 1, 16, 14, generator=stream).double()
    found = (real + 0.2 * torch.randn(2, 1, 16, 14, generator=stream)).clamp(0, 1)

    def blurred(x):
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    for one, (x, y) in enumerate(zip(found[:, 0].numpy(), real[:, 0].numpy(), strict=True)):
        a, b = blurred(x), blurred(y)
        covariance = blurred(x * y) - a * b
        spread = blurred(x * x) - a * a + blurred(y * y) - b * b
        like = (2 * a * b + 1e-4) * (2 * covariance + 9e-4)
        expected = (like / ((a * a + b * b + 1e-4) * (spread + 9e-4))).mean()
        assert float(pictures.ssim(found, real)[one]) == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(pictures.ssim(real, real), torch.ones(2).double())


@given(seed=SEEDS)
def test_pairs_are_those_of_the_least_error_among_all_orders(seed):
    stream = Key(seed).stream()
    found, real = (torch.rand(4, 1, 3, 3, generator=stream) for _ in range(2))
    here, there = pictures.matched(found, real)
    assert there.tolist() == [0, 1, 2, 3]
    least = min(
        permutations(range(4)), key=lambda order: float((found[list(order)] - real).square().sum())
    )
    assert here.tolist() == list(least)
    assert pictures.matched(real[[2, 0]], real)[1].tolist() == [0, 2]


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_stand_beside_each_other_with_their_names(dark):
    panels = {
        name: {row: some(count)[0] for row in ("original", "no noise", "noise")}
        for name, count in {"one client": 1, "5 clients": 3}.items()
    }
    figure = pictures.beside(panels, notes={("5 clients", "noise"): "7.5 dB"}, dark=dark)
    texts = {axes.get_title() for axes in figure.axes} | {a.get_ylabel() for a in figure.axes}
    assert {*panels, "original", "no noise", "noise"} <= texts
    assert [len(axes.images) for axes in figure.axes] == [1] * 6
    assert figure.axes[5].get_xlabel() == "7.5 dB"
    shown = figure.axes[1].images[0].get_array()
    assert shown.shape == (8, 3 * 8 + 2)
    assert np.array_equal(shown[:, 18:].filled(-1), some(3)[0][2, 0].numpy())


MODEL = tanh_cnn()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"examples": 0}, r"audit\.examples must be at least 1, got 0"),
        ({"iterations": 0}, r"audit\.iterations must be at least 1"),
        ({"tries": 0}, r"audit\.tries must be at least 1"),
        ({"clients": 2}, r"audit\.clients must divide 3 examples, got 2"),
        ({"norm": 0.0}, r"audit\.norm must be above 0, got 0\.0"),
        ({"seen": torch.full_like(MODEL.initial, torch.nan)}, "what was seen holds NaN"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, message):
    usual = {"seen": MODEL.initial, "examples": 3, "shape": SHAPE, "key": Key(0)}
    with pytest.raises(ValueError, match=message):
        inversion.deep_leakage(MODEL, MODEL.initial, **(usual | knobs))


def test_what_cannot_be_read_is_refused():
    regression = create(mlp, shape=SHAPE, classes=0, key=Key(0))
    with pytest.raises(ValueError, match="choose data with classes"):
        labels.one_label(regression, regression.initial)
    with pytest.raises(ValueError, match=r"choose model=mlp or model=logistic"):
        inversion.analytic(MODEL, MODEL.initial, shape=SHAPE)
    ends_in_filters = flat(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), classes=10)
    with pytest.raises(ValueError, match="linear last layer"):
        labels.one_label(ends_in_filters, ends_in_filters.initial)
    with pytest.raises(ValueError, match="cosine is for pictures"):
        inversion.cosine(
            MODEL, MODEL.initial, MODEL.initial, labels=torch.tensor([1]), shape=(64,),
            key=Key(0), low=0.0, high=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="low must be below high"):
        pictures.scaled(torch.zeros(2), low=1.0, high=1.0)
    with pytest.raises(ValueError, match="ssim needs 11 pixels a side"):
        pictures.ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="the same rows"):
        pictures.beside({})


def test_the_tables_of_what_leaks_follow_from_what_was_measured(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root)
    from benchmarks import what_leaks

    frame, text = what_leaks.leaks(), (what_leaks.PLACE / "README.md").read_text()
    cells = [*what_leaks.cells(list(what_leaks.CELLS), list(range(5)))]
    assert len(frame) == len(cells) == len(set(cells))
    assert what_leaks.filled(text, frame) == text


def test_the_study_read_one_clients_picture_and_nothing_behind_twenty_with_noise():
    root = Path(__file__).parents[2] / "experiments" / "what_leaks" / "leaks.csv"
    found = list(csv.DictReader(root.open()))

    def decibels(name, attack, clients, guard):
        cell = (name, attack, str(clients), guard)
        keys = ("data", "attack", "clients", "guard")
        return [float(one["psnr"]) for one in found if tuple(one[key] for key in keys) == cell]

    for name in ("mnist10k", "fashion_mnist"):
        blind = decibels(name, "mean picture", 20, "none")
        for attack in ("deep_leakage", "cosine", "analytic"):
            assert np.median(decibels(name, attack, 1, "none")) > 40
            assert max(decibels(name, attack, 20, "noise 1")) < min(blind)
