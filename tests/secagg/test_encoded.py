"""Encoded rows: real masks, ideal sums and rehearsals come to the same whole numbers."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import secagg
from dai_lab.core import Encoding, Event, Key, State, TooFew
from dai_lab.privacy.distributed import distributed_gaussian, skellam

SEEDS = st.integers(0, 999)
PARTS = st.sampled_from([distributed_gaussian, skellam])


def deal(seed, count, params=6):
    stream = Key(seed).stream()
    sent = torch.randn(count, params, generator=stream) / math.sqrt(params)
    weights = torch.rand(count, generator=stream)  # no whole numbers: nobody asks
    return sent, weights, tuple(range(10, 10 + 3 * count, 3))


def protected(part, sent, seed=0, **knobs):
    state = State(torch.zeros(sent.shape[1]))
    found = part(sent, state=state, key=Key(seed) / "privacy", **{"clients": len(sent)} | knobs)
    return found.rows, found.encoding


def bare(bits, width):
    """Whole numbers as they are."""

    def encode(row, key):
        words = row.astype(np.int64).astype(np.uint64) & np.uint64(2**bits - 1)
        return words.astype(np.uint32 if bits <= 32 else np.uint64)

    def decode(total, count):
        return total.astype(np.float64)

    return Encoding(bits, width, encode, decode, lambda stayed: (Event("open"),))


@settings(max_examples=15)
@given(seed=SEEDS, count=st.integers(1, 9), part=PARTS, active=st.booleans())
def test_the_sum_under_masks_is_the_ideal_one_to_the_bit(seed, count, part, active):
    sent, weights, clients = deal(seed, count)
    rows, encoding = protected(part, sent, seed)
    given = {"clients": clients, "key": Key(seed), "encoding": encoding}
    ideal = secagg.ideal(rows, weights, **given)
    masked = secagg.masked(rows, weights, active=active, **given)
    rehearsed = secagg.masked(rows, weights, active=active, rehearsal=True, **given)
    assert ideal.rows.equal(masked.rows) and ideal.rows.equal(rehearsed.rows)
    assert ideal.members == masked.members == rehearsed.members == (clients,)
    assert ideal.weights.tolist() == masked.weights.tolist() == [count]
    assert masked.record["modulus"] == 16 and masked.record["survivors"] == count
    words = [
        encoding.encode(row, Key(seed) / "rounding" / one)
        for one, row in zip(clients, rows.numpy(), strict=True)
    ]
    total = np.sum(words, 0, np.uint64) % np.uint64(2**16)
    mean = encoding.decode(total, count) / count
    assert ideal.rows[0].equal(torch.from_numpy(mean).to(sent))
    assert ideal.rows.dtype == sent.dtype and not ideal.rows.equal(rows.mean(0)[None])


def test_few_neighbors_come_to_the_same_sum():
    sent, weights, clients = deal(1, 70)
    rows, encoding = protected(distributed_gaussian, sent)
    given = {"clients": clients, "key": Key(1), "encoding": encoding}
    few = secagg.masked(rows, weights, neighbors="few", corrupt=0.05, spare=0.05, **given)
    assert few.record["neighbors"] < 69
    assert few.rows.equal(secagg.ideal(rows, weights, **given).rows)


@pytest.mark.parametrize("part", [distributed_gaussian, skellam])
def test_whoever_drops_out_takes_row_and_noise_along_and_the_rest_pay(part):
    sent, weights, clients = deal(0, 12)
    rows, encoding = protected(part, sent, dropping=0.2)
    rows[5] = torch.nan
    given = {"key": Key(2), "encoding": encoding}
    found = secagg.masked(rows, weights, clients=clients, dropping=0.4, threshold=3, **given)
    (stayed,) = found.members
    assert clients[5] not in stayed and 3 <= len(stayed) < 11
    assert found.weights.tolist() == [len(stayed)]
    places = [clients.index(one) for one in stayed]
    ideal = secagg.ideal(rows[places], weights[places], clients=stayed, **given)
    assert ideal.rows.equal(found.rows)
    first = [encoding.events(count)[0].numbers[0] for count in (len(stayed), 12)]
    assert first[0] > first[1] if part is distributed_gaussian else first[0] < first[1]


def test_a_row_that_is_not_finite_is_nobodys_and_nobody_is_too_few():
    sent, weights, clients = deal(0, 3)
    rows, encoding = protected(skellam, sent)
    rows[1] = torch.inf
    for each in (secagg.ideal, partial(secagg.masked, threshold=2)):
        found = each(rows, weights, clients=clients, key=Key(0), encoding=encoding)
        assert found.members == ((clients[0], clients[2]),) and found.rows.isfinite().all()
        nothing = torch.full_like(rows, torch.nan)
        with pytest.raises(TooFew):
            each(nothing, weights, clients=clients, key=Key(0), encoding=encoding)


@pytest.mark.parametrize("of", [secagg.ideal, secagg.masked])
def test_each_group_is_a_sum_of_its_own(of):
    sent, weights, clients = deal(3, 9)
    rows, encoding = protected(distributed_gaussian, sent, clients=3)
    found = secagg.grouped(
        rows, weights, clients=clients, key=Key(3), of=of, groups=3, encoding=encoding
    )
    assert found.weights.tolist() == [3, 3, 3] and len(found.members) == 3
    for number, (row, members) in enumerate(zip(found.rows, found.members, strict=True)):
        places = [clients.index(one) for one in members]
        alone = secagg.ideal(
            rows[places], weights[places], clients=members, key=Key(3) / number, encoding=encoding
        )
        assert row.equal(alone.rows[0])


@pytest.mark.parametrize("bits", [3, 32, 40, 64])
def test_sums_are_taken_modulo_a_power_of_two_of_any_size(bits):
    sent = torch.tensor([[5.0, -3.0], [4.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    given = {"clients": (4, 6, 8), "key": Key(0), "encoding": bare(bits, 2)}
    for each in (secagg.ideal, secagg.masked):
        found = each(sent, torch.ones(3), **given)
        expected = [11 % 2**bits / 3, (-2) % 2**bits / 3]
        assert found.rows[0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("part", ["plain", "gram", "one_shot"])
def test_where_more_than_the_sum_is_seen_an_encoding_is_refused(part):
    sent, weights, clients = deal(0, 8)
    rows, encoding = protected(skellam, sent)
    given = {"clients": clients, "key": Key(0), "encoding": encoding}
    complaint = f"secagg={part} is not: choose secagg=pairwise, graph or ideal"
    with pytest.raises(ValueError, match=complaint) as error:
        getattr(secagg, part)(rows, weights, **given)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="choose secagg=pairwise"):
        secagg.grouped(rows, weights, of=getattr(secagg, part), groups=2, **given)
