"""Local training against loops a PyTorch user would write, with nothing of ours but the batches."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Visible
from dai_lab.learning import adagrad, adam, distributed_sgd, epochs_of, one_batch, sgd
from dai_lab.models import create, mlp, resnet8, small_cnn

SIZES = (7, 0, 33, 1)
KEY = Key(5)


def dropped():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Dropout(0.4), nn.Linear(9, 3)
    )


NETWORKS = {
    "mlp": (partial(mlp, hidden=[20]), ["flat", "vmap", "chain", "compiled"]),
    "small_cnn": (small_cnn, ["flat", "vmap", "chain"]),
    "resnet8": (resnet8, ["flat", "vmap"]),
    "dropout": (dropped, ["flat"]),
}
WAYS = [(name, method) for name, (_, methods) in NETWORKS.items() for method in methods]
KNOBS = {
    "plain": {},
    "all": {"momentum": 0.9, "weight_decay": 0.02, "clip": 0.7, "proximal": 0.3},
    "penalties": {"weight_decay": 0.02, "proximal": 0.3},
    "clip": {"clip": 0.1},
}


def task(name):
    stream, count = KEY.stream(), sum(SIZES)
    inputs = torch.randn(count, 1, 8, 8, generator=stream)
    targets = torch.randint(3, (count,), generator=stream)
    dealt = torch.randperm(count, generator=stream).split(SIZES)
    model = create(NETWORKS[name][0], shape=(1, 8, 8), classes=3, key=KEY / "model")
    if name in ("small_cnn", "resnet8"):
        # Among so many ReLUs, another order of a float32 sum flips some: processors differ.
        inputs, model = inputs.double(), replace(model, initial=model.initial.double())
        model.module.double()
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


def flattened(module):
    return torch.cat([each.detach().flatten() for each in module.parameters()])


def loop(what, client, *, epochs, batch_size, rate, momentum=0.0, weight_decay=0.0, clip=None,
         proximal=0.0, make=torch.optim.SGD, **more):  # fmt: skip
    """One client's round, written as in any tutorial."""
    module = deepcopy(what.model.module).train()
    before = [each.detach().clone() for each in module.parameters()]
    more |= {"momentum": momentum} if momentum else {}
    optimizer = make(module.parameters(), lr=rate, weight_decay=weight_decay, **more)
    plan = epochs_of(
        what.shards[client],
        key=KEY / "client" / client / "batches",
        epochs=epochs,
        batch_size=batch_size,
    )
    with (KEY / "client" / client / "dropout").seeded():
        for some in plan.steps():
            outputs = module(what.data.inputs[some])
            loss = functional.cross_entropy(outputs, what.data.targets[some])
            moved = zip(module.parameters(), before, strict=True)
            loss = loss + proximal / 2 * sum(((w - first) ** 2).sum() for w, first in moved)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
    return flattened(module) - what.model.initial


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
@pytest.mark.parametrize(("name", "method"), WAYS)
def test_a_client_ends_where_a_plain_torch_loop_ends(name, method, knobs):
    what = task(name)
    knobs = {"epochs": 2, "batch_size": 8, "rate": 0.05, **knobs}
    ours = sgd(
        what,
        State(what.model.initial),
        what.model.initial,
        range(len(SIZES)),
        key=KEY,
        round=1,
        compute=Compute(method=method, group=2),
        **knobs,
    )
    theirs = torch.stack([loop(what, client, **knobs) for client in range(len(SIZES))])
    # torch divides by the norm plus 1e-6, and other summation orders flip a ReLU now and then.
    torch.testing.assert_close(ours.rows, theirs, rtol=2e-3, atol=3e-5)


ADAPTIVE = {
    "adam": (adam, torch.optim.AdamW, {"epsilon": 1e-3}, {"eps": 1e-3}),
    "adam of other betas": (
        adam,
        torch.optim.AdamW,
        {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2},
        {"betas": (0.5, 0.9), "eps": 1e-2},
    ),
    "adam without momentum": (
        adam,
        torch.optim.AdamW,
        {"beta1": 0.0, "epsilon": 1e-3},
        {"betas": (0.0, 0.999), "eps": 1e-3},
    ),
    "adagrad": (adagrad, torch.optim.Adagrad, {"epsilon": 1e-3}, {"eps": 1e-3}),
}


@pytest.mark.parametrize("penalties", [{}, {"weight_decay": 0.1, "clip": 0.7}], ids=["", "all"])
@pytest.mark.parametrize("kind", ADAPTIVE.values(), ids=ADAPTIVE)
@pytest.mark.parametrize(("name", "method"), [way for way in WAYS if way[0] != "resnet8"])
def test_an_adaptive_client_ends_where_torchs_optimizer_ends(name, method, kind, penalties):
    what = task(name)
    train, make, named, theirs = kind
    knobs = {"epochs": 2, "batch_size": 8, "rate": 0.01, **penalties}
    found = train(
        what,
        State(what.model.initial),
        what.model.initial,
        range(len(SIZES)),
        key=KEY,
        round=1,
        compute=Compute(method=method, group=2),
        **knobs,
        **named,
    )
    expected = [loop(what, client, make=make, **knobs, **theirs) for client in range(len(SIZES))]
    torch.testing.assert_close(found.rows, torch.stack(expected), rtol=2e-3, atol=3e-5)


@pytest.mark.parametrize(("name", "method"), WAYS)
def test_distributed_sgd_sends_the_gradient_autograd_finds(name, method):
    what = task(name)
    ours = distributed_sgd(
        what,
        State(what.model.initial),
        what.model.initial,
        range(len(SIZES)),
        key=KEY,
        round=1,
        compute=Compute(method=method),
        batch_size=8,
        rate=0.5,
        momentum=0.0,
    )
    for client in (0, 2, 3):
        module = deepcopy(what.model.module).train()
        place = KEY / "client" / client
        some = one_batch(what.shards[client], key=place / "batches", batch_size=8).order
        with (place / "dropout").seeded():
            outputs = module(what.data.inputs[some])
        loss = functional.cross_entropy(outputs, what.data.targets[some])
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        expected = -0.5 * torch.cat([slope.flatten() for slope in slopes])
        torch.testing.assert_close(ours.rows[client], expected, rtol=1e-3, atol=1e-6)
        assert ours.losses[client].item() == pytest.approx(loss.item(), rel=1e-5)
    assert not ours.rows[1].any()


def test_dropout_falls_by_the_key_and_by_nothing_else():
    what = task("dropout")

    def rows(key):
        start = what.model.initial
        return sgd(
            what, State(start), start, range(4), key=key, round=1, compute=Compute(), epochs=1
        ).rows

    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = rows(KEY)
        assert torch.get_rng_state().equal(before)
        torch.manual_seed(2)
        assert rows(KEY).equal(first)
    assert not rows(Key(6)).equal(first)


def test_dropout_without_a_layer_falls_by_the_key_too():
    """``functional.dropout`` leaves no module to be seen, and no less draws."""

    class Hidden(nn.Linear):
        def forward(self, inputs):
            return super().forward(functional.dropout(inputs, 0.5, training=self.training))

    what = task("mlp")
    factory = lambda: nn.Sequential(nn.Flatten(), Hidden(64, 3))  # noqa: E731
    model = create(factory, shape=(1, 8, 8), classes=3, key=KEY)
    what = Task(model, what.data, what.shards)

    def rows(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            start = model.initial
            return sgd(
                what, State(start), start, range(4), key=KEY, round=1, compute=Compute()
            ).rows

    assert rows(1).equal(rows(2))


def test_the_weighted_mean_is_numpys():
    stream = KEY.stream()
    rows = torch.randn(9, 40, generator=stream)
    weights = torch.randint(1, 50, (9,), generator=stream).float()
    ours = mean(Visible(rows, tuple((client,) for client in range(9)), weights)).update
    theirs = np.average(rows.double().numpy(), axis=0, weights=weights.numpy())
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-6)
