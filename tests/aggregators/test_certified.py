"""CRFL: the model is kept short and blurred, and its votes certify how far poison may go."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dai_lab.aggregators import (
    certified_radius,
    crfl,
    lipschitz,
    mean,
    trimmed_mean,
    vote,
    vote_bounds,
)
from dai_lab.core import Context, Key, State, TooFew, Visible
from dai_lab.models import flat

SEEDS = st.integers(0, 999)


def rows(seed, count=7, params=5):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


def see(sent):
    weights = torch.ones(len(sent), dtype=sent.dtype)
    return Visible(sent, tuple((i,) for i in range(len(sent))), weights)


@given(seed=SEEDS, radius=st.floats(0.1, 10), then=st.sampled_from([mean, trimmed_mean]))
def test_the_new_model_is_the_aggregate_shortened_to_the_radius(seed, radius, then):
    start, sent = rows(seed, 1)[0], rows(seed + 1)
    found = crfl(see(sent), Context(state=State(start)), radius=radius, noise=0.0, then=then)
    new, plain = start + found.update, start + then(see(sent)).update
    assert float(new.norm()) <= radius * (1 + 1e-12)
    torch.testing.assert_close(new, plain * min(1.0, radius / float(plain.norm())))
    torch.testing.assert_close(found.memory["aggregator/crfl_model"], new)
    assert found.shares.equal(then(see(sent)).shares)


def test_without_noise_and_with_room_it_is_the_rule_inside():
    start, sent = rows(0, 1)[0], rows(1)
    sent[2] = torch.nan
    known = Context(state=State(start))
    found = crfl(see(sent), known, radius=1e9, noise=0.0, then=partial(trimmed_mean, f=2))
    plain = trimmed_mean(see(sent), f=2)
    torch.testing.assert_close(found.update, plain.update)
    assert found.suspected.equal(plain.suspected) and found.suspected[2]


def test_the_radius_grows_by_the_round():
    state = State(torch.zeros(5).double())
    for number in range(1, 4):
        sent = 100 + rows(number)
        found = crfl(see(sent), Context(state=state), radius=2.0, growth=0.5, noise=0.0)
        state = State(state.params + found.update, state.memory).remember(found.memory)
        torch.testing.assert_close(float(state.params.norm()), 2.0 + 0.5 * number)


def test_noise_is_that_of_the_key_and_of_the_size_asked_for():
    start, sent = torch.zeros(20_000), torch.ones(3, 20_000)
    known = Context(Key(1), State(start))
    found = crfl(see(sent), known, radius=1.0, noise=0.5)
    blur = start + found.update - found.memory["aggregator/crfl_model"]
    assert stats.kstest(blur.numpy() / 0.5, "norm").pvalue > 0.001
    assert found.update.dtype == torch.float32
    assert found.update.equal(crfl(see(sent), known, radius=1.0, noise=0.5).update)
    other = crfl(see(sent), Context(Key(2), State(start)), radius=1.0, noise=0.5)
    assert not found.update.equal(other.update)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"radius": 0.0}, r"aggregator\.radius must be above 0"),
        ({"noise": -1.0}, r"aggregator\.noise must be at least 0"),
        ({"growth": math.inf}, r"aggregator\.growth must be at least 0"),
    ],
)
def test_knobs_out_of_range_are_named(knobs, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        crfl(see(rows(0)), Context(state=State(rows(0, 1)[0])), **knobs)
    assert "\n" not in str(caught.value)


def test_without_a_model_it_refuses_and_too_few_rows_are_too_few():
    with pytest.raises(ValueError, match="needs the model"):
        crfl(see(rows(0)))
    with pytest.raises(TooFew):
        crfl(see(rows(0, 2)), Context(state=State(rows(0, 1)[0])), then=trimmed_mean)


@pytest.mark.parametrize("method", ["hoeffding", "clopper_pearson"])
def test_bounds_are_wrong_no_more_often_than_they_say(method):
    truth, error, wrong = np.array([0.5, 0.3, 0.2]), 0.2, 0
    draws = np.random.default_rng(0).multinomial(100, truth, size=1000)
    first, low, high = vote_bounds(torch.from_numpy(draws), error=error, method=method)
    for which, under, over in zip(first.tolist(), low.tolist(), high.tolist(), strict=True):
        wrong += truth[which] < under or max(np.delete(truth, which)) > over
    assert wrong <= error * 1000


@given(first=st.integers(0, 200), second=st.integers(0, 200), error=st.floats(0.001, 0.5))
def test_clopper_pearson_is_that_of_scipy(first, second, error):
    counts = torch.tensor([[max(first, second) + 1, min(first, second), 0, 0]])
    total = int(counts.sum())
    _, low, high = vote_bounds(counts, error=error, method="clopper_pearson")
    most = stats.binomtest(int(counts[0, 0]), total, alternative="greater")
    least = stats.binomtest(int(counts[0, 1]), total, alternative="less")
    under = most.proportion_ci(1 - error / 4, method="exact").low
    over = least.proportion_ci(1 - error / 4, method="exact").high
    torch.testing.assert_close(low.item(), under)
    torch.testing.assert_close(high.item(), min(over, 1 - under))


def test_hoeffdings_bounds_are_those_written_out():
    first, low, high = vote_bounds(torch.tensor([[10, 800, 190]]), error=0.01)
    slack = math.sqrt(math.log(300) / 2000)
    assert first.tolist() == [1]
    torch.testing.assert_close(low.item(), 0.8 - slack)
    torch.testing.assert_close(high.item(), 0.19 + slack)


THREAT = {
    "radius": 3.0,
    "noise": 0.01,
    "attack_round": 10,
    "last_round": 20,
    "shares": (0.05,),
    "boost": 10.0,
    "steps": 30.0,
    "rate": 0.01,
    "poisoned": 5.0,
    "batch": 100.0,
}


def certify(low, high, **knobs):
    pair = (torch.tensor([one], dtype=torch.float64) for one in (low, high))
    return certified_radius(*pair, **(THREAT | knobs)).item()


def test_the_radius_is_the_papers_formula_worked_out_by_hand():
    # MNIST in the authors' code: N=20, R=1, gamma=10, radius 0.1 t + 2, attack in round 10.
    pull = (0.05 * 10 * 30 * 0.01 * 0.05) ** 2
    square = -math.log(1 - (math.sqrt(0.9) - math.sqrt(0.05)) ** 2) * 0.01**2
    square /= 2 * (2 + 2 * 3 + 9) * pull  # radius over noise is 300: no factor to speak of
    found = certify(0.9, 0.05, radius=2.0, growth=0.1)
    torch.testing.assert_close(found, math.sqrt(square), rtol=1e-9, atol=0)
    factors = (2 * stats.norm.cdf(3.0 / 4.0) - 1) ** 9 * (2 * stats.norm.cdf(3.0 / 5.0) - 1)
    blurred = certify(0.9, 0.05, noise=4.0, vote_noise=5.0)
    plain = certify(0.9, 0.05, noise=4.0, vote_noise=5.0, last_round=10)
    torch.testing.assert_close(blurred, plain / math.sqrt(factors), rtol=1e-9, atol=0)


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_nothing_is_certified_unless_the_first_class_is_ahead(low, high):
    low, high = min(low, high), max(low, high)
    assert certify(low, high) == 0.0


def test_certainty_certifies_everything():
    assert certify(1.0, 0.0) == math.inf
    assert certify(1 - 1e-12, 0.0) > certify(0.999, 0.0) > certify(0.9, 0.0) > 0


@pytest.mark.parametrize(
    ("knob", "less", "more", "better"),
    [
        ("noise", 1.0, 2.0, True),
        ("last_round", 12, 30, True),
        ("attack_round", 3, 12, False),
        ("boost", 2.0, 4.0, False),
        ("steps", 2.0, 4.0, False),
        ("rate", 0.1, 0.2, False),
        ("poisoned", 1.0, 2.0, False),
        ("batch", 50.0, 100.0, True),
        ("shares", (0.1,), (0.1, 0.1), False),
        ("shares", (0.1,), (0.2,), False),
        ("radius", 2.0, 4.0, False),
        ("smoothness", 2.0, 4.0, False),
    ],
)
def test_each_knob_moves_the_radius_the_way_it_should(knob, less, more, better):
    others = {"noise": 1.0} if knob != "noise" else {}
    small, large = (certify(0.9, 0.05, **others, **{knob: one}) for one in (less, more))
    assert (large > small) == better and large != small


def test_a_certificate_of_nonsense_is_refused():
    with pytest.raises(ValueError, match="knobs must be above 0"):
        certify(0.9, 0.1, shares=())
    with pytest.raises(ValueError, match="knobs must be above 0"):
        certify(0.9, 0.1, noise=0.0)
    with pytest.raises(ValueError, match=r"attack_round must be in 1\.\.5"):
        certify(0.9, 0.1, attack_round=6, last_round=5)
    with pytest.raises(ValueError, match=r"error must be in \(0, 1\)"):
        vote_bounds(torch.ones(1, 2).long(), error=0.0)
    model = flat(torch.nn.Linear(2, 2), classes=2)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        vote(model, model.initial, torch.ones(1, 2), noise=0.0, key=Key(0))


def gradient(weights, inputs, targets):
    """The gradient of mean cross-entropy of one linear layer, by hand."""
    classes = torch.nn.functional.one_hot(targets, len(weights)).to(inputs)
    return ((inputs @ weights.T).softmax(1) - classes).T @ inputs / len(inputs)


@settings(max_examples=300)
@given(seed=SEEDS, radius=st.floats(0.01, 30), classes=st.integers(2, 5))
def test_gradients_change_no_faster_than_the_constant(seed, radius, classes):
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(classes, 3))
    weights *= radius / np.linalg.norm(weights)
    if seed % 2:  # the worst there is: two classes against each other, along the input
        weights[:] = 0
        weights[0, 0], weights[1, 0] = radius / math.sqrt(2), -radius / math.sqrt(2)
    one, other = draw.normal(size=(2, 3)) * draw.choice([0.01, 1, 100], size=(2, 1))
    one, other = (x / max(1.0, np.linalg.norm(x)) for x in (one, other))
    if seed % 3:
        other = one + 1e-4 * (other - one)
    first, second = draw.integers(classes, size=2)

    def slope(x, y):
        score = np.exp(weights @ x - (weights @ x).max())
        return np.outer(score / score.sum() - np.eye(classes)[y], x)

    change = np.linalg.norm(slope(one, first) - slope(other, second))
    moved = np.sqrt(np.sum((one - other) ** 2) + 2.0 * (first != second))
    assert change <= lipschitz(radius) * moved + 1e-12


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    inputs = torch.from_numpy(found.data).double()
    inputs = inputs - inputs.mean(0)
    inputs = inputs / inputs.norm(dim=1, keepdim=True)
    return inputs, torch.from_numpy(found.target)


CLIENTS, RATE, ROUNDS, ATTACK, RADIUS, NOISE = 10, 2.0, 40, 4, 12.0, 0.05


def train(digits, poison=0.0):
    """Ten clients learn digits, one full batch a round; once, the first moves three examples."""
    inputs, targets = digits
    params, model = torch.zeros(640).double(), None
    state = State(params)
    for number in range(1, ROUNDS + 1):
        sent = []
        for client in range(CLIENTS):
            mine = torch.arange(client, 1500, CLIENTS)
            x, y = inputs[mine].clone(), targets[mine]
            if poison and client == 0 and number == ATTACK:
                aim = torch.zeros(64).double()
                aim[:8] = 8**-0.5
                x[:3] = (1 - poison / 2) * x[:3] + poison / 2 * aim  # by at most ``poison``
            sent.append(-RATE * gradient(state.params.reshape(10, 64), x, y).flatten())
        context = Context(Key(7) / number, state)
        found = crfl(see(torch.stack(sent)), context, radius=RADIUS, noise=NOISE)
        model = found.memory["aggregator/crfl_model"]
        state = State(state.params + found.update, state.memory).remember(found.memory)
    return model


def test_a_certificate_is_computed_on_a_model_and_holds_against_a_poisoner(digits):
    inputs, targets = digits
    linear = torch.nn.Linear(64, 10, bias=False).double()
    model, asked = flat(linear, classes=10), inputs[1500:]
    params = train(digits)
    assert float(params.norm()) <= RADIUS * (1 + 1e-9)
    votes = {"noise": 0.5, "samples": 400}
    counts = vote(model, params, asked, key=Key(1), **votes)
    assert counts.equal(vote(model, params, asked, key=Key(1), **votes))
    assert (counts.sum(1) == 400).all()
    first, low, high = vote_bounds(counts, method="clopper_pearson")
    radii = certified_radius(
        low,
        high,
        radius=RADIUS,
        noise=NOISE,
        vote_noise=0.5,
        attack_round=ATTACK,
        last_round=ROUNDS,
        shares=[1 / CLIENTS],
        boost=1.0,
        steps=1.0,
        rate=RATE,
        poisoned=3.0,
        batch=150.0,
    )
    right = first == targets[1500:]
    assert right.double().mean() > 0.8
    certified = right & (radii > 0.3)
    assert 0.3 < certified.double().mean() < 0.8
    poisoned = vote(model, train(digits, poison=0.3), asked, key=Key(2), **votes)
    assert (poisoned.argmax(1) == first)[radii > 0.3].all()
    # More noise turns more votes.
    blurred = vote(model, params, asked, noise=5.0, samples=100, key=Key(3))
    assert blurred.argmax(1).eq(targets[1500:]).double().mean() < right.double().mean()
