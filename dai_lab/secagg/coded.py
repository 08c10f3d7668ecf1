"""A secure sum whose masks come off in one step, however many clients dropped out.

A client's mask is a vector over the field of 2^31 - 1. It is cut into pieces and coded for the
others as Shamir codes a secret: a polynomial whose coefficients are the pieces, then noise. Codes
add up: from the sums of codes that survivors send, the server decodes the sum of masks, and
nothing of any single one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.secagg import keys, shamir, wire
from dai_lab.secagg.client import Client
from dai_lab.secagg.levels import pack, unpack
from dai_lab.secagg.server import Server, Sum
from dai_lab.secagg.shamir import PRIME
from dai_lab.secagg.terms import Terms, Vector
from dai_lab.secagg.wire import Refused

WIDTH = 31
"""Bits of a field element on the wire."""


class CodedClient(Client):
    """A client whose mask is coded for all others; everybody is everybody's neighbor.

    The terms say how many codes decode a mask (``threshold``) and how many tell nothing
    (``corrupt``): the further apart, the shorter the codes.

    Source:
        LightSecAgg: So et al. 2022, arXiv:2109.14236, algorithm 1.
    """

    def __init__(self, number: int, terms: Terms, **others: Any) -> None:
        super().__init__(number, over_the_field(terms), **others)

    def share(self, introduction: bytes) -> bytes:
        """Step 1: get to know the others, and seal for each its code of the mask.

        Raises:
            Refused: Too few others for the threshold, keys that are not theirs, or terms under
                which a code tells something of the mask.
        """
        from dai_lab.secagg import kernels

        self._next(1)
        self._meet(wire.read_introduction(introduction))
        if self._peers and not self.terms.corrupt:
            raise Refused("secagg: a code without noise tells its holder a piece of the mask")
        near = sorted([*self._peers, self.number])
        length = _length(self.terms)
        drawn = shamir.elements(self.terms.threshold * length, self._draw)
        pieces = drawn.astype(np.uint32).reshape(self.terms.threshold, length)
        self._secret_mask = pieces[: self.terms.threshold - self.terms.corrupt].reshape(-1)
        codes = kernels.product(
            shamir.powers([one + 1 for one in near], self.terms.threshold), pieces
        )
        return self._dealt(near, codes, lambda code: pack(code, WIDTH))

    def _opened(self, peer: int, text: bytes) -> NDArray[np.uint32]:
        plain = keys.unseal(self._agreed[peer], self._session, peer, self.number, text)
        return field(plain, _length(self.terms), f"client {peer} sealed something else than a code")

    def _hidden(self, values: Vector) -> Vector:
        """Add the mask, over the field."""
        mask = self._secret_mask[: len(values)]
        found: Vector = ((values.astype(np.uint64) + mask) % PRIME).astype(np.uint32)
        return found

    def unmask(self, request: bytes) -> bytes:
        """Last step: add up the codes of the survivors' masks."""
        self._next(4 if self.terms.active else 3)
        told = wire.read_request(request)
        survivors = self._believed(told)
        if self.terms.active:
            self._same_for_all(survivors, told.consents)
        total = np.zeros(_length(self.terms), np.uint64)
        for one in survivors:
            total += self._held[one]
        return wire.write_masked(pack((total % PRIME).astype(np.uint32), WIDTH))


class CodedServer(Server):
    """The server of such a sum."""

    def __init__(self, terms: Terms, **others: Any) -> None:
        super().__init__(over_the_field(terms), **others)

    def _add(self, vector: Vector) -> None:
        if (vector >= PRIME).any():
            raise Refused("secagg: a masked vector is none over the field")
        self._total = ((self._total.astype(np.uint64) + vector) % PRIME).astype(np.uint32)

    def total(self, revealed: Mapping[int, bytes]) -> Sum:
        """After the last step: decode the sum of masks, and take it away.

        Raises:
            TooFew: Fewer sums of codes than the threshold.
            Refused: More than that, and they contradict each other.
        """
        from dai_lab.secagg import kernels

        found = self._decoded(revealed, self._code)
        self._enough(found)
        terms, there = self.terms, sorted(found)
        some, spare = there[: terms.threshold], there[terms.threshold :]
        decode = kernels.inverse(shamir.powers([one + 1 for one in some], terms.threshold))
        pieces = kernels.product(decode, np.stack([found[one] for one in some]))
        again = kernels.product(shamir.powers([one + 1 for one in spare], terms.threshold), pieces)
        if any((code != found[one]).any() for one, code in zip(spare, again, strict=True)):
            raise Refused(
                "secagg: the sums of codes contradict each other: a client sent a wrong one"
            )
        mask = pieces[: terms.threshold - terms.corrupt].reshape(-1)[: terms.width]
        self._total = (
            (self._total.astype(np.uint64) + PRIME - mask.astype(np.uint64)) % PRIME
        ).astype(np.uint32)
        return self.ended()

    def _code(self, client: int, data: bytes) -> NDArray[np.uint32]:
        if client not in self._survivors:
            raise Refused(f"secagg: client {client} never sent a vector")
        text = wire.read_masked(data)
        return field(text, _length(self.terms), f"client {client} sent no sum of codes")


def over_the_field(terms: Terms) -> Terms:
    """Return the terms.

    Raises:
        ValueError: They are not over the field.
    """
    if terms.modulus != WIDTH:
        raise ValueError(
            f"terms: modulus must be {WIDTH} bits for coded masks, got {terms.modulus}"
        )
    return terms


def _length(terms: Terms) -> int:
    return -(-terms.width // (terms.threshold - terms.corrupt))


def field(data: bytes | memoryview, count: int, complaint: str) -> NDArray[np.uint32]:
    """Read packed field elements.

    Raises:
        Refused: They are none, or not as many; ``complaint`` says whose.
    """
    try:
        found = unpack(data, count, WIDTH).astype(np.uint32)
    except ValueError:
        raise Refused(f"secagg: {complaint}") from None
    if (found >= PRIME).any():
        raise Refused(f"secagg: {complaint}")
    return found
