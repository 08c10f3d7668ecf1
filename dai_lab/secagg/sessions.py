"""A whole session in one process: the clients and the server that a network would drive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dai_lab.core import Key, TooFew
from dai_lab.secagg import keys
from dai_lab.secagg.client import Client
from dai_lab.secagg.server import Neighbors, Server, Sum
from dai_lab.secagg.terms import Terms, Vector
from dai_lab.secagg.wire import Refused

STEPS = ("advertise", "share", "mask", "consent", "unmask")
"""What clients do, in order; ``consent`` only where the server may be active."""


def session(
    terms: Terms,
    vectors: Mapping[int, Vector],
    *,
    key: Key,
    neighbors: Neighbors,
    lost: Mapping[str, Collection[int]] = {},
    cast: tuple[type[Client], type[Server]] = (Client, Server),
) -> Sum:
    """Play a session with simulated clients, whose secrets are drawn from ``key``.

    Args:
        terms: What was agreed on.
        vectors: Each client's vector, by id.
        key: Where secrets are drawn.
        neighbors: Draws the graph.
        lost: For each step the clients that are gone before they answer it.
        cast: Who plays: these, or those of coded masks.

    Raises:
        TooFew: Fewer clients are left than the threshold.
    """
    signers = {one: signer(key.seed, one) for one in vectors}
    roster = {one: Once(signer.public_key()) for one, signer in signers.items()}
    server = cast[1](terms, roster=roster, neighbors=neighbors)
    clients = {
        one: cast[0](
            one, terms, identity=signers[one], roster=roster,
            randomness=keys.simulated(key / "client" / one),
        )
        for one in vectors
    }  # fmt: skip

    complaints: dict[int, str] = {}

    def answers(step: str, told: Collection[int], act: Callable[[int], bytes]) -> dict[int, bytes]:
        found = {}
        for one in told:
            if one not in lost.get(step, ()):
                try:
                    found[one] = act(one)
                except Refused as error:  # whoever refuses is gone, like any other
                    complaints[one] = str(error)
        return found

    try:
        told = server.introduce(answers("advertise", clients, lambda one: clients[one].advertise()))
        told = server.route(answers("share", told, lambda one: clients[one].share(told[one])))
        told = server.gather(
            answers("mask", told, lambda one: clients[one].mask(told[one], vectors[one]))
        )
        if terms.active:
            told = server.witness(
                answers("consent", told, lambda one: clients[one].consent(told[one]))
            )
        return server.total(answers("unmask", told, lambda one: clients[one].unmask(told[one])))
    except TooFew as error:
        why = next(iter(complaints.values()), None)
        raise TooFew(f"{error} ({why})" if why else str(error)) from None


class Once:
    """A public key that checks the same signature once, though every neighbor asks."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public, self._found = public, set[tuple[bytes, bytes]]()

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise ``InvalidSignature`` for one that does not fit."""
        if (signature, data) not in self._found:
            self._public.verify(signature, data)
            self._found.add((signature, data))


@cache
def signer(seed: int, client: int) -> Ed25519PrivateKey:
    """Return a simulated client's long-term identity."""
    return keys.identity(keys.simulated(Key(seed) / "identity" / client)(keys.SECRET))
