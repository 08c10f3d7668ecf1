"""Where layers begin and end in a row, and a rule that looks at one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators.clusters import middle
from dai_lab.aggregators.lengths import finite_rows
from dai_lab.aggregators.seen import judged, need
from dai_lab.core import ALONE, Aggregate, Context, Model, Rows, Vector, Visible

BLOCK = 2**14
"""Columns that are worked on at once."""


def lasa(
    visible: Visible,
    context: Context = ALONE,
    *,
    sparsity: float = 0.3,
    norm_bound: float = 2.0,
    sign_bound: float = 1.0,
) -> Aggregate:
    """Average, in each layer, the rows whose length and signs there are near the median's.

    Rows are clipped to the median length of all and lose their smallest numbers first. In each
    layer two features of a row are compared: its length, and how much one sign outweighs the
    other. Where one is as many standard deviations from the median as its bound, or more, the row
    is left out of that layer. If that leaves nobody, all are averaged there, as in the authors'
    code; the record says how many layers that were.

    A row's suspicion is the part of all parameters, by layers, it was left out of; beyond one
    half it is accused. Where the model is not known the whole row is one layer.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: Its ``model`` says where layers are: each weight and each bias is one.
        sparsity: Part of each row's numbers, the smallest, to set to 0; 0 up to, without, 1.
            Numbers as large as the smallest that stays stay too.
        norm_bound: Standard deviations for the length, above 0. The authors take 1 for CIFAR.
        sign_bound: Standard deviations for the signs, above 0.

    Raises:
        TooFew: No finite row.
        ValueError: A knob is out of range.

    Source:
        Xu, Zhang and Hu 2025, arXiv:2409.01435, algorithm 1 (layer-adaptive sparsified model
        aggregation).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"aggregator.sparsity must be at least 0 and below 1, got {sparsity}")
    for name, limit in {"norm_bound": norm_bound, "sign_bound": sign_bound}.items():
        if not limit > 0:
            raise ValueError(f"aggregator.{name} must be above 0, got {limit}")
    need("lasa", visible, visible.count)
    finite = finite_rows(visible)
    need("lasa", visible, len(finite))
    # The smallest numbers of a mixture are known only when it is multiplied out.
    rows = visible.rows
    norms = torch.stack([rows[one].double().norm() for one in finite.tolist()])
    bound = middle(norms)
    factors = torch.where(norms > bound, bound / norms, 1.0)
    params = rows.shape[1]
    stay = params - int(sparsity * params)
    floors = torch.stack([_floor(rows[one], stay) for one in finite.tolist()])
    update = torch.empty_like(rows[0])
    shares, outside, nobody = torch.zeros_like(norms), torch.zeros_like(norms), 0
    for places in _layers(params, context.model):
        squares, signs, held = (torch.zeros_like(norms) for _ in range(3))
        for _, block in _sparse(rows, finite, floors, places):
            squares += (block.double() * factors.unsqueeze(1)).square().sum(1)
            signs += block.sign().sum(1)
            held += block.ne(0).sum(1)
        purity = (1 + signs / held.clamp_min(1)) / 2
        kept = _near(squares.sqrt(), norm_bound) & _near(purity, sign_bound)
        outside += len(places) / params * (~kept).double()
        if not bool(kept.any()):
            kept, nobody = ~kept, nobody + 1
        weights = factors * kept / kept.sum()
        shares += len(places) / params * weights
        for at, block in _sparse(rows, finite, floors, places):
            update[at : at + block.shape[1]] = (weights @ block.double()).to(update)
    return judged(
        visible, update, finite, shares=shares, suspicion=outside, suspects=outside > 0.5,
        record={"clipped_to": float(bound), "layers_nobody_passed": nobody},
    )  # fmt: skip


def output_layer(rule: str, visible: Visible, model: Model | None) -> range:
    """Return where in a row the parameters of the last layer are.

    Args:
        rule: Its name, for the error.
        visible: What the server may see.
        model: The network, if it is known.

    Raises:
        ValueError: The model is not known, or not that of the rows.
    """
    if model is None or model.params != visible.base.shape[1]:
        raise ValueError(
            f"aggregator={rule} cannot tell the last layer's parameters: "
            "set aggregator.features=all"
        )
    layer = model.names[-1].rpartition(".")[0]
    ours = 0
    for name, shape in zip(reversed(model.names), reversed(model.shapes), strict=True):
        if name.rpartition(".")[0] != layer:
            break
        ours += shape.numel()
    return range(model.params - ours, model.params)


def _layers(params: int, model: Model | None) -> list[range]:
    """Return where each weight and each bias is."""
    if model is None or model.params != params:
        return [range(params)]
    ends = torch.tensor([0, *(shape.numel() for shape in model.shapes)]).cumsum(0).tolist()
    return [range(one, two) for one, two in pairwise(ends) if two > one]


def _sparse(
    rows: Rows, finite: Int[Tensor, "m"], floors: Tensor, places: range
) -> Iterator[tuple[int, Tensor]]:
    """Give some columns at a time, and where they begin; what is below its row's floor is 0."""
    for start in range(places.start, places.stop, BLOCK):
        block = rows[:, start : min(start + BLOCK, places.stop)][finite]
        yield start, block * (block.abs() >= floors.unsqueeze(1))


def _floor(row: Vector, stay: int) -> Tensor:
    """Return the smallest of a row's ``stay`` largest numbers, signs apart."""
    return row.abs().kthvalue(len(row) - stay + 1).values


def _near(values: Float64[Tensor, "m"], bound: float) -> Bool[Tensor, "m"]:
    """Say which values are fewer than ``bound`` standard deviations from the median."""
    away = (values - middle(values)).abs()
    # Of two values each is one deviation away: rounding must not say who is at the bound.
    return (away < bound * (1 - 1e-9) * values.std(correction=0)) | (away == 0)
