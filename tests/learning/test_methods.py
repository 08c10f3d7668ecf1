"""Every method gives the rows that autograd, one client after another, gives."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from dai_lab.core import Compute, Examples, Key, Shards, State, Task
from dai_lab.learning import choose, distributed_sgd, predict, sgd
from dai_lab.models import create, flat, logistic, mlp, resnet8

FLAT, IMAGE = (6,), (2, 9, 8)
SIZES = (7, 0, 33, 1)
CLOSE = {"rtol": 1e-3, "atol": 1e-5}
"""Methods sum in different orders; updates here are about 0.1 to 1 a coordinate."""


def chained(*layers):
    return lambda: nn.Sequential(*[make() for make in layers])


def linear(*sizes, bias=True):
    return partial(nn.Linear, *sizes, bias=bias)


def conv(*sizes, **knobs):
    return partial(nn.Conv2d, *sizes, **knobs)


DENSE = {
    "one layer": logistic,
    "two layers": partial(mlp, hidden=[7]),
    "three layers": partial(mlp, hidden=[7, 5]),
    "no bias": chained(linear(6, 7, bias=False), nn.ReLU, linear(7, 3, bias=False)),
    "bias below": chained(linear(6, 7), nn.ReLU, linear(7, 3, bias=False)),
    "bias above": chained(linear(6, 7, bias=False), nn.ReLU, linear(7, 3)),
    "one unit": chained(linear(6, 1), nn.ReLU, linear(1, 3)),
}
IMAGES = {
    "padding and stride": chained(
        conv(2, 4, 3, padding=1, stride=2),
        nn.ReLU,
        partial(nn.MaxPool2d, 2, stride=1, padding=1),
        conv(4, 3, 2, bias=False),
        nn.ReLU,
        nn.Flatten,
        linear(3 * 5 * 4, 3),
    ),
    "same and dilation": chained(
        conv(2, 3, 3, padding="same", dilation=2),
        nn.ReLU,
        partial(nn.MaxPool2d, (3, 2)),
        nn.Flatten,
        linear(3 * 3 * 4, 5),
        nn.ReLU,
        linear(5, 3),
    ),
    "pool first": chained(
        partial(nn.MaxPool2d, 2, dilation=2),
        conv(2, 3, 2, padding="valid"),
        nn.Flatten,
        nn.ReLU,
        linear(3 * 3 * 2, 3, bias=False),
    ),
    "relu first": chained(
        nn.ReLU, conv(2, 3, 3), partial(nn.MaxPool2d, 2), nn.Flatten, linear(3 * 3 * 3, 3)
    ),
    "halved": chained(
        conv(2, 3, (2, 2)),
        nn.ReLU,
        partial(nn.MaxPool2d, 2),
        conv(3, 4, 1),
        nn.ReLU,
        partial(nn.MaxPool2d, 2),
        nn.Flatten,
        linear(4 * 2 * 1, 3),
    ),
    "flattened image": partial(mlp, hidden=[5]),
}
OTHERS = {
    "tanh": (FLAT, chained(linear(6, 5), nn.Tanh, linear(5, 3))),
    "resnet8": ((1, 8, 8), resnet8),
}
NETWORKS = {
    **{name: (FLAT, make) for name, make in DENSE.items()},
    **{name: (IMAGE, make) for name, make in IMAGES.items()},
    **OTHERS,
}
PAIRS = [
    *((name, "vmap") for name in NETWORKS),
    *((name, "chain") for name in (*DENSE, *IMAGES)),
    *((name, "compiled") for name in (*DENSE, "flattened image")),
]


def task(name, seed=0, sizes=SIZES):
    shape, make = NETWORKS[name]
    stream, count = Key(seed).stream(), sum(sizes) + 5
    inputs = torch.randn(count, *shape, generator=stream)
    targets = torch.randint(3, (count,), generator=stream)
    dealt = torch.randperm(count, generator=stream)[: sum(sizes)].split(sizes)
    model = create(make, shape=shape, classes=3, key=Key(seed) / "model")
    if name == "resnet8":
        # So many layers deep, two ways to add float32 up differ by what a ReLU makes of rounding.
        inputs, model = inputs.double(), replace(model, initial=model.initial.double())
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


def start_of(what, own, seed=0):
    if not own:
        return what.model.initial
    moves = torch.randn(len(what.shards), what.model.params, generator=Key(seed).stream())
    return what.model.initial + 0.1 * moves


def rows(
    what,
    train,
    method,
    *,
    start=None,
    group=0,
    cohort=None,
    threads=1,
    compiled=False,
    precision="float32",
    **knobs,
):
    cohort = range(len(what.shards)) if cohort is None else cohort
    start = what.model.initial if start is None else start
    compute = Compute(
        method=method, group=group, threads=threads, compile=compiled, precision=precision
    )
    return train(
        what,
        State(what.model.initial),
        start,
        cohort,
        key=Key(7),
        round=1,
        compute=compute,
        **knobs,
    )


@cache
def plainly(name, train, *, own, **knobs):
    """What every method is held against; each is asked with the same knobs."""
    what = task(name)
    return rows(what, train, "flat", start=start_of(what, own), **knobs)


KNOBS = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from([0.0, 0.9]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "clip": st.sampled_from([None, 0.3]),
        "batch_size": st.sampled_from([0, 8, 1, 100]),
    }
)


@pytest.mark.parametrize(("name", "method"), PAIRS)
@settings(max_examples=15)
@given(
    knobs=KNOBS,
    proximal=st.sampled_from([0.0, 0.5]),
    epochs=st.integers(1, 2),
    own=st.booleans(),
    group=st.sampled_from([0, 1, 3]),
)
def test_local_sgd_is_the_same_by_every_method(name, method, knobs, proximal, epochs, own, group):
    what = task(name)
    knobs = {**knobs, "proximal": proximal, "epochs": epochs, "rate": 0.05}
    start = start_of(what, own)
    plain = plainly(name, sgd, own=own, **knobs)
    other = rows(what, sgd, method, start=start, group=group, **knobs)
    torch.testing.assert_close(other.rows, plain.rows, **CLOSE)
    torch.testing.assert_close(other.losses, plain.losses, **CLOSE)
    assert other.weights.tolist() == plain.weights.tolist() == list(SIZES)
    assert not other.rows[1].any()


@pytest.mark.parametrize(("name", "method"), PAIRS)
@settings(max_examples=10)
@given(knobs=KNOBS, own=st.booleans())
def test_distributed_sgd_is_the_same_by_every_method(name, method, knobs, own):
    what = task(name)
    start = start_of(what, own)
    plain = plainly(name, distributed_sgd, own=own, **knobs)
    other = rows(what, distributed_sgd, method, start=start, **knobs)
    torch.testing.assert_close(other.rows, plain.rows, **CLOSE)
    torch.testing.assert_close(other.losses, plain.losses, **CLOSE)
    assert other.learned.keys() == plain.learned.keys()
    for memory, before in plain.learned.items():
        torch.testing.assert_close(other.learned[memory], before, **CLOSE)


@pytest.mark.parametrize("method", ["flat", "vmap", "chain", "compiled"])
@pytest.mark.parametrize("train", [sgd, distributed_sgd])
@given(order=st.permutations(range(4)), own=st.booleans())
@settings(max_examples=12)
def test_the_order_of_the_cohort_orders_the_rows_and_nothing_else(method, train, order, own):
    what = task("two layers")
    start = start_of(what, own)
    plain = rows(what, train, method, start=start)
    turned = start[order] if own else start
    other = rows(what, train, method, start=turned, cohort=order)
    torch.testing.assert_close(other.rows, plain.rows[order], rtol=0, atol=1e-6)
    torch.testing.assert_close(other.losses, plain.losses[order], rtol=0, atol=1e-6)
    assert other.weights.equal(plain.weights[order])


@pytest.mark.parametrize("name", [*DENSE, *IMAGES, "resnet8"])
def test_predictions_are_the_networks_own(name):
    what = task(name)
    flat = what.model.initial
    expected = what.model(flat, what.data.inputs)
    torch.testing.assert_close(predict(what.model, flat, what.data.inputs, chunk=7), expected)


@pytest.mark.parametrize("name", ["two layers", "halved", "relu first", "resnet8"])
def test_no_example_gives_no_prediction(name):
    """As it must for a client too small to hold anything out."""
    what = task(name)
    assert predict(what.model, what.model.initial, what.data.inputs[:0]).shape == (0, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rule_takes_the_fastest_method_that_fits(name):
    what = task(name)
    expected = "chain" if name in IMAGES else "compiled" if name in DENSE else "flat"
    if name == "flattened image":
        expected = "compiled"
    assert choose(what.model, Compute(), rank=what.data.inputs.dim() - 1).name == expected


@pytest.mark.parametrize(
    ("name", "method"), [("tanh", "chain"), ("tanh", "compiled"), ("relu first", "compiled")]
)
def test_a_method_that_does_not_fit_is_named_with_those_that_do(name, method):
    what = task(name)
    with pytest.raises(ValueError, match=rf"compute\.method={method} cannot .*: choose from flat"):
        rows(what, sgd, method)


@pytest.mark.parametrize("method", ["flat", "vmap", "chain", "compiled"])
@pytest.mark.parametrize("name", ["two layers", "flattened image", "relu first", "halved"])
def test_weights_that_are_not_numbers_stay_so(name, method):
    if (name, method) not in {*PAIRS, (name, "flat")}:
        pytest.skip("this method does not take this network")
    what = task(name)
    start = what.model.initial.clone()
    start[:3] = torch.nan
    moved = rows(what, sgd, method, start=start, rate=0.1)
    assert moved.rows[0].isnan().any()
    assert moved.losses[0].isnan()
    assert predict(what.model, start, what.data.inputs).isnan().any()


@pytest.mark.parametrize("kind", ["hook", "weight norm", "pruned"])
def test_a_layer_that_hooks_have_changed_is_no_plain_link(kind):
    """The chain would not run the hook, so it must leave such a network to autograd."""

    def make():
        layer = nn.Linear(6, 3)
        if kind == "hook":
            layer.register_forward_hook(lambda module, inputs, output: 3 * output)
        if kind == "weight norm":
            layer = parametrizations.weight_norm(layer)
        if kind == "pruned":
            prune.random_unstructured(layer, "weight", amount=0.5)
        return nn.Sequential(layer)

    model = create(make, shape=FLAT, classes=3, key=Key(0))
    inputs = torch.randn(4, 6, generator=Key(1).stream())
    torch.testing.assert_close(predict(model, model.initial, inputs), model(model.initial, inputs))


def test_non_contiguous_inputs_train_like_contiguous_ones():
    what = task("two layers")
    strided = torch.empty(6, len(what.data.inputs)).t().copy_(what.data.inputs)
    assert not strided.is_contiguous()
    other = Task(what.model, Examples(strided, what.data.targets), what.shards)
    for method in ("flat", "vmap", "chain", "compiled"):
        torch.testing.assert_close(rows(other, sgd, method).rows, rows(what, sgd, method).rows)


class Spare(nn.Module):
    """A network with a head that its outputs do not use, as auxiliary heads are."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.used(inputs.flatten(1)[:, :6])


@pytest.mark.parametrize("method", ["flat", "vmap"])
@pytest.mark.parametrize("train", [sgd, distributed_sgd])
def test_a_weight_the_outputs_do_not_use_stays_where_it_is(method, train):
    model = flat(Spare(), classes=3)
    data = Examples(torch.randn(8, 6, generator=Key(0).stream()), torch.arange(8) % 3)
    what = Task(model, data, Shards.of([torch.arange(4), torch.arange(4, 8)]))
    found = train(
        what, State(model.initial), model.initial, [0, 1], key=Key(1), round=1,
        compute=Compute(method=method), clip=0.1,
    )  # fmt: skip
    unused = model.views(found.rows)["spare.weight"]
    assert found.rows.any() and not unused.any()


def test_compiled_stacks_give_what_stacks_give():
    what = task("two layers")
    plain = rows(what, sgd, "vmap", batch_size=8, momentum=0.5)
    compiled = rows(what, sgd, "vmap", batch_size=8, momentum=0.5, compiled=True)
    torch.testing.assert_close(compiled.rows, plain.rows, **CLOSE)


@pytest.mark.parametrize("method", ["flat", "vmap"])
def test_mixed_precision_is_near_and_its_weights_stay_whole(method):
    what = task("two layers")
    plain = rows(what, sgd, method, batch_size=8)
    mixed = rows(what, sgd, method, batch_size=8, precision="bfloat16")
    assert mixed.rows.dtype == torch.float32
    assert not mixed.rows.equal(plain.rows)
    torch.testing.assert_close(mixed.rows, plain.rows, rtol=0.1, atol=0.02)


def test_a_precision_or_a_compiler_that_does_not_fit_is_named():
    what = task("two layers")
    with pytest.raises(ValueError, match=r"compute\.precision=bfloat16 needs compute\.method"):
        rows(what, sgd, "chain", precision="bfloat16")
    with pytest.raises(ValueError, match=r"compute\.compile needs compute\.method=vmap"):
        rows(what, sgd, "chain", compiled=True)
    with pytest.raises(ValueError, match=r"compute\.precision must be float32 or bfloat16"):
        Compute(precision="float16")
    with pytest.raises(ValueError, match=r"compute\.memory must be above 0"):
        Compute(memory=0.0)


def test_a_gpu_takes_as_many_clients_abreast_as_its_memory_allows():
    model = task("two layers").model
    copies = 4 * model.params * 4 / 2**30
    for fits in (1, 7, 64):
        compute = Compute(device="cuda", memory=copies * (fits + 0.5))
        assert choose(model, compute, rank=1).group == fits
    assert choose(model, Compute(device="cuda", memory=copies * 1000), rank=1).group == 64
    assert choose(model, Compute(device="cuda", memory=copies / 9), rank=1).group == 1
