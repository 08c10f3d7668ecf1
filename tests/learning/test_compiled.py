"""The compiled trainer against the same steps spelled out in numpy, in double precision."""

from itertools import pairwise
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.learning import compiled, products


def spelled_out(inputs, targets, batches, sizes, biased, start, knobs):
    """One client's round: weights before bias, layer after layer, in one flat vector."""
    w, velocity = start.astype(np.float64), np.zeros(len(start))
    ends = np.cumsum([sizes[at] * sizes[at + 1] + biased[at] * sizes[at + 1]
                      for at in range(len(biased))])  # fmt: skip
    for some in batches:
        acts, layers = [inputs[some].astype(np.float64)], []
        for at, part in enumerate(np.split(w, ends[:-1])):
            weight = part[: sizes[at] * sizes[at + 1]].reshape(sizes[at + 1], sizes[at])
            z = acts[-1] @ weight.T + (part[weight.size :] if biased[at] else 0)
            layers.append(weight)
            acts.append(np.maximum(z, 0) if at < len(biased) - 1 else z)
        scores = np.exp(acts[-1] - acts[-1].max(1, keepdims=True))
        slope = scores / scores.sum(1, keepdims=True)
        slope[np.arange(len(some)), targets[some]] -= 1
        slope, found = slope / len(some), []
        for at in reversed(range(len(biased))):
            found.append(np.concatenate([(slope.T @ acts[at]).ravel(),
                                         slope.sum(0) if biased[at] else []]))  # fmt: skip
            slope = (slope @ layers[at]) * (acts[at] > 0)
        g = np.concatenate(found[::-1]) + knobs["proximal"] * (w - start)
        if knobs["clip"] is not None:
            g *= min(1, knobs["clip"] / np.linalg.norm(g))
        velocity = knobs["momentum"] * velocity + g + knobs["weight_decay"] * w
        w = w - knobs["rate"] * velocity
    return w - start


@given(
    seed=st.integers(0, 999),
    hidden=st.lists(st.integers(1, 5), max_size=2),
    bias=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    lengths=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4),
    momentum=st.sampled_from([0.0, 0.7]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip=st.sampled_from([None, 0.2]),
    proximal=st.sampled_from([0.0, 0.5]),
    own=st.booleans(),
    threads=st.integers(1, 3),
)
@settings(max_examples=60)
def test_a_cohort_ends_where_spelled_out_steps_end(
    seed, hidden, bias, lengths, own, threads, **knobs
):
    draw = np.random.default_rng(Key(seed).number())
    sizes, biased = np.array([4, *hidden, 3]), np.array(bias[: len(hidden) + 1])
    inputs = draw.standard_normal((12, 4), dtype=np.float32)
    targets = draw.integers(0, 3, 12)
    flat = [length for mine in lengths for length in mine]
    bounds = np.cumsum([0, *flat])
    firsts = np.cumsum([0, *(len(mine) for mine in lengths)])
    order = draw.integers(0, 12, bounds[-1])
    params = sum(sizes[at + 1] * (sizes[at] + biased[at]) for at in range(len(biased)))
    start = draw.standard_normal((len(lengths) if own else 1, params), dtype=np.float32)
    rows, losses = np.full((len(lengths), params), 7, np.float32), np.zeros(len(lengths))
    moves, none = np.ones(len(biased), bool), np.zeros((0, params), np.float32)
    knobs = {**knobs, "rate": 0.1}
    compiled.train(
        inputs, targets, order, bounds, firsts, sizes, biased, moves, start, start,
        none, rows, losses,
        threads=threads, **knobs,
    )  # fmt: skip
    for client, row in enumerate(rows):
        mine = bounds[firsts[client] : firsts[client + 1] + 1]
        batches = [order[one:end] for one, end in pairwise(mine)]
        here = start[client % len(start)]
        expected = spelled_out(inputs, targets, batches, sizes, biased, here, knobs)
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_cohort_of_nobody_is_no_rows(threads):
    none = np.zeros(0, np.int64)
    compiled.train(
        np.ones((2, 4), np.float32), np.zeros(2, np.int64), none, np.zeros(1, np.int64),
        np.zeros(1, np.int64), np.array([4, 3]), np.array([True]), np.array([True]),
        np.ones((1, 15), np.float32), np.ones((1, 15), np.float32), np.zeros((0, 15), np.float32),
        np.zeros((0, 15), np.float32), np.zeros(0), rate=0.1, momentum=0.0, weight_decay=0.0,
        clip=None, proximal=0.0, threads=threads,
    )  # fmt: skip


def test_blas_keeps_to_one_thread_whichever_thread_asks_first():
    from threadpoolctl import threadpool_info

    def threads():
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    products.blas()
    before, seen = threads(), []
    products.give_back()
    elsewhere = Thread(target=lambda: (products.blas(), seen.extend(threads())))
    elsewhere.start()
    elsewhere.join()
    products.give_back()
    assert seen == before == [1] * len(seen) != []
