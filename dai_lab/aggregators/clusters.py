"""Rules that keep the rows of one cluster, by the angles between them.

Where a cluster must hold more than half of all rows there can be no second one, and HDBSCAN with
one sample a core point is single linkage: it returns the first cluster that grows to more than
half, and calls everybody else noise. That is found here from the angles alone. It keeps few more
than half of the rows even where nobody lies, unless many are equally near.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import Seen, judged, look, need
from dai_lab.core import ALONE, Aggregate, Context, Rows, Vector, Visible


def flame(visible: Visible, context: Context = ALONE, *, noise: float = 0.001) -> Aggregate:
    """Keep the majority whose models point the same way, clip them, average, and add noise.

    A row is clipped to the median length of all. Its suspicion is the cosine distance over which
    it is linked to the majority; whoever is left out is accused, and that is nearly half of all.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: ``state`` holds the model that makes a client's model of its row; noise is
            drawn from ``key``.
        noise: Standard deviation of the noise in each coordinate, as a multiple of the median
            length; 0 or more. The paper takes 0.001 for images and 0.01 for text and intrusions.

    Raises:
        TooFew: No finite row.
        ValueError: The model is not known, or ``noise`` is out of range.

    Source:
        Nguyen et al. 2022, arXiv:2101.02281, algorithm 1.
    """
    if not 0 <= noise < math.inf:
        raise ValueError(f"aggregator.noise must be at least 0, got {noise}")
    params = None if context.state is None else context.state.params
    if params is None or len(params) != visible.base.shape[1]:
        raise ValueError(
            "aggregator=flame compares clients' models and does not know the one they started "
            "from: choose aggregator=freqfed"
        )
    need("flame", visible, visible.count)
    seen = look(visible, (params.to(visible.base),))
    need("flame", visible, seen.count)
    # A model is a row and the parameters; both are seen from the row amid all others.
    model = seen.other(0)
    model[-1] += 2
    kept, reach = majority(cosine_distances(seen, model))
    weights, bound = clipped(seen.norms, kept)
    update = seen.vector(weights)
    if noise:
        drawn = torch.randn(
            len(update), dtype=torch.float64, generator=(context.key / "flame").stream()
        )
        update = update + (drawn * (noise * bound)).to(update)
    return judged(
        visible, update, seen.finite, shares=weights, suspicion=reach, suspects=~kept,
        record={"clipped_to": bound},
    )  # fmt: skip


def freqfed(visible: Visible, context: Context = ALONE) -> Aggregate:
    """Average the majority whose updates have their low frequencies in the same direction.

    A row, padded with zeros, is laid out as a square, which a two-dimensional cosine transform
    takes to frequencies; of those, the ones in the low corner are compared. Suspicion and
    accusations are those of FLAME; nothing is clipped.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: Not needed.

    Raises:
        TooFew: No finite row.

    Source:
        Fereidooni et al. 2024, arXiv:2312.04432, algorithm 1. The paper does not say how a
        network becomes a matrix.
    """
    need("freqfed", visible, visible.count)
    # The transform is linear: mixtures of rows are mixtures of frequencies.
    low = replace(visible, base=low_frequencies(visible.base))
    low = replace(low, gram=None, distances=None, compare=None)
    seen = look(low, products=True)
    need("freqfed", visible, seen.count)
    origin = seen.inner.new_zeros(len(seen.inner))
    origin[-1] = 1.0
    kept, reach = majority(cosine_distances(seen, origin))
    weights = kept.double() / kept.sum()
    update = replace(seen, visible=visible).vector(weights)
    return judged(
        visible, update, seen.finite, shares=weights, suspicion=reach, suspects=~kept
    )  # fmt: skip


def low_frequencies(base: Rows) -> Float[Tensor, "n _"]:
    """Return the low corner of each row's two-dimensional cosine transform.

    Of a square of side ``s`` those are the frequencies ``(i, j)`` with ``i + j <= s / 2``.
    """
    from scipy.fft import dctn

    params = base.shape[1]
    side = math.isqrt(params - 1) + 1
    steps = torch.arange(side)
    corner = (steps.unsqueeze(1) + steps <= side // 2).flatten()
    found = torch.empty((len(base), int(corner.sum())), dtype=base.dtype)
    square = torch.zeros(side * side, dtype=base.dtype)
    for row, into in zip(base, found, strict=True):
        square[:params] = row.cpu()
        waves = dctn(square.view(side, side).numpy(), norm="ortho")
        into.copy_(torch.from_numpy(waves).flatten()[corner])
    return found.to(base.device)


def cosine_distances(seen: Seen, origin: Float64[Tensor, "basis"]) -> Float64[Tensor, "m m"]:
    """Return 1 less the cosine between any two of the finite rows, as seen from some origin.

    Rows of zeros are at distance 1 from all others and 0 from each other.

    Args:
        seen: The finite rows.
        origin: What to add to a row of ``seen.holds``, as a vector of that space.
    """
    # Far from the origin all cosines are nearly 1: their gaps come from gaps between rows.
    gaps = seen.distances
    more = ((seen.holds + 2 * origin) @ seen.inner * seen.holds).sum(1)
    lengths = (origin @ seen.inner @ origin + more).clamp_min(0).sqrt()
    sums = lengths.unsqueeze(1) + lengths
    longer = (more.unsqueeze(1) - more) / torch.where(sums > 0, sums, 1.0)
    both = 2 * lengths.unsqueeze(1) * lengths
    apart = (gaps - longer.square()) / torch.where(both > 0, both, 1.0)
    apart = torch.where(both > 0, apart, (gaps > 0).to(apart)).clamp(0, 2)
    return ((apart + apart.T) / 2).fill_diagonal_(0)


def majority(
    apart: Float64[Tensor, "m m"],
) -> tuple[Bool[Tensor, "m"], Float64[Tensor, "m"]]:
    """Find the densest cluster of more than half, and over what distance each row is linked to it.

    Args:
        apart: Distances, symmetric, with 0 on the diagonal.
    """
    reach = apart
    for place in range(len(apart)):
        reach = torch.minimum(reach, torch.maximum(reach[:, place : place + 1], reach[place]))
    # Itself included, so many are more than half.
    enough = reach.sort(dim=1).values[:, len(apart) // 2]
    kept = reach[enough.argmin()] <= enough.min()
    return kept, reach[:, kept].mean(1)


def clipped(
    norms: Float64[Tensor, "m"], kept: Bool[Tensor, "m"]
) -> tuple[Float64[Tensor, "m"], float]:
    """Return weights that clip rows to the median length of all and average those to keep.

    Returns:
        The weights, and the median length.
    """
    bound = middle(norms)
    weights = torch.where(norms > bound, bound / norms, 1.0) * kept / kept.sum()
    return weights, float(bound)


def middle(values: Float64[Tensor, "m"]) -> Float64[Tensor, ""]:
    """Return the middle value, or the mean of the two middle values."""
    ranked = values.sort().values
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def total(visible: Visible, weights: Float64[Tensor, "m"], finite: Tensor) -> Vector:
    """Add up the finite rows, each times its weight, in one pass."""
    own = weights.new_zeros(visible.count).index_copy_(0, finite, weights)
    return kernels.combine(visible.base, own if visible.mix is None else own @ visible.mix)
