"""Error feedback loses nothing; low-rank factors are remembered and improve."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import compression
from dai_lab.core import Key, State

SHAPES = ((4, 5), (5,))
PARAMS = 25
INNER = {
    "dense": compression.dense,
    "top_k": partial(compression.top_k, share=0.1),
    "random_k": partial(compression.random_k, share=0.2, unbiased=False),
    "qsgd": partial(compression.qsgd, levels=100),
    "sign": compression.sign,
    "power_sgd": partial(compression.power_sgd, rank=1),
}
SEEDS = st.integers(0, 999)


def rows(seed, count, width=PARAMS, dtype=torch.float64):
    return torch.randn(count, width, generator=Key(seed).stream(), dtype=dtype)


def play(part, state, meant, clients, number, shapes=SHAPES):
    """Send once, and let clients remember what they learned, as a round does."""
    key = Key(0) / "round" / number
    sent = part(meant, clients=clients, state=state, shapes=shapes, key=key)
    for name, learned in sent.learned.items():
        state = state.remember(state.keep(name, clients, learned))
    return sent, state


def fresh(dtype=torch.float64):
    return State(torch.zeros(PARAMS, dtype=dtype))


@pytest.mark.parametrize("width", [PARAMS, 2 * PARAMS, 20])
@pytest.mark.parametrize("name", INNER)
@settings(max_examples=8)
@given(seed=SEEDS, data=st.data())
def test_memory_and_what_was_sent_make_what_was_meant(name, width, seed, data):
    part = partial(compression.error_feedback, then=INNER[name])
    state, everyone = fresh(), range(6)
    meant, arrived = torch.zeros(2, 6, width, dtype=torch.float64)
    some = st.lists(st.sampled_from(everyone), min_size=1, unique=True)
    for number in range(5):
        cohort = data.draw(some)
        fresh_rows = rows(1000 * number + seed, len(cohort), width)
        sent, state = play(part, state, fresh_rows, cohort, number)
        meant[cohort] += fresh_rows
        arrived[cohort] += sent.rows
    owed = state.recall("clients/residual", everyone, torch.zeros(1, width, dtype=torch.float64))
    torch.testing.assert_close(arrived + owed, meant, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_what_is_sparse_is_owed_to_the_bit(seed):
    meant = rows(seed, 3, dtype=torch.float32)
    part = partial(compression.error_feedback, then=INNER["top_k"])
    sent, _ = play(part, fresh(torch.float32), meant, range(3), 1)
    assert (sent.rows + sent.learned["clients/residual"]).equal(meant)


@pytest.mark.parametrize("name", ["top_k", "random_k", "sign", "power_sgd"])
def test_what_is_meant_every_round_arrives_in_the_mean(name):
    meant, state, total = rows(3, 2), fresh(), 0
    part = partial(compression.error_feedback, then=INNER[name])
    for number in range(400):
        sent, state = play(part, state, meant, [0, 1], number)
        total = total + sent.rows
    alone = play(INNER[name], fresh(), meant, [0, 1], 1)[0].rows
    assert (total / 400 - meant).norm() < 0.05 * meant.norm()
    assert (alone - meant).norm() > 0.25 * meant.norm()


@pytest.mark.parametrize("at", [4, PARAMS - 1])
@pytest.mark.parametrize("lie", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", INNER)
def test_after_a_row_that_was_not_finite_a_client_owes_what_it_owed_before(name, lie, at):
    part = partial(compression.error_feedback, then=INNER[name])
    _, state = play(part, fresh(), rows(0, 3), range(3), 1)
    broken = rows(1, 3)
    broken[1, at] = lie
    sent, later = play(part, state, broken, range(3), 2)
    assert sent.rows.isfinite().all(1).tolist() == [True, False, True]
    for what in sent.learned:
        assert later.memory[what][1].equal(state.memory[what][1])
    healed, _ = play(part, later, rows(2, 3), range(3), 3)
    assert healed.rows.isfinite().all()


def test_a_client_absent_for_a_round_owes_the_same_after_it():
    part = partial(compression.error_feedback, then=INNER["top_k"])
    _, state = play(part, fresh(), rows(0, 2), [3, 8], 1)
    _, later = play(part, state, rows(1, 2), [8, 9], 2)
    assert later.memory["clients/residual/of"].tolist() == [3, 8, 9]
    assert later.memory["clients/residual"][0].equal(state.memory["clients/residual"][0])
    assert not later.memory["clients/residual"][1].equal(state.memory["clients/residual"][1])


def test_feedback_on_feedback_is_refused():
    once = partial(compression.error_feedback, then=INNER["top_k"])
    with pytest.raises(ValueError, match=r"compression\.then is error_feedback already"):
        play(partial(compression.error_feedback, then=once), fresh(), rows(0, 2), [0, 1], 1)


def with_spectrum(seed, m, n, values):
    left = torch.linalg.qr(rows(seed, m, m)).Q[:, : len(values)]
    right = torch.linalg.qr(rows(seed + 1, n, n)).Q[:, : len(values)]
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


@pytest.mark.parametrize(("m", "n"), [(6, 9), (9, 6)])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_a_warm_start_leads_to_the_best_approximation_of_its_rank(m, n, seed):
    part = partial(compression.power_sgd, rank=2)
    matrix = with_spectrum(seed, m, n, [8.0, 4.0, 1.0, 0.5, 0.1])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    best = left[:, :2] * values[:2] @ right[:2]
    state, errors = fresh(), []
    for number in range(12):
        row = matrix.reshape(1, -1)
        sent, state = play(part, state, row, [5], number, shapes=((m, n),))
        errors.append(float((sent.rows - row).norm()))
    torch.testing.assert_close(sent.rows.view(m, n), best, atol=1e-5, rtol=0)
    assert errors[-1] < errors[0]
    assert min(errors) >= float((best - matrix).norm()) - 1e-9


@settings(max_examples=10)
@given(seed=SEEDS)
def test_one_step_projects_a_matrix_on_what_its_start_reaches(seed):
    matrix, start = rows(seed, 4, 7), rows(seed + 1, 7, 2)
    state = fresh().remember(fresh().keep("clients/factors", [0], start.reshape(1, -1)))
    part = partial(compression.power_sgd, rank=2)
    sent, _ = play(part, state, matrix.reshape(1, -1), [0], 1, shapes=((4, 7),))
    reached = matrix @ start
    expected = reached @ torch.linalg.lstsq(reached, matrix).solution
    torch.testing.assert_close(sent.rows.view(4, 7), expected)


def test_every_client_starts_from_factors_of_its_own():
    part = partial(compression.power_sgd, rank=1)
    rank_one = torch.outer(*rows(0, 2, 5)).reshape(1, -1)
    others = rows(1, 1).reshape(1, -1)
    _, state = play(part, fresh(), torch.cat([rank_one, others]), [2, 4], 1, shapes=((5, 5),))
    kept = state.memory["clients/factors"]
    direction = rank_one.view(5, 5)[0] / rank_one.view(5, 5)[0].abs().max()
    torch.testing.assert_close(kept[0].abs(), direction.abs())
    assert not torch.allclose(kept[1].abs(), direction.abs(), atol=0.01)


def test_a_zero_matrix_teaches_nothing_and_does_not_hold_back_the_next():
    part = partial(compression.power_sgd, rank=2)
    first, state = play(part, fresh(), rows(0, 1, 24), [0], 1, shapes=((4, 6),))
    _, after_zero = play(part, state, torch.zeros_like(first.rows), [0], 2, shapes=((4, 6),))
    assert after_zero.memory["clients/factors"].equal(state.memory["clients/factors"])
    meant = rows(1, 1, 24)
    late, _ = play(part, after_zero, meant, [0], 3, shapes=((4, 6),))
    assert late.rows.equal(play(part, state, meant, [0], 2, shapes=((4, 6),))[0].rows)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_full_rank_is_exact_from_a_start_of_lower_rank(seed):
    part = partial(compression.power_sgd, rank=3)
    for m, n in ((3, 8), (8, 3)):
        low = torch.outer(rows(seed, 1, m)[0], rows(seed + 1, 1, n)[0]).reshape(1, -1)
        _, state = play(part, fresh(), low, [0], 1, shapes=((m, n),))
        full = rows(seed + 2, 1, m * n)
        sent, _ = play(part, state, full, [0], 2, shapes=((m, n),))
        torch.testing.assert_close(sent.rows, full)
