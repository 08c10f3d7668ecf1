"""A client of a secure sum: what it sends, in which order, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from dai_lab.secagg import keys, shamir, wire
from dai_lab.secagg.keys import Identity, Randomness
from dai_lab.secagg.levels import pack
from dai_lab.secagg.masks import add_masks
from dai_lab.secagg.terms import Terms, Vector
from dai_lab.secagg.wire import Refused


class Client:
    """One client in one session. Its methods are called once each, in order, and give bytes.

    The server only carries what passes between clients, and is believed nothing that could cost a
    client its secret: it must name a neighborhood large enough, cannot make shares it did not get,
    and is given one of the two secrets of a neighbor, never both, once.

    Args:
        number: Its id, from 0 to ``wire.MOST - 1``.
        terms: What was agreed on.
        identity: Signs for the client.
        roster: Who else may take part, and their identities.
        randomness: Where secrets are drawn.

    Source:
        Bonawitz et al. 2017, ePrint 2017/281, figure 4; Bell et al. 2020, ePrint 2020/704,
        algorithms 2 and 3, where the server names each client's neighbors.
    """

    def __init__(
        self,
        number: int,
        terms: Terms,
        *,
        identity: Ed25519PrivateKey,
        roster: Mapping[int, Identity],
        randomness: Randomness = os.urandom,
    ) -> None:
        self.number, self.terms = number, terms
        self._identity, self.roster, self._draw = identity, roster, randomness
        self._step = 0
        self._peers: dict[int, wire.Advert] = {}
        self._agreed: dict[int, bytes] = {}
        self._held: dict[int, NDArray[np.uint32]] = {}
        self._session = b""
        self._survivors: list[int] = []

    def _next(self, step: int) -> None:
        # Counted before anything is done: a step that failed is not tried again with other words.
        if self._step != step:
            raise Refused(f"secagg: client {self.number} is at step {self._step}, not {step}")
        self._step += 1

    def advertise(self) -> bytes:
        """Step 0: make two key pairs, and sign their public halves."""
        self._next(0)
        self._channel = keys.private(self._draw(keys.SECRET))
        self._seed = self._draw(keys.SECRET)
        self._mask = keys.private(self._seed)
        channel, mask = keys.public(self._channel), keys.public(self._mask)
        text = keys.advert_text(self.terms.place, self.number, channel, mask)
        self._own = wire.Advert(channel, mask, self._identity.sign(text))
        return wire.write_advert(self._own)

    def share(self, introduction: bytes) -> bytes:
        """Step 1: get to know the neighbors, and seal for each a share of both secrets.

        Raises:
            Refused: Too few neighbors for the threshold, or keys that are not theirs.
        """
        self._next(1)
        told = wire.read_introduction(introduction)
        self._meet(told)
        self._secret = self._draw(keys.SECRET)
        secrets = np.concatenate([shamir.limbs(self._seed), shamir.limbs(self._secret)])
        near = sorted([*self._peers, self.number])
        points = np.array(near, dtype=np.int64) + 1
        shares = shamir.share(
            secrets, threshold=self.terms.threshold, points=points, randomness=self._draw
        )
        return self._dealt(near, shares, lambda part: part.astype("<u4").tobytes())

    def _dealt(
        self,
        near: Sequence[int],
        parts: Iterable[NDArray[np.uint32]],
        text: Callable[[NDArray[np.uint32]], bytes],
    ) -> bytes:
        """Keep the own part, and seal the others for whom they are."""
        sealed = {}
        for peer, part in zip(near, parts, strict=True):
            if peer == self.number:
                self._held[peer] = part
                continue
            self._agreed[peer] = keys.agreed(self._channel, self._peers[peer].channel)
            sealed[peer] = keys.seal(
                self._agreed[peer], self._session, self.number, peer, text(part)
            )
        return wire.write_sealed(sealed)

    def _meet(self, told: wire.Introduction) -> None:
        if self.number in told.adverts:
            raise Refused(f"secagg: client {self.number} is no neighbor of its own")
        size, threshold = len(told.adverts) + 1, self.terms.threshold
        if not self.terms.least(size) <= threshold <= size:
            raise Refused(
                f"secagg: a threshold of {threshold} in a neighborhood of {size}: it must be "
                f"{self.terms.least(size)} or more, and no more than there are"
            )
        for peer, advert in told.adverts.items():
            if peer not in self.roster:
                raise Refused(f"secagg: client {peer} is not on the roster")
            text = keys.advert_text(self.terms.place, peer, advert.channel, advert.mask)
            keys.check(self.roster[peer], advert.signature, text, peer)
        everyone = [self._own, *told.adverts.values()]
        if len({key for one in everyone for key in (one.channel, one.mask)}) < 2 * size:
            raise Refused("secagg: two clients show the same key")
        self._peers, self._session = dict(told.adverts), told.session

    def mask(self, sealed: bytes, values: Vector) -> bytes:
        """Step 2: open the neighbors' shares, and hide the own vector.

        Args:
            sealed: What neighbors that are still there sealed for this client.
            values: The vector, ``[width]``, below ``2 ** modulus``.

        Raises:
            Refused: Too few neighbors are left, or shares that were not sealed for this client.
            ValueError: A vector of another size or type than was agreed on.
        """
        self._next(2)
        if values.shape != (self.terms.width,) or values.dtype != self.terms.words:
            raise ValueError(f"secagg: a vector must be {self.terms.width} {self.terms.words}")
        self._receive(sealed)
        self._enough(len(self._held))
        hidden = self.terms.reduced(self._hidden(values))
        return wire.write_masked(pack(hidden, self.terms.modulus))

    def _receive(self, sealed: bytes) -> None:
        for peer, text in wire.read_sealed(sealed).items():
            if peer not in self._peers:
                raise Refused(f"secagg: client {peer} is no neighbor of {self.number}")
            self._held[peer] = self._opened(peer, text)

    def _hidden(self, values: Vector) -> Vector:
        """Add the own mask and those shared with whoever is still there."""
        there = [peer for peer in self._held if peer != self.number]
        masks = [keys.own_mask_key(self._secret, self._session)]
        for peer in there:
            agreed = keys.agreed(self._mask, self._peers[peer].mask)
            masks.append(keys.mask_key(agreed, self._session, self.number, peer))
        hidden = values.copy()
        add_masks(hidden, masks, [1, *(1 if self.number > peer else -1 for peer in there)])
        return hidden

    def _opened(self, peer: int, text: bytes) -> NDArray[np.uint32]:
        plain = keys.unseal(self._agreed[peer], self._session, peer, self.number, text)
        sizes = len(plain) == 8 * shamir.LIMBS
        part = np.frombuffer(plain if sizes else b"", "<u4").astype(np.uint32)
        if not sizes or (part >= shamir.PRIME).any():
            raise Refused(f"secagg: client {peer} sealed something else than shares")
        return part

    def consent(self, request: bytes) -> bytes:
        """Step 3, against an active server: sign who survived.

        Raises:
            Refused: The survivors cannot be these.
        """
        if not self.terms.active:
            raise Refused("secagg: survivors are signed only where terms.active is set")
        self._next(3)
        told = wire.read_request(request)
        self._survivors = self._believed(told)
        text = keys.survivors_text(self._session, self._survivors)
        return wire.write_consent(self._identity.sign(text))

    def unmask(self, request: bytes) -> bytes:
        """Last step: give up shares, of each neighbor's own mask if it survived, else of its key.

        Raises:
            Refused: The survivors cannot be these, or too few neighbors were told the same.
        """
        self._next(4 if self.terms.active else 3)
        told = wire.read_request(request)
        survivors = self._believed(told)
        if self.terms.active:
            self._same_for_all(survivors, told.consents)
        alive = set(survivors)
        own = {peer: one[shamir.LIMBS :] for peer, one in self._held.items() if peer in alive}
        lost = {peer: one[: shamir.LIMBS] for peer, one in self._held.items() if peer not in alive}
        return wire.write_revealed(wire.Revealed(_as_bytes(own), _as_bytes(lost)))

    def _believed(self, told: wire.Request) -> list[int]:
        survivors = list(told.survivors)
        if self.number not in survivors:
            raise Refused(f"secagg: client {self.number} sent its vector and is said not to have")
        near = [one for one in survivors if one in self._peers or one == self.number]
        if strange := [one for one in near if one not in self._held]:
            raise Refused(f"secagg: client {strange[0]} survived without ever sharing its secrets")
        self._enough(len(near))
        return survivors

    def _same_for_all(self, survivors: list[int], consents: Mapping[int, bytes]) -> None:
        if survivors != self._survivors:
            raise Refused(f"secagg: client {self.number} signed other survivors")
        text = keys.survivors_text(self._session, survivors)
        near = [one for one in consents if one in self._peers or one == self.number]
        for peer in near:
            known = self._identity.public_key() if peer == self.number else self.roster[peer]
            keys.check(known, consents[peer], text, peer)
        self._enough(len(near))

    def _enough(self, count: int) -> None:
        if count < self.terms.threshold:
            raise Refused(
                f"secagg: client {self.number} has {count} of its neighborhood left, and the "
                f"threshold is {self.terms.threshold}"
            )


def _as_bytes(shares: Mapping[int, NDArray[np.uint32]]) -> dict[int, bytes]:
    return {peer: part.astype("<u4").tobytes() for peer, part in shares.items()}
