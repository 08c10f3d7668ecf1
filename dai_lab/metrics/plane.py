"""Rows seen in two dimensions, with what the aggregator thought of each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dai_lab.core import Aggregate, Record, Rows, Trace

FAR = 3.0
"""Distances from the middle, in medians of them, beyond which a row is drawn at the border."""

MOST = 1000
"""Rows above which no picture is kept."""


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
            sizes = {len(plane.places), len(plane.kept), len(plane.suspected), len(plane.hostile)}
            good = len(sizes) == 1 and all(len(one) == 2 for one in [*plane.places, plane.update])
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
    seen, update = rows[finite], aggregate.update.to(rows)
    if not which:
        return Plane([], [0.0, 0.0], [], [], [], [], len(rows))
    middle = seen.median(0).values
    away = (seen - middle).norm(dim=1)
    border = FAR * float(away.median())
    far = away > border if border else torch.zeros_like(away, dtype=torch.bool)
    drawn = (seen - middle) * (border / away.clamp_min(border or 1)).unsqueeze(1)
    drawn = drawn if border else seen - middle
    if rows.shape[1] == 2:
        places, to = drawn + middle, update
    else:
        products = drawn.double() @ drawn.double().T
        lengths, vectors = torch.linalg.eigh(products)
        lengths, vectors = lengths.flip(0)[:2].clamp_min(0), vectors.flip(1)[:, :2]
        # An eigenvector has no sign of its own: the largest entry is made positive.
        top = vectors.abs().argmax(0)
        vectors = vectors * vectors[top, torch.arange(vectors.shape[1])].sign()
        scale = lengths.sqrt()
        places = vectors * scale
        inverse = torch.where(scale > 0, 1 / scale.clamp_min(1e-300), 0.0)
        to = (drawn @ (update - middle)).double() @ vectors * inverse
        missing = 2 - places.shape[1]
        places = torch.nn.functional.pad(places, (0, missing))
        to = torch.nn.functional.pad(to, (0, missing))
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
    )


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
