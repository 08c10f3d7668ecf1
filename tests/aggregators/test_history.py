"""FoolsGold and Safeguard: what clients sent before counts."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dai_lab.aggregators import foolsgold, safeguard
from dai_lab.core import Context, Key, State, TooFew, Visible
from dai_lab.models import flat

SEEDS = st.integers(0, 999)
alike = partial(foolsgold, features="all")


def rows(seed, count=7, params=20):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


def see(sent, clients=None, mix=None):
    clients = range(len(sent) if mix is None else len(mix)) if clients is None else clients
    weights = torch.ones(len(clients), dtype=sent.dtype)
    return Visible(sent, tuple((one,) for one in clients), weights, mix)


def play(rule, rounds, clients=None):
    """Return what the rule makes of each round, and its last memories."""
    state, found = State(torch.zeros(rounds[0].shape[1]).to(rounds[0])), []
    for number, sent in enumerate(rounds):
        who = None if clients is None else clients[number]
        found.append(rule(see(sent, who), Context(Key(number), state)))
        state = state.remember(found[-1].memory)
    return found, state


def paper_weights(history):
    """FoolsGold's weights, entry by entry."""
    from sklearn.metrics.pairwise import cosine_similarity

    count = len(history)
    cosine = cosine_similarity(history)
    np.fill_diagonal(cosine, 0.0)
    highest = [max(cosine[i]) for i in range(count)]
    weights = []
    for i in range(count):
        pardoned = [
            cosine[i, j] * (highest[i] / highest[j] if highest[j] > highest[i] else 1.0)
            for j in range(count)
        ]
        weights.append(min(1.0, max(0.0, 1.0 - max(pardoned))))
    largest = max(weights)
    result = []
    for weight in weights:
        weight = weight / largest
        weight = 0.99 if weight == 1 else weight
        score = -np.inf if weight == 0 else np.log(weight / (1 - weight)) + 0.5
        result.append(min(1.0, max(0.0, score)))
    return torch.tensor(result, dtype=torch.float64)


@given(seed=SEEDS, count=st.integers(2, 12), params=st.sampled_from([2, 20]), shift=SEEDS)
def test_foolsgold_weighs_histories_as_in_the_paper(seed, count, params, shift):
    # On a line all are alike or opposite, and the paper divides 0 by 0.
    rounds = [rows(seed + t, count, params) + shift % 2 for t in range(3)]
    found, _ = play(alike, rounds)
    weights = paper_weights(sum(rounds).numpy())
    torch.testing.assert_close(found[-1].shares, weights)
    torch.testing.assert_close(found[-1].update, weights @ rounds[-1])
    assert found[-1].suspected.equal(weights == 0)


@given(seed=SEEDS, sybils=st.integers(2, 20), size=st.sampled_from([0.1, 1.0, 1e9]))
def test_any_number_of_sybils_get_nothing_and_different_clients_count_in_full(seed, sybils, size):
    own = torch.eye(5, dtype=torch.float64) + 0.01 * rows(seed, 5, 5)
    lies = size * (rows(seed + 1, 1, 5).expand(sybils, -1) + 1e-3 * rows(seed + 2, sybils, 5))
    found = alike(see(torch.cat([own, lies])))
    assert found.suspected[5:].all()
    assert (found.shares[5:] == 0).all()
    average = alike(see(torch.cat([own, lies])), average=True)
    torch.testing.assert_close(average.shares.sum(), torch.ones(()).double())
    torch.testing.assert_close(average.update * found.shares.sum(), found.update)


def test_sybils_that_look_different_in_one_round_are_found_over_many():
    goal = torch.zeros(20, dtype=torch.float64)
    goal[0] = 1.0
    rounds = []
    for t in range(30):
        noise = rows(100 + t, 6)
        own = noise[:3] + 4 * torch.eye(20, dtype=torch.float64)[[3, 7, 11]]
        rounds.append(torch.cat([own, noise[3:] + 2 * goal]))
    found, _ = play(alike, rounds)
    assert (found[0].shares[3:] > 0).any()
    assert found[-1].shares.tolist()[3:] == [0, 0, 0]
    assert (found[-1].shares[:3] > 0).all()


@given(seed=SEEDS)
def test_one_client_counts_in_full_and_clients_all_alike_count_for_nothing(seed):
    row = rows(seed, 1)
    assert alike(see(row)).shares.tolist() == [1.0]
    same = alike(see(row.expand(4, -1)))
    assert same.shares.tolist() == [0.0] * 4 and (same.update == 0).all()
    assert alike(see(torch.zeros(3, 20))).update.isfinite().all()


def test_only_the_last_layer_is_compared_and_remembered():
    model = flat(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), classes=2)
    sent = rows(1, 5, model.params)
    sent[3:, -10:] = sent[2, -10:]  # alike in the last layer alone
    found = foolsgold(see(sent), Context(model=model))
    assert found.shares.tolist()[2:] == [0, 0, 0]
    assert found.memory["aggregator/foolsgold"].equal(sent[:, -10:])
    assert (alike(see(sent)).shares > 0).all()


def test_histories_stay_with_their_clients():
    rounds = [rows(1, 3), rows(2, 2)]
    _, state = play(alike, rounds, clients=[(4, 7, 9), (9, 4)])
    assert state.memory["aggregator/foolsgold/of"].tolist() == [4, 7, 9]
    expected = torch.stack([rounds[0][0] + rounds[1][1], rounds[0][1], rounds[0][2] + rounds[1][0]])
    assert state.memory["aggregator/foolsgold"].equal(expected)


def test_no_sum_that_overflows_hides_a_sybil():
    sent = torch.cat([torch.eye(3, 6), torch.full((2, 6), 3e38)])
    found, _ = play(alike, [sent, sent, sent])
    assert found[-1].shares.isfinite().all() and (found[-1].shares[3:] == 0).all()


@pytest.mark.parametrize("rule", [alike, safeguard])
@given(seed=SEEDS)
@example(seed=444)  # two medians tie
def test_the_order_of_clients_does_not_matter(rule, seed):
    order = torch.randperm(7, generator=Key(seed).stream())
    rounds = [rows(seed + t) for t in range(3)]
    plain, _ = play(rule, rounds)
    mixed, _ = play(rule, [one[order] for one in rounds], clients=[order.tolist()] * 3)
    torch.testing.assert_close(mixed[-1].update, plain[-1].update)
    torch.testing.assert_close(mixed[-1].suspicion, plain[-1].suspicion[order])
    assert mixed[-1].suspected.equal(plain[-1].suspected[order])


@pytest.mark.parametrize("rule", [alike, safeguard])
def test_a_row_that_is_not_finite_is_left_out_and_nothing_of_it_is_remembered(rule):
    rounds = [rows(3), rows(4)]
    rounds[1][2, 0] = torch.nan
    found, state = play(rule, rounds)
    assert found[-1].suspected[2] and found[-1].shares[2] == 0
    assert found[-1].suspicion[2] == torch.inf
    assert found[-1].update.isfinite().all()
    assert all(one.isfinite().all() for one in state.memory.values())


@pytest.mark.parametrize("rule", [alike, safeguard])
def test_rows_that_are_mixtures_are_judged_as_if_multiplied_out(rule):
    sent = rows(2)
    sent[6] = torch.nan
    mix = torch.rand(6, 7, generator=Key(3).stream(), dtype=torch.float64)
    mix[:, 6] = 0
    lazy = rule(see(sent, mix=mix))
    plain = rule(see(mix[:, :6] @ sent[:6]))
    torch.testing.assert_close(lazy.update, plain.update)
    assert lazy.suspected.equal(plain.suspected)


def paper_safeguard(rounds, short, long, thresholds):
    """The double safeguard with given thresholds, line by line."""
    count = len(rounds[0])
    good, updates, goods = list(range(count)), [], []
    sums = {}
    for t, sent in enumerate(rounds):
        keep = set(good)
        for which, (window, threshold) in enumerate(zip((short, long), thresholds, strict=True)):
            if t % window == 0:
                sums[which] = np.zeros(sent.shape)
            sums[which] += sent.numpy() / len(good)
            apart = np.linalg.norm(sums[which][:, None] - sums[which], axis=2)
            near = [sum(apart[one, other] <= threshold for other in good) for one in good]
            medians = [one for one, some in zip(good, near, strict=True) if some > count / 2]
            apart = apart[medians[0] if medians else good[int(np.argmax(near))]]
            keep &= {one for one in good if apart[one] <= 2 * threshold}
        updates.append(sent[good].mean(0))
        goods.append(sorted(keep))
        good = sorted(keep)
    return updates, goods


@settings(max_examples=40)
@given(seed=st.integers(0, 99), liars=st.integers(0, 4), bias=st.floats(0.5, 6.0))
def test_safeguard_evicts_as_the_algorithm_does(seed, liars, bias):
    rounds = [rows(seed * 50 + t, 9) for t in range(12)]
    for one in rounds:
        one[:liars] += bias
    knobs = {"short": 3, "long": 8, "short_threshold": 1.4, "long_threshold": 2.4}
    updates, goods = paper_safeguard(rounds, 3, 8, (1.4, 2.4))
    found, _ = play(partial(safeguard, **knobs), rounds)
    for one, update, good in zip(found, updates, goods, strict=True):
        torch.testing.assert_close(one.update, update)
        assert (~one.suspected).nonzero().flatten().tolist() == good


@settings(max_examples=8)
@given(seed=st.integers(0, 99))
def test_a_small_constant_lie_is_found_by_adding_it_up(seed):
    rounds = [rows(seed * 100 + t, 9, 400) for t in range(40)]
    for one in rounds:
        one[:4] += 0.5  # half a standard deviation: within the cloud in any one round
    found, _ = play(partial(safeguard, short=20, long=40), rounds)
    assert not found[0].suspected.any()
    assert found[-1].suspected.tolist() == [True] * 4 + [False] * 5
    torch.testing.assert_close(found[-1].update, rounds[-1][4:].mean(0))
    assert found[-1].record == {"evicted": 4}


@pytest.mark.parametrize("lie", [1e9, torch.nan, torch.inf, 3e38])
def test_who_is_evicted_stays_evicted(lie):
    rounds = [rows(t, 9, 400).float() for t in range(4)]
    rounds[1][0] = lie
    found, _ = play(partial(safeguard, short=1, long=1), rounds)
    assert not found[0].suspected.any()
    for one in found[1:]:
        assert one.suspected.tolist() == [True] + [False] * 8
    assert found[3].shares[0] == 0
    torch.testing.assert_close(found[3].update, rounds[3][1:].mean(0))


def test_windows_forget():
    rounds = [rows(t, 5) for t in range(4)]
    loose = partial(safeguard, short=2, long=3, short_threshold=1e3, long_threshold=1e3)
    _, state = play(loose, rounds)
    short, long = (state.memory[f"aggregator/safeguard_{one}"] for one in ("short", "long"))
    torch.testing.assert_close(short[:, :-1], (rounds[2] + rounds[3]) / 5)
    torch.testing.assert_close(long[:, :-1], rounds[3] / 5)
    assert short[:, -1].tolist() == [2.0] * 5


def test_noise_is_added_to_the_update_and_to_nothing_else():
    sent = rows(1, 5, 4000)
    plain = safeguard(see(sent))
    noisy = safeguard(see(sent), Context(Key(3)), noise=0.5)
    assert 0.45 < float((noisy.update - plain.update).std()) < 0.55
    assert noisy.suspicion.equal(plain.suspicion)
    assert noisy.update.equal(safeguard(see(sent), Context(Key(3)), noise=0.5).update)


def test_clients_that_agree_to_the_bit_do_not_evict_the_others_above_the_floor():
    sent = torch.cat([torch.ones(5, 4), 1 + 0.01 * rows(1, 4, 4).float()])
    assert safeguard(see(sent)).suspected.tolist() == [False] * 5 + [True] * 4
    assert not safeguard(see(sent), floor=0.1).suspected.any()


def test_sums_of_different_rounds_are_compared_with_a_warning():
    rounds = [rows(1, 5), rows(2, 5)]
    with pytest.warns(UserWarning, match=r"set cohort\.fraction=1"):
        play(safeguard, rounds, clients=[range(5), range(1, 6)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(safeguard, rounds)


def test_what_cannot_be_remembered_is_refused_in_one_line():
    pairs = Visible(rows(0, 2), ((0, 1), (2, 3)), torch.ones(2))
    for rule in (alike, safeguard):
        with pytest.raises(ValueError, match="set secagg=plain") as caught:
            rule(pairs)
        assert "\n" not in str(caught.value)
        with pytest.raises(TooFew, match=r"sees 3 \(0 finite\)"):
            rule(see(rows(0, 3) * torch.nan))
    with pytest.raises(ValueError, match=r"set aggregator\.features=all"):
        foolsgold(see(rows(0)))
    gone = {"aggregator/safeguard_gone": torch.arange(3)}
    with pytest.raises(TooFew, match="has evicted all 3"):
        safeguard(see(rows(0, 3)), Context(state=State(torch.zeros(20), gone)))


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"short": 0}, r"aggregator\.short must be in"),
        ({"short": 5, "long": 4}, r"aggregator\.short must be in"),
        ({"long_threshold": 0.0}, r"aggregator\.long_threshold must be above 0"),
        ({"floor": -1.0}, r"aggregator\.floor must be at least 0"),
        ({"noise": float("nan")}, r"aggregator\.noise must be at least 0"),
    ],
)
def test_knobs_out_of_range_are_named(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        safeguard(see(rows(0)), **knobs)
