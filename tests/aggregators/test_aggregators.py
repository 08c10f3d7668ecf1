"""What every aggregator must satisfy, then what the robust ones must."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dai_lab.aggregators
from dai_lab.core import Key, Visible


class aggregators:  # noqa: N801 (the room, of which only the updates are looked at here)
    """Every rule, reduced to its update."""


for name in dai_lab.aggregators.__all__:
    rule = getattr(dai_lab.aggregators, name)

    def update(visible, rule=rule, **knobs):
        return rule(visible, **knobs).update

    setattr(aggregators, name, update)

ROBUST = [aggregators.median, partial(aggregators.trimmed_mean, f=4)]
RULES = [aggregators.mean, partial(aggregators.mean, weighted=False), *ROBUST]
SEEDS = st.integers(0, 999)


def rows(seed, count=11, params=3):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


def see(sent, weights=None):
    weights = torch.ones(len(sent), dtype=sent.dtype) if weights is None else weights
    return Visible(sent, tuple((i,) for i in range(len(sent))), weights)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_client_order_origin_and_unit_do_not_matter(rule, seed, shift, scale):
    sent, weights = rows(seed), rows(seed, params=1).flatten().abs()
    order = torch.randperm(11, generator=Key(seed).stream())
    update = rule(see(sent, weights))
    torch.testing.assert_close(rule(see(sent[order], weights[order])), update)
    torch.testing.assert_close(rule(see(sent + shift, weights)), update + shift)
    torch.testing.assert_close(rule(see(scale * sent, weights)), scale * update)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
def test_clients_who_agree_get_what_they_agree_on(rule, seed):
    row = rows(seed, count=1)
    torch.testing.assert_close(rule(see(row.expand(11, -1))), row[0])


@pytest.mark.parametrize("rule", ROBUST)
@given(seed=SEEDS, lie=st.floats(allow_nan=True, allow_infinity=True))
def test_four_liars_in_eleven_stay_inside_the_honest_range(rule, seed, lie):
    honest = rows(seed, count=7)
    lies = torch.full((4, 3), lie, dtype=torch.float64)
    update = rule(see(torch.cat([lies, honest])))
    assert (update >= honest.amin(0)).all()
    assert (update <= honest.amax(0)).all()


@pytest.mark.parametrize("lie", [torch.nan, torch.inf, -torch.inf])
@given(seed=SEEDS, liars=st.integers(0, 4))
def test_a_row_that_is_not_finite_is_one_of_the_liars_expected(lie, seed, liars):
    sent = rows(seed, count=11)
    sent[:liars, 1] = lie
    honest = sent[liars:]
    torch.testing.assert_close(
        aggregators.trimmed_mean(see(sent), f=4),
        aggregators.trimmed_mean(see(honest), f=4 - liars),
    )
    torch.testing.assert_close(aggregators.median(see(sent)), aggregators.median(see(honest)))


@given(seed=SEEDS, count=st.integers(3, 30), params=st.sampled_from([1, 5, 20_000]))
def test_the_median_is_that_of_numpy(seed, count, params):
    sent = rows(seed, count, params)
    expected = torch.from_numpy(np.median(sent.numpy(), axis=0))
    torch.testing.assert_close(aggregators.median(see(sent)), expected)


@given(seed=SEEDS, count=st.integers(3, 30), data=st.data())
def test_the_trimmed_mean_is_that_of_scipy(seed, count, data):
    from scipy.stats import trim_mean

    f = data.draw(st.integers(0, (count - 1) // 2))
    sent = rows(seed, count)
    # A proportion between f / count and (f + 1) / count, away from either's rounding.
    expected = torch.from_numpy(trim_mean(sent.numpy(), (f + 0.5) / count, axis=0))
    torch.testing.assert_close(aggregators.trimmed_mean(see(sent), f=f), expected)


@given(seed=SEEDS)
def test_trimming_nothing_is_the_plain_mean(seed):
    sent = rows(seed)
    torch.testing.assert_close(aggregators.trimmed_mean(see(sent), f=0), sent.mean(0))


@given(seed=SEEDS, counts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_weighted_mean_counts_every_example_once(seed, counts):
    sent = rows(seed, len(counts))
    weights = torch.tensor(counts, dtype=torch.float64)
    every = torch.repeat_interleave(sent, torch.tensor(counts), dim=0)
    torch.testing.assert_close(aggregators.mean(see(sent, weights)), every.mean(0))
    equal = aggregators.mean(see(sent, weights), weighted=False)
    torch.testing.assert_close(equal, sent.mean(0))


def test_one_huge_lie_does_not_cancel_the_small_values():
    sent = torch.tensor([[1e9], [1.0], [1.0], [1.0], [-1e9]])
    assert aggregators.trimmed_mean(see(sent), f=1).item() == 1.0


def test_one_liar_breaks_the_mean():
    sent = torch.cat([torch.full((1, 3), 1e6), torch.zeros(9, 3)])
    assert (aggregators.mean(see(sent)) == 1e5).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_mean_leaves_a_row_out_that_is_not_finite_unless_all_are(value):
    sent = rows(0)
    sent[3, 1] = value
    kept = sent[[0, 1, 2, *range(4, 11)]]
    torch.testing.assert_close(aggregators.mean(see(sent)), kept.mean(0))
    assert not aggregators.mean(see(sent * value)).isfinite().any()


@given(seed=SEEDS, count=st.integers(1, 30), gaps=st.booleans())
def test_the_vote_is_that_of_numpy(seed, count, gaps):
    sent = rows(seed, count).round() if gaps else rows(seed, count)
    expected = np.sign(np.sign(sent.numpy()).sum(0))
    assert aggregators.majority_vote(see(sent)).numpy().tolist() == expected.tolist()


@given(seed=SEEDS, lengths=st.lists(st.floats(1e-6, 1e6), min_size=11, max_size=11))
def test_neither_order_nor_length_nor_examples_sway_a_vote(seed, lengths):
    sent, order = rows(seed), torch.randperm(11, generator=Key(seed).stream())
    longer = torch.tensor(lengths, dtype=torch.float64)
    vote = aggregators.majority_vote(see((longer.unsqueeze(1) * sent)[order], longer))
    assert vote.equal(aggregators.majority_vote(see(sent)))
    assert aggregators.majority_vote(see(-sent)).equal(-vote)


@given(seed=SEEDS, lie=st.floats(allow_nan=True, allow_infinity=True), liars=st.integers(0, 5))
def test_five_who_collude_cannot_turn_six_who_agree(seed, lie, liars):
    honest = rows(seed, 1).expand(6, -1)
    sent = torch.cat([torch.full((liars, 3), lie, dtype=torch.float64), honest])
    assert aggregators.majority_vote(see(sent)).equal(honest[0].sign())


def test_a_minority_that_shouts_wins_only_where_the_honest_are_divided():
    honest = [[0.1, 1.0, -3.0, 2.0], [0.2, 2.0, -1.0, -1.0], [0.1, 5.0, -2.0, 0.0]]
    liars = [[-1e6, -1e6, 1e6, 1e6], [-1e6, -1e6, 1e6, 1e6]]
    vote = aggregators.majority_vote(see(torch.tensor(honest + liars)))
    assert vote.tolist() == [1.0, 1.0, -1.0, 1.0]
    assert vote.dtype == torch.float32


def test_votes_that_balance_and_rows_of_zeros_move_nothing():
    sent = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert aggregators.majority_vote(see(sent)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("lie", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_vote(lie):
    sent = torch.tensor([[lie, -1.0], [1.0, 1.0]])
    assert aggregators.majority_vote(see(sent)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("rule", "sent", "complaint"),
    [
        (aggregators.median, rows(0, 5) * torch.nan, r"sees 5 \(0 finite\): raise secagg.groups"),
        (ROBUST[1], rows(0, 8), "f=4 needs at least 9 .* sees 8 .*: lower aggregator.f or raise"),
        (ROBUST[1], rows(0, 11) * torch.nan, r"sees 11 \(0 finite\)"),
        (partial(aggregators.trimmed_mean, f=-1), rows(0), "aggregator.f must be at least 0"),
        (aggregators.mean, rows(0, 0), "sees no row"),
        (aggregators.majority_vote, rows(0, 5) * torch.nan, "sees 5 .0 finite"),
    ],
)
def test_what_cannot_be_aggregated_is_refused_in_one_line(rule, sent, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        rule(see(sent))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, torch.nan, torch.inf])
def test_counts_of_examples_that_no_client_can_have_are_refused(weight):
    others = 0.0 if weight == 0 else 1.0
    weights = torch.tensor([weight] + [others] * 10, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"aggregator.weighted=false"):
        aggregators.mean(see(rows(0), weights))
