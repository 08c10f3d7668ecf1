"""LASA and DeepSight against what their papers say, number by number."""

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dai_lab.aggregators import deepsight, lasa
from dai_lab.aggregators.deepsight import division_differences, update_energies
from dai_lab.aggregators.layers import output_layer
from dai_lab.core import Context, Key, State, Visible
from dai_lab.models import create, flat, logistic, small_cnn

SEEDS = st.integers(0, 999)
few = settings(max_examples=20)
MLP = flat(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 10)), classes=10)


def normal(seed, *shape):
    return torch.randn(*shape, generator=Key(seed).stream(), dtype=torch.float64)


def see(rows):
    return Visible(rows, tuple((i,) for i in range(len(rows))), torch.ones(len(rows)))


def server(model, seed=0):
    return Context(Key(seed), State(model.initial.double()), model)


def close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(np.asarray(expected)).double()
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def slow_lasa(rows, sizes, sparsity=0.3, norm_bound=2.0, sign_bound=1.0):
    """Take one row and one layer after the other."""
    lengths = [np.sqrt((row**2).sum()) for row in rows]
    bound, sparse = np.median(lengths), []
    for row, length in zip(rows, lengths, strict=True):
        clipped = row * min(1.0, bound / length)
        drop = np.argsort(np.abs(clipped))[: int(sparsity * len(row))]
        clipped[drop] = 0.0
        sparse.append(clipped)
    update, start = [], 0
    for size in sizes:
        layers = [row[start : start + size] for row in sparse]
        start += size
        norms = np.array([np.linalg.norm(one) for one in layers])
        signs = np.array(
            [(1 + (one > 0).sum() / max((one != 0).sum(), 1)
              - (one < 0).sum() / max((one != 0).sum(), 1)) / 2 for one in layers]
        )  # fmt: skip
        kept = []
        for i, layer in enumerate(layers):
            scores = [
                0.0 if one[i] == np.median(one) else abs(one[i] - np.median(one)) / one.std()
                for one in (norms, signs)
            ]
            if scores[0] < norm_bound - 1e-8 and scores[1] < sign_bound - 1e-8:
                kept.append(layer)
        update.append(np.mean(kept or layers, axis=0))
    return np.concatenate(update)


@few
@given(SEEDS, st.integers(2, 12), st.sampled_from([0.0, 0.3, 0.9]))
def test_lasa_is_its_slow_twin(seed, count, sparsity):
    rows = normal(seed, count, MLP.params) + 0.2
    rows[0] *= 4
    sizes = [35, 7, 70, 10]
    found = lasa(see(rows), server(MLP), sparsity=sparsity)
    close(found.update, slow_lasa(rows.numpy().copy(), sizes, sparsity))
    alone = lasa(see(rows), sparsity=sparsity)
    close(alone.update, slow_lasa(rows.numpy().copy(), [MLP.params], sparsity))


def test_lasa_leaves_out_the_layer_that_is_strange_and_keeps_the_rest():
    rows = 1 + 0.1 * normal(0, 15, MLP.params)
    rows[3, :35] *= -1
    found = lasa(see(rows), server(MLP), sparsity=0.0, sign_bound=3.0, norm_bound=9.0)
    others = [one for one in range(15) if one != 3]
    lengths = rows.norm(dim=1)
    fair = rows * (lengths.median() / lengths).clamp_max(1).unsqueeze(1)
    close(found.update[:35], fair[others][:, :35].mean(0))
    close(found.update[35:], fair[:, 35:].mean(0))
    close(found.suspicion[3], torch.tensor(35 / 122, dtype=torch.float64))
    assert not found.suspected.any()
    rows[3] = -1
    found = lasa(see(rows), server(MLP), sparsity=0.0, sign_bound=3.0, norm_bound=9.0)
    assert found.suspected.nonzero().flatten().tolist() == [3]
    assert found.shares[3] == 0


def test_where_nobody_passes_lasa_averages_all_and_says_so():
    rows = torch.tensor([[3.0, 4.0], [4.0, 3.0], [4.0, -3.0], [-3.0, -4.0]], dtype=torch.float64)
    found = lasa(see(rows), sparsity=0.0, sign_bound=1e-9)
    close(found.update, rows.mean(0))
    assert found.record["layers_nobody_passed"] == 1


@given(SEEDS)
def test_update_energies_and_exceedings_are_those_of_the_paper(seed):
    weights, biases = normal(seed, 4, 10, 6), normal(seed + 1, 4, 10)
    weights[0, 1:] *= 1e-3
    biases[0, 1:] *= 1e-3
    parts, exceeding = update_energies(weights, biases)
    for client in range(4):
        energy = [abs(float(biases[client, c])) + sum(abs(float(one)) for one in weights[client, c])
                  for c in range(10)]  # fmt: skip
        expected = [one**2 / sum(other**2 for other in energy) for one in energy]
        close(parts[client], expected)
        assert exceeding[client] == sum(one > 0.1 * max(expected) for one in expected)
    assert exceeding[0] == 1


def test_division_differences_are_mean_quotients_of_probabilities():
    params, rows = MLP.initial.double(), 0.1 * normal(0, 3, MLP.params)
    found = division_differences(MLP, params, rows, (5,), 1100, Key(4))
    stream = Key(4).stream()
    inputs = torch.cat([torch.rand(size, 5, generator=stream) for size in (500, 500, 100)])
    before = MLP(params, inputs.double()).softmax(1)
    for row, factors in zip(rows, found, strict=True):
        after = MLP(params + row, inputs.double()).softmax(1)
        close(factors, (after / before).mean(0).detach(), 1e-10)


def trained(seed, count=20, liars=6):
    """Clients who learned all classes, and liars who know one; the last layer says which."""
    rows = 0.02 * normal(seed, count, MLP.params)
    rows[:, -10:] += 0.1 * torch.linspace(-1, 1, 10)
    rows[:liars] = 0.02 * normal(seed + 1, 1, MLP.params) + 1e-4 * normal(seed + 2, liars, 122)
    rows[:liars, 42 + 7 * 3 : 42 + 7 * 4] += 1.0
    rows[:liars, -10 + 3] += 1.0
    return rows


@few
@given(SEEDS)
def test_deepsight_rejects_a_cluster_that_trained_on_one_class(seed):
    rows = trained(seed)
    found = deepsight(see(rows), server(MLP), samples=200)
    assert found.suspected[:6].all()
    assert (found.shares[:6] == 0).all()
    kept = ~found.suspected
    assert kept.sum() >= 7
    lengths = rows.norm(dim=1)
    bound = (lengths.sort().values[9] + lengths.sort().values[10]) / 2
    fair = rows * (bound / lengths).clamp_max(1).unsqueeze(1)
    close(found.update, fair[kept].mean(0))
    assert found.suspicion[:6].min() > found.suspicion[kept].max()


@few
@given(SEEDS, st.data())
def test_whose_row_comes_first_does_not_matter_to_deepsight(seed, data):
    order = torch.tensor(data.draw(st.permutations(range(20))))
    rows = trained(seed)
    found = deepsight(see(rows), server(MLP), samples=50, seeds=1)
    moved = deepsight(see(rows[order]), server(MLP), samples=50, seeds=1)
    close(moved.update, found.update)
    assert moved.suspected.equal(found.suspected[order])


def test_deepsight_keeps_clients_who_are_alike():
    for count in (1, 2, 4, 9):
        row = normal(0, 1, MLP.params)
        found = deepsight(see(row.repeat(count, 1)), server(MLP), samples=20)
        assert not found.suspected.any()
        close(found.update, row[0])


def test_where_deepsight_rejects_all_whoever_is_not_suspicious_stays(monkeypatch):
    rows = trained(0, count=5, liars=2)
    room = import_module("dai_lab.aggregators.deepsight")  # the function has its name
    monkeypatch.setattr(
        room, "_clusters", lambda apart, **_: torch.zeros(len(apart), dtype=torch.long)
    )
    found = deepsight(see(rows), server(MLP), samples=20)
    assert found.record["all_rejected"] == 1 and found.record["clusters"] == 1
    assert found.suspected.tolist() == [True, True, False, False, False]
    lengths = rows.norm(dim=1)
    fair = rows * (lengths.median() / lengths).clamp_max(1).unsqueeze(1)
    close(found.update, fair[2:].mean(0))


def test_deepsight_finds_out_what_a_network_takes():
    model = create(small_cnn, shape=(1, 8, 8), classes=3, key=Key(0))
    rows = 0.01 * normal(0, 4, model.params).float()
    context = Context(Key(0), State(model.initial), model)
    found = deepsight(see(rows), context, samples=2, seeds=1)
    assert found.update.dtype == torch.float32
    told = deepsight(see(rows), context, samples=2, seeds=1, shape=(1, 8, 8))
    assert found.update.equal(told.update)


def test_the_last_layer_is_its_weight_and_its_bias():
    assert output_layer("any", see(torch.zeros(2, 122)), MLP) == range(42, 122)


@pytest.mark.parametrize(
    ("call", "knob"),
    [
        (lambda rows: lasa(rows, sparsity=1.0), "aggregator.sparsity"),
        (lambda rows: lasa(rows, norm_bound=0.0), "aggregator.norm_bound"),
        (lambda rows: lasa(rows, sign_bound=-1.0), "aggregator.sign_bound"),
        (lambda rows: deepsight(rows, server(MLP), samples=0), "aggregator.samples"),
        (lambda rows: deepsight(rows, server(MLP), tau=0.0), "aggregator.tau"),
        (lambda rows: deepsight(rows), "aggregator=deepsight"),
        (
            lambda rows: deepsight(
                see(torch.zeros(3, 3).double()),
                server(create(logistic, shape=(2,), classes=0, key=Key(0))),
            ),
            "several classes",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(call, knob):
    with pytest.raises(ValueError, match=knob) as caught:
        call(see(normal(0, 4, 122)))
    assert "\n" not in str(caught.value)
