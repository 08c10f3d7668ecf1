"""Rules that measure clients against an update the server trained itself."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import judged, need
from dai_lab.core import ALONE, Aggregate, Context, Vector, Visible

BLOCK = 2**14
"""Columns that are worked on at once, in float64."""


def fltrust(visible: Visible, context: Context = ALONE) -> Aggregate:
    """Trust each row as far as it points where the server's own update points.

    A row's trust is its cosine with the server's update, or 0 where that is negative; rows are
    brought to the length of the server's update and averaged by trust. Where nobody is trusted,
    nothing moves (the paper's quotient is then 0 / 0). It does not matter how many clients lie,
    but the server's examples must be clean and resemble the clients'.

    Args:
        visible: What the server may see; at least one finite row.
        context: Must hold ``root``.

    Raises:
        ValueError: The server has no examples of its own, or its update is not finite.
        TooFew: No finite row.

    Source:
        Cao et al. 2021, arXiv:2012.13995, section IV and algorithm 2.
    """
    if context.root is None:
        raise ValueError(
            "aggregator=fltrust needs examples of the server's own: set federation.root"
        )
    own = context.root().to(visible.base)
    if not bool(own.isfinite().all()):
        raise ValueError(
            "aggregator=fltrust: the server's own update is not finite: lower local.rate"
        )
    along, lengths = project(visible, own)
    finite = lengths.isfinite().nonzero().flatten()
    need("fltrust", visible, len(finite))
    along, lengths, length = along[finite], lengths[finite], own.double().norm()
    # A row of zeros, or a server that learned nothing, points nowhere.
    meaning = (lengths > 0) & (length > 0)
    safe = torch.where(meaning, lengths, 1.0)
    cosines = torch.where(meaning, along / safe / length, 0.0).clamp(-1, 1)
    trust = cosines.clamp_min(0)
    total = trust.sum()
    shares = trust / torch.where(total > 0, total, 1.0)
    weights = torch.zeros(visible.count, dtype=torch.float64, device=finite.device)
    weights[finite] = torch.where(meaning, shares * length / safe, 0.0)
    update = kernels.combine(
        visible.base, weights if visible.mix is None else weights @ visible.mix
    )
    return judged(
        visible,
        update,
        finite,
        shares=shares,
        suspicion=1.0 - cosines,
        suspects=trust == 0,
        record={"trusted": int((trust > 0).sum())},
    )


def project(
    visible: Visible, onto: Vector
) -> tuple[Float64[Tensor, "rows"], Float64[Tensor, "rows"]]:
    """Return each row's inner product with a vector, and its length, not finite if the row is not.

    A centered Gram matrix would be seen from amid the liars where they are the most, and next
    to their lengths those of others are rounding.
    """
    along = torch.zeros(visible.count, dtype=torch.float64, device=visible.base.device)
    squares, mix = torch.zeros_like(along), visible.mix
    held = None if mix is None else mix.ne(0).any(0)
    for block, part in zip(
        visible.base.split(BLOCK, dim=1), onto.to(visible.base).split(BLOCK), strict=True
    ):
        if mix is None:
            some = block.double()
        else:
            # 0 times what is not finite is not 0: whoever holds none of it must not see it.
            good = block[held].double()
            some = mix[:, held] @ good.nan_to_num(0.0, 0.0, 0.0)
            broken = (~good.isfinite()).any(1)
            some[(mix[:, held][:, broken] != 0).any(1)] = torch.nan
        along += some @ part.double()
        squares += some.square().sum(1)
    return along, squares.sqrt()
