"""Laws of federated learning: turn a thing off, or make all clients alike, and it is plain SGD."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Visible
from dai_lab.federation.stages import learn
from dai_lab.learning import distributed_sgd, fedavg, fedavgm, sgd
from dai_lab.models import create, mlp

METHODS = ["flat", "vmap", "chain", "compiled"]


def task(shards, seed=0):
    stream = Key(seed).stream()
    inputs = torch.randn(24, 5, generator=stream)
    targets = torch.randint(3, (24,), generator=stream)
    model = create(partial(mlp, hidden=[6]), shape=(5,), classes=3, key=Key(seed))
    return Task(model, Examples(inputs, targets), Shards.of(shards))


def round_of(what, state, number, method="flat", train=sgd, server=fedavg, **knobs):
    cohort = tuple(range(len(what.shards)))
    found = train(
        what, state, state.params, cohort, key=Key(1) / number, round=number,
        compute=Compute(method=method), **knobs,
    )  # fmt: skip
    visible = Visible(found.rows, tuple((client,) for client in cohort), found.weights)
    return server(learn(state, cohort, found), mean(visible).update)


def rounds(what, count=3, **knobs):
    state = State(what.model.initial)
    for number in range(1, count + 1):
        state = round_of(what, state, number, **knobs)
    return state.params


@pytest.mark.parametrize("method", METHODS)
@given(clients=st.integers(1, 6), seed=st.integers(0, 99), decay=st.sampled_from([0.0, 0.1]))
@settings(max_examples=8)
def test_identical_clients_federated_are_the_plain_optimizer(method, clients, seed, decay):
    what = task([torch.arange(24)] * clients, seed)
    ours = rounds(what, method=method, batch_size=0, rate=0.2, weight_decay=decay)
    flat = what.model.initial.clone().requires_grad_()
    optimizer = torch.optim.SGD([flat], lr=0.2, weight_decay=decay)
    for _ in range(3):
        optimizer.zero_grad()
        what.model.loss(what.model(flat, what.data.inputs), what.data.targets).mean().backward()
        optimizer.step()
    torch.testing.assert_close(ours, flat.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(cuts=st.lists(st.integers(0, 24), max_size=5), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_one_full_batch_step_each_is_one_step_on_everybodys_examples(method, cuts, seed):
    """However the examples are dealt, the mean weighted by examples puts them together again."""
    dealt = torch.arange(24).tensor_split(sorted(cuts))
    ours = rounds(task(dealt, seed), method=method, batch_size=0)
    pooled = rounds(task([torch.arange(24)], seed), method="flat", batch_size=0)
    torch.testing.assert_close(ours, pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(order=st.permutations(range(4)))
@settings(max_examples=6)
def test_the_numbers_clients_carry_do_not_matter(method, order):
    dealt = torch.arange(24).split([3, 9, 0, 12])
    plain = rounds(task(dealt), method=method, batch_size=0)
    other = rounds(task([dealt[client] for client in order]), method=method, batch_size=0)
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_fedprox_without_pull_and_fedavgm_without_momentum_are_fedavg(method):
    what = task(torch.arange(24).split([3, 9, 0, 12]))
    plain = rounds(what, method=method, batch_size=4)
    assert rounds(what, method=method, batch_size=4, proximal=0.0).equal(plain)
    server = partial(fedavgm, beta=0.0)
    assert rounds(what, method=method, batch_size=4, server=server).equal(plain)


@pytest.mark.parametrize("method", METHODS)
@given(beta=st.sampled_from([0.5, 0.9]), seed=st.integers(0, 99))
@settings(max_examples=6)
def test_workers_with_momentum_are_one_server_with_momentum(method, beta, seed):
    """With everyone present the mean of workers' momenta is the momentum of the mean gradient."""
    what = task(torch.arange(24).split([8, 8, 8]), seed)
    workers = rounds(
        what, method=method, train=distributed_sgd, batch_size=0, rate=0.1, momentum=beta
    )
    server = rounds(
        what, method=method, train=distributed_sgd, batch_size=0, rate=0.1 * (1 - beta),
        momentum=0.0, server=partial(fedavgm, beta=beta),
    )  # fmt: skip
    torch.testing.assert_close(workers, server, rtol=1e-4, atol=1e-5)
