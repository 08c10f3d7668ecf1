"""What the server may see adds up to what was sent."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab import secagg
from dai_lab.core import Key

SEEDS = st.integers(0, 999)


def grouped(*args, weighted=True, **knobs):
    return secagg.grouped(*args, of=partial(secagg.ideal, weighted=weighted), **knobs)


def deal(seed, count):
    stream = Key(seed).stream()
    sent = torch.randn(count, 4, generator=stream, dtype=torch.float64)
    weights = torch.randint(1, 50, (count,), generator=stream).double()
    return sent, weights, tuple(range(10, 10 + 3 * count, 3))


@given(seed=SEEDS, count=st.integers(1, 12), data=st.data())
def test_groups_lose_nothing_of_the_weighted_sum(seed, count, data):
    sent, weights, clients = deal(seed, count)
    groups = data.draw(st.integers(1, count))
    seen = grouped(sent, weights, clients=clients, key=Key(seed), groups=groups)
    torch.testing.assert_close(seen.weights @ seen.rows, weights @ sent)
    torch.testing.assert_close(seen.weights.sum(), weights.sum())
    sizes = [len(members) for members in seen.members]
    assert len(sizes) == groups and max(sizes) - min(sizes) <= 1
    assert sorted(sum(seen.members, ())) == list(clients)


@given(seed=SEEDS, weighted=st.booleans())
def test_each_row_is_the_mean_of_its_members(seed, weighted):
    sent, weights, clients = deal(seed, 9)
    seen = grouped(sent, weights, clients=clients, key=Key(seed), groups=4, weighted=weighted)
    for row, weight, members in zip(seen.rows, seen.weights, seen.members, strict=True):
        total, count = torch.zeros(4, dtype=torch.float64), 0.0
        for member in members:
            place = clients.index(member)
            share = float(weights[place]) if weighted else 1.0
            total, count = total + share * sent[place], count + share
        torch.testing.assert_close(row, total / count)
        assert weight == sum(float(weights[clients.index(member)]) for member in members)


@given(seed=SEEDS)
def test_as_many_groups_as_clients_hides_nothing(seed):
    sent, weights, clients = deal(seed, 6)
    seen = grouped(sent, weights, clients=clients, key=Key(seed), groups=6)
    plain = secagg.plain(sent, weights, clients=clients, key=Key(seed))
    order = [seen.members.index(member) for member in plain.members]
    torch.testing.assert_close(seen.rows[order], plain.rows)
    assert torch.equal(plain.rows, sent) and torch.equal(plain.weights, weights)


def test_groups_are_drawn_from_the_key():
    sent, weights, clients = deal(0, 12)

    def groups(key):
        return grouped(sent, weights, clients=clients, key=key, groups=3).members

    assert groups(Key(1)) == groups(Key(1))
    assert len({groups(Key(seed)) for seed in range(20)}) > 15


def test_a_row_that_is_not_finite_spoils_its_own_group_only():
    sent, weights, clients = deal(0, 12)
    sent[5] = torch.nan
    seen = grouped(sent, weights, clients=clients, key=Key(0), groups=4)
    spoiled = [clients[5] in members for members in seen.members]
    assert seen.rows.isnan().any(1).tolist() == spoiled and sum(spoiled) == 1


@pytest.mark.parametrize("groups", [0, 6])
def test_groups_nobody_could_form_are_refused(groups):
    sent, weights, clients = deal(0, 5)
    with pytest.raises(ValueError, match=rf"secagg\.groups must be .* got {groups}"):
        grouped(sent, weights, clients=clients, key=Key(0), groups=groups)


def test_a_group_without_examples_is_refused_unless_all_count_the_same():
    sent, weights, clients = deal(0, 4)
    weights[:] = 0
    with pytest.raises(ValueError, match=r"hold no examples: lower secagg\.groups"):
        grouped(sent, weights, clients=clients, key=Key(0), groups=2)
    seen = grouped(sent, weights, clients=clients, key=Key(0), groups=1, weighted=False)
    torch.testing.assert_close(seen.rows[0], sent.mean(0))
