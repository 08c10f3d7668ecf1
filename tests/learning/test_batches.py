"""A plan looks at every example it should, as often as it should, in an order the key decides."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.learning.batches import epochs_of, one_batch, side_by_side

SIZES, SEEDS, BATCHES = st.integers(0, 40), st.integers(0, 999), st.integers(0, 50)


def held(count):
    return 100 + 3 * torch.arange(count)


@given(count=SIZES, seed=SEEDS, batch=BATCHES, epochs=st.integers(1, 4))
def test_every_epoch_looks_at_every_example_once(count, seed, batch, epochs):
    plan = epochs_of(held(count), key=Key(seed), epochs=epochs, batch_size=batch)
    assert sum(plan.lengths) == len(plan.order) == epochs * count
    for looks in plan.order.split(count) if count else ():
        assert looks.sort().values.tolist() == held(count).tolist()


@given(count=st.integers(1, 40), seed=SEEDS, batch=BATCHES, epochs=st.integers(1, 4))
def test_only_the_last_batch_of_an_epoch_is_short_and_none_is_empty(count, seed, batch, epochs):
    plan = epochs_of(held(count), key=Key(seed), epochs=epochs, batch_size=batch)
    full = min(batch, count) or count
    one_epoch = [full] * (count // full) + [count % full] * (count % full > 0)
    assert list(plan.lengths) == one_epoch * epochs
    assert [len(some) for some in plan.steps()] == one_epoch * epochs


@given(seed=SEEDS, batch=BATCHES, epochs=st.integers(1, 3))
def test_more_epochs_begin_with_the_same_epochs(seed, batch, epochs):
    few = epochs_of(held(11), key=Key(seed), epochs=epochs, batch_size=batch)
    more = epochs_of(held(11), key=Key(seed), epochs=epochs + 1, batch_size=batch)
    assert more.order[: len(few.order)].equal(few.order)


def test_epochs_are_shuffled_anew_and_keys_differ():
    first, second = epochs_of(held(30), key=Key(0), epochs=2, batch_size=7).order.split(30)
    assert not first.equal(second)
    assert not epochs_of(held(30), key=Key(1), epochs=1, batch_size=7).order.equal(first)


@given(count=SIZES, seed=SEEDS, batch=BATCHES)
def test_one_batch_is_drawn_without_replacement(count, seed, batch):
    plan = one_batch(held(count), key=Key(seed), batch_size=batch)
    drawn = plan.order.tolist()
    assert len(drawn) == sum(plan.lengths) == (min(batch, count) if batch else count)
    assert len(plan.lengths) == (count > 0)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(held(count).tolist())


def test_one_batch_draws_everyone_equally_often():
    counts = torch.zeros(10)
    for number in range(2000):
        counts[one_batch(torch.arange(10), key=Key(0) / number, batch_size=3).order] += 1
    assert ((counts - 600).abs() < 4 * (2000 * 0.3 * 0.7) ** 0.5).all()


@given(counts=st.lists(SIZES, min_size=1, max_size=6), seed=SEEDS, batch=BATCHES)
def test_side_by_side_loses_nothing_and_adds_only_padding(counts, seed, batch):
    plans = [
        epochs_of(held(count), key=Key(seed) / at, epochs=2, batch_size=batch)
        for at, count in enumerate(counts)
    ]
    examples, lengths = side_by_side(plans)
    assert examples.shape[:2] == lengths.shape
    for plan, mine, taken in zip(plans, examples, lengths, strict=True):
        looks = [some[:length] for some, length in zip(mine, taken.tolist(), strict=True)]
        assert torch.cat([torch.zeros(0, dtype=torch.long), *looks]).equal(plan.order)
        for some, length in zip(mine, taken.tolist(), strict=True):
            assert not some[length:].any()


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_who_holds_nothing_plans_nothing(batch):
    assert epochs_of(held(0), key=Key(0), epochs=3, batch_size=batch).lengths == ()
    assert one_batch(held(0), key=Key(0), batch_size=batch).lengths == ()
