"""A secure sum as a part: the quantized mean, with what was agreed on and nothing else seen."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import secagg
from dai_lab.core import Key, TooFew

SEEDS = st.integers(0, 999)


def deal(seed, count, params=4):
    stream = Key(seed).stream()
    sent = torch.randn(count, params, generator=stream).clamp(-1, 1)
    weights = torch.randint(1, 50, (count,), generator=stream).float()
    return sent, weights, tuple(range(10, 10 + 3 * count, 3))


def masked(seed, count, **knobs):
    sent, weights, clients = deal(seed, count)
    return secagg.masked(sent, weights, clients=clients, key=Key(seed), **knobs)


@settings(max_examples=25)
@given(seed=SEEDS, count=st.integers(1, 9), active=st.booleans(), weighted=st.booleans())
def test_one_row_is_seen_within_a_level_of_the_mean_of_those_who_stayed(
    seed, count, active, weighted
):
    sent, weights, clients = deal(seed, count)
    found = masked(seed, count, active=active, weighted=weighted, bits=20)
    shares = weights if weighted else torch.ones(count)
    torch.testing.assert_close(found.rows[0], shares @ sent / shares.sum(), rtol=0, atol=2 / 2**20)
    assert found.members == (clients,) and found.weights.tolist() == [float(shares.sum())]
    assert found.record["survivors"] == count and found.record["bytes_up"] > 0
    rehearsed = masked(seed, count, active=active, weighted=weighted, bits=20, rehearsal=True)
    assert rehearsed.rows.equal(found.rows) and rehearsed.members == found.members


@settings(max_examples=15)
@given(seed=SEEDS, weighted=st.booleans(), bits=st.sampled_from([4, 16, 32]))
def test_with_a_group_a_client_the_rows_are_those_of_plain_to_the_bit_after_rounding(
    seed, weighted, bits
):
    sent, weights, clients = deal(seed, 6)
    each = partial(secagg.masked, weighted=weighted, bits=bits)
    found = secagg.grouped(sent, weights, clients=clients, key=Key(seed), of=each, groups=6)
    plain = secagg.plain(sent, weights, clients=clients, key=Key(seed))
    order = [found.members.index(member) for member in plain.members]
    step = 2 / (2**bits - 1)
    on_levels = (found.rows[order].double() + 1) / step
    if bits <= 16:
        torch.testing.assert_close(on_levels, on_levels.round(), rtol=0, atol=1e-2)
    torch.testing.assert_close(found.rows[order], plain.rows, rtol=0, atol=step + 1e-6)
    alone = [
        each(sent[[at]], weights[[at]], clients=(clients[at],), key=Key(seed) / number)
        for number, at in enumerate(plain.members.index(one) for one in found.members)
    ]
    assert torch.cat([one.rows for one in alone]).equal(found.rows)


def test_drop_outs_and_rows_that_are_not_finite_are_left_out_of_the_sum():
    sent, weights, clients = deal(0, 12)
    sent[5] = torch.nan
    found = secagg.masked(sent, weights, clients=clients, key=Key(2), dropping=0.4, threshold=3)
    (stayed,) = found.members
    assert clients[5] not in stayed and 3 <= len(stayed) < 11
    places = [clients.index(one) for one in stayed]
    mean = weights[places] @ sent[places] / weights[places].sum()
    torch.testing.assert_close(found.rows[0], mean, rtol=0, atol=1e-4)
    assert found.rows.equal(
        secagg.masked(
            sent, weights, clients=clients, key=Key(2), dropping=0.4, threshold=3, rehearsal=True
        ).rows
    )


@pytest.mark.parametrize("active", [False, True])
def test_a_large_cohort_shares_masks_with_few_and_sends_far_less(active):
    few = masked(0, 80, neighbors="few", corrupt=0.05, spare=0.05, active=active)
    everybody = masked(0, 80, active=active)
    assert few.rows.equal(everybody.rows)
    assert few.record["neighbors"] < 40 and everybody.record["neighbors"] == 79
    assert few.record["bytes_up"] < everybody.record["bytes_up"] / 2
    assert few.record["transcript"] != everybody.record["transcript"]


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"corrupt": 1.0}, r"secagg\.corrupt must be a share in \[0, 1\), got 1"),
        ({"dropping": -0.1}, r"secagg\.dropping must be a share in \[0, 1\), got -0.1"),
        ({"neighbors": 3}, r"secagg\.neighbors must be an even number from 2, got 3"),
        ({"neighbors": "some"}, r"secagg\.neighbors must be all, few or a number, got some"),
        ({"threshold": 9}, r"secagg\.threshold must be in 1\.\.8 \(a neighborhood\), got 9"),
        ({"threshold": 4, "active": True}, r"secagg\.threshold must be 5 or more of 8"),
        ({"threshold": 2, "corrupt": 0.5}, r"secagg\.threshold must be 5 or more of 8"),
        ({"clip": 0.0}, r"secagg\.clip must be above 0, got 0"),
        ({"bits": 40}, r"secagg\.bits must be 1 to 32, got 40"),
        ({"heaviest": 3}, r"secagg\.heaviest must be \d+ or more, got 3"),
        ({"bits": 32, "heaviest": 2**40}, r"there are 64: lower secagg\.bits"),
        ({"dropping": 0.9}, r"clients are left, and the threshold is 6: lower secagg\.threshold"),
    ],
)
def test_what_cannot_be_agreed_on_names_the_knob(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        masked(0, 8, **knobs)


def test_examples_that_are_no_whole_numbers_are_refused():
    sent, weights, clients = deal(0, 3)
    with pytest.raises(ValueError, match=r"whole numbers from 0 .* secagg\.weighted=false"):
        secagg.masked(sent, weights + 0.5, clients=clients, key=Key(0))
    with pytest.raises(TooFew, match=r"nobody who stayed has examples"):
        secagg.masked(sent, weights * 0, clients=clients, key=Key(0))


@pytest.mark.parametrize("sign", [-1, 1])
def test_numbers_that_a_sum_cuts_off_are_told_of(sign):
    sent, weights, clients = deal(3, 4)
    sent[2, 1] = sign * 7
    with pytest.warns(UserWarning, match=r"secagg\.clip=2 cuts off larger numbers"):
        found = secagg.masked(sent, weights, clients=clients, key=Key(3), clip=2.0, bits=20)
    shares = weights / weights.sum()
    torch.testing.assert_close(found.rows[0], shares @ sent.clamp(-2, 2), rtol=0, atol=1e-4)
    lost = sent.clone()
    lost[0] = torch.nan
    with pytest.warns(UserWarning, match=r"secagg\.clip=2 cuts off larger numbers"):
        secagg.masked(lost, weights, clients=clients, key=Key(3), clip=2.0)
    lost = sent.clone()
    lost[2] = sign * torch.inf  # nothing of it is summed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        secagg.masked(sent, weights, clients=clients, key=Key(3), clip=7.0)
        secagg.masked(lost, weights, clients=clients, key=Key(3), clip=2.0)
