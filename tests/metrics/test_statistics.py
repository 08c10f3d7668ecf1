"""Intervals over seeds: laws, a worked example, and SciPy as oracle."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dai_lab.core import Key
from dai_lab.metrics import Estimate, band, difference, estimate, iqm, mean_ranks, stratified

NUMBERS = st.floats(-1e6, 1e6)
SEEDS = st.lists(NUMBERS, min_size=2, max_size=20)


@given(values=SEEDS, shift=st.floats(-1000, 1000), scale=st.floats(0.01, 100))
def test_shifting_and_scaling_every_seed_shifts_and_scales_the_estimate(values, shift, scale):
    before = estimate(values, resamples=50)
    after = estimate([scale * value + shift for value in values], resamples=50)
    for name in ("value", "low", "high"):
        expected = scale * getattr(before, name) + shift
        assert getattr(after, name) == pytest.approx(expected, rel=1e-6, abs=1e-4)


@given(values=SEEDS, draw=st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(values, draw):
    shuffled = draw.sample(values, len(values))
    assert estimate(shuffled, resamples=50) == estimate(values, resamples=50)


@given(values=SEEDS)
def test_value_and_interval_stay_inside_the_range_of_the_seeds(values):
    found = estimate(values, resamples=200)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert min(values) - slack <= found.value <= max(values) + slack
    assert found.n == len(values)


@given(values=st.lists(NUMBERS, min_size=1, max_size=40))
def test_the_interquartile_mean_is_scipys(values):
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-9)


@given(a=st.lists(NUMBERS, min_size=2, max_size=9), b=st.lists(NUMBERS, min_size=2, max_size=9))
def test_the_order_of_tasks_does_not_matter(a, b):
    one = stratified({"a": a, "b": b}, resamples=50)
    assert one == stratified({"b": b, "a": a}, resamples=50)
    assert one.value == pytest.approx(stats.trim_mean(a + b, 0.25), rel=1e-9, abs=1e-9)


@given(curves=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=6))
def test_a_band_is_the_estimate_of_every_point(curves):
    matrix = np.array(curves)
    for point, found in enumerate(band(matrix, resamples=60)):
        alone = estimate(matrix[:, point], resamples=60)
        assert found.n == alone.n
        for name in ("value", "low", "high"):
            both = getattr(found, name), getattr(alone, name)
            assert both[0] == pytest.approx(both[1], rel=1e-12, abs=1e-9, nan_ok=True)


def test_four_seeds_lose_their_highest_and_lowest():
    assert iqm([0.0, 1.0, 3.0, 100.0]) == 2.0
    assert iqm([0.0, 3.0, 6.0]) == 3.0


def test_an_estimate_reads_as_a_number_with_its_interval():
    assert str(Estimate(0.9131, 0.9019, 0.9211, 5)) == "0.913 [0.902, 0.921]"
    assert f"{Estimate(12.34, 11.0, 13.0, 5):.1f}" == "12.3 [11.0, 13.0]"
    assert str(estimate([0.913])) == "0.913 [one seed]"
    assert isnan(estimate([0.913]).low) and isnan(estimate([0.913]).high)


def test_a_seed_without_a_number_is_refused_or_counted_never_averaged_away():
    with pytest.raises(ValueError, match="1 of 3 values are NaN or infinite"):
        estimate([0.5, nan, 0.7])
    counted = estimate([0.5, nan, 0.7, float("inf")], missing="count")
    assert (counted.n, counted.missing) == (2, 2)
    assert str(counted).endswith("(2 of 4 missing)")
    assert str(estimate([nan], missing="count")) == "none (1 of 1 missing)"
    assert [one.missing for one in band(np.array([[1.0, nan], [2.0, 3.0]]))] == [0, 1]


def test_the_same_key_repeats_and_another_key_draws_otherwise():
    values = list(np.random.default_rng(0).normal(size=9))
    assert estimate(values) == estimate(values)
    assert estimate(values, key=Key(1)) != estimate(values, key=Key(2))


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(size=20)
    found = estimate(values, resamples=20_000)
    oracle = stats.bootstrap(
        (values,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.low == pytest.approx(oracle.low, abs=0.02)
    assert found.high == pytest.approx(oracle.high, abs=0.02)


def test_with_three_seeds_the_interval_is_their_range():
    # 1 in 27 resamples repeats the lowest seed three times: more than the 2.5 % tail.
    found = estimate([0.80, 0.83, 0.90])
    assert (found.low, found.high) == pytest.approx((0.80, 0.90))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    stream = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        found = estimate(stream.normal(size=20), resamples=400)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 300 <= 0.98


def test_every_resample_keeps_every_task():
    # Pooled, a resample could draw the second task 8 times or never; within tasks it cannot.
    tasks = {"easy": [1.0] * 4, "hard": [0.0] * 4}
    found = stratified(tasks)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 8)
    pooled = estimate([*tasks["easy"], *tasks["hard"]])
    assert pooled.high - pooled.low > 0.5


def test_stratified_agrees_with_a_plain_loop():
    stream = np.random.default_rng(4)
    tasks = {"a": stream.normal(size=12), "b": stream.normal(0.5, size=12)}
    found = stratified(tasks, resamples=20_000)
    samples = []
    for _ in range(8000):
        parts = [part[stream.integers(0, 12, 12)] for part in tasks.values()]
        samples.append(stats.trim_mean(np.concatenate(parts), 0.25))
    low, high = np.quantile(samples, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_a_task_with_one_run_leaves_no_interval():
    assert isnan(stratified({"a": [1.0, 2.0], "b": [3.0]}).low)


def test_pairing_seeds_sees_a_difference_that_separate_intervals_hide():
    shared = np.random.default_rng(5).normal(size=8)
    ours, theirs = shared + 0.1, shared
    gap = difference(ours, theirs)
    assert gap.low == pytest.approx(0.1) and gap.high == pytest.approx(0.1)
    assert estimate(ours).low < estimate(theirs).high
    with pytest.raises(ValueError, match="3 values cannot pair with 2"):
        difference([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"level": 1.0}, r"level must be in \(0, 1\), got 1.0"),
        ({"missing": "drop"}, "missing must be refuse or count, got 'drop'"),
    ],
)
def test_a_wrong_setting_is_named(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        estimate([1.0, 2.0], **knobs)


def test_no_value_at_all_is_refused():
    for empty in (lambda: estimate([]), lambda: stratified({}), lambda: iqm([])):
        with pytest.raises(ValueError, match="there are no values"):
            empty()


TABLES = st.tuples(st.integers(0, 999), st.integers(1, 4), st.integers(2, 6), st.integers(2, 9))


def tables(seed, tasks, methods, seeds):
    stream = np.random.default_rng(Key(seed).number())
    return [stream.integers(0, 12, size=(methods, seeds)) / 12 for _ in range(tasks)]


@given(sizes=TABLES, draw=st.randoms(use_true_random=False))
def test_ranks_go_with_their_methods_and_sum_to_what_all_places_sum_to(sizes, draw):
    scores = tables(*sizes)
    methods = sizes[2]
    found = mean_ranks(scores, resamples=50)
    assert sum(one.value for one in found) == pytest.approx(methods * (methods + 1) / 2)
    assert all(1 <= one.low <= one.high <= methods for one in found)
    order = draw.sample(range(methods), methods)
    moved = mean_ranks([table[order] for table in scores], resamples=50)
    assert moved == [found[at] for at in order]


@given(sizes=TABLES, shift=st.integers(-5, 5))
def test_a_task_on_which_everybody_does_better_moves_no_rank(sizes, shift):
    scores = tables(*sizes)
    eased = [table + 2.0**at * shift for at, table in enumerate(scores)]
    assert [one.value for one in mean_ranks(eased, resamples=50)] == pytest.approx(
        [one.value for one in mean_ranks(scores, resamples=50)]
    )


@given(sizes=TABLES)
def test_mean_ranks_are_those_of_scipy(sizes):
    scores = tables(*sizes)
    ends = [stats.trim_mean(table, 0.25, axis=1) for table in scores]
    slow = np.mean([stats.rankdata(np.round(-end, 12)) for end in ends], axis=0)
    found = mean_ranks(scores, resamples=10)
    assert [one.value for one in found] == pytest.approx(slow)


def test_who_is_always_first_is_first_for_sure_and_equals_share_their_places():
    scores = [np.array([[0.9, 0.8, 0.9], [0.2, 0.3, 0.1], [0.2, 0.3, 0.1]])] * 2
    first, *rest = mean_ranks(scores)
    assert first == Estimate(1.0, 1.0, 1.0, 6)
    assert rest == [Estimate(2.5, 2.5, 2.5, 6)] * 2


def test_a_run_that_broke_down_ranks_below_every_number():
    found = mean_ranks([np.array([[nan, 0.9, 0.9], [0.1, 0.1, 0.1]])])
    assert [one.value for one in found] == [2.0, 1.0]


def test_one_seed_ranks_without_an_interval_and_methods_must_be_the_same_everywhere():
    found = mean_ranks([np.array([[0.2], [0.3]])])
    assert [one.value for one in found] == [2.0, 1.0] and isnan(found[0].low)
    with pytest.raises(ValueError, match="the same methods"):
        mean_ranks([np.ones((2, 3)), np.ones((3, 3))])
    with pytest.raises(ValueError, match="got tables of no task"):
        mean_ranks([])
