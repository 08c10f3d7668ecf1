"""Thresholds make groups fare alike, at the highest accuracy that leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.config import build
from dai_lab.core import Evidence, Key, Sensitive
from dai_lab.fairness import highest, thresholds

EQUAL = ("odds", "opportunity", "parity")
SEEDS = st.integers(0, 10_000)
few = settings(max_examples=12)


def heard(scores, favorable, groups, *, count, sizes=None, reveal=lambda counts: counts.sum(0)):
    return Evidence(
        scores=torch.as_tensor(scores, dtype=torch.float32),
        favorable=torch.as_tensor(favorable, dtype=torch.bool),
        groups=torch.as_tensor(groups),
        count=count,
        sizes=torch.tensor([len(scores)] if sizes is None else sizes),
        reveal=reveal,
    )


def drawn(seed, size=600, groups=2, clients=1):
    """Draw people whose scores tell more of some groups than of others."""
    dice = np.random.default_rng(seed)
    group = dice.integers(0, groups, size)
    truth = dice.random(size) < 0.25 + 0.1 * group
    logit = dice.normal((2 * truth - 1) * (0.6 + 0.4 * group) - 0.3 * group, 1)
    # The middle of a bin, so that bins lose nothing.
    scores = (np.floor(1000 / (1 + np.exp(-logit))) + 0.5) / 1000
    sizes = np.bincount(dice.integers(0, clients, size), minlength=clients)
    return heard(scores, truth, group, count=groups, sizes=sizes)


def fitted(evidence, **knobs):
    return thresholds(lambda: evidence, key=Key(0), **knobs)


def chances(decide, evidence, repeats=1000):
    """Count how often each person is given the favorable answer, to about 0.015."""
    one = torch.arange(len(evidence.scores)).repeat(repeats)
    answers = decide(evidence.scores[one], evidence.groups[one])
    return answers.view(repeats, -1).double().mean(0)


def fares(chance, evidence):
    """Give each group's true positive, false positive and selection rates, and the accuracy."""
    truth = evidence.favorable
    groups = [evidence.groups == one for one in range(evidence.count)]
    rates = {
        "true": [chance[one & truth].mean() for one in groups],
        "false": [chance[one & ~truth].mean() for one in groups],
        "selected": [chance[one].mean() for one in groups],
    }
    found = {name: torch.stack(values) for name, values in rates.items()}
    return found, float(torch.where(truth, chance, 1 - chance).mean())


def gap(rates, equal):
    alike = {"odds": ("true", "false"), "opportunity": ("true",), "parity": ("selected",)}[equal]
    return max(float(rates[name].max() - rates[name].min()) for name in alike)


def best_single(evidence):
    """Try every threshold for all."""
    cuts = [*evidence.scores.unique().tolist(), 2.0]
    given = torch.stack([evidence.scores >= cut for cut in cuts])
    return float((given == evidence.favorable).double().mean(1).max())


@few
@given(seed=SEEDS, groups=st.integers(2, 4), equal=st.sampled_from(EQUAL))
def test_groups_fare_alike_on_what_thresholds_were_chosen_from(seed, groups, equal):
    evidence = drawn(seed, groups=groups)
    rates, _ = fares(chances(fitted(evidence, equal=equal), evidence), evidence)
    # 1,000 draws of each of at least some 30 people: a standard error of at most 0.003.
    assert gap(rates, equal) < 0.02


@few
@given(seed=SEEDS, equal=st.sampled_from(EQUAL))
def test_groups_that_are_alike_lose_nothing(seed, equal):
    one = drawn(seed, size=200, groups=1)
    group = torch.arange(2).repeat_interleave(200)
    twice = replace(
        one,
        scores=one.scores.repeat(2),
        favorable=one.favorable.repeat(2),
        groups=group,
        count=2,
        sizes=torch.tensor([400]),
    )
    decide = fitted(twice, equal=equal)
    answers = decide(twice.scores, group)
    assert torch.equal(answers, decide(twice.scores, 1 - group))
    assert float((answers == twice.favorable).double().mean()) == pytest.approx(best_single(one))


@settings(max_examples=6)
@given(seed=SEEDS, groups=st.integers(2, 4))
def test_what_asks_for_more_is_no_more_accurate(seed, groups):
    evidence = drawn(seed, groups=groups)
    odds, opportunity, parity = (
        fares(chances(fitted(evidence, equal=one), evidence), evidence)[1] for one in EQUAL
    )
    free = 0.0
    for one in range(groups):
        own = evidence.groups == one
        people = (evidence.scores[own], evidence.favorable[own], evidence.groups[own])
        free += best_single(heard(*people, count=groups)) * float(own.double().mean())
    assert odds <= opportunity + 1e-3 and max(opportunity, parity) <= free + 1e-3
    # To answer everybody alike is fair by any of them.
    base = float(evidence.favorable.double().mean())
    assert min(odds, parity) >= max(base, 1 - base) - 1e-3


@few
@given(seed=SEEDS, equal=st.sampled_from(EQUAL), counts=st.sampled_from(["federated", "local"]))
def test_within_a_group_a_higher_score_is_never_worse(seed, equal, counts):
    decide = fitted(drawn(seed, clients=5), equal=equal, counts=counts)
    ladder = torch.linspace(0, 1, 101)
    repeats = 2000
    for group in (0, 1):
        people = heard(ladder, ladder > 0, torch.full((101,), group), count=2)
        chance = chances(decide, people, repeats)
        # The highest of a hundred rates lies within five standard errors.
        assert (chance.cummax(0).values - chance).max() < 2 * 5 * (0.25 / repeats) ** 0.5


@few
@given(seed=SEEDS, equal=st.sampled_from(EQUAL))
def test_clients_whose_counts_are_summed_are_one_big_client(seed, equal):
    many = drawn(seed, clients=9)
    one = replace(many, sizes=torch.tensor([len(many.scores)]))
    people = (many.scores, many.groups)
    assert torch.equal(fitted(many, equal=equal)(*people), fitted(one, equal=equal)(*people))
    alone = [fitted(one, equal=equal, counts=counts)(*people) for counts in ("federated", "local")]
    assert torch.equal(*alone)


@few
@given(seed=SEEDS, equal=st.sampled_from(EQUAL), counts=st.sampled_from(["federated", "local"]))
def test_it_does_not_matter_which_client_comes_first(seed, equal, counts):
    evidence = drawn(seed, clients=7)
    owners = torch.arange(7).repeat_interleave(evidence.sizes)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    moved = torch.cat([(owners == one).nonzero().flatten() for one in order])
    other = replace(
        evidence,
        scores=evidence.scores[moved],
        favorable=evidence.favorable[moved],
        groups=evidence.groups[moved],
        sizes=evidence.sizes[order],
    )
    people = (evidence.scores, evidence.groups)
    knobs = {"equal": equal, "counts": counts}
    assert torch.equal(fitted(evidence, **knobs)(*people), fitted(other, **knobs)(*people))


@few
@given(seed=SEEDS, equal=st.sampled_from(EQUAL), scale=st.sampled_from([1.0, 30.0, 1e4]))
def test_noise_in_the_counts_leaves_answers(seed, equal, scale):
    evidence = drawn(seed)
    noise = torch.Generator().manual_seed(seed)

    def noisy(counts):
        return counts.sum(0) + scale * torch.randn(counts.shape[1], generator=noise)

    decide = fitted(replace(evidence, reveal=noisy), equal=equal, bins=50)
    chance = chances(decide, evidence, repeats=100)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert (decide(torch.ones(2), torch.arange(2)) >= decide(torch.zeros(2), torch.arange(2))).all()


def test_a_little_noise_costs_a_little():
    evidence = drawn(3, size=20_000)
    noise = torch.Generator().manual_seed(0)

    def noisy(counts):
        return counts.sum(0) + 10 * torch.randn(counts.shape[1], generator=noise)

    for equal in EQUAL:
        plain = fitted(evidence, equal=equal, bins=50)
        private = fitted(replace(evidence, reveal=noisy), equal=equal, bins=50)
        rates, right = fares(chances(private, evidence, 100), evidence)
        assert gap(rates, equal) < 0.05
        assert right > fares(chances(plain, evidence, 100), evidence)[1] - 0.02


def test_what_a_secure_sum_rounds_off_changes_nothing():
    evidence = drawn(1, clients=4)
    noise = torch.Generator().manual_seed(0)

    def rounded(counts):
        return counts.sum(0) + 0.4 * (2 * torch.rand(counts.shape[1], generator=noise) - 1)

    people = (evidence.scores, evidence.groups)
    exact, other = fitted(evidence), fitted(replace(evidence, reveal=rounded))
    assert torch.equal(exact(*people), other(*people))


def test_the_same_people_and_key_get_the_same_answers():
    evidence = drawn(0)
    people = (evidence.scores, evidence.groups)
    decide = fitted(evidence)
    assert torch.equal(decide(*people), decide(*people))
    assert torch.equal(decide(*people), fitted(evidence)(*people))
    other = thresholds(lambda: evidence, key=Key(1))
    assert not torch.equal(decide(*people), other(*people))


FIRST = [(0.95, True), (0.95, True), (0.15, False), (0.15, False)]
SECOND = [(0.95, True), (0.35, True), (0.35, False), (0.35, False), (0.35, False)]
WORKED = heard(
    [score for score, _ in FIRST + SECOND],
    [truth for _, truth in FIRST + SECOND],
    [0] * len(FIRST) + [1] * len(SECOND),
    count=2,
)
"""One group's scores are right; of the other's favorable examples one hides among three others."""


@pytest.mark.parametrize(
    ("equal", "first", "second"),
    [
        # Half of the second group's favorable examples can be found at no cost; more costs more
        # than it brings. So half it is, and in the first group a coin decides about all.
        ("odds", [0.5, 0.0], [1.0, 0.0]),
        ("opportunity", [0.5, 0.0], [1.0, 0.0]),
        # At half of each group selected the first is all right. One of five is half of the
        # second's 2.5; the other 1.5 are drawn of four.
        ("parity", [1.0, 0.0], [1.0, 0.375]),
    ],
)
def test_a_worked_example(equal, first, second):
    decide = fitted(WORKED, equal=equal, bins=10)
    people = heard([0.95, 0.15, 0.95, 0.35], [0] * 4, [0, 0, 1, 1], count=2)
    assert chances(decide, people, 20_000).tolist() == pytest.approx(first + second, abs=0.02)


@pytest.mark.parametrize(("bad", "slope"), [(10, 0.4), (5, 0.8)])
def test_where_hulls_cross_both_rates_are_those_of_the_crossing(bad, slope):
    # Out of 10 each, as (false, true) positive rates: one group's hull starts at (0, .6) and rises
    # with a slope to (bad / 10, 1), the other's rises from (0, 0) to (.2, 1). The best of their
    # corners is beside the crossing: at .6 true positives in one case, at all in the other.
    steps = {
        0: [(0.95, 6, 0), (0.45, 4, bad), (0.05, 0, 10 - bad)],
        1: [(0.75, 10, 2), (0.15, 0, 8)],
    }
    rows = [
        (score, truth, group)
        for group, bins in steps.items()
        for score, good, wrong in bins
        for truth in [True] * good + [False] * wrong
    ]
    evidence = heard(*zip(*rows, strict=True), count=2)
    rates, right = fares(chances(fitted(evidence, bins=10), evidence, 20_000), evidence)
    false = 0.6 / (5 - slope)  # where 5x is .6 + slope x
    assert rates["false"].tolist() == pytest.approx([false] * 2, abs=0.01)
    assert rates["true"].tolist() == pytest.approx([5 * false] * 2, abs=0.01)
    assert right == pytest.approx((1 + 4 * false) / 2, abs=0.005)


def test_nobody_is_left_to_a_draw_where_a_threshold_does_as_well():
    # Half of the first group's favorable examples are also found by a threshold between them.
    scores = WORKED.scores.clone()
    scores[1] = 0.85
    decide = fitted(replace(WORKED, scores=scores), bins=10)
    people = heard([0.95, 0.85] * 500, [True] * 1000, [0] * 1000, count=2)
    assert decide(people.scores, people.groups).tolist() == [True, False] * 500


def test_where_no_example_tells_thresholds_apart_one_half_stays():
    evidence = heard([0.1, 0.9] * 2, [False, True] * 2, [0, 0, 1, 1], count=2)
    for equal in EQUAL:
        decide = fitted(evidence, equal=equal)
        assert decide(torch.tensor([0.49, 0.51]), torch.tensor([0, 1])).tolist() == [False, True]


@pytest.mark.parametrize("counts", ["federated", "local"])
@pytest.mark.parametrize("equal", EQUAL)
def test_a_group_that_cannot_be_compared_gets_the_best_threshold_for_all(equal, counts):
    # Nobody is in group 2 at first, and then one person whose score misleads.
    scores = [0.7, 0.6, 0.7, 0.6, 0.7, 0.6]
    truth = [True, False, True, False, True, False]
    evidence = heard(scores, truth, [0, 0, 0, 1, 1, 1], count=3)
    decide = fitted(evidence, equal=equal, counts=counts)
    unseen = torch.full((2,), 2)
    assert decide(torch.tensor([0.62, 0.59]), unseen).tolist() == [True, False]
    for score, favored in ((0.9, False), (0.1, True)):
        lone = heard([*scores, score], [*truth, favored], [0, 0, 0, 1, 1, 1, 2], count=3)
        comparable = {"odds": False, "opportunity": favored, "parity": True}[equal]
        if not comparable:
            decide = fitted(lone, equal=equal, counts=counts)
            assert decide(torch.tensor([0.62, 0.59]), unseen).tolist() == [True, False]


@pytest.mark.parametrize("counts", ["federated", "local"])
def test_where_fewer_than_two_groups_can_be_compared_all_have_one_threshold(counts):
    # Of group 1 no favorable example is known: nothing says who of its people to prefer.
    scores, truth = [0.3, 0.2, 0.35, 0.35], [True, False, False, False]
    evidence = heard(scores, truth, [0, 0, 1, 1], count=2)
    decide = fitted(evidence, equal="odds", counts=counts)
    for group in (0, 1):
        answers = decide(torch.tensor([0.3, 0.6]), torch.full((2,), group))
        assert answers.tolist() == [False, True]


def test_local_answers_are_drawn_from_clients_that_hold_examples():
    # One would accept from .3 on, one from .8 on; the third holds nobody, the fourth no score.
    scores = [0.35, 0.25] * 2 + [0.85, 0.75] * 2 + [float("nan")] * 2
    truth = [True, False] * 4 + [True, True]
    groups = [0, 0, 1, 1] * 2 + [0, 1]
    evidence = heard(scores, truth, groups, count=2, sizes=[4, 4, 0, 2])
    decide = fitted(evidence, counts="local", equal="parity", bins=10)
    people = heard([0.25, 0.55, 0.85], [0] * 3, [0, 1, 0], count=2)
    assert chances(decide, people, 20_000).tolist() == pytest.approx([0, 0.5, 1], abs=0.02)


def test_the_server_sees_the_sum_of_whole_counts_and_locally_nothing():
    seen = []

    def reveal(counts):
        seen.append(counts)
        return counts.sum(0)

    evidence = replace(drawn(0, clients=3), reveal=reveal)
    fitted(evidence, counts="local")
    assert not seen
    fitted(evidence, bins=20)
    (counts,) = seen
    assert counts.shape == (3, 2 * 2 * 20)
    assert torch.equal(counts, counts.round())
    assert counts.sum(1).tolist() == evidence.sizes.tolist()


@pytest.mark.parametrize("counts", ["federated", "local"])
def test_without_any_score_one_half_decides_and_nan_is_refused(counts):
    lost = heard([float("nan")] * 2, [True, False], [0, 1], count=2)
    nobody = heard([], torch.zeros(0), torch.zeros(0, dtype=torch.long), count=2, sizes=[0, 0])
    scores = torch.tensor([0.4, 0.6, float("nan")])
    for evidence in (lost, nobody):
        decide = fitted(evidence, counts=counts)
        assert decide(scores, torch.tensor([0, 1, 1])).tolist() == [False, True, False]
    kind = fitted(heard([0.0] * 2, [True] * 2, [0, 1], count=2), counts=counts)
    assert kind(scores, torch.tensor([0, 1, 1])).tolist() == [True, True, False]


def test_the_class_with_the_highest_score_asks_nobody():
    assert highest(lambda: pytest.fail("asked"), key=Key(0)) is None


@pytest.mark.parametrize("bins", [1, 0, -5])
def test_too_few_bins_are_refused_before_anybody_is_asked(bins):
    with pytest.raises(ValueError, match=rf"^decision\.bins must be at least 2, got {bins}$"):
        thresholds(lambda: pytest.fail("asked"), key=Key(0), bins=bins)


@pytest.mark.parametrize(("knob", "value"), [("equal", "fair"), ("counts", "mine")])
def test_an_error_names_the_knob(knob, value):
    node = {"_target_": "dai_lab.fairness.thresholds", knob: value}
    with pytest.raises(ValueError, match=rf"^decision\.{knob} must be one of .*, got '{value}'$"):
        build(node, at="decision")


CONSTRAINTS = {
    "odds": "equalized_odds",
    "opportunity": "true_positive_rate_parity",
    "parity": "demographic_parity",
}


def by_fairlearn(evidence, equal):
    """Have fairlearn choose thresholds and say what chance everybody has."""
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator

    class Scores(BaseEstimator):
        """Whose features are its scores."""

        def fit(self, inputs, targets):
            return self

        def __sklearn_is_fitted__(self):
            return True

        def predict(self, inputs):
            return inputs[:, 0]

    inputs = evidence.scores.double().numpy()[:, None]
    groups = evidence.groups.numpy()
    found = ThresholdOptimizer(
        estimator=Scores(),
        constraints=CONSTRAINTS[equal],
        prefit=True,
        predict_method="predict",
    ).fit(inputs, evidence.favorable.long().numpy(), sensitive_features=groups)
    return torch.from_numpy(found._pmf_predict(inputs, sensitive_features=groups)[:, 1])


@settings(max_examples=4)
@given(seed=SEEDS, groups=st.integers(2, 4))
def test_fairlearn_agrees(seed, groups):
    evidence = drawn(seed, groups=groups)
    for equal in EQUAL:
        theirs, their_accuracy = fares(by_fairlearn(evidence, equal), evidence)
        ours, accuracy = fares(chances(fitted(evidence, equal=equal), evidence), evidence)
        # Theirs looks at 1,001 rates, ours at all; so ours is as good up to what is drawn, and
        # better by no more than a step of a thousandth brings.
        assert -1e-3 < accuracy - their_accuracy < 2e-3
        assert gap(theirs, equal) < 1e-9 and gap(ours, equal) < 0.01


@pytest.fixture(scope="module")
def adult():
    from sklearn.linear_model import LogisticRegression

    from dai_lab.data import adult

    data = adult()
    model = LogisticRegression(C=0.1, max_iter=30, tol=0.01)
    model.fit(data.train.inputs[:4000].numpy(), data.train.targets[:4000].numpy())

    def told(examples, attribute):
        sensitive = Sensitive.in_data(data, attribute)
        return heard(
            model.predict_proba(examples.inputs.numpy())[:, 1],
            examples.targets == sensitive.favorable,
            sensitive.of(examples),
            count=sensitive.count,
        )

    return data, told


@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_fairlearn_agrees_on_adult_and_gaps_stay_small_on_its_test_set(adult):
    data, told = adult
    learned, later = told(data.train, "sex"), told(data.test, "sex")
    for equal in EQUAL:
        _, their_accuracy = fares(by_fairlearn(learned, equal), learned)
        decide = fitted(learned, equal=equal)
        rates, accuracy = fares(chances(decide, learned, 40), learned)
        # A bin where thresholds lie holds less than a thousandth of the people.
        assert accuracy == pytest.approx(their_accuracy, abs=1e-3)
        assert gap(rates, equal) < 0.02
        rates, _ = fares(chances(decide, later, 40), later)
        plain, _ = fares((later.scores >= 0.5).double(), later)
        assert gap(rates, equal) < max(0.5 * gap(plain, equal), 0.06)


def test_many_groups_of_adult_fare_alike(adult):
    data, told = adult
    learned = told(data.train, "sex+race")
    assert learned.count == 10
    rates, _ = fares(chances(fitted(learned, equal="parity"), learned, 40), learned)
    assert gap(rates, "parity") < 0.02
