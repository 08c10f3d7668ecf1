"""Masks: AES-128 in counter mode, added to a vector at nearly the speed of the cipher."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from dai_lab.secagg.terms import Vector

KEY, BLOCK = 16, 16
"""Bytes of a key, and of a block of the cipher."""

CHUNK = 2**17
"""Bytes of a vector that stay in cache while one mask after another is added to them."""

OPEN = 256
"""Ciphers kept open at a time."""


def add_masks(
    total: NDArray[Any], masks: Sequence[bytes], signs: Sequence[int], *, threads: int = 1
) -> None:
    """Add the masks of some keys to a vector in place, modulo its word size.

    Args:
        total: The vector, contiguous.
        masks: Keys, each of them used for one mask only.
        signs: For each key 1 to add, -1 to take away.
        threads: Threads that share the vector; the result is the same for any number.

    Raises:
        ValueError: A vector, key or sign that is none.
    """
    if total.dtype not in (np.uint32, np.uint64) or not total.flags.c_contiguous or total.ndim != 1:
        raise ValueError("masks: a vector must be contiguous words of 32 or 64 bits")
    if any(len(key) != KEY for key in masks):
        raise ValueError(f"masks: a key must be {KEY} bytes")
    if len(masks) != len(signs) or any(sign not in (1, -1) for sign in signs):
        raise ValueError("masks: every key needs a sign, 1 or -1")
    if threads < 2 or len(total) * total.itemsize < 2 * CHUNK:
        return _add(total, 0, masks, signs)
    step = BLOCK // total.itemsize
    edges = [round(len(total) * at / threads / step) * step for at in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(_add, total[first:last], first * total.itemsize, masks, signs)
            for first, last in pairwise([*edges, len(total)])
        ]
        for part in parts:
            part.result()


def _add(total: Vector, place: int, masks: Sequence[bytes], signs: Sequence[int]) -> None:
    """Add what the masks have from byte ``place`` on, a multiple of a block."""
    size = CHUNK // total.itemsize
    zeros, scratch = bytes(CHUNK), bytearray(CHUNK + BLOCK - 1)
    words = np.frombuffer(scratch, total.dtype, size)
    for block in range(0, len(masks), OPEN):
        some = [opened(key, place // BLOCK) for key in masks[block : block + OPEN]]
        ways = signs[block : block + OPEN]
        for first in range(0, len(total), size):
            here = total[first : first + size]
            text = memoryview(zeros)[: here.nbytes]
            for cipher, sign in zip(some, ways, strict=True):
                cipher.update_into(text, scratch)
                change = np.add if sign > 0 else np.subtract
                change(here, words[: len(here)], out=here)


def opened(key: bytes, block: int = 0) -> CipherContext:
    """Return the key's stream from one of its blocks on, as what encrypts zeros."""
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(BLOCK, "big"))).encryptor()


def stream(key: bytes, count: int) -> NDArray[np.uint32]:
    """Return the first ``count`` words of a key's stream."""
    return np.frombuffer(opened(key).update(bytes(4 * count)), "<u4").astype(np.uint32)
