"""Masks: AES-128 in counter mode, added to a vector faster than OpenSSL runs that mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from dai_lab.secagg.terms import Vector

KEY, BLOCK = 16, 16
"""Bytes of a key, and of a block of the cipher."""

CHUNK = 2**16
"""Bytes of a vector that stay in cache while one mask after another is added to them."""

AT_ONCE = 4
"""Masks that are added in one pass."""

OPEN = 256
"""Ciphers kept open at a time."""

FIRST = (2).to_bytes(BLOCK, "big")
"""The first counter of a mask: what GCM encrypts begins at 2, after a nonce of zeros."""


def add_masks(total: NDArray[Any], masks: Sequence[bytes], signs: Sequence[int]) -> None:
    """Add the masks of some keys to a vector in place, modulo its word size.

    Args:
        total: The vector, contiguous, below 64 GiB.
        masks: Keys, each of them used for one mask only.
        signs: For each key 1 to add, -1 to take away.

    Raises:
        ValueError: A vector, key or sign that is none.
    """
    if total.dtype not in (np.uint32, np.uint64) or not total.flags.c_contiguous or total.ndim != 1:
        raise ValueError("masks: a vector must be contiguous words of 32 or 64 bits")
    if any(len(key) != KEY for key in masks):
        raise ValueError(f"masks: a key must be {KEY} bytes")
    if len(masks) != len(signs) or any(sign not in (1, -1) for sign in signs):
        raise ValueError("masks: every key needs a sign, 1 or -1")
    for sign in (1, -1):
        some = [key for key, other in zip(masks, signs, strict=True) if other == sign]
        for first in range(0, len(some), OPEN):
            _add(total, [opened(key) for key in some[first : first + OPEN]], plus=sign > 0)


def _add(total: Vector, ciphers: Sequence[CipherContext], *, plus: bool) -> None:
    from dai_lab.secagg import kernels

    size = CHUNK // total.itemsize
    zeros = bytes(CHUNK)
    scratch = [bytearray(CHUNK + BLOCK - 1) for _ in range(AT_ONCE)]
    words = [np.frombuffer(one, total.dtype, size) for one in scratch]
    change = kernels.added if plus else kernels.taken
    for first in range(0, len(total), size):
        here = total[first : first + size]
        text = memoryview(zeros)[: here.nbytes]
        for start in range(0, len(ciphers), AT_ONCE):
            some = ciphers[start : start + AT_ONCE]
            for cipher, place in zip(some, scratch, strict=False):
                cipher.update_into(text, place)
            for rest in words[len(some) :]:
                rest[:] = 0
            change(here, *words)


def opened(key: bytes) -> CipherContext:
    """Return a mask as what encrypts zeros."""
    return WAYS[_fastest()](key)


WAYS: dict[str, Callable[[bytes], CipherContext]] = {
    "CTR": lambda key: Cipher(algorithms.AES(key), modes.CTR(FIRST)).encryptor(),
    "GCM": lambda key: Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor(),
}
"""Two ways to the same mask, since GCM encrypts in counter mode."""


@cache
def _fastest() -> str:
    """Find out which of the two this processor is faster at.

    Where it encrypts several blocks with one instruction, OpenSSL makes use of that in GCM and not
    in CTR: twice as fast then, although it also computes a tag that nobody asks for.
    """
    return min(WAYS, key=_seconds)


def _seconds(mode: str) -> float:
    cipher, zeros, place = WAYS[mode](bytes(KEY)), bytes(CHUNK), bytearray(CHUNK + BLOCK - 1)
    found = []
    for _ in range(5):
        began = time.perf_counter()
        cipher.update_into(zeros, place)
        found.append(time.perf_counter() - began)
    return min(found)


def stream(key: bytes, count: int) -> NDArray[np.uint32]:
    """Return the first ``count`` words of a key's mask."""
    return np.frombuffer(opened(key).update(bytes(4 * count)), "<u4").astype(np.uint32)
