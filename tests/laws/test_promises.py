"""What the algorithms' papers promise, on problems small enough to solve exactly."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Visible
from dai_lab.federation.stages import learn
from dai_lab.learning import (
    best_cluster,
    fedavg,
    feddyn,
    feddyn_server,
    fednova,
    fednova_server,
    ifca,
    ifca_server,
    pfedme,
    scaffold,
    scaffold_server,
    sgd,
)
from dai_lab.models import create, logistic

DECAY = 0.1
AVERAGING = (sgd, fedavg)
NORMALIZED = (fednova, fednova_server)
CONTROLLED = (scaffold, scaffold_server)
DYNAMIC = (partial(feddyn, alpha=0.1), partial(feddyn_server, alpha=0.1))
EVERYONE = ((0, 1, 2, 3, 4),)
TWO_BY_TWO = ((0, 1), (2, 3), (0, 4), (1, 2), (3, 4))
NEARLY = {"rtol": 1e-3, "atol": 1e-5}


def disagreeing(sizes, seed=1):
    """Softmax regression where all of a client's examples are alike, and nobody else's."""
    stream, copies = Key(seed).stream(), torch.tensor(sizes)
    inputs = 2 * torch.randn(len(sizes), 2, generator=stream).repeat_interleave(copies, 0)
    targets = (torch.arange(len(sizes)) % 3).repeat_interleave(copies)
    model = create(logistic, shape=(2,), classes=3, key=Key(seed))
    dealt = torch.arange(sum(sizes)).split(list(sizes))
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


def lowest(loss, start):
    """Solve a smooth convex problem as exactly as doubles can."""
    flat = start.double().clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [flat], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def again():
        solver.zero_grad()
        found = loss(flat)
        found.backward()
        return found

    solver.step(again)
    return flat.detach().float()


def loss_at(flat, inputs, targets):
    scores = inputs.double() @ flat[:6].view(3, 2).T + flat[6:]
    return functional.cross_entropy(scores, targets)


def optimum(what):
    def penalized(flat):
        return loss_at(flat, what.data.inputs, what.data.targets) + DECAY / 2 * flat.square().sum()

    return lowest(penalized, what.model.initial)


def play(what, cohorts, algorithm, start=None, **knobs):
    train, server = algorithm
    state = State(what.model.initial if start is None else start)
    for number, cohort in enumerate(cohorts, start=1):
        found = train(
            what, state, state.params, cohort, key=Key(1) / number, round=number,
            compute=Compute(), **knobs,
        )  # fmt: skip
        sizes = what.shards.sizes
        joined = sizes[list(cohort)].sum() / sizes.sum()
        state = learn(state, cohort, found).remember({"federation/examples": joined})
        members = tuple((client,) for client in cohort)
        state = server(state, mean(Visible(found.rows, members, found.weights)).update)
    return state


def miss(what, cohorts, algorithm, **knobs):
    """How far from the optimum of everybody's examples it ends."""
    knobs = {"batch_size": 0, "epochs": 20, "rate": 0.1, "weight_decay": DECAY, **knobs}
    return float((play(what, cohorts, algorithm, **knobs).params - optimum(what)).norm())


@pytest.mark.parametrize(
    ("knobs", "rate"), [({}, 0.02), ({"momentum": 0.9}, 0.004), ({"proximal": 2.0}, 0.02)]
)
def test_fednova_stays_at_the_optimum_where_clients_step_unequally_often(knobs, rate):
    """Wang et al.: FedAvg goes where a client counts by its steps once more, at any rate."""
    what = disagreeing((1, 4, 16, 2, 8))
    here = {"batch_size": 1, "epochs": 1, "rate": rate, "start": optimum(what), **knobs}
    assert miss(what, EVERYONE * 80, AVERAGING, **here) > 0.3
    assert miss(what, EVERYONE * 80, NORMALIZED, **here) < 0.05


def test_what_fednova_still_misses_falls_with_the_rate():
    what = disagreeing((1, 4, 16, 2, 8))
    here = {"batch_size": 1, "epochs": 1, "start": optimum(what)}
    coarse = miss(what, EVERYONE * 80, NORMALIZED, rate=0.02, **here)
    assert miss(what, EVERYONE * 160, NORMALIZED, rate=0.01, **here) < 0.6 * coarse


@pytest.mark.parametrize(("algorithm", "left"), [(CONTROLLED, 1e-3), (DYNAMIC, 0.04)])
@pytest.mark.parametrize("sizes", [(6, 6, 6, 6, 6), (1, 4, 16, 2, 8)], ids=["equal", "unequal"])
def test_long_local_training_leads_astray_but_not_with_controls(sizes, algorithm, left):
    what = disagreeing(sizes)
    assert miss(what, EVERYONE * 60, AVERAGING) > 0.4
    assert miss(what, EVERYONE * 60, algorithm) < left


@pytest.mark.parametrize(("algorithm", "left"), [(CONTROLLED, 1e-3), (DYNAMIC, 0.04)])
@pytest.mark.parametrize("sizes", [(6, 6, 6, 6, 6), (1, 4, 16, 2, 8)], ids=["equal", "unequal"])
def test_two_clients_a_round_are_enough_to_find_the_optimum(sizes, algorithm, left):
    what = disagreeing(sizes)
    assert miss(what, TWO_BY_TWO * 30, AVERAGING) > 0.4
    assert miss(what, TWO_BY_TWO * 30, algorithm) < left


@pytest.mark.parametrize("leash", [0.5, 3.0])
def test_pfedmes_row_is_the_gradient_of_the_moreau_envelope(leash):
    what, rate = disagreeing((4, 9)), 0.02
    start = what.model.initial
    found = pfedme(
        what, State(start), start, (0, 1), key=Key(1), round=1, compute=Compute(), batch_size=0,
        inner_steps=500, own_rate=0.1, rate=rate, leash=leash,
    )  # fmt: skip
    for client in (0, 1):
        some = what.shards[client]

        def envelope(flat, some=some):
            pull = leash / 2 * (flat - start).square().sum()
            return loss_at(flat, what.data.inputs[some], what.data.targets[some]) + pull

        own = lowest(envelope, start)
        gradient = leash * (start - own)
        torch.testing.assert_close(found.learned["clients/personal"][client], own, **NEARLY)
        torch.testing.assert_close(found.rows[client], -rate * gradient, **NEARLY)


def test_ifca_tells_two_populations_of_opposite_labels_apart():
    """Six clients, half of which call 1 what the others call 0; from most starts each finds its
    own kind, and then one model is right for each where no common one can be."""
    apart = 0
    for seed in range(5):
        stream = Key(seed).stream()
        inputs = torch.randn(6 * 20, 4, generator=stream)
        truth = (inputs @ torch.randn(4, generator=stream) > 0).long()
        lies = (torch.arange(6) % 2).repeat_interleave(20)
        model = create(logistic, shape=(4,), classes=2, key=Key(seed))
        dealt = Shards.of(list(torch.arange(120).split(20)))
        what = Task(model, Examples(inputs, truth ^ lies), dealt)
        everyone = tuple(range(6))
        state = play(
            what, (everyone,) * 12, (partial(ifca, clusters=2), ifca_server), epochs=3, rate=0.3
        )
        chosen = best_cluster(what, state, everyone, key=Key(0), compute=Compute())
        if chosen[0].equal(chosen[1]):
            continue
        apart += all(row.equal(chosen[at % 2]) for at, row in enumerate(chosen))
        outputs = [model(row, inputs[dealt[at]]) for at, row in enumerate(chosen)]
        right = torch.cat(outputs).argmax(1) == what.data.targets
        assert right.float().mean() > 0.9
    assert apart >= 4
