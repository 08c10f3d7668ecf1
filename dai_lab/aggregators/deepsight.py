"""DeepSight: look into clients' models for what they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from dai_lab.aggregators.clusters import clipped, total
from dai_lab.aggregators.layers import output_layer
from dai_lab.aggregators.lengths import lengths
from dai_lab.aggregators.seen import judged, need
from dai_lab.core import ALONE, Aggregate, Context, Model, Rows, Vector, Visible

if TYPE_CHECKING:
    from dai_lab.core import Key

BATCH = 500
"""Random inputs that go through a model at once."""
CORE, LEAST = 3, 5
"""Neighbors that make a core point, and the fewest points that make a cluster."""
STEEPEST = 50.0
"""Largest logarithm of a factor between two predictions that is told from still larger ones."""
SIDES = (28, 32, *range(4, 257))
"""Sides of an image that are tried on a network that does not say."""


def deepsight(
    visible: Visible,
    context: Context = ALONE,
    *,
    samples: int = 20_000,
    seeds: int = 3,
    shape: Sequence[int] | None = None,
    tau: float = 1 / 3,
) -> Aggregate:
    """Reject clusters of clients in which too many seem to have trained on few classes.

    Clients are alike whose output layers changed in the same neurons, whose models changed their
    predictions on random inputs by the same factors, and whose output biases moved the same way.
    Each of these says who is in a cluster with whom, and so do the three together. A client whose
    changes exceed a threshold in few neurons is suspicious. A cluster with a part of ``tau``
    suspicious clients, or more, is rejected; whoever is in no cluster is judged alone. What is
    left is clipped to the median length of all and averaged.

    A row's suspicion is the part of suspicious rows in its cluster. The paper does not say what
    happens where every cluster is rejected: here whoever is not suspicious stays, at least half
    of all, and the record says so.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: ``model`` and ``state`` are needed; random inputs are drawn from ``key``.
        samples: Random inputs, uniform in [0, 1], to compare predictions on; at least 1.
        seeds: Times that is done with other inputs; at least 1.
        shape: Shape of one input. ``None`` asks the first layer, and tries images of common size
            on networks that begin with a convolution.
        tau: Part of suspicious clients at which a cluster is rejected, above 0 up to 1.

    Raises:
        TooFew: No finite row.
        ValueError: The model is not known, tells no classes apart or does not take such inputs,
            or a knob is out of range.

    Source:
        Rieger et al. 2022, arXiv:2201.00763, sections IV and V.
    """
    for name, count in {"samples": samples, "seeds": seeds}.items():
        if count < 1:
            raise ValueError(f"aggregator.{name} must be at least 1, got {count}")
    if not 0 < tau <= 1:
        raise ValueError(f"aggregator.tau must be above 0 and at most 1, got {tau}")
    model, params, layer, classes = _known(visible, context)
    need("deepsight", visible, visible.count)
    finite, norms = lengths(visible)
    need("deepsight", visible, len(finite))
    # In an order of their own, so that clusters do not depend on whose row comes first.
    order = norms.argsort(stable=True)
    rows = visible.rows[finite[order]]
    last = rows[:, layer.start : layer.stop].double()
    weights, biases = last[:, :-classes].unflatten(1, (classes, -1)), last[:, -classes:]
    energies, exceeding = update_energies(weights, biases)
    inputs = tuple(shape) if shape is not None else _input_shape(model, params)
    factors = [
        division_differences(model, params, rows, inputs, samples, context.key / "deepsight" / one)
        for one in range(seeds)
    ]
    apart = torch.stack([_apart(_euclidean(one)) for one in factors]).mean(0)
    apart = (apart + _apart(_euclidean(energies)) + _apart(_angles(biases))) / 3
    labels = _clusters(apart, single=True)
    suspicious = exceeding <= exceeding.double().quantile(0.5) / 2
    same = (labels.unsqueeze(1) == labels) & (labels >= 0)
    same.fill_diagonal_(True)
    doubt = torch.zeros_like(norms)
    doubt[order] = (same.double() @ suspicious.double()) / same.sum(1)
    # A third of three is a third, whatever rounding says.
    kept = doubt < tau - 1e-12
    nobody = not bool(kept.any())
    if nobody:
        kept[order] = ~suspicious
    shares, bound = clipped(norms, kept)
    return judged(
        visible, total(visible, shares, finite), finite, shares=shares, suspicion=doubt,
        suspects=~kept, record={"clipped_to": bound, "clusters": len(labels[labels >= 0].unique()),
                "all_rejected": int(nobody)},
    )  # fmt: skip


def update_energies(
    weights: Float64[Tensor, "m classes inputs"], biases: Float64[Tensor, "m classes"]
) -> tuple[Float64[Tensor, "m classes"], Int[Tensor, "m"]]:
    """Return each output neuron's part of a row's squared changes, and how many neurons stand out.

    The parts add up to 1; in a row that changed nothing they are alike.
    """
    changes = biases.abs() + weights.abs().sum(2)
    largest = changes.amax(1, keepdim=True)
    changes = torch.where(largest > 0, changes / torch.where(largest > 0, largest, 1.0), 1.0)
    parts = changes.square() / changes.square().sum(1, keepdim=True)
    threshold = max(0.01, 1 / parts.shape[1]) * parts.amax(1, keepdim=True)
    return parts, (parts > threshold).sum(1)


@torch.no_grad()
def division_differences(
    model: Model, params: Vector, rows: Rows, shape: tuple[int, ...], samples: int, key: Key
) -> Float64[Tensor, "m classes"]:
    """Return by what factor each row changes the probability of each class, on random inputs."""
    stream = key.stream()
    found = torch.zeros((len(rows), 1), dtype=torch.float64, device=rows.device)
    for start in range(0, samples, BATCH):
        drawn = torch.rand(
            (min(BATCH, samples - start), *shape), dtype=torch.float32, generator=stream
        ).to(params)
        before = model(params, drawn).double().log_softmax(1)
        after = (model(params + row, drawn).double().log_softmax(1) for row in rows)
        steps = [(one - before).nan_to_num(STEEPEST).clamp(-STEEPEST, STEEPEST) for one in after]
        found = found + torch.stack([one.exp().sum(0) for one in steps])
    return found / samples


def _known(visible: Visible, context: Context) -> tuple[Model, Vector, range, int]:
    model, state = context.model, context.state
    if model is None or state is None or model.params != visible.base.shape[1]:
        raise ValueError(
            "aggregator=deepsight looks into clients' models and does not know the network or "
            "the parameters they started from: choose aggregator=freqfed"
        )
    layer = output_layer("deepsight", visible, model)
    classes = model.shapes[-1].numel()
    dense = len(model.shapes[-1]) == 1 and len(layer) % classes == 0 and len(layer) > classes
    if not dense or classes < 2:
        raise ValueError(
            "aggregator=deepsight needs a network that ends in a weight and a bias for each of "
            f"several classes, and this one ends in {model.names[-1]!r} of shape "
            f"{tuple(model.shapes[-1])}: choose another model or aggregator"
        )
    return model, state.params.to(visible.base), layer, classes


def _input_shape(model: Model, params: Vector) -> tuple[int, ...]:
    """Ask the first layer that has parameters what it takes."""
    leaves = (one for one in model.module.modules() if not list(one.children()))
    first = next((one for one in leaves if list(one.parameters())), None)
    tried: list[tuple[int, ...]] = []
    if isinstance(first, nn.Linear):
        tried = [(first.in_features,)]
    elif isinstance(first, nn.Conv2d):
        tried = [(first.in_channels, side, side) for side in SIDES]
    for shape in tried:
        try:
            with torch.no_grad():
                model(params, params.new_zeros((1, *shape)))
        except RuntimeError:
            continue
        return shape
    raise ValueError(
        "aggregator=deepsight cannot tell what inputs the network takes: set aggregator.shape"
    )


def _clusters(apart: Float64[Tensor, "m m"], *, single: bool = False) -> Int[Tensor, "m"]:
    """Return whose cluster each row is in, -1 for none."""
    from sklearn.cluster import HDBSCAN

    count = len(apart)
    if count < 2:
        return torch.zeros(count, dtype=torch.long)
    # Here a core point is its own neighbor.
    found = HDBSCAN(
        min_cluster_size=min(LEAST, count),
        min_samples=min(CORE + 1, count),
        metric="precomputed",
        allow_single_cluster=single,
        copy=True,
    ).fit_predict(apart.cpu().numpy())
    return torch.from_numpy(found).long().to(apart.device)


def _apart(distances: Float64[Tensor, "m m"]) -> Float64[Tensor, "m m"]:
    """Return 0 for rows in the same cluster, 1 for others; all that are in none count as one."""
    labels = _clusters(distances)
    return (labels.unsqueeze(1) != labels).double()


def _euclidean(points: Float64[Tensor, "m axes"]) -> Float64[Tensor, "m m"]:
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _angles(points: Float64[Tensor, "m axes"]) -> Float64[Tensor, "m m"]:
    """Return 1 less the cosine between any two points; 0 has none and is at distance 1."""
    unit = points / points.abs().amax(1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)
    unit = unit / unit.norm(dim=1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)
    # Between unit vectors that is half of their squared distance, which cancels nothing.
    away = _euclidean(unit).square() / 2
    none = unit.eq(0).all(1)
    away[none], away[:, none] = 1.0, 1.0
    return away.fill_diagonal_(0)
