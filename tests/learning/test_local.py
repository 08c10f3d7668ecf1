"""What clients compute: laws of local SGD and of distributed SGD, and knobs that are refused."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dai_lab.core import Compute, Examples, Key, Shards, State, Task
from dai_lab.federation.stages import learn
from dai_lab.learning import cosine, distributed_sgd, one_batch, sgd
from dai_lab.models import create, mlp

SIZES = (7, 0, 33, 1, 12)
KEY = Key(3)
SMALL = partial(mlp, hidden=[8])
METHODS = ["flat", "vmap", "chain", "compiled"]


def task(sizes=SIZES, seed=0, classes=3, make=SMALL):
    stream, count = Key(seed).stream(), sum(sizes)
    inputs = torch.randn(count, 6, generator=stream)
    labels = torch.randint(classes or 2, (count,), generator=stream)
    targets = labels if classes else inputs.sum(1)
    dealt = torch.randperm(count, generator=stream).split(sizes)
    model = create(make, shape=(6,), classes=classes, key=Key(seed) / "model")
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


def ask(what, train=sgd, *, start=None, state=None, cohort=None, round=1, key=KEY, **knobs):
    compute = Compute(method=knobs.pop("method", "auto"), threads=knobs.pop("threads", 1))
    start = what.model.initial if start is None else start
    cohort = range(len(what.shards)) if cohort is None else cohort
    state = State(what.model.initial) if state is None else state
    return train(what, state, start, cohort, key=key, round=round, compute=compute, **knobs)


@pytest.mark.parametrize("method", METHODS)
def test_a_client_computes_alone_what_it_computes_in_company(method):
    what = task()
    together = ask(what, method=method, momentum=0.5, batch_size=8)
    for client in range(len(SIZES)):
        alone = ask(what, method=method, momentum=0.5, batch_size=8, cohort=[client])
        torch.testing.assert_close(alone.rows[0], together.rows[client], rtol=0, atol=1e-6)
        assert alone.weights[0] == together.weights[client] == SIZES[client]


@pytest.mark.parametrize("threads", [2, 3, 9])
@pytest.mark.parametrize("knobs", [{}, {"momentum": 0.9, "clip": 0.1, "proximal": 1.0}])
def test_threads_do_not_change_a_bit(threads, knobs):
    what = task(sizes=(40, 0, 3, 17, 60, 1, 9))
    one = ask(what, method="compiled", batch_size=8, epochs=2, **knobs)
    many = ask(what, method="compiled", batch_size=8, epochs=2, threads=threads, **knobs)
    assert many.rows.equal(one.rows)
    assert many.losses.equal(one.losses)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("train", [sgd, distributed_sgd])
def test_training_changes_nothing_but_its_answer(train, method):
    what = task()
    start = what.model.initial.expand(len(SIZES), -1).clone()
    before, state = start.clone(), State(what.model.initial)
    weights = {name: each.clone() for name, each in what.model.module.named_parameters()}
    inputs = what.data.inputs.clone()
    for batch_size in (1, 8):
        ask(what, train, start=start, state=state, method=method, batch_size=batch_size)
        ask(what, train, state=state, method=method, batch_size=batch_size)
    assert start.equal(before)
    assert state.params.equal(before[0])
    assert not state.memory
    assert what.data.inputs.equal(inputs)
    assert what.model.initial.equal(before[0])
    for name, each in what.model.module.named_parameters():
        assert each.equal(weights[name])


@pytest.mark.parametrize("method", METHODS)
def test_examples_that_nobody_holds_are_never_looked_at(method):
    what = task()
    spare = torch.full((4, 6), 1e6)
    inputs = torch.cat([spare, what.data.inputs])
    targets = torch.cat([torch.zeros(4, dtype=torch.long), what.data.targets])
    shards = Shards(what.shards.indices + 4, what.shards.offsets)
    other = Task(what.model, Examples(inputs, targets), shards)
    for train in (sgd, distributed_sgd):
        found = ask(other, train, method=method)
        torch.testing.assert_close(found.rows, ask(what, train, method=method).rows)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10))
@settings(max_examples=10)
def test_one_full_batch_step_is_a_step_along_the_gradient(method, seed, scale):
    what = task(seed=seed)
    small = ask(what, method=method, batch_size=0, rate=0.01)
    large = ask(what, method=method, batch_size=0, rate=0.01 * scale)
    torch.testing.assert_close(large.rows, scale * small.rows, rtol=1e-3, atol=1e-6)
    gradient = ask(what, distributed_sgd, method=method, batch_size=0, rate=0.01, momentum=0.0)
    torch.testing.assert_close(gradient.rows, small.rows, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradient.losses, small.losses, rtol=1e-4, atol=1e-6)


@given(rate=st.floats(0.01, 0.3), proximal=st.floats(0.1, 3))
@settings(max_examples=15)
def test_fedprox_holds_clients_closer_to_where_they_started(rate, proximal):
    what = task(sizes=(30, 30))
    free = ask(what, rate=rate, epochs=5, batch_size=10)
    held = ask(what, rate=rate, epochs=5, batch_size=10, proximal=proximal)
    assert (held.rows.norm(dim=1) < free.rows.norm(dim=1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_fedprox_without_a_pull_is_local_sgd_bit_for_bit(method):
    what = task()
    assert ask(what, method=method, proximal=0.0).rows.equal(ask(what, method=method).rows)


@pytest.mark.parametrize("method", METHODS)
@given(bound=st.floats(0.01, 1))
@settings(max_examples=10)
def test_clipping_bounds_each_step(method, bound):
    what = task()
    found = ask(what, method=method, clip=bound, batch_size=8, epochs=2, rate=0.1)
    steps = torch.tensor([2 * -(-size // 8) for size in SIZES])
    assert (found.rows.norm(dim=1) <= steps * 0.1 * bound * (1 + 1e-4)).all()
    sent = ask(what, distributed_sgd, method=method, clip=bound, momentum=0.0, rate=0.1)
    assert (sent.rows.norm(dim=1) <= 0.1 * bound * (1 + 1e-4)).all()


def test_worker_momentum_is_the_slow_recursion_of_those_who_took_part():
    what, beta = task(), 0.8
    state, kept = State(what.model.initial), {}
    for number, cohort in enumerate([(0, 2), (2, 3, 4), (0, 1, 4), (3,), (0, 2, 4)], start=1):
        key = KEY / "round" / number
        found = ask(
            what, distributed_sgd, state=state, cohort=cohort, key=key, batch_size=4,
            momentum=beta, weight_decay=0.1, start=state.params,
        )  # fmt: skip
        for at, client in enumerate(cohort):
            some = one_batch(
                what.shards[client], key=key / "client" / client / "batches", batch_size=4
            ).order
            flat = state.params.clone().requires_grad_()
            if len(some):
                outputs = what.model(flat, what.data.inputs[some])
                loss = what.model.loss(outputs, what.data.targets[some]).mean()
                gradient = torch.autograd.grad(loss, flat)[0] + 0.1 * state.params
            else:
                gradient = torch.zeros_like(state.params)
            kept[client] = beta * kept.get(client, 0) + (1 - beta) * gradient
            torch.testing.assert_close(found.rows[at], -0.1 * kept[client], rtol=1e-3, atol=1e-6)
        state = learn(State(state.params + found.rows.mean(0), state.memory), cohort, found)


def test_regression_learns_the_sum_of_its_inputs():
    what = task(sizes=(60, 60), classes=0)
    found = ask(what, epochs=30, batch_size=10, rate=0.02)
    losses = [
        what.model.loss(what.model(flat, what.data.inputs), what.data.targets).mean().item()
        for flat in (what.model.initial, what.model.initial + found.rows[0])
    ]
    assert losses[1] < 0.1 * losses[0]


def test_double_precision_stays_double():
    def precise():
        return nn.Linear(6, 3, dtype=torch.float64)

    what = task()
    initial = torch.randn(21, generator=KEY.stream(), dtype=torch.float64)
    single = task(make=lambda: nn.Linear(6, 3)).model
    names, shapes = single.names, single.shapes
    model = type(single)(precise(), single.loss, names, shapes, initial)
    data = Examples(what.data.inputs.double(), what.data.targets)
    found = ask(Task(model, data, what.shards))
    assert found.rows.dtype is torch.float64


@pytest.mark.parametrize("train", [sgd, distributed_sgd])
@pytest.mark.parametrize("method", METHODS)
def test_nobody_to_train_is_nothing_to_send(train, method):
    found = ask(task(), train, method=method, cohort=[])
    assert found.rows.shape == (0, task().model.params)
    assert len(found.weights) == len(found.losses) == 0


@pytest.mark.parametrize("train", [sgd, distributed_sgd])
@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("rate", 0.0),
        ("rate", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1.0),
        ("weight_decay", float("nan")),
        ("clip", 0.0),
        ("batch_size", -1),
    ],
)
def test_a_knob_out_of_range_is_named(train, knob, value):
    with pytest.raises(ValueError, match=rf"^local\.{knob} must be .*, got {value}$"):
        ask(task(), train, **{knob: value})


@pytest.mark.parametrize(
    ("knob", "value"), [("epochs", 0), ("proximal", -1.0), ("proximal", float("nan"))]
)
def test_a_knob_of_local_sgd_out_of_range_is_named(knob, value):
    with pytest.raises(ValueError, match=rf"^local\.{knob} must be .*, got {value}$"):
        ask(task(), **{knob: value})


@pytest.mark.parametrize("train", [sgd, distributed_sgd])
def test_a_schedule_that_has_ended_leaves_everyone_where_they_are(train):
    ended = partial(cosine, rounds=3)
    assert not ask(task(), train, schedule=ended, round=4).rows.any()
    with pytest.raises(ValueError, match=r"local.schedule .* round 4"):
        ask(task(), train, schedule=lambda round: -1.0, round=4)
