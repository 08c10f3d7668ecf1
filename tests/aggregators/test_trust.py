"""FLTrust: rows count as far as they point where the server's own update points."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.aggregators import fltrust
from dai_lab.core import Context, Key, TooFew, Visible

SEEDS = st.integers(0, 999)


def rows(seed, count=7, params=5, dtype=torch.float64):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=dtype)


def see(sent, mix=None):
    count = len(sent) if mix is None else len(mix)
    return Visible(sent, tuple((i,) for i in range(count)), torch.ones(count), mix)


def trusting(own):
    return Context(root=lambda: own)


def by_hand(sent, own):
    sent, own = sent.double().numpy(), own.double().numpy()
    total, update = 0.0, np.zeros_like(own)
    for row in sent:
        cosine = row @ own / (np.linalg.norm(row) * np.linalg.norm(own))
        trust = max(cosine, 0.0)
        total += trust
        update += trust * np.linalg.norm(own) / np.linalg.norm(row) * row
    return torch.from_numpy(update / total) if total else torch.zeros(len(own)).double()


@given(seed=SEEDS, count=st.integers(1, 9), params=st.sampled_from([1, 2, 40]), shift=SEEDS)
def test_the_update_is_that_of_the_papers_formula(seed, count, params, shift):
    sent = rows(seed, count, params) + (shift % 3)
    own = rows(seed + 1, 1, params)[0]
    found = fltrust(see(sent), trusting(own))
    torch.testing.assert_close(found.update, by_hand(sent, own), rtol=1e-11, atol=1e-13)
    short = fltrust(see(sent.float()), trusting(own.float())).update
    assert short.dtype == torch.float32
    hand = by_hand(sent.float(), own.float())
    torch.testing.assert_close(short.double(), hand, rtol=1e-6, atol=1e-6 * float(hand.abs().max()))


@given(seed=SEEDS, lengths=st.lists(st.floats(1e-3, 1e3), min_size=7, max_size=7))
def test_neither_order_nor_length_sways_trust(seed, lengths):
    sent, own = rows(seed), rows(seed + 1, 1)[0]
    order = torch.randperm(7, generator=Key(seed).stream())
    longer = sent * torch.tensor(lengths, dtype=torch.float64).unsqueeze(1)
    plain, found = fltrust(see(sent), trusting(own)), fltrust(see(longer[order]), trusting(own))
    torch.testing.assert_close(found.update, plain.update)
    torch.testing.assert_close(found.shares, plain.shares[order])
    assert found.suspected.equal(plain.suspected[order])


@given(seed=SEEDS, lie=st.floats(allow_nan=True, allow_infinity=True))
def test_no_majority_of_liars_makes_the_update_longer_than_the_servers_own(seed, lie):
    own = rows(seed, 1)[0]
    sent = torch.cat([torch.full((6, 5), lie, dtype=torch.float64), own.unsqueeze(0)])
    update = fltrust(see(sent), trusting(own)).update
    assert update.norm() <= own.norm() * (1 + 1e-9)
    assert update @ own > 0


def test_one_points_along_one_across_one_against_and_one_nowhere():
    sent = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-9.0, 0.0], [0.0, 0.0], [3.0, 3.0]])
    found = fltrust(see(sent), trusting(torch.tensor([1.0, 0.0])))
    root = 0.5**0.5
    torch.testing.assert_close(
        found.update, torch.tensor([(1 + 0.5) / (1 + root), 0.5 / (1 + root)])
    )
    assert found.suspected.tolist() == [False, True, True, True, False]
    torch.testing.assert_close(
        found.suspicion, torch.tensor([0.0, 1.0, 2.0, 1.0, 1 - root]).double()
    )
    torch.testing.assert_close(found.shares.sum(), torch.ones(()).double())
    assert found.record == {"trusted": 2}


def test_where_nobody_is_trusted_nothing_moves():
    for own in (torch.tensor([1.0, 0.0]), torch.zeros(2)):
        found = fltrust(see(torch.tensor([[-1.0, 0.0], [-1.0, 2.0]])), trusting(own))
        assert found.update.tolist() == [0.0, 0.0]
        assert found.suspected.all()


def test_a_row_that_is_not_finite_counts_for_nothing():
    sent, own = rows(3), rows(4, 1)[0]
    sent[2, 1] = torch.nan
    found = fltrust(see(sent), trusting(own))
    torch.testing.assert_close(found.update, by_hand(sent[[0, 1, 3, 4, 5, 6]], own))
    assert found.suspicion[2] == torch.inf and found.suspected[2] and found.shares[2] == 0


def test_rows_that_are_mixtures_are_judged_as_if_multiplied_out():
    sent, own = rows(5), rows(6, 1)[0]
    mix = torch.rand(4, 7, generator=Key(7).stream(), dtype=torch.float64)
    lazy = fltrust(see(sent, mix), trusting(own)).update
    torch.testing.assert_close(lazy, by_hand(mix @ sent, own))


def test_what_cannot_be_trusted_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"set federation\.root") as missing:
        fltrust(see(rows(0)))
    with pytest.raises(ValueError, match=r"not finite: lower local\.rate"):
        fltrust(see(rows(0)), trusting(torch.full((5,), torch.nan)))
    with pytest.raises(TooFew, match=r"sees 7 \(0 finite\)"):
        fltrust(see(rows(0) * torch.nan), trusting(torch.ones(5)))
    assert "\n" not in str(missing.value)
