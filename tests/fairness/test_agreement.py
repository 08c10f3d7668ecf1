"""Measures are fairlearn's; where a rate does not exist, fairlearn says 0 and we say nothing."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn import metrics as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, precision_score, zero_one_loss

from dai_lab.core import Examples, Sensitive
from dai_lab.fairness import calibration, cells, group_fairness

PERSON = st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 1))
"""Group, truth and answer."""
EXACT = {"rel": 1e-9, "abs": 1e-9}

OFFICIAL = {
    "demographic_parity_difference": theirs.demographic_parity_difference,
    "demographic_parity_ratio": theirs.demographic_parity_ratio,
    "equalized_odds_difference": theirs.equalized_odds_difference,
    "equalized_odds_ratio": theirs.equalized_odds_ratio,
    "equal_opportunity_difference": theirs.equal_opportunity_difference,
}


def precision(truth, answer):
    return precision_score(truth, answer, zero_division=0)


def true_positive_rate(truth, answer):
    return theirs.true_positive_rate(truth, answer, pos_label=1)


def false_positive_rate(truth, answer):
    return theirs.false_positive_rate(truth, answer, pos_label=1)


def anybody(truth, answer):
    return np.full(len(truth), True)


RATES = {
    "demographic_parity_difference": [(theirs.selection_rate, anybody)],
    "demographic_parity_ratio": [(theirs.selection_rate, anybody)],
    "equal_opportunity_difference": [(true_positive_rate, lambda truth, answer: truth == 1)],
    "equalized_odds_difference": [
        (true_positive_rate, lambda truth, answer: truth == 1),
        (false_positive_rate, lambda truth, answer: truth == 0),
    ],
    "equalized_odds_ratio": [
        (true_positive_rate, lambda truth, answer: truth == 1),
        (false_positive_rate, lambda truth, answer: truth == 0),
    ],
    "predictive_parity_difference": [(precision, lambda truth, answer: answer == 1)],
    "accuracy_difference": [(accuracy_score, anybody)],
    "error_rate_ratio": [(zero_one_loss, anybody)],
}
"""Rates each measure compares, and whom each is a share of: without them it does not exist."""


def columns(people):
    return np.array(people).reshape(-1, 3).T


def ours(people, count=5, classes=2, **knobs):
    groups, targets, predictions = (torch.from_numpy(one.copy()) for one in columns(people))
    counts = cells(predictions, targets, groups, count=count, classes=classes)
    return group_fairness(counts, **knobs)


def frame(rate, groups, truth, answer):
    # fairlearn squeezes the array of a single person away, and not a series.
    features = pd.Series(groups)
    return theirs.MetricFrame(
        metrics=rate, y_true=truth, y_pred=answer, sensitive_features=features
    )


def expected(measure, groups, truth, answer, accuracy=None):
    """What fairlearn says of the groups that have the rate; ``None`` if those are fewer than 2."""
    found = []
    for rate, base in RATES[measure]:
        having = np.isin(groups, groups[base(truth, answer)])
        if len(np.unique(groups[having])) < 2:
            return None
        table = frame(rate, groups[having], truth[having], answer[having])
        found.append(table.ratio() if measure.endswith("ratio") else table.difference())
    if any(math.isnan(value) for value in found):
        return None
    return min(found) if measure.endswith("ratio") else max(found)


def agrees(found, wanted):
    return found is None if wanted is None else found == pytest.approx(wanted, **EXACT)


@given(st.lists(PERSON, max_size=40), st.sets(st.integers(0, 4), min_size=2))
@settings(max_examples=10)
def test_where_every_rate_exists_the_measures_are_fairlearns_own(people, present):
    some = [person for person in people if person[0] in present]
    one_each = [
        (group, truth, answer) for group in present for truth in (0, 1) for answer in (0, 1)
    ]
    people = some + one_each
    groups, truth, answer = columns(people)
    found = ours(people)
    for measure, function in OFFICIAL.items():
        wanted = function(truth, answer, sensitive_features=groups)
        assert found[measure] == pytest.approx(wanted, **EXACT), measure
    rates = frame(accuracy_score, groups, truth, answer)
    assert found["worst_group_accuracy"] == pytest.approx(rates.group_min(), **EXACT)
    assert rates.by_group[found["worst_group"]] == pytest.approx(rates.group_min(), **EXACT)
    assert found["groups_measured"] == len(present)


@given(st.lists(PERSON, min_size=1, max_size=30), st.integers(1, 6))
@settings(max_examples=20)
@pytest.mark.filterwarnings("ignore")
def test_a_gap_is_fairlearns_over_the_groups_that_are_large_enough_and_have_the_rate(
    people, minimum
):
    groups, truth, answer = columns(people)
    large = np.bincount(groups, minlength=5)[groups] >= minimum
    found = ours(people, minimum=minimum)
    for measure in RATES:
        wanted = expected(measure, groups[large], truth[large], answer[large])
        assert agrees(found[measure], wanted), (measure, found[measure], wanted)
    assert found["groups_measured"] == len(np.unique(groups[large]))


@given(st.lists(PERSON, min_size=1, max_size=30))
@settings(max_examples=10)
@pytest.mark.filterwarnings("ignore")
def test_we_differ_from_fairlearn_exactly_where_it_takes_a_missing_rate_for_0(people):
    groups, truth, answer = columns(people)
    found = ours(people)
    for measure, base in (
        ("equal_opportunity_difference", truth == 1),
        ("predictive_parity_difference", answer == 1),
    ):
        [(rate, _)] = RATES[measure]
        table, having = frame(rate, groups, truth, answer), np.unique(groups[base])
        lacking = [group for group in np.unique(groups) if group not in having]
        assert (table.by_group[lacking] == 0).all()
        if not lacking and len(having) > 1:
            assert found[measure] == pytest.approx(table.difference(), **EXACT)
        elif len(having) < 2:
            assert found[measure] is None
        else:
            assert table.difference() == pytest.approx(table.group_max(), **EXACT)
            known = table.by_group[having]
            assert found[measure] == pytest.approx(known.max() - known.min(), **EXACT)


def test_we_say_nothing_of_one_group_or_of_0_over_0_where_fairlearn_says_0_and_nan():
    alone = [(0, 1, 1), (0, 0, 1), (0, 0, 0), (0, 1, 0)]
    groups, truth, answer = columns(alone)
    assert theirs.demographic_parity_difference(truth, answer, sensitive_features=groups) == 0
    assert theirs.demographic_parity_ratio(truth, answer, sensitive_features=groups) == 1
    assert ours(alone)["demographic_parity_difference"] is None
    assert ours(alone)["demographic_parity_ratio"] is None
    nobody = [(0, 1, 0), (0, 0, 0), (1, 1, 0), (1, 0, 0)]
    groups, truth, answer = columns(nobody)
    with warnings.catch_warnings(action="ignore"):
        assert math.isnan(theirs.demographic_parity_ratio(truth, answer, sensitive_features=groups))
    assert ours(nobody)["demographic_parity_ratio"] is None
    assert ours(nobody)["demographic_parity_difference"] == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(-1, 3)),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 3),
)
@settings(max_examples=10)
@pytest.mark.filterwarnings("ignore")
def test_of_many_classes_the_favorable_one_stands_against_the_rest_and_no_answer_is_wrong(
    people, favorable
):
    groups, truth, answer = columns(people)
    found = ours(people, classes=4, favorable=favorable)
    hoped, given_it = (truth == favorable).astype(int), (answer == favorable).astype(int)
    for measure in RATES:
        whole = measure in ("accuracy_difference", "error_rate_ratio")
        wanted = expected(measure, groups, *((truth, answer) if whole else (hoped, given_it)))
        assert agrees(found[measure], wanted), measure


@given(st.lists(st.tuples(*[st.integers(0, n) for n in (1, 2, 1, 1)]), min_size=1, max_size=30))
@settings(max_examples=10)
@pytest.mark.filterwarnings("ignore")
def test_intersections_are_fairlearns(people):
    sex, race, truth, answer = np.array(people).T.copy()
    examples = Examples(
        torch.zeros(len(people), 1),
        torch.from_numpy(truth),
        {"sex": torch.from_numpy(sex), "race": torch.from_numpy(race)},
    )
    sensitive = Sensitive(("sex", "race"), (2, 3))
    groups = sensitive.of(examples)
    counts = cells(
        torch.from_numpy(answer), examples.targets, groups, count=sensitive.count, classes=2
    )
    found = group_fairness(counts)
    both = pd.DataFrame({"sex": sex, "race": race})
    table = theirs.MetricFrame(
        metrics={"selected": theirs.selection_rate, "right": accuracy_score},
        y_true=truth,
        y_pred=answer,
        sensitive_features=both,
    )
    # fairlearn lists every combination, those of nobody with NaN.
    crowded = table.by_group.dropna()
    assert found["groups_measured"] == len(crowded)
    assert found["worst_group_accuracy"] == pytest.approx(crowded["right"].min(), **EXACT)
    if len(crowded) > 1:
        wanted = theirs.demographic_parity_difference(truth, answer, sensitive_features=both)
        assert found["demographic_parity_difference"] == pytest.approx(wanted, **EXACT)


SCORES = st.one_of(st.integers(0, 20).map(lambda twentieth: twentieth / 20), st.floats(0, 1))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), SCORES), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_calibration_is_that_of_scikit_learn_and_of_a_loop(people, bins):
    groups, targets, scores = (np.array(one) for one in zip(*people, strict=True))
    found = calibration(
        torch.from_numpy(scores),
        torch.from_numpy(targets),
        torch.from_numpy(groups),
        count=3,
        bins=bins,
    )
    errors, offsets, edges = [], [], np.linspace(0, 1, bins + 1)
    for group in range(3):
        mine = [(score, target) for one, target, score in people if one == group]
        if not mine:
            assert found.error[group] is None and found.offset[group] is None
            continue
        held = [
            [pair for pair in mine if sum(edge < pair[0] for edge in edges[1:-1]) == number]
            for number in range(bins)
        ]
        held = [pairs for pairs in held if pairs]
        happened, claimed = calibration_curve(
            [target for _, target in mine], [score for score, _ in mine], n_bins=bins
        )
        sizes = np.array([len(pairs) for pairs in held])
        means = np.array([np.mean(pairs, axis=0) for pairs in held])
        assert np.allclose(means, np.stack([claimed, happened], axis=1), rtol=0, atol=1e-12)
        errors.append(float(sizes @ abs(happened - claimed)) / len(mine))
        offsets.append(float(np.mean([score - target for score, target in mine])))
        assert found.error[group] == pytest.approx(errors[-1], **EXACT)
        assert found.offset[group] == pytest.approx(offsets[-1], **EXACT)
        assert abs(found.offset[group]) <= found.error[group] + 1e-12
    spreads = (found.error_spread, found.offset_spread)
    assert spreads == (
        pytest.approx((max(errors) - min(errors), max(offsets) - min(offsets)), **EXACT)
        if len(errors) > 1
        else (None, None)
    )
