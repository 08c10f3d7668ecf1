"""CAF and DnC against covariances and singular vectors of the rows themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.aggregators import caf, dnc
from dai_lab.core import Context, Key, Visible

SEEDS = st.integers(0, 999)
RULES = [caf, dnc]
KINDS = ["gaussian", "outliers", "huge", "heavy", "split", "offset"]


def see(sent, mix=None):
    count = len(sent) if mix is None else len(mix)
    return Visible(sent, tuple((i,) for i in range(count)), torch.ones(count), mix)


def rows(kind, seed, count, params, f):
    stream = Key(seed).stream()
    sent = torch.randn(count, params, generator=stream, dtype=torch.float64)
    if kind == "outliers":
        sent[count - f :] += 8
    if kind == "huge":
        sent[:f] *= 1e6
    if kind == "heavy":
        sent /= torch.rand(count, 1, generator=stream, dtype=torch.float64)
    if kind == "split":
        sent[::2] += 2
    if kind == "offset":
        sent = 100 + 1e-3 * sent
    return sent


def filtered(sent, f):
    """CAF as its paper writes it, on coordinates."""
    count = len(sent)
    weights, best, mean = np.ones(count), np.inf, sent.mean(0)
    while weights.sum() > count - 2 * f:
        center = np.average(sent, axis=0, weights=weights)
        held = weights > 0
        covariance = np.cov(sent[held].T, aweights=weights[held], ddof=0).reshape(
            2 * sent.shape[1:]
        )
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < best:
            best, mean = values[-1], center
        along = ((sent - center) @ vectors[:, -1]) ** 2
        weights = np.where(held, weights * (1 - along / along[held].max()), 0)
    return mean


@given(
    kind=st.sampled_from(KINDS),
    seed=SEEDS,
    count=st.integers(3, 25),
    params=st.sampled_from([1, 4, 40]),
    data=st.data(),
)
def test_caf_is_that_of_the_covariance_matrix(kind, seed, count, params, data):
    f = data.draw(st.integers(0, (count - 1) // 2))
    sent = rows(kind, seed, count, params, f)
    expected = torch.from_numpy(filtered(sent.numpy(), f))
    scale = float(sent.abs().median())
    torch.testing.assert_close(caf(see(sent), f=f).update, expected, rtol=1e-9, atol=1e-9 * scale)


def test_caf_shares_are_the_weights_of_its_mean():
    sent = rows("outliers", 1, 11, 5, 3)
    seen = caf(see(sent), f=3)
    torch.testing.assert_close(seen.shares @ sent, seen.update)
    assert seen.shares.sum() == pytest.approx(1)
    assert seen.suspected.nonzero().flatten().tolist() == [8, 9, 10]
    assert ((seen.suspicion >= 0) & (seen.suspicion <= 1)).all()


def test_caf_takes_all_weight_from_the_row_that_stands_out_most():
    seen = caf(see(torch.tensor([[0.0], [0.0], [6.0], [0.0], [0.0]])), f=1)
    assert seen.update.item() == 0
    assert seen.shares[2] == 0
    assert seen.suspected.tolist() == [False, False, True, False, False]


@given(
    kind=st.sampled_from(KINDS),
    seed=SEEDS,
    count=st.integers(3, 25),
    params=st.sampled_from([1, 4, 40]),
    data=st.data(),
)
def test_dnc_on_all_coordinates_is_that_of_the_singular_vector(kind, seed, count, params, data):
    f = data.draw(st.integers(0, (count - 1) // 2))
    sent = rows(kind, seed, count, params, f)
    centered = sent.numpy() - sent.numpy().mean(0)
    first = np.linalg.svd(centered, full_matrices=False)[2][0]
    scores = (centered @ first) ** 2
    kept = np.argsort(scores)[: count - f]
    seen = dnc(see(sent), f=f)
    torch.testing.assert_close(seen.update, sent[kept].mean(0), rtol=1e-9, atol=1e-12)
    parts = torch.from_numpy(scores / scores.sum())
    torch.testing.assert_close(seen.suspicion, parts, rtol=1e-6, atol=1e-9)


@given(seed=SEEDS, share=st.sampled_from([0.5, 1.0, 1.5]), iterations=st.integers(1, 4))
def test_dnc_keeps_whom_no_draw_drops(seed, share, iterations):
    sent, key = rows("heavy", seed, 20, 50, 0), Key(seed)
    kept = set(range(20))
    for draw in range(iterations):
        columns = torch.randperm(50, generator=(key / "dnc" / draw).stream())[:7]
        part = sent[:, columns].numpy()
        part = part - part.mean(0)
        scores = (part @ np.linalg.svd(part)[2][0]) ** 2
        kept &= set(np.argsort(scores)[: 20 - int(share * 4)].tolist())
    seen = dnc(see(sent), Context(key), f=4, share=share, sample=7, iterations=iterations)
    assert seen.shares.nonzero().flatten().tolist() == sorted(kept)
    assert seen.suspected.tolist() == [i not in kept for i in range(20)]
    torch.testing.assert_close(seen.update, sent[sorted(kept)].mean(0))


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_client_order_origin_and_unit_do_not_matter(rule, seed, shift, scale):
    sent = rows("gaussian", seed, 11, 4, 3)
    order = torch.randperm(11, generator=Key(seed).stream())
    seen = rule(see(sent), f=3)
    again = rule(see(sent[order]), f=3)
    torch.testing.assert_close(again.update, seen.update)
    torch.testing.assert_close(again.suspicion, seen.suspicion[order])
    torch.testing.assert_close(rule(see(sent + shift), f=3).update, seen.update + shift)
    torch.testing.assert_close(rule(see(scale * sent), f=3).update, scale * seen.update)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS, lie=st.floats(1e3, 1e150), liars=st.integers(1, 4))
def test_liars_in_one_far_place_pull_the_mean_less_than_the_honest_spread(rule, seed, lie, liars):
    honest = rows("gaussian", seed, 17 - liars, 3, 0)
    sent = torch.cat([torch.full((liars, 3), lie, dtype=torch.float64), honest])
    seen = rule(see(sent), f=4)
    assert seen.suspected[:liars].all()
    assert (seen.update - honest.mean(0)).norm() < 2


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS, lost=st.integers(0, 3), lie=st.sampled_from([torch.nan, torch.inf, 1e200]))
def test_rows_that_are_not_finite_are_liars_found(rule, seed, lost, lie):
    sent = rows("heavy", seed, 9, 3, 0)
    sent[:lost, 1] = lie
    seen, alone = rule(see(sent), f=3), rule(see(sent[lost:]), f=3 - lost)
    torch.testing.assert_close(seen.update, alone.update)
    assert seen.suspicion[:lost].isinf().all()
    assert seen.suspected[lost:].equal(alone.suspected)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
def test_nobody_to_drop_is_the_plain_mean(rule, seed):
    sent = rows("heavy", seed, 9, 3, 0)
    torch.testing.assert_close(rule(see(sent), f=0).update, sent.mean(0))
    same = sent[:1].expand(9, -1)
    torch.testing.assert_close(rule(see(same), f=4).update, sent[0])


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
def test_mixed_rows_need_not_be_multiplied_out(rule, seed):
    sent = rows("outliers", seed, 9, 5, 2)
    mix = torch.rand(9, 9, generator=Key(seed).stream(), dtype=torch.float64)
    mix[:, 2] = 0
    plain = rule(see(mix @ sent), f=2)
    sent[2] = torch.nan  # nobody holds any of it
    lazy = rule(see(sent, mix), f=2)
    torch.testing.assert_close(lazy.update, plain.update)
    torch.testing.assert_close(lazy.shares, plain.shares)


@pytest.mark.parametrize("rule", RULES)
def test_rows_may_be_short_strided_and_are_never_changed(rule):
    wide = rows("outliers", 0, 9, 12, 2).float()
    before = wide.clone()
    seen = rule(see(wide[:, ::3]), f=2)
    assert seen.update.dtype == torch.float32
    exact = rule(see(wide[:, ::3].double().contiguous()), f=2).update
    torch.testing.assert_close(seen.update.double(), exact, rtol=1e-6, atol=1e-7)
    assert wide.equal(before)


@pytest.mark.parametrize(
    ("rule", "knobs", "complaint"),
    [
        (caf, {"f": -1}, "aggregator.f must be"),
        (caf, {"f": 5}, "f=5 needs at least 11 visible rows and sees 9"),
        (dnc, {"f": 5}, "f=5 needs at least 11 visible rows and sees 9"),
        (dnc, {"share": 0.0}, "aggregator.share must be above 0"),
        (dnc, {"sample": 0}, "aggregator.sample and"),
        (dnc, {"iterations": 0}, "aggregator.iterations must be"),
        (dnc, {"share": 9.0}, "dropped all of 9 .* lower aggregator.f"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(rule, knobs, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        rule(see(rows("gaussian", 0, 9, 2, 0)), **knobs)
    assert "\n" not in str(caught.value)
