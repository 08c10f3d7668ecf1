"""Rows seen in two dimensions, with what the aggregator thought of each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from dai_lab.core import Aggregate, Record, Rows, Trace

FAR = 3.0
"""Distances from the middle, in medians of them, beyond which a row is drawn at the border."""

MOST = 1000
"""Rows above which no picture is kept."""

BLOCK = 1 << 16
"""Coordinates that are multiplied at once, so that no copy of all rows is made."""


@dataclass(frozen=True)
class Plane:
    """Where finite rows lie, and what became of them; lists have one entry a row."""

    places: list[list[float]]
    update: list[float]
    kept: list[bool]
    """Whether any of the update is the row's."""
    suspected: list[bool]
    hostile: list[bool]
    far: list[bool]
    """Whether the row lies beyond the border it is drawn at."""
    lost: int = 0
    """Rows that are not finite, and have no place."""
    astray: bool = False
    """Whether the update lies beyond the border as well."""

    def written(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, line: str) -> Plane:
        """Read what :meth:`written` gave.

        Raises:
            ValueError: The line is something else.
        """
        try:
            found: Mapping[str, Any] = json.loads(line)
            plane = cls(**found)
            told = (plane.kept, plane.suspected, plane.hostile, plane.far)
            spots = [[float(number) for number in one] for one in [*plane.places, plane.update]]
            good = {len(one) for one in told} == {len(plane.places)}
            good = good and all(len(one) == 2 for one in spots)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError("a record's plane is not one")
        return plane


def plane(rows: Rows, aggregate: Aggregate, hostile: Collection[int] = ()) -> Plane:
    """Place rows on the two directions in which they differ most, the middle at 0.

    Rows of two numbers are left where they are. A far row does not choose the directions: it
    counts as if it lay at the border.

    Args:
        rows: ``[n, d]``; those that are not finite are only counted.
        aggregate: The verdict on them.
        hostile: Which of them lie, from 0.
    """
    finite = rows.isfinite().all(1)
    which = finite.nonzero().flatten().tolist()
    if not which:
        return Plane([], [0.0, 0.0], [], [], [], [], len(rows))
    # What is longer than this overflows when it is squared, and a picture shows its border only.
    longest = torch.finfo(rows.dtype).max ** 0.4
    seen = rows[finite].clamp(-longest, longest)
    update = aggregate.update.to(rows).clamp(-longest, longest)
    middle = (seen.median(0).values - (-seen).median(0).values) / 2
    seen -= middle
    away = seen.norm(dim=1)
    border = FAR * float(away.median()) or float(away.max())
    far = away > border
    seen *= torch.where(far, border / away, 1.0).unsqueeze(1)
    to, strayed = update - middle, float((update - middle).norm())
    if astray := strayed > border > 0:
        to = to * (border / strayed)
    if rows.shape[1] == 2:
        places, to = seen + middle, to + middle
    else:
        places, to = _flat(seen, to)
    numbers = [[float(f"{x:.4g}") for x in one] for one in [*places.tolist(), to.tolist()]]
    shares, accused = aggregate.shares.cpu(), aggregate.suspected.cpu()
    return Plane(
        places=numbers[:-1],
        update=numbers[-1],
        kept=[bool(shares[row] != 0) for row in which],
        suspected=[bool(accused[row]) for row in which],
        hostile=[row in hostile for row in which],
        far=far.tolist(),
        lost=len(rows) - len(which),
        astray=astray,
    )


def _flat(
    rows: Rows, update: Float[Tensor, "_"]
) -> tuple[Float64[Tensor, "_ 2"], Float64[Tensor, "2"]]:
    """Project rows, and an update beside them, on the two directions in which the rows differ."""
    products = rows.new_zeros((len(rows), len(rows) + 1), dtype=torch.float64)
    for part, beside in zip(rows.split(BLOCK, 1), update.split(BLOCK), strict=True):
        block = part.double()
        products += block @ torch.cat([block, beside.double().unsqueeze(0)]).T
    lengths, vectors = torch.linalg.eigh(products[:, :-1])
    lengths, vectors = lengths.flip(0)[:2].clamp_min(0), vectors.flip(1)[:, :2]
    # An eigenvector has no sign of its own: the first of the largest entries is made positive.
    large = vectors.abs() > (1 - 1e-6) * vectors.abs().amax(0)
    vectors = vectors * vectors.gather(0, large.int().argmax(0, keepdim=True)).sign()
    scale = lengths.sqrt()
    # Where rows differ in one direction only, the second is rounding.
    scale = torch.where(scale > 1e-6 * scale[0], scale, 0.0)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    missing = (0, 2 - len(scale))
    to = products[:, -1] @ vectors * inverse
    return pad(vectors * scale, missing), pad(to, missing)


def rows(trace: Trace, *, every: int = 1) -> Record:
    """Keep where a round's visible rows lie and what was thought of them, for the report.

    Args:
        trace: The round.
        every: Rounds between pictures; the first always has one.

    Raises:
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"watch.rows.every must be at least 1, got {every}")
    if (trace.round != 1 and trace.round % every) or trace.visible.count > MOST:
        return {}
    liars = set(trace.hostile)
    lying = [at for at, who in enumerate(trace.visible.members) if liars & set(who)]
    return {"plane": plane(trace.visible.rows, trace.aggregate, lying).written()}
