"""Fair training against slow twins, one client after another, from the papers' formulas.

What all of ours know one round late, because it travels with the updates, the twins do as well.
"""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.nn import functional

from dai_lab.config import build, load
from dai_lab.core import Compute, Key, Partition, Shards
from dai_lab.data import tensors
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play

KEY, RATE, EPOCHS, ROUNDS = Key(7), 0.7, 2, 6
SIZES = (70, 50, 64, 16)
EVERYBODY = range(len(SIZES))


def people():
    """Two hundred, of whom one group is favored less often; the last client knows one group."""
    stream = KEY.stream()
    group = (torch.rand(sum(SIZES), generator=stream) < 0.4).long()
    group[-SIZES[-1] :] = 1
    inputs = torch.randn(len(group), 3, generator=stream)
    inputs = torch.cat([inputs, group.unsqueeze(1).float()], dim=1)
    odds = 2 * inputs[:, 0] - inputs[:, 1] + 1.5 * group - 1
    classes = (torch.rand(len(group), generator=stream) < odds.sigmoid()).long()
    told = {"group": group}
    return tensors(inputs, classes, test_inputs=inputs, test_targets=classes, attributes=told,
                   test_attributes=told)  # fmt: skip


DATA = people()
X, Y, A = DATA.train.inputs, DATA.train.targets, DATA.train.attributes["group"]
MINE = [torch.arange(end - size, end) for size, end in zip(SIZES, np.cumsum(SIZES), strict=True)]
PARTS = np.array(SIZES) / sum(SIZES)


@cache
def composed(algorithm):
    words = ["model=logistic", "federation.clients=4", "federation.holdout=0"]
    words += ["local.batch_size=0", f"local.rate={RATE}", f"local.epochs={EPOCHS}"]
    return load(*words, "fairness.attribute=group", algorithm)


def ours(algorithm, **knobs):
    """Every state of our own run, the first model before all."""
    cfg = composed(algorithm if "=" in algorithm else f"+algorithm={algorithm}").copy()
    for part, given in knobs.items():
        cfg[part].update(given)
    parts = {group: build(cfg[group]) for group in BUILT}

    def dealt(data, *, clients, key):
        return Partition(data, Shards.of(MINE))

    us = found(
        **{**parts, "data": lambda: DATA, "partition": dealt}, watch={}, frame=cfg.frame.value,
        **cfg.federation, every=ROUNDS, fairness=cfg.fairness, compute=Compute(), key=KEY,
    )  # fmt: skip
    return [us.task.model.initial, *(one.state for one in play(us, KEY, rounds=ROUNDS))]


def outputs(flat, which):
    weight, bias = flat[:8].view(2, 4), flat[8:]
    return X[which] @ weight.T + bias


def losses(flat, which):
    return functional.cross_entropy(outputs(flat, which), Y[which], reduction="none")


def moved(flat, which, weights):
    """Take full steps down the mean of weighed losses; return how far they lead."""
    start = flat
    for _ in range(EPOCHS):
        flat = flat.detach().requires_grad_()
        (slope,) = torch.autograd.grad((losses(flat, which) * weights[which]).mean(), flat)
        flat = flat.detach() - RATE * slope
    return flat - start


def averaged(flat, weights, parts=PARTS):
    """One round in which clients weigh ``parts``, whatever these add up to."""
    rows = [moved(flat, which, weights) for which in MINE]
    return flat + sum(part * row for part, row in zip(parts, rows, strict=True)) / sum(parts)


def share(which):
    return float(which.float().mean())


def mean_loss(flat, which):
    return float(losses(flat, which).mean())


def nearest_mixture(point):
    low, high = min(point) - 1, max(point)
    level = brentq(lambda level: np.maximum(point - level, 0).sum() - 1, low, high, xtol=1e-14)
    return np.maximum(point - level, 0)


def same(states, models):
    for state, model in zip(states[1:], models, strict=True):
        torch.testing.assert_close(state.params, model, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(models[-1], models[0], atol=1e-2)


def independent(a, y):
    """Kamiran and Calders' weights of one collection of people, person by person."""
    weights = torch.ones(len(a))
    for person in range(len(a)):
        alike_a, alike_y = a == a[person], y == y[person]
        weights[person] = share(alike_a) * share(alike_y) / share(alike_a & alike_y)
    return weights


ONES = torch.ones(len(Y))
WOMEN_AND_MEN = [group == A for group in (0, 1)]


def test_reweighing_is_kamirans_and_calderss_weights_over_all_clients():
    states = ours("reweighing")
    flat, weights, models = states[0], ONES, []
    for _ in range(ROUNDS):
        flat = averaged(flat, weights)
        models.append(flat)
        weights = independent(A, Y)
    same(states, models)


def test_local_reweighing_is_each_clients_own_weights():
    weights = torch.cat([independent(A[which], Y[which]) for which in MINE])
    states = ours("local=local_reweighing")
    flat, models = states[0], []
    for _ in range(ROUNDS):
        flat = averaged(flat, weights)
        models.append(flat)
    same(states, models)


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize(("among", "beta"), [("opportunity", 1.0), ("parity", 0.4)])
def test_fairfed_is_ezzeldins_algorithm_1_a_round_late(among, beta, debias):
    """Equation 7 takes the federation's gap apart into what each client can say of its own."""
    base = (Y == 1) if among == "opportunity" else torch.ones_like(Y, dtype=torch.bool)

    def rate(right, which, group):
        asked = base[which] & (A[which] == group)
        return float(right[which][asked].float().mean()) if asked.any() else None

    def look(flat):
        favored = outputs(flat, slice(None)).argmax(1)
        right = favored == Y
        everyone = 0.0
        gaps, accuracies = [], [share(right[which]) for which in MINE]
        for which, part in zip(MINE, PARTS, strict=True):
            rates = [rate(favored, which, group) for group in (0, 1)]
            gaps.append(None if None in rates else rates[1] - rates[0])
            for group, sign in ((1, 1), (0, -1)):
                held = share(base[which] & (A[which] == group))
                if held:
                    everyone += sign * part * rates[group] * held / share(base & (group == A))
        return gaps, accuracies, everyone, PARTS @ accuracies

    own = torch.cat([independent(A[which], Y[which]) for which in MINE]) if debias else ONES
    states = ours("fairfed", local={"beta": beta, "among": among, "debias": debias})
    flat, models, weights = states[0], [], PARTS.copy()
    everyone = told = None
    for _ in range(ROUNDS):
        if told is not None:
            weights = weights - beta * (told - told.mean())
        gaps, accuracies, gap, accuracy = look(flat)
        if everyone is not None:
            told = np.array([
                abs(mine - everyone[1]) if own_gap is None else abs(own_gap - everyone[0])
                for own_gap, mine in zip(gaps, accuracies, strict=True)
            ])  # fmt: skip
        everyone = gap, accuracy
        flat = averaged(flat, own, np.maximum(weights, 0))
        models.append(flat)
    assert gaps[-1] is None and abs(weights.sum() - 1) < 1e-9 and weights.std() > 0.05
    same(states, models)


@pytest.mark.parametrize(
    ("equal", "alpha", "bounds"),
    [
        *((equal, 0.02, False) for equal in ("odds", "opportunity", "parity")),
        ("odds", 0.5, True),
        ("opportunity", 0.5, True),
        ("parity", 5.0, True),
    ],
)
def test_fedfb_is_zengs_algorithm(equal, alpha, bounds):
    """A person counts lambda n / m, of its class and group; a large step meets the bounds."""
    cells = {(y, z): (y == Y) & (z == A) for y in (0, 1) for z in (0, 1)}
    m = {cell: share(which) for cell, which in cells.items()}
    lambdas = dict(m)
    if equal == "parity":
        groups = {z: m[0, z] + m[1, z] for z in (0, 1)}
        lambdas = {(y, z): groups[z] for y, z in m}
    start = dict(lambdas)
    states = ours("fedfb", server={"equal": equal, "alpha": alpha})
    flat, models, bounded = states[0], [], 0
    for number in range(1, ROUNDS + 1):
        weights = ONES.clone()
        for cell, which in cells.items():
            weights[which] = lambdas[cell] / start[cell]
        at, flat = flat, averaged(flat, weights)
        models.append(flat)
        step = alpha / number**0.5
        loss = {cell: mean_loss(at, which) for cell, which in cells.items()}
        apart = {y: loss[y, 1] - loss[y, 0] for y in (0, 1)}
        if equal == "parity":
            total = {cell: m[cell] * loss[cell] for cell in m}
            f = (-total[0, 0] + total[1, 0]) / groups[0] + (total[0, 1] - total[1, 1]) / groups[1]
            f += m[0, 0] / groups[0] - m[0, 1] / groups[1]
            for z, sign in ((1, 1), (0, -1)):
                free = lambdas[0, z] + sign * step * f
                lambdas[0, z] = min(max(free, 0.0), 2 * groups[z])
                lambdas[1, z] = 2 * groups[z] - lambdas[0, z]
                bounded += free != lambdas[0, z]
            continue
        length = np.hypot(apart[0], apart[1])
        for y in (1,) if equal == "opportunity" else (0, 1):
            turn = np.sign(apart[1]) if equal == "opportunity" else apart[y] / length
            free, whole = lambdas[y, 1] + step * turn, m[y, 0] + m[y, 1]
            lambdas[y, 1] = min(max(free, 0.0), whole)
            lambdas[y, 0] = whole - lambdas[y, 1]
            bounded += free != lambdas[y, 1]
    same(states, models)
    assert bool(bounded) == bounds


@pytest.mark.parametrize(
    ("q", "weighted"), [(0.0, True), (0.5, False), (1.0, True), (1.0, False), (5.0, True)]
)
def test_q_fedavg_is_lis_algorithm_2(q, weighted):
    """As published where clients are drawn by what they hold; else objective 2 has their shares."""
    states = ours("q_ffl", local={"q": q}, aggregator={"weighted": weighted})
    flat, models, lipschitz = states[0], [], 1 / RATE
    for _ in range(ROUNDS):
        delta, h = torch.zeros_like(flat), 0.0
        for which, part in zip(MINE, PARTS, strict=True):
            loss, p = mean_loss(flat, which), part if weighted else 1.0
            step = -lipschitz * moved(flat, which, ONES)
            delta += p * loss**q * step
            norm = float(step.square().sum())
            h += p * (q * loss ** (q - 1) * norm + lipschitz * loss**q)
        flat = flat - delta / h
        models.append(flat)
    same(states, models)


@pytest.mark.parametrize("ascent", [0.1, 2.0])
def test_afl_is_mohris_figure_3(ascent):
    states = ours("afl", server={"ascent": ascent})
    flat, models, mixtures = states[0], [], [PARTS]
    for _ in range(ROUNDS):
        worst = np.array([mean_loss(flat, which) for which in MINE])
        flat = averaged(flat, ONES, mixtures[-1])
        models.append(flat)
        mixtures.append(nearest_mixture(mixtures[-1] + ascent * worst))
    same(states, models)
    for state, mixture in zip(states[1:], mixtures[1:], strict=True):
        np.testing.assert_allclose(state.memory["server/mixture"], mixture, atol=1e-5)
    assert (mixtures[-1].min() == 0) == (ascent == 2.0)


def projected(burdens, risks, ascent):
    return nearest_mixture(burdens + ascent * risks)


def exponentiated(burdens, risks, ascent):
    grown = burdens * np.exp(ascent * risks)
    return grown / grown.sum()


@pytest.mark.parametrize(
    ("name", "climb"), [("fedminmax", projected), ("group_dro", exponentiated)]
)
@pytest.mark.parametrize("ascent", [0.1, 3.0])
def test_fedminmax_is_papadakis_algorithm_1_and_group_dro_sagawas_ascent(name, climb, ascent):
    """Groups begin with their shares of all people, where Sagawa's begin alike."""
    rho = np.array([share(which) for which in WOMEN_AND_MEN])
    states = ours(name, server={"ascent": ascent})
    flat, models, mu = states[0], [], rho
    for _ in range(ROUNDS):
        weights = torch.tensor(mu / rho).float()[A]
        risks = np.array([mean_loss(flat, which) for which in WOMEN_AND_MEN])
        flat = averaged(flat, weights)
        models.append(flat)
        mu = climb(mu, risks, ascent)
    same(states, models)
    np.testing.assert_allclose(states[-1].memory["server/burdens"], mu, atol=1e-5)


@pytest.mark.parametrize("groups", ["clients", "majority"])
@pytest.mark.parametrize("strength", [0.01, 0.1])
def test_gifair_is_yues_objective_with_frozen_ranks(groups, strength):
    """H_k = (1 + lambda r_k / (p_k |A|)) F_k; a strength above the bound makes some count 0."""
    majority = [int(share(A[which]) > 0.5) for which in MINE]
    assert set(majority) == {0, 1}
    member = list(EVERYBODY) if groups == "clients" else majority
    sizes = [member.count(one) for one in member]
    states = ours("gifair", local={"groups": groups, "strength": strength})
    flat, models, factors = states[0], [], np.ones(len(SIZES))
    least = 1.0
    for _ in range(ROUNDS):
        weights = torch.cat([torch.full((n,), f) for n, f in zip(SIZES, factors, strict=True)])
        own = np.array([mean_loss(flat, which) for which in MINE])
        flat = averaged(flat, weights.float())
        models.append(flat)
        of = {one: own[[other == one for other in member]].mean() for one in set(member)}
        ranks = np.array([sum(np.sign(of[one] - of[other]) for other in of) for one in member])
        free = 1 + strength * ranks / (PARTS * sizes)
        least, factors = min(least, free.min()), np.maximum(free, 0)
    same(states, models)
    assert (least < 0) == (groups == "clients" and strength == 0.1)
