"""FLDetector: clients whose rows do not follow from their last ones are dropped."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.aggregators import fldetector
from dai_lab.aggregators.prediction import hessian_product
from dai_lab.core import Context, Key, State, TooFew, Visible

SEEDS = st.integers(0, 999)


def rows(seed, count=7, params=6):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


def see(sent, clients=None):
    clients = range(len(sent)) if clients is None else clients
    return Visible(sent, tuple((one,) for one in clients), torch.ones(len(sent)).to(sent))


def quadratic(seed, clients=8, params=6):
    """Return clients whose updates are honest steps down bowls of their own."""
    bend = rows(seed, params, params)
    bend = bend @ bend.T / params + torch.eye(params)
    centers = rows(seed + 1, clients, params)
    return lambda model: -0.1 * (model - centers) @ bend


def play(honest, lie=None, *, rounds=9, window=3, start=None, order=None, liars=2):
    """Play rounds; from the sixth on, the first clients lie."""
    state = State(torch.zeros(6).double() if start is None else start)
    found = []
    for number in range(rounds):
        sent = honest(state.params)
        if lie is not None and number >= 5:
            sent[:liars] = lie(sent[:liars], number)
        who = list(range(len(sent)))
        if order is not None:
            sent, who = sent[order], order.tolist()
        found.append(fldetector(see(sent, who), Context(Key(number), state), window=window))
        state = State(state.params + found[-1].update, state.memory).remember(found[-1].memory)
    return found, state


@given(seed=SEEDS, pairs=st.integers(1, 5), scale=st.sampled_from([1e-3, 1.0, -50.0]))
def test_the_hessian_is_that_of_bfgs_updates_one_by_one(seed, pairs, scale):
    bend = rows(seed, 6, 6)
    bend = scale * (bend @ bend.T + torch.eye(6))
    moves = rows(seed + 1, pairs)
    changes = moves @ bend
    start = (changes[-1] @ moves[-1]) / (moves[-1] @ moves[-1])
    dense = start * torch.eye(6, dtype=torch.float64)
    for move, change in zip(moves, changes, strict=True):
        along = dense @ move
        dense = dense - torch.outer(along, along) / (move @ along)
        dense = dense + torch.outer(change, change) / (change @ move)
    vector = rows(seed + 2, 1)[0]
    found = hessian_product(moves, changes, vector)
    torch.testing.assert_close(found, dense @ vector, rtol=1e-7, atol=1e-9)


@given(seed=SEEDS)
def test_the_last_change_is_always_explained(seed):
    bend = rows(seed, 3, 3)
    bend = bend @ bend.T + torch.eye(3)
    moves = rows(seed + 1, 8, 3)  # more moves than parameters
    product = hessian_product(moves, moves @ bend, moves[-1])
    assert product.isfinite().all()
    torch.testing.assert_close(product, bend @ moves[-1], rtol=1e-5, atol=1e-7)


@settings(max_examples=30)
@given(seed=SEEDS, size=st.sampled_from([1e3, 1e6, 1e300]))
def test_liars_who_start_to_lie_are_dropped_from_the_first_lie_on(seed, size):
    """Both lie as loudly: of liars far from each other only the louder make the upper cluster."""
    drawn = rows(1000 * seed, 2)
    drawn = size * drawn / drawn.norm(dim=1, keepdim=True)

    def lie(own, number):
        return drawn if number % 2 else -drawn

    found, _ = play(quadratic(seed), lie)
    for one in found[5:]:
        assert one.suspected.tolist() == [True] * 2 + [False] * 6
        assert one.shares[:2].tolist() == [0.0, 0.0]
        assert one.update.abs().max() < 10


def test_it_is_the_mean_with_equal_weights_until_enough_rounds_are_predicted():
    honest = quadratic(3)
    found, state = play(honest, rounds=3, window=3)
    for one in found:
        assert not one.suspected.any()
        torch.testing.assert_close(one.shares, torch.full((8,), 1 / 8, dtype=torch.float64))
    assert (found[1].suspicion == 0).all() and (found[2].suspicion > 0).all()
    torch.testing.assert_close(found[2].suspicion.sum(), torch.ones(()).double())
    kept = state.memory
    assert len(kept["aggregator/fldetector_moves"]) == 2
    found, state = play(honest, rounds=9, window=3)
    assert len(state.memory["aggregator/fldetector_moves"]) == 3
    assert state.memory["aggregator/fldetector_scores"].shape == (8, 3)
    memory = {name: one.shape for name, one in play(honest, rounds=14)[1].memory.items()}
    assert memory == {name: one.shape for name, one in state.memory.items()}


@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_errors_are_those_of_the_papers_prediction(seed):
    honest = quadratic(seed)
    state, models, updates, last, parts = State(torch.zeros(6).double()), [], [], None, []
    for number in range(5):
        sent = honest(state.params) + 0.05 * rows(seed + 10 * number, 8)
        models.append(state.params)
        if number >= 2:
            moves = torch.stack([models[t + 1] - models[t] for t in range(number - 1)])
            changes = torch.stack([updates[t + 1] - updates[t] for t in range(number - 1)])
            guess = last + dense_product(moves, changes, models[-1] - models[-2])
            wrong = (guess - sent).norm(dim=1)
            parts.append(wrong / wrong.sum())
        found = fldetector(see(sent), Context(Key(number), state), window=10)
        updates.append(found.update)
        last = sent
        state = State(state.params + found.update, state.memory).remember(found.memory)
    torch.testing.assert_close(found.suspicion, torch.stack(parts).mean(0), rtol=1e-6, atol=1e-9)


def dense_product(moves, changes, vector):
    """Multiply by the compact form, inverted as the paper's code does."""
    moves, changes = moves.numpy().T, changes.numpy().T
    mixed = moves.T @ changes
    start = changes[:, -1] @ moves[:, -1] / (moves[:, -1] @ moves[:, -1])
    lower = np.tril(mixed, -1)
    middle = np.block([[start * moves.T @ moves, lower], [lower.T, -np.diag(np.diag(mixed))]])
    right = np.concatenate([start * moves.T @ vector.numpy(), changes.T @ vector.numpy()])
    wide = np.concatenate([start * moves, changes], axis=1)
    return torch.from_numpy(start * vector.numpy() - wide @ np.linalg.inv(middle) @ right)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_order_of_clients_does_not_matter(seed):
    order = torch.randperm(8, generator=Key(seed).stream())

    def lie(own, number):
        return 3 * own + 1

    plain, _ = play(quadratic(seed), lie)
    mixed, _ = play(quadratic(seed), lie, order=order)
    torch.testing.assert_close(mixed[-1].update, plain[-1].update)
    assert mixed[-1].suspected.equal(plain[-1].suspected[order])


def test_nobody_is_dropped_where_all_are_as_hard_to_predict():
    state, accused = State(torch.zeros(6).double()), 0
    for number in range(12):
        sent = rows(50 + number, 30)
        found = fldetector(see(sent), Context(Key(number), state), window=3)
        accused += int(found.suspected.any())
        state = State(state.params + found.update, state.memory).remember(found.memory)
    assert accused <= 3


def test_the_gap_statistic_and_its_clusters_are_those_of_plain_k_means():
    from sklearn.cluster import KMeans

    from dai_lab.aggregators.prediction import _clusters, _upper

    scores = torch.rand(6, 15, generator=Key(1).stream(), dtype=torch.float64)
    one, two, cut = _clusters(scores)
    for at, row in enumerate(scores.numpy()):
        plain = KMeans(2, n_init=20, random_state=0).fit(row.reshape(-1, 1))
        torch.testing.assert_close(two[at].item(), plain.inertia_)
        torch.testing.assert_close(one[at].item(), float(((row - row.mean()) ** 2).sum()))
        assert int(cut[at]) in np.bincount(plain.labels_)
    apart = torch.tensor([0.1, 0.9, 0.11, 0.12, 0.1, 0.91]).double()
    assert _upper(apart, 20, Key(0)).tolist() == [False, True, False, False, False, True]
    assert not _upper(torch.linspace(0, 1, 9).double(), 20, Key(0)).any()
    assert not _upper(torch.ones(5).double(), 20, Key(0)).any()


def test_who_comes_late_is_neither_predicted_nor_dropped():
    honest = quadratic(4, clients=9)
    _, state = play(lambda model: honest(model)[:8])
    sent = honest(state.params)
    sent[8] = 1e3
    found = fldetector(see(sent), Context(Key(9), state), window=3)
    assert found.suspicion[8] == 0 and not found.suspected[8]
    assert len(found.memory["aggregator/fldetector_rows"]) == 9
    some = fldetector(see(sent[2:], range(2, 9)), Context(Key(9), state), window=3)
    assert some.memory["aggregator/fldetector_rows/of"].tolist() == list(range(2, 9))


def test_a_row_that_is_not_finite_is_left_out_and_nothing_of_it_is_remembered():
    _, state = play(quadratic(5))
    sent = quadratic(5)(state.params)
    sent[3, 2] = torch.inf
    found = fldetector(see(sent), Context(Key(9), state), window=3)
    assert found.suspected[3] and found.suspicion[3] == torch.inf and found.shares[3] == 0
    assert found.update.isfinite().all()
    assert found.memory["aggregator/fldetector_rows"].isfinite().all()


def test_a_model_that_stood_still_teaches_nothing():
    sent, state = rows(1), State(torch.ones(6).double())
    for number in range(5):
        found = fldetector(see(sent), Context(Key(number), state), window=2)
        state = state.remember(found.memory)
        assert found.update.isfinite().all() and (found.suspicion == 0).all()


def test_what_cannot_be_predicted_is_refused_in_one_line():
    with pytest.raises(ValueError, match="needs the model") as caught:
        fldetector(see(rows(0)))
    assert "\n" not in str(caught.value)
    known = Context(state=State(torch.zeros(6).double()))
    with pytest.raises(ValueError, match=r"aggregator\.window and aggregator\.draws"):
        fldetector(see(rows(0)), known, window=0)
    with pytest.raises(TooFew, match=r"sees 7 \(0 finite\)"):
        fldetector(see(rows(0) * torch.nan), known)
    with pytest.raises(ValueError, match="set secagg=plain"):
        fldetector(Visible(rows(0, 1), ((0, 1),), torch.ones(1)), known)
