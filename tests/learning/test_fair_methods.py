"""Fair training turned off is federated averaging; turned on, it counts and weighs as it says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from dai_lab import learning
from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Sensitive, Shards, State, Task, Visible
from dai_lab.federation.stages import learn
from dai_lab.learning import fedavg, sgd
from dai_lab.learning.fairness.afl import afl, afl_server
from dai_lab.learning.fairness.fairfed import SHIFTS, fairfed
from dai_lab.learning.fairness.fedfb import fedfb, fedfb_server
from dai_lab.learning.fairness.gifair import gifair
from dai_lab.learning.fairness.minimax import (
    BURDENS,
    fedminmax,
    fedminmax_server,
    group_dro_server,
    simplex,
)
from dai_lab.learning.fairness.q_ffl import q_ffl
from dai_lab.learning.fairness.reweighing import everyones_weights, own_weights, reweighing
from dai_lab.learning.fairness.survey import client_losses, shared_out, survey, surveyed
from dai_lab.models import create, logistic

SIZES, STEPS = (23, 0, 9, 1, 14), {"epochs": 2, "rate": 0.5, "batch_size": 8}
COHORTS = ((0, 1, 2, 3, 4), (0, 2, 3), (1, 4), (0, 1, 2, 3, 4), (2, 4))
METHODS = {
    "reweighing": (reweighing, surveyed),
    "local reweighing": (partial(reweighing, counts="local"), fedavg),
    "fairfed": (fairfed, shared_out),
    "fairfed, parity": (partial(fairfed, among="parity", debias=False), shared_out),
    "fedfb, odds": (fedfb, fedfb_server),
    "fedfb, opportunity": (fedfb, partial(fedfb_server, equal="opportunity")),
    "fedfb, parity": (fedfb, partial(fedfb_server, equal="parity", alpha=1.0)),
    "q_ffl": (q_ffl, shared_out),
    "afl": (afl, afl_server),
    "fedminmax": (fedminmax, fedminmax_server),
    "group_dro": (fedminmax, group_dro_server),
    "gifair": (gifair, surveyed),
    "gifair, clients": (partial(gifair, groups="clients"), surveyed),
}


def task(seed=0, *, sizes=SIZES, groups=2, classes=2, favorable=1):
    stream, count = (Key(seed) / "task").stream(), sum(sizes)
    group = torch.randint(groups, (count,), generator=stream)
    inputs = torch.randn(count, 3, generator=stream)
    targets = torch.bucketize(inputs[:, 0] + 0.7 * group, torch.arange(1.0, classes) - 0.7)
    model = create(logistic, shape=(3,), classes=classes, key=Key(seed))
    ends = torch.tensor([0, *sizes]).cumsum(0)
    data = Examples(inputs, targets, {"sex": group})
    sensitive = Sensitive(("sex",), (groups,), favorable)
    return Task(model, data, Shards(torch.arange(count), ends), sensitive)


def as_group(what, groups, count):
    """Divide the same people otherwise."""
    data = replace(what.data, attributes={"sex": groups})
    return replace(what, data=data, sensitive=replace(what.sensitive, sizes=(count,)))


def rounds(what, train, server, cohorts=COHORTS, **knobs):
    states = [State(what.model.initial)]
    for number, cohort in enumerate(cohorts, start=1):
        state = states[-1]
        found = train(
            what, state, state.params, cohort, key=Key(1) / number, round=number,
            compute=Compute(), **{**STEPS, **knobs},
        )  # fmt: skip
        state = learn(state, cohort, found)
        members = tuple((client,) for client in cohort)
        states.append(server(state, mean(Visible(found.rows, members, found.weights)).update))
    return states[1:]


def close(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.params, other.params, rtol=1e-4, atol=1e-5, **tolerance)


def finite(state):
    numbers = [state.params, *state.memory.values()]
    return all(bool(one.isfinite().all()) for one in numbers)


@pytest.mark.parametrize(
    ("train", "server"),
    [
        (partial(q_ffl, q=0.0), shared_out),
        (partial(fairfed, beta=0.0, debias=False), shared_out),
        (partial(gifair, strength=0.0), surveyed),
        (afl, partial(afl_server, ascent=1e-12)),
        (fedminmax, partial(fedminmax_server, ascent=1e-12)),
        (fedminmax, partial(group_dro_server, ascent=1e-12)),
        (fedfb, partial(fedfb_server, alpha=1e-12)),
        (fedfb, partial(fedfb_server, alpha=1e-12, equal="parity")),
    ],
)
def test_a_method_turned_off_is_federated_averaging(train, server):
    everybody = [range(5)] * 4  # else a mixture is one of clients who are not all there
    what = task()
    close(rounds(what, train, server, everybody), rounds(what, sgd, fedavg, everybody))


def test_reweighing_people_whose_group_says_nothing_is_federated_averaging():
    what = task(sizes=(12, 8, 20))
    groups = torch.zeros(40, dtype=torch.long)
    for kind in (0, 1):
        (them,) = (what.data.targets == kind).nonzero(as_tuple=True)
        what.data.targets[them[len(them) // 4 * 4 :]] = 1 - kind
    for kind in (0, 1):
        (them,) = (what.data.targets == kind).nonzero(as_tuple=True)
        groups[them[: len(them) // 2]] = 1
    alike, cohorts = as_group(what, groups, 2), [range(3)] * 3
    assert what.data.targets.sum() % 2 == 0
    close(rounds(alike, reweighing, surveyed, cohorts), rounds(alike, sgd, fedavg, cohorts))


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_the_nearest_mixture_is_what_a_root_finder_says(point):
    found = simplex(torch.tensor(point, dtype=torch.float64)).numpy()
    excess = np.array(point)
    level = brentq(
        lambda level: np.maximum(excess - level, 0).sum() - 1, excess.min() - 1, excess.max()
    )
    np.testing.assert_allclose(found, np.maximum(excess - level, 0), atol=1e-9)


FIRST = ("fedfb, parity", "gifair")
"""One compares with the first group, the other gives it clients of several."""


@pytest.mark.parametrize(
    ("name", "groups"),
    [*((name, 2) for name in METHODS), *((name, 3) for name in METHODS if name not in FIRST)],
)
def test_which_number_a_group_has_changes_nothing(name, groups):
    what = task(3, groups=groups)
    other = as_group(what, groups - 1 - what.data.attributes["sex"], groups)
    close(rounds(what, *METHODS[name]), rounds(other, *METHODS[name]))


@pytest.mark.parametrize("name", [one for one in METHODS if one != "gifair, clients"])
def test_a_group_that_nobody_is_in_changes_nothing(name):
    what = task(4, sizes=(23, 0, 9, 2, 14))
    groups = what.data.attributes["sex"]
    for places in (groups + 1, 2 * groups):
        close(rounds(as_group(what, places, 3), *METHODS[name]), rounds(what, *METHODS[name]))


@given(seed=st.integers(0, 99), groups=st.integers(2, 3), classes=st.integers(2, 3))
@settings(max_examples=25)
def test_reweighed_groups_and_classes_are_independent(seed, groups, classes):
    what = task(seed, groups=groups, classes=classes, sizes=(40, 25))
    sensitive, data = what.sensitive, what.data

    def table(weights, which):
        cells = torch.zeros(groups, classes, dtype=torch.float64)
        places = data.attributes["sex"][which], data.targets[which]
        return cells.index_put(places, weights[which].double(), accumulate=True)

    everyone = table(torch.ones(65), what.shards.indices)
    weights = everyones_weights(what, everyone / 65, sensitive)
    own = own_weights(what, [0, 1], sensitive)
    for weighed, which in [(weights, what.shards.indices), (own, what.shards[0]),
                           (own, what.shards[1])]:  # fmt: skip
        before, found = table(torch.ones(65), which), table(weighed, which)
        if bool((before.sum(1, keepdim=True) * before.sum(0)).ne(0).eq(before.ne(0)).all()):
            expected = before.sum(1, keepdim=True) * before.sum(0) / before.sum()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 99), groups=st.integers(1, 3), classes=st.integers(2, 4))
@settings(max_examples=25)
def test_what_clients_tell_is_what_one_counts_by_hand(seed, groups, classes):
    what = task(seed, groups=groups, classes=classes, favorable=classes - 1)
    cohort = (4, 1, 0)
    surveys = survey(what, what.model.initial, cohort, what.sensitive)
    means = client_losses(what, what.model.initial, cohort)
    for client, told, average in zip(cohort, surveys, means, strict=True):
        counts = torch.zeros(groups, classes, 4, dtype=torch.float64)
        total = 0.0
        for person in what.shards[client].tolist():
            output = what.model(what.model.initial, what.data.inputs[[person]])
            answer, truth = int(output.argmax()), int(what.data.targets[person])
            loss = float(-output.log_softmax(1)[0, truth])
            counts[int(what.data.attributes["sex"][person]), truth] += torch.tensor(
                [1, loss, answer == classes - 1, answer == truth], dtype=torch.float64
            )
            total += loss
        size = max(len(what.shards[client]), 1)
        torch.testing.assert_close(told, counts / size, rtol=1e-5, atol=1e-7)
        assert float(average) == pytest.approx(total / size, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
@given(
    seed=st.integers(0, 999),
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=4),
    lonely=st.booleans(),
    alike=st.booleans(),
    data=st.data(),
)
@settings(max_examples=6)
def test_clients_of_no_one_of_one_group_or_of_one_class_are_survived(
    name, seed, sizes, lonely, alike, data
):
    what = task(seed, sizes=(*sizes, 3), groups=data.draw(st.integers(1, 3)))
    if lonely:
        what.data.attributes["sex"][what.shards[0]] = 0
    if alike:
        what.data.targets.fill_(seed % 2)
    someone = st.lists(st.integers(0, len(sizes) - 1), unique=True)
    cohorts = [(*sorted(data.draw(someone)), len(sizes)) for _ in range(4)]
    assert all(finite(state) for state in rounds(what, *METHODS[name], cohorts))


@pytest.mark.parametrize("among", ["opportunity", "parity"])
def test_weights_of_fairfed_clients_keep_their_sum(among):
    """However gaps grow and shrink: else all might come to count nothing, and nobody trains."""
    what = task(5, sizes=(23, 12, 9, 3, 14))
    train = partial(fairfed, beta=3.0, among=among)
    states = rounds(what, train, shared_out, [range(5)] * 8)
    shifts = states[-1].memory[SHIFTS][:, 0]
    assert float(shifts.sum()) == pytest.approx(0, abs=1e-5) and float(shifts.std()) > 0.1


@pytest.mark.parametrize(
    ("train", "server", "name"),
    [
        (afl, partial(afl_server, ascent=1.0), "server/mixture"),
        (fedminmax, partial(fedminmax_server, ascent=1.0), BURDENS),
        (fedminmax, partial(group_dro_server, ascent=1.0), BURDENS),
    ],
)
def test_burdens_are_a_mixture_and_the_worst_off_bears_more(train, server, name):
    what = task(6, sizes=(20, 20))
    what.data.attributes["sex"].copy_(torch.arange(40) // 20)  # a client, a group
    what.data.targets[20:] = 1 - what.data.targets[20:]  # nobody can please both
    before, start, turns = torch.tensor([0.5, 0.5]), what.model.initial, set()
    for state in rounds(what, train, server, [range(2)] * 5):
        burdens, losses = state.memory[name], client_losses(what, start, range(2))
        assert float(burdens.min()) >= 0 and float(burdens.sum()) == pytest.approx(1, abs=1e-5)
        worse = int(losses.argmax())
        assert burdens[worse] > before[worse] or burdens[worse] == 1
        before, start = burdens, state.params
        turns.add(worse)
    assert turns == {0, 1}


def test_who_is_absent_at_first_may_bear_a_burden_later():
    what = task(sizes=(20, 20))
    what.data.attributes["sex"].copy_(torch.arange(40) // 20)
    what.data.targets[20:] = 1 - what.data.targets[20:]
    cohorts = [(0,), *[(0, 1)] * 6]
    for server in (fedminmax_server, group_dro_server):
        states = rounds(what, fedminmax, partial(server, ascent=10.0), cohorts)
        assert float(states[0].memory[BURDENS][1]) < 1e-5
        assert max(float(one.memory[BURDENS][1]) for one in states) > 0.5


def test_a_small_loss_to_a_large_power_still_moves_the_model():
    what = task(sizes=(30, 30))
    inputs = 40 * (what.data.targets * 2.0 - 1).unsqueeze(1) + what.data.inputs
    easy = replace(what, data=replace(what.data, inputs=inputs))
    before = rounds(easy, sgd, fedavg, [(0, 1)] * 3, rate=0.01)[-1]
    assert float(client_losses(easy, before.params, (0, 1)).max()) ** 8 < 1e-8
    found = q_ffl(
        easy, before, before.params, (0, 1), key=Key(0), round=1, compute=Compute(), q=8.0,
    )  # fmt: skip
    after = shared_out(before, found.rows.mean(0))
    assert not after.params.equal(before.params)


def test_a_cell_that_was_not_there_keeps_its_weight():
    what = task(sizes=(30, 30))
    what.data.attributes["sex"][:30] = 0
    states = rounds(what, fedfb, partial(fedfb_server, alpha=0.2), [(0, 1), (0,), (0, 1)])
    tables = [one.memory["server/weights"].view(2, 2) for one in states]
    assert not tables[0].eq(1).any() and tables[1][1].equal(tables[0][1])


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (partial(reweighing, counts="some"), r"local\.counts must be federated or local"),
        (partial(reweighing, scale=0.0), r"local\.scale must be above 0"),
        (partial(fairfed, beta=-1.0), r"local\.beta must be 0 or more"),
        (partial(fairfed, among="odds"), r"local\.among must be opportunity or parity"),
        (partial(fedfb, scale=-1.0), r"local\.scale must be above 0"),
        (partial(fedminmax, scale=0.0), r"local\.scale must be above 0"),
        (partial(q_ffl, q=-0.1), r"local\.q must be 0 or more"),
        (partial(gifair, strength=-0.1), r"local\.strength must be 0 or more"),
        (partial(gifair, groups="all"), r"local\.groups must be majority or clients"),
        (partial(gifair, scale=0.0), r"local\.scale must be above 0"),
        (partial(fairfed, scale=0.0), r"local\.scale must be above 0"),
    ],
)
def test_a_knob_out_of_range_is_named(train, said):
    with pytest.raises(ValueError, match=said):
        rounds(task(), train, surveyed, COHORTS[:1])


@pytest.mark.parametrize("train", [reweighing, fairfed, fedfb, fedminmax, gifair])
def test_who_compares_groups_needs_groups(train):
    with pytest.raises(ValueError, match=r"fairness\.attribute"):
        rounds(replace(task(), sensitive=None), train, surveyed, COHORTS[:1])


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (partial(afl_server, ascent=0.0), r"server\.ascent must be above 0"),
        (partial(fedminmax_server, ascent=-1.0), r"server\.ascent must be above 0"),
        (partial(group_dro_server, ascent=0.0), r"server\.ascent must be above 0"),
        (partial(fedfb_server, alpha=0.0), r"server\.alpha must be above 0"),
        (partial(fedfb_server, equal="all"), r"server\.equal must be odds, opportunity or parity"),
    ],
)
def test_a_servers_knob_out_of_range_is_named(server, said):
    with pytest.raises(ValueError, match=said):
        rounds(task(), fedminmax, server, COHORTS[:1])


SERVERS = (surveyed, shared_out, afl_server, fedfb_server, fedminmax_server, group_dro_server)


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_told_nothing_says_what_it_needs(server):
    with pytest.raises(ValueError, match="choose the local training made for it"):
        rounds(task(), sgd, server, COHORTS[:1])


def test_what_is_exported_is_what_yaml_names():
    for part in (*METHODS.values(), *((one,) for one in SERVERS)):
        for one in part:
            whole = one.func if isinstance(one, partial) else one
            assert getattr(learning, whole.__name__) is whole
