"""What every compression must satisfy, then what each one promises."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import compression
from dai_lab.core import Key, State

SHAPES = ((4, 5), (5,), (3, 2, 2))
PARAMS = 37
PARTS = {
    "dense": compression.dense,
    "top_k": partial(compression.top_k, share=0.2),
    "random_k": partial(compression.random_k, share=0.2),
    "random_k as it is": partial(compression.random_k, share=0.2, unbiased=False),
    "qsgd": partial(compression.qsgd, levels=4),
    "sign": compression.sign,
    "signs alone": partial(compression.sign, scaled=False),
    "power_sgd": partial(compression.power_sgd, rank=1),
}
PARTS["top_k with feedback"] = partial(compression.error_feedback, then=PARTS["top_k"])
PARTS["power_sgd with feedback"] = partial(compression.error_feedback, then=PARTS["power_sgd"])
SEEDS = st.integers(0, 999)
LIES = [torch.nan, torch.inf, -torch.inf]


def rows(seed, count=5, params=PARAMS, dtype=torch.float32):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=dtype)


def send(part, meant, clients=None, state=None, key=None):
    clients = range(len(meant)) if clients is None else clients
    state = state or State(torch.zeros(PARAMS))
    return part(meant, clients=clients, state=state, shapes=SHAPES, key=key or Key(0))


def after(sent, clients, state=None):
    """Let clients remember what they learned, as a round does."""
    state = state or State(torch.zeros(PARAMS))
    for name, learned in sent.learned.items():
        state = state.remember(state.keep(name, clients, learned))
    return state


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=15)
@given(seed=SEEDS, count=st.integers(1, 6))
def test_as_many_rows_arrive_and_nothing_else_is_touched(name, seed, count):
    meant = rows(seed, count)
    before = meant.clone()
    sent = send(PARTS[name], meant)
    assert sent.rows.shape == meant.shape and sent.rows.dtype == meant.dtype
    assert meant.equal(before)
    assert sent.bytes == count * send(PARTS[name], rows(seed + 1, 1)).bytes
    assert all(len(learned) == count for learned in sent.learned.values())


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=15)
@given(seed=SEEDS, data=st.data())
def test_neither_the_order_of_clients_nor_their_company_matters(name, seed, data):
    part, clients = PARTS[name], [7, 2, 9, 4, 0]
    first = send(part, rows(seed), clients)
    state = after(first, clients)
    meant, key = rows(seed + 1), Key(seed) / "round" / 2
    together = send(part, meant, clients, state, key)
    some = data.draw(st.permutations(range(5)))[: data.draw(st.integers(1, 5))]
    chosen = send(part, meant[some], [clients[at] for at in some], state, key)
    torch.testing.assert_close(chosen.rows, together.rows[some])
    for what, learned in together.learned.items():
        torch.testing.assert_close(chosen.learned[what], learned[some])


@pytest.mark.parametrize("name", PARTS)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_a_key_decides_everything_that_is_drawn(name, seed):
    meant = rows(seed)
    one, same = (send(PARTS[name], meant, key=Key(seed)) for _ in range(2))
    assert one.rows.equal(same.rows) and one.bytes == same.bytes
    other = send(PARTS[name], meant, key=Key(seed + 1)).rows
    drawn = name.startswith(("random_k", "qsgd", "power_sgd"))
    assert other.equal(one.rows) is not drawn


@pytest.mark.parametrize("name", ["random_k", "qsgd"])
def test_clients_draw_each_for_itself(name):
    sent = send(PARTS[name], rows(0, 1).expand(2, -1)).rows
    assert not sent[0].equal(sent[1])


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=10)
@given(seed=SEEDS, at=st.integers(0, PARAMS - 1))
def test_a_row_that_is_not_finite_arrives_so_and_touches_no_other(name, lie, seed, at):
    meant = rows(seed)
    honest = send(PARTS[name], meant)
    meant[2, at] = lie
    sent = send(PARTS[name], meant)
    assert sent.bytes == honest.bytes
    assert not sent.rows[2].isfinite().all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(sent.rows[others], honest.rows[others])
    for what, learned in honest.learned.items():
        torch.testing.assert_close(sent.learned[what][others], learned[others])
        assert sent.learned[what].isfinite().all()


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
@pytest.mark.parametrize("name", [name for name in PARTS if name != "signs alone"])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_huge_and_tiny_rows_are_rows_in_another_unit(name, scale, seed):
    meant = rows(seed)
    plain, scaled = (send(PARTS[name], unit * meant).rows for unit in (1.0, scale))
    torch.testing.assert_close(scaled / scale, plain)


@pytest.mark.parametrize("name", ["top_k", "random_k as it is", "signs alone", "sign", "dense"])
def test_a_row_whose_sum_is_out_of_range_is_finite_all_the_same(name):
    meant = torch.full((2, PARAMS), 2e38)
    assert meant.sum(1).isinf().all()
    sent = send(PARTS[name], meant).rows
    assert sent.isfinite().all() and sent.any(1).all()


@pytest.mark.parametrize("name", PARTS)
def test_rows_of_zeros_arrive_as_zeros_or_bare_signs(name):
    sent = send(PARTS[name], torch.zeros(3, PARAMS)).rows
    assert sent.equal(torch.full_like(sent, float(name == "signs alone")))


@pytest.mark.parametrize(
    "whole",
    [
        partial(compression.top_k, share=1.0),
        partial(compression.random_k, share=1.0),
        partial(compression.power_sgd, rank=100),
        partial(compression.error_feedback, then=compression.dense),
    ],
)
@settings(max_examples=15)
@given(seed=SEEDS, width=st.sampled_from([PARAMS, 2 * PARAMS, 25, 21]))
def test_at_full_rate_rows_arrive_as_they_were_meant(whole, seed, width):
    meant = rows(seed, params=width)
    torch.testing.assert_close(send(whole, meant).rows, meant, rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(seed=SEEDS, levels=st.sampled_from([1, 4, 127, 2**20]))
def test_an_entry_is_rounded_to_a_neighboring_level(seed, levels):
    meant = rows(seed)
    sent = send(partial(compression.qsgd, levels=levels), meant).rows
    step = meant.norm(dim=1, keepdim=True) / levels
    assert ((sent - meant).abs() <= 1.001 * step + 1e-6).all()
    assert (sent * meant >= 0).all()
    torch.testing.assert_close(sent / step, (sent / step).round(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        PARTS["random_k"],
        PARTS["qsgd"],
        partial(compression.qsgd, levels=1),
        partial(compression.qsgd, levels=1000),
    ],
)
def test_unbiased_ones_are_right_on_average(part):
    meant = rows(1, 1, dtype=torch.float64)
    sent = send(part, meant.expand(4000, -1)).rows
    errors = (sent.mean(0) - meant[0]).abs() / (sent.std(0) / 4000**0.5)
    assert errors.max() < 4.5  # standard errors; chance exceeds that in 37 once in 4000


@pytest.mark.parametrize("levels", [1, 4, 30])
def test_quantization_errs_no_more_than_its_paper_says(levels):
    meant = rows(2, 1, dtype=torch.float64)
    sent = send(partial(compression.qsgd, levels=levels), meant.expand(2000, -1)).rows
    error = (sent - meant).square().sum(1)
    bound = min(PARAMS / levels**2, PARAMS**0.5 / levels) * meant.square().sum()
    assert error.mean() + 4 * error.std() / 2000**0.5 <= bound


@settings(max_examples=30)
@given(seed=SEEDS, share=st.floats(0.001, 1), ties=st.booleans())
def test_the_largest_are_those_of_a_stable_sort(seed, share, ties):
    meant = rows(seed)
    meant = meant.round() if ties else meant
    count = max(1, round(share * PARAMS))
    sent = send(partial(compression.top_k, share=share), meant).rows
    order = np.argsort(-meant.abs().numpy(), axis=1, kind="stable")[:, :count]
    expected = np.zeros_like(meant)
    np.put_along_axis(expected, order, np.take_along_axis(meant.numpy(), order, 1), 1)
    np.testing.assert_array_equal(sent.numpy(), expected)


@settings(max_examples=30)
@given(seed=SEEDS, share=st.floats(0.001, 1))
def test_sending_the_largest_leaves_out_less_than_their_share(seed, share):
    meant = rows(seed, dtype=torch.float64)
    left = (meant - send(partial(compression.top_k, share=share), meant).rows).square().sum(1)
    kept = max(1, round(share * PARAMS)) / PARAMS
    assert (left <= (1 - kept) * meant.square().sum(1) + 1e-12).all()


@settings(max_examples=15)
@given(seed=SEEDS)
def test_signs_leave_out_no_more_than_their_paper_says(seed):
    meant = rows(seed, dtype=torch.float64)
    left = (meant - send(compression.sign, meant).rows).square().sum(1)
    density = meant.abs().sum(1) ** 2 / (PARAMS * meant.square().sum(1))
    torch.testing.assert_close(left, (1 - density) * meant.square().sum(1))


def test_a_worked_example():
    meant = torch.tensor([[3.0, -1.0, 0.0, -4.0]])
    top = send(partial(compression.top_k, share=0.5), meant)
    assert top.rows.tolist() == [[3.0, 0.0, 0.0, -4.0]]
    assert top.bytes == 2 * 4 + 1  # two numbers, and two positions of two bits
    signs = send(compression.sign, meant)
    assert signs.rows.tolist() == [[2.0, -2.0, 2.0, -2.0]]
    assert signs.bytes == 1 + 4
    exact = send(partial(compression.qsgd, levels=1), torch.tensor([[0.0, -5.0]]))
    assert exact.rows.tolist() == [[0.0, -5.0]]
    assert exact.bytes == 4 + 1


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (partial(compression.top_k, share=3.0), "share must be above 0 and at most 1, got 3"),
        (partial(compression.random_k, share=0.0), "share must be above 0 and at most 1, got 0"),
        (partial(compression.qsgd, levels=0), r"levels must be in 1\.\.1048576, got 0"),
        (partial(compression.power_sgd, rank=0), "rank must be at least 1, got 0"),
    ],
)
def test_a_knob_out_of_range_is_named(part, complaint):
    with pytest.raises(ValueError, match=rf"compression\.{complaint}"):
        send(part, rows(0))
