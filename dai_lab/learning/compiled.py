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
PLAIN, ADAM, ADAGRAD = 0, 1, 2


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _rebalance(
    slope, targets, batch, weights, groups, classes, strata, favorable, penalty, means, counts,
):  # fmt: skip
    """Turn probabilities into slopes of weighed losses, and of what gaps within a batch cost."""
    means[:], counts[:] = 0, 0
    for row in range(len(batch) if len(groups) else 0):
        example = batch[row]
        stratum = strata[targets[example]]
        if stratum >= 0 and not (len(weights) and weights[example] == 0):
            means[stratum, groups[example]] += slope[row * classes + favorable]
            counts[stratum, groups[example]] += 1
    for stratum in range(2):
        middle, present = np.float32(0), 0
        for group in range(means.shape[1]):
            if counts[stratum, group]:
                means[stratum, group] /= counts[stratum, group]
                middle += means[stratum, group]
                present += 1
        for group in range(means.shape[1]):
            if counts[stratum, group]:
                means[stratum, group] -= middle / present  # how far it is from the middle
    for row in range(len(batch)):
        example, first = batch[row], row * classes
        weight = weights[example] if len(weights) else np.float32(1)
        pull = np.float32(0)
        if len(groups) and weight != 0:
            stratum, group = strata[targets[example]], groups[example]
            if stratum >= 0:
                pull = np.float32(2 * len(batch)) * penalty * slope[first + favorable]
                pull *= means[stratum, group] / counts[stratum, group]
        for j in range(classes):
            slope[first + j] *= weight - pull
        slope[first + targets[example]] -= weight
        slope[first + favorable] += pull


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _client(
    routine, inputs, targets, order, bounds, sizes, biased, moves, w, anchor, tilt, weights, groups,
    strata, favorable, penalty, rate, momentum, weight_decay, bound, proximal, second, beta2,
    epsilon,
):  # fmt: skip
    """Train one client in place in ``w`` and return the sum of its losses."""
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
    lowest = 0
    while lowest < layers and not moves[lowest]:
        lowest += 1
    # Momentum, clipping and second moments need the gradient itself; without them it is never
    # written down.
    fused = momentum == 0 and bound == 0 and second == PLAIN
    g = w if fused else np.zeros(len(w), np.float32)
    velocity = np.zeros(len(w) if momentum or second == ADAM else 0, np.float32)
    squares_of = np.zeros(len(w) if second != PLAIN else 0, np.float32)
    fair = len(weights) > 0 or len(groups) > 0
    cells = groups.max() + 1 if len(groups) else 0
    means, counts = np.empty((2, cells), np.float32), np.empty((2, cells), np.int64)
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
            outputs(routine, acts[places[layer] :], w[at:], z, batch, rows, cols, keep)
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
            example = order[bounds[step] + row]
            truth = targets[example]
            weight = weights[example] if len(weights) else np.float32(1)
            loss -= weight * (z[first + truth] - high - norm)
            for j in range(classes):
                slope[first + j] = np.exp(z[first + j] - high - norm)
            if not fair:
                slope[first + truth] -= np.float32(1)
        if fair:
            some = order[bounds[step] : bounds[step + 1]]
            _rebalance(
                slope, targets, some, weights, groups, classes, strata, favorable, penalty, means,
                counts,
            )  # fmt: skip
        alpha, beta = share, np.float32(0)
        if fused:
            alpha = -rate * share
            beta = np.float32(1) - rate * (weight_decay + proximal)
        for layer in range(layers - 1, lowest - 1, -1):
            rows, cols = sizes[layer], sizes[layer + 1]
            at = offsets[layer]
            if layer > lowest:
                to_inputs(routine, slope, w[at:], below, batch, rows, cols)
            if moves[layer]:
                to_weights(
                    routine, slope, acts[places[layer] :], g[at:], batch, rows, cols, alpha, beta
                )
            if biased[layer] and moves[layer]:
                at += rows * cols
                for j in range(cols):
                    g[at + j] = beta * g[at + j] if beta != 0 else np.float32(0)
                for row in range(batch):
                    for j in range(cols):
                        g[at + j] += alpha * slope[row * cols + j]
            if layer > lowest:
                a = acts[places[layer] : places[layer] + batch * rows]
                for j in range(batch * rows):
                    below[j] = np.float32(0) if a[j] <= 0 else below[j]
                slope, below = below, slope
        for layer in range(layers):
            if not moves[layer]:
                continue
            here, end = offsets[layer], offsets[layer + 1]
            if fused:
                if proximal:
                    for j in range(here, end):
                        w[j] += rate * proximal * anchor[j]
                if len(tilt):
                    for j in range(here, end):
                        w[j] -= rate * tilt[j]
                continue
            if proximal:
                for j in range(here, end):
                    g[j] += proximal * (w[j] - anchor[j])
            if len(tilt):
                for j in range(here, end):
                    g[j] += tilt[j]
        if fused:
            continue
        if bound:
            squares = 0.0
            for j in range(len(w)):
                squares += np.float64(g[j]) * np.float64(g[j])
            factor = np.float32(min(1.0, bound / max(np.sqrt(squares), 1e-12)))
            for j in range(len(w)):
                g[j] *= factor
        for layer in range(layers):
            if not moves[layer]:
                continue
            here, end = offsets[layer], offsets[layer + 1]
            if second == ADAM:
                first = np.float32(1 / (1 - np.float64(momentum) ** (step + 1)))
                other = np.float32(1 / (1 - np.float64(beta2) ** (step + 1)))
                for j in range(here, end):
                    velocity[j] = momentum * velocity[j] + (np.float32(1) - momentum) * g[j]
                    squares_of[j] = beta2 * squares_of[j] + (np.float32(1) - beta2) * g[j] * g[j]
                    w[j] -= rate * weight_decay * w[j]
                    w[j] -= rate * velocity[j] * first / (np.sqrt(squares_of[j] * other) + epsilon)
            elif second == ADAGRAD:
                for j in range(here, end):
                    pull = g[j] + weight_decay * w[j]
                    squares_of[j] += pull * pull
                    w[j] -= rate * pull / (np.sqrt(squares_of[j]) + epsilon)
            elif momentum:
                for j in range(here, end):
                    velocity[j] = momentum * velocity[j] + (g[j] + weight_decay * w[j])
                    w[j] -= rate * velocity[j]
            else:
                for j in range(here, end):
                    w[j] -= rate * (g[j] + weight_decay * w[j])
    return loss


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _cohort(
    routine, inputs, targets, order, bounds, firsts, sizes, biased, moves, start, anchors, tilts,
    rows, losses, weights, groups, strata, favorable, penalty, rate, momentum, weight_decay, bound,
    proximal, second, beta2, epsilon, begin, end,
):  # fmt: skip
    """Train clients ``begin`` to ``end`` of the cohort into their rows."""
    for client in range(begin, end):
        beginning = start[client % len(start)]
        tilt = tilts[client % len(tilts)] if len(tilts) else beginning[:0]
        w = rows[client]
        w[:] = beginning
        mine = bounds[firsts[client] : firsts[client + 1] + 1]
        losses[client] = _client(
            routine, inputs, targets, order, mine, sizes, biased, moves, w,
            anchors[client % len(anchors)], tilt, weights, groups, strata, favorable, penalty,
            rate, momentum, weight_decay, bound, proximal, second, beta2, epsilon,
        )  # fmt: skip
        for j in range(len(w)):
            w[j] -= beginning[j]


def train(
    inputs: F32,
    targets: I64,
    order: I64,
    bounds: I64,
    firsts: I64,
    sizes: I64,
    biased: NDArray[np.bool_],
    moves: NDArray[np.bool_],
    start: F32,
    anchors: F32,
    tilts: F32,
    rows: F32,
    losses: NDArray[np.float64],
    *,
    weights: F32 | None = None,
    groups: I64 | None = None,
    strata: I64 | None = None,
    favorable: int = 1,
    penalty: float = 0.0,
    rate: float,
    momentum: float,
    weight_decay: float,
    clip: float | None,
    proximal: float,
    threads: int,
    second: str | None = None,
    beta2: float = 0.0,
    epsilon: float = 0.0,
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
        moves: Whether each layer is trained ``[layers]``.
        start: Where clients start, one row for all or a row each.
        anchors: Where ``proximal`` pulls them, one row for all or a row each.
        tilts: Added to every gradient: no row, one for all, or a row each.
        rows: Filled with the updates ``[clients, params]``.
        losses: Filled with the sum of losses seen ``[clients]``.
        weights: What each example's loss is multiplied by ``[N]``; nothing is if not given.
        groups: Group of each example ``[N]``, from 0, where gaps between groups are charged.
        strata: For each class, among which of two kinds of examples (0, 1) groups are compared,
            or -1 for none ``[classes]``; given with ``groups``.
        favorable: Class whose mean score should be the same in all groups.
        penalty: Charge on the squared distance of each group's mean score from their middle.
        rate: Learning rate.
        momentum: Heavy-ball momentum.
        weight_decay: L2 penalty.
        clip: Bound on each batch gradient's L2 norm.
        proximal: Pull towards the anchor.
        threads: Threads that share the cohort; the result does not depend on them.
        second: ``adam`` or ``adagrad``, or ``None`` for plain steps.
        beta2: What Adam keeps of its second moment each step.
        epsilon: Added to the root of the second moment.
    """
    routine = blas()
    none = np.empty(0, np.int64)
    fair = (
        np.empty(0, np.float32) if weights is None else weights,
        *((none, none) if groups is None or strata is None else (groups, strata)),
        favorable,
        np.float32(penalty),
    )
    knobs = [np.float32(knob) for knob in (rate, momentum, weight_decay, clip or 0, proximal)]
    kind = {None: PLAIN, "adam": ADAM, "adagrad": ADAGRAD}[second]
    clients = len(rows)
    cuts = np.linspace(0, clients, min(threads, max(clients, 1)) + 1).astype(int)

    def part(begin: int, end: int) -> None:
        _cohort(
            routine, inputs, targets, order, bounds, firsts, sizes, biased, moves, start, anchors,
            tilts, rows, losses, *fair, *knobs, kind, np.float32(beta2), np.float32(epsilon),
            begin, end,
        )  # fmt: skip

    if threads == 1:
        part(0, clients)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, cuts[:-1].tolist(), cuts[1:].tolist()))
