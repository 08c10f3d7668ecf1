"""The server of a secure sum: it carries messages, adds up masked vectors, and takes masks away."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dai_lab.core import TooFew
from dai_lab.secagg import keys, shamir, wire
from dai_lab.secagg.keys import Identity
from dai_lab.secagg.levels import unpack
from dai_lab.secagg.masks import add_masks
from dai_lab.secagg.terms import Terms, Vector
from dai_lab.secagg.wire import Refused

Read = TypeVar("Read")

Shares = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""Whose secrets a client holds shares of, and these, ``[owners, 9]``."""

Neighbors = Callable[[Sequence[int]], Mapping[int, Sequence[int]]]
"""From those who advertised keys to the neighbors of each."""


@dataclass(frozen=True)
class Sum:
    """What the server learns, and what it took."""

    values: Vector
    """The sum of the survivors' vectors, modulo ``2 ** modulus``."""
    survivors: tuple[int, ...]
    refused: Mapping[int, str]
    """Clients whose messages no honest client sends, and what was wrong with them."""
    transcript: bytes
    """SHA-256 of every message in the order of its step, with its client and direction."""
    bytes_up: int
    bytes_down: int


class Server:
    """One session. Its methods are called once each, in order, with what clients sent.

    Each takes the messages that came in time, by client, and returns what to send to whom; who is
    not answered has dropped out. A message that no honest client sends makes its sender one of
    those.

    Args:
        terms: What was agreed on.
        roster: Who may take part, and their identities.
        neighbors: Draws the graph, once it is known who is there.

    Source:
        Bonawitz et al. 2017, ePrint 2017/281, figure 4; Bell et al. 2020, ePrint 2020/704.
    """

    def __init__(
        self, terms: Terms, *, roster: Mapping[int, Identity], neighbors: Neighbors
    ) -> None:
        self.terms, self.roster, self._neighbors = terms, roster, neighbors
        self._refused: dict[int, str] = {}
        self._transcript = hashlib.sha256(b"transcript" + terms.place)
        self._up = self._down = 0
        self._shared: list[int] = []
        self._survivors: list[int] = []
        self._total = terms.zeros()

    def introduce(self, adverts: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 0: tell each client its neighbors and their keys.

        Raises:
            TooFew: Fewer clients than the threshold.
        """
        self._adverts = self._decoded(adverts, self.known)
        self._enough(self._adverts)
        graph = self._neighbors(sorted(self._adverts))
        self._near = {one: set(graph[one]) | {one} for one in self._adverts}
        self._session = keys.named(self._adverts)
        return self._sent({
            one: wire.write_introduction(wire.Introduction(
                self._session, {peer: self._adverts[peer] for peer in graph[one]}
            ))
            for one in self._adverts
        })  # fmt: skip

    def known(self, client: int, data: bytes) -> wire.Advert:
        """Return the keys that a client shows.

        Raises:
            Refused: It is not on the roster, or did not sign them for this session.
        """
        if client not in self.roster:
            raise Refused(f"secagg: client {client} is not on the roster")
        found = wire.read_advert(data)
        text = keys.advert_text(self.terms.place, client, found.channel, found.mask)
        keys.check(self.roster[client], found.signature, text, client)
        return found

    def route(self, shared: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 1: carry sealed shares to those they are for.

        Raises:
            TooFew: Fewer clients than the threshold.
        """
        found = self._decoded(shared, self._sealed)
        self._enough(found)
        self._shared = sorted(found)
        return self._sent({
            one: wire.write_sealed({peer: found[peer][one] for peer in found if one in found[peer]})
            for one in self._shared
        })  # fmt: skip

    def _sealed(self, client: int, data: bytes) -> dict[int, bytes]:
        if client not in self._adverts:
            raise Refused(f"secagg: client {client} never advertised keys")
        found = wire.read_sealed(data)
        if found.keys() != self._near[client] - {client}:
            raise Refused(f"secagg: client {client} did not seal a share for each neighbor")
        return found

    def gather(self, masked: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 2: add up, and tell the survivors who they are.

        Raises:
            TooFew: Fewer clients than the threshold.
        """
        self._survivors = sorted(self._decoded(masked, self._vector))
        self._enough(self._survivors)
        request = wire.write_request(wire.Request(self._survivors, {}))
        return self._sent(dict.fromkeys(self._survivors, request))

    def _vector(self, client: int, data: bytes) -> bool:
        if client not in self._shared:
            raise Refused(f"secagg: client {client} never shared its secrets")
        try:
            vector = unpack(wire.read_masked(data), self.terms.width, self.terms.modulus)
        except ValueError as error:
            raise Refused(str(error)) from None
        self._add(vector)
        return True

    def _add(self, vector: Vector) -> None:
        self._total += vector.astype(self.terms.words, copy=False)

    def witness(self, consents: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 3: show each client which of its neighbors were told the same.

        Raises:
            TooFew: Fewer clients than the threshold.
        """
        signed = self._decoded(consents, self._consent)
        self._enough(signed)
        return self._sent({
            one: wire.write_request(wire.Request(
                self._survivors, {peer: signed[peer] for peer in signed if peer in self._near[one]}
            ))
            for one in signed
        })  # fmt: skip

    def _consent(self, client: int, data: bytes) -> bytes:
        if client not in self._survivors:
            raise Refused(f"secagg: client {client} never sent a vector")
        found = wire.read_consent(data)
        text = keys.survivors_text(self._session, self._survivors)
        keys.check(self.roster[client], found, text, client)
        return found

    def total(self, revealed: Mapping[int, bytes]) -> Sum:
        """After the last step: take the masks away.

        Raises:
            TooFew: Too few shares of some client's secret.
            Refused: Shares that do not give the key that was advertised.
        """
        given = self._decoded(revealed, self._revealed)
        self._enough(given)
        secrets = self._combined(given)
        masks, signs, alive = [], [], set(self._survivors)
        for owner in self._shared:
            if owner in alive:
                masks.append(keys.own_mask_key(secrets[owner], self._session))
                signs.append(-1)
                continue
            lost = keys.private(secrets[owner])
            if keys.public(lost) != self._adverts[owner].mask:
                raise Refused(f"secagg: the shares of client {owner} do not give its key")
            for peer in sorted((self._near[owner] - {owner}) & alive):
                agreed = keys.agreed(lost, self._adverts[peer].mask)
                masks.append(keys.mask_key(agreed, self._session, owner, peer))
                signs.append(-1 if peer > owner else 1)
        add_masks(self._total, masks, signs)
        return self.ended()

    def ended(self) -> Sum:
        """Return what came of the session so far."""
        return Sum(
            self.terms.reduced(self._total), tuple(self._survivors), dict(self._refused),
            self._transcript.digest(), self._up, self._down,
        )  # fmt: skip

    def _revealed(self, client: int, data: bytes) -> Shares:
        if client not in self._survivors:
            raise Refused(f"secagg: client {client} never sent a vector")
        found = wire.read_revealed(data)
        near, alive = self._near[client] & set(self._shared), set(self._survivors)
        if found.own.keys() != near & alive or found.keys.keys() != near - alive:
            raise Refused(f"secagg: client {client} gave up other shares than it was asked for")
        given = {**found.own, **found.keys}
        strange = f"secagg: client {client} gave up something else than shares"
        if {len(one) for one in given.values()} != {4 * shamir.LIMBS}:
            raise Refused(strange)
        shares = np.frombuffer(b"".join(given.values()), "<u4").astype(np.uint32)
        if (shares >= shamir.PRIME).any():
            raise Refused(strange)
        return np.array([*given], np.int64), shares.reshape(-1, shamir.LIMBS)

    def _combined(self, given: Mapping[int, Shares]) -> dict[int, bytes]:
        """Put secrets together, those whose shares come from the same clients at once."""
        least = self.terms.threshold
        givers = np.repeat([*given], [len(owners) for owners, _ in given.values()])
        owners = np.concatenate([each for each, _ in given.values()])
        order = np.lexsort((givers, owners))
        known, firsts, counts = np.unique(owners[order], return_index=True, return_counts=True)
        there = dict(zip(known.tolist(), counts.tolist(), strict=True))
        left = {one: there.get(one, 0) for one in self._shared}
        if poor := [one for one, count in left.items() if count < least]:
            raise TooFew(
                f"secagg: {left[poor[0]]} shares of client {poor[0]}'s secret are left, and the "
                f"threshold is {least}: lower secagg.threshold, or see to it that more clients "
                "stay to the end"
            )
        taken = order[firsts[:, None] + np.arange(least)]
        shares = np.concatenate([each for _, each in given.values()])[taken]
        together: dict[bytes, list[int]] = defaultdict(list)
        for at, one in enumerate(givers[taken]):
            together[one.tobytes()].append(at)
        found = {}
        for places in together.values():
            points = givers[taken[places[0]]] + 1
            secrets = shamir.combine_many(points, shares[places])
            for owner, limbs in zip(known[places].tolist(), secrets, strict=True):
                try:
                    found[owner] = shamir.joined(limbs)
                except ValueError:
                    raise Refused(f"secagg: the shares of client {owner} make no secret") from None
        return found

    def _decoded(
        self, messages: Mapping[int, bytes], read: Callable[[int, bytes], Read]
    ) -> dict[int, Read]:
        found = {}
        for client in sorted(messages):
            data = messages[client]
            self._note(b"up", client, data)
            self._up += len(data)
            try:
                found[client] = read(client, data)
            except Refused as error:
                self._refused[client] = str(error)
        return found

    def _sent(self, messages: dict[int, bytes]) -> dict[int, bytes]:
        for client in sorted(messages):
            self._note(b"down", client, messages[client])
            self._down += len(messages[client])
        return messages

    def _note(self, way: bytes, client: int, data: bytes) -> None:
        self._transcript.update(way + keys.ids(client, len(data)))
        self._transcript.update(data)

    def _enough(self, there: Collection[int], least: int | None = None) -> None:
        least = least or self.terms.threshold
        if len(there) < least:
            raise TooFew(
                f"secagg: {len(there)} clients are left, and the threshold is {least}: lower "
                "secagg.threshold, or raise the cohort"
            )
