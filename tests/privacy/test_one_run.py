"""One training run refutes a promise that was not kept, and seldom one that was."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import binomtest

from dai_lab.core import Key
from dai_lab.privacy.audits.one_run import audited, guessed, lower_bound, p_value

COUNTS = st.tuples(*[st.integers(0, 60)] * 3).map(sorted)


def coins(count, *path):
    stream = np.random.default_rng(Key(5, path).number())
    return stream.random(count) < 0.5, stream


@given(counts=COUNTS, epsilon=st.floats(0, 8))
def test_without_delta_the_p_value_is_that_of_an_exact_binomial_test(counts, epsilon):
    correct, guesses, canaries = counts
    found = p_value(correct, guesses, canaries, epsilon=epsilon, delta=0.0)
    right = 1 / (1 + math.exp(-epsilon))
    if guesses:
        expected = binomtest(correct, guesses, right, alternative="greater").pvalue
        assert found == pytest.approx(expected, rel=1e-9)
    else:
        assert found == 1


@given(counts=COUNTS, confidence=st.floats(0.5, 0.999))
def test_without_delta_the_bound_is_the_log_odds_of_an_exact_interval(counts, confidence):
    correct, guesses, canaries = counts
    found = lower_bound(correct, guesses, canaries, delta=0.0, confidence=confidence)
    if not guesses:
        assert found == 0
        return
    test = binomtest(correct, guesses, alternative="greater")
    low = test.proportion_ci(confidence, "exact").low
    assert found == pytest.approx(max(logit(low), 0) if low > 0 else 0, abs=1e-6)


@given(counts=COUNTS, epsilon=st.floats(0, 4), delta=st.floats(0, 0.01))
def test_a_delta_lifts_the_worst_stretch_of_counts_as_a_loop_over_all_of_them_finds(
    counts, epsilon, delta
):
    correct, guesses, canaries = counts
    right = 1 / (1 + math.exp(-epsilon))
    chance = [
        math.comb(guesses, hits) * right**hits * (1 - right) ** (guesses - hits)
        for hits in range(guesses + 1)
    ]
    lifts = [sum(chance[max(correct - i, 0) : correct]) / i for i in range(1, canaries + 1)]
    expected = sum(chance[correct:]) + 2 * canaries * delta * max(lifts, default=0)
    found = p_value(correct, guesses, canaries, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(min(expected, 1), rel=1e-9)


@settings(max_examples=40)
@given(counts=COUNTS, delta=st.floats(0, 0.01))
def test_what_is_refuted_stays_refuted_for_every_smaller_epsilon(counts, delta):
    correct, guesses, canaries = counts
    chances = [
        p_value(correct, guesses, canaries, epsilon=epsilon, delta=delta)
        for epsilon in np.linspace(0, 8, 60)
    ]
    below = [chance for chance in chances if chance < 0.5]
    assert chances[: len(below)] == below and below == sorted(below)


@settings(max_examples=40)
@given(counts=COUNTS, delta=st.floats(0, 0.01))
def test_more_right_guesses_prove_more_and_a_larger_delta_less(counts, delta):
    correct, guesses, canaries = counts
    found = lower_bound(correct, guesses, canaries, delta=delta)
    assert found <= lower_bound(correct, guesses, canaries, delta=delta / 2) + 1e-9
    if correct:
        assert lower_bound(correct - 1, guesses, canaries, delta=delta) <= found + 1e-9


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomized_response_is_seldom_overestimated_and_approached_with_many_canaries(epsilon):
    def bound(canaries, repetition):
        included, stream = coins(canaries, "response", repetition)
        truthful = stream.random(canaries) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(truthful, included, ~included).astype(float)
        return audited(scores, included, delta=0.0, guesses=canaries).epsilon

    few = [bound(200, repetition) for repetition in range(200)]
    # 5 % may be above; 9 % would happen by chance once in a hundred such tests.
    assert np.mean(np.array(few) > epsilon) <= 0.09
    assert np.mean(np.array(few) > 0) > 0.9
    assert bound(100_000, "many") == pytest.approx(epsilon, abs=0.05)


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_the_gaussian_mechanism_keeps_what_is_proved_of_it(noise):
    import dp_accounting

    delta = 1e-5
    proved = dp_accounting.get_epsilon_gaussian(noise, delta)
    found = []
    for repetition in range(25):
        included, stream = coins(1000, "gaussian", repetition)
        scores = included + noise * stream.standard_normal(1000)
        found.append(audited(scores, included, delta=delta).epsilon)
    assert max(found) < proved
    assert np.median(found) > (proved / 3 if noise == 1 else 0)


def test_without_noise_a_thousand_canaries_refute_every_epsilon_below_five():
    included, _ = coins(1000, "bare")
    found = audited(included.astype(float), included, delta=1e-5)
    assert found.correct == found.guesses == 900
    assert 5 < found.epsilon < 6


def test_scores_that_know_nothing_prove_something_in_a_twentieth_of_audits_at_most():
    found = []
    for repetition in range(200):
        included, stream = coins(120, "nothing", repetition)
        scores = stream.standard_normal(120)
        found.append(audited(scores, included, delta=0.0).epsilon > 0)
    # Mostly far fewer; 9 % would happen by chance once in a hundred such tests.
    assert np.mean(found) <= 0.09


def test_the_best_of_several_numbers_of_guesses_is_held_to_a_stricter_confidence():
    included, stream = coins(300, "several")
    scores = included + 0.8 * stream.standard_normal(300)
    tries = (300, 60, 20)
    several = audited(scores, included, delta=1e-6, guesses=tries)
    alone = [
        audited(scores, included, delta=1e-6, guesses=one, confidence=1 - 0.05 / 3).epsilon
        for one in tries
    ]
    assert several.epsilon == max(alone)
    best = audited(scores, included, delta=1e-6, guesses=several.guesses)
    assert several.epsilon < best.epsilon


def test_guesses_are_the_ends_of_the_ranking_and_equal_scores_keep_their_order():
    scores = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
    included = np.array([True, False, False, True, True])
    assert guessed(scores, included, highest=1, lowest=0) == 1
    assert guessed(scores, included, highest=2, lowest=0) == 2
    assert guessed(scores, included, highest=3, lowest=2) == 3
    assert guessed(scores, included, highest=0, lowest=1) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: p_value(3, 2, 5, epsilon=1.0, delta=0.0), "3 correct of 2 guesses"),
        (lambda: p_value(1, 2, 5, epsilon=-1.0, delta=0.0), "audit.epsilon"),
        (lambda: lower_bound(1, 2, 5, delta=2.0), "audit.delta"),
        (lambda: lower_bound(1, 2, 5, delta=0.0, confidence=1.0), "audit.confidence"),
        (lambda: audited(np.zeros(4), np.ones(4, bool), delta=0.0, guesses=5), "audit.guesses"),
        (lambda: audited(np.zeros(4), np.ones(4, bool), delta=0.0, guesses=[]), "audit.guesses"),
        (lambda: audited(np.full(4, np.nan), np.ones(4, bool), delta=0.0), "4 of 4 scores are NaN"),
    ],
)
def test_what_cannot_be_audited_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
