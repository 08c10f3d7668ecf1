"""Accuracy over examples, clients and rounds, against loops written the slow way."""

from math import nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key, Shards
from dai_lab.metrics import (
    accuracy,
    correct,
    cost_to,
    final,
    mean_loss,
    peak,
    per_client,
    rounds_to,
    seconds_to,
    spread,
)

RECORDS = [
    {"round": 1, "test_accuracy": 0.2, "test_loss": 2.0},
    {"round": 2, "test_accuracy": None, "test_loss": nan},
    {"round": 3, "test_accuracy": 0.8, "test_loss": 0.5},
    {"round": 4, "test_accuracy": 0.7, "test_loss": 0.6},
]


@given(seed=st.integers(0, 999), clients=st.integers(1, 12))
def test_client_accuracies_are_those_of_a_loop_over_clients(seed, clients):
    stream = Key(seed).stream()
    right = torch.rand(60, generator=stream) < 0.5
    owner = torch.randint(0, clients, (60,), generator=stream)
    lists = [(owner == client).nonzero().flatten() for client in range(clients)]
    slow = [float(right[held].double().mean()) if len(held) else nan for held in lists]
    fast = per_client(right, Shards.of(lists))
    torch.testing.assert_close(fast, torch.tensor(slow, dtype=torch.double), equal_nan=True)


@given(seed=st.integers(0, 999), clients=st.integers(1, 60))
def test_the_spread_ignores_client_order_and_the_worst_tenth_is_no_better_than_the_mean(
    seed, clients
):
    scores = torch.rand(clients, generator=Key(seed).stream())
    found = spread(scores)
    assert spread(scores.flip(0)) == pytest.approx(found)
    assert found["worst10"] <= found["mean"] + 1e-12
    assert found["variance"] >= 0


def test_the_worst_tenth_of_twenty_clients_is_two_of_them():
    scores = torch.cat([torch.tensor([0.1, 0.3]), torch.full((18,), 0.9)])
    found = spread(scores)
    assert found["worst10"] == pytest.approx(0.2)
    assert found["mean"] == pytest.approx((0.4 + 18 * 0.9) / 20)
    assert found["variance"] == pytest.approx(scores.double().numpy().var())


def test_the_worst_tenth_is_at_least_one_client():
    assert spread(torch.tensor([0.5, 0.7]))["worst10"] == pytest.approx(0.5)


def test_a_client_without_examples_is_left_out_and_counted():
    shards = Shards.of([torch.tensor([0, 1]), torch.tensor([], dtype=torch.long)])
    scores = per_client(torch.tensor([True, False]), shards)
    assert scores.isnan().tolist() == [False, True]
    assert spread(scores) == {
        "mean": 0.5,
        "worst10": 0.5,
        "variance": 0.0,
        "clients": 1,
    }
    with pytest.raises(ValueError, match="no client holds an example"):
        spread(scores[1:])


def test_a_hundred_thousand_clients_cost_no_more_python_than_a_thousand(lines_run):
    def measure(clients):
        shards = Shards(torch.arange(2 * clients), torch.arange(0, 2 * clients + 1, 2))
        right = torch.arange(2 * clients) % 4 == 0
        found = spread(per_client(right, shards))
        assert found["mean"] == 0.25 and found["clients"] == clients

    measure(1000)  # imports and caches
    assert lines_run(lambda: measure(100_000)) < 3 * lines_run(lambda: measure(1000))


def test_three_of_four_examples_right_is_three_quarters():
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 1.0], [0.0, 9.0]])
    right = correct(outputs, torch.tensor([0, 1, 1, 1]))
    assert right.tolist() == [True, True, False, True]
    assert accuracy(right) == 0.75


def test_a_model_that_diverged_gets_nothing_right():
    outputs = torch.full((3, 2), nan)
    assert accuracy(correct(outputs, torch.tensor([0, 1, 0]))) == 0.0


def test_the_mean_loss_is_summed_in_double_precision():
    # In single precision the small losses vanish beside the large one.
    losses = torch.tensor([1e8, *([1.0] * 99)])
    assert mean_loss(losses) == (1e8 + 99) / 100


def test_nothing_is_measured_on_no_examples():
    with pytest.raises(ValueError, match="at least one example"):
        accuracy(torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one example"):
        mean_loss(torch.zeros(0))


def test_final_and_peak_are_different_numbers():
    assert final(RECORDS, "test_accuracy") == 0.7
    assert peak(RECORDS, "test_accuracy") == 0.8
    assert peak(RECORDS, "test_loss", lowest=True) == 0.5
    assert peak(RECORDS, "absent") is None and final(RECORDS, "absent") is None


def test_a_run_that_ends_in_nan_has_no_final_value():
    assert final(RECORDS[:2], "test_loss") is None


def test_rounds_to_a_target_skip_rounds_without_a_number():
    assert rounds_to(RECORDS, "test_accuracy", 0.6) == 3
    assert rounds_to(RECORDS, "test_accuracy", 0.2) == 1
    assert rounds_to(RECORDS, "test_accuracy", 0.9) is None
    assert rounds_to(RECORDS, "test_loss", 0.55, lowest=True) == 3
    spent = {1: 1.0, 2: 2.0, 3: 4.0, 4: 8.0}
    assert seconds_to(rounds_to(RECORDS, "test_accuracy", 0.6), spent) == 7.0
    assert seconds_to(None, spent) is None


def judged_sometimes(seed, length=12):
    """Records with growing costs, some rounds not judged, some judged not a number."""
    stream = Key(seed).stream()
    scores, costs, judged = torch.rand(3, length, generator=stream).tolist()
    rows, up, down = [], 0.0, 0.0
    for number, (score, cost, coin) in enumerate(zip(scores, costs, judged, strict=True), 1):
        up, down = up + cost, down + 2 * cost
        row = {"round": number, "up": up, "down": down}
        if coin > 0.2:
            row["test_accuracy"] = score if coin > 0.3 else None
        rows.append(row)
    return rows


@given(seed=st.integers(0, 999), target=st.floats(0.01, 1))
def test_the_cost_of_a_target_is_that_of_the_first_round_that_reaches_it(seed, target):
    rows = judged_sometimes(seed)
    hits = [row for row in rows if (row.get("test_accuracy") or 0) >= target]
    found = cost_to(rows, "test_accuracy", target, "up", "down")
    assert found == (hits[0]["up"] + hits[0]["down"] if hits else None)
    assert rounds_to(rows, "test_accuracy", target) == (hits[0]["round"] if hits else None)


@given(seed=st.integers(0, 999), low=st.floats(0.01, 1), more=st.floats(0, 0.5))
def test_a_higher_target_never_costs_less(seed, low, more):
    rows = judged_sometimes(seed)
    easy, hard = (cost_to(rows, "test_accuracy", at, "up") for at in (low, low + more))
    assert hard is None or (easy is not None and easy <= hard)


def test_the_cost_of_a_target_is_neither_interpolated_nor_guessed():
    rows = [{**row, "bytes_up": 10 * row["round"]} for row in RECORDS]
    assert cost_to(rows, "test_accuracy", 0.5, "bytes_up") == 30
    assert cost_to(rows, "test_accuracy", 0.5, "bytes_up", "flops") is None
    assert cost_to(rows, "test_accuracy", 0.9, "bytes_up") is None
