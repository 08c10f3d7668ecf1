"""Local SGD of dense networks, compiled: a whole cohort's round is one call, with no Python inside.

A step of a small network is short against the cost of calling torch at all. Here every client
trains in place in its own row of the result, in the flat order of its parameters: gather a batch,
one matrix product a layer forward, two back, and plain SGD adds the last of them straight onto the
weights. No state, no lock, no Python: threads share a cohort without changing a bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dai_lab.learning.products import blas, outputs, to_inputs, to_weights

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _client(
    address, inputs, targets, order, bounds, sizes, biased, w, start, rate, momentum, weight_decay,
    bound, proximal,
):  # fmt: skip
    """Train one client in place in ``w`` and return its mean loss."""
    layers = len(sizes) - 1
    most = 1
    for step in range(len(bounds) - 1):
        most = max(most, bounds[step + 1] - bounds[step])
    widest = 0
    places = np.empty(layers + 1, np.int64)  # where each layer's activations start
    total = 0
    for layer in range(layers + 1):
        places[layer] = total
        total += most * sizes[layer]
        if layer:
            widest = max(widest, sizes[layer])
    acts = np.empty(total, np.float32)
    slope, below = np.empty(most * widest, np.float32), np.empty(most * widest, np.float32)
    offsets = np.empty(layers + 1, np.int64)
    offsets[0] = 0
    for layer in range(layers):
        held = sizes[layer] * sizes[layer + 1] + (sizes[layer + 1] if biased[layer] else 0)
        offsets[layer + 1] = offsets[layer] + held
    # Momentum and clipping need the gradient itself; without them it is never written down.
    fused = momentum == 0 and bound == 0
    g = w if fused else np.empty(len(w), np.float32)
    velocity = np.zeros(len(w) if momentum else 0, np.float32)
    loss = 0.0
    for step in range(len(bounds) - 1):
        batch = bounds[step + 1] - bounds[step]
        width = sizes[0]
        for row in range(batch):
            example = order[bounds[step] + row]
            for j in range(width):
                acts[row * width + j] = inputs[example, j]
        for layer in range(layers):
            rows, cols = sizes[layer], sizes[layer + 1]
            z = acts[places[layer + 1] : places[layer + 1] + batch * cols]
            at = offsets[layer]
            keep = np.float32(0)
            if biased[layer]:
                keep = np.float32(1)
                bias = w[at + rows * cols : at + rows * cols + cols]
                for row in range(batch):
                    for j in range(cols):
                        z[row * cols + j] = bias[j]
            outputs(address, acts[places[layer] :], w[at:], z, batch, rows, cols, keep)
            if layer < layers - 1:
                for j in range(batch * cols):
                    # Written so that NaN stays NaN.
                    z[j] = np.float32(0) if z[j] < 0 else z[j]
        classes = sizes[layers]
        z = acts[places[layers] :]
        share = np.float32(1) / np.float32(batch)
        for row in range(batch):
            first = row * classes
            high = z[first]
            for j in range(1, classes):
                high = max(high, z[first + j])
            norm = np.float32(0)
            for j in range(classes):
                norm += np.exp(z[first + j] - high)
            norm = np.log(norm)
            truth = targets[order[bounds[step] + row]]
            loss -= z[first + truth] - high - norm
            for j in range(classes):
                slope[first + j] = np.exp(z[first + j] - high - norm)
            slope[first + truth] -= np.float32(1)
        alpha, beta = share, np.float32(0)
        if fused:
            alpha = -rate * share
            beta = np.float32(1) - rate * (weight_decay + proximal)
        for layer in range(layers - 1, -1, -1):
            rows, cols = sizes[layer], sizes[layer + 1]
            at = offsets[layer]
            if layer:
                to_inputs(address, slope, w[at:], below, batch, rows, cols)
            to_weights(
                address, slope, acts[places[layer] :], g[at:], batch, rows, cols, alpha, beta
            )
            if biased[layer]:
                at += rows * cols
                for j in range(cols):
                    g[at + j] = beta * g[at + j] if beta != 0 else np.float32(0)
                for row in range(batch):
                    for j in range(cols):
                        g[at + j] += alpha * slope[row * cols + j]
            if layer:
                a = acts[places[layer] : places[layer] + batch * rows]
                for j in range(batch * rows):
                    below[j] = np.float32(0) if a[j] <= 0 else below[j]
                slope, below = below, slope
        if fused:
            if proximal:
                for j in range(len(w)):
                    w[j] += rate * proximal * start[j]
            continue
        if proximal:
            for j in range(len(w)):
                g[j] += proximal * (w[j] - start[j])
        if bound:
            squares = 0.0
            for j in range(len(w)):
                squares += np.float64(g[j]) * np.float64(g[j])
            factor = np.float32(min(1.0, bound / max(np.sqrt(squares), 1e-12)))
            for j in range(len(w)):
                g[j] *= factor
        if momentum:
            for j in range(len(w)):
                velocity[j] = momentum * velocity[j] + (g[j] + weight_decay * w[j])
                w[j] -= rate * velocity[j]
        else:
            for j in range(len(w)):
                w[j] -= rate * (g[j] + weight_decay * w[j])
    return loss


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _cohort(
    address, inputs, targets, order, bounds, firsts, sizes, biased, start, rows, losses, rate,
    momentum, weight_decay, bound, proximal, begin, end,
):  # fmt: skip
    """Train clients ``begin`` to ``end`` of the cohort into their rows."""
    for client in range(begin, end):
        anchor = start[client % len(start)]
        w = rows[client]
        w[:] = anchor
        mine = bounds[firsts[client] : firsts[client + 1] + 1]
        losses[client] = _client(
            address, inputs, targets, order, mine, sizes, biased, w, anchor, rate, momentum,
            weight_decay, bound, proximal,
        )  # fmt: skip
        for j in range(len(w)):
            w[j] -= anchor[j]


def train(
    inputs: F32,
    targets: I64,
    order: I64,
    bounds: I64,
    firsts: I64,
    sizes: I64,
    biased: NDArray[np.bool_],
    start: F32,
    rows: F32,
    losses: NDArray[np.float64],
    *,
    rate: float,
    momentum: float,
    weight_decay: float,
    clip: float | None,
    proximal: float,
    threads: int,
) -> None:
    """Train a cohort and leave every client's update in its row.

    Args:
        inputs: All examples ``[N, in]``.
        targets: All classes ``[N]``.
        order: Examples in the order in which they are looked at, client after client.
        bounds: Where in ``order`` each step starts, and the end ``[steps + 1]``.
        firsts: Which step is each client's first, and the end ``[clients + 1]``.
        sizes: Width of the input and of each layer's output ``[layers + 1]``.
        biased: Whether each layer has a bias ``[layers]``.
        start: Where clients start, one row for all or a row each.
        rows: Filled with the updates ``[clients, params]``.
        losses: Filled with the sum of losses seen ``[clients]``.
        rate: Learning rate.
        momentum: Heavy-ball momentum.
        weight_decay: L2 penalty.
        clip: Bound on each batch gradient's L2 norm.
        proximal: Pull back to the start.
        threads: Threads that share the cohort; the result does not depend on them.
    """
    address = blas()
    knobs = [np.float32(knob) for knob in (rate, momentum, weight_decay, clip or 0, proximal)]
    clients = len(rows)
    cuts = np.linspace(0, clients, min(threads, max(clients, 1)) + 1).astype(int)

    def part(begin: int, end: int) -> None:
        _cohort(
            address, inputs, targets, order, bounds, firsts, sizes, biased, start, rows, losses,
            *knobs, begin, end,
        )  # fmt: skip

    if threads == 1:
        part(0, clients)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, cuts[:-1].tolist(), cuts[1:].tolist()))
