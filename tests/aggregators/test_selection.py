"""Rules that keep some rows against slow twins, ByzFL, and what every such rule must satisfy."""

from functools import partial

import byzfl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.aggregators import bulyan, cge, krum, monna, multi_krum
from dai_lab.core import Context, Key, Visible

SEEDS = st.integers(0, 999)
KINDS = st.sampled_from(["gaussian", "outlier", "heavy", "clusters", "tied", "offset"])
PLANTED = partial(monna, pivot=0)
RULES = {"krum": krum, "multi_krum": multi_krum, "bulyan": bulyan, "cge": cge, "monna": PLANTED}
ANY = st.sampled_from(list(RULES.values()))
pytestmark = pytest.mark.filterwarnings("ignore:aggregator=monna")


def cloud(kind, seed, count=11, params=3, f=1):
    """Draw rows; the last ``f`` lie where the kind says so."""
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


def see(rows, mix=None, gram=None):
    count = len(rows) if mix is None else len(mix)
    return Visible(rows, tuple((i,) for i in range(count)), torch.ones(count), mix, gram)


def gaps(rows):
    return ((rows[:, None] - rows[None]) ** 2).sum(-1)


def twin_scores(rows, neighbors, power=2):
    """Score each row as Krum does, one after the other."""
    away = np.sqrt(gaps(rows))
    return [sum(sorted(np.delete(away[i], i) ** power)[:neighbors]) for i in range(len(rows))]


def twin_bulyan(rows, f):
    """Run Krum on what is left, again and again; then slide a window towards each median."""
    remaining, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        scores = twin_scores(rows[remaining], max(1, len(remaining) - f - 2))
        chosen.append(remaining.pop(int(np.argmin(scores))))
    beta, update = len(chosen) - 2 * f, []
    for column in np.sort(rows[chosen], axis=0).T:
        middle, start = np.median(column), 0
        while start + beta < len(column) and (
            column[start + beta] - middle < middle - column[start]
        ):
            start += 1
        update.append(column[start : start + beta].mean())
    return np.array(update), set(chosen)


def same(found, expected, dtype=torch.float64):
    tolerance = 1e-12 if dtype is torch.float64 else 1e-6
    expected = torch.as_tensor(np.asarray(expected)).double()
    torch.testing.assert_close(
        found.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    )


@st.composite
def sizes(draw, slope=2, offset=3, most=4):
    f = draw(st.integers(0, most))
    return f, draw(st.integers(slope * f + offset, slope * f + offset + 9))


@given(SEEDS, KINDS, sizes(), st.sampled_from([1, 2, 40]), st.data())
def test_krum_and_multi_krum_are_their_slow_twins(seed, kind, size, params, data):
    f, count = size
    sent = cloud(kind, seed, count, params, f)
    neighbors = data.draw(st.none() | st.integers(1, count - 1))
    power = data.draw(st.sampled_from([1, 2, 4]))
    scores = twin_scores(sent.numpy(), neighbors or count - f - 2, power)
    found = krum(see(sent), f=f, neighbors=neighbors, power=power)
    # A twin adds in another order: rows as good as the best but for rounding are as right.
    best = scores[int(found.shares.argmax())]
    assert best <= min(scores) * (1 + 1e-9)
    assert found.update.equal(sent[found.shares.argmax()])
    m = data.draw(st.none() | st.integers(1, count - f))
    found = multi_krum(see(sent), f=f, m=m, neighbors=neighbors, power=power)
    kept = (found.shares > 0).numpy()
    assert kept.sum() == (m or count - f - 2)
    worst = max(np.array(scores)[kept])
    assert worst <= sorted(scores)[kept.sum() - 1] * (1 + 1e-9)
    same(found.update, sent.numpy()[kept].mean(0))
    same(found.suspicion, scores)


@given(SEEDS, st.sampled_from(["gaussian", "heavy", "clusters", "offset"]), sizes(most=3))
def test_krum_multi_krum_and_monna_are_those_of_byzfl_where_asked_to_be(seed, kind, size):
    f, count = size
    sent = cloud(kind, seed, count, 5, f)
    theirs = {"f": f, "neighbors": count - f - 1}
    same(krum(see(sent), **theirs).update, byzfl.Krum(f)(sent.numpy()))
    ours = multi_krum(see(sent), m=count - f, **theirs)
    same(ours.update, byzfl.MultiKrum(f)(sent.numpy()))
    for place in (0, count - 1):
        ours = monna(see(sent), f=f, pivot=place)
        same(ours.update, byzfl.MoNNA(f, place)(sent.numpy()))


@given(SEEDS, KINDS, sizes(4, 3, 4), st.sampled_from([1, 2, 40]))
def test_bulyan_is_its_slow_twin(seed, kind, size, params):
    f, count = size
    sent = cloud(kind, seed, count, params, f)
    update, chosen = twin_bulyan(sent.numpy(), f)
    found = bulyan(see(sent), f=f)
    same(found.update, update)
    assert set(found.shares.nonzero().flatten().tolist()) <= chosen
    assert found.suspected.sum() == f
    same(found.shares.sum(), 1.0)


@given(SEEDS, KINDS, sizes(2, 1), st.sampled_from([1, 2, 40]))
def test_cge_is_the_mean_of_what_numpy_sorts_to_the_front(seed, kind, size, params):
    f, count = size
    sent = cloud(kind, seed, count, params, f)
    norms = np.linalg.norm(sent.numpy(), axis=1)
    found = cge(see(sent), f=f)
    same(found.suspicion, norms)
    kept = (found.shares > 0).numpy()
    assert kept.sum() == count - f
    assert max(norms[kept]) <= sorted(norms)[count - f - 1] * (1 + 1e-12)
    same(found.update, sent.numpy()[kept].mean(0))


@given(SEEDS, KINDS, sizes(2, 1), st.sampled_from([1, 2, 40]))
def test_monna_averages_what_is_nearest_to_the_servers_own_update(seed, kind, size, params):
    f, count = size
    sent = cloud(kind, seed, count + 1, params, f)
    own, sent = sent[0], sent[1:]
    away = np.linalg.norm(sent.numpy() - own.numpy(), axis=1)
    context = Context(root=lambda: own)
    found = monna(see(sent), context, f=f)
    same(found.suspicion, away)
    kept = (found.shares > 0).numpy()
    assert kept.sum() == count - f
    assert max(away[kept]) <= sorted(away)[count - f - 1] * (1 + 1e-12)
    same(found.update, sent.numpy()[kept].mean(0))
    lazily = monna(see(sent, mix=torch.eye(count, dtype=torch.float64)), context, f=f)
    if kind in ("gaussian", "clusters"):
        same(lazily.update, found.update)
        same(lazily.suspicion, found.suspicion)


@given(
    rule=ANY,
    seed=SEEDS,
    shift=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
    size=st.sampled_from([(0, 8), (3, 15), (3, 20)]),
)
def test_client_order_origin_and_unit_do_not_matter(rule, seed, shift, scale, size):
    f, count = size
    sent = cloud("gaussian", seed, count)
    # The first stays, for MoNNA trusts it.
    order = torch.cat(
        [torch.zeros(1).long(), 1 + torch.randperm(count - 1, generator=Key(seed).stream())]
    )
    found = rule(see(sent), f=f)
    moved = rule(see(sent[order]), f=f)
    same(moved.update, found.update)
    same(moved.suspicion, found.suspicion[order])
    same(moved.shares, found.shares[order])
    assert moved.suspected.equal(found.suspected[order])
    same(rule(see(scale * sent), f=f).update, scale * found.update)
    if rule is not cge:
        torch.testing.assert_close(rule(see(sent + shift), f=f).update, found.update + shift)


@given(
    rule=ANY,
    seed=SEEDS,
    liars=st.integers(0, 3),
    lie=st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e6, -1e9, 1e160]),
    spread=st.floats(0, 3),
)
def test_three_far_liars_in_fifteen_have_no_part_in_the_update(rule, seed, liars, lie, spread):
    sent = cloud("gaussian", seed, 15)
    sent[15 - liars :] = lie * (1 + spread * torch.rand(liars, 1, generator=Key(seed).stream()))
    found = rule(see(sent), f=3)
    honest = sent[: 15 - liars]
    assert (found.update >= honest.amin(0)).all()
    assert (found.update <= honest.amax(0)).all()
    assert (found.shares[15 - liars :] == 0).all()
    assert found.suspected[15 - liars :].all()
    assert found.suspected.sum() == 3
    torch.testing.assert_close(float(found.shares.sum()), 1.0)


@given(rule=ANY, seed=SEEDS, bad=st.lists(st.integers(1, 14), max_size=3, unique=True))
def test_a_row_that_is_not_finite_is_one_of_the_liars_expected(rule, seed, bad):
    sent = cloud("gaussian", seed, 15)
    good = [place for place in range(15) if place not in bad]
    plain = rule(see(sent[good]), f=3 - len(bad))
    sent[bad, 1] = torch.nan
    found = rule(see(sent), f=3)
    same(found.update, plain.update)
    same(found.suspicion[good], plain.suspicion)
    same(found.shares[good], plain.shares)
    assert found.suspected[good].equal(plain.suspected)
    assert found.suspicion[bad].isinf().all() and found.suspected[bad].all()
    assert (found.shares[bad] == 0).all()


@given(rule=ANY | st.just(partial(multi_krum, m=11)), seed=SEEDS, lost=st.integers(5, 14))
def test_more_broken_rows_than_expected_leave_the_rest_to_be_used(rule, seed, lost):
    sent = cloud("gaussian", seed, 15)
    sent[15 - lost :] = torch.inf
    found = rule(see(sent), f=3)
    honest = sent[: 15 - lost]
    assert (found.update >= honest.amin(0)).all() and (found.update <= honest.amax(0)).all()
    assert found.suspected.sum() == lost


@given(rule=ANY, seed=SEEDS, kind=st.sampled_from(["gaussian", "heavy", "clusters", "outlier"]))
def test_rows_never_multiplied_out_are_judged_as_those_that_are(rule, seed, kind):
    base = cloud(kind, seed, 19)
    mix = torch.rand(16, 19, generator=Key(seed).stream(), dtype=torch.float64)
    lazy = see(base, mix)
    found, plain = rule(lazy, f=2), rule(see(lazy.rows), f=2)
    torch.testing.assert_close(found.update, plain.update)
    torch.testing.assert_close(found.suspicion, plain.suspicion)
    assert found.suspected.equal(plain.suspected)
    from dai_lab.aggregators import kernels

    known = rule(see(base, gram=kernels.gram(base)), f=2)
    plain = rule(see(base), f=2)
    torch.testing.assert_close(known.update, plain.update)
    assert known.suspected.equal(plain.suspected)


@given(rule=ANY, seed=SEEDS, count=st.integers(11, 20))
def test_single_precision_strides_and_reuse_of_the_input_are_fine(rule, seed, count):
    sent = cloud("gaussian", seed, count, 50).float()
    before = sent.clone()
    found = rule(see(sent), f=2)
    assert found.update.dtype is torch.float32
    assert sent.equal(before)
    strided = torch.stack([sent, sent], dim=2)[..., 0]
    assert rule(see(strided), f=2).update.equal(found.update)
    exact = rule(see(sent.double()), f=2)
    same(found.update, exact.update, torch.float32)
    assert found.suspected.equal(exact.suspected)


@given(rule=ANY, seed=SEEDS)
def test_rows_that_agree_give_what_they_agree_on_and_the_first_stay(rule, seed):
    row = cloud("gaussian", seed, 1)
    found = rule(see(row.expand(11, -1)), f=2)
    same(found.update, row[0])
    kept = found.shares.nonzero().flatten().tolist()
    assert kept == list(range(len(kept)))


@given(SEEDS)
def test_keeping_one_row_is_krum_and_expecting_no_liar_is_almost_the_mean(seed):
    sent = cloud("gaussian", seed)
    assert multi_krum(see(sent), f=2, m=1).update.equal(krum(see(sent), f=2).update)
    for rule in (bulyan, cge, PLANTED, partial(multi_krum, m=11)):
        same(rule(see(sent), f=0).update, sent.mean(0))


def test_krum_of_five_numbers_is_as_worked_out_by_hand():
    sent = torch.tensor([[0.0], [1.0], [3.0], [6.0], [100.0]])
    found = krum(see(sent), f=1)  # two neighbors each
    assert found.suspicion.tolist() == [1 + 9, 1 + 4, 4 + 9, 9 + 25, 94**2 + 97**2]
    assert found.update.tolist() == [1.0]
    assert found.suspected.tolist() == [False] * 4 + [True]
    assert multi_krum(see(sent), f=1).update.tolist() == [0.5]
    assert multi_krum(see(sent), f=1, m=4).update.tolist() == [2.5]
    assert cge(see(sent), f=1).update.tolist() == [2.5]
    assert monna(see(sent), f=1, pivot=2).update.tolist() == [2.5]
    assert monna(see(sent), f=2, pivot=4).update.tolist() == pytest.approx([109 / 3])


def test_bulyan_of_seven_numbers_is_as_worked_out_by_hand():
    # Picked: 2, 1, 3 (each with the fewest steps to its nearest 4, 3 and 2), then one of the
    # nearest pair 10, 12, the first; then 0. Their median is 2; 1, 2 and 3 are closest to it.
    sent = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0], [12.0], [90.0]])
    assert bulyan(see(sent), f=1).update.tolist() == [2.0]
    assert twin_bulyan(sent.numpy(), 1)[0].tolist() == [2.0]


def test_monna_says_when_it_trusts_whoever_comes_first_and_when_its_proof_is_void():
    sent = cloud("gaussian", 0, 11)
    with pytest.warns(UserWarning, match=r"trusts the first row.*aggregator\.pivot"):
        blind = monna(see(sent), f=1)
    assert blind.update.equal(monna(see(sent), f=1, pivot=0).update)
    with pytest.warns(UserWarning, match="sees 11 of the 12 rows its proof takes"):
        monna(see(sent), f=1, pivot=0)
    sent[0] = torch.nan
    assert monna(see(sent), f=1).update.equal(monna(see(sent), f=1, pivot=1).update)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (partial(krum, see(cloud("gaussian", 0, 6)), f=2), "krum with f=2 needs at least 7 .*f or"),
        (partial(krum, see(cloud("gaussian", 0)), neighbors=0), "aggregator.neighbors must be"),
        (partial(krum, see(cloud("gaussian", 0)), neighbors=11), "neighbors=11 needs at least 12"),
        (partial(krum, see(cloud("gaussian", 0)), power=0), "aggregator.power must be at least 1"),
        (partial(multi_krum, see(cloud("gaussian", 0)), m=0), "aggregator.m must be at least 1"),
        (partial(multi_krum, see(cloud("gaussian", 0)), m=11), "m=11 and f=1 needs at least 12"),
        (partial(bulyan, see(cloud("gaussian", 0)), f=3), "bulyan with f=3 needs at least 15"),
        (partial(cge, see(cloud("gaussian", 0)), f=6), "cge with f=6 needs at least 13"),
        (partial(monna, see(cloud("gaussian", 0)), f=6, pivot=0), "monna with f=6 needs"),
        (partial(monna, see(cloud("gaussian", 0)), pivot=-1), r"pivot must be in 0..10"),
        (partial(monna, see(cloud("gaussian", 0)), pivot=11), r"pivot must be in 0..10"),
        (partial(monna, see(torch.nan * cloud("gaussian", 0)), pivot=3), "pivot=3, which is not"),
        (partial(monna, see(torch.nan * cloud("gaussian", 0))), r"sees 11 \(0 finite\)"),
        (
            partial(
                monna,
                see(cloud("gaussian", 0)),
                Context(root=lambda: torch.full((3,), torch.nan, dtype=torch.float64)),
            ),
            "the server's own update, which is not finite",
        ),
    ],
)
def test_what_cannot_be_aggregated_is_refused_in_one_line(call, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        call()
    assert "\n" not in str(caught.value)
