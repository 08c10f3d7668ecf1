"""Rows as their lengths and angles: what rules that only compare them need, and one sum after."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Encoding, Key, Record, Rows, TooFew, Visible
from dai_lab.secagg import keys
from dai_lab.secagg.coded import WIDTH
from dai_lab.secagg.compared import TOTAL, ComparedClient, ComparedServer, signed
from dai_lab.secagg.masks import stream
from dai_lab.secagg.sessions import Once, signer
from dai_lab.secagg.shamir import PRIME
from dai_lab.secagg.sums import shares, vanishing
from dai_lab.secagg.terms import Terms
from dai_lab.secagg.views import refuse
from dai_lab.secagg.wire import Refused

LONGEST = 2**15 - 1
"""Length of a row in levels: products of two stay below half of the field."""


def gram(
    sent: Rows,
    weights: Float[Tensor, "_"],
    *,
    clients: tuple[int, ...],
    key: Key,
    rehearsal: bool = False,
    encoding: Encoding | None = None,
    threshold: int | None = None,
    corrupt: float = 0.1,
    clip: float = 10.0,
    dropping: float = 0.0,
) -> Visible:
    """Reveal the inner products of all rows, then one weighted sum of them; never a row.

    What the aggregator is given are vectors of a space with as many dimensions as there are
    clients, turned at random, whose lengths and angles are those of the
    rounded rows. It suits rules that
    come to the same weighted sum whatever the axes: Multi-Krum, geometric medians, nearest
    neighbor mixing, spectral ones; not rules that look at coordinates, or remember a vector.

    Args:
        sent: One row per client. A longer one than ``clip`` is scaled down by whoever sends it; one
            that is not finite is not sent.
        weights: Examples each client claims; the server sees them.
        clients: Who sent each row.
        key: Where simulated secrets, roundings, axes and drop-outs are drawn.
        rehearsal: See :func:`masked`.
        encoding: None, for more than a sum is seen.
        threshold: How many codes decode a row; ``2 threshold - 1`` clients must stay to the end.
            ``None`` for a third of the clients, so that a third may vanish.
        corrupt: Share of the clients that may help the server, in [0, 1); counts as one at least.
        clip: Largest length of a row, above 0; the shorter rows are, the more rounding shows in
            their lengths and angles.
        dropping: Share of the clients that vanish once they have shared their rows, in [0, 1);
            their rows still count.

    Raises:
        TooFew: Fewer clients stay than decode a product.
        ValueError: A knob out of range, or an encoding.

    Source:
        Distances of shared rows: So, Guler and Avestimehr 2020, arXiv:2007.11115, section IV, with
        rows in pieces (Yu et al. 2019, arXiv:1806.00939) and products hidden by shared zeros.
    """
    refuse(encoding, "gram")
    shares(corrupt=corrupt, dropping=dropping)
    if not (clip > 0 and math.isfinite(clip)):
        raise ValueError(f"secagg.clip must be above 0, got {clip}")
    rows = {
        one: _levels(row, clip=clip, key=key / "rounding" / one)
        for one, row in sorted(zip(clients, sent.cpu().numpy(), strict=True), key=lambda it: it[0])
        if np.isfinite(row).all()
    }
    size = len(rows)
    least = max(2, (size + 2) // 3) if threshold is None else threshold
    helping = max(1, math.floor(corrupt * size))
    if not helping < least <= (size + 1) // 2:
        raise TooFew(
            f"secagg.threshold must be in {helping + 1}..{(size + 1) // 2} to compare {size} rows "
            f"of which {helping} may be corrupt, got {least}"
        )
    terms = Terms(keys.place(key), sent.shape[1], WIDTH, least, corrupt=helping)
    gone = vanishing([*rows], dropping, key)
    known = _Rehearsed(rows) if rehearsal else _Session(terms, rows, key, gone)
    unit = clip / _scale(sent.shape[1])
    there = tuple(rows)
    counts = dict(zip(clients, weights.tolist(), strict=True))

    def summed(wanted: Float64[Tensor, "_"]) -> Visible:
        total = float(wanted.abs().sum())
        if not total:  # nobody is asked for nothing
            return Visible(sent.new_zeros(1, sent.shape[1]), (there,), wanted.sum()[None])
        whole = (wanted / total * TOTAL).round().long().tolist()
        found = known.sum(dict(zip(there, whole, strict=True)))
        row = torch.from_numpy(found * (unit * total / sum(map(abs, whole))))[None].to(sent)
        return Visible(row, (there,), wanted.sum()[None], record=known.record)

    picture = _likeness(known.gram * unit**2, key / "axes")
    return Visible(
        picture.to(sent), tuple((one,) for one in there),
        torch.tensor([counts[one] for one in there], dtype=weights.dtype, device=weights.device),
        record=known.record, sum=summed,
    )  # fmt: skip


class _Rehearsed:
    """The same levels, products and sums without the ciphers."""

    def __init__(self, rows: Mapping[int, NDArray[np.int64]]) -> None:
        self.record: Record = {}
        self.rows = np.stack([*rows.values()]).astype(np.float64)
        # Below 2 ** 53: exact.
        self.gram = self.rows @ self.rows.T

    def sum(self, weights: Mapping[int, int]) -> NDArray[np.float64]:
        """Return the weighted sum of the levels."""
        return np.array([*weights.values()], np.float64) @ self.rows


class _Session:
    """A whole session in one process: the clients and the server that a network would drive."""

    def __init__(
        self, terms: Terms, rows: Mapping[int, NDArray[np.int64]], key: Key, gone: set[int]
    ) -> None:
        signers = {one: signer(key.seed, one) for one in rows}
        roster = {one: Once(each.public_key()) for one, each in signers.items()}
        order = sorted(rows)
        graph = {one: tuple(other for other in order if other != one) for one in order}
        self.terms = terms
        self._server = ComparedServer(terms, roster=roster, neighbors=lambda there: graph)
        party = {
            one: ComparedClient(
                one, terms, row=(row % PRIME).astype(np.uint32), identity=signers[one],
                roster=roster, randomness=keys.simulated(key / "client" / one),
            )
            for one, row in rows.items()
        }  # fmt: skip
        told = self._server.introduce({one: each.advertise() for one, each in party.items()})
        told = self._server.route({one: party[one].share(told[one]) for one in told})
        self._party = {one: party[one] for one in told if one not in gone}
        self.gram = self._server.compared(
            {one: each.compare(told[one]) for one, each in self._party.items()}
        ).astype(np.float64)
        self.record: Record = self._server_record()

    def _server_record(self) -> Record:
        seen = self._server.ended()
        return {
            "bytes_up": seen.bytes_up, "bytes_down": seen.bytes_down,
            "survivors": len(self._party), "threshold": self.terms.threshold,
            "modulus": WIDTH, "transcript": seen.transcript.hex(),
        }  # fmt: skip

    def sum(self, weights: Mapping[int, int]) -> NDArray[np.float64]:
        """Let the clients add up their codes, and decode the sum."""
        told = self._server.weigh(weights)
        found = {one: each.combine(told[one]) for one, each in self._party.items()}
        values = self._server.total(found).values.astype(np.uint32)
        self.record = self._server_record()
        return signed(values).astype(np.float64)


def _scale(width: int) -> float:
    """Return the levels of a row of length ``clip``; rounding adds less than one to each entry."""
    left = LONGEST - math.sqrt(width)
    if left < LONGEST / 2:
        raise ValueError(f"secagg=gram: a row of {width} entries is too long for its field")
    return left


def _levels(row: NDArray[np.floating], *, clip: float, key: Key) -> NDArray[np.int64]:
    """Round a row at random to whole numbers whose products the field holds."""
    long = row.astype(np.float64)
    largest = float(np.abs(long).max(initial=0))
    if largest > clip:  # or its squares would overflow
        long *= clip / largest
    scale = _scale(len(row)) / max(clip, float(np.linalg.norm(long)))
    coins = stream(keys.simulated(key)(keys.MASK_KEY), len(row)) / 2**32
    return np.floor(long * scale + coins).astype(np.int64)


def _likeness(gram: NDArray[np.float64], key: Key) -> Float64[Tensor, "n n"]:
    """Return vectors with these inner products, along axes that say nothing."""
    values, vectors = np.linalg.eigh(gram)
    if values[0] < -1e-9 * max(values[-1], 1e-300) * len(gram):
        raise Refused("secagg: lengths and angles contradict each other: a row breaks secagg.clip")
    drawn = torch.randn(gram.shape, generator=key.stream(), dtype=torch.float64)
    axes = torch.linalg.qr(drawn).Q
    found: Tensor = torch.from_numpy(vectors * np.sqrt(values.clip(0))) @ axes
    return found
