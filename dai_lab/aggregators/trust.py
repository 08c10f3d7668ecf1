"""Rules that measure clients against an update the server trained itself."""

from __future__ import annotations

import torch

from dai_lab.aggregators.seen import judged, look, need
from dai_lab.core import ALONE, Aggregate, Context, Visible


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
    seen = look(visible, beside=(own,))
    need("fltrust", visible, seen.count)
    toward = seen.other(0)
    toward[-1] += 1.0  # from the row all are seen from to the origin
    along = seen.whole @ seen.inner @ toward
    length = (toward @ seen.inner @ toward).clamp_min(0).sqrt()
    lengths = seen.norms
    # A row of zeros, or a server that learned nothing, points nowhere.
    meaning = (lengths * length) > 0
    cosines = torch.where(meaning, along / torch.where(meaning, lengths * length, 1.0), 0.0)
    trust = cosines.clamp(0, 1)
    total = trust.sum()
    shares = trust / torch.where(total > 0, total, 1.0)
    scales = torch.where(meaning, length / torch.where(meaning, lengths, 1.0), 0.0)
    return judged(
        visible,
        seen.vector(shares * scales),
        seen.finite,
        shares=shares,
        suspicion=1.0 - cosines.clamp(-1, 1),
        suspects=trust == 0,
        record={"trusted": int((trust > 0).sum())},
    )
