"""FLAME, FreqFed, SignGuard and Auror against scikit-learn, and against planted liars."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN, KMeans, MeanShift, estimate_bandwidth
from sklearn.metrics.pairwise import cosine_distances as sklearn_cosines

from dai_lab.aggregators import auror, flame, freqfed, signguard
from dai_lab.aggregators.clusters import cosine_distances, majority
from dai_lab.aggregators.features import largest_mode, two_means
from dai_lab.aggregators.seen import look
from dai_lab.core import Context, Key, State, TooFew, Visible
from dai_lab.models import create, logistic

SEEDS = st.integers(0, 999)
few = settings(max_examples=25)


def normal(seed, *shape):
    return torch.randn(*shape, generator=Key(seed).stream(), dtype=torch.float64)


def honest(seed, count=15, params=64, spread=0.3):
    way = normal(seed + 5000, params) + 0.5  # so that signs are not even
    return way / way.norm() * 3 + spread * normal(seed, count, params)


def see(rows, mix=None):
    count = len(rows) if mix is None else len(mix)
    return Visible(rows, tuple((i,) for i in range(count)), torch.ones(count), mix)


def at(params, seed=0, model=None):
    return Context(Key(seed), State(params), model)


def hdbscan_majority(apart):
    """Who is in the only cluster that HDBSCAN can find, if it must hold more than half."""
    found = HDBSCAN(
        min_cluster_size=len(apart) // 2 + 1, min_samples=1, metric="precomputed",
        allow_single_cluster=True, copy=True,
    ).fit_predict(apart)  # fmt: skip
    return found == 0


def clip_and_average(rows, kept):
    norms = np.linalg.norm(rows, axis=1)
    bound = np.median(norms)
    return np.mean([row * min(1, bound / np.linalg.norm(row)) for row in rows[kept]], axis=0)


def close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(np.asarray(expected)).double()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * scale)


@given(SEEDS, st.integers(3, 24), st.sampled_from([1, 2, 30]), st.booleans())
def test_the_majority_is_the_one_that_hdbscan_finds(seed, count, params, tied):
    points = normal(seed, count, params).numpy()
    points = np.round(points) if tied else points
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    kept, reach = majority(torch.from_numpy(apart))
    assert kept.numpy().tolist() == hdbscan_majority(apart).tolist()
    assert kept.sum() > count / 2
    if not kept.all():
        assert reach[~kept].min() > reach[kept].max()


@few
@given(SEEDS, st.sampled_from([0.0, 1.0, 1e3]))
def test_cosine_distances_are_those_of_scikit_learn(seed, offset):
    rows = normal(seed, 9, 20)
    rows[3], rows[4] = 0.0, rows[5]
    params = offset * normal(seed + 1, 20)
    seen = look(see(rows), (params,))
    model = seen.other(0)
    model[-1] += 2
    found = cosine_distances(seen, model)
    rounding = 1e-15 * max(1, offset)
    expected = torch.from_numpy(sklearn_cosines((params + rows).numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=10 * rounding)
    assert found[4, 5] == 0


def test_models_that_hardly_moved_are_told_apart_in_single_precision():
    params = 100 * normal(0, 500)
    rows = (1e-4 * honest(1, 11, 500)).float()
    found = flame(see(rows), at(params.float()), noise=0.0)
    models = rows.numpy().astype(np.longdouble) + params.float().numpy().astype(np.longdouble)
    units = models / np.sqrt((models**2).sum(1, keepdims=True))
    apart = (((units[:, None] - units[None]) ** 2).sum(-1) / 2).astype(float)
    assert (found.shares > 0).tolist() == hdbscan_majority(apart).tolist()


@few
@given(SEEDS, st.integers(3, 16), st.sampled_from([2, 30]))
def test_flame_is_its_paper_with_scikit_learn(seed, count, params):
    rows = honest(seed, count, params)
    start = normal(seed + 1, params)
    found = flame(see(rows), at(start), noise=0.0)
    kept = hdbscan_majority(sklearn_cosines((start + rows).numpy()))
    close(found.update, clip_and_average(rows.numpy(), kept), 1e-11)
    assert found.suspected.tolist() == (~kept).tolist()


def test_the_noise_of_flame_has_the_size_it_says_and_comes_from_the_key():
    rows, params = honest(0, 9, 40_000), torch.zeros(40_000, dtype=torch.float64)
    plain = flame(see(rows), at(params), noise=0.0)
    noisy, again, other = (flame(see(rows), at(params, key), noise=0.5) for key in (1, 1, 2))
    bound = rows.norm(dim=1).median()
    assert (noisy.update - plain.update).std() == pytest.approx(float(0.5 * bound), rel=0.02)
    assert noisy.update.equal(again.update)
    assert not noisy.update.equal(other.update)


def low_frequencies_by_sums(row):
    """Take each product with a cosine by itself."""
    side = math.ceil(math.sqrt(len(row)))
    square = np.pad(row, (0, side * side - len(row))).reshape(side, side)
    steps = np.arange(side)
    found = []
    for i in range(side):
        for j in range(side):
            if i + j <= side // 2:
                waves = np.outer(*(np.cos(np.pi * (steps + 0.5) * k / side) for k in (i, j)))
                scale = math.sqrt((1 if i == 0 else 2) * (1 if j == 0 else 2)) / side
                found.append(scale * (square * waves).sum())
    return found


@few
@given(SEEDS, st.integers(1, 14), st.sampled_from([1, 2, 9, 11, 60]))
def test_freqfed_is_its_paper_with_scikit_learn(seed, count, params):
    rows = honest(seed, count, params)
    found = freqfed(see(rows))
    waves = np.array([low_frequencies_by_sums(row) for row in rows.numpy()])
    apart = sklearn_cosines(waves)
    if params == 1:  # all angles are 0 or 180 degrees, but for rounding
        apart = np.round(apart)
    kept = hdbscan_majority(apart) if count > 1 else np.array([True])
    close(found.update, rows.numpy()[kept].mean(0))
    assert found.suspected.tolist() == (~kept).tolist()


@few
@given(SEEDS, st.integers(2, 30), st.booleans())
def test_the_largest_mode_is_that_of_scikit_learns_mean_shift(seed, count, tied):
    points = normal(seed, count, 3).sigmoid()
    points = (points * 4).round() / 4 if tied else points
    # Scikit-learn takes distances from products, which round a point away from itself.
    width = np.sort(cdist(points, points), axis=1)[:, max(1, count // 2) - 1].mean()
    assert width == pytest.approx(estimate_bandwidth(points.numpy(), quantile=0.5), abs=1e-6)
    found, center = largest_mode(points)
    if width == 0:
        assert len(points[found].unique(dim=0)) == 1
        return
    shift = MeanShift(bandwidth=width + 1e-12, cluster_all=False).fit(points.numpy())
    sizes = np.bincount(shift.labels_[shift.labels_ >= 0])
    best = sizes.argmax()
    if (sizes == sizes[best]).sum() == 1:
        assert found.tolist() == (shift.labels_ == best).tolist()
        close(center, shift.cluster_centers_[best], 1e-3)
    else:
        assert found.sum() == sizes[best]


@few
@given(SEEDS, st.sampled_from([0.1, 0.5, 1.0]))
def test_signguard_is_its_paper_with_scikit_learn(seed, share):
    rows = honest(seed, 12, 200)
    rows[0] *= 0.05
    rows[1] *= 5
    found = signguard(see(rows), Context(Key(seed)), share=share)
    drawn = torch.randperm(200, generator=(Key(seed) / "signguard").stream())
    some = rows[:, drawn[: int(200 * share)]].numpy()
    shares = np.array([[(row > 0).mean(), (row == 0).mean(), (row < 0).mean()] for row in some])
    shift = MeanShift(
        bandwidth=estimate_bandwidth(shares, quantile=0.5) + 1e-12, cluster_all=False
    ).fit(shares)
    sizes = np.bincount(shift.labels_[shift.labels_ >= 0])
    if (sizes == sizes.max()).sum() > 1:
        return
    norms = rows.norm(dim=1).numpy()
    kept = (shift.labels_ == sizes.argmax()) & (norms <= 3 * np.median(norms))
    kept &= norms >= 0.1 * np.median(norms)
    assert found.suspected.tolist() == (~kept).tolist()
    assert found.suspected[:2].all()
    close(found.update, clip_and_average(rows.numpy(), kept))


def test_signguard_drops_who_sends_usual_lengths_with_unusual_signs():
    rows = normal(0, 12, 400)
    rows[[2, 7]] = rows[[2, 7]].abs()
    found = signguard(see(rows), share=1.0)
    assert found.suspected[[2, 7]].all()
    assert found.suspected.sum() <= 5
    assert found.suspicion[[2, 7]].min() > found.suspicion[~found.suspected].max()


def test_signguard_refuses_a_round_in_which_nobody_is_usual():
    rows = torch.ones(5, 4, dtype=torch.float64) * torch.tensor([1, 1, 1, 50, 50]).unsqueeze(1)
    rows[:3] *= torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, -1], [1, -1, -1, -1]])
    with pytest.raises(TooFew, match="aggregator=signguard finds none of 5"):
        signguard(see(rows), share=1.0)


@given(SEEDS, st.integers(2, 12), st.booleans())
def test_two_means_finds_the_best_split_of_all(seed, count, tied):
    values = normal(seed, count, 3)
    values = values.round() if tied else values
    fewer, gaps = two_means(values)
    for column, small, gap in zip(values.T.numpy(), fewer.T.numpy(), gaps.tolist(), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = KMeans(2, n_init=20, random_state=0).fit(column[:, None])
        best = min(
            ((column <= edge) for edge in np.unique(column)[:-1]),
            key=lambda low: column[low].var() * low.sum() + column[~low].var() * (~low).sum(),
            default=None,
        )
        if best is None:
            assert gap == 0
            assert not small.any()
            continue
        low, high = column[best], column[~best]
        left = low.var() * len(low) + high.var() * len(high)
        assert left <= fit.inertia_ * (1 + 1e-9) + 1e-12
        if abs(gap - (high.mean() - low.mean())) < 1e-9:  # no other split is as good
            assert small.sum() in (0, min(len(low), len(high)))
            assert small.any() == (len(low) != len(high))
        else:
            mine = small if small.any() else best
            spread = column[mine].var() * mine.sum() + column[~mine].var() * (~mine).sum()
            assert spread == pytest.approx(left, rel=1e-9)


MODEL = create(logistic, shape=(6,), classes=10, key=Key(0))


def test_auror_drops_who_is_in_the_smaller_cluster_of_most_coordinates():
    # The last layer is all of this network.
    rows = 0.0005 * normal(0, 9, MODEL.params).tanh()
    rows[[1, 4], :40] += 0.5
    rows[6, :10] -= 0.5
    found = auror(see(rows), Context(model=MODEL))
    assert found.suspected.nonzero().flatten().tolist() == [1, 4]
    close(found.suspicion[1], torch.tensor(1.0))
    kept = [one for one in range(9) if one not in (1, 4)]
    close(found.update, rows[kept].mean(0))
    assert found.record["indicative"] == 40


def test_auror_looks_at_the_last_layer_unless_told_otherwise():
    from torch import nn

    from dai_lab.models import flat

    model = flat(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), classes=3)
    rows = torch.zeros(7, model.params, dtype=torch.float64)
    rows[2, :40] = 1.0
    assert not auror(see(rows), Context(model=model)).suspected.any()
    assert auror(see(rows), features="all").suspected.tolist() == [i == 2 for i in range(7)]
    rows[3, 40:] = 1.0
    assert auror(see(rows), Context(model=model)).suspected[3]


@few
@given(SEEDS)
def test_where_no_coordinate_tells_rows_apart_auror_is_the_mean(seed):
    rows = honest(seed)
    found = auror(see(rows), alpha=1e6, features="all")
    close(found.update, rows.mean(0))
    assert not found.suspected.any()


def rules():
    params = torch.zeros(64, dtype=torch.float64)
    return {
        "flame": lambda one: flame(one, at(params), noise=0.0),
        "freqfed": freqfed,
        "signguard": lambda one: signguard(one, share=1.0),
        "auror": lambda one: auror(one, features="all", alpha=0.2),
    }


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
@pytest.mark.parametrize("scale", [-1.0, -3.0, 10.0])
def test_five_in_fifteen_who_lie_alike_are_never_averaged(rule, scale):
    for seed in range(6):
        rows = honest(seed, spread=0.05)
        rows[:5] = scale * honest(seed + 100, 5, spread=0.05)
        if scale > 0:  # another direction
            rows[:5] = rows[:5].abs()
        found = rule(see(rows))
        assert found.suspected[:5].all()
        assert (found.shares[:5] == 0).all()
        assert found.suspicion[:5].min() > found.suspicion[5:][~found.suspected[5:]].max()


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
def test_those_who_send_the_same_are_all_kept(rule):
    row = honest(0, 1)
    for count in (1, 2, 3, 8):
        found = rule(see(row.repeat(count, 1)))
        assert not found.suspected.any()
        close(found.update, row[0])
        close(found.shares, torch.full((count,), 1 / count, dtype=torch.float64))
    rows = row.repeat(9, 1)
    rows[2:5] = -honest(1, 3)
    assert rule(see(rows)).suspected.nonzero().flatten().tolist() == [2, 3, 4]


@few
@given(SEEDS, st.data())
def test_whose_row_comes_first_does_not_matter(seed, data):
    rows = honest(seed)
    rows[:3] *= -1
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    for rule in rules().values():
        found, moved = rule(see(rows)), rule(see(rows[order]))
        close(moved.update, found.update, 1e-10)
        assert moved.suspected.equal(found.suspected[order])


def test_frequencies_of_mixtures_are_not_computed_row_by_row(monkeypatch):
    rows = honest(0)
    mix = torch.eye(15, dtype=torch.float64) * 0.5 + 0.5 / 15
    plain = freqfed(see(mix @ rows))

    def refuse(self):
        raise AssertionError("the rows were multiplied out")

    monkeypatch.setattr(Visible, "rows", property(refuse))
    for rule in rules().values():
        rule(see(rows, mix))
    found = freqfed(see(rows, mix))
    assert found.suspected.equal(plain.suspected)
    close(found.update, plain.update, 1e-10)


@pytest.mark.parametrize(
    ("call", "knob"),
    [
        (lambda rows: flame(rows, at(torch.zeros(64)), noise=-1.0), "aggregator.noise"),
        (lambda rows: flame(rows), "aggregator=flame"),
        (lambda rows: flame(rows, at(torch.zeros(3))), "aggregator=flame"),
        (lambda rows: signguard(rows, lower=2.0), "aggregator.lower"),
        (lambda rows: signguard(rows, upper=0.5), "aggregator.upper"),
        (lambda rows: signguard(rows, share=0.0), "aggregator.share"),
        (lambda rows: auror(rows), "aggregator.features"),
        (lambda rows: auror(rows, alpha=0.0), "aggregator.alpha"),
        (lambda rows: auror(rows, tau=0.2), "aggregator.tau"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_that_names_the_knob(call, knob):
    with pytest.raises(ValueError, match=knob) as caught:
        call(see(honest(0)))
    assert "\n" not in str(caught.value)
