"""Minimum diameter, minimum spread and minimum variance against all subsets, one by one."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.aggregators import mda, mva, smea
from dai_lab.aggregators.cliques import clique
from dai_lab.aggregators.searches import scattered, spread
from dai_lab.core import Key, Visible

SEEDS = st.integers(0, 999)
KINDS = ["gaussian", "outliers", "huge", "heavy", "split", "tied", "offset", "clones"]


def see(sent, mix=None):
    count = len(sent) if mix is None else len(mix)
    return Visible(sent, tuple((i,) for i in range(count)), torch.ones(count), mix)


def rows(kind, seed, count, params, f):
    stream = Key(seed).stream()
    sent = torch.randn(count, params, generator=stream, dtype=torch.float64)
    if kind == "outliers":
        sent[count - f :] += 8
    if kind == "huge":
        sent[:f] *= 1e9
    if kind == "heavy":
        sent /= torch.rand(count, 1, generator=stream, dtype=torch.float64)
    if kind == "split":
        sent[::2] += 2
    if kind == "tied":
        sent = sent.round()
    if kind == "offset":
        sent = 100 + 1e-3 * sent
    if kind == "clones":
        sent[: f + 1] = sent[0].clone()
    return sent


def diameter(kept):
    return max((np.linalg.norm(a - b) for a, b in combinations(kept, 2)), default=0.0)


def widest(kept):
    return np.linalg.norm(kept - kept.mean(0), ord=2) ** 2 / len(kept)


def variance(kept):
    return kept.var(0).sum()


def first_of_the_best(sent, f, measure):
    """Look at every subset, in lexicographic order; ties are those up to rounding."""
    subsets = list(combinations(range(len(sent)), len(sent) - f))
    values = np.array([measure(sent[list(subset)]) for subset in subsets])
    floor = 1e-13 * measure(sent)
    return list(subsets[int(np.argmax(values <= values.min() * (1 + 1e-9) + floor * 1e-9))])


RULES = [(mda, diameter), (smea, widest), (mva, variance)]


@pytest.mark.parametrize(("rule", "measure"), RULES)
@given(
    kind=st.sampled_from(KINDS),
    seed=SEEDS,
    count=st.integers(1, 9),
    params=st.sampled_from([1, 2, 30]),
    data=st.data(),
)
def test_the_subset_is_the_first_of_the_best_of_all(rule, measure, kind, seed, count, params, data):
    f = data.draw(st.integers(0, (count - 1) // 2))
    sent = rows(kind, seed, count, params, f)
    seen = rule(see(sent), f=f)
    best = first_of_the_best(sent.numpy(), f, measure)
    assert seen.shares.nonzero().flatten().tolist() == best
    torch.testing.assert_close(seen.update, sent[best].mean(0), rtol=1e-12, atol=1e-12)
    assert seen.suspected.tolist() == [i not in best for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_minimum_diameter_is_that_of_byzfl(kind):
    byzfl = pytest.importorskip("byzfl")
    for seed in range(3):
        sent = rows(kind, seed, 9, 5, 3)
        if kind == "huge":  # byzfl takes distances from sums of squares, which cancel here
            sent[:3] /= 1e6
        expected = byzfl.MDA(3)(sent.numpy())
        np.testing.assert_allclose(mda(see(sent), f=3).update, expected, rtol=1e-12)


@pytest.mark.parametrize(("rule", "measure"), RULES)
@given(seed=SEEDS, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_client_order_origin_and_unit_do_not_matter(rule, measure, seed, shift, scale):
    sent = rows("gaussian", seed, 11, 4, 3)
    order = torch.randperm(11, generator=Key(seed).stream())
    seen = rule(see(sent), f=3)
    again = rule(see(sent[order]), f=3)
    values = [
        measure(sent[each > 0].numpy()) for each in (seen.shares, again.shares[order.argsort()])
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    if rule is not mda:  # many subsets may have the smallest diameter: the first one wins
        torch.testing.assert_close(again.update, seen.update)
        torch.testing.assert_close(again.suspicion, seen.suspicion[order])
    torch.testing.assert_close(rule(see(sent + shift), f=3).update, seen.update + shift)
    torch.testing.assert_close(rule(see(scale * sent), f=3).update, scale * seen.update)


@pytest.mark.parametrize(("rule", "_"), RULES)
@given(seed=SEEDS, lie=st.floats(allow_nan=True, allow_infinity=True), liars=st.integers(0, 4))
def test_four_who_lie_far_away_are_dropped_and_accused(rule, _, seed, lie, liars):
    honest = rows("gaussian", seed, 11 - liars, 3, 0)
    lie = lie if abs(lie) > 1e3 or lie != lie else 1e3
    sent = torch.cat([torch.full((liars, 3), lie, dtype=torch.float64), honest])
    seen = rule(see(sent), f=4)
    assert seen.suspected[:liars].all()
    # With fewer liars than expected, and all of them finite, some of the honest go as well.
    assert seen.update.allclose(seen.shares[liars:] @ honest)
    if liars == 4:
        torch.testing.assert_close(seen.update, honest.mean(0))


@pytest.mark.parametrize(("rule", "_"), RULES)
@given(seed=SEEDS, lost=st.integers(0, 3))
def test_rows_that_are_not_finite_are_liars_found(rule, _, seed, lost):
    sent = rows("gaussian", seed, 9, 3, 0)
    sent[:lost, 1] = torch.nan
    seen, alone = rule(see(sent), f=3), rule(see(sent[lost:]), f=3 - lost)
    torch.testing.assert_close(seen.update, alone.update)
    assert seen.suspicion[:lost].isinf().all()
    assert seen.suspected[lost:].equal(alone.suspected)


@pytest.mark.parametrize(("rule", "_"), RULES)
@given(seed=SEEDS)
def test_mixed_rows_need_not_be_multiplied_out(rule, _, seed):
    sent = rows("outliers", seed, 9, 5, 2)
    mix = torch.rand(9, 9, generator=Key(seed).stream(), dtype=torch.float64)
    mix[4] = mix[7]
    lazy, plain = rule(see(sent, mix), f=2), rule(see(mix @ sent), f=2)
    torch.testing.assert_close(lazy.update, plain.update)
    assert lazy.shares.equal(plain.shares)


@pytest.mark.parametrize(("rule", "_"), RULES)
def test_rows_may_be_short_strided_and_are_never_changed(rule, _):
    wide = rows("outliers", 0, 9, 12, 2).float()
    before = wide.clone()
    seen = rule(see(wide[:, ::3]), f=2)
    assert seen.update.dtype == torch.float32
    exact = rule(see(wide[:, ::3].double().contiguous()), f=2).update
    torch.testing.assert_close(seen.update.double(), exact, rtol=1e-6, atol=1e-7)
    assert wide.equal(before)


def test_three_rows_of_which_one_is_apart():
    sent = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.0, 2.0]])
    for rule, _ in RULES:
        seen = rule(see(sent), f=1)
        assert seen.update.tolist() == [0.0, 1.0]
        assert seen.shares.tolist() == [0.5, 0.0, 0.5]
        assert seen.suspected.tolist() == [False, True, False]
        assert seen.suspicion[0] == seen.suspicion[2] == 1


def test_rows_in_a_ring_tie_and_the_first_are_taken():
    # Eight points of a circle: any six neighbors have the same variance.
    angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    sent = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert mva(see(sent), f=2).shares.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [25, 100])
def test_clients_who_all_agree_take_no_search(count):
    sent = torch.full((count, 3), 0.1)
    for rule, _ in RULES:
        seen = rule(see(sent), f=count // 5)
        torch.testing.assert_close(seen.update, sent[0])
        assert seen.shares.nonzero().flatten().tolist() == list(range(count - count // 5))


@given(seed=SEEDS, count=st.integers(20, 60))
def test_many_rows_are_grouped_as_a_slower_search_does(seed, count):
    """Cliques from networkx, where all subsets would be too many."""
    networkx = pytest.importorskip("networkx")
    sent = rows("gaussian", seed, count, 3, 0).numpy()
    gaps = np.square(sent[:, None] - sent[None]).sum(2)
    f = count // 6
    kept = clique(gaps, f)
    radius = gaps[np.ix_(kept, kept)].max()
    assert len(kept) == len(set(kept)) == count - f
    closer = networkx.from_numpy_array((gaps < radius) & ~np.eye(count, dtype=bool))
    assert networkx.max_weight_clique(closer, weight=None)[1] < count - f


@pytest.mark.parametrize("measure", ["variance", "widest"])
@given(seed=SEEDS)
def test_fifteen_rows_on_a_line_keep_neighbors(measure, seed):
    """On a line the best rows are a window of the sorted ones, which is easy to find."""
    line = rows("heavy", seed, 15, 1, 0).numpy()
    gaps = np.square(line - line.T)
    kept = scattered(gaps, 6) if measure == "variance" else spread(line @ line.T, gaps, 6)
    ranked = np.sort(line[:, 0])
    windows = np.lib.stride_tricks.sliding_window_view(ranked, 9)
    expected = windows[windows.var(1).argmin()]
    np.testing.assert_allclose(np.sort(line[kept, 0]), expected)


@pytest.mark.parametrize(("rule", "_"), RULES)
@pytest.mark.parametrize(
    ("f", "count", "complaint"),
    [(-1, 9, "aggregator.f must be"), (2, 4, "f=2 needs at least 5 visible rows and sees 4")],
)
def test_too_many_liars_are_refused(rule, _, f, count, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        rule(see(rows("gaussian", 0, count, 2, 0)), f=f)
    assert "\n" not in str(caught.value)


def test_a_search_without_end_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("dai_lab.aggregators.cliques.STEPS", 10)
    monkeypatch.setattr("dai_lab.aggregators.searches.NODES", {"smea": 1e4, "mva": 1e4})
    for rule, _ in RULES:
        with pytest.raises(ValueError, match=rf"aggregator={rule.__name__} .*: lower aggregator.f"):
            rule(see(rows("gaussian", 0, 40, 100, 0)), f=15)
