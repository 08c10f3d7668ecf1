"""What an aggregator makes of rows that are revealed, or of what stands for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.core import Aggregate, Aggregator, Context, Record, Visible

CLOSE = 1e-3
"""How far, as a share of its length, an update may be from what it should be the same as."""


def aggregated(
    aggregator: Aggregator, visible: Visible, context: Context
) -> tuple[Aggregate, Record]:
    """Run a rule on what the server sees.

    Where that is only a likeness of the rows, of the same lengths and angles, the rule must come to
    the same weighted sum whatever the axes; that sum is then taken of the rows themselves. Two
    turns of the axes try it: a rule that comes to the same by chance is not found out. Such a rule
    is told nothing of the model.

    Returns:
        The verdict, and what it took to reveal what was seen and summed.

    Raises:
        ValueError: A rule that a likeness is not enough for.
    """
    if visible.sum is None:
        return aggregator(visible, context), visible.record
    alone = Context(context.key)
    found = aggregator(visible, alone)
    if found.memory:
        raise ValueError("secagg=gram: this aggregator remembers vectors: use secagg=grouped")
    stream, size = (context.key / "axes").stream(), visible.base.shape[1]
    for _ in range(2):
        drawn = torch.randn((size, size), generator=stream, dtype=torch.float64)
        axes = torch.linalg.qr(drawn).Q.to(visible.base)
        again = aggregator(replace(visible, base=visible.base @ axes), alone)
        if _apart(found.update @ axes, again.update):
            raise ValueError(
                "secagg=gram: this aggregator looks at coordinates, and there are only lengths and "
                "angles: use secagg=grouped"
            )
    summed = visible.sum(_weights(visible.base.double(), found))
    return replace(found, update=summed.base[0]), summed.record


def _weights(base: Float64[Tensor, "n n"], found: Aggregate) -> Float64[Tensor, "n"]:
    """Return what each row counts for in an update: its share, or whatever makes it up."""
    update, shares = found.update.double(), found.shares.double()
    if not _apart(shares @ base, update):
        return shares
    # Small, and on a GPU there is no driver for rows that depend on each other.
    of, to = base.T.cpu(), update[:, None].cpu()
    row: Tensor = torch.linalg.lstsq(of, to, rcond=1e-5, driver="gelsd").solution[:, 0]
    return row.to(base.device)


def _apart(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() > CLOSE * torch.maximum(one.norm(), other.norm()))
