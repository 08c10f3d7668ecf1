"""Membership inference: what is computed is right, and it finds members where there are any."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from dai_lab.core import Compute, Key, Shards, State, Task
from dai_lab.data import mnist10k
from dai_lab.learning import sgd
from dai_lab.models import create, mlp
from dai_lab.privacy.audits import curves, membership, shadows

KEY = Key(7)
SEEDS = st.integers(0, 999)
POOL, COUNT = 400, 16
LOCAL = partial(sgd, epochs=30, rate=0.1)


def stream(*path):
    return np.random.default_rng(Key(11, path).number())


def scored(seed, count=80):
    """Scores with ties, and members that are a little higher."""
    draw = stream("scored", seed)
    members = np.arange(count) % 3 == 0
    return (draw.standard_normal(count) + 0.5 * members).round(1), members


def density(value, mean, std):
    return math.exp(-((value - mean) ** 2) / (2 * std**2)) / std


@pytest.fixture(scope="module")
def world():
    data = mnist10k()
    pool = data.train.some(torch.arange(POOL))
    make = partial(mlp, hidden=[32])
    build = partial(create, make, shape=data.shape, classes=10)
    model = build(key=KEY / "model")
    start = torch.stack([build(key=KEY / "model" / each).initial for each in range(COUNT)])
    trained = shadows.shadows(
        LOCAL, model, pool, count=COUNT, key=KEY, compute=Compute(), start=start
    )
    return data, pool, model, start, trained


@given(seed=SEEDS)
def test_rates_and_areas_are_those_of_scikit_learn(seed):
    scores, members = scored(seed)
    found = curves.roc(scores, members)
    fpr, tpr, thresholds = roc_curve(members, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.fpr, fpr)
    np.testing.assert_allclose(found.tpr, tpr)
    np.testing.assert_allclose(found.thresholds, thresholds)
    assert curves.auc(scores, members) == pytest.approx(roc_auc_score(members, scores))
    assert curves.advantage(scores, members) == pytest.approx((tpr - fpr).max())
    for rate in (0.0, 0.01, 0.1, 1.0):
        best = tpr[fpr <= rate].max()
        assert curves.tpr_at(scores, members, fpr=rate).value == pytest.approx(best)


def test_a_shift_of_a_normal_score_gives_the_rates_of_the_closed_forms():
    shift, count = 1.3, 200_000
    members = np.arange(count) % 2 == 0
    scores = stream("shift").standard_normal(count) + shift * members
    assert curves.auc(scores, members) == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=4e-3)
    expected = 2 * norm.cdf(shift / 2) - 1
    assert curves.advantage(scores, members) == pytest.approx(expected, abs=8e-3)
    balanced = curves.balanced_accuracy(scores, members)
    assert balanced == pytest.approx(norm.cdf(shift / 2), abs=4e-3)
    for rate in (0.01, 0.1):
        found = curves.tpr_at(scores, members, fpr=rate).value
        assert found == pytest.approx(norm.cdf(shift - norm.isf(rate)), abs=0.01)


@given(hits=st.integers(0, 40), more=st.integers(0, 40), confidence=st.floats(0.5, 0.999))
def test_the_interval_of_a_rate_is_that_of_an_exact_binomial_test(hits, more, confidence):
    trials = max(hits + more, 1)
    found = curves.exact(hits, trials, confidence=confidence)
    expected = binomtest(hits, trials).proportion_ci(confidence, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_rates_of_several_targets_are_those_of_each():
    pairs = [scored(seed) for seed in range(4)]
    scores, members = (np.stack(each) for each in zip(*pairs, strict=True))
    found = curves.tprs_at(scores, members, fpr=0.1)
    assert found.tolist() == [curves.tpr_at(*pair, fpr=0.1).value for pair in pairs]


@settings(max_examples=20)
@given(seed=SEEDS, online=st.booleans(), variance=st.sampled_from(membership.VARIANCES))
def test_lira_is_what_a_loop_over_examples_computes(seed, online, variance):
    draw = stream("lira", seed)
    members = shadows.halves(8, 6, key=Key(seed)).numpy()
    seen = draw.standard_normal((8, 6)) + 2 * members
    found = membership.leave_one_out(seen, members, online=online, variance=variance)
    for target in range(8):
        rest = [at for at in range(8) if at // 2 != target // 2]
        sides = []
        for side in (False, True):
            groups = [
                [seen[at, one] for at in rest if members[at, one] == side] for one in range(6)
            ]
            means = [np.mean(group) for group in groups]
            stds = [np.std(group, ddof=1) for group in groups]
            if variance == "shared":
                # Groups of one size: the pooled variance is the mean of theirs.
                stds = [math.sqrt(np.mean(np.square(stds)))] * 6
            sides.append(list(zip(means, stds, strict=True)))
        for one, (without, having) in enumerate(zip(*sides, strict=True)):
            value, score = seen[target, one], found[target, one]
            if online:
                expected = math.log(density(value, *having) / density(value, *without))
            else:
                expected = (value - without[0]) / without[1]
            assert score == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_what_is_said_alike_by_all_models_tells_nothing_and_is_finite():
    members = shadows.halves(8, 10, key=KEY).numpy()
    for variance in membership.VARIANCES:
        scores = membership.leave_one_out(np.ones((8, 10)), members, variance=variance)
        assert not scores.any()


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", membership.VARIANCES)
def test_noise_has_no_members_however_few_the_models(online, variance):
    members = shadows.halves(6, 20_000, key=KEY).numpy()
    noise = stream("noise").standard_normal(members.shape)
    scores = membership.leave_one_out(noise, members, online=online, variance=variance)
    areas = [curves.auc(one, inside) for one, inside in zip(scores, members, strict=True)]
    # One area's standard error is .0041 at this size; the targets share shadow models.
    assert np.mean(areas) == pytest.approx(0.5, abs=0.008)


@given(seed=SEEDS, count=st.sampled_from([2, 4, 10]), pool=st.integers(2, 30))
def test_every_example_is_in_half_of_the_models_and_twins_are_opposites(seed, count, pool):
    members = shadows.halves(count, pool, key=Key(seed))
    assert (members.sum(0) == count // 2).all()
    assert (members[::2] == ~members[1::2]).all()
    assert (members[::2].sum(1) == (pool + 1) // 2).all()


def test_shadows_side_by_side_are_the_models_one_would_train_alone(world):
    _, pool, model, start, trained = world
    shards = Shards.of([held.nonzero().squeeze(1) for held in trained.members])
    task, place = Task(model, pool, shards), KEY / "round" / 1
    for one in (0, COUNT - 1):
        alone = LOCAL(
            task, State(start[one]), start[one], [one], key=place, round=1, compute=Compute()
        )
        torch.testing.assert_close(start[one] + alone.rows[0], trained.rows[one])


def test_a_second_round_goes_on_where_the_first_one_stopped(world):
    _, pool, model, _, _ = world
    train = partial(shadows.shadows, partial(sgd, rate=0.1), model, pool, count=4, key=KEY)
    first, second = (train(rounds=rounds, compute=Compute()) for rounds in (1, 2))
    assert first.members.equal(second.members)
    before, after = (shadows.losses(model, one.rows, pool).mean() for one in (first, second))
    assert after < before < model.loss(model(model.initial, pool.inputs), pool.targets).mean()


def test_losses_and_confidences_are_those_of_each_model_alone(world):
    _, pool, model, _, trained = world
    some = pool.some(torch.arange(50))
    losses = shadows.losses(model, trained.rows[:3], some)
    odds = shadows.confidences(model, trained.rows[:3], some)
    for at in range(3):
        outputs = model(trained.rows[at], some.inputs)
        torch.testing.assert_close(losses[at], model.loss(outputs, some.targets))
        right = outputs.double().softmax(1).gather(1, some.targets[:, None]).squeeze(1)
        sure = right > 1 - 1e-9  # where 1 - p has too few digits left to compare with
        torch.testing.assert_close(
            odds[at][~sure].double(), right.logit()[~sure], rtol=1e-4, atol=1e-4
        )


def test_confidence_stays_finite_where_a_probability_rounds_to_one():
    outputs = torch.tensor([[300.0, 0.0, 0.0], [0.0, 300.0, 300.0]])
    found = shadows.log_odds(outputs, torch.tensor([0, 0]))
    expected = torch.tensor([300 - math.log(2), -300 - math.log(2)])
    torch.testing.assert_close(found, expected)


def test_shadow_models_find_members_of_an_overfitted_model_that_its_loss_alone_hides(world):
    _, pool, model, _, trained = world
    members = trained.members.numpy()
    odds = shadows.confidences(model, trained.rows, pool).numpy()
    plain = membership.by_loss(shadows.losses(model, trained.rows, pool).numpy())
    clever = membership.leave_one_out(odds, members)
    found, before = (curves.tprs_at(one, members, fpr=0.01).mean() for one in (clever, plain))
    assert found > 0.05 > 0.025 > before
    areas = [
        np.mean([curves.auc(*pair) for pair in zip(one, members, strict=True)])
        for one in (clever, plain)
    ]
    assert areas[0] > areas[1] > 0.5


def test_digits_no_model_was_trained_on_have_no_members(world):
    data, _, model, _, trained = world
    strangers = data.test.some(torch.arange(POOL))
    odds = shadows.confidences(model, trained.rows, strangers).numpy()
    # The same coins, which decided nothing about these digits.
    members = trained.members.numpy()
    for scores in (odds, membership.leave_one_out(odds, members)):
        areas = [curves.auc(one, inside) for one, inside in zip(scores, members, strict=True)]
        # One area's standard error is .029; 16 targets of 8 independent pairs.
        assert np.mean(areas) == pytest.approx(0.5, abs=0.03)


def response(repetition, epsilon, trials):
    draw = stream("response", repetition)
    members = draw.random(trials) < 0.5
    truthful = draw.random(trials) < 1 / (1 + math.exp(-epsilon))
    return np.where(truthful, members, ~members).astype(float), members


def test_the_epsilon_of_randomized_response_is_seldom_overestimated_and_approached():
    epsilon = 1.0
    found = [
        membership.empirical_epsilon(*response(at, epsilon, 300), key=KEY / at) for at in range(200)
    ]
    # 5 % may be above; 9 % would happen by chance once in a hundred such tests.
    assert np.mean(np.array(found) > epsilon) <= 0.09
    assert np.mean(np.array(found) > 0) > 0.8
    many = membership.empirical_epsilon(*response("many", epsilon, 200_000), key=KEY)
    assert many == pytest.approx(epsilon, abs=0.05)


def test_a_threshold_chosen_in_hindsight_is_no_way_to_prove_what_is_not_there():
    found = []
    for at in range(200):
        draw = stream("nothing", at)
        members = draw.random(100) < 0.5
        scores = draw.standard_normal(100)
        found.append(membership.empirical_epsilon(scores, members, key=KEY / at) > 0)
    assert np.mean(found) <= 0.09


@given(data=st.data(), delta=st.floats(0, 0.1))
def test_the_bound_follows_from_two_exact_intervals_whichever_way_proves_more(data, delta):
    inside, outside = (data.draw(st.integers(1, 200)) for _ in range(2))
    hits, alarms = data.draw(st.integers(0, inside)), data.draw(st.integers(0, outside))
    tpr = beta.ppf(0.025, hits, inside - hits + 1) if hits else 0.0
    fpr = beta.ppf(0.975, alarms + 1, outside - alarms) if alarms < outside else 1.0
    ratio = max((tpr - delta) / fpr, (1 - fpr - delta) / (1 - tpr))
    found = membership.epsilon_bound(hits, inside, alarms, outside, delta=delta)
    assert found == pytest.approx(math.log(max(ratio, 1)), abs=1e-9)


@pytest.mark.parametrize("dark", [False, True])
def test_a_figure_shows_every_attack_and_chance_on_log_axes(dark):
    members = np.arange(4000) % 2 == 0
    targets = [
        curves.roc(stream("figure", at).standard_normal(4000) + members, members) for at in (0, 1)
    ]
    figure = curves.draw_roc({"one": targets[0], "several": targets}, dark=dark)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == axes.get_ylim() == (1e-4, 1)
    chance, one, several = axes.get_lines()
    assert [line.get_label() for line in axes.get_lines()] == ["chance", "one", "several"]
    assert (chance.get_xdata() == chance.get_ydata()).all()
    # Nothing is drawn below the first false alarm: one of 2,000.
    assert min(one.get_xdata()) == pytest.approx(1 / 2000)
    for x, y in zip(one.get_xdata(), one.get_ydata(), strict=True):
        assert y == targets[0].tpr[targets[0].fpr <= x * (1 + 1e-9)].max()
    assert len({line.get_color() for line in (one, several)}) == 2
    assert len({line.get_linestyle() for line in (one, several)}) == 2
    assert sum(figure.get_facecolor()[:3]) < 1 if dark else sum(figure.get_facecolor()[:3]) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shadows.halves(3, 10, key=KEY), "shadows.count"),
        (lambda: shadows.halves(2, 1, key=KEY), "two halves"),
        (lambda: shadows.log_odds(torch.zeros(3, 1), torch.zeros(3).long()), "classes"),
        (lambda: curves.roc(np.zeros(3), np.ones(3, bool)), "3 of 3 are members"),
        (lambda: curves.roc(np.full(3, np.nan), np.ones(3, bool)), "3 of 3 scores are NaN"),
        (lambda: curves.tpr_at(*scored(0), fpr=1.5), "audit.fpr"),
        (lambda: curves.exact(3, 2), "3 hits of 2 trials"),
        (lambda: curves.draw_roc({}, least=1.0), "least"),
        (lambda: membership.epsilon_bound(1, 0, 1, 1), "1 hits of 0"),
        (lambda: membership.empirical_epsilon(*scored(0), key=KEY, delta=-0.1), "audit.delta"),
        (lambda: membership.empirical_epsilon(*scored(0), key=KEY, share=1.0), "audit.share"),
        (
            lambda: membership.leave_one_out(np.zeros((4, 3)), np.eye(4, 3) > 0),
            "raise shadows.count",
        ),
        (
            lambda: membership.lira(
                np.zeros(3), np.zeros((4, 3)), np.eye(4, 3) > 0, variance="none"
            ),
            "lira.variance",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
