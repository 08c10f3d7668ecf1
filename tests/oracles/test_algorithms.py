"""Federated algorithms against slow twins, written from the papers' pseudo code on plain torch.

Of ours a twin borrows the order of examples and nothing else.
"""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dai_lab import learning
from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Visible
from dai_lab.federation.stages import learn
from dai_lab.learning import epochs_of
from dai_lab.models import create, mlp

KEY = Key(11)
SIZES = (7, 0, 21, 1, 12)
TOTAL = len(SIZES)
COHORTS = ((0, 2, 3), (1, 2, 4), (0, 3, 4), (2, 4))
METHODS = ["flat", "vmap", "chain", "compiled"]
CUT = 4 * 6 + 6
RATE, EPOCHS, BATCH, DECAY = 0.1, 2, 5, 0.02


def task():
    stream, count = KEY.stream(), sum(SIZES)
    inputs = torch.randn(count, 4, generator=stream)
    targets = torch.randint(3, (count,), generator=stream)
    dealt = torch.randperm(count, generator=stream).split(SIZES)
    model = create(partial(mlp, hidden=[6]), shape=(4,), classes=3, key=KEY / "model")
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


WHAT = task()


def ours(train, server, *, method, memory=None, weighted=True, cohorts=COHORTS, **knobs):
    """Every state of our own run."""
    states, knobs = [State(WHAT.model.initial, memory or {})], {"batch_size": BATCH, **knobs}
    for number, cohort in enumerate(cohorts, start=1):
        state = states[-1]
        found = train(
            WHAT, state, state.params, cohort, key=KEY / number, round=number,
            compute=Compute(method=method, group=2), **knobs,
        )  # fmt: skip
        joined = {
            "federation/participation": torch.tensor(len(cohort) / TOTAL),
            "federation/examples": torch.tensor(share_of_all(cohort)),
        }
        state = learn(state, cohort, found).remember(joined)
        members = tuple((client,) for client in cohort)
        update = mean(Visible(found.rows, members, found.weights), weighted=weighted).update
        states.append(server(state, update))
    return states[1:]


def batches(client, key, epochs=EPOCHS):
    place = key / "client" / client / "batches"
    plan = epochs_of(WHAT.shards[client], key=place, epochs=epochs, batch_size=BATCH)
    return [(WHAT.data.inputs[some], WHAT.data.targets[some]) for some in plan.steps()]


def network(flat):
    module = deepcopy(WHAT.model.module)
    vector_to_parameters(flat.clone(), module.parameters())
    return module


def gradient(flat, batch):
    module = network(flat)
    loss = functional.cross_entropy(module(batch[0]), batch[1])
    return parameters_to_vector(torch.autograd.grad(loss, list(module.parameters())))


def share_of_all(cohort):
    return sum(SIZES[client] for client in cohort) / sum(SIZES)


def shares(cohort, weighted=True):
    sizes = torch.tensor([float(SIZES[client]) if weighted else 1.0 for client in cohort])
    return (sizes / sizes.sum()).tolist()


def same(states, models):
    for state, model in zip(states, models, strict=True):
        torch.testing.assert_close(state.params, model, rtol=1e-3, atol=1e-5)


def kept(state, name, own):
    """Compare what clients keep to themselves; each took part in some round."""
    theirs = torch.stack([own[client] for client in range(TOTAL)])
    torch.testing.assert_close(state.memory[name], theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [True, False])
def test_scaffold_is_karimireddys_algorithm_1(method, weighted):
    x, c, own, models, eta_g = WHAT.model.initial, 0.0, {}, [], 0.8
    for number, cohort in enumerate(COHORTS, start=1):
        moves, turns = [], []
        for client in cohort:
            y, c_i = x.clone(), own.get(client, torch.zeros_like(x))
            steps = batches(client, KEY / number)
            for batch in steps:
                y = y - RATE * (gradient(y, batch) + DECAY * y - c_i + c)
            plus = c_i - c + (x - y) / (len(steps) * RATE) if steps else c_i
            moves.append(y - x)
            turns.append(plus - c_i)
            own[client] = plus
        parts = shares(cohort, weighted)
        x = x + eta_g * sum(p * move for p, move in zip(parts, moves, strict=True))
        part = share_of_all(cohort) if weighted else len(cohort) / TOTAL
        c = c + part * sum(p * turn for p, turn in zip(parts, turns, strict=True))
        models.append(x)
    server = partial(learning.scaffold_server, rate=eta_g, weighted=weighted)
    states = ours(
        learning.scaffold, server, method=method, weighted=weighted, epochs=EPOCHS, rate=RATE,
        weight_decay=DECAY,
    )  # fmt: skip
    same(states, models)
    kept(states[-1], "clients/control", own)
    torch.testing.assert_close(states[-1].memory["server/control"], c, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [True, False])
def test_feddyn_is_acars_algorithm_1(method, weighted):
    theta, h, slopes, models, alpha = WHAT.model.initial, 0.0, {}, [], 0.3
    for number, cohort in enumerate(COHORTS, start=1):
        ends = []
        for client in cohort:
            slope, module = slopes.get(client, torch.zeros_like(theta)), network(theta)
            optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
            for inputs, targets in batches(client, KEY / number):
                w = parameters_to_vector(module.parameters())
                loss = functional.cross_entropy(module(inputs), targets)
                loss = loss - slope @ w + alpha / 2 * (w - theta).square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            ends.append(parameters_to_vector(module.parameters()).detach())
            slopes[client] = slope - alpha * (ends[-1] - theta)
        parts = shares(cohort, weighted)
        average = sum(p * end for p, end in zip(parts, ends, strict=True))
        part = share_of_all(cohort) if weighted else len(cohort) / TOTAL
        h = h - alpha * part * (average - theta)
        theta = average - h / alpha
        models.append(theta)
    server = partial(learning.feddyn_server, alpha=alpha, weighted=weighted)
    states = ours(
        learning.feddyn, server, method=method, weighted=weighted, epochs=EPOCHS, rate=RATE,
        alpha=alpha,
    )  # fmt: skip
    same(states, models)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("momentum", "proximal"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.7), (0.0, 13.0)]
)
def test_fednova_is_wangs_equation_7(method, momentum, proximal):
    """The norm of a is found by sending unit vectors through the local solver."""
    x, models = WHAT.model.initial, []
    for number, cohort in enumerate(COHORTS, start=1):
        directions, norms = [], []
        for client in cohort:
            steps = batches(client, KEY / number)
            y, u = x.clone(), torch.zeros_like(x)
            a, v = torch.zeros(len(steps)), torch.zeros(len(steps))
            for at, batch in enumerate(steps):
                unit = torch.eye(len(steps))[at]
                u, v = momentum * u + gradient(y, batch), momentum * v + unit
                y, a = y - RATE * (u + proximal * (y - x)), a + v - RATE * proximal * a
            norms.append(float(a.abs().sum()))
            directions.append((x - y) / RATE / norms[-1] if steps else torch.zeros_like(x))
        parts = shares(cohort)
        effective = sum(p * norm for p, norm in zip(parts, norms, strict=True))
        d = sum(p * each for p, each in zip(parts, directions, strict=True))
        x = x - effective * RATE * d
        models.append(x)
    states = ours(
        learning.fednova, learning.fednova_server, method=method, epochs=EPOCHS, rate=RATE,
        momentum=momentum, proximal=proximal,
    )  # fmt: skip
    same(states, models)


@pytest.mark.parametrize("method", METHODS)
def test_ditto_is_lis_algorithm_1(method):
    w, own, models, leash, own_epochs = WHAT.model.initial, {}, [], 0.6, 3
    for number, cohort in enumerate(COHORTS, start=1):
        ends = []
        for client in cohort:
            u, v = w.clone(), own.get(client, WHAT.model.initial)
            for batch in batches(client, KEY / number):
                u = u - RATE * gradient(u, batch)
            for batch in batches(client, KEY / number / "personal", own_epochs):
                v = v - RATE * (gradient(v, batch) + leash * (v - w))
            own[client] = v
            ends.append(u)
        w = sum(p * end for p, end in zip(shares(cohort), ends, strict=True))
        models.append(w)
    states = ours(
        learning.ditto, learning.fedavg, method=method, epochs=EPOCHS, rate=RATE, leash=leash,
        own_epochs=own_epochs,
    )  # fmt: skip
    same(states, models)
    kept(states[-1], "clients/personal", own)


@pytest.mark.parametrize("method", METHODS)
def test_pfedme_is_dinhs_algorithm_1(method):
    w, own, models, leash, eta, inner, beta = WHAT.model.initial, {}, [], 6.0, 0.05, 3, 1.5
    for number, cohort in enumerate(COHORTS, start=1):
        ends = []
        for client in cohort:
            local, theta = w.clone(), w.clone()
            for batch in batches(client, KEY / number):
                for _ in range(inner):
                    theta = theta - RATE * (gradient(theta, batch) + leash * (theta - local))
                local = local - eta * leash * (local - theta)
            own[client] = theta
            ends.append(local)
        average = sum(p * end for p, end in zip(shares(cohort), ends, strict=True))
        w = (1 - beta) * w + beta * average
        models.append(w)
    states = ours(
        learning.pfedme, partial(learning.fedavg, rate=beta), method=method, epochs=EPOCHS,
        rate=eta, own_rate=RATE, leash=leash, inner_steps=inner,
    )  # fmt: skip
    same(states, models)
    kept(states[-1], "clients/personal", own)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("phases", [False, True], ids=["fedper", "fedrep"])
def test_fedper_is_arivazhagans_algorithms_and_fedrep_collinss(phases, method):
    first = WHAT.model.initial
    shared, own, models = first, {}, []
    for number, cohort in enumerate(COHORTS, start=1):
        ends = []
        for client in cohort:
            module = network(torch.cat([shared[:CUT], own.get(client, first[CUT:])]))
            parts = list(module.parameters())
            if phases:  # the head alone, then the body alone
                train(module, parts[2:], batches(client, KEY / number / "head", 3))
                parts = parts[:2]
            train(module, parts, batches(client, KEY / number))
            ends.append(parameters_to_vector(module.parameters()).detach())
            own[client] = ends[-1][CUT:]
        shared = sum(p * end for p, end in zip(shares(cohort), ends, strict=True))
        models.append(torch.cat([shared[:CUT], first[CUT:]]))
    local = partial(learning.fedrep, head_epochs=3) if phases else learning.fedper
    knobs = {"epochs": EPOCHS, "rate": RATE, "weight_decay": DECAY}
    states = ours(local, learning.body, method=method, **knobs)
    same(states, models)
    kept(states[-1], "clients/head", own)


def train(module, parts, steps):
    optimizer = torch.optim.SGD(parts, lr=RATE, weight_decay=DECAY)
    for inputs, targets in steps:
        module.zero_grad()
        functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_ifca_is_ghoshs_algorithm_1(method):
    models = 0.7 * torch.randn(3, WHAT.model.params, generator=(KEY / "clusters").stream())
    first, chosen = models.clone(), []
    for number, cohort in enumerate(COHORTS, start=1):
        ends, votes = [], []
        for client in cohort:
            held = WHAT.shards[client]
            inputs, targets = WHAT.data.inputs[held], WHAT.data.targets[held]
            losses = [functional.cross_entropy(network(each)(inputs), targets) for each in models]
            votes.append(int(torch.stack(losses).argmin()) if len(held) else 0)
            flat = models[votes[-1]]
            for batch in batches(client, KEY / number):
                flat = flat - RATE * gradient(flat, batch)
            ends.append(flat)
        for cluster in range(3):
            here = [at for at, vote in enumerate(votes) if vote == cluster and SIZES[cohort[at]]]
            parts = shares([cohort[at] for at in here])
            if here:
                models[cluster] = sum(p * ends[at] for p, at in zip(parts, here, strict=True))
        chosen += votes
    assert len(set(chosen)) > 1
    states = ours(
        partial(learning.ifca, clusters=3), learning.ifca_server, method=method,
        memory={"server/clusters": first}, epochs=EPOCHS, rate=RATE,
    )  # fmt: skip
    torch.testing.assert_close(states[-1].memory["server/clusters"], models, rtol=1e-3, atol=1e-5)
