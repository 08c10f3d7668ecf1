"""Secure sums as a part: rows are quantized, summed under masks, and come out as one row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Encoding, Key, Record, Rows, TooFew, Visible
from dai_lab.secagg import finder, keys
from dai_lab.secagg.client import Client
from dai_lab.secagg.coded import WIDTH, CodedClient, CodedServer
from dai_lab.secagg.levels import modulus, quantize, restored
from dai_lab.secagg.server import Server, Sum
from dai_lab.secagg.sessions import session
from dai_lab.secagg.terms import Terms, Vector
from dai_lab.secagg.views import added, decoded, encoded, refuse

SMALL = 64
"""Cohorts up to which everybody is a neighbor: few corrupt clients are a large share there."""

USUAL = 2 / 3
"""Share of a neighborhood that must stay where nothing else is said."""


def masked(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool = False,
    encoding: Encoding | None = None,
    neighbors: int | str = "all",
    threshold: int | None = None,
    corrupt: float = 0.0,
    active: bool = False,
    clip: float = 1.0,
    bits: int = 16,
    weighted: bool = True,
    heaviest: int | None = None,
    dropping: float = 0.0,
    spare: float = 0.1,
) -> Visible:
    """Reveal only the mean: neighbors share masks, which the sum cancels.

    The cryptography is real, and clients and server are those that a network would drive; only
    their secrets are drawn from the run's seed.

    Args:
        sent: One row per client. Entries beyond ``clip`` are clipped; a row that is not finite
            cannot be encoded, and its client drops out.
        weights: Examples each client claims, whole numbers from 0.
        clients: Who sent each row.
        key: Where simulated secrets, roundings, graphs and drop-outs are drawn.
        rehearsal: Whether to take the same sum without the ciphers: for attackers who try out
            what the server would see.
        encoding: How rows are noised and become whole numbers, in place of ``clip`` and ``bits``;
            every client counts once.
        neighbors: With how many each client shares masks: ``all`` (Bonawitz), an even number, or
            ``few`` (Bell): as few as keep both a lost secret and a lost sum improbable; all in a
            cohort of up to 64.
        threshold: How many of a client and its neighbors must stay to the end; ``None`` for two
            thirds, or what ``few`` needs.
        corrupt: Share of the clients that may help the server, in [0, 1).
        active: Whether the server may tell clients different things; one more round then.
        clip: Largest absolute value of an entry, above 0.
        bits: Entries are rounded to ``2 ** bits`` levels, at random and unbiased; 1 to 32.
        weighted: Whether a client counts by its examples, or all the same.
        heaviest: Most examples a client may claim; ``None`` for as many as anyone does.
        dropping: Share of the clients that vanish once they have shared secrets, in [0, 1).
        spare: Share of drop-outs that ``few`` makes room for, in [0, 1).

    Raises:
        TooFew: Fewer clients stay than the threshold, or none of them has examples.
        ValueError: A knob out of range, or sums that no 64 bits hold.

    Source:
        Bonawitz et al. 2017, ePrint 2017/281; Bell et al. 2020, ePrint 2020/704.
    """
    shares(corrupt=corrupt, dropping=dropping, spare=spare)
    weighted = weighted and encoding is None
    counts = _whole(weights, heaviest) if weighted else [1] * len(clients)
    most = max(heaviest or max(counts), 1) if weighted else 1
    near, least, helping = _neighborhoods(
        len(clients), neighbors, threshold, corrupt=corrupt, active=active, spare=spare
    )
    width, needed = sent.shape[1] + weighted, modulus(bits, len(clients) * most)
    if encoding is not None:
        width, needed = encoding.width, encoding.bits
    terms = Terms(keys.place(key), width, needed, least, corrupt=helping, active=active)
    return _mean(
        sent, weights, terms, clients=clients, key=key, rehearsal=rehearsal, counts=counts,
        near=near, clip=clip, bits=bits, dropping=dropping, encoding=encoding,
    )  # fmt: skip


def one_shot(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool = False,
    encoding: Encoding | None = None,
    threshold: int | None = None,
    corrupt: float = 0.33,
    active: bool = False,
    clip: float = 1.0,
    bits: int = 16,
    weighted: bool = True,
    heaviest: int | None = None,
    dropping: float = 0.0,
) -> Visible:
    """Reveal only the mean: everybody's mask is coded, and the sum of masks decoded at once.

    The server's work does not grow with drop-outs, and the fewer are corrupt, the less is sent;
    but all of it is as long as the row, where :func:`masked` sends keys.

    Args:
        sent: See :func:`masked`.
        weights: See :func:`masked`.
        clients: See :func:`masked`.
        key: See :func:`masked`.
        rehearsal: See :func:`masked`.
        encoding: None, for the field is no ring of ``2 ** bits``.
        threshold: How many clients must stay to the end; ``None`` for two thirds.
        corrupt: Share of the clients that may help the server, in [0, 1); counts as one at least.
        active: See :func:`masked`.
        clip: See :func:`masked`.
        bits: See :func:`masked`; the sum is taken over a field of 31 bits.
        weighted: See :func:`masked`.
        heaviest: See :func:`masked`.
        dropping: See :func:`masked`.

    Raises:
        TooFew: See :func:`masked`.
        ValueError: A knob out of range, or sums that the field does not hold.

    Source:
        LightSecAgg: So et al. 2022, arXiv:2109.14236.
    """
    refuse(encoding, "one_shot")
    shares(corrupt=corrupt, dropping=dropping)
    counts = _whole(weights, heaviest) if weighted else [1] * len(clients)
    most = max(heaviest or max(counts), 1) if weighted else 1
    size, needed = len(clients), modulus(bits, len(clients) * most)
    if needed >= WIDTH:
        raise ValueError(
            f"secagg: the sum needs {needed} bits, and the field holds {WIDTH - 1}: lower "
            "secagg.bits or secagg.heaviest, or set secagg.weighted=false"
        )
    near, least, helping = _neighborhoods(
        size, "all", threshold, corrupt=corrupt, active=active, spare=0.0
    )
    terms = Terms(
        keys.place(key), sent.shape[1] + weighted, WIDTH, least,
        corrupt=min(max(helping, 1), size - 1), active=active,
    )  # fmt: skip
    return _mean(
        sent, weights, terms, clients=clients, key=key, rehearsal=rehearsal, counts=counts,
        near=near, clip=clip, bits=bits, dropping=dropping, cast=(CodedClient, CodedServer),
    )  # fmt: skip


def shares(**knobs: float) -> None:
    """Refuse a share that is none; the message names the knob."""
    for name, share in knobs.items():
        if not 0 <= share < 1:
            raise ValueError(f"secagg.{name} must be a share in [0, 1), got {share}")


def _mean(
    sent: Rows,
    weights: Float[Tensor, "_"],
    terms: Terms,
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool,
    counts: Sequence[int],
    near: int,
    clip: float,
    bits: int,
    dropping: float,
    cast: tuple[type[Client], type[Server]] = (Client, Server),
    encoding: Encoding | None = None,
) -> Visible:
    """Play a session and return the mean behind its sum."""
    if terms.threshold < terms.least(near + 1):
        raise ValueError(
            f"secagg.threshold must be {terms.least(near + 1)} or more of {near + 1}, or "
            f"secagg.corrupt lower, got {terms.threshold}"
        )
    gone = vanishing(clients, dropping, key)
    # A row that is not finite cannot be encoded: its client is gone, too.
    rows = sent.cpu().numpy()
    gone |= {one for one, row in zip(clients, rows, strict=True) if not np.isfinite(row).all()}
    if encoding is not None:
        vectors = encoded(sent, encoding, clients=clients, key=key)
        vectors = {one: vectors.get(one, terms.zeros()) for one in clients}
    else:
        kept = rows[[one not in gone for one in clients]] if gone else rows
        if not rehearsal and 0 < clip < max(kept.max(initial=0), -kept.min(initial=0)):
            warnings.warn(
                f"secagg.clip={clip:g} cuts off larger numbers, which some rows hold: raise it",
                stacklevel=2,
            )
        vectors = {
            client: _encoded(row, count, terms, clip=clip, bits=bits, key=key / "rounding" / client)
            for client, row, count in zip(clients, rows, counts, strict=True)
        }
    if rehearsal:
        stayed = tuple(one for one in clients if one not in gone)
        found = added([vectors[one] for one in stayed], terms.width, terms.modulus)
        record: Record = {}
    else:
        drawn = partial(_graph, near=near, key=key / "graph")
        ended = session(terms, vectors, key=key, neighbors=drawn, lost={"mask": gone}, cast=cast)
        stayed, found = tuple(one for one in clients if one in ended.survivors), ended.values
        record = _record(ended, terms, near)
    if encoding is not None:
        return decoded(found, stayed, encoding, sent, weights, record)
    weighted = terms.width > sent.shape[1]
    total = int(found[-1]) if weighted else len(stayed)
    if not total:
        raise TooFew("secagg: nobody who stayed has examples: set secagg.weighted=false")
    mean = restored(found[: sent.shape[1]], count=total, clip=clip, bits=bits)
    return Visible(
        torch.from_numpy(mean)[None].to(sent), (stayed,),
        torch.tensor([total], dtype=weights.dtype, device=weights.device), record=record,
        longer=2 * clip / (2**bits - 1) * math.sqrt(sent.shape[1]),
    )  # fmt: skip


def _whole(weights: Float[Tensor, "_"], heaviest: int | None) -> list[int]:
    counts = [round(float(one)) for one in weights]
    if any(count != float(one) or count < 0 for count, one in zip(counts, weights, strict=True)):
        raise ValueError(
            "secagg: examples must be whole numbers from 0 to be summed: set secagg.weighted=false"
        )
    if heaviest is not None and max(counts) > heaviest:
        raise ValueError(f"secagg.heaviest must be {max(counts)} or more, got {heaviest}")
    return counts


def _neighborhoods(
    count: int, neighbors: int | str, threshold: int | None, *, corrupt: float, active: bool,
    spare: float,
) -> tuple[int, int, int]:  # fmt: skip
    """Return how many neighbors a client has, the threshold, and how many may be corrupt."""
    near = count - 1
    if neighbors == "few" and count > SMALL:
        found = finder.find(count, corrupt=corrupt, dropping=spare, active=active)
        # A client keeps a share of its own here, which the paper's do not.
        least = (found.neighbors + 1 + found.corrupt) // 2 + 1 if active else found.threshold
        return found.neighbors, threshold or max(least, found.threshold), found.corrupt
    if isinstance(neighbors, int) and not isinstance(neighbors, bool):
        if neighbors < 2 or neighbors % 2:
            raise ValueError(f"secagg.neighbors must be an even number from 2, got {neighbors}")
        near = min(near, neighbors)
    elif neighbors not in ("all", "few"):
        raise ValueError(f"secagg.neighbors must be all, few or a number, got {neighbors}")
    helping = math.floor(corrupt * (near + 1))
    if threshold is not None and not 1 <= threshold <= near + 1:
        raise TooFew(f"secagg.threshold must be in 1..{near + 1} (a neighborhood), got {threshold}")
    usual = math.floor(USUAL * (near + 1)) + 1
    return near, min(usual, near + 1) if threshold is None else threshold, helping


def vanishing(clients: Sequence[int], dropping: float, key: Key) -> set[int]:
    """Draw by lot who vanishes in the middle of a session."""
    coins = torch.rand(len(clients), generator=(key / "dropping").stream())
    return {one for one, coin in zip(clients, coins.tolist(), strict=True) if coin < dropping}


def _encoded(
    row: NDArray[np.floating], count: int, terms: Terms, *, clip: float, bits: int, key: Key
) -> Vector:
    """Quantize a row, times the examples behind it, which follow where there is room for them."""
    if not np.isfinite(row).all():
        return terms.zeros()
    drawn = keys.simulated(key)(keys.MASK_KEY)
    found = terms.zeros()
    np.multiply(
        quantize(row, clip=clip, bits=bits, key=drawn), terms.words(count), out=found[: len(row)]
    )
    found[len(row) :] = count
    return found


def _graph(there: Sequence[int], *, near: int, key: Key) -> dict[int, tuple[int, ...]]:
    """Draw the neighbors of each client: all, or those nearby on a ring in random order."""
    order = torch.randperm(len(there), generator=key.stream()).tolist()
    found = finder.ring(len(there), min(near, len(there) - 1), order=order)
    return {
        one: tuple(there[at] for at in places) for one, places in zip(there, found, strict=True)
    }


def _record(ended: Sum, terms: Terms, near: int) -> Record:
    return {
        "bytes_up": ended.bytes_up,
        "bytes_down": ended.bytes_down,
        "survivors": len(ended.survivors),
        "neighbors": near,
        "threshold": terms.threshold,
        "modulus": terms.modulus,
        "transcript": ended.transcript.hex(),
    }
