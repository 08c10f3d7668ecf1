"""An attack on fairness that sends honest rows and, on top, what poison teaches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.attacks.needs import in_unit
from dai_lab.core import Lies, Rows, Sight


def eab_fl(
    own: Rows,
    sight: Sight,
    *,
    boost: float | None = None,
    share: float = 0.1,
    bound: float | None = 2.0,
) -> Lies:
    """Send an honest row, plus what poison would change of it, boosted where it shows least.

    What poisoned examples, such as those of ``poison=group_flip``, change of a row is added to
    the same client's honest row in the coordinates where it stands out most from honest work,
    and only as much of it as keeps the row about as short as an honest one.

    Args:
        own: Rows the hostile computed on poisoned examples.
        sight: What they would have sent without poison, and how many rows there are. Where
            nobody's examples are poisoned there is nothing to boost.
        boost: How many times the difference is added, 0 or more; ``None`` is the number of rows
            of the round over those of the hostile, with which the mean of equal weights moves as
            if everybody were poisoned. 0 is honest.
        share: Share of the coordinates that carry it, in [0, 1]: those in which it is furthest
            above what the honest row moves.
        bound: How many times as long as the honest row theirs may become, 1 or more; ``None``
            for no bound.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Meerza and Liu 2024, EAB-FL, arXiv:2410.02042 (IJCAI). There layer-wise relevance
        propagation finds what the privileged group's utility needs least, and examples are
        chosen by influence; here the honest row says the first and ``poison`` does the second.
    """
    factor = (sight.good + len(own)) / max(len(own), 1) if boost is None else boost
    if not factor >= 0:
        raise ValueError(f"attack.boost must be 0 or more, got {factor}")
    in_unit("share", share)
    if bound is not None and not bound >= 1:
        raise ValueError(f"attack.bound must be 1 or more, got {bound}")
    if sight.clean is None:
        return Lies(own)
    clean = sight.clean()
    apart = own - clean
    out = (apart.abs() - clean.abs()).topk(round(share * own.shape[1]), dim=1, sorted=False).indices
    carried = torch.zeros_like(own).scatter_(1, out, apart.gather(1, out))
    times = torch.full((len(own), 1), factor, dtype=own.dtype, device=own.device)
    if bound is not None:
        times = torch.minimum(times, _room(clean, carried, bound))
    return Lies(torch.addcmul(clean, times, carried), record={"boost": float(times.mean())})


def _room(clean: Rows, carried: Rows, bound: float) -> Float[Tensor, "_ 1"]:
    """Say how many times each row can be added to the honest one without becoming too long."""
    across = carried.square().sum(1, keepdim=True)
    along = (clean * carried).sum(1, keepdim=True)
    left = (bound**2 - 1) * clean.square().sum(1, keepdim=True)
    root = (along.square() + across * left).sqrt()
    # Of two forms of the same root, the one that subtracts nothing.
    room = torch.where(along > 0, left / (root + along), (root - along) / across)
    return torch.where(across > 0, room, torch.inf)
