"""Lengths and angles of hidden rows: inner products of all pairs, then one weighted sum.

A row is a vector over the field of 2^31 - 1, cut into pieces and coded for the others by a
polynomial through the pieces and as much noise as the corrupt could undo. Products of codes are
codes of products, of twice the degree; so from what clients make of the codes they hold, the
server decodes the inner product of every two rows and, later, one weighted sum of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.secagg import keys, shamir, wire
from dai_lab.secagg.client import Client
from dai_lab.secagg.coded import WIDTH, field, over_the_field
from dai_lab.secagg.levels import pack
from dai_lab.secagg.server import Server, Sum
from dai_lab.secagg.shamir import PRIME
from dai_lab.secagg.terms import Terms
from dai_lab.secagg.wire import Refused

Field = NDArray[np.uint32]

TOTAL = 2**14
"""What weights add up to: a weighted sum of rows of less than 2^15 stays below half of the field.

It is a number from which its rows could be told, as its digits can, for weights differ: so each of
``n`` clients adds noise of up to ``TOTAL / n`` to every entry, less than rounding does to a mean.
"""


class Code:
    """How rows of some terms are coded.

    Args:
        terms: A row has ``threshold - corrupt`` pieces; ``threshold`` codes give it back, and
            ``2 threshold - 1`` products of codes a product; ``corrupt`` of them tell nothing.

    Raises:
        ValueError: Terms that are not over the field, or let a code tell something.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = over_the_field(terms)
        if terms.active or not 1 <= terms.corrupt < terms.threshold:
            raise ValueError("terms: compared rows need 1 <= corrupt < threshold, and no active")
        self.pieces, self.answers = terms.threshold - terms.corrupt, 2 * terms.threshold - 1
        self.length = -(-terms.width // self.pieces)

    @cached_property
    def places(self) -> list[int]:
        """Return where the polynomial takes the pieces, then the noise: no client is there."""
        return [PRIME - 1 - at for at in range(self.terms.threshold)]

    def coded(self, row: Field, clients: Sequence[int], draw: keys.Randomness) -> Field:
        """Code a row, ``[width]``, for each client, ``[clients, length]``."""
        noise = shamir.elements(self.terms.corrupt * self.length, draw).astype(np.uint32)
        whole = np.zeros(self.pieces * self.length, np.uint32)
        whole[: len(row)] = row
        held = np.concatenate([whole, noise]).reshape(-1, self.length)
        return self._moved(self.places, held, points(clients))

    def blur(self, clients: int, draw: keys.Randomness) -> Field:
        """Draw what one of so many clients adds to the sum, ``[width]``."""
        most = TOTAL // clients
        drawn = shamir.elements(self.terms.width, draw) % np.uint64(2 * most + 1)
        return ((drawn + np.uint64(PRIME - most)) % np.uint64(PRIME)).astype(np.uint32)

    def zeros(self, count: int, clients: Sequence[int], draw: keys.Randomness) -> Field:
        """Code ``count`` noisy zeros for each client: they hide all of a product but its value."""
        from dai_lab.secagg import kernels

        drawn = shamir.elements((self.answers - 1) * count, draw).reshape(-1, count)
        powers = shamir.powers(self.places[: self.pieces], self.answers)
        sums = powers.sum(0, keepdims=True) % PRIME
        rest = kernels.product(sums[:, 1:], drawn.astype(np.uint32))[0].astype(np.uint64)
        first = (PRIME - rest) % PRIME * pow(self.pieces, -1, PRIME) % PRIME
        ladder = np.vstack([first[None], drawn]).astype(np.uint32)
        found: Field = kernels.product(shamir.powers(points(clients), self.answers), ladder)
        return found

    def row(self, codes: Mapping[int, Field]) -> Field:
        """Decode a row, ``[width]``, from ``threshold`` codes or more, which must fit."""
        pieces = self._decoded(codes, self.terms.threshold, self.places[: self.pieces])
        return pieces.reshape(-1)[: self.terms.width]

    def product(self, codes: Mapping[int, Field]) -> Field:
        """Decode products from ``2 threshold - 1`` products of codes or more, which must fit."""
        pieces = self._decoded(codes, self.answers, self.places[: self.pieces])
        found: Field = (pieces.astype(np.uint64).sum(0) % PRIME).astype(np.uint32)
        return found

    def _decoded(self, codes: Mapping[int, Field], least: int, places: Sequence[int]) -> Field:
        there = sorted(codes)
        some, spare = there[:least], there[least:]
        held = np.stack([codes[one] for one in some])
        found = self._moved(points(some), held, [*places, *points(spare)])
        again = found[len(places) :]
        if any((code != codes[one]).any() for one, code in zip(spare, again, strict=True)):
            raise Refused("secagg: codes contradict each other: a client sent a wrong one")
        return found[: len(places)]

    def _moved(self, origins: Sequence[int], held: Field, places: Sequence[int]) -> Field:
        """Return what a polynomial takes at other places."""
        from dai_lab.secagg import kernels

        if not places:
            return held[:0]
        inverse = kernels.inverse(shamir.powers(origins, len(origins)))
        there = shamir.powers(places, len(origins))
        moving: Field = kernels.product(there, inverse.astype(np.uint32))
        found: Field = kernels.product(moving.astype(np.uint64), held)
        return found


class ComparedClient(Client):
    """A client whose row is compared with others' unseen; everybody is everybody's neighbor.

    It helps with one weighted sum, in which no row counts for more than all others together do,
    whichever of them the corrupt take away. It believes that others share as they should: one who
    deals codes of another degree, and the server, learn more products of a row than one.

    Args:
        number: See :class:`Client`.
        terms: See :class:`Code`.
        row: Its row over the field, ``[width]``.
        others: See :class:`Client`.

    Source:
        Lagrange coded computing: Yu et al. 2019, arXiv:1806.00939; distances of shared rows:
        So, Guler and Avestimehr 2020, arXiv:2007.11115.
    """

    def __init__(self, number: int, terms: Terms, *, row: Field, **others: Any) -> None:
        super().__init__(number, terms, **others)
        self._code, self._row = Code(terms), row
        if row.shape != (terms.width,) or (row >= PRIME).any():
            raise ValueError(f"secagg: a row must be {terms.width} field elements")

    def share(self, introduction: bytes) -> bytes:
        """Step 1: get to know the others, and seal for each its code of the row, and of zeros.

        Raises:
            Refused: Too few others to decode a product, or keys that are not theirs.
        """
        self._next(1)
        self._meet(wire.read_introduction(introduction))
        near = sorted([*self._peers, self.number])
        if len(near) < self._code.answers:
            raise Refused(f"secagg: {len(near)} clients cannot decode products")
        code, draw = self._code, self._draw
        codes = [code.coded(one, near, draw) for one in (self._row, code.blur(len(near), draw))]
        zeros = code.zeros(pairs(len(near)), near, draw)
        return self._dealt(near, np.hstack([*codes, zeros]), lambda part: pack(part, WIDTH))

    def _opened(self, peer: int, text: bytes) -> Field:
        plain = keys.unseal(self._agreed[peer], self._session, peer, self.number, text)
        size = 2 * self._code.length + pairs(len(self._peers) + 1)
        return field(plain, size, f"client {peer} sealed something else than a code")

    def compare(self, sealed: bytes) -> bytes:
        """Step 2: open the others' codes, and multiply every two.

        Raises:
            Refused: Too few are left, or codes that were not sealed for this client.
        """
        from dai_lab.secagg import kernels

        self._next(2)
        self._receive(sealed)
        self._enough(len(self._held))
        held, length = np.stack([self._held[one] for one in sorted(self._held)]), self._code.length
        found = kernels.inner(np.ascontiguousarray(held[:, :length])).astype(np.uint64)
        # Zeros were made for every two there were at first: as many as are needed are taken.
        zeros = held[:, 2 * length :][:, : len(found)].astype(np.uint64).sum(0)
        return wire.write_masked(pack(((found + zeros) % PRIME).astype(np.uint32), WIDTH))

    def combine(self, request: bytes) -> bytes:
        """Last step: add up the codes, each as much as it counts.

        Raises:
            Refused: Weights that would single out a row.
        """
        from dai_lab.secagg import kernels

        self._next(3)
        weights = wire.read_weights(request)
        if strange := [one for one in weights if one not in self._held]:
            raise Refused(f"secagg: client {strange[0]} never shared its row")
        first, *sizes = sorted((abs(one) for one in weights.values()), reverse=True) or [0]
        if not first or first > sum(sizes[self.terms.corrupt :]):
            raise Refused(
                f"secagg: client {self.number} helps with no sum that is one row's by half, "
                f"without {self.terms.corrupt} others: choose another aggregator"
            )
        counts = np.array([[weights[one] % PRIME for one in weights]], np.uint64)
        length = self._code.length
        codes = np.stack([self._held[one][:length] for one in weights])
        found = kernels.product(counts, codes)[0].astype(np.uint64)
        for one in self._held.values():
            found += one[length : 2 * length]
        return wire.write_masked(pack((found % PRIME).astype(np.uint32), WIDTH))

    def mask(self, sealed: bytes, values: object) -> bytes:
        """Refuse what another protocol would ask."""
        raise Refused("secagg: a client that compares rows hides no vector")

    def consent(self, request: bytes) -> bytes:
        """Refuse what another protocol would ask."""
        raise Refused("secagg: a client that compares rows signs no survivors")

    def unmask(self, request: bytes) -> bytes:
        """Refuse what another protocol would ask."""
        raise Refused("secagg: a client that compares rows gives up no shares")


class ComparedServer(Server):
    """The server of such a comparison."""

    def __init__(self, terms: Terms, **others: Any) -> None:
        super().__init__(terms, **others)
        self._code = Code(terms)

    def compared(self, products: Mapping[int, bytes]) -> NDArray[np.int64]:
        """After step 2: decode the inner products, ``[clients, clients]``, of all who shared.

        Raises:
            TooFew: Fewer clients answered than decode a product.
            Refused: More did, and they contradict each other.
        """
        size = len(self._shared)
        found = self._decoded(products, lambda one, data: self._read(one, data, pairs(size)))
        self._enough(found, self._code.answers)
        gram = np.zeros((size, size), np.int64)
        gram[np.triu_indices(size)] = signed(self._code.product(found))
        return gram + np.triu(gram, 1).T

    @property
    def shared(self) -> tuple[int, ...]:
        """Whose rows are compared, in order."""
        return tuple(self._shared)

    def weigh(self, weights: Mapping[int, int]) -> dict[int, bytes]:
        """Ask everybody for its code of a weighted sum."""
        request = wire.write_weights(weights)
        return self._sent(dict.fromkeys(self._shared, request))

    def total(self, revealed: Mapping[int, bytes]) -> Sum:
        """After the last step: decode the weighted sum; its values are over the field.

        Raises:
            TooFew: Fewer codes than decode a row.
            Refused: More came, and they contradict each other.
        """
        length = self._code.length
        found = self._decoded(revealed, lambda one, data: self._read(one, data, length))
        self._enough(found)
        self._total, self._survivors = self._code.row(found), self._shared
        return self.ended()

    def _read(self, client: int, data: bytes, count: int) -> Field:
        if client not in self._shared:
            raise Refused(f"secagg: client {client} never shared its row")
        return field(wire.read_masked(data), count, f"client {client} sent no code")


def points(clients: Sequence[int]) -> list[int]:
    """Return where each client's code is taken: in the lower half, for the upper is the pieces'.

    Raises:
        Refused: An id whose place would be there.
    """
    if max(clients, default=0) >= PRIME // 2:
        raise Refused(f"secagg: rows are compared of clients below {PRIME // 2}")
    return [one + 1 for one in clients]


def pairs(count: int) -> int:
    """Return how many inner products there are."""
    return count * (count + 1) // 2


def signed(values: Field) -> NDArray[np.int64]:
    """Read field elements above half as below zero."""
    found = values.astype(np.int64)
    return np.where(found > PRIME // 2, found - PRIME, found)
