"""Secure aggregation: what the server may see of what clients send."""

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Key, Rows, TooFew, Visible


def plain(
    sent: Rows, weights: Float[Tensor, "_"], *, clients: tuple[int, ...], key: Key
) -> Visible:
    """Hide nothing: the server sees every client's row.

    Args:
        sent: One row per client.
        weights: Examples each client claims.
        clients: Who sent each row.
        key: Unused.
    """
    return Visible(sent, tuple((client,) for client in clients), weights)


def grouped(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    groups: int = 1,
    weighted: bool = True,
) -> Visible:
    """Reveal only the mean of each random group; ``groups=1`` is a full secure sum.

    This is the ideal functionality: it computes what a server would see, with no cryptography
    and no protection on a wire. It measures what the narrower view costs an aggregator; the
    protocols that enforce the view are a later issue.

    Args:
        sent: One row per client.
        weights: Examples each client claims, 0 or more.
        clients: Who sent each row.
        key: Where clients are dealt to groups, whose sizes differ by at most one.
        groups: Rows to reveal, from 1 to the number of clients.
        weighted: Whether a client counts in its group by its examples, or all the same.

    Raises:
        TooFew: More groups than clients, or a group without examples.
        ValueError: No group.

    Source:
        Bonawitz et al. 2017, ePrint 2017/281, section 2, for the sum; Karimireddy et al. 2022,
        arXiv:2006.09365, algorithm 1, for means of random groups (there to help the rule).
    """
    if groups < 1:
        raise ValueError(f"secagg.groups must be 1 or more, got {groups}")
    if groups > len(sent):
        raise TooFew(f"secagg.groups must be in 1..{len(sent)} (the cohort), got {groups}")
    order = torch.randperm(len(sent), generator=key.stream())
    parts = [part.sort().values for part in order.tensor_split(groups)]
    members = tuple(tuple(clients[place] for place in part.tolist()) for part in parts)
    parts = [part.to(sent.device) for part in parts]
    totals = torch.stack([weights[part].sum() for part in parts])
    if weighted and not bool((totals > 0).all()):
        raise TooFew(
            "secagg=grouped has a group whose clients hold no examples: lower secagg.groups "
            "or set secagg.weighted=false"
        )
    counts = weights if weighted else torch.ones_like(weights)
    means = [_mean(sent[part], counts[part]) for part in parts]
    return Visible(torch.stack(means), members, totals)


def _mean(rows: Rows, counts: Float[Tensor, "_"]) -> Float[Tensor, "params"]:
    return (counts / counts.sum()).to(rows) @ rows
