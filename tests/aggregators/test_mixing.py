"""Combinators against ByzFL and numpy, against multiplying out, and with what follows them."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import ceil, floor

import byzfl
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dai_lab.aggregators import (
    arc,
    bucketing,
    bulyan,
    cge,
    clipping,
    kernels,
    krum,
    majority_vote,
    mean,
    median,
    multi_krum,
    nnm,
    noisy,
    phocas,
    trimmed_mean,
)
from dai_lab.core import ALONE, Context, Key, Visible

COUNT = 31
SEEDS = st.integers(0, 999)
KINDS = st.sampled_from(["gaussian", "outlier", "heavy", "clusters", "tied", "offset"])
SIZES = st.integers(0, 4).flatmap(
    lambda f: st.tuples(st.just(f), st.integers(2 * f + 1, 2 * f + 9))
)
plain = partial(mean, weighted=False)
INNER = {
    "mean": plain,
    "median": median,
    "majority_vote": majority_vote,
    "trimmed_mean": partial(trimmed_mean, f=3),
    "phocas": partial(phocas, f=3),
    "krum": partial(krum, f=3),
    "multi_krum": partial(multi_krum, f=3),
    "bulyan": partial(bulyan, f=3),
    "cge": partial(cge, f=3),
}
OUTER = {
    "nnm": partial(nnm, f=3),
    "arc": partial(arc, f=3),
    "clipping": partial(clipping, norm=1.5),
    "bucketing": partial(bucketing, size=2),
}
THENS = st.sampled_from(list(INNER.values()))
OUTERS = st.sampled_from(list(OUTER.values()))
EVERY_OUTER = pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER.keys())


def cloud(kind, seed, count=COUNT, params=4, f=3):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, params))
    if kind == "outlier":
        rows[count - f :] *= 1e6
    elif kind == "heavy":
        rows = draw.standard_cauchy(size=(count, params))
    elif kind == "clusters":
        rows += 7 * draw.integers(0, 2, size=(count, 1))
    elif kind == "tied":
        rows = np.round(rows)
    elif kind == "offset":
        rows = 100 + 1e-3 * rows
    return torch.from_numpy(rows)


def see(rows, weights=None):
    weights = torch.ones(len(rows)) if weights is None else weights
    return Visible(rows, tuple((10 + i,) for i in range(len(rows))), weights)


def made(outer, visible, context=ALONE):
    """Return what the rule that follows gets to see."""
    caught = []

    def look_on(visible, context):
        caught.append((visible, context))
        return plain(visible, context)

    outer(visible, context, then=look_on)
    return caught[0][0]


def same(found, expected, rtol=1e-12, scale=None):
    expected = torch.as_tensor(np.asarray(expected)).double()
    scale = float(expected.abs().max()) if scale is None else scale
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=rtol * scale)


@given(SEEDS, st.sampled_from(["gaussian", "outlier", "heavy", "clusters", "offset"]), SIZES)
def test_nnm_mixes_as_byzfl_and_as_numpy_by_brute_force(seed, kind, size):
    f, count = size
    rows = cloud(kind, seed, count, f=f)
    found = made(partial(nnm, f=f), see(rows)).rows
    same(found, byzfl.NNM(f)(rows.numpy()))
    for mine, row in zip(found, rows.numpy(), strict=True):
        order = np.argsort(np.linalg.norm(rows.numpy() - row, axis=1), kind="stable")
        same(mine, rows.numpy()[order[: count - f]].mean(0), scale=float(rows.abs().max()))


def test_nnm_counts_a_row_itself_even_if_others_equal_it():
    rows = torch.zeros(9, 1, dtype=torch.float64)
    holds = made(partial(nnm, f=4), see(rows)).mix
    assert (holds.diagonal() == 1 / 5).all()
    assert holds[8].nonzero().flatten().tolist() == [0, 1, 2, 3, 8]


@given(SEEDS, KINDS, SIZES, st.floats(0.01, 300))
def test_clipping_and_arc_are_those_of_byzfl_and_numpy(seed, kind, size, norm):
    f, count = size
    rows = cloud(kind, seed, count, f=f)
    norms = np.linalg.norm(rows.numpy(), axis=1)
    found = made(partial(clipping, norm=norm), see(rows)).rows
    same(found, byzfl.Clipping(norm)(rows.numpy().copy()))
    clipped = floor(2 * Fraction(f, count) * (count - f))
    limit = sorted(norms)[count - clipped - 1]
    found = made(partial(arc, f=f), see(rows)).rows
    factors = np.minimum(1, limit / np.maximum(norms, 1e-300))
    same(found, rows.numpy() * factors[:, None])
    if int(2 * f / count * (count - f)) == clipped:  # theirs rounds before it takes the floor
        same(found, byzfl.ARC(f)(rows.numpy().copy()))


def test_arc_of_five_numbers_is_as_worked_out_by_hand():
    # k = floor(2 * 2 / 5 * 3) = 2: the two longest become as long as the third.
    rows = torch.tensor([[1.0], [-8.0], [2.0], [4.0], [0.0]])
    assert made(partial(arc, f=2), see(rows)).rows.tolist() == [[1], [-2], [2], [2], [0]]
    found = arc(see(rows), f=2, then=partial(trimmed_mean, f=2))
    assert found.update.tolist() == [1.0]
    assert found.record == {"clipped": 2}


def test_rows_of_zeros_are_clipped_to_zeros_by_rows_of_zeros():
    rows = torch.zeros(5, 3)
    rows[0] = 1.0
    assert (made(partial(arc, f=1), see(rows)).rows == 0).all()
    assert made(partial(clipping, norm=1e-3), see(rows[1:])).rows.equal(rows[1:])


@given(SEEDS, st.integers(1, 30), st.integers(1, 9))
def test_buckets_lose_no_row_and_sum_members_and_weights(seed, count, size):
    rows = cloud("gaussian", seed, count)
    weights = torch.rand(count, generator=Key(seed).stream(), dtype=torch.float64)
    context = Context(Key(seed))
    found = made(partial(bucketing, size=size), see(rows, weights), context)
    assert found.count == ceil(count / size)
    assert sorted(sum(found.members, ())) == list(range(10, 10 + count))
    sizes = [len(one) for one in found.members]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    for row, members, weight in zip(found.rows, found.members, found.weights, strict=True):
        inside = [one - 10 for one in members]
        same(row, rows[inside].mean(0))
        same(weight, weights[inside].sum())
    again = made(partial(bucketing, size=size), see(rows, weights), context)
    assert again.members == found.members
    if count > 9 and size < count:
        other = made(partial(bucketing, size=size), see(rows), Context(Key(seed + 1)))
        assert other.members != found.members


def test_buckets_of_buckets_are_dealt_anew():
    rows = cloud("gaussian", 0, 32)
    inner = partial(bucketing, size=1)
    once = made(inner, see(rows))
    caught = []

    def look_on(visible, context):
        caught.append(visible)
        return plain(visible, context)

    bucketing(see(rows), size=1, then=partial(bucketing, size=1, then=look_on))
    order = [one[0] - 10 for one in once.members]
    twice = [order[order[place]] for place in range(32)]
    assert [one[0] - 10 for one in caught[0].members] != twice


@given(then=THENS, seed=SEEDS)
def test_what_does_nothing_changes_nothing(then, seed):
    visible = see(cloud("gaussian", seed))
    expected = then(visible)
    for off in (
        partial(clipping, norm=torch.inf),
        partial(clipping, norm=1e9),
        partial(bucketing, size=1),
    ):
        found = off(visible, then=then)
        same(found.update, expected.update)
        same(found.shares, expected.shares)
        same(found.suspicion, expected.suspicion)
    calm = arc(visible, f=0, then=plain)
    assert calm.update.equal(plain(visible).update)
    assert calm.record == {"clipped": 0}


@EVERY_OUTER
@given(then=THENS, seed=SEEDS, kind=st.sampled_from(["gaussian", "clusters", "heavy"]))
def test_rows_never_multiplied_out_give_what_multiplying_out_gives(outer, then, seed, kind):
    rows = cloud(kind, seed)
    if then is INNER["cge"]:  # rows clipped to one length tie but for rounding
        assume(outer not in (OUTER["clipping"], OUTER["arc"]))
    found = outer(see(rows), then=then)
    whole = made(outer, see(rows))
    expected = then(see(whole.rows, whole.weights))
    torch.testing.assert_close(found.update, expected.update, rtol=1e-9, atol=1e-9)
    assert found.shares.shape == found.suspicion.shape == found.suspected.shape == (COUNT,)


@EVERY_OUTER
@given(
    name=st.sampled_from(["mean", "krum", "multi_krum", "cge"]),
    seed=SEEDS,
    bad=st.lists(st.integers(0, COUNT - 1), max_size=2, unique=True),
)
def test_shares_say_how_the_update_is_made_of_the_rows(outer, name, seed, bad):
    rows = cloud("gaussian", seed)
    rows[bad, 2] = torch.nan
    found = outer(see(rows), then=INNER[name])
    assert (found.shares[bad] == 0).all()
    same(found.update, found.shares @ rows.nan_to_num(0.0), scale=1.0)
    assert float(found.shares.sum()) <= 1 + 1e-12


@EVERY_OUTER
@given(
    then=THENS,
    seed=SEEDS,
    bad=st.lists(st.integers(0, COUNT - 1), max_size=5, unique=True),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
)
def test_rows_that_are_not_finite_are_accused_and_spread_nowhere(outer, then, seed, bad, value):
    rows = cloud("gaussian", seed)
    good = [place for place in range(COUNT) if place not in bad]
    rows[bad, 1] = value
    found = outer(see(rows), then=then)
    honest = rows[good]
    bound = 1.0 if then is majority_vote else float(honest.abs().max())
    assert (found.update.abs() <= bound).all()
    assert found.suspected[bad].all() and found.suspicion[bad].isinf().all()
    assert found.suspicion[good].isfinite().all()
    left = max(0, 3 - len(bad))
    assert int(found.suspected.sum()) <= len(bad) + 2 * left
    if "size" not in outer.keywords:
        knobs = {**outer.keywords, **({"f": left} if "f" in outer.keywords else {})}
        fewer = partial(then.func, f=left) if "f" in getattr(then, "keywords", {}) else then
        expected = partial(outer.func, **knobs)(see(honest), then=fewer)
        same(found.update, expected.update, rtol=1e-9)
        same(found.suspicion[good], expected.suspicion, rtol=1e-9, scale=1.0)
        assert found.suspected[good].equal(expected.suspected)


@EVERY_OUTER
@given(seed=SEEDS)
def test_two_far_liars_are_accused_or_become_no_longer_than_the_honest(outer, seed):
    rows = cloud("gaussian", seed)
    liars = [4, 9]
    rows[liars] = 1e5
    found = outer(see(rows), Context(Key(seed)), then=partial(multi_krum, f=3))
    honest = [place for place in range(COUNT) if place not in liars]
    assert found.update.norm() <= rows[honest].norm(dim=1).max()
    if outer not in (OUTER["clipping"], OUTER["arc"]):
        assert found.suspected[liars].all()
    # The last bucket may be smaller.
    assert 3 <= int(found.suspected.sum()) <= 3 * outer.keywords.get("size", 1)


@given(seed=SEEDS, kind=st.sampled_from(["gaussian", "clusters", "outlier"]))
def test_combinators_combine(seed, kind):
    rows = cloud(kind, seed)
    then = partial(nnm, f=3, then=partial(bucketing, size=2, then=partial(trimmed_mean, f=3)))
    context = Context(Key(seed))
    found = clipping(see(rows), context, norm=3.0, then=partial(arc, f=3, then=then))
    clipped = made(partial(clipping, norm=3.0), see(rows)).rows
    scaled = made(partial(arc, f=3), see(clipped)).rows
    mixed = made(partial(nnm, f=3), see(scaled)).rows
    expected = bucketing(see(mixed), context, size=2, then=partial(trimmed_mean, f=3))
    torch.testing.assert_close(found.update, expected.update, rtol=1e-9, atol=1e-9)
    alone = nnm(see(scaled), f=3, then=partial(trimmed_mean, f=3))
    torch.testing.assert_close(found.suspicion, alone.suspicion)


@given(seed=SEEDS)
def test_nnm_accuses_those_whom_few_mixtures_hold(seed):
    rows = cloud("gaussian", seed)
    rows[:3] += 50.0
    found = nnm(see(rows), f=3, then=partial(trimmed_mean, f=3))
    assert found.suspected.nonzero().flatten().tolist() == [0, 1, 2]
    assert (found.suspicion[:3] > 0.5).all() and (found.suspicion[3:] < 0.5).all()


@pytest.mark.parametrize("then", [INNER["krum"], INNER["multi_krum"]])
def test_nnm_then_krum_takes_distances_once_and_adds_rows_up_once(then, monkeypatch):
    calls = []
    for name in ("distances", "gram", "combine", "window", "nearest", "votes"):

        def counted(name, kernel, *args, **knobs):
            calls.append(name)
            return kernel(*args, **knobs)

        monkeypatch.setattr(kernels, name, partial(counted, name, getattr(kernels, name)))
    monkeypatch.setattr(Visible, "rows", property(lambda self: pytest.fail("multiplied out")))
    sent = see(cloud("gaussian", 0))
    nnm(sent, f=3, then=then)
    assert calls == ["distances", "combine"]
    calls.clear()
    nnm(sent, f=3, then=partial(trimmed_mean, f=3))
    assert calls == ["distances", "window"]
    calls.clear()
    arc(sent, f=3, then=partial(trimmed_mean, f=3))
    assert calls == ["window"]
    calls.clear()
    clipping(sent, norm=1.0, then=partial(arc, f=3, then=partial(nnm, f=3, then=then)))
    assert calls == ["gram", "combine"]


@EVERY_OUTER
def test_memories_records_and_the_input_stay_as_they_are(outer):
    sent = see(cloud("heavy", 3).float())
    before = sent.base.clone()

    def remembers(visible, context):
        found = plain(visible, context)
        return replace(found, memory={"aggregator/it": visible.weights}, record={"seen": 7})

    found = outer(sent, then=remembers)
    assert found.memory["aggregator/it"].sum() == COUNT
    assert found.record["seen"] == 7
    assert sent.base.equal(before)
    assert found.update.dtype is torch.float32
    exact = outer(see(before.double()), then=remembers)
    same(found.update, exact.update, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            partial(nnm, f=2, then=partial(krum, f=1)),
            r"aggregator=nnm .* aggregator.f and aggregator.then.f to the same, got 2 and 1",
        ),
        (partial(arc, f=2, then=krum), "aggregator.then.f to the same, got 2 and 1"),
        (
            partial(arc, f=2, then=partial(bucketing, then=partial(krum, f=3))),
            r"aggregator.then.then.f to the same, got 2 and 3",
        ),
        (partial(nnm, f=16, then=median), "nnm with f=16 needs at least 33 visible rows"),
        (partial(arc, f=16, then=median), "arc with f=16 needs at least 33 visible rows"),
        (partial(nnm, f=-1, then=median), "aggregator.f must be at least 0, got -1"),
        (partial(clipping, norm=0.0, then=median), "aggregator.norm must be above 0, got 0.0"),
        (partial(clipping, norm=torch.nan, then=median), "aggregator.norm must be above 0"),
        (partial(noisy, std=-1.0, then=median), "aggregator.std must be 0 or more, got -1.0"),
        (partial(bucketing, size=0, then=median), "aggregator.size must be at least 1, got 0"),
        (
            partial(bucketing, size=2, then=partial(krum, f=7)),
            r"krum with f=7 needs at least 17 visible rows and sees 16",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(call, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        call(see(cloud("gaussian", 0)))
    assert "\n" not in str(caught.value)


def test_noise_is_as_large_as_said_and_drawn_from_the_key():
    rows = torch.zeros(3, 100_000)
    quiet, loud = (noisy(see(rows), then=median, std=std) for std in (0.0, 0.5))
    assert not quiet.update.any()
    assert float(loud.update.std()) == pytest.approx(0.5, rel=0.02)
    assert torch.equal(loud.shares, quiet.shares)
    other = noisy(see(rows), Context(Key(1)), then=median, std=0.5).update
    assert not torch.equal(other, loud.update)
    assert torch.equal(other, noisy(see(rows), Context(Key(1)), then=median, std=0.5).update)


def test_a_rule_to_follow_is_chosen_on_the_command_line():
    from dai_lab.config import build, load

    knobs = ("aggregator@aggregator.then=krum", "aggregator.f=2", "aggregator.then.f=2")
    chosen = build(load("aggregator=nnm", *knobs).aggregator)
    rows = cloud("gaussian", 0)
    expected = nnm(see(rows), f=2, then=partial(krum, f=2))
    assert chosen(see(rows), ALONE).update.equal(expected.update)
    deeper = load("aggregator=clipping", "aggregator@aggregator.then=nnm")
    assert deeper.aggregator.then.then["_target_"] == "dai_lab.aggregators.trimmed_mean"
