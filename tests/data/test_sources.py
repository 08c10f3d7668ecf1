"""Clients that stand for one trade, one place or one group of people each, or for more of one."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Card, Dataset, Examples, Key, Partitioner, Sensitive
from dai_lab.data import adult, digits, dirichlet, natural, sources
from dai_lab.data.cards import content_hash

SEED = st.integers(0, 99)


def people(sizes, seed=0, **attributes):
    """Make up people of sources of these sizes, in any order."""
    place = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    place = place[torch.randperm(len(place), generator=Key(seed).stream())]
    train = Examples(torch.zeros(len(place), 1), place % 2, {"place": place, **attributes})
    return Dataset(train, train.some(torch.tensor([0])), 2, Card("toy", "", "", ""))


@st.composite
def worlds(draw):
    """Draw sources, how many of them take part, and how much they give."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=7))
    count = draw(st.integers(1, len(sizes)))
    most = sum(sorted(sizes, reverse=True)[:count])
    return sizes, count, draw(st.integers(count, most))


def held(toy, dealt):
    """Tell, of each client, the sources of its examples."""
    return [
        toy.train.attributes["place"][dealt.shards[client]].tolist()
        for client in range(len(dealt.shards))
    ]


@given(world=worlds(), seed=SEED, extra=st.integers(0, 50))
def test_a_client_is_of_one_source_no_example_is_held_twice_and_the_total_is_what_was_asked(
    world, seed, extra
):
    sizes, count, examples = world
    toy, clients = people(sizes), min(count + extra, examples)
    dealt = sources(
        toy, clients=clients, key=Key(seed), by="place", sources=count, examples=examples
    )
    assert len(dealt.shards) == clients and dealt.shards.sizes.min() >= 1
    assert len(dealt.shards.indices.unique()) == len(dealt.shards.indices) == examples
    who = held(toy, dealt)
    assert all(len(set(one)) == 1 for one in who)
    assert len({one[0] for one in who}) == count
    for source in range(len(sizes)):
        each = [len(one) for one in who if one[0] == source]
        assert not each or max(each) - min(each) <= 1


@given(world=worlds(), seed=SEED, extra=st.integers(0, 20))
def test_shares_and_clients_are_what_handing_them_out_one_by_one_gives(world, seed, extra):
    sizes, count, examples = world
    clients = min(count + extra, examples)
    ranks = sorted(range(len(sizes)), key=lambda source: (-sizes[source], source))[:count]
    shares, seats = [0] * count, [1] * count
    for _ in range(examples):
        left = [i for i in range(count) if shares[i] < sizes[ranks[i]]]
        shares[min(left, key=lambda i: (shares[i], i))] += 1
    for _ in range(clients - count):
        seats[max(range(count), key=lambda i: (shares[i] / seats[i], -i))] += 1
    toy = people(sizes)
    dealt = sources(
        toy, clients=clients, key=Key(seed), by="place", sources=count, examples=examples
    )
    who = held(toy, dealt)
    assert [one[0] for one in who] == [
        source for source, many in zip(ranks, seats, strict=True) for _ in range(many)
    ]
    assert [sum(len(one) for one in who if one[0] == source) for source in ranks] == shares


@pytest.mark.parametrize("order", ["largest", "drawn"])
@settings(max_examples=15)
@given(seed=SEED, examples=st.integers(6, 20))
def test_more_sources_are_the_fewer_and_others_and_who_gives_less_gives_some_of_the_same(
    order, seed, examples
):
    toy = people([20, 30, 25, 40, 20, 22])
    deal = partial(sources, toy, key=Key(seed), by="place", examples=examples, order=order)
    before = {}
    for count in range(1, 7):
        now = deal(sources=count).shards
        given_now = {
            int(toy.train.attributes["place"][now[one]][0]): set(now[one].tolist())
            for one in range(count)
        }
        assert list(given_now)[:-1] == list(before)
        assert all(given_now[source] <= before[source] for source in before)
        before = given_now
    assert deal(sources=0).shards.indices.equal(now.indices)


def test_the_largest_come_first_and_drawn_ones_depend_on_the_key():
    toy = people([5, 9, 7, 9])
    first = [
        [one[0] for one in held(toy, sources(toy, key=Key(seed), by="place", examples=5, **how))]
        for how in ({}, {"order": "drawn"})
        for seed in range(30)
    ]
    assert first[:30] == [[1, 3, 2, 0]] * 30
    assert {one[0] for one in first[30:]} == {0, 1, 2, 3}


def test_a_worked_example_a_source_too_small_gives_all_and_the_others_make_up_for_it():
    toy = people([2, 100, 50])
    dealt = sources(toy, clients=6, key=Key(0), by="place", examples=42)
    # Level 20: 20 + 20 + 2. Of six clients, one is the small source's, and 20 and 20 have the rest.
    assert [(len(one), one[0]) for one in held(toy, dealt)] == [
        (7, 1), (7, 1), (6, 1), (10, 2), (10, 2), (2, 0)
    ]  # fmt: skip
    assert isinstance(sources, Partitioner)


def test_any_number_of_occupations_gives_equally_many_examples_of_adult():
    people = adult()
    occupation = people.train.attributes["occupation"]
    for count in range(1, 16):
        shards = sources(people, key=Key(1), by="occupation", sources=count, examples=4000).shards
        assert len(shards) == count and int(shards.sizes.sum()) == 4000
        assert len(occupation[shards.indices].unique()) == count
        large = shards.sizes[shards.sizes >= 4000 // count]
        assert large.max() - large.min() <= 1


def test_natural_clients_are_the_people_the_data_names():
    subject = torch.tensor([4, 2, 4, 7, 2, 4])
    toy = people([6], subject=subject)
    dealt = natural(toy, key=Key(0), by="subject")
    assert [dealt.shards[client].tolist() for client in range(3)] == [[1, 4], [0, 2, 5], [3]]
    assert natural(toy, clients=3, key=Key(9)).shards.indices.equal(dealt.shards.indices)


def test_clients_of_two_attributes_are_the_groups_pandas_and_the_fairness_measures_see():
    import pandas as pd

    data = adult()
    shards = natural(data, key=Key(0), by="sex+race").shards
    owner = torch.empty(len(data.train), dtype=torch.long)
    owner[shards.indices] = torch.arange(len(shards)).repeat_interleave(shards.sizes)
    columns = pd.DataFrame({name: data.train.attributes[name] for name in ("sex", "race")})
    assert owner.tolist() == columns.groupby(["sex", "race"]).ngroup().tolist()
    assert owner.equal(Sensitive.in_data(data, "sex+race").of(data.train))


@given(
    clients=st.integers(1, 12),
    minimum=st.integers(0, 3),
    alpha=st.sampled_from([0.05, 0.5, 5.0]),
    seed=SEED,
)
def test_a_dirichlet_deal_of_groups_is_that_of_classes_were_groups_the_classes(
    clients, minimum, alpha, seed
):
    toy = people([30, 10, 20])
    place = toy.train.attributes["place"]
    classed = Dataset(Examples(toy.train.inputs, place), toy.test, 3, toy.card)
    knobs = {"clients": clients, "minimum": minimum, "alpha": alpha, "key": Key(seed)}
    one, other = dirichlet(toy, by="place", **knobs), dirichlet(classed, **knobs)
    assert one.shards.indices.equal(other.shards.indices)
    assert one.shards.offsets.equal(other.shards.offsets)
    assert one.data is toy


def test_a_dirichlet_deal_of_classes_is_what_it_was_before_groups_could_be_dealt():
    shards = dirichlet(digits(), clients=10, key=Key(3), alpha=0.1, minimum=7).shards
    assert content_hash(shards.indices, shards.offsets)[:16] == "671dcbfef8c4508f"


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"by": "hair"}, r"partition.by must be one of \['place'\], got 'hair'"),
        ({"by": "place+hair"}, r"partition.by must be one of \['place'\], got 'hair'"),
        ({"sources": 4}, r"partition.sources must be in 0..3, as toy has 3 values of place, got 4"),
        ({"sources": -1}, "partition.sources must be in 0..3"),
        ({"order": "small"}, "partition.order must be 'largest' or 'drawn', got 'small'"),
        ({"sources": 1, "examples": 31}, r"partition.examples must be in 1..30, .*, got 31: .*"),
        ({"examples": 2}, "partition.examples must be in 3..60"),
        ({"clients": 2}, "federation.clients must be 0 or in 3..40, .* got 2"),
        ({"clients": 41}, "federation.clients must be 0 or in 3..40"),
        ({"clients": -1}, "federation.clients must be 0 or in 3..40"),
    ],
)
def test_sources_that_cannot_give_what_is_asked_are_refused_by_the_knobs_name(knobs, complaint):
    toy = people([10, 30, 20])
    with pytest.raises(ValueError, match=complaint) as caught:
        sources(toy, key=Key(0), **{"by": "place", "examples": 40, **knobs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "deal", [partial(sources, by="place", examples=0), partial(dirichlet, by="place")]
)
def test_a_hundred_thousand_clients_cost_no_more_python_than_a_thousand(deal, lines_run):
    def run(clients):
        toy = people([clients, 2 * clients, 2 * clients])
        knobs = {"examples": 4 * clients} if deal.func is sources else {}
        shards = partial(deal, **knobs)(toy, clients=clients, key=Key(0)).shards
        assert len(shards) == clients and shards.sizes.min() >= 1

    run(1000)  # imports and caches
    assert lines_run(lambda: run(100_000)) < 3 * lines_run(lambda: run(1000))
