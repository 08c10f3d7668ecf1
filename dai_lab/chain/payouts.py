"""Trees of what many are owed: one root on chain, and for each a proof to fetch theirs with."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from dai_lab.chain.abi import codec, joined

OWED = joined([codec("uint64"), codec("address"), codec("uint256")])


def leaf(index: int, payee: str, amount: int) -> bytes:
    """Hash what one is owed, together with its place."""
    return sha256(b"\x00" + OWED.encode((index, payee, amount))).digest()


def levels(owed: Sequence[tuple[str, int]]) -> list[list[bytes]]:
    """Hash all that is owed, level by level up to the root.

    A node without a neighbor goes up as it is, which is the tree of RFC 6962.
    """
    if not owed:
        raise ValueError("a payout needs somebody who is owed something")
    level = [leaf(index, *one) for index, one in enumerate(owed)]
    found = [level]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [sha256(b"\x01" + b"".join(p)).digest() if len(p) == 2 else p[0] for p in pairs]
        found.append(level)
    return found


def payout_root(owed: Sequence[tuple[str, int]]) -> bytes:
    """Give the root that a payout is funded with.

    Args:
        owed: Who is owed how much, in the order of their places; an address may come twice.

    Source: RFC 6962, section 2.1.
    """
    return levels(owed)[-1][0]


def payout_proofs(owed: Sequence[tuple[str, int]]) -> list[list[bytes]]:
    """Give for each place the proof its payee claims with.

    Args:
        owed: As for the root.

    Source: RFC 6962, section 2.1.1.
    """
    *below, _ = levels(owed)
    proofs = []
    for index in range(len(owed)):
        proof = []
        for level in below:
            if index ^ 1 < len(level):
                proof.append(level[index ^ 1])
            index //= 2
        proofs.append(proof)
    return proofs
