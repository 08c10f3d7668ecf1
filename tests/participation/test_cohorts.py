"""Cohorts are distinct, ascending, fair, and cheap for many clients."""

from functools import partial
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dai_lab.core import Key
from dai_lab.participation import available, cohorts


def registered(clients):
    return torch.full((clients,), 7)


@pytest.mark.parametrize("cohort", [cohorts.uniform, cohorts.poisson, cohorts.by_size])
@given(clients=st.integers(1, 300), seed=st.integers(0, 999), share=st.floats(0.01, 1))
def test_a_cohort_is_distinct_clients_in_ascending_order(cohort, clients, seed, share):
    knob = {"rate" if cohort is cohorts.poisson else "fraction": share}
    drawn = cohort(registered(clients), key=Key(seed), **knob)
    assert list(drawn) == sorted(set(drawn))
    assert all(type(client) is int and 0 <= client < clients for client in drawn)
    assert drawn == cohort(registered(clients), key=Key(seed), **knob)


@pytest.mark.parametrize("cohort", [cohorts.uniform, cohorts.by_size])
@given(clients=st.integers(1, 300), seed=st.integers(0, 999), fraction=st.floats(0.001, 1))
def test_a_cohort_has_the_size_asked_for_and_never_none(cohort, clients, seed, fraction):
    drawn = cohort(registered(clients), key=Key(seed), fraction=fraction)
    assert len(drawn) == max(1, round(fraction * clients))


@pytest.mark.parametrize(
    "cohort", [cohorts.uniform, cohorts.by_size, partial(cohorts.poisson, rate=1.0)]
)
@given(clients=st.integers(1, 300), seed=st.integers(0, 999))
def test_everyone_is_everyone(cohort, clients, seed):
    assert cohort(registered(clients), key=Key(seed)) == tuple(range(clients))


@pytest.mark.parametrize(
    "cohort",
    [
        partial(cohorts.uniform, fraction=0.3),
        partial(cohorts.by_size, fraction=0.3),
        partial(cohorts.poisson, rate=0.3),
    ],
)
def test_clients_of_one_size_take_part_equally_often(cohort):
    rounds, counts = 2000, torch.zeros(10)
    for number in range(rounds):
        counts[list(cohort(registered(10), key=Key(0) / number))] += 1
    deviation = (rounds * 0.3 * 0.7) ** 0.5
    assert ((counts - rounds * 0.3).abs() < 4 * deviation).all()


def test_poisson_cohorts_vary_as_a_binomial_and_may_be_empty():
    sizes = torch.tensor(
        [
            float(len(cohorts.poisson(registered(20), key=Key(0) / each, rate=0.1)))
            for each in range(3000)
        ]
    )
    assert sizes.mean().item() == pytest.approx(2.0, abs=4 * (1.8 / 3000) ** 0.5)
    assert sizes.var().item() == pytest.approx(1.8, rel=0.15)
    assert (sizes == 0).float().mean().item() == pytest.approx(0.9**20, abs=0.025)
    assert cohorts.poisson(registered(1), key=Key(0), rate=1e-12) == ()


@pytest.mark.parametrize(
    "cohort",
    [
        partial(cohorts.uniform, fraction=0.0005),
        partial(cohorts.by_size, fraction=0.0005),
        partial(cohorts.poisson, rate=0.0005),
        partial(available, fraction=0.0005),
    ],
)
def test_a_hundred_thousand_clients_cost_no_more_python_than_a_thousand(cohort, lines_run):
    few, all_of_them = registered(1000), registered(100_000)
    cohort(few, key=Key(0))  # imports and caches
    many = lines_run(lambda: cohort(all_of_them, key=Key(0)))
    assert many < 3 * lines_run(lambda: cohort(few, key=Key(0)))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=r"cohort\.fraction must be above 0 and at most 1, got"):
        cohorts.uniform(registered(10), key=Key(0), fraction=share)
    with pytest.raises(ValueError, match=r"cohort\.fraction must be above 0 and at most 1, got"):
        cohorts.by_size(registered(10), key=Key(0), fraction=share)
    with pytest.raises(ValueError, match=r"cohort\.rate must be above 0 and at most 1, got"):
        cohorts.poisson(registered(10), key=Key(0), rate=share)


class Largest(TorchDispatchMode):
    """Remember the most numbers any operation on tensors returned."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_a_uniform_cohort_of_a_million_touches_none_but_its_own(lines_run):
    million = torch.tensor([7]).expand(1_000_000)
    with Largest() as largest:
        drawn = cohorts.uniform(million, key=Key(0), fraction=0.0005)
    assert len(drawn) == 500 and largest.numbers <= 500
    few = lines_run(lambda: cohorts.uniform(registered(1000), key=Key(0), fraction=0.5))
    assert lines_run(lambda: cohorts.uniform(million, key=Key(0), fraction=0.0005)) < 2 * few


def chances(sizes, places):
    """Add up every order in which places can be filled, each by the sizes that are left."""
    taking_part = [0.0] * len(sizes)
    for order in permutations(range(len(sizes)), places):
        chance, left = 1.0, sum(sizes)
        for client in order:
            chance, left = chance * sizes[client] / left, left - sizes[client]
        for client in order:
            taking_part[client] += chance
    return torch.tensor(taking_part)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_large_clients_take_part_as_often_as_drawing_one_by_one_says(places):
    sizes, rounds = torch.tensor([1, 2, 0, 3, 10]), 2000
    counts = torch.zeros(5)
    for number in range(rounds):
        drawn = cohorts.by_size(sizes, key=Key(1) / number, fraction=places / 5)
        assert len(drawn) == places
        counts[list(drawn)] += 1
    chance = chances(sizes.tolist(), places)
    if places == 1:
        torch.testing.assert_close(chance, sizes / 16)
    deviation = (rounds * chance * (1 - chance)).sqrt()
    assert ((counts - rounds * chance).abs() <= 4 * deviation).all() and counts[2] == 0


def test_who_holds_nothing_is_never_drawn_even_if_places_stay_empty():
    assert cohorts.by_size(torch.tensor([0, 5, 0, 1]), key=Key(0)) == (1, 3)
    assert cohorts.by_size(torch.tensor([0, 0]), key=Key(0)) == ()
