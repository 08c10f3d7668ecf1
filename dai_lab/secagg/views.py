"""What the server may see, without the cryptography that keeps it to that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Encoding, Key, Record, Rows, TooFew, Visible, Words


def plain(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool = False,
    encoding: Encoding | None = None,
) -> Visible:
    """Hide nothing: the server sees every client's row.

    Args:
        sent: One row per client.
        weights: Examples each client claims.
        clients: Who sent each row.
        key: Unused.
        rehearsal: Unused.
        encoding: None, for there is no sum.

    Raises:
        ValueError: An encoding.
    """
    refuse(encoding, "plain")
    return Visible(sent, tuple((client,) for client in clients), weights)


def ideal(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool = False,
    encoding: Encoding | None = None,
    weighted: bool = True,
) -> Visible:
    """Reveal only the mean, as a party that everybody trusts would: no ciphers, no rounding.

    Args:
        sent: One row per client.
        weights: Examples each client claims, 0 or more.
        clients: Who sent each row.
        key: Unused.
        rehearsal: Unused.
        encoding: How rows are noised and summed; the same sum as :func:`masked` takes of it.
        weighted: Whether a client counts by its examples, or all the same.

    Raises:
        TooFew: Nobody has examples, or a row that can be encoded.

    Source:
        Bonawitz et al. 2017, ePrint 2017/281, section 2.
    """
    if encoding is not None:
        vectors = encoded(sent, encoding, clients=clients, key=key)
        total = added(vectors.values(), encoding.width, encoding.bits)
        return decoded(total, tuple(vectors), encoding, sent, weights, {})
    examples = weights.sum()
    if weighted and not bool(examples > 0):
        raise TooFew(
            "secagg: clients that are summed hold no examples: lower secagg.groups or set "
            "weighted=false"
        )
    counts = weights if weighted else torch.ones_like(weights)
    mean = (counts / counts.sum()).to(sent) @ sent
    return Visible(mean[None], (clients,), examples[None])


def grouped(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    of: Callable[..., Visible],
    rehearsal: bool = False,
    encoding: Encoding | None = None,
    groups: int = 1,
) -> Visible:
    """Reveal the sum of each random group; with one group a client nothing is hidden.

    Args:
        sent: One row per client.
        weights: Examples each client claims, 0 or more.
        clients: Who sent each row.
        key: Where clients are dealt to groups, whose sizes differ by at most one.
        of: How each group is summed: ``ideal``, ``pairwise``, ``graph``.
        rehearsal: See ``of``.
        encoding: See ``of``; each group is a sum of its own.
        groups: Rows to reveal, from 1 to the number of clients.

    Raises:
        TooFew: More groups than clients, or ``of`` finds a group too small.
        ValueError: No group.

    Source:
        Karimireddy et al. 2022, arXiv:2006.09365, algorithm 1, for means of random groups (there
        to help the rule).
    """
    if groups < 1:
        raise ValueError(f"secagg.groups must be 1 or more, got {groups}")
    if groups > len(sent):
        raise TooFew(f"secagg.groups must be in 1..{len(sent)} (the cohort), got {groups}")
    order = torch.randperm(len(sent), generator=key.stream())
    found = []
    for number, part in enumerate(order.tensor_split(groups)):
        places = part.sort().values
        group = places.to(sent.device)
        found.append(
            of(
                sent[group], weights[group], clients=tuple(clients[at] for at in places.tolist()),
                key=key / number, rehearsal=rehearsal, encoding=encoding,
            )
        )  # fmt: skip
    if any(one.sum is not None for one in found):
        raise ValueError("secagg.of must reveal a row of each group, as ideal and pairwise do")
    return Visible(
        torch.cat([one.base for one in found]),
        tuple(members for one in found for members in one.members),
        torch.cat([one.weights for one in found]),
        record=_joined([one.record for one in found]),
        longer=max(one.longer for one in found),
    )


def refuse(encoding: Encoding | None, name: str) -> None:
    """Refuse an encoding where its sum is not all that is seen."""
    if encoding is not None:
        raise ValueError(
            "privacy: noise that clients share needs a sum modulo a power of two that the server "
            f"cannot see into, which secagg={name} is not: choose secagg=pairwise, graph or ideal"
        )


def encoded(
    sent: Rows, encoding: Encoding, *, clients: Sequence[int], key: Key
) -> dict[int, Words]:
    """Encode rows as their clients do; one that is not finite cannot be, and its client is gone."""
    return {
        one: encoding.encode(row, key / "rounding" / one)
        for one, row in zip(clients, sent.cpu().numpy(), strict=True)
        if np.isfinite(row).all()
    }


def added(vectors: Iterable[Words], width: int, bits: int) -> Words:
    """Add vectors of ``width`` whole numbers modulo ``2 ** bits``."""
    total = np.zeros(width, np.uint64)
    for one in vectors:
        total += one
    return total & np.uint64((1 << bits) - 1)


def decoded(
    total: Words,
    stayed: tuple[int, ...],
    encoding: Encoding,
    sent: Rows,
    weights: Float[Tensor, "_"],
    record: Record,
) -> Visible:
    """Show the mean behind a sum of encoded rows, in which every client counts once."""
    if not stayed:
        raise TooFew("secagg: nobody is left whose row is finite")
    mean = encoding.decode(total, len(stayed)) / len(stayed)
    count = torch.tensor([len(stayed)], dtype=weights.dtype, device=weights.device)
    return Visible(torch.from_numpy(mean)[None].to(sent), (stayed,), count, record=record)


def _joined(records: Sequence[Record]) -> Record:
    """Add up what groups took, keep what is the same for all, hash their transcripts as one."""
    found: dict[str, float | int | str | None] = {}
    for name in records[0]:
        values = [one[name] for one in records]
        if name == "transcript":
            found[name] = hashlib.sha256("".join(map(str, values)).encode()).hexdigest()
        elif name in ("bytes_up", "bytes_down", "survivors"):
            found[name] = sum(value for value in values if isinstance(value, int))
        else:
            found[name] = min(value for value in values if isinstance(value, int))
    return found
