"""Weights of examples and the charge for gaps: the same by every method, and what autograd says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dai_lab.core import Compute, Examples, Key, Sensitive, Shards, State, Task
from dai_lab.learning import distributed_sgd, dp_sgd, sgd
from dai_lab.learning.balance import Balance
from dai_lab.learning.descent import Descent
from dai_lab.learning.training import descend, plans_of
from dai_lab.models import create

METHODS = ("flat", "vmap", "compiled")


def network(shape, classes):
    return nn.Sequential(nn.Linear(shape[0], 5), nn.ReLU(), nn.Linear(5, classes))


def task(seed=0, *, classes=2, penalty=0.0, penalizes="odds", favorable=1, sizes=(9, 6, 4)):
    stream = (Key(seed) / "task").stream()
    count = sum(sizes)
    data = Examples(
        torch.randn(count, 3, generator=stream),
        torch.randint(classes, (count,), generator=stream),
        {"sex": torch.randint(3, (count,), generator=stream)},
    )
    model = create(network, shape=(3,), classes=classes, key=Key(seed))
    ends = torch.tensor([0, *sizes]).cumsum(0)
    knobs = {"penalty": penalty, "penalizes": penalizes}
    sensitive = Sensitive(("sex",), (3,), favorable, **knobs)
    return Task(model, data, Shards(torch.arange(count), ends), sensitive)


def trained(what, weights, method, *, batch_size=4, **knobs):
    plans = plans_of(what, [0, 1, 2], key=Key(1), epochs=2, batch_size=batch_size)
    rule = Descent(0.1, **knobs)
    return descend(
        what, what.model.initial, [0, 1, 2], plans, rule, key=Key(1),
        compute=Compute(method=method), weights=weights,
    )  # fmt: skip


@given(
    seed=st.integers(0, 99),
    classes=st.integers(2, 4),
    penalty=st.sampled_from([0.0, 3.0]),
    penalizes=st.sampled_from(["odds", "opportunity", "parity"]),
    weighed=st.booleans(),
    momentum=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=30)
def test_every_method_weighs_and_charges_alike(
    seed, classes, penalty, penalizes, weighed, momentum
):
    what = task(seed, classes=classes, penalty=penalty, penalizes=penalizes, favorable=classes - 1)
    stream = (Key(seed) / "weights").stream()
    weights = torch.rand(19, generator=stream).mul(3).floor() if weighed else None
    ends = [trained(what, weights, method, momentum=momentum) for method in METHODS]
    for other in ends[1:]:
        torch.testing.assert_close(other.rows, ends[0].rows, atol=2e-6, rtol=2e-5)
        torch.testing.assert_close(other.losses, ends[0].losses, atol=2e-6, rtol=2e-5)


@given(seed=st.integers(0, 99), penalizes=st.sampled_from(["odds", "opportunity", "parity"]))
@settings(max_examples=20)
def test_one_step_is_the_slope_of_weighed_losses_and_of_squared_gaps(seed, penalizes):
    what = task(seed, penalty=2.0, penalizes=penalizes, sizes=(9, 0, 0))
    weights = torch.rand(9, generator=(Key(seed) / "w").stream()) + 0.5
    plans = plans_of(what, [0], key=Key(1), epochs=1, batch_size=0)
    found = descend(
        what, what.model.initial, [0], plans, Descent(0.1), key=Key(1), compute=Compute(),
        weights=weights,
    )  # fmt: skip
    point = what.model.initial.clone().requires_grad_()
    outputs = what.model(point, what.data.inputs)
    scores, targets = outputs.softmax(1)[:, 1], what.data.targets
    cost = (what.model.loss(outputs, targets) * weights).mean()
    kinds = {"odds": [targets == 0, targets == 1], "opportunity": [targets == 1]}
    for kind in kinds.get(penalizes, [targets >= 0]):
        groups = [kind & (what.data.attributes["sex"] == group) for group in range(3)]
        means = torch.stack([scores[one].mean() for one in groups if bool(one.any())] or [cost * 0])
        cost = cost + 2.0 * (means - means.mean()).square().sum()
    (slope,) = torch.autograd.grad(cost, point)
    torch.testing.assert_close(found.rows[0], -0.1 * slope, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_one_change_nothing(method):
    what = task()
    plain, ones = trained(what, None, method), trained(what, torch.ones(19), method)
    torch.testing.assert_close(ones.rows, plain.rows, atol=1e-6, rtol=1e-5)


def test_what_counts_for_nothing_might_not_be_there():
    weights = torch.ones(19)
    weights[2:9] = 0
    found = trained(task(penalty=2.0), weights, "compiled", batch_size=0)
    left = task(penalty=2.0)
    data = left.data.some(torch.tensor([0, 1, *range(9, 19)]))
    sizes = torch.tensor([0, 2, 8, 12])
    # Seven examples less in the mean of nine, and the charge is as it was.
    some = Task(left.model, data, Shards(torch.arange(12), sizes), left.sensitive)
    heavy = torch.full((12,), 2 / 9)
    heavy[2:] = 1
    other = trained(some, heavy, "compiled", batch_size=0)
    torch.testing.assert_close(found.rows, other.rows, atol=1e-6, rtol=1e-5)


def test_a_charge_narrows_the_gap_it_is_for():
    def gap(penalty):
        what = task(3, penalty=penalty, penalizes="parity", sizes=(200, 0, 0))
        inputs = what.data.inputs + what.data.attributes["sex"].unsqueeze(1)
        told = Task(
            what.model,
            Examples(inputs, (inputs[:, 0] > 1).long(), what.data.attributes),
            what.shards,
            what.sensitive,
        )
        found = sgd(
            told, State(told.model.initial), told.model.initial, [0], key=Key(0), round=1,
            compute=Compute(), epochs=60, batch_size=0, rate=0.5,
        )  # fmt: skip
        scores = told.model(told.model.initial + found.rows[0], inputs).softmax(1)[:, 1]
        means = [scores[told.data.attributes["sex"] == group].mean() for group in range(3)]
        return float(max(means) - min(means))

    assert gap(20.0) < gap(2.0) < gap(0.0)


def test_a_batch_with_a_single_group_costs_nothing():
    what = task(penalty=5.0, penalizes="parity")
    alone = Task(
        what.model,
        Examples(what.data.inputs, what.data.targets, {"sex": torch.ones(19, dtype=torch.long)}),
        what.shards,
        what.sensitive,
    )
    free = Task(what.model, alone.data, what.shards)
    torch.testing.assert_close(
        trained(alone, None, "compiled").rows, trained(free, None, "compiled").rows
    )


@pytest.mark.parametrize("local", [distributed_sgd, dp_sgd])
def test_local_training_that_knows_no_charge_says_so(local):
    what = task(penalty=1.0)
    start = what.model.initial
    with pytest.raises(ValueError, match=r"fairness\.penalty"):
        local(what, State(start), start, [0], key=Key(0), round=1, compute=Compute())


def test_nothing_is_weighed_unless_something_is():
    assert not Balance.of(task(), None)
    assert Balance.of(task(penalty=1.0), None) and Balance.of(task(), torch.ones(19))
