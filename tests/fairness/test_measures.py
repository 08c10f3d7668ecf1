"""Gaps depend on counts alone, are 0 for equals, never NaN, and their intervals hold."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.fairness import (
    by_group,
    calibration,
    cells,
    collaboration_gain,
    gaps,
    group_fairness,
    over_clients,
    reward_correlation,
)

GROUPS, CLASSES = 4, 3
PEOPLE = st.lists(
    st.tuples(
        st.integers(0, GROUPS - 1), st.integers(0, CLASSES - 1), st.integers(-1, CLASSES + 1)
    ),
    max_size=40,
)
"""Group, truth and answer; some answers are none."""


def counted(people, count=GROUPS, classes=CLASSES):
    groups, targets, predictions = torch.tensor(people, dtype=torch.long).reshape(-1, 3).T
    return cells(predictions, targets, groups, count=count, classes=classes)


def tabulated(people, scores=None, count=GROUPS, **knobs):
    groups, targets, predictions = torch.tensor(people, dtype=torch.long).reshape(-1, 3).T
    names = [f"group {number}" for number in range(count)]
    return by_group(predictions, targets, groups, scores, names=names, key=Key(0), **knobs)


def written(record):
    """Refuse what JSON does not know, such as NaN."""
    return json.loads(json.dumps(record, allow_nan=False))


@given(PEOPLE)
def test_every_example_is_in_the_cell_that_a_loop_puts_it_in(people):
    table = np.zeros((GROUPS, CLASSES, CLASSES + 1), dtype=int)
    for group, truth, answer in people:
        table[group, truth, answer if 0 <= answer < CLASSES else CLASSES] += 1
    assert counted(people).tolist() == table.tolist()


@given(PEOPLE, st.integers(0, CLASSES - 1), st.integers(1, 12))
def test_no_record_holds_nan_whoever_is_missing(people, favorable, minimum):
    found = group_fairness(counted(people), favorable=favorable, minimum=minimum)
    assert written(found) == found
    assert found["groups_measured"] + found["groups_too_small"] == GROUPS
    if found["groups_measured"] < 2:
        assert {found[name] for name in found if "difference" in name or "ratio" in name} == {None}


@given(PEOPLE, st.integers(0, CLASSES - 1), st.permutations(range(GROUPS)))
def test_renumbering_groups_changes_nothing_but_who_is_worst(people, favorable, order):
    ours = group_fairness(counted(people), favorable=favorable)
    moved = counted([(order[group], truth, answer) for group, truth, answer in people])
    theirs = group_fairness(moved, favorable=favorable)
    assert ours | {"worst_group": None} == theirs | {"worst_group": None}
    if ours["worst_group"] is not None:
        low = moved[theirs["worst_group"]]
        assert low.trace() / low.sum() == pytest.approx(ours["worst_group_accuracy"])


@given(PEOPLE, st.integers(0, CLASSES - 1), st.integers(2, 4))
def test_groups_of_people_alike_have_no_gap(people, favorable, copies):
    alike = [(copy, truth, answer) for _, truth, answer in people for copy in range(copies)]
    found = group_fairness(counted(alike), favorable=favorable)
    assert {found[name] for name in found if "difference" in name} <= {0.0, None}
    assert {found[name] for name in found if "ratio" in name} <= {1.0, None}


@given(PEOPLE, st.integers(2, 5))
def test_seeing_everybody_several_times_changes_no_measure(people, times):
    ours, theirs = group_fairness(counted(people)), group_fairness(counted(people * times))
    assert ours == pytest.approx(theirs)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), max_size=40))
def test_hoping_for_the_other_of_two_answers_leaves_parity_and_odds_as_they_are(people):
    # Every rate of the one answer is 1 less that of the other.
    ours, theirs = (group_fairness(counted(people, classes=2), favorable=hoped) for hoped in (0, 1))
    for name in ("demographic_parity", "equalized_odds", "accuracy"):
        assert ours[f"{name}_difference"] == pytest.approx(theirs[f"{name}_difference"])


@given(PEOPLE, st.integers(0, GROUPS - 1), st.integers(0, CLASSES - 1))
@settings(max_examples=40)
@pytest.mark.filterwarnings("ignore:group")
def test_no_answer_is_wrong_and_favorable_to_nobody(people, group, truth):
    before = tabulated(people, resamples=1).loc[group]
    after = tabulated([*people, (group, truth, -1)], resamples=1).loc[group]
    for rate in ("accuracy", "selection_rate", "true_positive_rate", "false_positive_rate"):
        grown = before["size"] * before[rate] if before["size"] else 0.0
        if rate in ("accuracy", "selection_rate"):
            assert after["size"] * after[rate] == pytest.approx(grown)
        elif not math.isnan(before[rate]):
            assert after[rate] <= before[rate]


def test_an_answered_loan_is_counted_as_by_hand():
    # Two groups of ten; so many with truth and answer 1 1, 1 0, 0 1 and 0 0.
    table = {0: (4, 1, 1, 4), 1: (1, 1, 2, 6)}
    kinds = [(1, 1), (1, 0), (0, 1), (0, 0)]
    people = [
        (group, *kind)
        for group, row in table.items()
        for kind, times in zip(kinds, row, strict=True)
        for _ in range(times)
    ]
    found = group_fairness(counted(people, count=3, classes=2), minimum=10)
    assert found == pytest.approx(
        {
            "demographic_parity_difference": 5 / 10 - 3 / 10,
            "demographic_parity_ratio": 3 / 5,
            "equalized_odds_difference": max(4 / 5 - 1 / 2, 2 / 8 - 1 / 5),
            "equalized_odds_ratio": min((1 / 2) / (4 / 5), (1 / 5) / (2 / 8)),
            "equal_opportunity_difference": 4 / 5 - 1 / 2,
            "predictive_parity_difference": 4 / 5 - 1 / 3,
            "accuracy_difference": 8 / 10 - 7 / 10,
            "error_rate_ratio": 2 / 3,
            "worst_group_accuracy": 7 / 10,
            "worst_group": 1,
            "groups_measured": 2,
            "groups_too_small": 1,
        }
    )


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"favorable": 3}, "fairness.favorable"),
        ({"favorable": -1}, "fairness.favorable"),
        ({"minimum": 0}, "fairness.minimum"),
        ({"resamples": 0}, "fairness.resamples"),
        ({"level": 1.0}, "fairness.level"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, says):
    with pytest.raises(ValueError, match=says):
        gaps(counted([(0, 1, 1), (1, 0, 1)]), **knobs, key=Key(0))


@pytest.mark.parametrize("person", [(GROUPS, 0, 0), (-1, 0, 0), (0, CLASSES, 0), (0, -1, 0)])
def test_a_stranger_is_not_counted_as_somebody_else(person):
    with pytest.raises(ValueError, match=r"must be in 0\.\.\d+, got"):
        counted([(0, 0, 0), person])


# Intervals


def world(sizes, base, hits, alarms):
    """How likely each group, truth and answer is, and how many examples there are."""
    sizes = np.array(sizes, dtype=float)
    base, hits, alarms = (np.broadcast_to(one, sizes.shape) for one in (base, hits, alarms))
    favored = np.stack([base * (1 - hits), base * hits], axis=-1)
    others = np.stack([(1 - base) * (1 - alarms), (1 - base) * alarms], axis=-1)
    chances = np.stack([others, favored], axis=1) * (sizes / sizes.sum())[:, None, None]
    return chances, int(sizes.sum())


def tables(chances, examples, draws):
    drawn = np.random.default_rng(7).multinomial(examples, chances.ravel(), size=draws)
    drawn = drawn.reshape(draws, *chances.shape)
    return torch.from_numpy(np.pad(drawn, [(0, 0)] * 3 + [(0, 1)]))


def truths(chances):
    """Measure so many examples that chances are rates."""
    return group_fairness(
        torch.from_numpy(np.pad((chances * 1e9).round().astype(int), [(0, 0)] * 2 + [(0, 1)]))
    )


WORLDS = {
    "two alike": world([200, 200], 0.4, 0.7, 0.2),
    "two apart": world([270, 90], [0.3, 0.5], [0.6, 0.8], [0.1, 0.3]),
    "five alike": world([200] * 5, 0.4, 0.7, 0.2),
    "six mixed": world(
        [400, 200, 60, 50, 40, 40],
        [0.3, 0.35, 0.4, 0.5, 0.4, 0.3],
        [0.7, 0.7, 0.6, 0.5, 0.8, 0.7],
        [0.1, 0.2, 0.1, 0.3, 0.2, 0.15],
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_of_gaps_cover_the_truth_also_where_there_is_no_gap(name):
    chances, examples = WORLDS[name]
    truth, draws, covered = truths(chances), 200, {}
    for number, counts in enumerate(tables(chances, examples, draws)):
        for measure, (value, low, high) in gaps(counts, resamples=300, key=Key(number)).items():
            assert 0 <= low <= value <= high <= 1
            # Chances were rounded to a billionth.
            holds = low - 1e-6 <= truth[measure] <= high + 1e-6
            covered[measure] = covered.get(measure, 0) + holds
    assert len(covered) == 9 and min(covered.values()) >= 0.9 * draws, covered


def test_intervals_close_in_on_the_truth():
    chances, _ = WORLDS["six mixed"]
    [counts] = tables(chances, 10_000_000, 1)
    for measure, (value, low, high) in gaps(counts, key=Key(0)).items():
        assert high - low < 0.02 and value == pytest.approx(truths(chances)[measure], abs=0.01)


@pytest.mark.parametrize("name", ["two alike", "six mixed"])
def test_intervals_of_rates_cover_the_truth_in_small_groups(name):
    chances, examples = WORLDS[name]
    draws, covered, asked = 60, 0, 0
    size, hits, alarms = (chances.sum(axis=(1, 2)), chances[:, 1, 1], chances[:, 0, 1])
    truth = {
        "selection_rate": (hits + alarms) / size,
        "true_positive_rate": hits / chances[:, 1].sum(axis=1),
        "false_positive_rate": alarms / chances[:, 0].sum(axis=1),
        "precision": hits / (hits + alarms),
        "accuracy": (hits + chances[:, 0, 0]) / size,
    }
    for counts in tables(chances, examples // 4, draws):
        people = [
            place for place, times in np.ndenumerate(counts[..., :2].numpy()) for _ in range(times)
        ]
        frame = tabulated(people, count=len(chances), resamples=400)
        for rate, value in truth.items():
            known = frame[rate].notna()
            inside = (frame[f"{rate}_low"] <= value) & (value <= frame[f"{rate}_high"])
            covered, asked = covered + (inside & known).sum(), asked + known.sum()
    assert 0.93 < covered / asked < 0.975


@given(PEOPLE, st.integers(1, 12))
@settings(max_examples=50)
def test_a_gap_has_an_interval_exactly_where_it_has_a_value(people, minimum):
    counts = counted(people)
    ours, theirs = (
        gaps(counts, minimum=minimum, resamples=9, key=Key(0)),
        group_fairness(counts, minimum=minimum),
    )
    assert written(ours).keys() == {name for name in theirs if "group" not in name} | {
        "worst_group_accuracy"
    }
    for name, found in ours.items():
        assert (found is None) == (theirs[name] is None)
        if found is not None:
            assert found[0] == theirs[name] and found[1] <= found[0] <= found[2]


def test_three_of_three_is_no_certainty():
    row = tabulated([(0, 1, 1)] * 3, count=1).loc[0]
    # Beta(3 + 1/2, 0 + 1/2) has its 2.5 % quantile at 0.47.
    assert row["true_positive_rate_high"] == 1
    assert row["true_positive_rate_low"] == pytest.approx(0.47, abs=0.05)


def test_the_same_key_draws_the_same_intervals():
    counts = counted([(number % 3, number % 2, (number // 3) % 2) for number in range(60)])
    one, same, other = (gaps(counts, key=Key(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_a_table_says_who_is_too_few_and_warns_by_name():
    people = [(0, 1, 1)] * 12 + [(1, 0, 1)] * 3
    scores = torch.tensor([0.75] * 12 + [0.5] * 3)
    with pytest.warns(UserWarning, match="'group 1' has 3 of the 10 examples") as told:
        frame = tabulated(people, scores, count=2, minimum=10)
    assert len(told) == 1
    assert frame["name"].tolist() == ["group 0", "group 1"]
    assert frame["too_small"].tolist() == [False, True]
    assert frame["share"].tolist() == pytest.approx([0.8, 0.2])
    assert frame["calibration_offset"].tolist() == pytest.approx([-0.25, 0.5])
    assert math.isnan(frame["true_positive_rate"][1]) and frame["false_positive_rate"][1] == 1


# Clients

ACCURACIES = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=30)


def evenness(values):
    return over_clients(torch.tensor(values, dtype=torch.float64))


@given(ACCURACIES)
def test_evenness_is_what_its_definitions_say(values):
    assume(sum(values) > 1e-6)
    found, count, total = evenness(values), len(values), math.fsum(values)
    apart = math.fsum(abs(one - other) for one in values for other in values)
    shares = [value / total for value in values]
    assert written(found) == pytest.approx(
        {
            "variance": np.var(values),
            "worst10": np.mean(sorted(values)[: max(1, count // 10)]),
            "jain": total**2 / (count * math.fsum(value**2 for value in values)),
            "cosine": np.dot(values, np.ones(count)) / (np.linalg.norm(values) * math.sqrt(count)),
            "entropy": -math.fsum(share * math.log(share) for share in shares if share > 0),
            "gini": apart / (2 * count * total),
        },
        rel=1e-9,
        abs=1e-9,
    )


@given(ACCURACIES, st.floats(0.1, 1), st.integers(0, 3))
def test_evenness_sees_neither_order_nor_scale_nor_absent_clients(values, scale, absent):
    assume(sum(values) > 1e-6)
    moved = [value * scale for value in reversed(values)] + [math.nan] * absent
    ours, theirs = evenness(values), evenness(moved)
    for name in ("jain", "cosine", "entropy", "gini"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_clients_alike_are_even_also_when_nothing_is_right(value):
    assert evenness([value] * 4) == pytest.approx(
        {
            "variance": 0,
            "worst10": value,
            "jain": 1,
            "cosine": 1,
            "entropy": math.log(4),
            "gini": 0,
        }
    )


def test_one_client_having_all_is_as_uneven_as_can_be():
    found = evenness([0.0, 0.0, 0.0, 1.0])
    assert found["jain"] == pytest.approx(1 / 4) and found["gini"] == pytest.approx(3 / 4)
    assert found["entropy"] == 0 and found["cosine"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("values", [[], [math.nan], [-0.1, 0.5]])
def test_evenness_of_nobody_or_below_nothing_is_refused(values):
    with pytest.raises(ValueError, match=r"client|accuracies"):
        evenness(values)


def test_rewards_in_proportion_correlate_and_equal_rewards_say_nothing():
    assert reward_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert reward_correlation([3, 2, 1], [10, 20, 30]) == pytest.approx(-1)
    assert reward_correlation([1, 2, math.nan, 3], [2, 4, 9, 6]) == pytest.approx(1)
    assert reward_correlation([5, 5, 5], [10, 20, 30]) is None
    assert reward_correlation([1, 2], [1, math.nan]) is None


def test_harm_in_proportion_to_merit_correlates_and_shows_as_a_loss():
    alone, together = [0.5, 0.7, 0.9], [0.3, 0.5, 0.7]
    assert reward_correlation(together, alone) == pytest.approx(1)
    assert collaboration_gain(together, alone) == pytest.approx(
        {"mean_collaboration_gain": -0.2, "collaboration_gain_spread": 0}
    )


def test_gains_have_a_mean_and_a_spread():
    assert collaboration_gain([0.9, 0.8, math.nan], [0.5, 0.6, 0.1]) == pytest.approx(
        {"mean_collaboration_gain": 0.3, "collaboration_gain_spread": 0.1}
    )
    with pytest.raises(ValueError, match="cannot pair"):
        reward_correlation([1, 2], [1])
    with pytest.raises(ValueError, match="no client"):
        collaboration_gain([], [])


# Calibration


@pytest.mark.parametrize("scores", [[-0.1, 0.5], [0.5, 1.1]])
def test_a_score_that_is_no_probability_is_refused(scores):
    with pytest.raises(ValueError, match="probabilities"):
        calibration(torch.tensor(scores), torch.tensor([0, 1]), torch.tensor([0, 1]), count=2)


def test_an_unknown_score_leaves_its_group_unknown_and_no_other():
    scores = torch.tensor([0.25, math.nan, 0.75, 0.5])
    groups, targets = torch.tensor([0, 1, 0, 3]), torch.tensor([0, 1, 1, 1])
    found = calibration(scores, targets, groups, count=4)
    assert found.error == (0.25, None, None, 0.5) and found.error_spread == 0.25
    assert found.offset == (0.0, None, None, -0.5) and found.offset_spread == 0.5
    assert calibration(scores, targets, groups, count=4, minimum=2).error_spread is None
