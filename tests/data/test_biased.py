"""A bias of known strength is exactly as strong as it says, and falls on nobody else."""

import math
from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import floats

from dai_lab.data import adult, biased, compas, credit_default, digits, law_school, planted

CHANCE = floats(0, 1)
SMALL = planted(examples=400, shares=(0.5, 0.3, 0.2), sensitive="drop")


def small():
    return SMALL


PEOPLE = cache(adult)


def rows(examples):
    """List people as they can be told apart: the first feature is nobody else's."""
    columns = examples.inputs[:, 0], examples.attributes["group"], examples.targets
    return {one: rest for one, *rest in zip(*(column.tolist() for column in columns), strict=True)}


@given(value=st.integers(0, 2), favorable=st.integers(0, 1), flip=CHANCE, drop=CHANCE, keep=CHANCE)
def test_nobody_else_is_touched_nor_any_test_example_nor_any_label_but_from_favorable(
    value, favorable, flip, drop, keep
):
    chances = {"flip": flip, "drop": drop, "keep": keep}
    data = biased(of=small, attribute="group", value=value, favorable=favorable, **chances)
    before, after = rows(SMALL.train), rows(data.train)
    assert data.test is SMALL.test and data.card.sha256 == SMALL.card.sha256
    assert list(after) == [one for one in before if one in after]
    for one, (group, label) in before.items():
        if group != value:
            assert after[one] == [group, label]
        elif one in after:
            assert after[one] in ([group, label], [group, 1 - favorable])


@given(knob=st.sampled_from(["flip", "drop", "keep"]), weak=CHANCE, strong=CHANCE)
def test_more_bias_of_one_seed_hits_the_same_and_others(knob, weak, strong):
    weak, strong = sorted((weak, strong))
    one, other = (
        rows(biased(of=small, attribute="group", **{knob: chance}).train)
        for chance in (weak, strong)
    )
    if knob == "keep":
        assert one.items() <= other.items()
    elif knob == "drop":
        assert other.items() <= one.items()
    else:
        assert all(label >= other[person][1] for person, (_, label) in one.items())


def test_no_bias_is_the_data_themselves_and_all_of_it_leaves_nobody_favored_or_nobody():
    plain = biased(of=small, attribute="group").train
    assert plain.inputs.equal(SMALL.train.inputs) and plain.targets.equal(SMALL.train.targets)
    size = int((SMALL.train.attributes["group"] == 0).sum())
    flipped, dropped, left_out = (
        biased(of=small, attribute="group", **knob).train
        for knob in ({"flip": 1.0}, {"drop": 1.0}, {"keep": 0.0})
    )
    for one in (flipped, dropped):
        assert int(one.targets[one.attributes["group"] == 0].sum()) == 0
    assert len(flipped) == len(SMALL.train)
    assert len(left_out) == len(SMALL.train) - size
    assert 0 not in left_out.attributes["group"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("flip", "drop", "keep"),
    [(0.3, 0.0, 1.0), (0.0, 0.6, 1.0), (0.0, 0.0, 0.2), (0.2, 0.5, 1.0), (0.4, 0.3, 0.5)],
)
def test_the_groups_base_rate_is_what_the_docstring_says_within_chance(flip, drop, keep, seed):
    before = PEOPLE().train
    data = biased(of=PEOPLE, flip=flip, drop=drop, keep=keep, seed=seed)
    women = data.train.attributes["sex"] == 0
    was = before.targets[before.attributes["sex"] == 0].double()
    rate = float(was.mean())
    expected = rate * (1 - flip) * (1 - drop) / (1 - rate * drop)
    found = data.train.targets[women].double()
    # Four standard deviations of as many coins: what is sampled from a whole varies less.
    assert float(found.mean()) == pytest.approx(
        expected, abs=4 * math.sqrt(expected * (1 - expected) / len(found))
    )
    size = keep * (1 - rate * drop)
    assert len(found) == pytest.approx(
        size * len(was), abs=4 * math.sqrt(size * (1 - size) * len(was)) + 1e-9
    )
    assert "adult, biased against Female (flip" in data.card.name


def test_the_group_of_two_attributes_and_the_class_hoped_for_are_those_named():
    data, plain = biased(of=compas, attribute="sex+race", value=3, favorable=0, drop=1.0), compas()
    assert "against male, Caucasian" in data.card.name
    hit, was = (
        (one.train.attributes["sex"] == 1) & (one.train.attributes["race"] == 1)
        for one in (data, plain)
    )
    assert set(data.train.targets[hit].tolist()) == {1}
    assert len(data.train) == len(plain.train) - int((was & (plain.train.targets == 0)).sum())


@pytest.mark.parametrize(
    ("load", "favorable", "name"),
    [
        (adult, 1, "above 50K"),
        (compas, 0, "not charged again"),
        (law_school, 1, "passed"),
        (credit_default, 0, "pays"),
    ],
)
def test_what_a_docstring_says_people_hope_for_is_the_class_of_that_name(load, favorable, name):
    assert f"class {favorable} is favorable" in " ".join(load.__doc__.split())
    assert load().names["classes"][favorable] == name


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"flip": 1.5}, r"data.flip must be in \[0, 1\], got 1.5"),
        ({"drop": float("nan")}, r"data.drop must be in \[0, 1\], got nan"),
        ({"keep": -0.1}, r"data.keep must be in \[0, 1\], got -0.1"),
        ({"attribute": "sex"}, "data.attribute must be .*group.*, got 'sex'"),
        ({"favorable": 2}, r"data.favorable must be a class in 0..1, got 2"),
        ({"value": 3}, r"data.value must be in 0..2 \(group 0; group 1; group 2\), got 3"),
        ({"of": digits, "flip": 0.1}, "data.flip calls .* digits has 10: choose another data.of"),
    ],
)
def test_an_impossible_bias_is_refused_in_one_line_that_names_the_knob(knobs, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        biased(**{"of": small, "attribute": "group", **knobs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"examples": 0}, "data.examples must be at least 1, got 0"),
        ({"features": 0}, "data.features must be at least 1, got 0"),
        ({"strength": 0.0}, "data.strength must be above 0, got 0.0"),
        ({"shares": [1.0]}, "data.shares must be two or more"),
        ({"shares": [0.5, 0.6]}, r"data.shares must be .* add up to 1, got \[0.5, 0.6\]"),
        ({"sensitive": "hide"}, "data.sensitive must be 'keep' or 'drop', got 'hide'"),
    ],
)
def test_an_impossible_world_is_refused_in_one_line_that_names_the_knob(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        planted(**knobs)


def phi(x):
    """Say how much of a normal distribution lies below."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_people_of_a_fair_world_differ_in_nothing_but_number():
    data = planted(examples=40_000, shares=(0.5, 0.3, 0.2))
    for part in (data.train, data.test):
        sizes = part.attributes["group"].bincount() / len(part)
        torch.testing.assert_close(sizes, torch.tensor([0.5, 0.3, 0.2]), atol=0.01, rtol=0)
        for group in range(3):
            mine = part.some((part.attributes["group"] == group).nonzero().flatten())
            error = 4 / math.sqrt(len(mine))
            assert float(mine.targets.double().mean()) == pytest.approx(0.5, abs=error / 2)
            assert mine.inputs[:, :8].mean(0).abs().max() < error
            assert (mine.inputs[:, 8:].argmax(1) == group).all()
    assert not data.train.inputs.equal(data.test.inputs)
    assert planted(sensitive="drop").shape == (8,)


@pytest.mark.parametrize("drop", [0.0, 0.5, 0.8])
def test_the_gap_that_fairlearn_measures_of_sklearns_model_is_the_one_that_was_planted(drop):
    from fairlearn.metrics import (
        demographic_parity_difference,
        equal_opportunity_difference,
        selection_rate,
    )
    from sklearn.linear_model import LogisticRegression

    fair = partial(planted, examples=40_000, shares=(0.5, 0.5))
    data = biased(of=fair, attribute="group", value=1, drop=drop)
    model = LogisticRegression(C=1e6, fit_intercept=False)
    model.fit(data.train.inputs.numpy(), data.train.targets.numpy())
    weights = model.coef_[0]
    assert weights[:8] == pytest.approx([2 / math.sqrt(8)] * 8, abs=0.06)
    assert weights[9] - weights[8] == pytest.approx(math.log(1 - drop), abs=0.1)
    said = model.predict(data.test.inputs.numpy())
    group, true = data.test.attributes["group"].numpy(), data.test.targets.numpy()
    assert selection_rate(true[group == 0], said[group == 0]) == pytest.approx(0.5, abs=0.015)
    parity = demographic_parity_difference(true, said, sensitive_features=group)
    assert parity == pytest.approx(0.5 - phi(math.log(1 - drop) / 2), abs=0.015)
    # Opportunity in closed form is an integral: the mean over log-odds of those truly favorable.
    odds = 2 * torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    weight = (-((odds / 2) ** 2) / 2).exp() * odds.sigmoid()
    reached = [float(weight[odds > cut].sum() / weight.sum()) for cut in (0, -math.log(1 - drop))]
    opportunity = equal_opportunity_difference(true, said, sensitive_features=group)
    assert opportunity == pytest.approx(reached[0] - reached[1], abs=0.02)
