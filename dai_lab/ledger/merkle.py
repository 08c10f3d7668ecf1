"""A Merkle tree that only grows: what is in it cannot be taken back, and proofs are short.

Leaves and nodes are hashed apart (RFC 6962, section 2.1), so that neither passes for the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeGuard

sha256 = hashlib.sha256

EMPTY = sha256().digest()
"""Root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """Hash what goes into a leaf."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two neighboring nodes into the one above them."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """Hashes of all leaves, and of all full subtrees above them: about 70 bytes of memory a leaf.

    Source:
        RFC 6962, section 2.1; RFC 9162, section 2.1.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        self.extend(leaves)

    def __len__(self) -> int:
        return len(self._levels[0])

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append the hashes of leaves."""
        levels = self._levels
        bottom = levels[0]
        for one in leaves:
            bottom.append(one)
            count, height = len(bottom), 0
            while not count & 1:
                below = levels[height]
                one = sha256(b"\1" + below[-2] + one).digest()
                height += 1
                if height == len(levels):
                    levels.append([])
                levels[height].append(one)
                count >>= 1

    def leaf(self, index: int) -> bytes:
        """Return the hash of a leaf."""
        return self._levels[0][self._within(index, len(self) - 1, "index")]

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves; over all where none is given."""
        size = len(self) if size is None else self._within(size, len(self), "size")
        return self._over(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Prove that a leaf is among the first ``size``.

        Returns:
            Hashes from the leaf up (RFC 6962, section 2.1.1).

        Raises:
            ValueError: There is no such leaf or size.
        """
        size = len(self) if size is None else self._within(size, len(self), "size")
        self._within(index, size - 1, "index")
        path, at, last = [], index, size - 1
        for height, level in enumerate(self._levels):
            beside = at ^ 1
            if beside < last or at & 1:
                path.append(level[beside])
            elif beside == last:  # whose subtree may not be full
                path.append(self._over(last << height, size))
            at, last = at >> 1, last >> 1
            if not last:
                break
        return path

    def consistency(self, size1: int, size2: int | None = None) -> list[bytes]:
        """Prove that the first ``size1`` leaves are still the first of ``size2``.

        Returns:
            Hashes (RFC 6962, section 2.1.2); none where there is nothing to prove.

        Raises:
            ValueError: There is no such size.
        """
        size2 = len(self) if size2 is None else self._within(size2, len(self), "size2")
        self._within(size1, size2, "size1")
        if size1 in (0, size2):
            return []
        path, low, high, whole = [], 0, size2, True
        while size1 != high:
            middle = low + _split(high - low)
            if size1 <= middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._over(low, high))
        return path[::-1]

    def _over(self, low: int, high: int) -> bytes:
        """Return the hash over leaves ``low`` to ``high``; ``low`` is where a subtree starts."""
        parts = []
        while low < high:
            height = (high - low).bit_length() - 1
            parts.append(self._levels[height][low >> height])
            low += 1 << height
        found = parts.pop()
        while parts:
            found = node_hash(parts.pop(), found)
        return found

    @staticmethod
    def _within(value: int, most: int, name: str) -> int:
        if not 0 <= value <= most:
            raise ValueError(f"{name} must be in 0..{most}, got {value}")
        return value


def verify_inclusion(
    leaf_hash: object, index: object, size: object, proof: object, root: object
) -> bool:
    """Tell whether a leaf is where a tree's owner says it is.

    Args:
        leaf_hash: 32 bytes.
        index: The leaf's place, from 0.
        size: Leaves of the tree.
        proof: Hashes from the leaf up, 32 bytes each; a list or tuple.
        root: 32 bytes, from whom one trusts.

    Returns:
        False also for whatever is no index, size, hash or proof at all; nothing is raised.

    Source:
        RFC 9162, section 2.1.3.2.
    """
    if not (_is_count(index) and _is_count(size) and index < size):
        return False
    if not (_is_hash(leaf_hash) and _is_proof(proof)):
        return False
    at, last, found = index, size - 1, leaf_hash
    for one in proof:
        if not last:
            return False
        if at & 1 or at == last:
            found = node_hash(one, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, one)
        at, last = at >> 1, last >> 1
    return not last and found == root


def verify_consistency(
    size1: object, size2: object, proof: object, root1: object, root2: object
) -> bool:
    """Tell whether a tree has only grown between two of its roots.

    Args:
        size1: Leaves of the older tree.
        size2: Leaves of the newer tree.
        proof: Hashes, 32 bytes each, a list or tuple; empty where the sizes are equal.
        root1: 32 bytes, the older root.
        root2: 32 bytes, the newer root.

    Returns:
        False also for whatever is no size, hash or proof at all; nothing is raised. An empty
        tree proves nothing about a larger one: False.

    Source:
        RFC 9162, section 2.1.4.2.
    """
    if not (_is_count(size1) and _is_count(size2) and size1 <= size2 and _is_proof(proof)):
        return False
    if size1 == size2:
        return not proof and root1 == root2 and (size1 > 0 or root1 == EMPTY)
    if not (size1 and _is_hash(root1)):
        return False
    path = list(proof) if size1 & (size1 - 1) else [root1, *proof]
    if not path:
        return False
    at, last = size1 - 1, size2 - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = path[0]
    for one in path[1:]:
        if not last:
            return False
        if at & 1 or at == last:
            older, newer = node_hash(one, older), node_hash(one, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, one)
        at, last = at >> 1, last >> 1
    return not last and older == root1 and newer == root2


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _is_hash(value: object) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) == 32


def _is_proof(value: object) -> TypeGuard[Sequence[bytes]]:
    return isinstance(value, list | tuple) and all(map(_is_hash, value))
