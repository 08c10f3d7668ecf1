"""Properties, attributes and sources are guessed where they show, and not where they do not."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Compute, Examples, Key, Shards, State, Task, cross_entropy
from dai_lab.data import mnist10k
from dai_lab.learning import sgd
from dai_lab.models import create, logistic, mlp
from dai_lab.privacy.audits import inference, shadows

KEY = Key(3)
SEEDS = st.integers(0, 999)


@given(seed=SEEDS, half=st.integers(1, 5), size=st.integers(1, 20))
def test_half_of_the_clients_hold_the_larger_share_and_nobody_an_example_twice(seed, half, size):
    having = torch.arange(60) % 3 == 0
    shards, many = inference.property_shards(
        having, clients=2 * half, size=size, shares=(0.25, 0.75), key=Key(seed)
    )
    assert int(many.sum()) == half
    for client in range(2 * half):
        held = shards[client]
        assert len(held) == len(held.unique()) == size
        share = 0.75 if many[client] else 0.25
        assert int(having[held].sum()) == round(share * size)


def test_what_share_of_a_clients_digits_is_odd_shows_in_its_update():
    data = mnist10k()
    # What the attacker learns from and whom it judges hold different digits.
    model = create(logistic, shape=data.shape, classes=10, key=KEY / "model")
    seen = []
    for part in (0, 1):
        pool = data.train.some(torch.arange(3000 * part, 3000 * (part + 1)))
        shards, many = inference.property_shards(
            pool.targets % 2 == 1, clients=60, size=60, shares=(0.4, 0.6), key=KEY / part
        )
        updates = sgd(
            Task(model, pool, shards),
            State(model.initial),
            model.initial,
            range(60),
            key=KEY / part,
            round=1,
            compute=Compute(),
        )
        seen.append((updates.rows, many))
    (rows, had), (targets, truth) = seen
    found = inference.property_inference(rows, had, targets, truth, key=KEY, width=128)
    assert found.chance == 0.5
    assert found.rate().low > 0.6
    # Who is judged by someone else's answers is judged by chance.
    stranger = truth[torch.randperm(60, generator=KEY.stream())]
    blind = inference.property_inference(rows, had, targets, stranger, key=KEY, width=128)
    assert blind.rate().low < 0.5 < blind.rate().high


@given(seed=SEEDS, params=st.integers(1, 40))
def test_a_projection_is_linear_and_the_same_for_the_same_key(seed, params):
    rows = torch.randn(4, params, generator=Key(seed).stream())
    project = partial(inference.projected, width=7, key=Key(seed))
    both = project(rows[:2] + 2 * rows[2:])
    expected = project(rows[:2]) + 2 * project(rows[2:])
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4)


def test_a_projection_of_many_parameters_keeps_lengths_across_its_pieces():
    rows = torch.randn(3, inference.PIECE + 1000, generator=KEY.stream())
    found = inference.projected(rows, width=400, key=KEY)
    # The relative deviation of a squared length is the root of 2 / 400, .07.
    ratios = found.square().sum(1) / rows.double().square().sum(1)
    assert (ratios - 1).abs().max() < 0.28


def people(count, seed, columns=20):
    """Draw people of whom an attribute says nothing but through labels drawn from it."""
    stream = Key(seed).stream()
    values = (torch.rand(count, generator=stream) < 0.3).long()
    inputs = torch.randn(count, columns, generator=stream)
    inputs[:, 0], inputs[:, 1] = values, 1 - values
    return inputs, values, stream


def test_a_model_gives_an_attribute_away_as_far_as_bayes_rule_says():
    inputs, values, stream = people(20_000, seed=1)
    # The label is the attribute in nine of ten: the likelier value is the label's, 0.7 / 0.3 < 9.
    labels = torch.where(torch.rand(len(values), generator=stream) < 0.9, values, 1 - values)
    model = create(logistic, shape=(20,), classes=2, key=KEY)
    params = torch.zeros_like(model.initial)
    weight = model.views(params)["1.weight"]
    # Log-odds of label 1 are log 9 with value 1 and -log 9 with value 0.
    weight[1, 0], weight[1, 1] = np.log(9), -np.log(9)
    examples = Examples(inputs, labels)
    codes = inference.spelled(inputs, values, [0, 1])
    assert codes.tolist() == [[0, 1], [1, 0]]
    charged = inference.attribute_losses(model, params, examples, columns=[0, 1], codes=codes)
    for value in (0, 1):
        chance = torch.where(labels == value, 0.9, 0.1)
        torch.testing.assert_close(charged[value], -chance.log(), rtol=1e-4, atol=1e-5)
    prior = torch.tensor([0.7, 0.3])
    found = inference.attribute_inference(charged, values, prior=prior)
    assert (found["model"].correct == (labels == values).numpy()).all()
    assert found["model"].rate().value == pytest.approx(0.9, abs=0.01)
    assert (found["prior"].correct == (values == 0).numpy()).all()
    assert found["model"].chance == found["prior"].rate().value
    # A prior too strong for the label to overcome is all that is left.
    strong = inference.attribute_inference(charged, values, prior=torch.tensor([0.95, 0.05]))
    assert (strong["model"].correct == strong["prior"].correct).all()


def test_what_the_hidden_columns_held_changes_no_loss():
    inputs, values, _ = people(50, seed=2)
    model = create(partial(mlp, hidden=[8]), shape=(20,), classes=2, key=KEY)
    codes = inference.spelled(inputs, values, [0, 1])
    charge = partial(inference.attribute_losses, model, model.initial, columns=[0, 1], codes=codes)
    hidden = inputs.clone()
    hidden[:, :2] = 5.0
    labels = values.clone()
    found = charge(Examples(inputs, labels))
    assert found.equal(charge(Examples(hidden, labels)))
    own = cross_entropy(model(model.initial, inputs), labels)
    torch.testing.assert_close(found[values, torch.arange(50)], own)


def test_imputation_from_other_columns_is_told_apart_from_what_the_model_adds():
    inputs, values, _ = people(4000, seed=3)
    inputs[:, 2] += 2 * values
    useless = torch.full((2, 2000), 0.7)
    guessed = inference.imputed(inputs[:2000, 2:], values[:2000], inputs[2000:, 2:])
    torch.testing.assert_close(guessed.sum(0), torch.ones(2000, dtype=torch.float64))
    prior = torch.tensor([0.7, 0.3])
    found = inference.attribute_inference(useless, values[2000:], prior=prior, imputed=guessed)
    # A model that knows nothing adds nothing, to the prior as to the imputation.
    assert (found["model"].correct == found["prior"].correct).all()
    assert (found["both"].correct == found["imputed"].correct).all()
    # The best rule on a normal column shifted by 2, known shares .7 and .3, is right in 86 %.
    assert found["imputed"].rate().value == pytest.approx(0.86, abs=0.02)


@given(seed=SEEDS, clients=st.integers(1, 6), examples=st.integers(1, 12))
def test_the_source_is_the_client_with_the_lowest_loss(seed, clients, examples):
    stream = Key(seed).stream()
    charged = torch.rand(clients, examples, generator=stream)
    owner = torch.randint(clients, (examples,), generator=stream)
    found = inference.source_inference(charged, owner)
    for at in range(examples):
        lowest = min(range(clients), key=lambda client: float(charged[client, at]))
        assert found.correct[at] == (lowest == int(owner[at]))
    assert found.chance == max(owner.tolist().count(one) for one in range(clients)) / examples


def test_clients_of_one_distribution_are_told_by_what_they_learned_by_heart():
    pool = mnist10k().train.some(torch.arange(200))
    strangers = mnist10k().test.some(torch.arange(400))
    model = create(partial(mlp, hidden=[32]), shape=(1, 28, 28), classes=10, key=KEY)
    task = Task(model, pool, Shards.of(list(torch.arange(200).split(20))))
    updates = sgd(
        task,
        State(model.initial),
        model.initial,
        range(10),
        key=KEY,
        round=1,
        compute=Compute(),
        epochs=10,
        batch_size=10,
    )
    rows = model.initial + updates.rows
    owner = torch.arange(200) // 20
    found = inference.source_inference(shadows.losses(model, rows, pool), owner)
    assert found.chance == 0.1
    assert found.rate().low > 0.4
    # Of digits nobody held, whoever is named as the owner is found by chance.
    named = torch.arange(400) % 10
    blind = inference.source_inference(shadows.losses(model, rows, strangers), named)
    assert blind.rate().low < 0.1 < blind.rate().high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: inference.property_shards(
                torch.ones(9) > 0, clients=3, size=2, shares=(0.0, 1.0), key=KEY
            ),
            "property.clients",
        ),
        (
            lambda: inference.property_shards(
                torch.ones(9) > 0, clients=2, size=2, shares=(0.0, 2.0), key=KEY
            ),
            r"in \[0, 1\]",
        ),
        (
            lambda: inference.property_shards(
                torch.ones(9) > 0, clients=2, size=2, shares=(0.0, 1.0), key=KEY
            ),
            "needs 2 examples without and 2 with it: there are 0 and 9",
        ),
        (
            lambda: inference.property_inference(
                torch.ones(2, 3), torch.ones(2) > 0, torch.ones(1, 3), torch.ones(1) > 0, key=KEY
            ),
            "of both kinds",
        ),
        (
            lambda: inference.property_inference(
                torch.ones(2, 3),
                torch.arange(2) > 0,
                torch.ones(1, 3),
                torch.ones(1) > 0,
                key=KEY,
                penalty=0.0,
            ),
            "penalty",
        ),
        (
            lambda: inference.spelled(torch.ones(3, 2), torch.tensor([0, 2, 0]), [0]),
            "value 1 is written nowhere",
        ),
        (
            lambda: inference.spelled(torch.eye(3), torch.zeros(3).long(), [0]),
            "value 0 is written in several ways",
        ),
        (
            lambda: inference.imputed(torch.ones(3, 2), torch.ones(3).long(), torch.ones(1, 2)),
            "values must be",
        ),
        (
            lambda: inference.source_inference(torch.ones(2, 0), torch.ones(0).long()),
            "nothing to guess",
        ),
    ],
)
def test_what_cannot_be_guessed_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
